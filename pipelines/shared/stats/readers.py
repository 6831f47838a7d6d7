"""Human readers beside a model: each reader's operating point, and how many the model's ROC curve outdoes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from pipelines.shared.errors import StatisticsError
from pipelines.shared.stats.auc import RocCurve
from pipelines.shared.stats.bootstrap import group_codes
from pipelines.shared.stats.checks import as_binary, same_length
from pipelines.shared.stats.estimate import Estimate
from pipelines.shared.stats.proportions import proportion_estimate


@dataclass(frozen=True)
class Reader:
    """One reader's rates with exact intervals; null with the reason if no positive or no negative case was read."""

    reader: Any
    sensitivity: Estimate
    specificity: Estimate


def reader_estimates(
    case: ArrayLike, reader: ArrayLike, reading: ArrayLike, truth: ArrayLike, level: float = 0.95
) -> list[Reader]:
    """Sensitivity and specificity of each reader on the cases that this reader read.

    The intervals are Clopper-Pearson's and take a reader's cases as independent.

    Args:
        case: (rows,) case keys, one row per case and reader.
        reader: (rows,) reader keys.
        reading: (rows,) 0/1.
        truth: (rows,) 0/1, the same in all rows of a case.
        level: confidence level.

    Returns:
        The readers in the order of their keys.

    Raises:
        StatisticsError: no rows, lengths differ, missing keys, values that are not 0 or 1, a case read twice by one
            reader, a case with two truths.
    """
    cases, number = group_codes(case)
    readers, _ = group_codes(reader)
    called, positive = as_binary(reading, "reading"), as_binary(truth, "truth")
    same_length(case=cases, reader=readers, reading=called, truth=positive)
    _check_single_readings(cases, readers)
    share = np.bincount(cases, weights=positive) / np.bincount(cases)
    two_truths = np.count_nonzero((share > 0) & (share < 1))
    if two_truths:
        raise StatisticsError(f"{two_truths} of {number} cases have both truths")
    result = []
    for code, name in enumerate(_reader_names(reader, readers)):
        positives, negatives = (readers == code) & positive, (readers == code) & ~positive
        sensitivity = _rate(called[positives], cases[positives], "no positive case was read", level)
        specificity = _rate(~called[negatives], cases[negatives], "no negative case was read", level)
        result.append(Reader(name, sensitivity, specificity))
    return result


def _rate(outcome: np.ndarray, cases: np.ndarray, none: str, level: float) -> Estimate:
    if outcome.size == 0:
        return Estimate(None, n=0, groups=0, positives=0, reason=none)
    return proportion_estimate(outcome, cases, level)


def _reader_names(reader: ArrayLike, codes: np.ndarray) -> list[Any]:
    """The key of each reader code, as a plain Python object."""
    keys = list(reader) if isinstance(reader, list | tuple) else np.asarray(reader).tolist()
    return [keys[row] for row in np.unique(codes, return_index=True)[1]]


def _check_single_readings(case: np.ndarray, reader: np.ndarray) -> None:
    """Raise StatisticsError if a reader read a case twice; codes (rows,) of both."""
    twice = len(case) - len(np.unique(np.stack([case, reader]), axis=1).T)
    if twice:
        raise StatisticsError(f"{twice} readings repeat the same case and reader")


def sensitivity_at(curve: RocCurve, specificity: float) -> float:
    """Sensitivity of a ROC curve at a specificity in [0, 1]: the highest there, linear between neighbouring points."""
    if not 0 <= specificity <= 1:
        raise StatisticsError(f"a specificity lies in [0, 1], found {specificity}")
    # along the curve specificity falls from 1 to 0: the last point that is not below the one asked for
    last = int(np.searchsorted(-curve.specificity, -specificity, side="right")) - 1
    upper, high = curve.specificity[last], curve.sensitivity[last]
    if upper == specificity:
        return float(high)
    share = (upper - specificity) / (upper - curve.specificity[last + 1])
    return float(high + share * (curve.sensitivity[last + 1] - high))


def readers_below_curve(readers: Sequence[Reader], curve: RocCurve) -> tuple[int, int]:
    """How many readers' points lie strictly under the curve at the reader's own specificity.

    Readers without sensitivity or specificity are not compared. A point on the curve is not under it.

    Returns:
        Readers below, and readers compared.
    """
    below = compared = 0
    for reader in readers:
        sensitivity, specificity = reader.sensitivity.value, reader.specificity.value
        if sensitivity is None or specificity is None:
            continue
        compared += 1
        below += sensitivity < sensitivity_at(curve, specificity) - 1e-12  # rounding of the interpolation
    return below, compared
