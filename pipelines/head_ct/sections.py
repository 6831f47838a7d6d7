"""What the report shows, in order. No torch."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from pipelines.head_ct import plots
from pipelines.head_ct.config import HeadCtConfig
from pipelines.head_ct.labeller import STATUSES, THRESHOLDS
from pipelines.head_ct.metrics import CRITICAL, SILVER_4, TASKS
from pipelines.head_ct.published import SECONDS_TO_ALARM
from pipelines.shared.judging.cohort import Cohort
from pipelines.shared.judging.readers import AgainstReaders, against_readers_section
from pipelines.shared.judging.report import Block, Cell, Picture, Section, Table, Text, words
from pipelines.shared.judging.sections import (
    RATES,
    Metrics,
    OperatingPoint,
    auroc_table,
    calibration_section,
    operating_points_section,
    reader_rates,
    roc_blocks,
)
from pipelines.shared.judging.subgroups import SubgroupEstimate, subgroup_section
from pipelines.shared.judging.tasks import BinaryTask
from pipelines.shared.run_folder import read_picture, read_table
from pipelines.shared.study import Evidence

HeadCt = Evidence[HeadCtConfig]


def report_sections(
    evidence: HeadCt,
    task: BinaryTask,
    metrics: Metrics,
    points: Sequence[OperatingPoint],
    subgroups: Sequence[SubgroupEstimate],
    triage: Sequence[Section],
    speed: pd.DataFrame | None,
    statements: pd.DataFrame | None,
    compared: AgainstReaders | None,
) -> list[Section]:
    """The sections of the report; `task` is the headline's."""
    test = evidence.predictions["test"]
    both = list(dict.fromkeys((task, SILVER_4)))
    overall = metrics[f"test.{task.name}.auroc"]
    return [
        _cohort(evidence),
        _discrimination(evidence, test, both, metrics, points),
        *_gap(metrics),
        operating_points_section(evidence, test, task, points, more=_by_reports(test, task, points, metrics)),
        *against_readers_section(compared, "physicians"),
        calibration_section(
            evidence,
            test,
            both,
            metrics,
            caption="The score says how likely a report with at least 4 critical concepts is; by gold labels it need "
            "not be calibrated.",
        ),
        *triage,
        *([_speed(speed)] if speed is not None else []),
        *([_labeller(statements, metrics)] if statements is not None else []),
        *subgroup_section(evidence, subgroups, overall, n=len(task.known(test)), records="Studies", about=task.inline),
        *_errors(evidence),
    ]


def _cohort(evidence: HeadCt) -> Section:
    cohort = Cohort(evidence.records)
    cohort.counts("Studies", "Patients (groups)")
    for name, task in TASKS.items():
        cohort.share(task.title, name)
    cohort.median("Critical concepts per report, median", "concepts")
    cohort.people()
    cohort.median("Slices, median", "slices")
    caption = "The cohort by split; age and sex once per patient. Silver labels are from reports, gold ones reviewed."
    return Section("Cohort", [cohort.table(caption)])


def _discrimination(
    evidence: HeadCt,
    test: pd.DataFrame,
    tasks: Sequence[BinaryTask],
    metrics: Metrics,
    points: Sequence[OperatingPoint],
) -> Section:
    """The same network judged by gold and by silver labels, beside the physicians."""
    physicians = reader_rates(evidence, test, CRITICAL, CRITICAL.target) if tasks[0] == CRITICAL else []
    caption = "Test studies. The same network judged by what radiologists decided and by what the reports say."
    blocks = roc_blocks(evidence, test, tasks, metrics, caption, points=points, readers=physicians, who="physicians")
    if physicians:
        rows: list[list[Cell]] = [[str(p.reader), p.sensitivity, p.specificity] for p in physicians]
        blocks.append(Table(["Physician", "Sensitivity", "Specificity"], rows, "Each physician, exact intervals."))
    return Section("Discrimination", [*blocks, auroc_table(list(TASKS.values()), metrics, "Studies")])


def _gap(metrics: Metrics) -> list[Section]:
    """How much better a score looks by silver labels, where gold ones are there too."""
    if f"test.gap_{THRESHOLDS[0]}.gold" not in metrics:
        return []
    rows: list[list[Cell]] = [
        [f"{t} concepts", *(metrics[f"test.gap_{t}.{part}"] for part in ("silver", "gold", "difference"))]
        for t in THRESHOLDS
    ]
    text = (
        "A network that learned from reports is judged twice on the same studies: by labels of the kind it learned "
        "from, and by what radiologists decided. The first flatters it."
    )
    caption = "AUROC of each output by its own silver label and by the gold label; difference on the same resamples."
    table = Table(["Output", "Silver", "Gold", "Silver minus gold"], rows, caption)
    return [Section("Silver against gold", [Text(text), table])]


