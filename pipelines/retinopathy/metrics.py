"""What is predicted and how it is judged: columns of the prediction table, operating points, metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from pipelines.retinopathy.config import RetinopathyConfig
from pipelines.retinopathy.labels import GRADE_TARGETS, GRADES
from pipelines.shared.stats.agreement import agreement_estimates
from pipelines.shared.stats.auc import auroc_estimate, average_precision_estimate
from pipelines.shared.stats.bootstrap import Bootstrap
from pipelines.shared.stats.calibration import calibration_estimates
from pipelines.shared.stats.estimate import Estimate
from pipelines.shared.stats.operating_points import choose_two_points
from pipelines.shared.untaught import undefined

HEADS = [*GRADE_TARGETS, "dme", "gradable"]
TASKS = ["referable", *HEADS]
HEADLINES = ["referable", "moderate_or_worse"]  # the second where a source has no DME labels
NAMES = {
    "referable": "Referable diabetic retinopathy",
    "mild_or_worse": "Mild or worse",
    "moderate_or_worse": "Moderate or worse",
    "severe_or_worse": "Severe or worse",
    "proliferative": "Proliferative",
    "dme": "Referable macular oedema",
    "gradable": "Gradable",
}


def predict_columns(probabilities: np.ndarray) -> pd.DataFrame:
    """The prediction columns from the heads' probabilities (n, 6).

    p_referable = 1 - (1 - p_moderate_or_worse)(1 - p_dme). The five grades come from the ordered heads, made
    non-increasing from mild to proliferative: p_grade_k are their differences, `grade_predicted` is the number of
    heads at 0.5 or above. Heads that nothing taught (NaN) are at the ends of the scale, as training lacks the lowest or
    highest grades: these are null and never predicted, the others are told apart by the heads between them.
    """
    columns: dict[str, Any] = {f"p_{head}": probabilities[:, i] for i, head in enumerate(HEADS)}
    columns["p_referable"] = 1 - (1 - columns["p_moderate_or_worse"]) * (1 - columns["p_dme"])
    taught = np.flatnonzero(~np.isnan(probabilities[:, : len(GRADE_TARGETS)]).any(axis=0))
    ordered = np.minimum.accumulate(probabilities[:, taught], axis=1)
    edges = np.concatenate([np.ones((len(ordered), 1)), ordered, np.zeros((len(ordered), 1))], axis=1)
    lowest = int(taught[0]) if len(taught) else len(GRADES)  # of the grades that training has
    for k in range(len(GRADES)):
        at = k - lowest
        columns[f"p_grade_{k}"] = edges[:, at] - edges[:, at + 1] if 0 <= at <= len(taught) else np.nan
    columns["grade_predicted"] = lowest + (ordered >= 0.5).sum(axis=1) if len(taught) else np.nan
    return pd.DataFrame(columns)


def known(predictions: pd.DataFrame, task: str) -> pd.DataFrame:
    """The rows in which a task's target is known and its answer is not null."""
    answer = "grade_predicted" if task == "grade" else f"p_{task}"
    return predictions[predictions[task].notna() & predictions[answer].notna()]


def untaught_tasks(untaught: Mapping[str, str]) -> dict[str, str]:
    """Tasks without an answer, as a head that they need was never taught -> why."""
    found = {head: untaught[head] for head in HEADS if head in untaught}
    for head in ("moderate_or_worse", "dme"):
        if head in untaught:
            found["referable"] = f"{head}: {untaught[head]}"
    if set(GRADE_TARGETS) <= set(untaught):
        found["grade"] = untaught["moderate_or_worse"]
    return found


def headline_task(predictions: pd.DataFrame) -> str:
    """Referable DR where both the records and those trained on have DME labels, else moderate or worse."""
    return next((t for t in HEADLINES if len(known(predictions, t))), HEADLINES[-1])


def choose_points(predictions: pd.DataFrame, config: RetinopathyConfig) -> list[dict[str, Any]]:
    """The two operating points of each headline task, chosen on these predictions (those of `val`).

    A task without both classes has no operating points.
    """
    points: list[dict[str, Any]] = []
    for task in HEADLINES:
        rows = known(predictions, task)
        if rows[task].nunique() < 2:
            continue
        points += choose_two_points(rows, task, config.operating_points)
    return points


def task_metrics(
    rows: pd.DataFrame, task: str, split: str, bootstrap: Bootstrap, untaught: str | None = None
) -> dict[str, Estimate]:
    """AUROC of one task, for headline tasks also average precision and calibration; null if it is `untaught` (why)."""
    rows = known(rows, task)
    y, score, group = rows[task].to_numpy(), rows[f"p_{task}"].to_numpy(), rows["group"].to_numpy()
    found = {f"{split}.{task}.auroc": auroc_estimate(y, score, group, bootstrap=bootstrap)}
    if task in HEADLINES:
        found[f"{split}.{task}.average_precision"] = average_precision_estimate(y, score, group, bootstrap=bootstrap)
        for name, estimate in calibration_estimates(y, score, group, bootstrap=bootstrap).items():
            found[f"{split}.{task}.{name}"] = estimate
    return undefined(found, untaught)


def grade_metrics(
    rows: pd.DataFrame, split: str, bootstrap: Bootstrap, untaught: str | None = None
) -> dict[str, Estimate]:
    """Agreement of the five grades: quadratic weighted kappa, accuracy, balanced accuracy; null if `untaught` (why)."""
    rows = known(rows, "grade")
    found = agreement_estimates(
        rows["grade"].to_numpy(int), rows["grade_predicted"].to_numpy(int), list(range(5)),
        rows["group"].to_numpy(), bootstrap=bootstrap,
    )  # fmt: skip
    found["quadratic_kappa"] = found.pop("kappa")
    return undefined({f"{split}.grade.{name}": estimate for name, estimate in found.items()}, untaught)
