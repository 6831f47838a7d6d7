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
from pipelines.shared.judging.tasks import BinaryTask
from pipelines.shared.stats.auc import auroc, auroc_estimate, auroc_statistic
from pipelines.shared.stats.bootstrap import Bootstrap, Statistic, bootstrap_estimate
from pipelines.shared.stats.estimate import Estimate
from pipelines.shared.stats.operating_points import choose_two_points, is_positive, rate_estimates, threshold_of
from pipelines.shared.stats.proportions import both_estimates, weighted_ratio_estimate

CLASSES = [f"at_least_{t}" for t in THRESHOLDS]
SCORE = "p_at_least_4"  # orders the worklist and raises the alarm
SILVER = [f"silver_{t}" for t in THRESHOLDS]
CRITICAL = BinaryTask("critical", "Critical, gold labels", target="critical", score=SCORE)
TASKS = {"critical": CRITICAL} | {
    f"silver_{t}": BinaryTask(
        f"silver_{t}", f"At least {t} critical concepts, silver labels", target=f"silver_{t}", score=f"p_at_least_{t}"
    )
    for t in THRESHOLDS
}
SILVER_4 = TASKS["silver_4"]  # judged by the same score as the gold labels


def predict_columns(values: np.ndarray) -> pd.DataFrame:
    """`p_at_least_4`, `…_8`, `…_10` from probabilities (n, 3)."""
    return pd.DataFrame({f"p_{name}": values[:, i] for i, name in enumerate(CLASSES)})


def untaught_tasks(untaught: Mapping[str, str]) -> dict[str, str]:
    """Tasks without a score, as their output was never taught -> why."""
    outputs = {name: task.score.removeprefix("p_") for name, task in TASKS.items()}
    return {name: untaught[output] for name, output in outputs.items() if output in untaught}


def headline_task(predictions: pd.DataFrame) -> BinaryTask:
    """Gold where there are gold labels of both classes, else silver at 4 concepts."""
    return CRITICAL if CRITICAL.has_both_classes(predictions) else SILVER_4


def choose_points(predictions: pd.DataFrame, config: HeadCtConfig) -> list[dict[str, Any]]:
    """Two operating points, chosen on these predictions (those of `val`) by the labels that val has.

    A val part with one class only gives none.
    """
    task = next((task for task in (SILVER_4, CRITICAL) if task.has_both_classes(predictions)), None)
    if task is None:
        return []
    targets = config.operating_points
    points = choose_two_points(task.known(predictions), task.name, targets, score=task.score)
    return [point | {"alarm": point["name"] == targets.alarm} for point in points]


def split_metrics(
    rows: pd.DataFrame, split: str, bootstrap: Bootstrap, untaught: Mapping[str, str]
) -> dict[str, Estimate]:
    """AUROC of every task, for gold and silver at 4 also precision and calibration; null if `untaught` (why)."""
    metrics: dict[str, Estimate] = {}
    for name, task in TASKS.items():
        main = task in (CRITICAL, SILVER_4)
        metrics |= task.metrics(
            rows, split, bootstrap, average_precision=main, calibration=main, untaught=untaught.get(name)
        )
    return metrics


def gap_metrics(
    rows: pd.DataFrame, bootstrap: Bootstrap, untaught: Mapping[str, str] | None = None
) -> dict[str, Estimate]:
    """How much better a score looks against silver than against gold labels, on the same studies and resamples.

    `test.gap_<threshold>.silver`, `.gold` and `.difference` (silver minus gold): AUROCs of p_at_least_<threshold>.
    Null where the task silver_<threshold> is `untaught` (with the reason).
    """
    metrics: dict[str, Estimate] = {}
    for t in THRESHOLDS:
        task = TASKS[f"silver_{t}"]
        why = (untaught or {}).get(task.name)
        if why is not None:
            metrics |= {f"test.gap_{t}.{k}": Estimate(None, reason=why) for k in ("silver", "gold", "difference")}
            continue
        both = rows[rows[CRITICAL.target].notna() & rows[task.target].notna()]
        gold = both[CRITICAL.target].to_numpy()
        silver, score, group = task.arrays(both)
        metrics[f"test.gap_{t}.silver"] = auroc_estimate(silver, score, group, bootstrap=bootstrap)
        metrics[f"test.gap_{t}.gold"] = auroc_estimate(gold, score, group, bootstrap=bootstrap)
        try:
            value = auroc(silver, score) - auroc(gold, score)
            statistic = partial(_minus, auroc_statistic(silver, score), auroc_statistic(gold, score))
        except StatisticsError as reason:
            metrics[f"test.gap_{t}.difference"] = Estimate(None, n=len(both), reason=str(reason))
            continue
        metrics[f"test.gap_{t}.difference"] = bootstrap_estimate(
            value, statistic, group, n=len(both), undefined="with one class", bootstrap=bootstrap
        )
    return metrics


def point_metrics(
    rows: pd.DataFrame, points: list[dict[str, Any]], task: BinaryTask, bootstrap: Bootstrap
) -> tuple[list[dict[str, Any]], dict[str, Estimate]]:
    """Sensitivity, specificity, PPV, NPV and accuracy at frozen thresholds, on gold and on silver labels.

    Returns:
        The operating points with their rates on the headline task (exact intervals, and `_clustered`), and all rates as
        metrics `test.<task>.<rate>@<point>` (clustered).
    """
    filled, metrics = [], {}
    for point in points:
        both: dict[str, Any] = {"judged_on": task.target}
        for each in dict.fromkeys((task, CRITICAL, SILVER_4)):
            y, score, group = each.arrays(rows)
            threshold = threshold_of(point, each.known(rows))
            rates = rate_estimates(y, score, threshold, group, bootstrap=bootstrap)
            right = is_positive(score, threshold) == (y == 1) if len(y) else np.zeros(0, bool)
            rates["accuracy"] = both_estimates(right, group, bootstrap=bootstrap)
            for name, rate in rates.items():
                metrics[f"test.{each.name}.{name}@{point['name']}"] = rate.clustered
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
    metrics = {}
    for status in ["all", *STATUSES]:
        of_status = statements if status == "all" else statements[statements["status"] == status]
        tp, fp, fn = (of_status["kind"] == k for k in ("tp", "fp", "fn"))
        seen = of_status["known"].astype(bool)
        parts = {
            "precision": (tp, tp | fp),
            "recall": (tp & seen, (tp | fn) & seen),
            "recall_unseen": (tp & ~seen, (tp | fn) & ~seen),
        }
        for name, (top, bottom) in parts.items():
            key = f"labeller.{status}.{name}"
            if not bottom.any():
                metrics[key] = Estimate(None, n=0, reason="no such statements")
                continue
            rows = of_status[bottom]
            metrics[key] = weighted_ratio_estimate(
                top[bottom].to_numpy(float), np.ones(len(rows)), rows["id"].to_numpy(), bootstrap=bootstrap
            )
    return metrics
