"""The retinopathy report: every metric, table and figure, from the run's prediction tables. No torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from pipelines.retinopathy.labels import GRADES
from pipelines.retinopathy.metrics import (
    NAMES,
    TASKS,
    grade_metrics,
    headline_task,
    known,
    task_metrics,
    untaught_tasks,
)
from pipelines.shared.judging import figures
from pipelines.shared.judging.error_gallery import error_sections, saliency_estimate
from pipelines.shared.judging.evaluator import age_bands, bootstrap_settings, synthetic_note
from pipelines.shared.judging.figures import Curve, Point, Subgroup
from pipelines.shared.judging.report import Picture, Section, Table, Text
from pipelines.shared.stats.auc import auroc_estimate, precision_recall_curve, roc_curve
from pipelines.shared.stats.bootstrap import Bootstrap
from pipelines.shared.stats.calibration import reliability_curve
from pipelines.shared.stats.confusion import confusion_matrix
from pipelines.shared.stats.estimate import Estimate
from pipelines.shared.stats.operating_points import point_estimates
from pipelines.shared.stats.readers import reader_estimates, readers_below_curve
from pipelines.shared.study import Evidence, Results

EYEPACS = "Gulshan 2016, EyePACS-1"
MESSIDOR = "Gulshan 2016, Messidor-2"
PAPER = [
    {"what": "AUC, referable DR", "value": 0.991, "low": 0.988, "high": 0.993, "source": EYEPACS},
    {"what": "Sensitivity, high specificity", "value": 0.903, "low": None, "high": None, "source": EYEPACS},
    {"what": "Specificity, high specificity", "value": 0.981, "low": None, "high": None, "source": EYEPACS},
    {"what": "Sensitivity, high sensitivity", "value": 0.975, "low": None, "high": None, "source": EYEPACS},
    {"what": "Specificity, high sensitivity", "value": 0.934, "low": None, "high": None, "source": EYEPACS},
    {"what": "AUC, referable DR", "value": 0.990, "low": 0.986, "high": 0.995, "source": MESSIDOR},
    {"what": "Sensitivity, high specificity", "value": 0.870, "low": None, "high": None, "source": MESSIDOR},
    {"what": "Specificity, high specificity", "value": 0.985, "low": None, "high": None, "source": MESSIDOR},
    {"what": "Sensitivity, high sensitivity", "value": 0.961, "low": None, "high": None, "source": MESSIDOR},
    {"what": "Specificity, high sensitivity", "value": 0.939, "low": None, "high": None, "source": MESSIDOR},
]


def evaluate(evidence: Evidence) -> Results:
    """All results of a run."""
    test = evidence.predictions["test"]
    bootstrap = bootstrap_settings(evidence.config)
    task = headline_task(test)
    metrics: dict[str, Estimate] = {}
    untaught = untaught_tasks(evidence.untaught)
    for split, rows in evidence.predictions.items():
        for each in TASKS:
            metrics |= task_metrics(rows, each, split, bootstrap, untaught.get(each))
        metrics |= grade_metrics(rows, split, bootstrap, untaught.get("grade"))
    points, rates = point_estimates(test, evidence.operating_points, bootstrap)
    metrics |= rates
    subgroups = _subgroups(evidence, test, task, bootstrap)
    metrics |= {f"test.{task}.auroc[{s.group}={s.label}]": s.estimate for s in subgroups}  # type: ignore[misc]
    oracle = _oracle(evidence, test, task, bootstrap)
    saliency = saliency_estimate(evidence, bootstrap)
    if saliency is not None:
        metrics["test.saliency.lesion_auroc"] = saliency
    sections = [
        _cohort(evidence),
        _discrimination(evidence, test, task, metrics, points),
        _thresholds(evidence, test, task, points),
        _grade(evidence, test, metrics),
        _calibration(evidence, test, task, metrics),
        *([_subgroup_section(evidence, subgroups, metrics[f"test.{task}.auroc"], len(test))] if subgroups else []),
        *error_sections(evidence, saliency, {"missed": "Missed", "false_alarm": "False alarms"}),
    ]
    warnings = []
    if task != "referable":
        lacking = "network was never taught" if "dme" in untaught else "source has no labels of"
        warnings.append(f"The {lacking} macular oedema: the headline is moderate-or-worse, not referable DR.")
    if not any(p["task"] == task for p in points):
        warnings.append(f"No operating points for {NAMES[task].lower()}: training or val lacked a class.")
    return Results(
        metrics=metrics,
        headline=f"test.{task}.auroc",
        sentence=f"AUROC, {NAMES[task].lower()}",
        chance=0.5,
        oracle=oracle,
        operating_points=points,
        paper=PAPER,
        departures=_departures(evidence),
        sections=sections,
        warnings=warnings,
    )


def _departures(evidence: Evidence) -> list[tuple[str, str, str]]:
    """What the paper did and this run did otherwise, from the run's own configuration."""
    config = evidence.config
    model, points = config.model, config.operating_points
    networks = "one network" if model.networks == 1 else f"{model.networks} networks"
    train = int((evidence.records["split"] == "train").sum())
    readers = evidence.readers
    graders = "one grade per image" if readers is None else f"{readers['reader'].nunique()} graders"
    rows = [
        (
            "Network",
            "Inception-v3 at 299 px, ImageNet weights, 10 networks averaged",
            f"{model.backbone} at {config.preprocess.size} px, weights: {model.weights}, {networks}",
        ),
        ("Images to learn from", "128,175, each graded by 3 to 7 ophthalmologists", f"{train:,}, {graders}"),
        (
            "Outputs",
            "referable disease and several grades as binary outputs of one network",
            "four ordered grade thresholds, macular oedema, gradability; referable from the second and the fifth",
        ),
        (
            "Operating points",
            "two, fixed on the development set",
            f"specificity {points.high_specificity:g} and sensitivity {points.high_sensitivity:g} on val",
        ),
        (
            "Judged on",
            "two sets from other clinics",
            "held-out groups of one source, unless mode=evaluate says otherwise",
        ),
    ]
    return rows if train else rows[:1] + rows[2:]


