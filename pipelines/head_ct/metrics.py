"""What is predicted and how it is judged: columns of the prediction table, operating points, metrics."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from pipelines.head_ct.config import HeadCtConfig
from pipelines.head_ct.labeller import STATUSES, THRESHOLDS
from pipelines.shared.errors import StatisticsError
from pipelines.shared.stats.auc import auroc, auroc_estimate, auroc_statistic, average_precision_estimate
from pipelines.shared.stats.bootstrap import Bootstrap, Statistic, bootstrap_estimate
from pipelines.shared.stats.calibration import calibration_estimates
from pipelines.shared.stats.estimate import Estimate
from pipelines.shared.stats.operating_points import choose_threshold, is_positive, rate_estimates
from pipelines.shared.stats.proportions import both_estimates, weighted_ratio_estimate
from pipelines.shared.untaught import undefined

CLASSES = [f"at_least_{t}" for t in THRESHOLDS]
SCORE = "p_at_least_4"  # orders the worklist and raises the alarm
SILVER = [f"silver_{t}" for t in THRESHOLDS]
TASKS = ["critical", *SILVER]
SCORES = {"critical": SCORE} | {f"silver_{t}": f"p_at_least_{t}" for t in THRESHOLDS}
NAMES = {"critical": "Critical, gold labels"} | {
    f"silver_{t}": f"At least {t} critical concepts, silver labels" for t in THRESHOLDS
}


def predict_columns(values: np.ndarray) -> pd.DataFrame:
    """`p_at_least_4`, `…_8`, `…_10` from probabilities (n, 3)."""
    return pd.DataFrame({f"p_{name}": values[:, i] for i, name in enumerate(CLASSES)})


def known(predictions: pd.DataFrame, task: str) -> pd.DataFrame:
    """The rows in which a task's target is known and its score is not null."""
    return predictions[predictions[task].notna() & predictions[SCORES[task]].notna()]


def untaught_tasks(untaught: Mapping[str, str]) -> dict[str, str]:
    """Tasks without a score, as their output was never taught -> why."""
    outputs = {task: score.removeprefix("p_") for task, score in SCORES.items()}
    return {task: untaught[output] for task, output in outputs.items() if output in untaught}


def headline_task(predictions: pd.DataFrame) -> str:
    """Gold where there are gold labels of both classes, else silver at 4 concepts."""
    return "critical" if known(predictions, "critical")["critical"].nunique() == 2 else "silver_4"


def choose_points(predictions: pd.DataFrame, config: HeadCtConfig) -> list[dict[str, Any]]:
    """Two operating points, chosen on these predictions (those of `val`) by the labels that val has.

    A val part with one class only gives none.
    """
    task = next((t for t in ("silver_4", "critical") if known(predictions, t)[t].nunique() == 2), None)
    if task is None:
        return []
    rows = known(predictions, task)
    points = []
    for name, rate in (("high_specificity", "specificity"), ("high_sensitivity", "sensitivity")):
        target = getattr(config.operating_points, name)
        threshold = choose_threshold(rows[task].to_numpy(), rows[SCORE].to_numpy(), **{rate: target})
        alarm = name == config.operating_points.alarm
        points.append(
            {
                "name": name,
                "task": task,
                "score": SCORE,
                "target": {rate: target},
                "threshold": threshold,
                "alarm": alarm,
            }
        )
    return points


def task_metrics(
    rows: pd.DataFrame, task: str, split: str, bootstrap: Bootstrap, untaught: str | None = None
) -> dict[str, Estimate]:
    """AUROC of one task, for gold and silver at 4 also average precision and calibration; null if `untaught` (why)."""
    rows = known(rows, task)
    y, score, group = rows[task].to_numpy(), rows[SCORES[task]].to_numpy(), rows["group"].to_numpy()
    found = {f"{split}.{task}.auroc": auroc_estimate(y, score, group, bootstrap=bootstrap)}
    if task in ("critical", "silver_4"):
        found[f"{split}.{task}.average_precision"] = average_precision_estimate(y, score, group, bootstrap=bootstrap)
        for name, estimate in calibration_estimates(y, score, group, bootstrap=bootstrap).items():
            found[f"{split}.{task}.{name}"] = estimate
    return undefined(found, untaught)


