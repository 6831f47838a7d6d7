"""The sections of the COVID report. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from pipelines.covid_flannel.config import CLASSES, COVID
from pipelines.covid_flannel.metrics import COMBINED, answers_of, methods_of, scores_of
from pipelines.covid_flannel.plots import fold_table
from pipelines.covid_flannel.protocol import fold_numbers, roles
from pipelines.shared.judging import figures
from pipelines.shared.judging.evaluator import age_bands, synthetic_note
from pipelines.shared.judging.figures import Curve, Point, Subgroup
from pipelines.shared.judging.report import Picture, Section, Table, Text
from pipelines.shared.stats.auc import auroc_estimate, roc_curve
from pipelines.shared.stats.bootstrap import Bootstrap
from pipelines.shared.stats.confusion import confusion_matrix
from pipelines.shared.stats.estimate import Comparison, Estimate
from pipelines.shared.study import Evidence

NAMES = {"covid19": "COVID-19", "viral": "other viral", "bacterial": "bacterial", "normal": "normal"}
Metrics = Mapping[str, Estimate]


def shown(method: str) -> str:
    """A method's name for people."""
    if method == "best_base":
        return "Best base learner of each fold (chosen on its stacking part)"
    return COMBINED.get(method, method)


def highest(test: pd.DataFrame) -> float:
    """FLANNEL's highest probability."""
    return float(np.nanmax(scores_of(test, "flannel")))


def bound(classes: int) -> float:
    """What FLANNEL's probabilities cannot exceed with softmax weights."""
    return float(np.e / (np.e + classes - 1))


def answered(test: pd.DataFrame) -> int:
    """How many classes have a probability: those that training taught."""
    return int(np.isfinite(scores_of(test, "flannel")).any(axis=0).sum())


def cohort(evidence: Evidence) -> Section:
    """Classes by source, ages, and which folds played which part."""
    records = evidence.records
    sources = sorted(records["source"].dropna().unique())
    rows: list[list[Any]] = []
    for name in CLASSES:
        mine = records[records["label"] == name]
        by_source = [int((mine["source"] == s).sum()) for s in sources]
        rows.append([NAMES[name], *by_source, len(mine), mine["group"].nunique()])
    total = [int((records["source"] == s).sum()) for s in sources]
    rows.append(["all", *total, len(records), records["group"].nunique()])
    caption = "Pictures by class and source, and patients by class."
    blocks: list[Any] = [Table(["Class", *sources, "Pictures", "Patients"], rows, caption)]
    if "age" in records and records["age"].notna().any():
        ages = records.drop_duplicates("group").assign(age=lambda t: pd.to_numeric(t["age"], errors="coerce"))
        lines = [
            f"{s}: mean age {part['age'].mean():.0f} years ({int(part['age'].notna().sum())} patients with known age)"
            for s, part in ages.groupby("source")
            if part["age"].notna().any()
        ]
        blocks.append(Text("; ".join(lines) + "."))
    if "fold" in records:
        blocks += _parts(evidence)
    return Section("Cohort and folds", blocks)


def _parts(evidence: Evidence) -> list[Any]:
    records, config = evidence.records, evidence.config
    rows: list[list[Any]] = []
    for fold in fold_numbers(records) if config.folds is None else config.folds:
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
    return [Table(columns, rows, how)]


def table(evidence: Evidence, test: pd.DataFrame, metrics: Metrics) -> Section:
    """Table 6.3: all methods, pooled and over folds."""
    methods = methods_of(test)
    measures = [*(f"f1[{c}]" for c in CLASSES), "macro_f1", f"precision[{COVID}]", f"recall[{COVID}]"]
    heads = [*(f"F1 {NAMES[c]}" for c in CLASSES), "Macro-F1", "COVID-19 precision", "COVID-19 recall"]
    folds = sorted({int(k) for k in test["fold"].dropna()})
    spread: list[list[Any]] = []
    pooled: list[list[Any]] = []
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
    fold_table(path, [shown(m) for m in methods], list(numbers.items()), first, note=synthetic_note(evidence))
    right = ["left"] + ["right"] * len(measures)
    return Section(
        "Base learners and combinations (table 6.3)",
        [
            Picture("figures/table.png", "F1 of every method: each fold, mean, standard deviation.", "F1 by fold."),
            Table(["Method", *heads], spread, f"Mean (standard deviation) over {len(folds)} folds.", right),  # type: ignore[arg-type]
            Table(
                ["Method", *heads],
                pooled,
                "All test parts pooled; intervals from resampling patients.",
                right,  # type: ignore[arg-type]
            ),
        ],
    )


