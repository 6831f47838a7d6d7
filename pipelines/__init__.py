"""Landmark medical-imaging CNN studies, one command each."""

__version__ = "0.1.0"
