"""The head CT report: every metric, table and figure, from the run's prediction tables. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from pipelines.head_ct import plots as drawing
from pipelines.head_ct.labeller import STATUSES, THRESHOLDS
from pipelines.head_ct.metrics import (
    NAMES,
    SCORE,
    SCORES,
    TASKS,
    gap_metrics,
    headline_task,
    known,
    labeller_metrics,
    point_metrics,
    task_metrics,
    untaught_tasks,
)
from pipelines.head_ct.triage import triage_section
from pipelines.shared.judging import figures
from pipelines.shared.judging.evaluator import age_bands, bootstrap_settings, synthetic_note
from pipelines.shared.judging.figures import Curve, Point, Subgroup
from pipelines.shared.judging.report import Picture, Section, Table, Text
from pipelines.shared.run_folder import read_picture, read_table
from pipelines.shared.stats.auc import auroc_estimate, roc_curve
from pipelines.shared.stats.bootstrap import Bootstrap
from pipelines.shared.stats.calibration import reliability_curve
from pipelines.shared.stats.estimate import Estimate
from pipelines.shared.stats.readers import Reader, reader_estimates, readers_below_curve
from pipelines.shared.study import Evidence, Results

CHAPTER = "Titano 2018, as the chapter gives it"
PAPER_SECONDS = 1.2


def _entry(what: str, value: float, low: float | None = None, high: float | None = None) -> dict[str, Any]:
    return {"what": what, "value": value, "low": low, "high": high, "source": CHAPTER}


PAPER = [
    _entry("AUC, gold labels (180 studies)", 0.73),
    _entry('AUC, silver labels ("on the training set")', 0.88),
    _entry("Sensitivity, gold labels", 0.79),
    _entry("Specificity, gold labels", 0.48),
    _entry("Physicians, sensitivity (SD 0.04)", 0.79),
    _entry("Physicians, specificity (SD 0.07)", 0.85),
    _entry("Prevalence at 4 critical concepts", 0.076),
    _entry("Prevalence at 8 critical concepts", 0.008),
    _entry("Prevalence at 10 critical concepts", 0.007),
    _entry("Queue trial, rank-sum P (n = 180)", 0.01),
    _entry("Seconds from file to alarm", PAPER_SECONDS),
    _entry("Seconds a physician takes", 177.0),
]


def evaluate(evidence: Evidence) -> Results:
    """All results of a run."""
    test = evidence.predictions["test"]
    bootstrap, untaught = bootstrap_settings(evidence.config), untaught_tasks(evidence.untaught)
    task = headline_task(test)
    metrics: dict[str, Estimate] = {}
    for split, rows in evidence.predictions.items():
        for each in TASKS:
            metrics |= task_metrics(rows, each, split, bootstrap, untaught.get(each))
    if known(test, "critical")["critical"].nunique() == 2 and test["silver_4"].notna().any():
        metrics |= gap_metrics(test, bootstrap, untaught)
    points, rates = point_metrics(test, evidence.operating_points, task, bootstrap)
    metrics |= rates
    statements = _table(evidence.folder.path / "labels" / "statements.parquet")
    if statements is not None:
        metrics |= labeller_metrics(statements, bootstrap)
    speed = _table(evidence.folder.path / "speed.csv")
    triage, found = triage_section(evidence, test, task, points, speed)
    metrics |= found
    subgroups = _subgroups(evidence, test, task, bootstrap)
    metrics |= {f"test.{task}.auroc[{s.group}={s.label}]": s.estimate for s in subgroups}  # type: ignore[misc]
    sections = [
        _cohort(evidence),
        _discrimination(evidence, test, task, metrics),
        *([_gap(metrics)] if "test.gap_4.gold" in metrics else []),
        _points(points, metrics, task, test),
        _calibration(evidence, test, task, metrics),
        *triage,
        *([_speed(speed)] if speed is not None and len(speed) else []),
        *([_labeller(statements, metrics)] if statements is not None else []),
        *([_subgroup_section(evidence, subgroups, metrics[f"test.{task}.auroc"])] if subgroups else []),
        *_errors(evidence),
    ]
    return Results(
        metrics=metrics,
        headline=f"test.{task}.auroc",
        sentence=f"AUROC, {NAMES[task][:1].lower() + NAMES[task][1:]}",
        chance=0.5,
        oracle=_oracle(evidence, test, task, bootstrap),
        operating_points=points,
        paper=PAPER,
        departures=_departures(evidence),
        sections=sections,
        warnings=_warnings(evidence, test, task, points),
    )


def _table(file: Path) -> pd.DataFrame | None:
    if not file.is_file() or file.stat().st_size == 1:  # nothing but a line's end: pandas writes no rows like that
        return None
    return read_table(file)


def _warnings(evidence: Evidence, test: pd.DataFrame, task: str, points: list[dict[str, Any]]) -> list[str]:
    found = []
    if task != "critical":
        found.append("There are no gold labels of both kinds: the headline is judged on what reports say.")
    if not points:
        found.append("No operating points and no alarm: training or val lacked a class.")
    unreadable = evidence.records.get("unreadable_slices")
    if unreadable is not None and (unreadable > 0).any():
        found.append(f"{int((unreadable > 0).sum())} studies were used without some slices that cannot be read.")
    return found


def _oracle(evidence: Evidence, test: pd.DataFrame, task: str, bootstrap: Bootstrap) -> Estimate | None:
    """The phantom's true severity as a score against the same noisy reference."""
    if "truth_severity" not in evidence.records:
        return None
    latent = evidence.records.set_index("id")["truth_severity"]
    rows = known(test, task)
    scores = latent.reindex(rows["id"]).to_numpy()
    return auroc_estimate(rows[task].to_numpy(), scores, rows["group"].to_numpy(), bootstrap=bootstrap)


