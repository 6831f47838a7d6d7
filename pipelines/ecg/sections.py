"""What the report shows, in order. No torch."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pandas as pd

from pipelines.ecg import published, readers
from pipelines.ecg.artifacts import SHOWN, seconds, stretch
from pipelines.ecg.config import CLASSES, EcgConfig
from pipelines.ecg.labels import RATE, STEP
from pipelines.ecg.metrics import (
    AVERAGES,
    LEVELS,
    RATES,
    ByClass,
    answers,
    codes_of,
    known_steps,
    level_scores,
    recordings,
)
from pipelines.ecg.plots import Panel, Strip, panels, strips
from pipelines.shared.judging import figures
from pipelines.shared.judging.cohort import Cohort
from pipelines.shared.judging.report import Block, Cell, Picture, Section, Table, Text, left_then_right
from pipelines.shared.judging.subgroups import SubgroupEstimate, subgroup_section
from pipelines.shared.run_folder import read_arrays, read_table
from pipelines.shared.stats.auc import precision_recall_curve, roc_curve
from pipelines.shared.stats.confusion import confusion_matrix
from pipelines.shared.stats.estimate import Estimate
from pipelines.shared.study import Evidence

NO_RHYTHM = {"?": "no label, or none of these", "-": "label of the recording only"}
Ecg = Evidence[EcgConfig]


def report_sections(
    evidence: Ecg,
    steps: ByClass,
    whole: ByClass,
    metrics: Mapping[str, Estimate],
    readings: readers.Readings | None,
    people: ByClass,
    missing: Collection[str],
    subgroups: Sequence[SubgroupEstimate],
) -> list[Section]:
    """The sections of the report.

    Args:
        evidence: of the run.
        steps: the model's metrics on the labelled steps of test; none where there are no such steps.
        whole: its metrics on labelled recordings of test, likewise.
        metrics: all metrics.
        readings: the cardiologists' readings of test.
        people: the metrics of these.
        missing: classes that training never taught by themselves.
        subgroups: F1 by subgroup.
    """
    test = evidence.predictions["test"]
    sections = [_cohort(evidence)]
    if steps:
        sections += [_rhythms(level, steps, people) for level in LEVELS]
        sections += [_confusions(evidence, test, readings), _curves(evidence, test, readings, missing)]
    if steps and readings is not None and people:
        sections.append(_cardiologists(people, readings, metrics))
    if whole:
        sections.append(_whole_recordings(evidence, test, whole))
    if subgroups:
        sections += subgroup_section(
            evidence,
            subgroups,
            steps["weighted", "f1_sequence"],
            n=int((evidence.records["split"] == "test").sum()),
            metric="F1",
            records="Windows",
            positives=False,
            about="average by support, sequence level",
        )
    return sections + _strips(evidence, test)


def _cohort(evidence: Ecg) -> Section:
    """Recordings, windows and patients by split; minutes of each rhythm, labels of whole recordings."""
    cohort = Cohort(evidence.records)
    cohort.add("Recordings", lambda part: int(part["record"].nunique()))
    cohort.counts("Windows", "Patients (groups)")
    cohort.people()
    steps = {split: _step_counts(part) for split, part in cohort.parts.items()}
    for name in [*CLASSES, *NO_RHYTHM.values()]:
        if any(name in counts for counts in steps.values()):
            minutes = [f"{counts.get(name, 0) * STEP / RATE / 60:,.1f}" for counts in steps.values()]
            cohort.rows.append([f"{name}, minutes", *minutes])
    for word in sorted(evidence.records["record_label"].dropna().unique()):
        labelled = [p.loc[p["record_label"] == word, "record"].nunique() for p in cohort.parts.values()]
        cohort.rows.append([f"Recordings labelled {word}", *labelled])
    return Section("Cohort", [cohort.table("The cohort by split; age and sex once per patient.")])


def _step_counts(records: pd.DataFrame) -> dict[str, int]:
    """Steps by label."""
    counts: dict[str, int] = {}
    for text in records["rhythms"]:
        for part in text.split():
            label, _, length = part.rpartition(":")
            name = NO_RHYTHM.get(label, label)
            counts[name] = counts.get(name, 0) + int(length)
    return counts


def _rhythms(level: str, steps: ByClass, people: ByClass) -> Section:
    """Every rate of every rhythm, beside the cardiologists' F1."""
    place = LEVELS.index(level)
    first: list[list[Cell]] = []
    rest: list[list[Cell]] = []
    for name in [*CLASSES, *AVERAGES]:
        f1, auroc = steps[name, f"f1_{level}"], steps[name, f"auroc_{level}"]
        printed = published.CARDIOLOGISTS.get(name)
        beside: list[Cell] = [people[name, f"f1_{level}"].value] if people else []
        title = readers.title_of(name)
        first.append([title, f1.positives, f1, auroc, *beside, f"{printed[place]:.3f}" if printed else None])
        rest.append([title, *(steps[name, f"{rate}_{level}"].value for rate in RATES[1:])])
    unit = "Steps" if level == "sequence" else "Windows"
    columns = ["Rhythm", unit, "F1", "AUROC", *(["Cardiologists"] if people else []), "Published"]
    about = "every step counts" if level == "sequence" else "the set of distinct rhythms in each window of 30 s"
    caption = f"Test, {level} level. Published: F1 of the paper's cardiologists, 328 records."
    others = ["Rhythm", "PPV", "Sensitivity", "Specificity", "NPV"]
    return Section(
        f"Rhythms at {level} level",
        [
            Text(f"{level.capitalize()} level: {about}. The answer is the most probable rhythm of each step."),
            Table(columns, first, caption, left_then_right(columns)),
            Table(others, rest, f"Test, {level} level, other rates.", left_then_right(others)),
        ],
    )