def gap_metrics(
    rows: pd.DataFrame, bootstrap: Bootstrap, untaught: Mapping[str, str] | None = None
) -> dict[str, Estimate]:
    """How much better a score looks against silver than against gold labels, on the same studies and resamples.

    `test.gap_<threshold>.silver`, `.gold` and `.difference` (silver minus gold): AUROCs of p_at_least_<threshold>.
    Null where the task silver_<threshold> is `untaught` (with the reason).
    """
    found: dict[str, Estimate] = {}
    for t in THRESHOLDS:
        why = (untaught or {}).get(f"silver_{t}")
        if why is not None:
            found |= {f"test.gap_{t}.{k}": Estimate(None, reason=why) for k in ("silver", "gold", "difference")}
            continue
        both = rows[rows["critical"].notna() & rows[f"silver_{t}"].notna()]
        silver, gold, score = (
            both[f"silver_{t}"].to_numpy(),
            both["critical"].to_numpy(),
            both[f"p_at_least_{t}"].to_numpy(),
        )
        group = both["group"].to_numpy()
        found[f"test.gap_{t}.silver"] = auroc_estimate(silver, score, group, bootstrap=bootstrap)
        found[f"test.gap_{t}.gold"] = auroc_estimate(gold, score, group, bootstrap=bootstrap)
        try:
            value = auroc(silver, score) - auroc(gold, score)
            a, b = auroc_statistic(silver, score), auroc_statistic(gold, score)
        except StatisticsError as reason:
            found[f"test.gap_{t}.difference"] = Estimate(None, n=len(both), reason=str(reason))
            continue
        found[f"test.gap_{t}.difference"] = bootstrap_estimate(
            value,
            partial(_minus, a, b),
            group,
            n=len(both),
            undefined="with one class",
            bootstrap=bootstrap,
        )
    return found


def point_metrics(
    rows: pd.DataFrame, points: list[dict[str, Any]], task: str, bootstrap: Bootstrap
) -> tuple[list[dict[str, Any]], dict[str, Estimate]]:
    """Sensitivity, specificity, PPV, NPV and accuracy at frozen thresholds, on gold and on silver labels.

    Returns:
        The operating points with their rates on the headline task (exact intervals, and `_clustered`), and all rates as
        metrics `test.<task>.<rate>@<point>` (clustered).
    """
    filled, metrics = [], {}
    for point in points:
        both: dict[str, Any] = {"judged_on": task}
        for each in dict.fromkeys((task, "critical", "silver_4")):
            part = known(rows, each)
            y, score, group = part[each].to_numpy(), part[point["score"]].to_numpy(), part["group"].to_numpy()
            rates = rate_estimates(y, score, point["threshold"], group, bootstrap=bootstrap)
            right = is_positive(score, point["threshold"]) == (y == 1) if len(part) else np.zeros(0, bool)
            rates["accuracy"] = both_estimates(right, group, bootstrap=bootstrap)
            for name, rate in rates.items():
                metrics[f"test.{each}.{name}@{point['name']}"] = rate.clustered
                if each == task:
                    both[name], both[f"{name}_clustered"] = rate.exact.to_dict(), rate.clustered.to_dict()
        filled.append(point | both)
    return filled, metrics


def _minus(a: Statistic, b: Statistic, counts: np.ndarray) -> np.ndarray:
    return a(counts) - b(counts)


# --- the labeller ---


def labeller_metrics(statements: pd.DataFrame, bootstrap: Bootstrap) -> dict[str, Estimate]:
    """Precision and recall of statements by status; reports are resampled.

    Args:
        statements: id, concept, status, `kind` (tp, fp, fn), `known` (whether the phrasing is in the lexicon).
        bootstrap: settings.

    Returns:
        `labeller.<status or all>.precision`, `.recall` (phrasings of the lexicon) and `.recall_unseen` (others).
    """
    found = {}
    for status in ["all", *STATUSES]:
        mine = statements if status == "all" else statements[statements["status"] == status]
        tp, fp, fn = (mine["kind"] == k for k in ("tp", "fp", "fn"))
        seen = mine["known"].astype(bool)
        parts = {
            "precision": (tp, tp | fp),
            "recall": (tp & seen, (tp | fn) & seen),
            "recall_unseen": (tp & ~seen, (tp | fn) & ~seen),
        }
        for name, (top, bottom) in parts.items():
            key = f"labeller.{status}.{name}"
            if not bottom.any():
                found[key] = Estimate(None, n=0, reason="no such statements")
                continue
            rows = mine[bottom]
            found[key] = weighted_ratio_estimate(
                top[bottom].to_numpy(float), np.ones(len(rows)), rows["id"].to_numpy(), bootstrap=bootstrap
            )
    return found
