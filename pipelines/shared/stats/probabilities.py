"""Logits to probabilities, in double precision."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def sigmoid(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Logits of any shape to probabilities, each by itself; never overflows."""
    return np.exp(-np.logaddexp(0, -logits.astype(np.float64)))


def softmax(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Logits (..., classes) to probabilities that sum to 1 over the last axis."""
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    p: NDArray[np.float64] = powers / powers.sum(axis=-1, keepdims=True)
    return p
