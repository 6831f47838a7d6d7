"""What the report shows, in order. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from pipelines.covid_flannel.config import CLASSES, COVID, CovidConfig
from pipelines.covid_flannel.metrics import COMBINED, NAMES, methods_of, task_of
from pipelines.covid_flannel.plots import fold_table
from pipelines.covid_flannel.protocol import fold_numbers, roles
from pipelines.shared.judging import figures
from pipelines.shared.judging.figures import Subgroup
from pipelines.shared.judging.report import Block, Cell, Picture, Section, Table, Text, left_then_right
from pipelines.shared.judging.sections import (
    Metrics,
    OperatingPoint,
    class_curves,
    crossed_note,
    operating_points_table,
    roc_mark,
)
from pipelines.shared.judging.subgroups import SubgroupEstimate, subgroup_section
from pipelines.shared.stats.estimate import Comparison, Estimate
from pipelines.shared.study import Evidence

SHORTCUTS = {
    "border": "Disease from the border alone",
    "blurred": "Disease from the blurred picture",
    "source": "Source, within a class",
}
Covid = Evidence[CovidConfig]


def report_sections(
    evidence: Covid,
    metrics: Metrics,
    points: Sequence[OperatingPoint],
    compared: Mapping[str, Comparison],
    shortcuts: Mapping[str, Estimate],
    leads: Mapping[str, Comparison],
    subgroups: Sequence[SubgroupEstimate],
) -> list[Section]:
    """The sections of the report."""
    test = evidence.predictions["test"]
    note = "Within one source the differences between sources, age among them, cannot help."
    overall = metrics[f"test.flannel.auroc[{COVID}]"]
    return [
        _cohort(evidence),
        _methods(evidence, test, metrics),
        _against_members(test, compared),
        *_shortcut_tests(evidence, shortcuts, leads),
        _discrimination(evidence, test, metrics, points),
        _confusion(evidence, test),
        _ensemble(evidence, test),
        *subgroup_section(
            evidence,
            subgroups,
            overall,
            n=overall.n or 0,
            records="Pictures",
            about="FLANNEL, COVID-19 against the rest",
            more=[Text(note, "note")],
        ),
    ]


def shown(method: str) -> str:
    """A method's name for people."""
    if method == "best_base":
        return "Best base learner of each fold (chosen on its stacking part)"
    return COMBINED.get(method, method)


def highest(test: pd.DataFrame) -> float:
    """FLANNEL's highest probability."""
    return float(np.nanmax(task_of("flannel").scores(test)))


def bound(classes: int) -> float:
    """What FLANNEL's probabilities cannot exceed with softmax weights."""
    return float(np.e / (np.e + classes - 1))


def answered(test: pd.DataFrame) -> int:
    """How many classes have a probability: those that training taught."""
    return int(np.isfinite(task_of("flannel").scores(test)).any(axis=0).sum())


def _cohort(evidence: Covid) -> Section:
    """Classes by source, ages, and which folds played which part."""
    records = evidence.records
    sources = sorted(records["source"].dropna().unique())
    rows: list[list[Cell]] = []
    for name in CLASSES:
        part = records[records["label"] == name]
        by_source = [int((part["source"] == s).sum()) for s in sources]
        rows.append([NAMES[name], *by_source, len(part), part["group"].nunique()])
    total = [int((records["source"] == s).sum()) for s in sources]
    rows.append(["all", *total, len(records), records["group"].nunique()])
    caption = "Pictures by class and source, and patients by class."
    blocks: list[Block] = [Table(["Class", *sources, "Pictures", "Patients"], rows, caption)]
    if "age" in records and records["age"].notna().any():
        ages = records.drop_duplicates("group").assign(age=lambda t: pd.to_numeric(t["age"], errors="coerce"))
        lines = [
            f"{s}: mean age {part['age'].mean():.0f} years ({int(part['age'].notna().sum())} patients with known age)"
            for s, part in ages.groupby("source")
            if part["age"].notna().any()
        ]
        blocks.append(Text("; ".join(lines) + "."))
    if "fold" in records:
        blocks.append(_parts(evidence))
    return Section("Cohort and folds", blocks)


def _parts(evidence: Covid) -> Table:
    records, config = evidence.records, evidence.config
    rows: list[list[Cell]] = []
    for fold in fold_numbers(records) if config.chosen_folds is None else config.chosen_folds:
        parts = roles(records, fold, config)
        cells = [f"{int(m.sum()):,} of {records[m]['group'].nunique():,}" for m in parts.values()]
        covid = int((records[parts["test"]]["label"] == COVID).sum())
        rows.append([str(fold), *cells, covid])
    columns = ["Fold", "Base learners", "Their best epoch", "Ensemble and thresholds", "Test", "COVID-19 in test"]
    how = (
        "Pictures of patients in each part. No patient is in two parts of a fold, except that the first two choose and "
        "train the same networks: no label of a test patient has touched anything behind its prediction."
        if config.protocol == "strict"
        else "Pictures of patients in each part, as the authors' code divides them: pictures are shuffled, so that a "
        "patient may be in several parts, and the ensemble learns from predictions of the base learners' own training "
        "pictures. Scores come out too high."
    )
    return Table(columns, rows, how)


