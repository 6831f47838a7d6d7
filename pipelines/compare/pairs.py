"""Which runs may be compared, and paired differences of those that scored the same test records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from pipelines.compare.readings import Reading, read_metric
from pipelines.compare.runs import Run
from pipelines.shared.errors import StatisticsError
from pipelines.shared.stats.auc import bootstrap_p_value
from pipelines.shared.stats.bootstrap import bootstrap_values, percentile_interval
from pipelines.shared.stats.delong import compare_aurocs
from pipelines.shared.stats.estimate import Comparison, Estimate


@dataclass(frozen=True)
class Pair:
    """The first run minus the second in one metric; `adjusted` is the p-value after Holm's correction."""

    first: Run
    second: Run
    metric: str
    comparison: Comparison
    adjusted: float | None


@dataclass(frozen=True)
class Refusal:
    """Two runs that are not compared, and why."""

    first: Run
    second: Run
    reason: str


def why_not(first: Run, second: Run) -> str | None:
    """Why two runs cannot be compared on the same test records; None: they can.

    Their training may differ in everything. Their test records must be the same, with the same groups and pixels.
    """
    if first.study != second.study:
        return f"other studies: {first.study} and {second.study}"
    if first.headline != second.headline:
        return f"other headline metrics: {first.headline} and {second.headline}"
    if first.classes is not None and second.classes is not None and first.classes != second.classes:
        only = len(set(first.classes) ^ set(second.classes))
        return f"other classes: {only} are answered by one run only" if only else "other classes: another order"
    ids, others = set(first.test["id"]), set(second.test["id"])
    if ids != others:
        common = len(ids & others)
        names = {r.metrics["source"]["name"] for r in (first, second)}
        if not common:
            return f"other data: no test record in common ({', '.join(sorted(names))})"
        return f"other split: {common:,} test records in common of {len(ids):,} and {len(others):,}"
    a, b = (r.records[r.records["id"].isin(ids)].set_index("id").sort_index() for r in (first, second))
    for column, what in (("fingerprint", "other data: the same ids with other content"), ("group", "other groups")):
        changed = int((a[column].to_numpy() != b[column].to_numpy()).sum())
        if changed:
            return f"{what}, for {changed:,} of {len(ids):,} test records"
    return None


def paired_differences(
    runs: Sequence[Run], against: Run | None, resamples: int, seed: int, level: float
) -> tuple[list[Pair], list[Refusal]]:
    """Differences of the headline metric for all pairs of runs (or all against one) that may be compared.

    AUROCs by DeLong's test or its clustered form, all else by the paired clustered bootstrap; p-values are corrected
    for the number of pairs (Holm 1979). Runs of different studies are not mentioned: nobody would compare them.
    """
    wanted = [(a, b) for a, b in combinations(runs, 2) if against is None or against in (a, b)]
    pairs: list[Pair] = []
    refusals: list[Refusal] = []
    readings: dict[str, Reading | str] = {}
    drawn: dict[str, np.ndarray] = {}
    for a, b in wanted:
        if against is b:
            a, b = b, a
        reason = why_not(a, b)
        if reason is None:
            for run in (a, b):
                if run.name not in readings:
                    readings[run.name] = read_metric(run, run.headline)
            x, y = readings[a.name], readings[b.name]
            if isinstance(x, str) or isinstance(y, str):
                reason = x if isinstance(x, str) else str(y)
            elif not (np.array_equal(x.rows, y.rows) and np.array_equal(x.truth, y.truth)):
                reason = "other reference labels for the same test records"
            else:
                for run, reading in ((a, x), (b, y)):
                    if reading.score is None and run.name not in drawn:
                        drawn[run.name] = _drawn(reading, resamples, seed)
                comparison = _difference(a, b, x, y, drawn, resamples, level)
                pairs.append(Pair(a, b, a.headline, comparison, None))
        if reason is not None and a.study == b.study:
            refusals.append(Refusal(a, b, reason))
    adjusted = holm([p.comparison.p_value for p in pairs])
    return [Pair(p.first, p.second, p.metric, p.comparison, q) for p, q in zip(pairs, adjusted, strict=True)], refusals


def _drawn(reading: Reading, resamples: int, seed: int) -> np.ndarray:
    try:
        return bootstrap_values(reading.statistic, reading.group, resamples, seed)
    except StatisticsError:  # one group
        return np.full(resamples, np.nan)


def _difference(
    a: Run, b: Run, x: Reading, y: Reading, drawn: dict[str, np.ndarray], resamples: int, level: float
) -> Comparison:
    if x.score is not None and y.score is not None:
        return compare_aurocs(x.truth, x.score, y.score, x.group, level)
    value = a.result.value - b.result.value  # type: ignore[operator]  # each has a reading, so a value
    differences = drawn[a.name] - drawn[b.name]
    defined = differences[~np.isnan(differences)]
    n, groups = len(x.rows), len(set(x.group))
    if len(defined) < 0.9 * len(differences):
        return Comparison(Estimate(value, reason="undefined on more than a tenth of the resamples", n=n, groups=groups))
    low, high = percentile_interval(defined, level)
    method = f"paired clustered percentile bootstrap, {100 * level:g} %, {resamples} resamples"
    return Comparison(Estimate(value, low, high, method, n=n, groups=groups), bootstrap_p_value(defined))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down correction (Scand J Stat 6:65, 1979); undefined p-values stay undefined and do not count."""
    known = [i for i, p in enumerate(p_values) if p is not None]
    order = sorted(known, key=lambda i: p_values[i])  # type: ignore[arg-type, return-value]
    adjusted: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * float(p_values[i])))  # type: ignore[arg-type]
        adjusted[i] = highest
    return adjusted
