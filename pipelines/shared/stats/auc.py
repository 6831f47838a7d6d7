"""ROC and precision-recall curves, the areas under them, and their intervals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from pipelines.shared.errors import StatisticsError
from pipelines.shared.stats.bootstrap import STANDARD, Bootstrap, Statistic, bootstrap_estimate, divide
from pipelines.shared.stats.checks import as_binary, labelled_scores
from pipelines.shared.stats.estimate import Comparison, Estimate


@dataclass(frozen=True)
class RocCurve:
    """Points of a ROC curve, from calling nothing positive to calling everything positive; arrays (points,)."""

    threshold: np.ndarray
    sensitivity: np.ndarray
    specificity: np.ndarray


@dataclass(frozen=True)
class PrecisionRecallCurve:
    """Points of a precision-recall curve by falling threshold; arrays (points,)."""

    threshold: np.ndarray
    precision: np.ndarray
    recall: np.ndarray


def auroc(y: ArrayLike, score: ArrayLike) -> float:
    """Area under the ROC curve: the chance that a positive scores higher than a negative, ties counting one half.

    Hanley & McNeil, Radiology 143:29 (1982); here from the rank sum.

    Raises:
        StatisticsError: one class, NaN, no rows, lengths differ (so for all functions here).
    """
    from scipy.stats import rankdata  # half a second that a prediction does without

    truth, values = labelled_scores(y, score)
    positives = int(truth.sum())
    rank_sum = rankdata(values)[truth].sum()
    return float((rank_sum - positives * (positives + 1) / 2) / (positives * (len(truth) - positives)))


def auroc_statistic(y: ArrayLike, score: ArrayLike) -> Statistic:
    """AUROC, ties exact, under each of several weightings of the rows: sorts once, for many blocks of resamples.

    Args:
        y: (n,) 0/1.
        score: (n,).

    Returns:
        A function of weights (r, n), non-negative, for instance how often each row occurs in each bootstrap resample,
        to (r,); NaN where one class has no weight.
    """
    truth, values = labelled_scores(y, score)
    positive = np.flatnonzero(truth)
    negative = np.flatnonzero(~truth)
    negative = negative[np.argsort(values[negative])]
    # how many negatives score lower than each positive, and how many not higher
    lower = np.searchsorted(values[negative], values[positive], side="left")
    not_higher = np.searchsorted(values[negative], values[positive], side="right")
    tied = bool((lower != not_higher).any())

    def statistic(weights: np.ndarray) -> np.ndarray:
        exact = np.dtype(np.int64 if np.issubdtype(weights.dtype, np.integer) else np.float64)
        cumulative = np.zeros((len(weights), len(negative) + 1), dtype=exact)
        np.cumsum(weights.take(negative, axis=1), axis=1, dtype=exact, out=cumulative[:, 1:])
        positive_weight = weights.take(positive, axis=1).astype(exact)

        def pairs(below: np.ndarray) -> np.ndarray:
            """Weighted number of pairs of a positive and one of its `below` lowest negatives."""
            counted: np.ndarray = np.einsum("rp,rp->r", positive_weight, cumulative.take(below, axis=1))
            return counted

        won = pairs(lower)
        won_or_tied = pairs(not_higher) if tied else won
        return divide(won + won_or_tied, 2 * positive_weight.sum(axis=1) * cumulative[:, -1])

    return statistic


def roc_curve(y: ArrayLike, score: ArrayLike) -> RocCurve:
    """Sensitivity and specificity of "positive if score >= threshold" at every distinct score.

    The first point calls nothing positive; its threshold is the next number above the highest score.
    """
    truth, values = labelled_scores(y, score)
    threshold, true_positives, called = _cumulative(truth, values)
    positives, negatives = truth.sum(), (~truth).sum()
    return RocCurve(
        # in the precision of the scores, so that the comparison holds for float32 scores too
        threshold=np.append(np.nextafter(values.max(), np.inf, dtype=values.dtype), threshold).astype(np.float64),
        sensitivity=np.append(0, true_positives) / positives,
        specificity=np.append(negatives, negatives - (called - true_positives)) / negatives,
    )


def precision_recall_curve(y: ArrayLike, score: ArrayLike) -> PrecisionRecallCurve:
    """Precision (PPV) and recall (sensitivity) of "positive if score >= threshold" at every distinct score."""
    truth, values = labelled_scores(y, score)
    threshold, true_positives, called = _cumulative(truth, values)
    return PrecisionRecallCurve(threshold.astype(np.float64), true_positives / called, true_positives / truth.sum())


def _cumulative(truth: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """By falling distinct score: the score, true positives and all that are called positive at it."""
    order, last = _falling_order(score)
    return score[order][last], np.cumsum(truth[order])[last], last + 1


def _falling_order(score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row order (n,) by falling score, and the position in it where each distinct score ends."""
    order = np.argsort(-score, kind="stable")
    last = np.append(np.flatnonzero(np.diff(score[order])), len(score) - 1)
    return order, last


