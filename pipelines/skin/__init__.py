"""Skin cancer: train on a taxonomy's fine classes, answer at any level (Esteva et al., 2017)."""