def _confusions(evidence: Ecg, test: pd.DataFrame, readings: readers.Readings | None) -> Section:
    """The model against the committee, and the cardiologists against it."""
    rows, file = known_steps(test), evidence.folder.figures / "confusion.png"
    matrix = confusion_matrix(codes_of(rows["target"]), answers(rows), range(len(CLASSES)))
    figures.confusion(file, matrix, CLASSES, row_label="Committee", note=evidence.note)
    blocks = [Picture("figures/confusion.png", "Model against the committee, every step of test.", "Confusion matrix.")]
    if readings is not None:
        blocks.append(readers.confusion_picture(evidence.folder, readings, evidence.note))
    return Section("Confusions", blocks)


def _curves(evidence: Ecg, test: pd.DataFrame, readings: readers.Readings | None, missing: Collection[str]) -> Section:
    """ROC and precision-recall curves of every class but the `missing`, with the cardiologists' points."""
    folder, note = evidence.folder.figures, evidence.note
    rows = known_steps(test)
    blocks: list[Block] = []
    for level in LEVELS:
        truth, scores, _ = level_scores(rows, level)
        points = readers.reader_points(readings, level) if readings is not None else {}
        roc, recall = [], []
        for i, name in enumerate(CLASSES):
            y, score = truth[:, i], scores[:, i]
            if name in missing or not 0 < y.sum() < len(y):
                continue
            curve, pr = roc_curve(y, score), precision_recall_curve(y, score)
            single, pooled = points.get(name, ([], None))
            sensitivity, false, ppv = [p[0] for p in single], [1 - p[1] for p in single], [p[2] for p in single]
            on_roc, on_recall = ((1 - pooled[1], pooled[0]), (pooled[0], pooled[2])) if pooled else (None, None)
            roc.append(Panel(name, 1 - curve.specificity, curve.sensitivity, false, sensitivity, on_roc))
            recall.append(Panel(name, pr.recall, pr.precision, sensitivity, ppv, on_recall, float(y.mean())))
        panels(folder / f"roc_{level}.png", roc, "1 − specificity", "Sensitivity", note=note)
        panels(folder / f"recall_{level}.png", recall, "Recall (sensitivity)", "Precision (PPV)", steps=True, note=note)
        who = "; crosses: single cardiologists, diamond: all pooled" if points else ""
        about = f"{level} level{who}"
        blocks += [
            Picture(f"figures/roc_{level}.png", f"ROC curves, {about}.", f"ROC curves, {level} level."),
            Picture(
                f"figures/recall_{level}.png",
                f"Precision and recall, {about}; dotted: chance.",
                f"Precision-recall curves, {level} level.",
            ),
        ]
    return Section("Curves", blocks)


