"""The clustered bootstrap: whole groups (patients) are drawn with replacement, as many as there are.

Efron & Tibshirani, An Introduction to the Bootstrap (1993), ch. 8 (unit of resampling) and 13 (percentile interval);
Field & Welsh, J R Stat Soc B 69:369 (2007) (cluster bootstrap).

A resample is a row of *counts*: how often each row of the data occurs in it. A statistic that takes weights can then be
computed on many resamples at once, and two models are compared on the same resamples by using the same counts.

Same seed, same result: groups are numbered in sorted order of their keys, so the order of the rows does not matter
(but for rounding where floats are summed), nor does the size of the blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from pipelines.shared.errors import StatisticsError
from pipelines.shared.stats.checks import check_level, same_length
from pipelines.shared.stats.estimate import Estimate

# counts (b, n) uint8 -> values (b,) or (b, k), NaN where undefined. `counts @ floats` is safe; uint8 products are not.
Statistic = Callable[[np.ndarray], np.ndarray]

# Counts held at a time: large enough to be fast, small enough to stay in the processor's cache.
BLOCK_ELEMENTS = 2**20

# With fewer defined resamples the interval would leave out the very cases that make the value uncertain
# (of two positive patients neither is drawn in 13 % of the resamples, of three in 5 %).
MIN_DEFINED = 0.9


def group_codes(group: ArrayLike) -> tuple[np.ndarray, int]:
    """Number the groups.

    Args:
        group: (n,) hashable keys; 1 and "1" are two groups.

    Returns:
        (n,) integer codes in the sorted order of the keys, and the number of groups.

    Raises:
        StatisticsError: no rows, or a missing key (None, NaN).
    """
    if isinstance(group, list | tuple):  # numpy would make one type of mixed keys, and two dimensions of tuples
        keys = np.empty(len(group), dtype=object)
        keys[:] = group
    else:
        keys = np.asarray(group)
    if len(keys) == 0:
        raise StatisticsError("no rows")
    missing = sum(map(_missing, keys)) if keys.dtype == object else int(np.count_nonzero(keys != keys))
    if missing:
        raise StatisticsError(f"group: {missing} of {len(keys)} keys are missing")
    if keys.dtype != object:
        distinct, codes = np.unique(keys, return_inverse=True)
        return codes, len(distinct)
    try:
        ordered = sorted(set(keys))
    except TypeError:  # keys of several types have no order among themselves
        ordered = sorted(set(keys), key=lambda key: (type(key).__name__, repr(key)))
    position = {key: code for code, key in enumerate(ordered)}
    return np.array([position[key] for key in keys]), len(ordered)


def _missing(key: object) -> bool:
    try:
        return key is None or not bool(key == key)
    except TypeError:  # pandas' NA has no truth value
        return True


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are made: how many resamples of the groups, their seed, the confidence level."""

    resamples: int = 2000
    seed: int = 0
    level: float = 0.95


STANDARD = Bootstrap()


