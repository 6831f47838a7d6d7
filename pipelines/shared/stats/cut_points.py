"""Cut points of a score that maximise the quadratic weighted kappa of the grades they make (Cohen, Psychol Bull
70:213, 1968): the best that there are, not a local optimum.

Kappa is 1 - D / E. With the true grades given, both the observed disagreement D and the expected one E are sums over
records of a cost that depends on the record's predicted grade alone. So D - q E is minimised over all monotone gradings
by dynamic programming, and the ratio D / E by repeating that with q = D / E of the last solution (Dinkelbach, Manage
Sci 13:492, 1967).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from pipelines.shared.errors import StatisticsError
from pipelines.shared.stats.checks import same_length


def best_cut_points(score: ArrayLike, truth: ArrayLike, grades: Sequence[int]) -> np.ndarray:
    """The cut points (grades - 1,), not decreasing: a record has the lowest grade plus one for each that it reaches.

    Each lies halfway between two neighbouring scores; beyond the lowest or highest score, halfway to half a grade
    beyond it and the lowest or highest grade. Where two are equal, the grade between them is never given.

    Args:
        score: (n,) in the unit of grades, such as the expected grade.
        truth: (n,) whole numbers; others than `grades` may occur.
        grades: consecutive numbers, at least two, which can be predicted.

    Raises:
        StatisticsError: fewer than two true grades; not finite; lengths differ.
    """
    scores, true = np.asarray(score, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    same_length(score=scores, truth=true)
    if not (np.isfinite(scores).all() and np.isfinite(true).all()):
        raise StatisticsError("scores and grades must be finite")
    if len(np.unique(true)) < 2:
        raise StatisticsError("cut points need records of two grades")
    values, where = np.unique(scores, return_inverse=True)  # equal scores have equal grades
    squares = np.subtract.outer(true, np.asarray(grades, dtype=np.float64)) ** 2
    observed = np.zeros((len(values), len(grades)))
    np.add.at(observed, where, squares)
    expected = np.outer(np.bincount(where), squares.mean(axis=0))
    q = 1.0
    while True:
        first = _best_grading(observed - q * expected)
        d, e = _total(observed, first), _total(expected, first)
        if not d / e < q:
            break
        q = d / e
    ends = min(grades[0], values[0]) - 0.5, max(grades[-1], values[-1]) + 0.5
    edges = np.concatenate([ends[:1], values, ends[1:]])
    below, above = edges[first], edges[first + 1]
    middle = (below + above) / 2
    cuts: np.ndarray = np.where(middle > below, middle, above)  # of neighbouring numbers the middle is one of them
    return cuts


def _best_grading(cost: np.ndarray) -> np.ndarray:
    """The cheapest monotone grading of values in ascending order.

    Args:
        cost: (values, grades) of giving each value each grade.

    Returns:
        (grades - 1,) the number of values below each grade from the second on: where it begins.
    """
    n, grades = cost.shape
    sums = np.concatenate([np.zeros((1, grades)), cost.cumsum(axis=0)])  # of the first i values
    total = sums[:, 0]  # of the first i values in the grades so far
    starts = np.zeros((grades, n + 1), dtype=int)  # where each grade begins, if the first i values are divided
    for grade in range(1, grades):
        before = total - sums[:, grade]
        least = np.minimum.accumulate(before)
        starts[grade] = np.maximum.accumulate(np.where(before == least, np.arange(n + 1), 0))
        total = sums[:, grade] + least
    first, end = np.zeros(grades - 1, dtype=int), n
    for grade in range(grades - 1, 0, -1):
        end = starts[grade, end]
        first[grade - 1] = end
    return first


def _total(cost: np.ndarray, first: np.ndarray) -> float:
    """The cost of a grading."""
    grade = np.searchsorted(first, np.arange(len(cost)), side="right")
    return float(cost[np.arange(len(cost)), grade].sum())
