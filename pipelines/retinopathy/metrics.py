"""What is predicted and how it is judged: columns of the prediction table, operating points, metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from pipelines.retinopathy.config import RetinopathyConfig
from pipelines.retinopathy.labels import GRADE_TARGETS, GRADES
from pipelines.shared.errors import StatisticsError
from pipelines.shared.judging.prediction_sets import SetTask
from pipelines.shared.judging.tasks import BinaryTask, known
from pipelines.shared.stats.agreement import agreement_estimates
from pipelines.shared.stats.bootstrap import Bootstrap
from pipelines.shared.stats.confusion import cohen_kappa, confusion_matrix
from pipelines.shared.stats.cut_points import best_cut_points
from pipelines.shared.stats.estimate import Estimate
from pipelines.shared.stats.operating_points import choose_two_points
from pipelines.shared.untaught import undefined

HEADS = [*GRADE_TARGETS, "dme", "gradable"]
TASKS = BinaryTask.by_name(
    {
        "referable": "Referable diabetic retinopathy",
        "mild_or_worse": "Mild or worse",
        "moderate_or_worse": "Moderate or worse",
        "severe_or_worse": "Severe or worse",
        "proliferative": "Proliferative",
        "dme": "Referable macular oedema",
        "gradable": "Gradable",
    }
)
GRADE = SetTask(
    "grade",
    "Grade",
    {name: f"p_grade_{grade}" for grade, name in enumerate(GRADES)},
    lambda table: table["grade"].map(dict(enumerate(GRADES))),
)
HEADLINES = [TASKS["referable"], TASKS["moderate_or_worse"]]  # the second where a source has no DME labels


def predict_columns(probabilities: np.ndarray, cut_points: Sequence[float | None] | None = None) -> pd.DataFrame:
    """The prediction columns from the heads' probabilities (n, 6).

    p_referable = 1 - (1 - p_moderate_or_worse)(1 - p_dme). The five grades come from the ordered heads, made
    non-increasing from mild to proliferative: p_grade_k are their differences, `grade_predicted` is the number of
    heads at 0.5 or above or, with `cut_points` (of `choose_cut_points`), the number of those that the expected grade
    reaches. Heads that nothing taught (NaN) are at the ends of the scale, as training lacks the lowest or highest
    grades: these are null and never predicted, the others are told apart by the heads between them.
    """
    columns: dict[str, Any] = {f"p_{head}": probabilities[:, i] for i, head in enumerate(HEADS)}
    columns["p_referable"] = 1 - (1 - columns["p_moderate_or_worse"]) * (1 - columns["p_dme"])
    taught, ordered = ordered_heads(probabilities)
    edges = np.concatenate([np.ones((len(ordered), 1)), ordered, np.zeros((len(ordered), 1))], axis=1)
    lowest = int(taught[0]) if len(taught) else len(GRADES)  # of the grades that training has
    for grade in range(len(GRADES)):
        k = grade - lowest
        columns[f"p_grade_{grade}"] = edges[:, k] - edges[:, k + 1] if 0 <= k <= len(taught) else np.nan
    reached = ordered >= 0.5
    if cut_points is not None:
        own = np.array([cut_points[k] for k in taught], dtype=float)
        reached = expected_grade(taught, ordered)[:, None] >= own
    columns["grade_predicted"] = lowest + reached.sum(axis=1) if len(taught) else np.nan
    return pd.DataFrame(columns)


def ordered_heads(probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which grade heads were taught (k,), and their probabilities made non-increasing, (n, k); from (n, 6)."""
    taught = np.flatnonzero(~np.isnan(probabilities[:, : len(GRADE_TARGETS)]).any(axis=0))
    return taught, np.minimum.accumulate(probabilities[:, taught], axis=1)


def expected_grade(taught: np.ndarray, ordered: np.ndarray) -> np.ndarray:
    """The mean (n,) of the grades by their probabilities, from what `ordered_heads` found: at least one head."""
    grade: np.ndarray = taught[0] + ordered.sum(axis=1)
    return grade


