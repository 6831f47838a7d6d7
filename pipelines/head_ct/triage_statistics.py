"""What ordering a worklist by a model's score would change: positions in a queue, and waiting in a reading room.

Two questions, each a pure function of scores and truths:

- `queue_order` (the trial of Titano et al., Nat Med 2018;24:1337): a fixed list of cases in random order against the
  same list ordered by score; are the positive ones further ahead (Wilcoxon rank-sum)?
- `reading_room`: cases arrive over time and some readers read them, first come first served, or the highest score
  first, or alarms first (a case whose score reaches a threshold goes before those without). How long until a positive
  case is read?

The second is a simulation. Repeating it shrinks its Monte-Carlo error, which is reported as `monte_carlo`; how sure the
result may be given so many cases is another matter: the intervals resample the cases' groups in an outer loop.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import mannwhitneyu

from pipelines.shared.errors import StatisticsError
from pipelines.shared.stats.bootstrap import cluster_counts, group_codes, percentile_interval
from pipelines.shared.stats.checks import as_binary, as_numbers, same_length
from pipelines.shared.stats.estimate import Estimate

POLICIES = ("first_come", "triage", "alarm")


# --- a fixed list ---


@dataclass(frozen=True)
class QueueOrder:
    """Positions (from 1) of the cases in both orders, and the two-sided rank-sum p-value of each."""

    random: np.ndarray
    by_score: np.ndarray
    p_random: float | None
    p_by_score: float | None


def queue_order(y: ArrayLike, score: ArrayLike, seed: int = 0) -> QueueOrder:
    """Positions of positive and negative cases in random order, and ordered by falling score (ties at random).

    Args:
        y: (n,) 0/1.
        score: (n,).
        seed: of the random order.

    Raises:
        StatisticsError: lengths differ, values that are no numbers.
    """
    truth, values = as_binary(y), as_numbers(score, "score")
    same_length(y=truth, score=values)
    shuffled = np.random.default_rng(seed).permutation(len(truth))
    random, by_score = np.empty(len(truth), int), np.empty(len(truth), int)
    random[shuffled] = np.arange(1, len(truth) + 1)
    by_score[np.lexsort((random, -values))] = np.arange(1, len(truth) + 1)
    return QueueOrder(random, by_score, rank_sum(random, truth), rank_sum(by_score, truth))


def rank_sum(position: np.ndarray, truth: np.ndarray) -> float | None:
    """Two-sided p-value that positions (n,) of positive and negative cases differ; None if there is one class only."""
    if truth.all() or not truth.any():
        return None
    return float(mannwhitneyu(position[truth], position[~truth], alternative="two-sided").pvalue)


# --- a queue over time ---


def serve(arrival: ArrayLike, service: ArrayLike, priority: ArrayLike, servers: int) -> np.ndarray:
    """When each job's service begins: `servers` servers, never interrupted, the smallest priority first.

    Among equal priorities the one that came first is served first. Times are of any one unit.

    Args:
        arrival: (n,) times, in any order.
        service: (n,) durations.
        priority: (n,), smaller is served earlier.
        servers: how many.

    Returns:
        (n,) times.
    """
    comes, takes = np.asarray(arrival, float), np.asarray(service, float)
    rank = np.asarray(priority, float)
    order = np.argsort(comes, kind="stable")
    begin = np.empty(len(comes))
    free = [-np.inf] * servers  # when each server is free again
    waiting: list[tuple[float, float, int]] = []
    following = 0
    for _ in range(len(order)):
        now = heapq.heappop(free)
        if not waiting and following < len(order):
            now = max(now, comes[order[following]])
        while following < len(order) and comes[order[following]] <= now:
            job = int(order[following])
            heapq.heappush(waiting, (rank[job], comes[job], job))
            following += 1
        _, _, job = heapq.heappop(waiting)
        begin[job] = max(now, comes[job])
        heapq.heappush(free, begin[job] + takes[job])
    return begin


@dataclass(frozen=True)
class Room:
    """A reading room. Times in seconds.

    Attributes:
        readers: how many read at the same time.
        load: share of their time that they read, below 1; the rate of arrivals follows from it.
        reading: mean reading time, exponentially distributed; or `reading_times` to draw from.
        scoring: the model's time per case, by which a scored case enters the queue later.
        prevalence: of positive cases among arrivals; None: as in the data.
        cases: arrivals per repetition.
        arrivals: times of arrival to use in place of Poisson's.
        reading_times: measured reading times to draw from.
    """

    readers: int = 2
    load: float = 0.9
    reading: float = 177.0
    scoring: float = 0.0
    prevalence: float | None = None
    cases: int = 400
    arrivals: Sequence[float] | None = None
    reading_times: Sequence[float] | None = None

    @property
    def mean_reading(self) -> float:
        """Mean reading time, s."""
        return float(np.mean(self.reading_times)) if self.reading_times is not None else self.reading

    @property
    def rate(self) -> float:
        """Arrivals per second that keep the readers as busy as `load` says."""
        return self.load * self.readers / self.mean_reading


@dataclass(frozen=True)
class RoomResult:
    """What the simulation found, times in seconds from arrival to the end of reading.

    Attributes:
        estimates: `<policy>.<positive|negative>` -> mean time; `<policy>.saved` -> mean time that positive cases gain
            against first come first served.
        monte_carlo: the same keys -> standard error of the mean by the simulation's own repetitions.
        times: policy -> times of positive cases of all repetitions.
        alarms: share of arrivals with an alarm.
    """

    estimates: dict[str, Estimate]
    monte_carlo: dict[str, float | None]
    times: dict[str, np.ndarray]
    alarms: float


def reading_room(
    y: ArrayLike,
    score: ArrayLike,
    group: ArrayLike,
    threshold: float | np.ndarray | None,
    room: Room,
    *,
    repetitions: int = 40,
    resamples: int = 200,
    seed: int = 0,
    level: float = 0.95,
) -> RoomResult:
    """Time to notification under three policies: first come first served, triage by score, alarms first.

    Arrivals and reading times are the same for all three (common random numbers). A pure function of its arguments.

    Args:
        y: (n,) 0/1.
        score: (n,).
        group: (n,) keys: what is resampled in the outer loop.
        threshold: of the alarm, one or (n,); None: no alarm policy.
        room: the reading room.
        repetitions: of the simulation on the data themselves.
        resamples: of the cases; each is simulated a few times.
        seed: of everything.
        level: confidence level.

    Raises:
        StatisticsError: one class only, lengths differ.
    """
    truth, values = as_binary(y), as_numbers(score, "score")
    codes = group_codes(group)[0]
    same_length(y=truth, score=values, group=codes)
    if truth.all() or not truth.any():
        raise StatisticsError("one class only: there is nothing to order")
    if not 0 < room.load < 1:
        raise ValueError(f"load lies between 0 and 1, found {room.load}")
    policies = [p for p in POLICIES if p != "alarm" or threshold is not None]
    ones = np.ones(len(truth))
    runs = [_repetition(truth, values, ones, threshold, room, policies, [seed, r]) for r in range(repetitions)]
    means = {key: np.array([run.means[key] for run in runs]) for key in runs[0].means}
    value = {key: _mean(column) for key, column in means.items()}
    monte_carlo = {
        key: float(np.nanstd(column, ddof=1) / np.sqrt(np.sum(~np.isnan(column)))) if len(column) > 1 else None
        for key, column in means.items()
    }
    inner = max(1, repetitions // 8)
    drawn: dict[str, list[float]] = {key: [] for key in means}
    try:
        counts = cluster_counts(codes, resamples, seed)
    except StatisticsError as reason:
        estimates = {k: Estimate(v, n=len(truth), reason=str(reason)) for k, v in value.items()}
        return RoomResult(estimates, monte_carlo, _times(runs, policies), float(np.mean([r.alarms for r in runs])))
    for weights in counts.astype(float):
        if not (weights[truth].any() and weights[~truth].any()):
            continue
        again = [_repetition(truth, values, weights, threshold, room, policies, [seed, r]) for r in range(inner)]
        for key in means:
            # The same arrivals and reading times as in the first repetitions: the difference is that of the cases.
            change = _mean(np.array([run.means[key] for run in again])) - _mean(means[key][:inner])
            if not np.isnan(change):  # in so few arrivals a class may be absent
                drawn[key].append(value[key] + change)
    estimates = {}
    for key, centre in value.items():
        if not drawn[key]:
            known = None if np.isnan(centre) else centre
            estimates[key] = Estimate(known, n=len(truth), reason="too few arrivals: a class was absent every time")
            continue
        low, high = percentile_interval(np.array(drawn[key]), level)
        method = (
            f"cases resampled by group, {100 * level:g} %, {len(drawn[key])} resamples, simulated {inner} times each"
        )
        estimates[key] = Estimate(
            centre, low, high, method, n=len(truth), groups=len(np.unique(codes)), positives=int(truth.sum())
        )
    return RoomResult(estimates, monte_carlo, _times(runs, policies), float(np.mean([r.alarms for r in runs])))


@dataclass(frozen=True)
class _Run:
    means: dict[str, float]
    times: dict[str, np.ndarray]
    alarms: float


def _mean(values: np.ndarray) -> float:
    """Mean of what is known; NaN where nothing is."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def _repetition(
    truth: np.ndarray,
    score: np.ndarray,
    weights: np.ndarray,
    threshold: float | np.ndarray | None,
    room: Room,
    policies: Sequence[str],
    seed: list[int],
) -> _Run:
    """One day in the reading room; `weights` (n,) say how often each case is among those that may arrive."""
    rng = np.random.default_rng(seed)
    if room.arrivals is not None:
        arrival = np.sort(np.asarray(room.arrivals, float))
    else:
        arrival = np.cumsum(rng.exponential(1 / room.rate, room.cases))
    n = len(arrival)
    if room.reading_times is not None:
        service = rng.choice(np.asarray(room.reading_times, float), n)
    else:
        service = rng.exponential(room.reading, n)
    prevalence = room.prevalence if room.prevalence is not None else weights[truth].sum() / weights.sum()
    positive = rng.random(n) < prevalence
    case = np.empty(n, int)
    for kind in (True, False):
        pool = np.flatnonzero(truth == kind)
        share = weights[pool] / weights[pool].sum()
        case[positive == kind] = rng.choice(pool, int((positive == kind).sum()), p=share)
    means: dict[str, float] = {}
    times: dict[str, np.ndarray] = {}
    called = np.zeros(len(score), bool) if threshold is None else score >= threshold
    alarm = called[case]
    orders = {"first_come": np.zeros(n), "triage": -score[case], "alarm": -alarm.astype(float)}
    for policy in policies:
        delay = 0.0 if policy == "first_come" else room.scoring
        wait = serve(arrival + delay, service, orders[policy], room.readers) + service - arrival
        times[policy] = wait[positive]
        means[f"{policy}.positive"] = float(wait[positive].mean()) if positive.any() else float("nan")
        means[f"{policy}.negative"] = float(wait[~positive].mean()) if (~positive).any() else float("nan")
    for policy in policies[1:]:
        means[f"{policy}.saved"] = means["first_come.positive"] - means[f"{policy}.positive"]
    return _Run(means, times, float(alarm.mean()))


def _times(runs: Sequence[_Run], policies: Sequence[str]) -> dict[str, np.ndarray]:
    return {p: np.concatenate([run.times[p] for run in runs]) for p in policies}
