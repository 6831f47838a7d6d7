"""Learning curves: a metric against the amount of training data, its power law, and what more data would add.

The law is metric(n) = c - a n^(-b) with a >= 0, c at most the best possible value and b from a grid: error falls with
the amount of data as a power towards a floor (Cortes et al., NIPS 1993; Figueroa et al., BMC Med Inform Decis Mak 12:8,
2012). Points of one seed share a test set, and a seed moves all of training: the law is refitted on every resample of
seeds and of test groups, the same groups for all sizes of a seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.compare.readings import Reading, read_metric
from pipelines.compare.runs import Run
from pipelines.shared.errors import StatisticsError
from pipelines.shared.run_folder import read_table
from pipelines.shared.stats.bootstrap import bootstrap_values
from pipelines.shared.stats.estimate import Estimate

SIZES = {"data.train_size": "groups in training", "data.grades_per_image": "grades per training image"}
FEWEST = 4
EXPONENTS = np.geomspace(0.05, 3, 120)
FACTOR = 2  # nothing is said about more than twice the data


@dataclass(frozen=True)
class Law:
    """Fits of metric(n) = c - a n^(-b), one per row: a, b, c are (r,)."""

    a: np.ndarray
    b: np.ndarray
    c: np.ndarray

    def at(self, n: float) -> np.ndarray:
        """The metric at size n, (r,)."""
        return self.c - self.a * n ** (-self.b)


def fit_law(sizes: np.ndarray, values: np.ndarray, best: float = 1.0) -> Law:
    """Least squares over a grid of exponents.

    For each exponent the law is linear in c and a; where the solution leaves what is possible (a < 0, c > best) the
    nearest edge is taken: no growth, or the best possible value as the limit.

    Args:
        sizes: (k,) at least three different ones.
        values: (r, k) curves.
        best: the metric's best possible value.
    """
    fits = []
    for b in EXPONENTS:
        x = sizes ** (-b)
        centred = x - x.mean()
        a = -(values @ centred) / (centred @ centred)
        c = values.mean(axis=1) + a * x.mean()
        flat = a < 0
        a, c = np.where(flat, 0, a), np.where(flat, values.mean(axis=1), c)
        over = c > best
        at_limit = np.maximum(((best - values) @ x) / (x @ x), 0)
        a, c = np.where(over, at_limit, a), np.where(over, best, c)
        error = ((values - (c[:, None] - a[:, None] * x)) ** 2).sum(axis=1)
        fits.append((error, a, c))
    errors = np.stack([f[0] for f in fits])
    chosen = errors.argmin(axis=0)
    rows = np.arange(values.shape[0])
    return Law(
        np.stack([f[1] for f in fits])[chosen, rows], EXPONENTS[chosen], np.stack([f[2] for f in fits])[chosen, rows]
    )


@dataclass(frozen=True)
class Curve:
    """One learning curve.

    Attributes:
        study: whose.
        key: the configuration key that changes.
        metric: the headline metric.
        sizes: (k,) amounts of data, ascending.
        points: their metrics, means over seeds, with intervals over seeds and test groups.
        single: (k, seeds) the metric of every run.
        law: fitted to the points.
        drawn: the laws of the resamples.
        seeds: of the runs.
        gain: what FACTOR times the data is expected to add; None where the points allow no law.
        synthetic: made from a phantom.
        others: the configuration shared by the runs that tells this curve from others (key -> value).
    """

    study: str
    key: str
    metric: str
    sizes: np.ndarray
    points: list[Estimate]
    single: np.ndarray
    law: Law
    drawn: Law
    seeds: list[int]
    gain: Estimate
    synthetic: bool
    others: dict[str, Any]

    @property
    def unit(self) -> str:
        """What the sizes count."""
        return SIZES[self.key]

    def sentence(self) -> str:
        """What people want to know, with what may spoil it."""
        last, gain = self.sizes[-1], self.gain
        what = {"data.train_size": f"{FACTOR * last:,.0f} training groups (patients)"}.get(
            self.key, f"{FACTOR * last:g} {self.unit}"
        )
        level = (gain.method or "").rpartition(", ")[2]
        text = (
            f"Doubling to {what} is expected to add {gain.value:.3f} ({level} interval {gain.low:.3f} to "
            f"{gain.high:.3f}) to {self.metric}, from {self.law.at(float(last))[0]:.3f}."
        )
        if len(self.seeds) == 1:
            text += " There is one seed only: the interval leaves out the chance in training."
        return text


def learning_curves(runs: Sequence[Run], resamples: int, seed: int, level: float) -> tuple[list[Curve], list[str]]:
    """All curves among the runs: those of one study that differ in a size and in seeds, and in nothing else.

    Returns:
        The curves, and why some sets of runs that look like one are none.
    """
    curves: list[Curve] = []
    refused: list[str] = []
    for key in SIZES:
        families: dict[str, list[Run]] = {}
        for run in runs:
            if key in run.keys:
                rest = {k: v for k, v in run.keys.items() if k not in (key, "seed")}
                families.setdefault(repr((run.study, run.headline, sorted(rest.items(), key=str))), []).append(run)
        for family in families.values():
            if len({repr(r.keys[key]) for r in family}) < 2:
                continue
            curve = _curve(family, key, resamples, seed, level)
            if isinstance(curve, Curve):
                curves.append(curve)
            else:
                refused.append(f"No learning curve over {key} from {len(family)} runs of {family[0].study}: {curve}.")
    return curves, refused


def _size(run: Run, key: str) -> float:
    if key == "data.train_size":  # null is all there are, and a size beyond that is no more
        return float(run.training_groups)
    if run.keys[key] is not None:
        return float(run.keys[key])
    readings = read_table(run.folder.readers, ["id"])
    train = run.records.loc[run.records["split"] == "train", "id"]
    train = train if len(train) else run.records["id"]  # of a cross-validation
    return float(readings["id"].isin(train).sum() / len(train))


def _curve(family: Sequence[Run], key: str, resamples: int, seed: int, level: float) -> Curve | str:
    by_place: dict[tuple[float, int], Run] = {}
    for run in family:
        place = (_size(run, key), int(run.keys["seed"]))
        if place in by_place:
            return f"{by_place[place].name} and {run.name} have the same size and seed"
        by_place[place] = run
    sizes, seeds = sorted({s for s, _ in by_place}), sorted({s for _, s in by_place})
    if len(sizes) < FEWEST:
        return f"it has {len(sizes)} sizes, at least {FEWEST} are needed"
    lacking = [f"size {s:g} with seed {k}" for s in sizes for k in seeds if (s, k) not in by_place]
    if lacking:
        return f"a run is missing for {', '.join(lacking[:5])}"
    readings = {}
    for place, run in by_place.items():
        reading = read_metric(run, run.headline)
        if isinstance(reading, str):
            return reading
        readings[place] = reading
    for k in seeds:
        first = by_place[sizes[0], k]
        for s in sizes[1:]:
            if set(by_place[s, k].test["id"]) != set(first.test["id"]):
                return f"the runs of seed {k} do not share their test records"
    single = np.array([[by_place[s, k].result.value for k in seeds] for s in sizes], float)
    try:
        drawn = np.stack([np.stack([_values(readings[s, k], resamples, seed) for s in sizes], axis=1) for k in seeds])
    except StatisticsError as failure:
        return str(failure)
    return curve_from(family[0], key, np.array(sizes), single, drawn, seeds, seed, level)


def _values(reading: Reading, resamples: int, seed: int) -> np.ndarray:
    """The metric on resamples; equal test sets get equal resamples, as a comparison over sizes needs."""
    return bootstrap_values(reading.statistic, reading.group, resamples, seed)


def curve_from(
    run: Run, key: str, sizes: np.ndarray, single: np.ndarray, drawn: np.ndarray, seeds: list[int], seed: int,
    level: float,
) -> Curve:  # fmt: skip
    """A curve from what was measured: single (k, seeds), and resampled values (seeds, resamples, k)."""
    means = resampled_means(single, drawn, seed)
    law, laws = fit_law(sizes, single.mean(axis=1)[None]), fit_law(sizes, means[~np.isnan(means).any(axis=1)])
    gain = gain_estimate(law, laws, float(sizes[-1]), level)
    lows, highs = np.nanquantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0).tolist()
    method = f"mean of {len(seeds)} seeds; seeds and groups resampled"
    points = [
        Estimate(float(mean), low, high, method)
        for mean, low, high in zip(single.mean(axis=1), lows, highs, strict=True)
    ]
    others = {k: v for k, v in run.keys.items() if k not in (key, "seed")}
    return Curve(run.study, key, run.headline, sizes, points, single, law, laws, seeds, gain, run.synthetic, others)


def resampled_means(single: np.ndarray, drawn: np.ndarray, seed: int) -> np.ndarray:
    """Means over seeds (resamples, k), both seeds and test groups resampled.

    Args:
        single: (k, seeds) on the data themselves.
        drawn: (seeds, resamples, k) on resamples of each seed's test groups.
        seed: of the choice of seeds.

    With few seeds their resampled mean varies too little, by a factor of (seeds - 1) / seeds: their part is stretched.
    """
    seeds, resamples, _ = drawn.shape
    chosen = np.random.default_rng(seed).integers(seeds, size=(resamples, seeds))
    between = single.T[chosen].mean(axis=1) - single.mean(axis=1)  # (resamples, k)
    if seeds > 1:
        between *= np.sqrt(seeds / (seeds - 1))
    within = np.mean(drawn - single.T[:, None], axis=0)  # of the test groups, every seed once
    variance: np.ndarray = single.mean(axis=1) + between + within
    return variance


def gain_estimate(law: Law, laws: Law, last: float, level: float) -> Estimate:
    """What FACTOR times the last size adds by the law, with a percentile interval over the resamples' laws."""
    gains = laws.at(FACTOR * last) - laws.at(last)
    low, high = np.quantile(gains, [(1 - level) / 2, (1 + level) / 2])
    value = float((law.at(FACTOR * last) - law.at(last))[0])
    return Estimate(
        value, float(low), float(high), f"power law on every resample of seeds and groups, {100 * level:g} %"
    )