def _by_reports(
    test: pd.DataFrame, task: BinaryTask, points: Sequence[OperatingPoint], metrics: Metrics
) -> list[Block]:
    """The rates of the operating points by silver labels, where the headline's are gold; and which one alarms."""
    alarm = next((words(point["name"]) for point in points if point["alarm"]), None)
    blocks: list[Block] = [Text(f"The point of {alarm} raises the alarm.", "note")] if alarm else []
    if task == SILVER_4 or SILVER_4.known(test).empty:
        return blocks
    rows: list[list[Cell]] = [
        [f"{label}, {words(point['name'])}", metrics[f"test.{SILVER_4.name}.{rate}@{point['name']}"]]
        for point in points
        for rate, label in RATES.items()
    ]
    caption = f"The same thresholds judged by what the reports say ({SILVER_4.inline})."
    return [*blocks, Table(["Rate", "Groups resampled"], rows, caption)]


def _speed(speed: pd.DataFrame) -> Section:
    """Seconds from files to alarm, as measured in the run."""
    rows: list[list[Cell]] = []
    for compressed, studies in speed.groupby(speed["compressed"].astype(bool)):
        stages = [f"{studies[column].median():.3f}" for column in ("headers_s", "volume_s", "network_s")]
        largest = f"{int(studies['slices'].max())} of {int(studies['pixels'].median() ** 0.5)} px"
        seconds = [f"{studies['seconds'].median():.3f}", f"{studies['seconds'].max():.3f}"]
        rows.append(["compressed" if compressed else "uncompressed", len(studies), largest, *stages, *seconds])
    columns = ["Files", "Studies", "Slices, at most", "Headers", "Volume", "Network", "Median", "Slowest"]
    caption = (
        f"Seconds from files on disk to score and alarm, warm, measured in this run; the paper's: {SECONDS_TO_ALARM:g}."
    )
    return Section("Speed", [Table(columns, rows, caption)])


def _labeller(statements: pd.DataFrame, metrics: Metrics) -> Section:
    """The labeller's statements against the true ones, by status and by concept."""
    by_status: list[list[Cell]] = []
    for status in ("all", *STATUSES):
        precision, recall, unseen = (
            metrics[f"labeller.{status}.{name}"] for name in ("precision", "recall", "recall_unseen")
        )
        by_status.append([status, precision, recall, unseen, recall.n, unseen.n])
    counts = statements.groupby(["concept", "kind"]).size().unstack(fill_value=0)
    counts = counts.reindex(columns=["tp", "fp", "fn"], fill_value=0)
    missing = statements[(statements["kind"] == "fn") & (statements["known"] == 0)].groupby("concept").size()
    by_concept: list[list[Cell]] = []
    for name, (tp, fp, fn) in zip(counts.index, counts.to_numpy().tolist(), strict=True):
        precision_, recall_ = (tp / n if n else None for n in (tp + fp, tp + fn))
        by_concept.append([words(name), tp + fn, precision_, recall_, int(missing.get(name, 0))])
    text = (
        "Statements (a concept with its status) that the labeller reads in the reports, against what the reports "
        "really say. It cannot know phrasings that are not in its lexicon; they are counted apart."
    )
    columns = ["Status", "Precision", "Recall, known phrasings", "Recall, others", "Known", "Others"]
    concepts = ["Concept", "Statements", "Precision", "Recall, all", "Not in the lexicon"]
    return Section(
        "Report labeller",
        [
            Text(text),
            Table(columns, by_status, "By status; intervals from resampling reports."),
            Table(concepts, by_concept, "By concept."),
        ],
    )


def _errors(evidence: HeadCt) -> list[Section]:
    """The most confident errors, from the pictures that the run left in errors/."""
    file = evidence.folder.path / "errors" / "errors.csv"
    if not file.is_file():
        return []
    table = read_table(file, ["kind", "id", "score", "image", "truth"], dtype={"truth": str, "id": str})
    blocks: list[Block] = []
    for kind, label in (("missed", "Missed"), ("false_alarm", "False alarms")):
        errors = table[table["kind"] == kind].to_dict("records")
        if not errors:
            continue
        pictures = [read_picture(file.parent / row["image"]) for row in errors]
        titles = [
            f"{row['id']}, score {row['score']:.2f}" + (f"; truth: {row['truth']}" if pd.notna(row["truth"]) else "")
            for row in errors
        ]
        plots.strips(evidence.folder.figures / f"{kind}.png", pictures, titles, evidence.note)
        caption = f"{label}: the most confident errors on test, the three slices that matter most, brain window."
        blocks.append(Picture(f"figures/{kind}.png", caption, f"{label}, key slices."))
    return [Section("Most confident errors", blocks)] if blocks else []
