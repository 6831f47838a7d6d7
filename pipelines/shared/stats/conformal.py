"""Prediction sets: which classes a probability cannot rule out (split conformal prediction), for data in groups.

A class belongs to the set of a record where its probability reaches that class's threshold. The thresholds are chosen
on records that no network has learned from, so that of every class a stated share is covered, however good or bad the
probabilities are. That promise is about a new group (patient): of those that have the class, one is drawn, and of that
one's records of the class one; the set of this record holds the class with at least the stated probability.

- Sadinle, Lei & Wasserman, J Am Stat Assoc 114:223 (2019): the score is 1 - p of the true class, one threshold a class.
- Vovk, Machine Learning 92:349 (2013); Angelopoulos & Bates, A gentle introduction to conformal prediction (2021),
  section 4.2: each class by itself (class-conditional, or Mondrian), so that a rare one is not paid for by others.
- Lee, Barber & Willett, arXiv:2306.06342 (2023), hierarchical conformal prediction: groups are exchangeable, their
  records are not. Of G groups each has the weight 1 / (G + 1), shared equally by its records; the rest lies on the new
  group, about which nothing is known. Dunn, Wasserman & Ramdas, J Am Stat Assoc 118:2491 (2023) compare other ways.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from pipelines.shared.errors import StatisticsError
from pipelines.shared.stats.bootstrap import group_codes
from pipelines.shared.stats.checks import check_level, same_length

ROUNDING = 1e-9  # of a sum of weights


def groups_needed(level: float) -> int:
    """The smallest number of groups with a class from which that class can have a threshold: 9 at a level of 0.9."""
    check_level(level)
    return math.ceil(level / (1 - level) - ROUNDING)


def group_weights(group: ArrayLike, truth: ArrayLike) -> np.ndarray:
    """One over the number of records that have the same group and the same class, float (n,).

    Every group then counts once for each class that it has, whatever the number of its records.
    """
    codes, _ = group_codes(group)
    classes = np.unique(np.asarray(truth), return_inverse=True)[1]
    same_length(group=codes, truth=classes)
    pairs = codes * (classes.max() + 1) + classes
    weights: np.ndarray = 1 / np.bincount(pairs)[pairs]
    return weights


def class_thresholds(
    probability: np.ndarray, truth: ArrayLike, group: ArrayLike, level: float
) -> tuple[np.ndarray, np.ndarray]:
    """The lowest probability of each class that keeps the class in the set.

    Args:
        probability: (n, k) of the k classes, in [0, 1]; a NaN rules nothing out.
        truth: (n,) integer codes of the true classes, 0 to k - 1.
        group: (n,) keys.
        level: share of each class that is to be covered, in (0, 1).

    Returns:
        The thresholds (k,), 0 where the class always belongs to the set, as fewer than `groups_needed` groups have it;
        and how many groups have each class, int (k,).

    Raises:
        StatisticsError: lengths differ, a key of a group is missing, no rows, codes of no class.
    """
    check_level(level)
    p, codes, (groups, _) = np.nan_to_num(np.asarray(probability, np.float64)), np.asarray(truth), group_codes(group)
    same_length(probability=p, truth=codes, group=groups)
    if not np.isin(codes, np.arange(p.shape[1])).all():
        raise StatisticsError(f"truth: codes are 0 to {p.shape[1] - 1}")
    weights = group_weights(groups, codes)
    thresholds, counts = np.zeros(p.shape[1]), np.zeros(p.shape[1], int)
    for k in range(p.shape[1]):
        rows = codes == k
        counts[k] = len(np.unique(groups[rows]))
        own = p[rows, k]
        order = np.argsort(-own, kind="stable")
        covered = np.cumsum(weights[rows][order]) / (counts[k] + 1)  # by a threshold at the probability of each record
        enough = np.flatnonzero(covered >= level - ROUNDING)
        if len(enough):
            thresholds[k] = own[order[enough[0]]]
    return thresholds, counts


def prediction_sets(probability: np.ndarray, thresholds: np.ndarray, *, never_empty: bool = True) -> np.ndarray:
    """Which classes belong to the set of each record, bool (n, k): those whose probability reaches their threshold.

    Args:
        probability: (n, k); NaN where a class was never taught, which rules it out of no set. A row without any number
            has an empty set.
        thresholds: (k,), or (n, k) where rows have thresholds of their own.
        never_empty: the most probable class belongs to the set in any case, which can only raise the coverage.
    """
    p = np.asarray(probability, np.float64)  # as thresholds are compared in double precision everywhere
    answered = np.asarray(~np.isnan(p).all(axis=1))
    members = (np.isnan(p) | (p >= thresholds)) & answered[:, None]
    if never_empty:
        best = np.nan_to_num(p, nan=-1.0).argmax(axis=1)
        members[answered, best[answered]] = True
    return members