def _methods(evidence: Covid, test: pd.DataFrame, metrics: Metrics) -> Section:
    """The paper's table of all methods, pooled and over folds."""
    methods = methods_of(test)
    measures = [*(f"f1[{c}]" for c in CLASSES), "macro_f1", f"precision[{COVID}]", f"recall[{COVID}]"]
    heads = [*(f"F1 {NAMES[c]}" for c in CLASSES), "Macro-F1", "COVID-19 precision", "COVID-19 recall"]
    folds = sorted({int(k) for k in test["fold"].dropna()})
    spread: list[list[Cell]] = []
    pooled: list[list[Cell]] = []
    for method in methods:
        cells = []
        for name in measures:
            mean, sd = (metrics[f"test.{method}.{name}@{what}"].value for what in ("mean", "sd"))
            cells.append("–" if mean is None else f"{mean:.3f}" + ("" if sd is None else f" ({sd:.3f})"))
        spread.append([shown(method), *cells])
        pooled.append([shown(method), *(metrics[f"test.{method}.{name}"] for name in measures)])
    numbers: dict[str, np.ndarray] = {}
    for title, name in (("COVID-19", f"f1[{COVID}]"), ("Macro", "macro_f1")):
        values = [[metrics[f"test.{m}.{name}@fold_{k}"].value for k in folds] for m in methods]
        numbers[title] = np.array(values, float).reshape(len(methods), len(folds))
    path = evidence.folder.figures / "table.png"
    first = len(methods) - len(COMBINED)
    fold_table(path, [shown(m) for m in methods], list(numbers.items()), first, note=evidence.note)
    columns = ["Method", *heads]
    align = left_then_right(columns)
    return Section(
        "Base learners and combinations",
        [
            Picture("figures/table.png", "F1 of every method: each fold, mean, standard deviation.", "F1 by fold."),
            Table(columns, spread, f"Mean (standard deviation) over {len(folds)} folds.", align),
            Table(columns, pooled, "All test parts pooled; intervals from resampling patients.", align),
        ],
    )


def _against_members(test: pd.DataFrame, compared: Mapping[str, Comparison]) -> Section:
    """Does the ensemble beat its members?"""
    rows: list[list[Cell]] = [[shown(rival), result.difference, _p(result)] for rival, result in compared.items()]
    blocks: list[Block] = []
    if "best_base" in compared:
        picks = test.drop_duplicates("fold").sort_values("fold")
        chosen = ", ".join(f"fold {k}: {name}" for k, name in zip(picks["fold"], picks["best_base"], strict=True))
        blocks.append(Text(verdict(compared["best_base"].difference) + f" Chosen were: {chosen}."))
    caption = (
        "FLANNEL's macro-F1 minus the other's, same pictures, paired bootstrap of patients; one comparison was planned "
        "(the first row), the others are not corrected for their number."
    )
    blocks.append(Table(["Compared with", "Difference", "p"], rows, caption))
    return Section("Does the ensemble beat its members?", blocks)


def _p(comparison: Comparison) -> str | None:
    return None if comparison.p_value is None else f"{comparison.p_value:.3f}"


def verdict(difference: Estimate) -> str:
    """One sentence on FLANNEL against the best base learner."""
    if difference.value is None or difference.low is None or difference.high is None:
        return "Whether FLANNEL beats the best base learner cannot be said here."
    text = f"macro-F1 {difference.value:+.3f} ({difference.low:+.3f} to {difference.high:+.3f})"
    if difference.low > 0:
        return f"FLANNEL beats the best base learner: {text}."
    if difference.high < 0:
        return f"FLANNEL is worse than the best base learner: {text}."
    return f"FLANNEL is not shown to beat the best base learner: {text}."