def choose_cut_points(grade: np.ndarray, probabilities: np.ndarray) -> list[float | None]:
    """The four cut points of the expected grade at which the quadratic kappa of these records is highest.

    Args:
        grade: (n,), NaN where unknown.
        probabilities: of the heads, (n, 6); a head that is NaN has no cut point (None).

    Raises:
        StatisticsError: fewer than two grades occur, or no head was taught.
    """
    taught, ordered = ordered_heads(probabilities)
    if len(taught) == 0:
        raise StatisticsError("no grade was taught")
    rows = ~np.isnan(grade)
    grades = range(int(taught[0]), int(taught[-1]) + 2)
    cuts = best_cut_points(expected_grade(taught, ordered)[rows], grade[rows], grades)
    own = dict(zip(taught.tolist(), cuts.tolist(), strict=True))
    return [own.get(k) for k in range(len(GRADE_TARGETS))]


def untaught_tasks(untaught: Mapping[str, str]) -> dict[str, str]:
    """Tasks without an answer, as a head that they need was never taught -> why."""
    reasons = {head: untaught[head] for head in HEADS if head in untaught}
    for head in ("moderate_or_worse", "dme"):
        if head in untaught:
            reasons["referable"] = f"{head}: {untaught[head]}"
    if set(GRADE_TARGETS) <= set(untaught):
        reasons["grade"] = untaught["moderate_or_worse"]
    return reasons


def headline_task(predictions: pd.DataFrame) -> BinaryTask:
    """Referable DR where both the records and those trained on have DME labels, else moderate or worse."""
    return next((task for task in HEADLINES if len(task.known(predictions))), HEADLINES[-1])


def choose_points(predictions: pd.DataFrame, config: RetinopathyConfig) -> list[dict[str, Any]]:
    """The two operating points of each headline task, chosen on these predictions (those of `val`).

    A task without both classes has no operating points.
    """
    points: list[dict[str, Any]] = []
    for task in HEADLINES:
        if task.has_both_classes(predictions):
            points += choose_two_points(task.known(predictions), task.name, config.operating_points)
    return points


def split_metrics(
    rows: pd.DataFrame, split: str, bootstrap: Bootstrap, untaught: Mapping[str, str]
) -> dict[str, Estimate]:
    """Every task's AUROC, the headline tasks' average precision and calibration, the agreement of the grades.

    Args:
        rows: predictions.
        split: for the keys.
        bootstrap: resamples, seed and level.
        untaught: of `untaught_tasks`; what is about these is null, with the reason.
    """
    metrics: dict[str, Estimate] = {}
    for name, task in TASKS.items():
        main = task in HEADLINES
        metrics |= task.metrics(
            rows, split, bootstrap, average_precision=main, calibration=main, untaught=untaught.get(name)
        )
    return metrics | grade_metrics(rows, split, bootstrap, untaught.get("grade"))


def graded(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows in which both the grade and the predicted one are known."""
    return known(known(rows, "grade"), "grade_predicted")


def grade_kappa(grade: np.ndarray, columns: pd.DataFrame) -> float:
    """The quadratic weighted kappa of predicted grades, as `predict_columns` gives them; NaN where all are the same.

    Raises:
        StatisticsError: no grade was taught, or there are no records.
    """
    if columns["grade_predicted"].isna().any():
        raise StatisticsError("no grade was taught")
    predicted = columns["grade_predicted"].to_numpy(int)
    return float(cohen_kappa(confusion_matrix(grade.astype(int), predicted, range(len(GRADES)))))


def grade_metrics(
    rows: pd.DataFrame, split: str, bootstrap: Bootstrap, untaught: str | None = None
) -> dict[str, Estimate]:
    """Agreement of the five grades: quadratic weighted kappa, accuracy, balanced accuracy; null if `untaught` (why)."""
    rows = graded(rows)
    agreement = agreement_estimates(
        rows["grade"].to_numpy(int),
        rows["grade_predicted"].to_numpy(int),
        range(len(GRADES)),
        rows["group"].to_numpy(),
        bootstrap=bootstrap,
    )
    agreement["quadratic_kappa"] = agreement.pop("kappa")
    return undefined({f"{split}.grade.{name}": estimate for name, estimate in agreement.items()}, untaught)
