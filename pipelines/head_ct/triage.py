"""The trial of Titano et al.: the queue as the paper has it, then a reading room over time. From tables alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipelines.head_ct import plots as drawing
from pipelines.head_ct.config import HeadCtConfig, TriageSection
from pipelines.head_ct.triage_statistics import POLICIES, QueueOrder, Room, queue_order, reading_room
from pipelines.shared.errors import DataError, StatisticsError
from pipelines.shared.judging.report import Block, Cell, Picture, Section, Table, Text
from pipelines.shared.judging.tasks import BinaryTask
from pipelines.shared.stats.bootstrap import Bootstrap, bootstrap_estimate
from pipelines.shared.stats.estimate import Estimate
from pipelines.shared.stats.operating_points import threshold_of
from pipelines.shared.study import Evidence

MINUTE = 60.0


def room_of(section: TriageSection, scoring: float) -> Room:
    """The reading room of the configuration.

    Raises:
        DataError: a file of times that cannot be read.
    """
    return Room(
        readers=section.radiologists, load=section.load, reading=section.reading, scoring=scoring,
        prevalence=section.prevalence, cases=section.studies, arrivals=_times(section.arrivals, "triage.arrivals"),
        reading_times=_times(section.reading_times, "triage.reading_times"),
    )  # fmt: skip


def _times(file: str | None, key: str) -> list[float] | None:
    if file is None:
        return None
    how = "Give a text file with one time in seconds per line."
    try:
        words = Path(file).read_text(encoding="utf-8").split()
        values = [float(w) for w in words]
    except (OSError, ValueError) as failure:
        raise DataError(f"{key}={file} cannot be read: {failure}.", how) from None
    if not values or not all(np.isfinite(v) and v >= 0 for v in values):
        raise DataError(f"{key}={file} is empty, or holds times that are negative or no numbers.", how)
    return values


def triage_section(
    evidence: Evidence[HeadCtConfig],
    test: pd.DataFrame,
    task: BinaryTask,
    points: Sequence[dict[str, Any]],
    speed: pd.DataFrame | None,
) -> tuple[list[Section], dict[str, Estimate]]:
    """Both trials on the test part: sections and metrics `triage.queue.…`, `triage.<policy>.…` (times in seconds)."""
    if not task.has_both_classes(test):
        return [Section("Triage", [Text("The test part holds one class only: there is nothing to order.", "note")])], {}
    queue, positions = _queue(evidence, task, test)
    threshold = next((threshold_of(point, task.known(test)) for point in points if point["alarm"]), None)
    measured = float(speed["seconds"].median()) if speed is not None else 0.0
    room, times = _reading_room(evidence, task, test, threshold, measured)
    return [queue, room], positions | times


def _queue(
    evidence: Evidence[HeadCtConfig], task: BinaryTask, test: pd.DataFrame
) -> tuple[Section, dict[str, Estimate]]:
    """The queue of the paper: where critical studies stand at random and by score."""
    y, score, group = task.arrays(test)
    order = queue_order(y, score, evidence.config.seed)
    metrics = _queue_metrics(order, y, group, evidence.bootstrap)
    drawing.queue(evidence.folder.figures / "queue.png", order, y, evidence.note)
    rows: list[list[Cell]] = [
        [name, metrics[f"triage.queue.{key}_critical"], metrics[f"triage.queue.{key}_others"], _p(p)]
        for name, key, p in (("Random", "random", order.p_random), ("By score", "score", order.p_by_score))
    ]
    columns = ["Order", "Mean position, critical", "Mean position, others", "Rank-sum P (two-sided)"]
    caption = f"The queue of the paper (there: n = 180, P = 0.01); here n = {len(y)}."
    picture = Picture("figures/queue.png", "Where the test studies stand in both queues.", "Positions in two queues.")
    return Section("Triage: the queue", [picture, Table(columns, rows, caption)]), metrics


def _reading_room(
    evidence: Evidence[HeadCtConfig],
    task: BinaryTask,
    test: pd.DataFrame,
    threshold: float | np.ndarray | None,
    measured: float,
) -> tuple[Section, dict[str, Estimate]]:
    """A simulated reading room; `measured`: the seconds that scoring a study took in this run."""
    config, section = evidence.config, evidence.config.triage
    y, score, group = task.arrays(test)
    # Rounded up to a whole second: no two measurements agree, but the same command must give the same numbers.
    scoring = float(np.ceil(measured))
    room = room_of(section, scoring)
    try:
        result = reading_room(
            y,
            score,
            group,
            threshold,
            room,
            repetitions=section.repetitions,
            resamples=section.resamples,
            seed=config.seed,
            level=config.statistics.level,
        )
    except StatisticsError as reason:
        return Section("Triage: the reading room", [Text(str(reason), "note")]), {}
    drawing.waiting(evidence.folder.figures / "waiting.png", result, evidence.note)
    rows: list[list[Cell]] = []
    for policy in POLICIES:
        keys = [f"{policy}.{what}" for what in ("positive", "negative", "saved")]
        if keys[0] in result.estimates:
            times = [_minutes(result.estimates[key]) if key in result.estimates else None for key in keys]
            error = result.monte_carlo[keys[0]]
            last = None if error is None else f"{error / MINUTE:.2f}"
            rows.append([drawing.NAMES[policy].capitalize(), *times, last])
    arrivals = "at times from a file" if section.arrivals else f"as a Poisson process, {room.rate * 3600:.1f} an hour"
    prevalence = "that of the test part" if section.prevalence is None else f"{section.prevalence:g}"
    text = (
        f"{room.readers} radiologists are busy {room.load:.0%} of their time and take {room.mean_reading:.0f} s a "
        f"study. Studies arrive {arrivals}; the prevalence of critical ones is {prevalence}. Simulated were "
        f"{section.repetitions} days of {room.cases} studies each. A scored study enters the queue {scoring:.0f} s "
        f"later: the time measured in this run (median {measured:.2f} s), rounded up. With alarms first, "
        f"{result.alarms:.1%} of the studies raise one. Nobody is interrupted while reading."
    )
    columns = ["Policy", "Critical", "Others", "Saved for critical", "Monte Carlo error"]
    caption = (
        "Minutes from arrival to the end of reading, means. Intervals resample the studies' patients; the last column "
        "is the standard error of the critical studies' mean that more simulated days would shrink."
    )
    picture = Picture(
        "figures/waiting.png", "Critical studies read within a time, by policy.", "Waiting times by policy."
    )
    blocks: list[Block] = [Text(text), picture, Table(columns, rows, caption)]
    metrics = {f"triage.{key}": estimate for key, estimate in result.estimates.items()}
    return Section("Triage: the reading room", blocks), metrics


def _p(value: float | None) -> str | None:
    return None if value is None else ("< 0.0001" if value < 0.0001 else f"{value:.4f}")


def _minutes(estimate: Estimate) -> Estimate:
    value, low, high = (None if x is None else x / MINUTE for x in (estimate.value, estimate.low, estimate.high))
    return replace(estimate, value=value, low=low, high=high)


def _queue_metrics(order: QueueOrder, y: np.ndarray, group: np.ndarray, bootstrap: Bootstrap) -> dict[str, Estimate]:
    """Mean positions with intervals, and the rank-sum p-values."""
    metrics: dict[str, Estimate] = {}
    for name, position in (("random", order.random), ("score", order.by_score)):
        for kind, what in ((1, "critical"), (0, "others")):
            columns = np.column_stack([position * (y == kind), y == kind]).astype(float)

            def mean(counts: np.ndarray, columns: np.ndarray = columns) -> np.ndarray:
                sums = counts @ columns
                means: np.ndarray = np.full(len(sums), np.nan)
                np.divide(sums[:, 0], sums[:, 1], out=means, where=sums[:, 1] > 0)
                return means

            value = float(position[y == kind].mean())
            metrics[f"triage.queue.{name}_{what}"] = bootstrap_estimate(
                value, mean, group, n=len(y), undefined="with one class", bootstrap=bootstrap
            )
        p = order.p_random if name == "random" else order.p_by_score
        metrics[f"triage.queue.{name}_p"] = Estimate(p, n=len(y), method="Wilcoxon rank-sum, two-sided")
    return metrics