def _oracle(evidence: Evidence, test: pd.DataFrame, task: str, bootstrap: Bootstrap) -> Estimate | None:
    """The phantom's latent truth as a score against the same noisy reference."""
    column = f"truth_{task}"
    if column not in evidence.records:
        return None
    latent = evidence.records.set_index("id")[column]
    rows = known(test, task)
    return auroc_estimate(
        rows[task].to_numpy(), latent.reindex(rows["id"]).to_numpy(), rows["group"].to_numpy(), bootstrap=bootstrap
    )


def _cohort(evidence: Evidence) -> Section:
    """The rows of the chapter's Table 6.2 (Gulshan 2016, Table 1), by split."""
    records, readers = evidence.records, evidence.readers
    parts = {s: records[records["split"] == s] for s in ("train", "val", "test") if (records["split"] == s).any()}
    rows: list[list[Any]] = []

    def row(label: str, values: list[Any]) -> None:
        rows.append([label, *values])

    row("Images", [len(p) for p in parts.values()])
    row("Patients (groups)", [p["group"].nunique() for p in parts.values()])
    if readers is not None:
        read = {s: readers[readers["id"].isin(p["id"])] for s, p in parts.items()}
        row("Graders", [r["reader"].nunique() for r in read.values()])
        row("Grades per image", [_range(r.groupby("id").size()) for r in read.values()])
    if "age" in records:
        ages = [pd.to_numeric(p.drop_duplicates("group")["age"], errors="coerce") for p in parts.values()]
        row("Age, years: mean (SD)", [f"{a.mean():.1f} ({a.std():.1f})" if a.notna().any() else "–" for a in ages])
    if "sex" in records:
        sexes = [p.drop_duplicates("group")["sex"] for p in parts.values()]
        row("Female", [_share((s.astype(str).str.upper().str[0] == "F").sum(), s.notna().sum()) for s in sexes])
    if records["gradable"].notna().any():
        row("Gradable", [_share((p["gradable"] == 1).sum(), p["gradable"].notna().sum()) for p in parts.values()])
    graded = {s: p[p["grade"].notna()] for s, p in parts.items()}
    for k, name in enumerate(GRADES):
        row(f"{name.capitalize()} DR", [_share((p["grade"] == k).sum(), len(p)) for p in graded.values()])
    for task in ("moderate_or_worse", "dme", "referable"):
        if records[task].notna().any():
            row(NAMES[task], [_share((p[task] == 1).sum(), p[task].notna().sum()) for p in parts.values()])
    table = Table(
        ["", *parts], rows, "The cohort by split; percentages are of the images (patients for sex) with that label."
    )
    return Section("Cohort", [table])


def _range(counts: pd.Series) -> str:
    return f"{counts.min()} to {counts.max()}" if len(counts) else "–"


def _share(part: int, whole: int) -> str:
    return f"{part:,} ({100 * part / whole:.1f} %)" if whole else "–"


