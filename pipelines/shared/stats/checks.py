"""Checks on the input of a statistic: what cannot be computed raises `StatisticsError` with the reason."""

from __future__ import annotations

from collections.abc import Sized

import numpy as np
from numpy.typing import ArrayLike

from pipelines.shared.errors import StatisticsError


def as_numbers(values: ArrayLike, name: str) -> np.ndarray:
    """A non-empty (n,) float array without NaN or infinity; floats keep their precision (float32 stays float32)."""
    try:
        array = np.asarray(values)
        if array.dtype.kind in "USmM":
            raise TypeError("text or dates")
        if not np.issubdtype(array.dtype, np.floating):
            array = array.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise StatisticsError(f"{name}: not numbers") from error
    if array.ndim != 1:
        raise StatisticsError(f"{name}: {array.ndim} dimensions instead of one")
    if array.size == 0:
        raise StatisticsError("no rows")
    bad = array.size - np.count_nonzero(np.isfinite(array))
    if bad:
        raise StatisticsError(f"{name}: {bad} of {array.size} values are NaN or infinite")
    return array


def as_binary(values: ArrayLike, name: str = "y") -> np.ndarray:
    """A non-empty (n,) bool array from 0/1 values."""
    array = as_numbers(values, name)
    odd = array[(array != 0) & (array != 1)]
    if odd.size:
        raise StatisticsError(f"{name}: values are 0 or 1, found {odd[0]:g}")
    ones: np.ndarray = array == 1
    return ones


def as_probabilities(values: ArrayLike, name: str = "p") -> np.ndarray:
    """A non-empty (n,) float64 array of values in [0, 1]."""
    array = as_numbers(values, name).astype(np.float64)
    outside = array[(array < 0) | (array > 1)]
    if outside.size:
        raise StatisticsError(f"{name}: probabilities lie in [0, 1], found {outside[0]:g}")
    return array


def same_length(**arrays: Sized) -> None:
    """All arrays have the same number of rows."""
    if len({len(a) for a in arrays.values()}) > 1:
        found = ", ".join(f"{name} {len(a)}" for name, a in arrays.items())
        raise StatisticsError(f"lengths differ: {found}")


def two_classes(y: np.ndarray) -> None:
    """`y` (n,) bool holds both classes."""
    if y.all() or not y.any():
        raise StatisticsError(f"one class only: no {'negatives' if y.all() else 'positives'}")


def labelled_scores(y: ArrayLike, score: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """`y` as bool (n,) with both classes, and `score` as finite floats (n,) of its own precision."""
    truth, values = as_binary(y), as_numbers(score, "score")
    same_length(y=truth, score=values)
    two_classes(truth)
    return truth, values


def check_level(level: float) -> None:
    """A confidence level is a fraction."""
    if not 0 < level < 1:
        raise ValueError(f"level is between 0 and 1, found {level}")
