"""A model against readers who have answered yes or no: a section of the report, and its metrics. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from pipelines.shared.errors import StatisticsError
from pipelines.shared.judging.report import Block, Cell, Section, Table, Text, left_then_right, words
from pipelines.shared.judging.sections import OperatingPoint, points_of
from pipelines.shared.judging.tasks import BinaryTask
from pipelines.shared.stats.estimate import Estimate
from pipelines.shared.stats.mrmc import BesideReaders, model_beside_readers
from pipelines.shared.stats.operating_points import is_positive, threshold_of
from pipelines.shared.study import Evidence


@dataclass(frozen=True)
class AgainstReaders:
    """A model at its operating points beside readers of the same test cases.

    Attributes:
        task: the question.
        names: of the readers.
        by_point: name of an operating point -> the comparison there.
    """

    task: BinaryTask
    names: Sequence[str]
    by_point: Mapping[str, BesideReaders]

    @property
    def metrics(self) -> dict[str, Estimate]:
        """`test.<task>.balanced_accuracy_minus_readers@<point>`."""
        key = f"test.{self.task.name}.balanced_accuracy_minus_readers"
        return {f"{key}@{name}": beside.difference.estimate for name, beside in self.by_point.items()}


def against_readers(
    evidence: Evidence[Any],
    table: pd.DataFrame,
    task: BinaryTask,
    points: Sequence[OperatingPoint],
    decision: str,
    readings: pd.DataFrame | None = None,
) -> AgainstReaders | None:
    """The model's calls at its frozen points against the readers' decisions; None without readers or points.

    Args:
        evidence: of the run.
        table: test predictions.
        task: its reference is the truth.
        points: operating points; those of the task count.
        decision: column of the readings, 0 or 1, NaN where the reader did not decide.
        readings: id, reader, decision; by default those of the run.
    """
    readings = evidence.readers if readings is None else readings
    points = points_of(points, task)
    if readings is None or decision not in readings or not points or not task.has_score(table):
        return None
    rows = task.known(table).set_index("id")
    readings = readings[readings["id"].isin(rows.index) & readings[decision].notna()]
    if readings.empty:
        return None
    twice = readings[readings.duplicated(["id", "reader"])]
    if len(twice):
        raise StatisticsError(f"{twice['reader'].iloc[0]} read {twice['id'].iloc[0]} more than once")
    answers = readings.pivot(index="reader", columns="id", values=decision).astype(float)
    cases = rows.loc[answers.columns]
    by_point = {
        str(point["name"]): model_beside_readers(
            cases[task.target].to_numpy(),
            is_positive(cases[point["score"]], threshold_of(point, cases)),
            answers.to_numpy(),
            cases["group"].to_numpy(),
            evidence.config.statistics.level,
        )
        for point in points
    }
    return AgainstReaders(task, [str(name) for name in answers.index], by_point)


def against_readers_section(compared: AgainstReaders | None, who: str = "readers", note: str = "") -> list[Section]:
    """The section; none without a comparison.

    Args:
        compared: of `against_readers`.
        who: what a reader is, in the plural.
        note: what to know about the readers.
    """
    if compared is None:
        return []
    text = (
        f"{compared.task.title}: the model's calls at its frozen thresholds against the decisions of the {who}, on the "
        "test cases that each of them read. Balanced accuracy is the mean of sensitivity and specificity. It treats "
        "both sides alike, as each gives a yes or a no; the area under the model's whole curve would flatter the "
        f"model. Both {who} and cases are taken as samples (multi-reader multi-case: Obuchowski and Rockette, with "
        "Hillis' degrees of freedom; the covariances from leaving out groups of cases in turn), so the result is about "
        f"other {who} and other cases of this kind too."
    )
    first = next(iter(compared.by_point.values()))
    kept = [name for i, name in enumerate(compared.names) if i not in first.left_out]
    labels = [words(name) for name in compared.by_point]
    rows: list[list[Cell]] = [
        [name, int(first.cases[i]), float(first.readers[i]), *(float(b.model[i]) for b in compared.by_point.values())]
        for i, name in enumerate(kept)
    ]
    if kept:
        means = [float(np.mean(values)) for values in (first.readers, *(b.model for b in compared.by_point.values()))]
        rows.append([f"Mean of {len(kept)}", None, *means])
    blocks: list[Block] = [Text(text)]
    if rows:
        columns = ["Reader", "Cases read", "Balanced accuracy", *(f"Model, {label}" for label in labels)]
        blocks.append(Table(columns, rows, f"Each of the {who}, and the model on the same cases."))
    tests: list[list[Cell]] = []
    for name, beside in compared.by_point.items():
        found = beside.difference
        df = "–" if found.df is None else "∞" if np.isinf(found.df) else f"{found.df:.1f}"
        tests.append([f"Model, {words(name)}", found.estimate, df, p_text(found.p_value)])
    caption = f"Balanced accuracy of the model minus the {who}' mean."
    columns = ["Operating point", "Difference", "Degrees of freedom", "p"]
    blocks.append(Table(columns, tests, caption, left_then_right(columns)))
    blocks += [Text(_sentence(words(name), beside, len(kept), who)) for name, beside in compared.by_point.items()]
    out = [compared.names[i] for i in first.left_out]
    if out:
        notes = f"Left out, as they read positives or negatives of fewer than two groups: {', '.join(out)}."
        blocks.append(Text(notes, "note"))
    return [Section("Model against readers", [*blocks, *([Text(note, "note")] if note else [])])]


def p_text(p_value: float | None) -> str:
    """A p-value for a table; a dash where there is none."""
    if p_value is None:
        return "–"
    return "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"


def _sentence(point: str, beside: BesideReaders, readers: int, who: str) -> str:
    estimate, p_value = beside.difference.estimate, beside.difference.p_value
    if estimate.value is None or estimate.low is None or estimate.high is None or p_value is None:
        return f"At {point} the model cannot be compared with the {who}: {estimate.reason}."
    p = p_text(p_value)
    range_ = f"({estimate.low:z.3f} to {estimate.high:z.3f}, p {p if p.startswith('<') else f'= {p}'})"
    if estimate.low <= 0 <= estimate.high:
        return (
            f"At {point} no difference from the {readers} {who} is shown: {estimate.value:+.3f} {range_}. That is no "
            "proof that they are alike: the interval says what differences remain possible."
        )
    side = "higher" if estimate.value > 0 else "lower"
    size = f"{abs(estimate.value):.3f} {side}"
    return f"At {point} the model's balanced accuracy is {size} than that of the {readers} {who} on average {range_}."