def _discrimination(evidence: Covid, test: pd.DataFrame, metrics: Metrics, points: Sequence[OperatingPoint]) -> Section:
    """ROC curves of FLANNEL, each class against the rest; AUROC of all methods; the operating points of COVID-19."""
    curves = class_curves(test, task_of("flannel"), metrics)
    folder = evidence.folder.figures
    figures.roc(folder / "roc_classes.png", list(curves.values()), note=evidence.note)
    blocks: list[Block] = [Picture("figures/roc_classes.png", "FLANNEL, each class against the rest.", "ROC curves.")]
    if COVID in curves:
        marks = [roc_mark(point) for point in points]
        figures.roc(folder / "roc_covid19.png", [curves[COVID]], marks, note=evidence.note)
        caption = (
            "FLANNEL, COVID-19 against the rest, all folds pooled. Crosses: every fold's pictures called by that "
            "fold's own threshold, exact binomial intervals."
        )
        blocks.append(Picture("figures/roc_covid19.png", caption, "ROC curve for COVID-19."))
    rows: list[list[Cell]] = [
        [shown(method), *(metrics[f"test.{method}.auroc[{name}]"] for name in CLASSES)] for method in methods_of(test)
    ]
    blocks.append(Table(["AUROC", *(NAMES[c] for c in CLASSES)], rows, "Each class against the rest, folds pooled."))
    if points:
        caption = (
            "COVID-19 against the rest at frozen thresholds: chosen in every fold on predictions of its stacking part "
            "by ensembles that had not learned from those patients."
        )
        chosen_on = "the stacking parts"
        blocks += [operating_points_table(points, caption, chosen_on=chosen_on), *crossed_note(points, chosen_on)]
    return Section("Discrimination and operating points", blocks)


def _confusion(evidence: Covid, test: pd.DataFrame) -> Section:
    """FLANNEL's confusion matrix."""
    path = evidence.folder.figures / "confusion.png"
    matrix, names = task_of("flannel").confusion(test), [NAMES[c] for c in CLASSES]
    figures.confusion(path, matrix, names, column_label="FLANNEL", note=evidence.note)
    return Section("Confusion", [Picture("figures/confusion.png", "FLANNEL, test parts pooled.", "Confusion matrix.")])


def _ensemble(evidence: Covid, test: pd.DataFrame) -> Section:
    """The learned weights, and what FLANNEL's probabilities are not."""
    learners = [str(c) for c in test if str(c).startswith("weight.")]
    rows: list[list[Cell]] = []
    for column in learners:
        by_class = [test.loc[test["label"] == c, column] for c in CLASSES]
        means = [f"{v.mean():.2f}" if len(v) else "–" for v in by_class]
        rows.append([column.removeprefix("weight."), f"{test[column].mean():.2f} ({test[column].std():.2f})", *means])
    section = evidence.config.ensemble
    columns = ["Learner", "Mean (SD) over pictures", *(f"Mean, {NAMES[c]}" for c in CLASSES)]
    blocks: list[Block] = [Table(columns, rows, f"FLANNEL's weights on test ({section.weights}).")]
    most, others = highest(test), answered(test) - 1
    if section.weights == "softmax":
        text = (
            f"With softmax weights FLANNEL's probabilities pass through two softmax functions and can never exceed "
            f"e / (e + {others}) = {bound(others + 1):.3f} (highest here: {most:.3f}). They rank pictures; they are "
            "not calibrated probabilities."
        )
    else:
        text = (
            f"FLANNEL's outputs are a softmax of weighted sums of probabilities, learned with a focal loss (gamma "
            f"{section.gamma:g}). They rank pictures; they are not calibrated probabilities (highest here: "
            f"{most:.3f})."
        )
    blocks.append(Text(text, "note"))
    return Section("What the ensemble learned", blocks)


def _shortcut_tests(
    evidence: Covid, shortcuts: Mapping[str, Estimate], leads: Mapping[str, Comparison]
) -> list[Section]:
    """The shortcut tests."""
    if not shortcuts:
        return []
    rows = []
    for key, estimate in shortcuts.items():
        kind, name = key.rstrip("]").split("[")
        rows.append(Subgroup(NAMES[name], estimate, estimate.n or 0, SHORTCUTS[kind]))
    figures.forest(evidence.folder.figures / "shortcuts.png", rows, metric="AUROC", note=evidence.note)
    section = evidence.config.shortcut_tests
    text = (
        "Where sources differ in age, scanner, border and letters, and most COVID-19 comes from one of them, COVID-19 "
        "can be guessed without looking at the lungs. Each test is a logistic regression (L2) on principal components "
        "of few grey values of the prepared picture, trained and tested over the folds, by patient: the frame alone, "
        f"{100 * section.border:.0f} % of the side wide, the centre blanked; the picture blurred and reduced to "
        f"{section.blur} x {section.blur} pixels; and the whole picture at 32 x 32 for the source within one class. "
        "0.5 is chance. Where a test beats chance, that much can be had without the disease."
    )
    blocks: list[Block] = [
        Text(text),
        Picture("figures/shortcuts.png", "AUROC of the shortcut tests, patients resampled.", "Forest plot."),
    ]
    lines: list[list[Cell]] = [[SHORTCUTS[kind], lead.difference, _p(lead)] for kind, lead in leads.items()]
    if lines:
        caption = (
            "COVID-19 against the rest: FLANNEL's AUROC minus the shortcut's, same pictures, paired bootstrap of "
            "patients."
        )
        blocks.append(Table(["Shortcut", "FLANNEL is better by", "p"], lines, caption))
    return [Section("Shortcut tests", blocks)]
