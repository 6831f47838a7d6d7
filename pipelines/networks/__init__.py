"""The networks that the literature's story is told with, measured on this machine."""
