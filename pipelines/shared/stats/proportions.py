"""Proportions (sensitivity, specificity, predictive values, accuracy) with exact and with clustered intervals."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from pipelines.shared.errors import StatisticsError
from pipelines.shared.stats.bootstrap import STANDARD, Bootstrap, bootstrap_estimate, group_codes, ratio_statistic
from pipelines.shared.stats.checks import as_binary, as_numbers, check_level, same_length
from pipelines.shared.stats.estimate import Estimate


class Proportion(NamedTuple):
    """One proportion with both intervals: `exact` takes rows as independent, `clustered` resamples groups."""

    exact: Estimate
    clustered: Estimate


def clopper_pearson(successes: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """Exact binomial interval (Clopper & Pearson, Biometrika 26:404, 1934).

    Raises:
        StatisticsError: no trials, or successes outside 0..trials.
    """
    from scipy.stats import beta  # half a second that a prediction does without

    check_level(level)
    if trials < 1:
        raise StatisticsError("no trials")
    if not 0 <= successes <= trials:
        raise StatisticsError(f"{successes} successes in {trials} trials")
    tail = (1 - level) / 2
    low = float(beta.ppf(tail, successes, trials - successes + 1)) if successes > 0 else 0.0
    high = float(beta.ppf(1 - tail, successes + 1, trials - successes)) if successes < trials else 1.0
    return low, high


def proportion_estimate(outcome: ArrayLike, group: ArrayLike | None = None, level: float = 0.95) -> Estimate:
    """Share of ones with the Clopper-Pearson interval; rows are taken as independent.

    Args:
        outcome: (n,) 0/1.
        group: (n,) keys, only counted.
        level: confidence level.
    """
    try:
        hits = as_binary(outcome, "outcome")
        groups = None
        if group is not None:
            codes, groups = group_codes(group)
            same_length(outcome=hits, group=codes)
        low, high = clopper_pearson(int(hits.sum()), len(hits), level)
    except StatisticsError as error:
        return Estimate(None, n=np.size(outcome), reason=str(error))
    method = f"Clopper-Pearson exact binomial, {100 * level:g} %, rows as independent"
    return Estimate(hits.mean(), low, high, method, n=len(hits), groups=groups, positives=hits.sum())


def clustered_proportion_estimate(outcome: ArrayLike, group: ArrayLike, *, bootstrap: Bootstrap = STANDARD) -> Estimate:
    """Share of ones among all rows with the clustered bootstrap interval.

    Give only the rows of the denominator (for sensitivity the positives): the groups that have none are not drawn.
    """
    try:
        hits = as_binary(outcome, "outcome")
    except StatisticsError as error:
        return Estimate(None, n=np.size(outcome), reason=str(error))
    return bootstrap_estimate(
        hits.mean(),
        ratio_statistic(hits, np.ones(len(hits))),
        group,
        n=len(hits),
        bootstrap=bootstrap,
        positives=int(hits.sum()),
    )


def both_estimates(
    outcome: ArrayLike,
    group: ArrayLike,
    *,
    bootstrap: Bootstrap = STANDARD,
    no_rows: str = "no rows",
) -> Proportion:
    """`proportion_estimate` and `clustered_proportion_estimate` of the same rows; `no_rows` is the reason if none."""
    if np.size(outcome) == 0:
        null = Estimate(None, n=0, groups=0, positives=0, reason=no_rows)
        return Proportion(null, null)
    return Proportion(
        proportion_estimate(outcome, group, bootstrap.level),
        clustered_proportion_estimate(outcome, group, bootstrap=bootstrap),
    )


def weighted_ratio_estimate(
    numerator: ArrayLike,
    denominator: ArrayLike,
    group: ArrayLike,
    *,
    bootstrap: Bootstrap = STANDARD,
) -> Estimate:
    """Sum of `numerator` over sum of `denominator`, both (n,) per row, with the clustered bootstrap interval.

    For rates per unit, such as false positives per slide or hits per lesion.
    """
    try:
        top, bottom = as_numbers(numerator, "numerator"), as_numbers(denominator, "denominator")
        same_length(numerator=top, denominator=bottom)
        if (bottom < 0).any() or not bottom.any():
            raise StatisticsError("denominator: negative, or zero everywhere")
    except StatisticsError as error:
        return Estimate(None, n=np.size(numerator), reason=str(error))
    return bootstrap_estimate(
        top.sum() / bottom.sum(),
        ratio_statistic(top, bottom),
        group,
        n=len(top),
        bootstrap=bootstrap,
        undefined="with a denominator of zero",
    )
