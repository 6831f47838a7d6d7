"""The phantom: synthetic slides of lymph nodes, in the layout of a public dataset, with their truth aside."""
