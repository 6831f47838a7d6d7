"""Ambulatory ECG rhythms (Hannun et al., Nature Medicine 2019)."""
