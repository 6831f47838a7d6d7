"""The phantom: synthetic pictures, with their truth aside."""
