"""How a run is judged: every metric, the headline, departures from the paper, warnings. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from pipelines.head_ct import published
from pipelines.head_ct.config import HeadCtConfig
from pipelines.head_ct.metrics import (
    CRITICAL,
    SILVER_4,
    gap_metrics,
    headline_task,
    labeller_metrics,
    point_metrics,
    split_metrics,
    untaught_tasks,
)
from pipelines.head_ct.sections import report_sections
from pipelines.head_ct.triage import triage_section
from pipelines.shared.judging.readers import against_readers
from pipelines.shared.judging.subgroups import subgroup_estimates, subgroup_metrics
from pipelines.shared.run_folder import read_table
from pipelines.shared.stats.estimate import Estimate
from pipelines.shared.study import Evidence, Results

MOST_MAKERS = 12  # a column with more values gives no subgroups


def evaluate(evidence: Evidence[HeadCtConfig]) -> Results:
    """All results of a run."""
    test, bootstrap, path = evidence.predictions["test"], evidence.bootstrap, evidence.folder.path
    task = headline_task(test)
    headline = f"test.{task.name}.auroc"
    untaught = untaught_tasks(evidence.untaught)
    metrics: dict[str, Estimate] = {}
    for split, rows in evidence.predictions.items():
        metrics |= split_metrics(rows, split, bootstrap, untaught)
    if CRITICAL.has_both_classes(test) and len(SILVER_4.known(test)):
        metrics |= gap_metrics(test, bootstrap, untaught)
    points, rates = point_metrics(test, evidence.operating_points, task, bootstrap)
    metrics |= rates
    statements, speed = _rows(path / "labels" / "statements.parquet"), _rows(path / "speed.csv")
    if statements is not None:
        metrics |= labeller_metrics(statements, bootstrap)
    triage, waiting = triage_section(evidence, test, task, points, speed)
    subgroups = subgroup_estimates(
        evidence, task.known(test), partial(task.auroc, bootstrap=bootstrap), most=MOST_MAKERS
    )
    metrics |= waiting | subgroup_metrics(headline, subgroups)
    compared = against_readers(evidence, test, CRITICAL, points, CRITICAL.target)
    metrics |= compared.metrics if compared is not None else {}
    return Results(
        metrics=metrics,
        headline=headline,
        sentence=f"AUROC, {task.inline}",
        chance=0.5,
        oracle=task.oracle(test, evidence.records, "truth_severity", bootstrap),
        operating_points=points,
        paper=published.NUMBERS,
        departures=_departures(evidence),
        sections=report_sections(evidence, task, metrics, points, subgroups, triage, speed, statements, compared),
        warnings=_warnings(evidence, task.name, points),
    )


def _rows(file: Path) -> pd.DataFrame | None:
    """A table that the run may have left; None without rows."""
    if not file.is_file() or file.stat().st_size == 1:  # nothing but a line's end: pandas writes no rows like that
        return None
    table = read_table(file)
    return table if len(table) else None


def _warnings(evidence: Evidence[HeadCtConfig], task: str, points: Sequence[dict[str, Any]]) -> list[str]:
    warnings = []
    if task != CRITICAL.name:
        warnings.append("There are no gold labels of both kinds: the headline is judged by what the reports say.")
    if not points:
        warnings.append("No operating points and no alarm: training or val lacked a class.")
    unreadable = evidence.records.get("unreadable_slices")
    if unreadable is not None and (unreadable > 0).any():
        warnings.append(f"{int((unreadable > 0).sum())} studies were used without some slices that cannot be read.")
    return warnings


def _departures(evidence: Evidence[HeadCtConfig]) -> list[tuple[str, str, str]]:
    """What the paper did and this run did otherwise, from the run's own configuration."""
    config = evidence.config
    model, grid = config.model, config.preprocess
    kind = "2D backbone per slice, then 3D convolutions" if model.kind == "slices" else "backbone inflated to 3D"
    return [
        ("Silver labels", "a lasso on the reports' text", "the number of critical concepts, counted with a lexicon"),
        (
            "Network",
            "ResNet-50 followed by a 3D CNN",
            f"{model.backbone}, weights: {model.weights}; {kind}; {grid.slices} slices of {grid.thickness:g} mm at "
            f"{grid.size} px",
        ),
        ("Thresholds", "one network per labelling", "one network with an output for 4, for 8 and for 10 concepts"),
        (
            "Operating point",
            "not stated how it was chosen",
            f"specificity {config.operating_points.high_specificity:g} and sensitivity "
            f"{config.operating_points.high_sensitivity:g} on val; alarm at {config.operating_points.alarm}",
        ),
        ("Trial", "one queue, real time on a simulated stream", "the same queue, and a simulated reading room besides"),
    ]