def cluster_blocks(group: ArrayLike, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Counts (b, n) uint8 of how often each row occurs, some resamples at a time, `resamples` in all.

    Raises:
        StatisticsError: fewer than two groups, missing keys, no rows.
    """
    if resamples < 1:
        raise ValueError(f"resamples is at least 1, found {resamples}")
    codes, groups = group_codes(group)
    if groups < 2:
        raise StatisticsError("one group only: an interval needs at least two")
    rng = np.random.default_rng(seed)
    block = max(1, BLOCK_ELEMENTS // len(codes))
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        drawn = rng.integers(groups, size=(size, groups)) + np.arange(size)[:, None] * groups
        # uint8 holds: with 255 groups no count is larger, with more a count above 255 (expected: 1) does not happen.
        counts = np.bincount(drawn.ravel(), minlength=size * groups).astype(np.uint8)
        yield counts.reshape(size, groups).take(codes, axis=1)


def cluster_counts(group: ArrayLike, resamples: int, seed: int) -> np.ndarray:
    """All blocks of `cluster_blocks` in one (resamples, n) uint8 array."""
    return np.concatenate(list(cluster_blocks(group, resamples, seed)))


def bootstrap_values(statistic: Statistic, group: ArrayLike, resamples: int, seed: int) -> np.ndarray:
    """The statistic on every resample: (resamples,), or (resamples, …) if it returns several values each."""
    return np.concatenate([statistic(counts) for counts in cluster_blocks(group, resamples, seed)])


def percentile_interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """The central `level` of the values (r,) that are not NaN, between order statistics by linear interpolation."""
    check_level(level)
    defined = values[~np.isnan(values)]
    if defined.size == 0:
        raise StatisticsError("undefined on every resample")
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def bootstrap_estimates(
    values: Sequence[float],
    statistic: Statistic,
    group: ArrayLike,
    *,
    n: int,
    bootstrap: Bootstrap = STANDARD,
    undefined: str = "undefined",
    positives: int | None = None,
) -> list[Estimate]:
    """Several values that are computed together, each with its clustered bootstrap interval.

    Args:
        values: (k,) on the data themselves.
        statistic: the same on resamples, counts (b, n) -> (b, k).
        group: (n,) keys.
        n: rows that the values rest on.
        bootstrap: resamples, seed and level.
        undefined: what ails an undefined resample, as in "with one class".
        positives: positive rows among them.

    Returns:
        (k,) estimates; without interval, and with the reason, if there is one group only, a key is missing, or more
        than a tenth of the resamples are undefined.
    """
    check_level(bootstrap.level)
    groups = None
    try:
        codes, groups = group_codes(group)
        same_length(rows=range(n), group=codes)
        drawn = bootstrap_values(statistic, codes, bootstrap.resamples, bootstrap.seed)
    except StatisticsError as error:
        return [Estimate(value, n=n, groups=groups, positives=positives, reason=str(error)) for value in values]
    estimates = []
    for value, column in zip(values, drawn.T, strict=True):
        left_out = int(np.count_nonzero(np.isnan(column)))
        note = f"{left_out} of {bootstrap.resamples} resamples {undefined}"
        if left_out > (1 - MIN_DEFINED) * bootstrap.resamples:
            reason = f"{note}, too many for an interval"
            estimates.append(Estimate(value, n=n, groups=groups, positives=positives, reason=reason))
            continue
        low, high = percentile_interval(column, bootstrap.level)
        method = f"clustered percentile bootstrap, {100 * bootstrap.level:g} %, {bootstrap.resamples} resamples"
        if left_out:
            method += f"; {note}, left out"
        if low == high:  # a value that no resample can change, such as an AUROC of 1: no sign of certainty
            method += "; all resamples alike"
        estimates.append(Estimate(value, low, high, method, n=n, groups=groups, positives=positives))
    return estimates


def bootstrap_estimate(
    value: float,
    statistic: Statistic,
    group: ArrayLike,
    *,
    n: int,
    bootstrap: Bootstrap = STANDARD,
    undefined: str = "undefined",
    positives: int | None = None,
) -> Estimate:
    """`bootstrap_estimates` for one value, with a statistic that returns (b,)."""
    return bootstrap_estimates(
        [value],
        lambda counts: statistic(counts)[:, None],
        group,
        n=n,
        bootstrap=bootstrap,
        undefined=undefined,
        positives=positives,
    )[0]


def ratio_statistic(numerator: np.ndarray, denominator: np.ndarray) -> Statistic:
    """Sum of `numerator` (n,) over sum of `denominator` (n,) in each resample; NaN where the latter is 0.

    Means, proportions and every rate of a confusion matrix are of this kind.
    """
    columns = np.column_stack([numerator, denominator]).astype(np.float64)

    def statistic(counts: np.ndarray) -> np.ndarray:
        sums = counts @ columns
        return divide(sums[:, 0], sums[:, 1])

    return statistic


def divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Element-wise quotient as floats; NaN where the denominator is 0."""
    numerator, denominator = np.broadcast_arrays(numerator, denominator)
    quotient: np.ndarray = np.divide(
        numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator != 0, dtype=np.float64
    )
    return quotient
