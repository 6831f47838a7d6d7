"""The phantom: synthetic skin lesions, in the layout of a public dataset, with their truth aside."""
