"""The phantom: synthetic chest X-rays, in the layout of a public dataset, with their truth aside."""
