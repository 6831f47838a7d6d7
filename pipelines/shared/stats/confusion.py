"""The confusion matrix and its measures.

Every measure takes arrays of matrices (..., k, k), rows the truth and columns the prediction, so that a bootstrap
computes all its resamples at once. Weighted kappa: Cohen, Psychol Bull 70:213 (1968).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from pipelines.shared.errors import StatisticsError
from pipelines.shared.stats.bootstrap import divide
from pipelines.shared.stats.checks import same_length

Measure = Callable[[np.ndarray], np.ndarray]  # of confusion matrices (..., k, k)
Weights = Literal["quadratic", "linear", "none"]


def class_positions(labels: ArrayLike, classes: Sequence[Any], name: str = "labels") -> np.ndarray:
    """Position (n,) of each label in `classes`.

    Raises:
        StatisticsError: no rows, or a label that is none of the classes (so for all functions here).
    """
    position = {c: i for i, c in enumerate(classes)}
    if len(position) < len(classes):
        raise ValueError(f"classes occur twice: {list(classes)}")
    values = np.asarray(labels).tolist()
    if not values:
        raise StatisticsError("no rows")
    unknown = [label for label in values if label not in position]
    if unknown:
        raise StatisticsError(f"{name}: {unknown[0]!r} is not one of the classes {list(classes)}")
    return np.array([position[label] for label in values])


def confusion_matrix(truth: ArrayLike, predicted: ArrayLike, classes: Sequence[Any]) -> np.ndarray:
    """Counts (k, k), rows the truth and columns the prediction, both in the order of `classes`."""
    k = len(classes)
    return np.bincount(confusion_cells(truth, predicted, classes), minlength=k * k).reshape(k, k)


def accuracy(confusion: np.ndarray) -> np.ndarray:
    """Share on the diagonal of (..., k, k)."""
    return divide(_diagonal(confusion).sum(axis=-1), confusion.sum(axis=(-2, -1)))


def class_sensitivity(confusion: np.ndarray) -> np.ndarray:
    """Share of each true class that is predicted as such, (..., k, k) -> (..., k); NaN for an absent class."""
    return divide(_diagonal(confusion), confusion.sum(axis=-1))


def class_precision(confusion: np.ndarray) -> np.ndarray:
    """Share of those called a class that are of it, (..., k, k) -> (..., k); NaN for a class that is never called."""
    return divide(_diagonal(confusion), confusion.sum(axis=-2))


def balanced_accuracy(confusion: np.ndarray) -> np.ndarray:
    """Mean sensitivity of the classes that occur in the truth."""
    return _mean_of_defined(class_sensitivity(confusion))


def class_f1(confusion: np.ndarray) -> np.ndarray:
    """2 TP / (2 TP + FP + FN) of each class, (..., k, k) -> (..., k); NaN for a class that nowhere occurs."""
    return divide(2 * _diagonal(confusion), confusion.sum(axis=-1) + confusion.sum(axis=-2))


def macro_f1(confusion: np.ndarray) -> np.ndarray:
    """Mean F1 of the classes that occur in truth or prediction."""
    return _mean_of_defined(class_f1(confusion))


def of_class(measure: Measure, position: int) -> Measure:
    """One class's value of a measure that has one for each, such as `class_f1`."""
    return lambda confusion: measure(confusion)[..., position]


def cohen_kappa(confusion: np.ndarray, weights: Weights = "quadratic") -> np.ndarray:
    """1 - observed / expected weighted disagreement of (..., k, k).

    The disagreement of classes i and j weighs (i - j)^2 ("quadratic"), |i - j| ("linear") or 1 ("none"). NaN where
    none is to be expected, as all gradings are the same class.
    """
    distance = np.abs(np.subtract.outer(np.arange(confusion.shape[-1]), np.arange(confusion.shape[-1])))
    if weights not in ("quadratic", "linear", "none"):
        raise ValueError(f'weights are "quadratic", "linear" or "none", found {weights!r}')
    penalty = {"quadratic": distance**2, "linear": distance, "none": distance > 0}[weights]
    margins = confusion.sum(axis=-1)[..., :, None] * confusion.sum(axis=-2)[..., None, :]
    observed = (penalty * confusion).sum(axis=(-2, -1)) * confusion.sum(axis=(-2, -1))
    return 1 - divide(observed, (penalty * margins).sum(axis=(-2, -1)))


def confusion_cells(truth: ArrayLike, predicted: ArrayLike, classes: Sequence[Any]) -> np.ndarray:
    """Cell (n,) of each row in the flattened confusion matrix."""
    rows = class_positions(truth, classes, "truth")
    columns = class_positions(predicted, classes, "predicted")
    same_length(truth=rows, predicted=columns)
    cells: np.ndarray = rows * len(classes) + columns
    return cells


def _diagonal(confusion: np.ndarray) -> np.ndarray:
    return np.diagonal(confusion, axis1=-2, axis2=-1)


def _mean_of_defined(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis without NaN; NaN where all are."""
    defined = ~np.isnan(values)
    return divide(np.where(defined, values, 0).sum(axis=-1), defined.sum(axis=-1))
