"""What the report shows, in order. No torch."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from pipelines.retinopathy.config import RetinopathyConfig
from pipelines.retinopathy.labels import GRADES
from pipelines.retinopathy.metrics import TASKS, graded
from pipelines.shared.judging import figures
from pipelines.shared.judging.cohort import Cohort
from pipelines.shared.judging.error_gallery import error_sections
from pipelines.shared.judging.readers import AgainstReaders, against_readers_section
from pipelines.shared.judging.report import Picture, Section, Table, Text
from pipelines.shared.judging.sections import (
    Metrics,
    OperatingPoint,
    auroc_table,
    calibration_section,
    operating_points_section,
    points_of,
    precision_recall_blocks,
    reader_rates,
    roc_blocks,
)
from pipelines.shared.judging.subgroups import SubgroupEstimate, subgroup_section
from pipelines.shared.judging.tasks import BinaryTask
from pipelines.shared.stats.confusion import confusion_matrix
from pipelines.shared.stats.estimate import Estimate
from pipelines.shared.study import Evidence

FLATTERED = "Each grader is part of the majority that is the reference, which flatters the graders."
Retinopathy = Evidence[RetinopathyConfig]


def report_sections(
    evidence: Retinopathy,
    task: BinaryTask,
    metrics: Metrics,
    points: Sequence[OperatingPoint],
    subgroups: Sequence[SubgroupEstimate],
    saliency: Estimate | None,
    compared: AgainstReaders | None,
) -> list[Section]:
    """The sections of the report; `task` is the headline's."""
    test = evidence.predictions["test"]
    points = points_of(points, task)
    roc = roc_blocks(
        evidence,
        test,
        [task],
        metrics,
        f"{task.title}, test. Crosses: exact binomial intervals at the frozen thresholds.",
        points=points,
        readers=reader_rates(evidence, test, task, task.name, graders_readings(evidence, task)),
        who="graders",
        about_readers=FLATTERED,
    )
    curves = [*roc, *precision_recall_blocks(evidence, test, task), auroc_table(list(TASKS.values()), metrics)]
    overall = metrics[f"test.{task.name}.auroc"]
    return [
        _cohort(evidence),
        Section("Discrimination", curves),
        operating_points_section(evidence, test, task, points),
        *against_readers_section(compared, "graders", FLATTERED),
        _grades(evidence, test, metrics),
        calibration_section(evidence, test, [task], metrics),
        *subgroup_section(evidence, subgroups, overall, n=len(task.known(test)), about=task.inline),
        *error_sections(evidence, saliency, {"missed": "Missed", "false_alarm": "False alarms"}),
    ]


def _cohort(evidence: Retinopathy) -> Section:
    """The rows of Gulshan 2016, Table 1, by split."""
    cohort, readers = Cohort(evidence.records), evidence.readers
    cohort.counts("Images", "Patients (groups)")
    if readers is not None:
        cohort.add("Graders", lambda part: int(readers.loc[readers["id"].isin(part["id"]), "reader"].nunique()))
        cohort.add("Grades per image", lambda part: _range(readers[readers["id"].isin(part["id"])]))
    cohort.people()
    cohort.share("Gradable", "gradable")
    for grade, name in enumerate(GRADES):
        cohort.share(f"{name.capitalize() if grade else 'No'} DR", "grade", grade)
    for name in ("moderate_or_worse", "dme", "referable"):
        cohort.share(TASKS[name].title, name)
    caption = "The cohort by split; percentages are of the images (of the patients for sex) in which it is known."
    return Section("Cohort", [cohort.table(caption)])


def _range(readings: pd.DataFrame) -> str | None:
    counts = readings.groupby("id").size()
    return f"{counts.min()} to {counts.max()}" if len(counts) else None


def graders_readings(evidence: Retinopathy, task: BinaryTask) -> pd.DataFrame | None:
    """What the graders decided, with a column of the task's name; to be judged by the majority."""
    readings = evidence.readers
    if readings is not None and task.name == "moderate_or_worse":
        grade = readings["grade"]
        readings = readings.assign(moderate_or_worse=(grade >= 2).where(grade.notna()))
    return readings


def _rule(evidence: Retinopathy) -> str:
    """How a grade comes from the outputs."""
    network = evidence.networks[0] if evidence.networks else {}
    cuts = network.get("chosen_on_val", {}).get("cut_points")
    if cuts is None:
        return "The predicted grade is the number of ordered outputs at 0.5 or above."
    shown = ", ".join(f"{cut:.2f}" for cut in cuts if cut is not None)
    return (
        f"The predicted grade counts how many of the cut points {shown} the expected grade reaches; they were chosen "
        "on val, where kappa is highest, and are frozen."
    )


def _grades(evidence: Retinopathy, test: pd.DataFrame, metrics: Metrics) -> Section:
    """The five grades of the international scale."""
    rows = graded(test)
    if rows.empty:
        return Section("Five grades", [Text("The test records have no grades, or training had none.", "note")])
    matrix = confusion_matrix(rows["grade"].to_numpy(int), rows["grade_predicted"].to_numpy(int), range(len(GRADES)))
    names = [grade.capitalize() for grade in GRADES]
    figures.confusion(evidence.folder.figures / "grades.png", matrix, names, note=evidence.note)
    labels = {
        "quadratic_kappa": "Quadratic weighted kappa",
        "accuracy": "Accuracy",
        "balanced_accuracy": "Balanced accuracy",
    }
    caption = "Grade on the international scale, test."
    return Section(
        "Five grades",
        [
            Picture("figures/grades.png", caption, "Confusion matrix of the five grades."),
            Table(
                ["Agreement with the reference", "Test"],
                [[label, metrics[f"test.grade.{name}"]] for name, label in labels.items()],
                _rule(evidence),
            ),
        ],
    )
