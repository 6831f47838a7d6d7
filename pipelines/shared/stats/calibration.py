"""Do probabilities mean what they say: Brier score, calibration error, reliability curve (slope: `recalibration`).

Brier, Monthly Weather Review 78:1 (1950); Naeini et al., AAAI (2015) (expected calibration error).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from pipelines.shared.errors import StatisticsError
from pipelines.shared.stats.bootstrap import (
    STANDARD,
    Bootstrap,
    bootstrap_estimates,
    bootstrap_values,
    divide,
    group_codes,
)
from pipelines.shared.stats.checks import as_binary, as_probabilities, check_level, same_length
from pipelines.shared.stats.estimate import Estimate
from pipelines.shared.stats.proportions import clopper_pearson
from pipelines.shared.stats.recalibration import recalibration_estimates

Binning = Literal["width", "count"]


@dataclass(frozen=True)
class ReliabilityCurve:
    """Observed against predicted by bin, empty bins left out; arrays (bins,).

    Attributes:
        lower: smallest probability in the bin.
        upper: largest probability in the bin.
        count: rows.
        predicted: mean probability.
        observed: share of positives.
        low: Clopper-Pearson interval of `observed`, lower end (rows as independent).
        high: its upper end.
    """

    lower: np.ndarray
    upper: np.ndarray
    count: np.ndarray
    predicted: np.ndarray
    observed: np.ndarray
    low: np.ndarray
    high: np.ndarray


def bin_numbers(p: np.ndarray, bins: int, binning: Binning) -> np.ndarray:
    """Bin (n,) of each probability, counted from 0.

    "width": `bins` intervals of equal width, closed below, the last also above. "count": about equally many rows per
    bin, cut at quantiles; equal probabilities stay together, so there may be fewer bins.
    """
    if bins < 1:
        raise ValueError(f"bins is at least 1, found {bins}")
    if binning == "width":
        edges = np.arange(1, bins) / bins
    elif binning == "count":
        edges = np.unique(np.quantile(p, np.arange(1, bins) / bins, method="higher"))
    else:
        raise ValueError(f'binning is "width" or "count", found {binning!r}')
    return np.searchsorted(edges, p, side="right")


def reliability_curve(
    y: ArrayLike, p: ArrayLike, bins: int = 10, binning: Binning = "width", level: float = 0.95
) -> ReliabilityCurve:
    """Observed share of positives and mean probability by bin (see `bin_numbers`)."""
    truth, probability = _checked(y, p)
    number = bin_numbers(probability, bins, binning)
    occupied = np.unique(number)
    inside = [probability[number == k] for k in occupied]
    positive = [truth[number == k] for k in occupied]
    intervals = np.array([clopper_pearson(int(x.sum()), len(x), level) for x in positive])
    return ReliabilityCurve(
        lower=np.array([x.min() for x in inside]),
        upper=np.array([x.max() for x in inside]),
        count=np.array([len(x) for x in inside]),
        predicted=np.array([x.mean() for x in inside]),
        observed=np.array([x.mean() for x in positive]),
        low=intervals[:, 0],
        high=intervals[:, 1],
    )


def brier_estimates(
    y: ArrayLike, p: ArrayLike, group: ArrayLike, *, bootstrap: Bootstrap = STANDARD
) -> dict[str, Estimate]:
    """Brier score (`brier`) and skill (`brier_skill`) with clustered bootstrap intervals; null where undefined."""
    try:
        truth, probability = _checked(y, p)
    except StatisticsError as error:
        return dict.fromkeys(("brier", "brier_skill"), Estimate(None, n=np.size(y), reason=str(error)))
    columns = np.column_stack([(probability - truth) ** 2, truth, np.ones(len(truth))])

    def statistic(counts: np.ndarray) -> np.ndarray:
        squares, positives, rows = (counts @ columns).T
        prevalence = positives / rows
        return np.stack([squares / rows, 1 - divide(squares / rows, prevalence * (1 - prevalence))], axis=1)

    n, positives = len(truth), int(truth.sum())
    brier, skill = bootstrap_estimates(
        statistic(np.ones((1, n)))[0].tolist(),
        statistic,
        group,
        n=n,
        bootstrap=bootstrap,
        undefined="with one class",
        positives=positives,
    )
    if positives in (0, n):
        skill = replace(skill, value=None, reason="one class only: no skill over the prevalence")
    return {"brier": brier, "brier_skill": skill}


def ece_estimate(
    y: ArrayLike,
    p: ArrayLike,
    group: ArrayLike,
    *,
    bins: int = 10,
    binning: Binning = "width",
    bootstrap: Bootstrap = STANDARD,
) -> Estimate:
    """Expected calibration error with a conservative clustered bootstrap interval; null with the reason if undefined.

    Chance makes an ECE positive, and resampling more so: percentiles would miss the truth (0) of every calibrated model
    (on this bias: Kumar et al., Verified Uncertainty Calibration, NeurIPS 2019). Instead: the true ECE and the observed
    one differ at most by sum |e|, with e the errors of the bins' gaps between observed and predicted (triangle
    inequality). The interval is the value plus and minus the `level` quantile of that sum, cut to [0, 1], the errors
    being those of the resamples' gaps, in the bins of all rows. In large samples it covers a calibrated model with
    probability `level` and others with more; with 300 patients and ten bins, 95 % intervals of calibrated models were
    seen to cover 93 to 94 %.
    """
    level = bootstrap.level
    check_level(level)
    groups = None
    try:
        truth, probability = _checked(y, p)
    except StatisticsError as error:
        return Estimate(None, n=np.size(y), reason=str(error))
    n, positives = len(truth), int(truth.sum())
    gaps = _binned_gaps(truth, probability, bins, binning)
    mean_gap = gaps.mean(axis=0)
    value = np.abs(mean_gap).sum()

    def error_of_resamples(counts: np.ndarray) -> np.ndarray:
        errors: np.ndarray = np.abs(counts @ gaps / counts.sum(axis=1, keepdims=True) - mean_gap).sum(axis=1)
        return errors

    try:
        codes, groups = group_codes(group)
        same_length(y=truth, group=codes)
        margin = np.quantile(bootstrap_values(error_of_resamples, codes, bootstrap.resamples, bootstrap.seed), level)
    except StatisticsError as error:
        return Estimate(value, n=n, groups=groups, positives=positives, reason=str(error))
    method = f"clustered bootstrap of the gaps, conservative, {100 * level:g} %, {bootstrap.resamples} resamples"
    return Estimate(value, max(0.0, value - margin), min(1.0, value + margin), method, n, groups, positives)


def calibration_estimates(
    y: ArrayLike,
    p: ArrayLike,
    group: ArrayLike,
    *,
    bins: int = 10,
    binning: Binning = "width",
    bootstrap: Bootstrap = STANDARD,
) -> dict[str, Estimate]:
    """All measures of this module and of `recalibration`, with clustered bootstrap intervals.

    Args:
        y: (n,) 0/1.
        p: (n,) probabilities.
        group: (n,) keys.
        bins: of the ECE.
        binning: of the ECE, see `bin_numbers`.
        bootstrap: resamples, seed and level.

    Returns:
        By name: brier, brier_skill, ece, slope, intercept, in_the_large; each null with its reason where undefined.
    """
    return {
        **brier_estimates(y, p, group, bootstrap=bootstrap),
        "ece": ece_estimate(y, p, group, bins=bins, binning=binning, bootstrap=bootstrap),
        **recalibration_estimates(y, p, group, bootstrap=bootstrap),
    }


def _binned_gaps(truth: np.ndarray, probability: np.ndarray, bins: int, binning: Binning) -> np.ndarray:
    """(n, bins): outcome minus probability of each row in the column of its bin; the ECE is sum |column means|."""
    number = bin_numbers(probability, bins, binning)
    gaps = np.zeros((len(truth), number.max() + 1))
    gaps[np.arange(len(truth)), number] = truth - probability
    return gaps


def _checked(y: ArrayLike, p: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    truth, probability = as_binary(y), as_probabilities(p)
    same_length(y=truth, p=probability)
    return truth, probability