def _cardiologists(people: ByClass, readings: readers.Readings, metrics: Mapping[str, Estimate]) -> Section:
    """The cardiologists' table, the model's sensitivity at their specificity, and their agreement."""
    blocks: list[Block] = []
    for level in LEVELS:
        rows: list[list[Cell]] = []
        for name in CLASSES:
            model = metrics.get(f"test.{name}.sensitivity_at_cardiologists_{level}")
            if model is not None:
                specificity, sensitivity = (people[name, f"{rate}_{level}"] for rate in ("specificity", "sensitivity"))
                rows.append([name, specificity.value, sensitivity, model.value])
        columns = ["Rhythm", "Cardiologists' specificity", "Their sensitivity", "Model's sensitivity there"]
        caption = f"The model at the pooled cardiologists' specificity, {level} level."
        blocks += [readers.comparison_table(people, level, "Cardiologists"), Table(columns, rows, caption)]
    blocks.append(readers.individual_table(readings))
    blocks += readers.agreement_blocks(readings, metrics["test.agreement.fleiss_kappa"])
    return Section("Beside the cardiologists", blocks)


def _whole_recordings(evidence: Ecg, test: pd.DataFrame, whole: ByClass) -> Section:
    rows, words = recordings(test, evidence.config.labels)
    matrix = confusion_matrix(rows["label"].to_numpy(), rows["answer"].to_numpy(), words)
    figures.confusion(evidence.folder.figures / "recordings.png", matrix, words, row_label="Label", note=evidence.note)
    table: list[list[Cell]] = [
        [w, int((rows["label"] == w).sum()), whole[w, "f1_record"]] for w in words if (w, "f1_record") in whole
    ]
    blocks: list[Block] = [
        Text("A recording's probabilities are the means over its steps, summed over the classes of each label.")
    ]
    if ("challenge", "f1") in whole:
        table.append(["Mean of N, A and O", len(rows), whole["challenge", "f1"]])
        blocks.append(Text("The CinC Challenge 2017 scored the mean F1 of N, A and O; its best entries reached 0.83."))
    else:
        table.append(["Mean over labels", len(rows), whole["recordings", "f1"]])
    blocks += [
        Table(["Label", "Recordings", "F1"], table, "Labels of whole recordings, test."),
        Picture("figures/recordings.png", "Labels of whole recordings, test.", "Confusion matrix of recordings."),
    ]
    return Section("Whole recordings", blocks)


def _strips(evidence: Ecg, test: pd.DataFrame) -> list[Section]:
    """Rhythm strips from the signals that the run left in strips/."""
    folder = evidence.folder.path / "strips"
    if not (folder / "strips.csv").exists():
        return []
    chosen = read_table(folder / "strips.csv", ["id", "kind", "name", "step"], dtype={"id": str}, keep_default_na=False)
    rows = test.assign(answer=np.array(CLASSES, dtype=object)[answers(test)])
    by_window = dict(tuple(rows.groupby("id", sort=False)))
    blocks: list[Block] = []
    captions = {
        "typical": "One stretch of each rhythm, chosen by its median probability, not by its looks.",
        "error": "The most confident errors, one per recording and kind.",
        "whole": "The whole window in which the answer changes most.",
    }
    signals = read_arrays(folder / "signals.npz")
    for kind, caption in captions.items():
        shown: list[Strip] = []
        for i, row in chosen[chosen["kind"] == kind].iterrows():
            window, signal = by_window[row["id"]], signals[str(i)]
            if kind == "whole":
                for first in range(0, len(window), SHOWN + 1):
                    shown.append(_strip(row["id"], window, signal, first, min(first + SHOWN + 1, len(window))))
                continue
            _, first = stretch(signal, int(row["step"]), len(window))
            title = f"{row['name']}: {row['id']}"
            shown.append(_strip(title, window, signal, first, min(first + SHOWN, len(window))))
        if shown:
            strips(evidence.folder.figures / f"strips_{kind}.png", shown, note=evidence.note)
            blocks.append(
                Picture(
                    f"figures/strips_{kind}.png",
                    f"{caption} Background: the model's answer; bar below: the reference.",
                    "Rhythm strips with coloured episodes.",
                )
            )
    return [Section("Rhythm strips", blocks)] if blocks else []


def _strip(title: str, window: pd.DataFrame, signal: np.ndarray, first: int, last: int) -> Strip:
    part = window.iloc[first:last]
    # The window's first row may be a later step of the signal, where the window before has counted the others.
    skipped = max(0, len(signal) // STEP - len(window)) if window["step"].iloc[0] > 0 else 0
    piece = signal[(skipped + first) * STEP : (skipped + last) * STEP]
    reference = [t if isinstance(t, str) else None for t in part["target"]]
    shown = reference if any(reference) else []
    return Strip(title, piece, seconds(float(part["step"].iloc[0])), list(part["answer"]), shown)
