"""The trial of Titano et al.: the queue as the paper has it, then a reading room over time. From tables alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipelines.head_ct import drawing
from pipelines.head_ct.config import TriageSection
from pipelines.head_ct.metrics import SCORE, known
from pipelines.shared.errors import DataError, StatisticsError
from pipelines.shared.evaluator import synthetic_note
from pipelines.shared.report import Picture, Section, Table, Text
from pipelines.shared.stats.bootstrap import bootstrap_estimate
from pipelines.shared.stats.estimate import Estimate
from pipelines.shared.stats.triage import POLICIES, QueueOrder, Room, queue_order, reading_room
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
    evidence: Evidence, test: pd.DataFrame, task: str, points: list[dict[str, Any]], speed: pd.DataFrame | None
) -> tuple[list[Section], dict[str, Estimate]]:
    """Both trials on the test part: sections and metrics `triage.queue.…`, `triage.<policy>.…` (times in seconds)."""
    rows = known(test, task)
    y, score, group = rows[task].to_numpy(), rows[SCORE].to_numpy(), rows["group"].to_numpy()
    config, note = evidence.config, synthetic_note(evidence)
    if rows[task].nunique() < 2:
        return [Section("Triage", [Text("The test part holds one class only: there is nothing to order.", "note")])], {}
    order = queue_order(y, score, config.seed)
    metrics = _queue_metrics(order, y, group, config)
    drawing.queue(evidence.folder.figures / "queue.png", order, y, note)
    table: list[list[Any]] = [
        [name, metrics[f"triage.queue.{key}_critical"], metrics[f"triage.queue.{key}_others"], _p(p)]
        for name, key, p in (("Random", "random", order.p_random), ("By score", "score", order.p_by_score))
    ]
    queue = Section(
        "Triage: the queue",
        [
            Picture("figures/queue.png", "Where the test studies stand in both queues.", "Positions in two queues."),
            Table(["Order", "Mean position, critical", "Mean position, others", "Rank-sum P (two-sided)"], table,
                  f"The queue of the paper (there: n = 180, P = 0.01); here n = {len(rows)}."),
        ],
    )  # fmt: skip
    # Rounded up to a whole second: no two measurements agree, but the same command must give the same numbers.
    measured = float(speed["seconds"].median()) if speed is not None and len(speed) else 0.0
    scoring = float(np.ceil(measured))
    threshold = next((p["threshold"] for p in points if p["alarm"]), None)
    section = config.triage
    room = room_of(section, scoring)
    try:
        result = reading_room(
            y, score, group, threshold, room, repetitions=section.repetitions, resamples=section.resamples,
            seed=config.seed, level=config.statistics.level,
        )  # fmt: skip
    except StatisticsError as reason:
        return [queue, Section("Triage: the reading room", [Text(str(reason), "note")])], metrics
    drawing.waiting(evidence.folder.figures / "waiting.png", result, note)
    metrics |= {f"triage.{key}": estimate for key, estimate in result.estimates.items()}
    lines: list[list[Any]] = []
    for policy in POLICIES:
        if f"{policy}.positive" not in result.estimates:
            continue
        keys = [f"{policy}.positive", f"{policy}.negative", f"{policy}.saved"]
        found = [_minutes(result.estimates[k]) if k in result.estimates else None for k in keys]
        error = result.monte_carlo[keys[0]]
        lines.append([drawing.NAMES[policy].capitalize(), *found, None if error is None else f"{error / MINUTE:.2f}"])
    arrivals = "times from a file" if section.arrivals else f"Poisson, {room.rate * 3600:.1f} an hour"
    prevalence = "that of the test part" if section.prevalence is None else f"{section.prevalence:g}"
    text = (
        f"{room.readers} radiologists, busy {room.load:.0%} of their time, {room.mean_reading:.0f} s a study; arrive: "
        f"{arrivals}; prevalence of critical studies: {prevalence}; {room.cases} studies a day, {section.repetitions} "
        f"days. A scored study enters the queue {scoring:.0f} s later: the time measured in this run (median "
        f"{measured:.2f} s), rounded up. With alarms first, {result.alarms:.1%} of the studies raise one. "
        "Nobody is interrupted while reading."
    )
    columns = ["Policy", "Critical", "Others", "Saved for critical", "Monte-Carlo error"]
    caption = (
        "Minutes from arrival to the end of reading, means. Intervals resample the studies' patients; the last column "
        "is the standard error of the critical studies' mean that more simulated days would shrink."
    )
    simulated = Section(
        "Triage: the reading room",
        [
            Text(text),
            Picture(
                "figures/waiting.png", "Critical studies read within a time, by policy.", "Waiting times by policy."
            ),
            Table(columns, lines, caption),
        ],
    )
    return [queue, simulated], metrics


def _p(value: float | None) -> str | None:
    return None if value is None else ("< 0.0001" if value < 0.0001 else f"{value:.4f}")


def _minutes(estimate: Estimate) -> Estimate:
    fields = estimate.to_dict()
    return Estimate(
        **(fields | {k: None if fields[k] is None else fields[k] / MINUTE for k in ("value", "low", "high")})
    )


def _queue_metrics(order: QueueOrder, y: np.ndarray, group: np.ndarray, config: Any) -> dict[str, Estimate]:
    """Mean positions with intervals, and the rank-sum p-values."""
    settings = {"resamples": config.statistics.resamples, "seed": config.seed, "level": config.statistics.level}
    found: dict[str, Estimate] = {}
    for name, position in (("random", order.random), ("score", order.by_score)):
        for kind, what in ((1, "critical"), (0, "others")):
            columns = np.column_stack([position * (y == kind), y == kind]).astype(float)

            def mean(counts: np.ndarray, columns: np.ndarray = columns) -> np.ndarray:
                sums = counts @ columns
                return np.divide(sums[:, 0], sums[:, 1], out=np.full(len(sums), np.nan), where=sums[:, 1] > 0)

            value = float(position[y == kind].mean())
            found[f"triage.queue.{name}_{what}"] = bootstrap_estimate(
                value, mean, group, n=len(y), undefined="with one class", **settings
            )
        p = order.p_random if name == "random" else order.p_by_score
        found[f"triage.queue.{name}_p"] = Estimate(p, n=len(y), method="Wilcoxon rank-sum, two-sided")
    return found