def _discrimination(
    evidence: Evidence, test: pd.DataFrame, task: str, metrics: dict[str, Estimate], points: list[dict[str, Any]]
) -> Section:
    folder = evidence.folder.figures
    rows = known(test, task)
    y, score = rows[task].to_numpy(), rows[f"p_{task}"].to_numpy()
    blocks: list[Any] = []
    estimate = metrics[f"test.{task}.auroc"]
    if estimate.value is not None:
        curve = roc_curve(y, score)
        marks = [
            Point(p["name"].replace("_", " "), _of(p["sensitivity"]), _of(p["specificity"]))
            for p in points
            if p["task"] == task and p["sensitivity"]["value"] is not None and p["specificity"]["value"] is not None
        ]
        readers = _readers(evidence, rows, task)
        figures.roc(
            folder / "roc.png",
            [Curve(f"model, AUROC {estimate.format()}", 1 - curve.specificity, curve.sensitivity)],
            marks,
            [Point(str(r.reader), r.sensitivity, r.specificity) for r in readers],
            readers_label="single graders",
            note=synthetic_note(evidence),
        )
        caption = f"{NAMES[task]}, test. Crosses: exact binomial intervals at the frozen thresholds."
        blocks.append(Picture("figures/roc.png", caption, "ROC curve with operating points and graders."))
        if readers:
            below, total = readers_below_curve(readers, curve)
            blocks.append(
                Text(
                    f"{below} of {total} graders lie under the model's curve. Each grader's reading is part of the "
                    "majority it is judged against, which flatters the graders.",
                    "note",
                )
            )
        precision = precision_recall_curve(y, score)
        figures.precision_recall(
            folder / "precision_recall.png",
            [Curve("model", precision.recall, precision.precision)],
            prevalence=float(y.mean()),
            note=synthetic_note(evidence),
        )
        blocks.append(Picture("figures/precision_recall.png", f"{NAMES[task]}, test.", "Precision against recall."))
    columns = ["Target", "AUROC, test", "Images", "Positive", "AUROC, val"]
    table = [
        [NAMES[t], e := metrics[f"test.{t}.auroc"], e.n, e.positives, metrics.get(f"val.{t}.auroc")] for t in TASKS
    ]
    blocks.append(
        Table(columns, table, "Discrimination, with intervals from resampling patients (clustered bootstrap).")
    )
    return Section("Discrimination", blocks)


def _of(fields: dict[str, Any]) -> Estimate:
    return Estimate.from_dict(fields)


def _readers(evidence: Evidence, rows: pd.DataFrame, task: str) -> list[Any]:
    """Each grader against the majority, on the test images that the grader decided on."""
    if evidence.readers is None:
        return []
    readings = evidence.readers
    if task == "moderate_or_worse":
        readings = readings.assign(moderate_or_worse=(readings["grade"] >= 2).where(readings["grade"].notna()))
    truth = rows.set_index("id")[task]
    readings = readings[readings["id"].isin(truth.index) & readings[task].notna()]
    if readings.empty:
        return []
    found = reader_estimates(
        readings["id"].to_numpy(), readings["reader"].to_numpy(), readings[task].to_numpy(float),
        truth.reindex(readings["id"]).to_numpy(float), level=evidence.config.statistics.level,
    )  # fmt: skip
    return [r for r in found if r.sensitivity.value is not None and r.specificity.value is not None]


def _thresholds(evidence: Evidence, test: pd.DataFrame, task: str, points: list[dict[str, Any]]) -> Section:
    mine = [p for p in points if p["task"] == task]
    rows = known(test, task)
    blocks: list[Any] = [
        Text(
            "Thresholds were chosen on val to reach the targets of the configuration, then frozen. On test they are "
            "only applied, so the rates may fall short of the targets."
        )
    ]
    if not mine:
        return Section("Operating points", [*blocks, Text("There are none for this target.", "note")])
    table: list[list[Any]] = []
    for point in mine:
        target = ", ".join(f"{k} {v:g}" for k, v in point["target"].items())
        for rate, label in (
            ("sensitivity", "Sensitivity"),
            ("specificity", "Specificity"),
            ("ppv", "PPV"),
            ("npv", "NPV"),
        ):
            name = f"{label}, {point['name'].replace('_', ' ')}"
            both = _of(point[rate]), _of(point[f"{rate}_clustered"])
            table.append([name, target, f"{point['threshold']:.3f}", *both])
    columns = ["Rate", "Target on val", "Threshold", "Exact binomial interval", "Patients resampled"]
    blocks.append(Table(columns, table, "Both operating points on test."))
    folder = evidence.folder.figures
    curve = roc_curve(rows[task].to_numpy(), rows[f"p_{task}"].to_numpy()) if rows[task].nunique() == 2 else None
    if curve is not None:
        finite = np.isfinite(curve.threshold)
        figures.operating_curve(
            folder / "operating_points.png", curve.threshold[finite], curve.sensitivity[finite],
            curve.specificity[finite], [(p["name"].replace("_", " "), p["threshold"]) for p in mine],
            note=synthetic_note(evidence),
        )  # fmt: skip
        blocks.append(
            Picture("figures/operating_points.png", "Both rates against the threshold, test.", "Rates by threshold.")
        )
        figures.score_distribution(
            folder / "scores.png",
            {n: rows.loc[rows[task] == v, f"p_{task}"].to_numpy() for n, v in (("negative", 0), ("positive", 1))},
            {p["name"].replace("_", " "): p["threshold"] for p in mine},
            note=synthetic_note(evidence),
        )
        blocks.append(Picture("figures/scores.png", "Scores by reference, test.", "Histograms of the score."))
    return Section("Operating points", blocks)


