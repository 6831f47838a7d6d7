"""Variance of the AUROC and the paired test without resampling, for independent and for clustered rows.

- DeLong, DeLong & Clarke-Pearson, Biometrics 44:837 (1988): the covariance of several AUROCs on the same cases from
  structural components, eq. 4-6.
- Sun & Xu, IEEE Signal Process Lett 21:1389 (2014): the components from midranks, in n log n.
- Obuchowski, Biometrics 53:567 (1997): rows in clusters; the components are summed within each cluster.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import norm, rankdata

from pipelines.shared.errors import StatisticsError
from pipelines.shared.stats.bootstrap import group_codes
from pipelines.shared.stats.checks import as_binary, check_level, labelled_scores, same_length
from pipelines.shared.stats.estimate import Comparison, Estimate


def structural_components(y: ArrayLike, scores: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """DeLong's components of each model.

    Args:
        y: (n,) 0/1.
        scores: (m, n), one row per model.

    Returns:
        Of each positive, the share of negatives that it outscores (m, positives); of each negative, the share of
        positives that outscore it (m, negatives); ties one half, both in row order. Their means are the AUROCs.

    Raises:
        StatisticsError: one class, NaN, no rows, lengths differ (so for all functions here).
    """
    checked = [labelled_scores(y, score) for score in np.atleast_2d(np.asarray(scores))]
    truth, values = checked[0][0], np.stack([score for _, score in checked])
    overall = rankdata(values, axis=1)
    of_positives = (overall[:, truth] - rankdata(values[:, truth], axis=1)) / np.count_nonzero(~truth)
    of_negatives = 1 - (overall[:, ~truth] - rankdata(values[:, ~truth], axis=1)) / np.count_nonzero(truth)
    return of_positives, of_negatives


def delong_covariance(y: ArrayLike, scores: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """AUROCs (m,) of the models and their covariance (m, m), rows taken as independent.

    Args:
        y: (n,) 0/1, at least two of each.
        scores: (m, n), one row per model.
    """
    of_positives, of_negatives = structural_components(y, scores)
    positives, negatives = of_positives.shape[1], of_negatives.shape[1]
    if min(positives, negatives) < 2:
        raise StatisticsError(f"{positives} positives and {negatives} negatives: the variance needs two of each")
    covariance = np.cov(of_positives) / positives + np.cov(of_negatives) / negatives
    return of_positives.mean(axis=1), np.atleast_2d(covariance)


def clustered_delong_covariance(y: ArrayLike, scores: ArrayLike, group: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """AUROCs (m,) and their covariance (m, m) where rows of one group depend on each other (Obuchowski 1997).

    With I groups, I10 of which hold positives and I01 negatives, and A, B (m, I) the sums within each group of
    (component - AUROC) over its positives and negatives, divided by the number of all positives or negatives:

        I10 / (I10 - 1) A A' + I01 / (I01 - 1) B B' + I / (I - 1) (A B' + B A')

    With one row per group A B' is zero and this is exactly DeLong's covariance.

    Args:
        y: (n,) 0/1.
        scores: (m, n), one row per model.
        group: (n,) keys; at least two groups hold positives and two hold negatives.
    """
    of_positives, of_negatives = structural_components(y, scores)
    truth = as_binary(y)
    codes, groups = group_codes(group)
    same_length(y=truth, group=codes)
    with_positives, with_negatives = len(np.unique(codes[truth])), len(np.unique(codes[~truth]))
    if min(with_positives, with_negatives) < 2:
        found = f"{with_positives} groups with positives and {with_negatives} with negatives"
        raise StatisticsError(f"{found}: the variance needs two of each")
    aurocs = of_positives.mean(axis=1)

    def sums(components: np.ndarray, members: np.ndarray) -> np.ndarray:
        excess = (components - aurocs[:, None]) / components.shape[1]
        return np.stack([np.bincount(members, weights=row, minlength=groups) for row in excess])

    a, b = sums(of_positives, codes[truth]), sums(of_negatives, codes[~truth])
    cross = a @ b.T
    covariance = (
        with_positives / (with_positives - 1) * (a @ a.T)
        + with_negatives / (with_negatives - 1) * (b @ b.T)
        + groups / (groups - 1) * (cross + cross.T)
    )
    return aurocs, covariance


def delong_test(y: ArrayLike, a: ArrayLike, b: ArrayLike, level: float = 0.95) -> Comparison:
    """DeLong's paired test of AUROC(a) = AUROC(b) on the same cases, rows taken as independent."""
    aurocs, covariance = delong_covariance(y, _pair(a, b))
    return _normal_test(y, aurocs, covariance, np.size(y), level, "DeLong")


def clustered_delong_test(
    y: ArrayLike, a: ArrayLike, b: ArrayLike, group: ArrayLike, level: float = 0.95
) -> Comparison:
    """Obuchowski's paired test of AUROC(a) = AUROC(b) on the same clustered cases."""
    aurocs, covariance = clustered_delong_covariance(y, _pair(a, b), group)
    return _normal_test(y, aurocs, covariance, group_codes(group)[1], level, "clustered DeLong (Obuchowski)")


def compare_aurocs(y: ArrayLike, a: ArrayLike, b: ArrayLike, group: ArrayLike, level: float = 0.95) -> Comparison:
    """AUROC(a) - AUROC(b): DeLong's test if every group has one row, else its clustered form; null if undefined."""
    try:
        if group_codes(group)[1] == np.size(y):
            return delong_test(y, a, b, level)
        return clustered_delong_test(y, a, b, group, level)
    except StatisticsError as error:
        return Comparison(Estimate(None, n=np.size(y), reason=str(error)))


def _pair(a: ArrayLike, b: ArrayLike) -> np.ndarray:
    first, second = np.asarray(a), np.asarray(b)
    same_length(a=first, b=second)
    return np.stack([first, second])


def _normal_test(
    y: ArrayLike, aurocs: np.ndarray, covariance: np.ndarray, groups: int, level: float, name: str
) -> Comparison:
    check_level(level)
    difference = float(aurocs[0] - aurocs[1])
    variance = float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    estimate = Estimate(difference, n=np.size(y), groups=groups, positives=int(as_binary(y).sum()))
    if variance < 1e-15:  # zero but for rounding: components are of order 1
        if abs(difference) < 1e-12:
            method = f"{name}; both models order the cases alike"
            return Comparison(replace(estimate, low=difference, high=difference, method=method), p_value=1.0)
        return Comparison(replace(estimate, reason="the variance of the difference is zero"))
    error = math.sqrt(variance)
    z = difference / error
    half = float(norm.ppf((1 + level) / 2)) * error
    method = f"{name}, normal interval, {100 * level:g} %"
    estimate = replace(estimate, low=difference - half, high=difference + half, method=method)
    return Comparison(estimate, p_value=float(2 * norm.sf(abs(z))), z=z)
