"""The phantom: synthetic ECG recordings, in the layout of a public dataset, with their truth aside."""