def _grade(evidence: Evidence, test: pd.DataFrame, metrics: dict[str, Estimate]) -> Section:
    rows = known(test, "grade")
    if rows.empty:
        return Section("Five grades", [Text("The test records have no grades, or training had none.", "note")])
    matrix = confusion_matrix(rows["grade"].to_numpy(int), rows["grade_predicted"].to_numpy(int), list(range(5)))
    figures.confusion(
        evidence.folder.figures / "grades.png", matrix, [g.capitalize() for g in GRADES], note=synthetic_note(evidence)
    )
    names = {
        "quadratic_kappa": "Quadratic weighted kappa",
        "accuracy": "Accuracy",
        "balanced_accuracy": "Balanced accuracy",
    }
    table: list[list[Any]] = [[label, metrics[f"test.grade.{name}"]] for name, label in names.items()]
    return Section(
        "Five grades",
        [
            Picture(
                "figures/grades.png", "Grade on the international scale, test.", "Confusion matrix of the five grades."
            ),
            Table(["Agreement with the reference", "Test"], table, "The grade follows from the ordered heads."),
        ],
    )


def _calibration(evidence: Evidence, test: pd.DataFrame, task: str, metrics: dict[str, Estimate]) -> Section:
    rows = known(test, task)
    path = evidence.folder.figures / "calibration.png"
    blocks: list[Any] = []
    if len(rows):
        curve = reliability_curve(rows[task].to_numpy(), rows[f"p_{task}"].to_numpy())
        figures.reliability(path, curve, note=synthetic_note(evidence))
        caption = f"{NAMES[task]}, test: observed against predicted probability, exact binomial intervals per bin."
        blocks.append(Picture("figures/calibration.png", caption, "Reliability curve."))
    names = {
        "brier": "Brier score",
        "brier_skill": "Brier skill against the prevalence",
        "ece": "Expected calibration error (10 equal-width bins)",
        "slope": "Calibration slope (1 is ideal)",
        "intercept": "Calibration intercept (0 is ideal)",
        "in_the_large": "Calibration in the large (0 is ideal)",
    }
    blocks.append(
        Table(["Measure", "Test"], [[n, metrics[f"test.{task}.{k}"]] for k, n in names.items()], "Calibration.")
    )
    return Section("Calibration", blocks)


def _subgroups(evidence: Evidence, test: pd.DataFrame, task: str, bootstrap: Bootstrap) -> list[Subgroup]:
    records = evidence.records.set_index("id").reindex(test["id"])
    found = []
    for column in evidence.config.subgroups:
        if column not in records:
            continue
        values = age_bands(records[column]) if column == "age" else records[column]
        values = values.reset_index(drop=True)
        for value in sorted(values.dropna().unique(), key=str):
            rows = known(test[(values == value).to_numpy()], task)
            estimate = auroc_estimate(
                rows[task].to_numpy(), rows[f"p_{task}"].to_numpy(), rows["group"].to_numpy(), bootstrap=bootstrap
            )
            found.append(Subgroup(str(value), estimate, len(rows), column))
    return found


def _subgroup_section(evidence: Evidence, subgroups: list[Subgroup], overall: Estimate, n: int) -> Section:
    figures.forest(
        evidence.folder.figures / "subgroups.png",
        subgroups,
        Subgroup("All", overall, overall.n or n),
        metric="AUROC",
        note=synthetic_note(evidence),
    )
    rows = [[f"{s.group}: {s.label}", s.n, s.estimate.positives, s.estimate] for s in subgroups]  # type: ignore[union-attr]
    return Section(
        "Subgroups",
        [
            Picture("figures/subgroups.png", "AUROC by subgroup, test.", "Forest plot of subgroups."),
            Table(["Subgroup", "Images", "Positive", "AUROC"], rows, "Intervals are wide where a subgroup is small."),
        ],
    )
