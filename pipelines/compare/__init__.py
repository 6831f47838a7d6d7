"""Finished runs side by side, from the files of their folders alone."""