def against(evidence: Evidence, compared: Mapping[str, Comparison], test: pd.DataFrame) -> Section:
    """Does the ensemble beat its members?"""
    rows: list[list[Any]] = []
    for rival, comparison in compared.items():
        p = "–" if comparison.p_value is None else f"{comparison.p_value:.3f}"
        rows.append([shown(rival), comparison.difference, p])
    blocks: list[Any] = []
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


def curves(evidence: Evidence, test: pd.DataFrame, metrics: Metrics, points: Sequence[dict[str, Any]]) -> Section:
    """ROC curves: FLANNEL for each class, all methods for COVID-19; the operating points."""
    drawn = []
    for i, name in enumerate(CLASSES):
        truth = (test["label"] == name).to_numpy()
        if metrics[f"test.flannel.auroc[{name}]"].value is not None:
            curve = roc_curve(truth, scores_of(test, "flannel")[:, i])
            label = f"{NAMES[name]}, AUROC {metrics[f'test.flannel.auroc[{name}]'].format()}"
            drawn.append(Curve(label, 1 - curve.specificity, curve.sensitivity))
    note = synthetic_note(evidence)
    figures.roc(evidence.folder.figures / "roc_classes.png", drawn, note=note)
    blocks: list[Any] = [Picture("figures/roc_classes.png", "FLANNEL, each class against the rest.", "ROC curves.")]
    truth = (test["label"] == COVID).to_numpy()
    if metrics[f"test.flannel.auroc[{COVID}]"].value is not None:
        mine = roc_curve(truth, test[f"p_{COVID}"].to_numpy())
        marks = [
            Point(
                p["name"].replace("_", " "), Estimate.from_dict(p["sensitivity"]), Estimate.from_dict(p["specificity"])
            )
            for p in points
        ]
        label = f"FLANNEL, AUROC {metrics[f'test.flannel.auroc[{COVID}]'].format()}"
        figures.roc(
            evidence.folder.figures / "roc_covid19.png",
            [Curve(label, 1 - mine.specificity, mine.sensitivity)], marks, note=note,
        )  # fmt: skip
        caption = (
            "COVID-19 against the rest, all folds pooled. Crosses: every fold's pictures called by that fold's own "
            "threshold, exact binomial intervals."
        )
        blocks.append(Picture("figures/roc_covid19.png", caption, "ROC curve for COVID-19."))
    rows: list[list[Any]] = [[shown(m), *(metrics[f"test.{m}.auroc[{c}]"] for c in CLASSES)] for m in methods_of(test)]
    blocks.append(Table(["AUROC", *(NAMES[c] for c in CLASSES)], rows, "Each class against the rest, folds pooled."))
    lines: list[list[Any]] = []
    for point in points:
        target = ", ".join(f"{k} {v:g}" for k, v in point["target"].items())
        used = sorted(point["thresholds"].values())
        for rate in ("sensitivity", "specificity", "ppv"):
            both = Estimate.from_dict(point[rate]), Estimate.from_dict(point[f"{rate}_clustered"])
            lines.append([f"{rate}", target, f"{used[0]:.3f} to {used[-1]:.3f}", *both])
    if lines:
        columns = ["Rate on test", "Target on the stacking parts", "Thresholds", "Exact binomial", "Patients resampled"]
        caption = (
            "COVID-19 against the rest at frozen thresholds: chosen in every fold on predictions of its stacking part "
            "by ensembles that had not learned from those patients."
        )
        blocks.append(Table(columns, lines, caption))
    return Section("Discrimination and operating points", blocks)


def confusions(evidence: Evidence, test: pd.DataFrame) -> Section:
    """FLANNEL's confusion matrix."""
    matrix = confusion_matrix(test["label"].to_numpy(), answers_of(test, "flannel"), CLASSES)
    path = evidence.folder.figures / "confusion.png"
    labels = [NAMES[c] for c in CLASSES]
    figures.confusion(path, matrix, labels, column_label="FLANNEL", note=synthetic_note(evidence))
    return Section("Confusion", [Picture("figures/confusion.png", "FLANNEL, test parts pooled.", "Confusion matrix.")])