def _departures(evidence: Evidence) -> list[tuple[str, str, str]]:
    config = evidence.config
    model, grid = config.model, config.preprocess
    kind = "2D backbone per slice, then 3D convolutions" if model.kind == "slices" else "backbone inflated to 3D"
    return [
        ("Silver labels", "a lasso on the reports' text", "the chapter's count of critical concepts, from a lexicon"),
        (
            "Network",
            "ResNet-50 followed by a 3D CNN (the chapter's words)",
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


# --- sections ---


def _cohort(evidence: Evidence) -> Section:
    records = evidence.records
    parts = {s: records[records["split"] == s] for s in ("train", "val", "test") if (records["split"] == s).any()}
    rows: list[list[Any]] = [["Studies", *(len(p) for p in parts.values())]]
    rows.append(["Patients", *(p["group"].nunique() for p in parts.values())])
    for task in TASKS:
        if records[task].notna().any():
            cells = [_share(int((p[task] == 1).sum()), int(p[task].notna().sum())) for p in parts.values()]
            rows.append([NAMES[task], *cells])
    if records["concepts"].notna().any():
        rows.append(
            ["Critical concepts per report, median", *(_number(p["concepts"].median()) for p in parts.values())]
        )
    if "age" in records and records["age"].notna().any():
        rows.append(["Age, mean (SD)", *(f"{p['age'].mean():.1f} ({p['age'].std():.1f})" for p in parts.values())])
    if "sex" in records and records["sex"].notna().any():
        rows.append(
            ["Female", *(_share(int((p["sex"] == "F").sum()), int(p["sex"].notna().sum())) for p in parts.values())]
        )
    if "slices" in records and records["slices"].notna().any():
        rows.append(["Slices, median", *(_number(p["slices"].median()) for p in parts.values())])
    return Section("Cohort", [Table(["", *parts], rows, "Studies by split. Silver: from reports. Gold: reviewed.")])


def _number(value: float) -> str | None:
    return None if pd.isna(value) else f"{value:g}"


def _share(part: int, whole: int) -> str:
    return f"{part:,} ({100 * part / whole:.1f} %)" if whole else "–"


def _readers(evidence: Evidence, test: pd.DataFrame) -> list[Reader]:
    if evidence.readers is None or "critical" not in evidence.readers:
        return []
    truth = known(test, "critical").set_index("id")["critical"]
    readings = evidence.readers
    readings = readings[readings["id"].isin(truth.index) & readings["critical"].notna()]
    if readings.empty:
        return []
    found = reader_estimates(
        readings["id"].to_numpy(), readings["reader"].to_numpy(), readings["critical"].to_numpy(float),
        truth.reindex(readings["id"]).to_numpy(float), level=evidence.config.statistics.level,
    )  # fmt: skip
    return [r for r in found if r.sensitivity.value is not None and r.specificity.value is not None]


def _discrimination(evidence: Evidence, test: pd.DataFrame, task: str, metrics: dict[str, Estimate]) -> Section:
    blocks: list[Any] = []
    curves, curve = [], None
    for each in dict.fromkeys((task, "silver_4")):
        rows = known(test, each)
        if rows[each].nunique() == 2:
            found = roc_curve(rows[each].to_numpy(), rows[SCORES[each]].to_numpy())
            curve = found if each == task else curve
            label = f"{NAMES[each]}: {metrics[f'test.{each}.auroc'].format()}"
            curves.append(Curve(label, 1 - found.specificity, found.sensitivity))
    readers = _readers(evidence, test)
    figures.roc(
        evidence.folder.figures / "roc.png", curves, [],
        [Point(str(r.reader), r.sensitivity, r.specificity) for r in readers],
        readers_label="single physicians", note=synthetic_note(evidence),
    )  # fmt: skip
    caption = "Test studies. The same network judged by what radiologists decided and by what reports say."
    blocks.append(Picture("figures/roc.png", caption, "ROC curves on gold and silver labels, with physicians."))
    if readers and curve is not None:
        below, total = readers_below_curve(readers, curve)
        rows_: list[list[Any]] = [[str(r.reader), r.sensitivity, r.specificity] for r in readers]
        blocks.append(
            Table(["Physician", "Sensitivity", "Specificity"], rows_, f"{below} of {total} lie under the curve.")
        )
    table: list[list[Any]] = []
    for each in TASKS:
        estimate = metrics[f"test.{each}.auroc"]
        if estimate.value is not None or metrics.get(f"val.{each}.auroc", Estimate(None, reason="-")).value is not None:
            table.append([NAMES[each], estimate, estimate.n, estimate.positives, metrics.get(f"val.{each}.auroc")])
    columns = ["Labels", "AUROC, test", "Studies", "Positive", "AUROC, val"]
    blocks.append(Table(columns, table, "Discrimination; intervals from resampling patients (clustered bootstrap)."))
    return Section("Discrimination", blocks)


def _gap(metrics: dict[str, Estimate]) -> Section:
    rows: list[list[Any]] = [
        [f"{t} concepts", *(metrics[f"test.gap_{t}.{k}"] for k in ("silver", "gold", "difference"))] for t in THRESHOLDS
    ]
    text = (
        "A network that learned from reports is judged twice on the same studies: by labels of the kind it learned "
        "from, and by what radiologists decided. The first flatters it."
    )
    caption = "AUROC of each output by its own silver label and by the gold label; difference on the same resamples."
    return Section(
        "Silver against gold", [Text(text), Table(["Output", "Silver", "Gold", "Silver - gold"], rows, caption)]
    )


def _points(points: list[dict[str, Any]], metrics: dict[str, Estimate], task: str, test: pd.DataFrame) -> Section:
    blocks: list[Any] = [
        Text("Thresholds were chosen on val by its labels, then frozen. On test they are only applied.")
    ]
    rows: list[list[Any]] = []
    for point in points:
        name = point["name"].replace("_", " ") + (" (alarm)" if point["alarm"] else "")
        for each in dict.fromkeys((task, "silver_4")):
            if known(test, each).empty:
                continue
            for rate in ("sensitivity", "specificity", "ppv", "npv", "accuracy"):
                estimate = metrics[f"test.{each}.{rate}@{point['name']}"]
                label = rate.upper() if rate in ("ppv", "npv") else rate.capitalize()
                rows.append([f"{label}, {name}", NAMES[each], f"{point['threshold']:.3f}", estimate])
    if rows:
        columns = ["Rate", "Labels", "Threshold", "Test"]
        blocks.append(Table(columns, rows, "Both operating points. PPV and NPV hold for the test part's prevalence."))
    return Section("Operating points", blocks)


def _calibration(evidence: Evidence, test: pd.DataFrame, task: str, metrics: dict[str, Estimate]) -> Section:
    rows = known(test, task)
    blocks: list[Any] = []
    if len(rows):
        curve = reliability_curve(rows[task].to_numpy(), rows[SCORE].to_numpy())
        figures.reliability(evidence.folder.figures / "calibration.png", curve, note=synthetic_note(evidence))
        caption = f"{NAMES[task]}: observed against predicted, exact binomial intervals per bin."
        blocks.append(Picture("figures/calibration.png", caption, "Reliability curve."))
    names = {
        "brier": "Brier score", "brier_skill": "Brier skill against the prevalence",
        "ece": "Expected calibration error (10 equal-width bins)", "slope": "Calibration slope (1 is ideal)",
        "intercept": "Calibration intercept (0 is ideal)", "in_the_large": "Calibration in the large (0 is ideal)",
    }  # fmt: skip
    both = [t for t in dict.fromkeys((task, "silver_4")) if f"test.{t}.brier" in metrics]
    table: list[list[Any]] = [[n, *(metrics[f"test.{t}.{k}"] for t in both)] for k, n in names.items()]
    blocks.append(Table(["Measure", *(NAMES[t] for t in both)], table, "The score says how likely a report with "
                        "at least 4 critical concepts is; on gold labels it need not be calibrated."))  # fmt: skip
    return Section("Calibration", blocks)


def _speed(speed: pd.DataFrame) -> Section:
    rows: list[list[Any]] = []
    for compressed, name in ((False, "uncompressed"), (True, "compressed")):
        mine = speed[speed["compressed"].astype(bool) == compressed]
        if len(mine):
            parts = [f"{mine[c].median():.3f}" for c in ("headers_s", "volume_s", "network_s")]
            largest = f"{int(mine['slices'].max())} of {int(mine['pixels'].median() ** 0.5)} px"
            rows.append(
                [name, len(mine), largest, *parts, f"{mine['seconds'].median():.3f}", f"{mine['seconds'].max():.3f}"]
            )
    columns = ["Files", "Studies", "Slices, at most", "Headers", "Volume", "Network", "Median", "Slowest"]
    caption = (
        f"Seconds from files on disk to score and alarm, warm, measured in this run; the paper's: {PAPER_SECONDS:g}."
    )
    return Section("Speed", [Table(columns, rows, caption)])


def _labeller(statements: pd.DataFrame, metrics: dict[str, Estimate]) -> Section:
    rows: list[list[Any]] = []
    for status in ["all", *STATUSES]:
        keys = [metrics[f"labeller.{status}.{k}"] for k in ("precision", "recall", "recall_unseen")]
        rows.append([status, *keys, keys[1].n, keys[2].n])
    columns = ["Status", "Precision", "Recall, known phrasings", "Recall, others", "Known", "Others"]
    counts = (
        statements.groupby(["concept", "kind"])
        .size()
        .unstack(fill_value=0)
        .reindex(columns=["tp", "fp", "fn"], fill_value=0)
    )
    unseen = statements[(statements["kind"] == "fn") & (statements["known"] == 0)].groupby("concept").size()
    by_concept: list[list[Any]] = []
    for name, row in counts.iterrows():
        tp, fp, fn = (int(row[k]) for k in ("tp", "fp", "fn"))
        precision = tp / (tp + fp) if tp + fp else None
        recall = tp / (tp + fn) if tp + fn else None
        by_concept.append([str(name).replace("_", " "), tp + fn, precision, recall, int(unseen.get(name, 0))])
    return Section(
        "Report labeller",
        [
            Text("Statements (a concept with its status) found in the reports, against what the reports really say. "
                 "Phrasings that the lexicon does not hold cannot be found; they are counted apart."),
            Table(columns, rows, "By status; intervals from resampling reports."),
            Table(["Concept", "Statements", "Precision", "Recall, all", "Not in the lexicon"], by_concept, "Concepts."),
        ],
    )  # fmt: skip


def _subgroups(evidence: Evidence, test: pd.DataFrame, task: str, bootstrap: Bootstrap) -> list[Subgroup]:
    records = evidence.records.set_index("id").reindex(test["id"])
    found = []
    for column in evidence.config.subgroups:
        if column not in records or records[column].isna().all():
            continue
        values = age_bands(records[column]) if column == "age" else records[column]
        values = values.reset_index(drop=True)
        if values.nunique() > 12:
            continue
        for value in sorted(values.dropna().unique(), key=str):
            rows = known(test[(values == value).to_numpy()], task)
            estimate = auroc_estimate(
                rows[task].to_numpy(), rows[SCORES[task]].to_numpy(), rows["group"].to_numpy(), bootstrap=bootstrap
            )
            found.append(Subgroup(str(value), estimate, len(rows), column))
    return found


def _subgroup_section(evidence: Evidence, subgroups: list[Subgroup], overall: Estimate) -> Section:
    figures.forest(
        evidence.folder.figures / "subgroups.png", subgroups, Subgroup("All", overall, overall.n or 0),
        metric="AUROC", note=synthetic_note(evidence),
    )  # fmt: skip
    rows = [[f"{s.group}: {s.label}", s.n, s.estimate.positives, s.estimate] for s in subgroups]  # type: ignore[union-attr]
    caption = "Intervals are wide where a subgroup is small."
    return Section(
        "Subgroups",
        [
            Picture("figures/subgroups.png", "AUROC by subgroup, test.", "Forest plot of subgroups."),
            Table(["Subgroup", "Studies", "Positive", "AUROC"], rows, caption),
        ],
    )


def _errors(evidence: Evidence) -> list[Section]:
    file = evidence.folder.path / "errors" / "errors.csv"
    if not file.is_file():
        return []
    table = read_table(file, ["kind", "id", "score", "image", "truth"], dtype={"truth": str, "id": str})
    blocks: list[Any] = []
    for kind, label in (("missed", "Missed"), ("false_alarm", "False alarms")):
        mine = table[table["kind"] == kind]
        if mine.empty:
            continue
        pictures, titles = [], []
        for row in mine.to_dict("records"):
            pictures.append(read_picture(file.parent / row["image"]))
            truth = row["truth"] if isinstance(row["truth"], str) else ""
            titles.append(f"{row['id']}, score {row['score']:.2f}" + (f"; truth: {truth}" if truth else ""))
        drawing.strips(evidence.folder.figures / f"{kind}.png", pictures, titles, synthetic_note(evidence))
        caption = f"{label}: the most confident errors on test, the three slices that matter most, brain window."
        blocks.append(Picture(f"figures/{kind}.png", caption, f"{label}, key slices."))
    return [Section("Most confident errors", blocks)] if blocks else []
