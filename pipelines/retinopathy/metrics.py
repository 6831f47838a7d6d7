"""What is predicted and how it is judged: columns of the prediction table, operating points, metrics."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from pipelines.retinopathy.config import RetinopathyConfig
from pipelines.retinopathy.labels import GRADE_TARGETS, GRADES
from pipelines.shared.judging.tasks import BinaryTask, known
from pipelines.shared.stats.agreement import agreement_estimates
from pipelines.shared.stats.bootstrap import Bootstrap
from pipelines.shared.stats.estimate import Estimate
from pipelines.shared.stats.operating_points import choose_two_points

HEADS = [*GRADE_TARGETS, "dme", "gradable"]
TASKS = {
    name: BinaryTask(name, title, target=name, score=f"p_{name}")
    for name, title in {
        "referable": "Referable diabetic retinopathy",
        "mild_or_worse": "Mild or worse",
        "moderate_or_worse": "Moderate or worse",
        "severe_or_worse": "Severe or worse",
        "proliferative": "Proliferative",
        "dme": "Referable macular oedema",
        "gradable": "Gradable",
    }.items()
}
HEADLINES = [TASKS["referable"], TASKS["moderate_or_worse"]]  # the second where a source has no DME labels


def predict_columns(probabilities: np.ndarray) -> pd.DataFrame:
    """The prediction columns from the heads' probabilities (n, 6).

    p_referable = 1 - (1 - p_moderate_or_worse)(1 - p_dme). The five grades come from the ordered heads, made
    non-increasing from mild to proliferative: p_grade_k are their differences, `grade_predicted` is the number of
    heads at 0.5 or above.
    """
    columns = {f"p_{head}": probabilities[:, i] for i, head in enumerate(HEADS)}
    columns["p_referable"] = 1 - (1 - columns["p_moderate_or_worse"]) * (1 - columns["p_dme"])
    ordered = np.minimum.accumulate(probabilities[:, :4], axis=1)
    edges = np.concatenate([np.ones((len(ordered), 1)), ordered, np.zeros((len(ordered), 1))], axis=1)
    for k in range(len(GRADES)):
        columns[f"p_grade_{k}"] = edges[:, k] - edges[:, k + 1]
    columns["grade_predicted"] = (ordered >= 0.5).sum(axis=1)
    return pd.DataFrame(columns)


def headline_task(predictions: pd.DataFrame) -> BinaryTask:
    """Referable DR where the source has DME labels, else moderate or worse."""
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


def split_metrics(rows: pd.DataFrame, split: str, bootstrap: Bootstrap) -> dict[str, Estimate]:
    """Every task's AUROC, the headline tasks' average precision and calibration, the agreement of the grades."""
    metrics: dict[str, Estimate] = {}
    for task in TASKS.values():
        main = task in HEADLINES
        metrics |= task.metrics(rows, split, bootstrap, average_precision=main, calibration=main)
    return metrics | grade_metrics(rows, split, bootstrap)


def grade_metrics(rows: pd.DataFrame, split: str, bootstrap: Bootstrap) -> dict[str, Estimate]:
    """Agreement of the five grades: quadratic weighted kappa, accuracy, balanced accuracy."""
    rows = known(rows, "grade")
    agreement = agreement_estimates(
        rows["grade"].to_numpy(int),
        rows["grade_predicted"].to_numpy(int),
        range(len(GRADES)),
        rows["group"].to_numpy(),
        bootstrap=bootstrap,
    )
    agreement["quadratic_kappa"] = agreement.pop("kappa")
    return {f"{split}.grade.{name}": estimate for name, estimate in agreement.items()}