def ensemble(evidence: Evidence, test: pd.DataFrame) -> Section:
    """The learned weights, and what FLANNEL's probabilities are not."""
    learners = [str(c) for c in test if str(c).startswith("weight.")]
    rows: list[list[Any]] = []
    for column in learners:
        by_class = [test.loc[test["label"] == c, column] for c in CLASSES]
        means = [f"{v.mean():.2f}" if len(v) else "–" for v in by_class]
        rows.append([column.removeprefix("weight."), f"{test[column].mean():.2f} ({test[column].std():.2f})", *means])
    section = evidence.config.ensemble
    columns = ["Learner", "Mean (SD) over pictures", *(f"Mean, {NAMES[c]}" for c in CLASSES)]
    blocks: list[Any] = [Table(columns, rows, f"FLANNEL's weights on test ({section.weights}).")]
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


def shortcuts(evidence: Evidence, found: Mapping[str, Estimate], gaps: Mapping[str, Comparison]) -> list[Section]:
    """The shortcut tests."""
    if not found:
        return []
    heads = {"border": "Disease from the border alone", "blurred": "Disease from the blurred picture",
             "source": "Source, within a class"}  # fmt: skip
    rows = []
    for key, estimate in found.items():
        kind, name = key.rstrip("]").split("[")
        rows.append(Subgroup(NAMES[name], estimate, estimate.n or 0, heads[kind]))
    figures.forest(evidence.folder.figures / "shortcuts.png", rows, metric="AUROC", note=synthetic_note(evidence))
    section = evidence.config.shortcut_tests
    text = (
        "Where sources differ in age, scanner, border and letters, and most COVID-19 comes from one of them, COVID-19 "
        "can be guessed without looking at the lungs. Each test is a logistic regression (L2) on principal components "
        "of few grey values of the prepared picture, trained and tested over the folds, by patient: the frame alone, "
        f"{100 * section.border:.0f} % of the side wide, the centre blanked; the picture blurred and reduced to "
        f"{section.blur} x {section.blur} pixels; and the whole picture at 32 x 32 for the source within one class. "
        "0.5 is chance. Where a test beats chance, that much can be had without the disease."
    )
    blocks: list[Any] = [
        Text(text),
        Picture("figures/shortcuts.png", "AUROC of the shortcut tests, patients resampled.", "Forest plot."),
    ]
    lines: list[list[Any]] = [[heads[k], g.difference, "–" if g.p_value is None else f"{g.p_value:.3f}"]
                              for k, g in gaps.items()]  # fmt: skip
    if lines:
        caption = (
            "COVID-19 against the rest: FLANNEL's AUROC minus the shortcut's, same pictures, paired bootstrap of "
            "patients."
        )
        blocks.append(Table(["Shortcut", "FLANNEL is better by", "p"], lines, caption))
    return [Section("Shortcut tests", blocks)]


def subgroup_estimates(evidence: Evidence, test: pd.DataFrame, bootstrap: Bootstrap) -> list[Subgroup]:
    """AUROC of COVID-19 against the rest in every value of the configured columns that the source has."""
    records = evidence.records.set_index("id").reindex(test["id"])
    found = []
    for column in evidence.config.subgroups:
        if column not in records or not records[column].notna().any():
            continue
        values = age_bands(records[column]) if column == "age" else records[column]
        for value in sorted(values.dropna().unique(), key=str):
            rows = test[(values == value).to_numpy()]
            truth = (rows["label"] == COVID).to_numpy()
            estimate = auroc_estimate(
                truth, rows[f"p_{COVID}"].to_numpy(), rows["group"].to_numpy(), bootstrap=bootstrap
            )
            found.append(Subgroup(str(value), estimate, len(rows), column))
    return found


def subgroups(evidence: Evidence, found: list[Subgroup], overall: Estimate) -> list[Section]:
    """Forest plot of the subgroups."""
    if not found:
        return []
    path = evidence.folder.figures / "subgroups.png"
    figures.forest(path, found, Subgroup("All", overall, overall.n or 0), note=synthetic_note(evidence))
    caption = (
        "FLANNEL's AUROC for COVID-19 against the rest. Within one source the differences between sources, age among "
        "them, cannot help."
    )
    return [Section("Subgroups", [Picture("figures/subgroups.png", caption, "Forest plot of subgroups.")])]
