"""The phantom: synthetic head CT studies with reports, in the layout of a public dataset, with their truth aside."""
