"""Agreement of classes: of a model with the truth, with intervals, and of several readers with each other.

Fleiss, Psychol Bull 76:378 (1971); Cohen, Psychol Bull 70:213 (1968).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from pipelines.shared.errors import StatisticsError
from pipelines.shared.stats.bootstrap import STANDARD, Bootstrap, bootstrap_estimates
from pipelines.shared.stats.confusion import (
    Measure,
    Weights,
    accuracy,
    balanced_accuracy,
    cohen_kappa,
    confusion_cells,
    macro_f1,
)
from pipelines.shared.stats.estimate import Estimate

Name = TypeVar("Name", bound=Hashable)


def confusion_estimates(
    measures: Mapping[Name, Measure],
    truth: ArrayLike,
    predicted: ArrayLike,
    classes: Sequence[Any],
    group: ArrayLike,
    *,
    bootstrap: Bootstrap = STANDARD,
) -> dict[Name, Estimate]:
    """Measures of the confusion matrix with clustered bootstrap intervals on the same resamples.

    Args:
        measures: by name, functions from matrices (..., k, k) to (...), NaN where undefined.
        truth: (n,) classes.
        predicted: (n,) classes.
        classes: all k classes in their order.
        group: (n,) keys.
        bootstrap: resamples, seed and level.

    Returns:
        The estimates by name; null with the reason where undefined.
    """
    k = len(classes)
    try:
        cells = confusion_cells(truth, predicted, classes)
    except StatisticsError as error:
        return dict.fromkeys(measures, Estimate(None, n=np.size(truth), reason=str(error)))

    def statistic(counts: np.ndarray) -> np.ndarray:
        flat = [np.bincount(cells, weights=row, minlength=k * k) for row in counts]
        matrices = np.stack(flat).reshape(-1, k, k)
        return np.stack([measure(matrices) for measure in measures.values()], axis=1)

    values = statistic(np.ones((1, len(cells))))[0].tolist()
    estimates = bootstrap_estimates(values, statistic, group, n=len(cells), bootstrap=bootstrap)
    present = len(np.unique(cells // k))
    for i, estimate in enumerate(estimates):
        if estimate.value is None:
            estimates[i] = replace(estimate, reason=f"0 / 0; {present} of {k} classes occur in the truth")
        elif estimate.method and present < k:
            estimates[i] = replace(estimate, method=f"{estimate.method}; {present} of {k} classes occur in the truth")
    return dict(zip(measures, estimates, strict=True))


def agreement_estimates(
    truth: ArrayLike,
    predicted: ArrayLike,
    classes: Sequence[Any],
    group: ArrayLike,
    *,
    weights: Weights = "quadratic",
    bootstrap: Bootstrap = STANDARD,
) -> dict[str, Estimate]:
    """Measures of a grading as a whole, with clustered bootstrap intervals on the same resamples.

    Args:
        truth: (n,) classes.
        predicted: (n,) classes.
        classes: all k classes in their order.
        group: (n,) keys.
        weights: of the kappa.
        bootstrap: resamples, seed and level.

    Returns:
        By name: accuracy, balanced_accuracy, macro_f1, kappa; null with the reason where undefined.
    """
    measures: dict[str, Measure] = {
        "accuracy": accuracy,
        "balanced_accuracy": balanced_accuracy,
        "macro_f1": macro_f1,
        "kappa": lambda confusion: cohen_kappa(confusion, weights),
    }
    return confusion_estimates(measures, truth, predicted, classes, group, bootstrap=bootstrap)


def fleiss_kappa(counts: ArrayLike) -> float:
    """Fleiss' kappa of several raters, who need not be the same for every subject (unweighted).

    The number of raters may vary: subjects with fewer than two are left out; the others count alike in the observed
    agreement, and every rating counts alike in the expected agreement. With a constant number this is Fleiss' formula.

    Args:
        counts: (subjects, k) how many raters chose each class.

    Raises:
        StatisticsError: no subject with two ratings, or all ratings are the same class.
    """
    table = np.asarray(counts, dtype=np.float64)
    if table.ndim != 2 or not np.isfinite(table).all() or (table < 0).any():
        raise StatisticsError("counts: a (subjects, classes) table of numbers from 0 up is needed")
    table = table[table.sum(axis=1) >= 2]
    if len(table) == 0:
        raise StatisticsError("no subject has two ratings")
    raters = table.sum(axis=1)
    observed = ((table * (table - 1)).sum(axis=1) / (raters * (raters - 1))).mean()
    expected = ((table.sum(axis=0) / table.sum()) ** 2).sum()
    if np.count_nonzero(table.sum(axis=0)) == 1:
        raise StatisticsError("all ratings are the same class")
    return float((observed - expected) / (1 - expected))
