"""The phantom: synthetic fundus photographs, in the layout of a public dataset, with their truth aside."""
