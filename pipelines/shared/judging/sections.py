"""What several studies' reports show, written once: curves, operating points, calibration, readers. No torch.

A study's `sections.py` is a list of these, of `cohort`, `subgroups` and `error_gallery` beside this file, and of what
is its own. Every function draws its figures into the run folder and returns blocks or a section.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from pipelines.shared.judging import figures
from pipelines.shared.judging.figures import Curve, Point
from pipelines.shared.judging.report import Block, Cell, Picture, Section, Table, Text, words
from pipelines.shared.judging.tasks import BY_CLASS, BinaryTask, MulticlassTask
from pipelines.shared.stats.auc import RocCurve, precision_recall_curve, roc_curve
from pipelines.shared.stats.calibration import reliability_curve
from pipelines.shared.stats.estimate import Estimate
from pipelines.shared.stats.readers import Reader, reader_estimates, readers_below_curve
from pipelines.shared.study import Evidence

Metrics = Mapping[str, Estimate]
OperatingPoint = Mapping[str, Any]  # as in metrics.json

RATES = {"sensitivity": "Sensitivity", "specificity": "Specificity", "ppv": "PPV", "npv": "NPV", "accuracy": "Accuracy"}
CALIBRATION = {
    "brier": "Brier score",
    "brier_skill": "Brier skill against the prevalence",
    "ece": "Expected calibration error (10 equal-width bins)",
    "slope": "Calibration slope (1 is ideal)",
    "intercept": "Calibration intercept (0 is ideal)",
    "in_the_large": "Calibration in the large (0 is ideal)",
}


# --- discrimination ---


def roc_line(label: str, curve: RocCurve) -> Curve:
    """A ROC curve as a figure draws it."""
    return Curve(label, 1 - curve.specificity, curve.sensitivity)


def roc_blocks(
    evidence: Evidence[Any],
    table: pd.DataFrame,
    tasks: Sequence[BinaryTask],
    metrics: Metrics,
    caption: str,
    *,
    points: Sequence[OperatingPoint] = (),
    readers: Sequence[Reader] = (),
    who: str = "readers",
    about_readers: str = "",
    file: str = "roc",
) -> list[Block]:
    """The ROC curves of one or several tasks; with them the operating points and the readers of the first one.

    Args:
        evidence: of the run.
        table: test predictions.
        tasks: the first one is the main one; those without both classes have no curve.
        metrics: with `test.<task>.auroc`.
        caption: of the figure.
        points: those that were judged on the first task are marked, with exact intervals.
        readers: of `reader_rates`; marked each and, if there are several, as their mean.
        who: what a reader is, in the plural.
        about_readers: what to know about their rates, after how many lie below the curve.
        file: name of the figure.
    """
    main = tasks[0]
    curves = []
    for task in tasks:
        curve, area = task.roc(table), metrics[f"test.{task.name}.auroc"].format()
        if curve is not None:
            curves.append(roc_line(f"{'model' if len(tasks) == 1 else task.title}, AUROC {area}", curve))
    if not curves:
        return [Text(f"{main.title}: no curve, {metrics[f'test.{main.name}.auroc'].reason}.", "note")]
    marks = [roc_mark(point) for point in points_of(points, main)]
    if len(readers) > 1:
        sensitivity, specificity = (
            float(np.mean([rate.value for rate in rates]))
            for rates in zip(*((r.sensitivity, r.specificity) for r in readers), strict=True)
        )
        marks.append(Point(f"mean of the {len(readers)} {who}", sensitivity, specificity))
    figures.roc(
        evidence.folder.figures / f"{file}.png",
        curves,
        marks,
        [Point(str(r.reader), r.sensitivity, r.specificity) for r in readers],
        readers_label=f"single {who}",
        note=evidence.note,
    )
    blocks: list[Block] = [Picture(f"figures/{file}.png", caption, f"ROC curve: {main.title}.")]
    main_curve = main.roc(table)
    if readers and main_curve is not None:
        below, total = readers_below_curve(readers, main_curve)
        share = f"{below} of {total} {who} ({100 * below / total:.0f} %) lie below the model's curve."
        blocks.append(Text(f"{share} {about_readers}".rstrip(), "note"))
    return blocks


def roc_mark(point: OperatingPoint) -> Point:
    """An operating point on a ROC curve, with exact intervals."""
    sensitivity, specificity = (Estimate.from_dict(point[rate]) for rate in ("sensitivity", "specificity"))
    return Point(words(point["name"]), sensitivity, specificity)


def precision_recall_blocks(evidence: Evidence[Any], table: pd.DataFrame, task: BinaryTask) -> list[Block]:
    """Precision against recall, or nothing where a class is missing."""
    if not task.has_both_classes(table):
        return []
    y, score, _ = task.arrays(table)
    curve = precision_recall_curve(y, score)
    figures.precision_recall(
        evidence.folder.figures / "precision_recall.png",
        [Curve("model", curve.recall, curve.precision)],
        prevalence=float(y.mean()),
        note=evidence.note,
    )
    return [Picture("figures/precision_recall.png", f"{task.title}, test.", "Precision against recall.")]


def auroc_table(tasks: Sequence[BinaryTask], metrics: Metrics, records: str = "Images") -> Table:
    """AUROC of every task whose reference is known in test or val."""
    rows: list[list[Cell]] = []
    for task in tasks:
        test, val = metrics[f"test.{task.name}.auroc"], metrics.get(f"val.{task.name}.auroc")
        if test.n or (val is not None and val.n):
            rows.append([task.title, test, test.n, test.positives, val])
    caption = "Discrimination; intervals from resampling groups (clustered bootstrap)."
    return Table(["Target", "AUROC, test", records, "Positive", "AUROC, val"], rows, caption)


# --- one of several classes ---


def class_curves(table: pd.DataFrame, task: MulticlassTask, metrics: Metrics) -> dict[str, Curve]:
    """The ROC curve of each class against the rest, where its AUROC (`test.<task>.auroc[<class>]`) is defined."""
    curves = {}
    for name in task.classes:
        auroc = metrics[f"test.{task.name}.auroc[{name}]"]
        if auroc.value is not None:
            curve = roc_curve(*task.one_vs_rest(table, name)[:2])
            curves[name] = roc_line(f"{task.title(name)}, AUROC {auroc.format()}", curve)
    return curves


def multiclass_section(
    evidence: Evidence[Any], table: pd.DataFrame, task: MulticlassTask, metrics: Metrics, records: str = "Images"
) -> Section:
    """How well the classes are told apart: ROC curves of each against the rest, confusion matrix, rates by class.

    Args:
        evidence: of the run.
        table: test predictions.
        task: the question.
        metrics: with `task.metrics` of test.
        records: what a row of the table is, for the column of their number.
    """
    rows = task.known(table)
    if rows.empty:
        return Section("Classes", [Text("No test record has a label.", "note")])
    curves = list(class_curves(rows, task, metrics).values())
    blocks: list[Block] = []
    if curves:
        figures.roc(evidence.folder.figures / "roc_classes.png", curves, note=evidence.note)
        blocks.append(Picture("figures/roc_classes.png", "Each class against the rest, test.", "ROC curves."))
    names = [task.title(name) for name in task.classes]
    figures.confusion(evidence.folder.figures / "confusion.png", task.confusion(rows), names, note=evidence.note)
    blocks.append(Picture("figures/confusion.png", "Answers by class, test.", "Confusion matrix."))
    rates = [*BY_CLASS, "auroc"]
    lines: list[list[Cell]] = [
        [
            task.title(name),
            int((rows[task.target] == name).sum()),
            *(metrics[f"test.{task.name}.{rate}[{name}]"] for rate in rates),
        ]
        for name in task.classes
    ]
    columns = ["Class", records, "Sensitivity", "Precision", "F1", "AUROC against the rest"]
    blocks.append(Table(columns, lines, "Each class, test; intervals from resampling groups."))
    return Section("Classes", blocks)


# --- readers ---


def reader_rates(
    evidence: Evidence[Any], table: pd.DataFrame, task: BinaryTask, decision: str, readings: pd.DataFrame | None = None
) -> list[Reader]:
    """Each reader's sensitivity and specificity on the test records that this reader decided on.

    Args:
        evidence: of the run.
        table: test predictions.
        task: its reference is the truth.
        decision: column of the readings, 0 or 1, NaN where the reader did not decide.
        readings: id, reader, decision; by default those of the run.

    Returns:
        The readers of whom both rates are defined.
    """
    readings = evidence.readers if readings is None else readings
    if readings is None or decision not in readings:
        return []
    truth = task.known(table).set_index("id")[task.target]
    readings = readings[readings["id"].isin(truth.index) & readings[decision].notna()]
    if readings.empty:
        return []
    readers = reader_estimates(
        readings["id"].to_numpy(),
        readings["reader"].to_numpy(),
        readings[decision].to_numpy(float),
        truth.reindex(readings["id"]).to_numpy(float),
        level=evidence.config.statistics.level,
    )
    return [r for r in readers if r.sensitivity.value is not None and r.specificity.value is not None]


# --- operating points ---


def points_of(points: Sequence[OperatingPoint], task: BinaryTask) -> list[OperatingPoint]:
    """The operating points whose rates are those of a task; they name it by the column of its reference."""
    return [point for point in points if point.get("judged_on", point["task"]) == task.target]


def operating_points_section(
    evidence: Evidence[Any],
    table: pd.DataFrame,
    task: BinaryTask,
    points: Sequence[OperatingPoint],
    *,
    tasks: Sequence[BinaryTask] = (),
    more: Sequence[Block] = (),
) -> Section:
    """The frozen thresholds and what they give on test, with both rates by threshold and the scores of a task.

    Args:
        evidence: of the run.
        table: test predictions.
        task: whose score the figures show.
        points: with their rates, see `stats.operating_points.point_estimates`.
        tasks: all that may have operating points, if they are several.
        more: what stands after the table.
    """
    blocks: list[Block] = [
        Text(
            "Thresholds were chosen on val to reach the targets of the configuration, then frozen. On test they are "
            "only applied, so the rates may fall short of the targets."
        )
    ]
    if not points:
        blocks.append(Text("There are none: training or val lacked a class.", "note"))
        return Section("Operating points", blocks)
    if any("thresholds" in point for point in points):
        blocks.append(
            Text(
                "Cross-validated: the records of each fold are called at that fold's own thresholds. Shown is their "
                "median, which holds for other data.",
                "note",
            )
        )
    caption = "The operating points on test. PPV and NPV hold for the prevalence of the test part."
    blocks += [operating_points_table(points, caption, tasks=tasks), *crossed_note(points), *more]
    thresholds = {words(p["name"]): float(p["threshold"]) for p in points_of(points, task)}
    curve = task.roc(table) if thresholds else None
    if curve is not None:
        finite = np.isfinite(curve.threshold)
        figures.operating_curve(
            evidence.folder.figures / "operating_points.png",
            curve.threshold[finite],
            curve.sensitivity[finite],
            curve.specificity[finite],
            list(thresholds.items()),
            note=evidence.note,
        )
        y, score, _ = task.arrays(table)
        figures.score_distribution(
            evidence.folder.figures / "scores.png",
            {"negative": score[y == 0], "positive": score[y == 1]},
            thresholds,
            note=evidence.note,
        )
        blocks += [
            Picture(
                "figures/operating_points.png",
                f"{task.title}, test: sensitivity and specificity by threshold.",
                "Rates by threshold.",
            ),
            Picture("figures/scores.png", f"{task.title}, test: scores by reference.", "Histograms of the score."),
        ]
    return Section("Operating points", blocks)


def operating_points_table(
    points: Sequence[OperatingPoint], caption: str, *, tasks: Sequence[BinaryTask] = (), chosen_on: str = "val"
) -> Table:
    """The rates of each point with both intervals; with a column for the task where there are several `tasks`."""
    titles = {task.target: task.title for task in tasks}
    rows: list[list[Cell]] = []
    for point in points:
        target = ", ".join(f"{rate} {value:g}" for rate, value in point["target"].items())
        for rate, label in RATES.items():
            if rate in point:
                both = (Estimate.from_dict(point[key]) for key in (rate, f"{rate}_clustered"))
                name = f"{label}, {words(point['name'])}"
                rows.append([*([titles[point["task"]]] if titles else []), name, target, _threshold(point), *both])
    columns = [*(["Task"] if titles else []), "Rate", f"Target on {chosen_on}", "Threshold"]
    return Table([*columns, "Exact binomial interval", "Groups resampled"], rows, caption)


def crossed_note(points: Sequence[OperatingPoint], chosen_on: str = "val") -> list[Block]:
    """Why the threshold for a sensitivity lies above that for a specificity, where it does; else nothing."""
    thresholds: dict[str, dict[str, float]] = {}
    for point in points:
        for rate in point["target"]:
            thresholds.setdefault(point["task"], {})[rate] = float(point["threshold"])
    if not any(t.get("sensitivity", -np.inf) > t.get("specificity", np.inf) for t in thresholds.values()):
        return []
    return [
        Text(
            f"A threshold of high sensitivity lies above that of high specificity: on {chosen_on} the scores separate "
            "the classes so well that both targets hold over a range. The first is the highest threshold that reaches "
            "its sensitivity, the other the lowest that reaches its specificity.",
            "note",
        )
    ]


def _threshold(point: OperatingPoint) -> str:
    """The threshold, or the range of those of the folds."""
    several = sorted(point.get("thresholds", {}).values())
    return f"{several[0]:.3f} to {several[-1]:.3f}" if several else f"{point['threshold']:.3f}"


# --- calibration ---


def calibration_section(
    evidence: Evidence[Any],
    table: pd.DataFrame,
    tasks: Sequence[BinaryTask],
    metrics: Metrics,
    *,
    caption: str = "Calibration, test.",
    more: Sequence[Block] = (),
) -> Section:
    """The reliability curve of the first task, and the measures of all that have them.

    Args:
        evidence: of the run.
        table: test predictions.
        tasks: the first one is the main one.
        metrics: with `test.<task>.brier` and the others.
        caption: of the table.
        more: what stands below.
    """
    main, blocks = tasks[0], list[Block]()
    if len(main.known(table)):
        curve = reliability_curve(*main.arrays(table)[:2])
        figures.reliability(evidence.folder.figures / "calibration.png", curve, note=evidence.note)
        about = f"{main.title}, test: observed against predicted probability, exact binomial intervals per bin."
        blocks.append(Picture("figures/calibration.png", about, "Reliability curve."))
    judged = [task for task in tasks if f"test.{task.name}.brier" in metrics]
    columns = ["Measure", *(["Test"] if len(judged) == 1 else [task.title for task in judged])]
    rows: list[list[Cell]] = [
        [label, *(metrics[f"test.{task.name}.{key}"] for task in judged)] for key, label in CALIBRATION.items()
    ]
    return Section("Calibration", [*blocks, Table(columns, rows, caption), *more])