def average_precision(y: ArrayLike, score: ArrayLike) -> float:
    """Precision at each distinct threshold, weighted by the recall gained there; no interpolation."""
    return float(average_precision_statistic(y, score)(np.ones((1, len(np.asarray(y)))))[0])


def average_precision_statistic(y: ArrayLike, score: ArrayLike) -> Statistic:
    """Average precision as a function of weights (r, n); NaN where one class has no weight."""
    truth, values = labelled_scores(y, score)
    order, last = _falling_order(values)

    def statistic(weights: np.ndarray) -> np.ndarray:
        ordered = weights.take(order, axis=1).astype(np.float64)
        called = np.cumsum(ordered, axis=1)[:, last]
        true_positives = np.cumsum(ordered * truth[order], axis=1)[:, last]
        precision = np.nan_to_num(divide(true_positives, called))  # nothing called yet: nothing gained either
        gained = np.diff(true_positives, axis=1, prepend=0)
        values = divide((gained * precision).sum(axis=1), true_positives[:, -1])
        return np.where(true_positives[:, -1] < called[:, -1], values, np.nan)

    return statistic


def auroc_estimate(y: ArrayLike, score: ArrayLike, group: ArrayLike, *, bootstrap: Bootstrap = STANDARD) -> Estimate:
    """AUROC with the clustered bootstrap interval; null with the reason if undefined.

    An AUROC of exactly 1 (or 0) has an interval without width, for no resample can differ; `method` then says so.
    """
    try:
        value, statistic = auroc(y, score), auroc_statistic(y, score)
    except StatisticsError as error:
        return Estimate(None, n=np.size(y), reason=str(error))
    return _estimate(value, statistic, y, group, bootstrap)


def average_precision_estimate(
    y: ArrayLike, score: ArrayLike, group: ArrayLike, *, bootstrap: Bootstrap = STANDARD
) -> Estimate:
    """Average precision with the clustered bootstrap interval; null with the reason if undefined."""
    try:
        value, statistic = average_precision(y, score), average_precision_statistic(y, score)
    except StatisticsError as error:
        return Estimate(None, n=np.size(y), reason=str(error))
    return _estimate(value, statistic, y, group, bootstrap)


def auroc_difference(
    y: ArrayLike,
    a: ArrayLike,
    b: ArrayLike,
    group: ArrayLike,
    *,
    bootstrap: Bootstrap = STANDARD,
) -> Comparison:
    """AUROC of scores `a` minus that of `b` on the same cases, by the paired clustered bootstrap.

    Both are computed on the same resamples. The two-sided p-value is twice the smaller share of resamples on either
    side of zero, those at zero counting on both and the data themselves as one more (Davison & Hinkley, Bootstrap
    Methods and their Application, 1997, sec. 4.4), so it is never below 2 / (resamples + 1).
    """
    try:
        value = auroc(y, a) - auroc(y, b)
        first, second = auroc_statistic(y, a), auroc_statistic(y, b)
    except StatisticsError as error:
        return Comparison(Estimate(None, n=np.size(y), reason=str(error)))
    differences: list[np.ndarray] = []

    def statistic(counts: np.ndarray) -> np.ndarray:
        differences.append(first(counts) - second(counts))
        return differences[-1]

    estimate = _estimate(value, statistic, y, group, bootstrap)
    if estimate.low is None:
        return Comparison(estimate)
    drawn = np.concatenate(differences)
    return Comparison(estimate, bootstrap_p_value(drawn[~np.isnan(drawn)]))


def bootstrap_p_value(differences: np.ndarray) -> float:
    """Two-sided p-value for "no difference" from resampled differences (r,)."""
    side = min(np.count_nonzero(differences <= 0), np.count_nonzero(differences >= 0))
    return min(1.0, 2 * (side + 1) / (len(differences) + 1))


def _estimate(value: float, statistic: Statistic, y: ArrayLike, group: ArrayLike, bootstrap: Bootstrap) -> Estimate:
    return bootstrap_estimate(
        value,
        statistic,
        group,
        n=np.size(y),
        bootstrap=bootstrap,
        undefined="with one class",
        positives=int(as_binary(y).sum()),
    )
