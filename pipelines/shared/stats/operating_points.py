"""Thresholds: how they are chosen (on one split) and what they give (on another).

The rule is everywhere "positive if score >= threshold".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from pipelines.shared.config import OperatingPointsSection
from pipelines.shared.errors import StatisticsError
from pipelines.shared.stats.auc import roc_curve
from pipelines.shared.stats.bootstrap import STANDARD, Bootstrap, group_codes
from pipelines.shared.stats.checks import as_binary, as_numbers, same_length
from pipelines.shared.stats.estimate import Estimate
from pipelines.shared.stats.proportions import Proportion, both_estimates

RATES = ("sensitivity", "specificity", "ppv", "npv")


def choose_threshold(
    y: ArrayLike, score: ArrayLike, *, sensitivity: float | None = None, specificity: float | None = None
) -> float:
    """The threshold that reaches one target on these data and gives away least of the other rate.

    For a specificity, the lowest threshold whose specificity is at least the target (so the highest sensitivity); for
    a sensitivity, the highest threshold whose sensitivity is at least the target. Only distinct scores are candidates,
    and, where a specificity is reached only by calling nothing positive, the next number above the highest score.

    Args:
        y: (n,) 0/1 with both classes.
        score: (n,) finite.
        sensitivity: target in (0, 1]; give this or `specificity`.
        specificity: target in (0, 1].

    Raises:
        StatisticsError: one class, NaN, no rows, lengths differ.
    """
    if (sensitivity is None) == (specificity is None):
        raise ValueError("give a target for either sensitivity or specificity")
    target = sensitivity if sensitivity is not None else specificity
    if target is None or not 0 < target <= 1:
        raise ValueError(f"a target lies in (0, 1], found {target}")
    # thresholds fall along the curve, sensitivity rises, specificity falls
    curve = roc_curve(y, score)
    if sensitivity is not None:
        return float(curve.threshold[np.flatnonzero(curve.sensitivity >= target)[0]])
    return float(curve.threshold[np.flatnonzero(curve.specificity >= target)[-1]])


def is_positive(score: ArrayLike, threshold: float | np.ndarray) -> np.ndarray:
    """`score >= threshold` (n,) bool, compared in double precision (float32 scores would round the threshold).

    `threshold`: one for all, or (n,).
    """
    return np.asarray(score, dtype=np.float64) >= threshold


def rate_estimates(
    y: ArrayLike,
    score: ArrayLike,
    threshold: float | np.ndarray,
    group: ArrayLike,
    *,
    bootstrap: Bootstrap = STANDARD,
) -> dict[str, Proportion]:
    """Sensitivity, specificity, PPV and NPV at a threshold, each with exact and clustered interval.

    Each rate rests on its own rows (`n`): positives, negatives, those called positive, those called negative. Where
    there are none it is null with the reason. PPV and NPV hold for the prevalence of these data.

    Args:
        y: (n,) 0/1.
        score: (n,).
        threshold: positive if score >= threshold; one for all, or (n,).
        group: (n,) keys.
        bootstrap: resamples, seed and level.

    Returns:
        The `Proportion` (fields `exact` and `clustered`) by name: sensitivity, specificity, ppv, npv.
    """
    try:
        truth, called = _called(y, score, threshold)
        codes = group_codes(group)[0]
        same_length(y=truth, group=codes)
    except StatisticsError as error:
        null = Estimate(None, n=np.size(y), reason=str(error))
        return dict.fromkeys(RATES, Proportion(null, null))
    # name: rows of the denominator, hits among them, what to say if there are no rows
    rates = {
        "sensitivity": (truth, called, "no positives"),
        "specificity": (~truth, ~called, "no negatives"),
        "ppv": (called, truth, "nothing was called positive"),
        "npv": (~called, ~truth, "nothing was called negative"),
    }
    return {
        name: both_estimates(hit[rows], codes[rows], bootstrap=bootstrap, no_rows=none)
        for name, (rows, hit, none) in rates.items()
    }


def _called(y: ArrayLike, score: ArrayLike, threshold: float | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    truth, values = as_binary(y), as_numbers(score, "score")
    same_length(y=truth, score=values)
    if not np.isfinite(threshold).all():
        raise StatisticsError(f"the threshold is {threshold}")
    return truth, is_positive(values, threshold)


def pooled_points(points: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The operating points of a cross-validation: one entry for each task and name, in the order of the first fold.

    Args:
        points: of all folds, each with its `fold`.

    Returns:
        `thresholds`: each fold's, by its number as text; `threshold`: their median, for records that belong to no fold.
    """
    found: dict[tuple[Any, Any], list[dict[str, Any]]] = {}
    for point in points:
        found.setdefault((point.get("task"), point["name"]), []).append(point)
    pooled = []
    for of_folds in found.values():
        thresholds = {str(p["fold"]): p["threshold"] for p in of_folds}
        first = {key: value for key, value in of_folds[0].items() if key != "fold"}
        pooled.append(first | {"threshold": float(np.median(list(thresholds.values()))), "thresholds": thresholds})
    return pooled


def threshold_of(point: Mapping[str, Any], rows: pd.DataFrame) -> float | np.ndarray:
    """The threshold of an operating point: one, or after a cross-validation that of each row's own fold (rows,)."""
    if "thresholds" not in point or "fold" not in rows:
        return float(point["threshold"])
    names = ["" if pd.isna(k) else str(int(k)) for k in rows["fold"]]
    return np.array([point["thresholds"].get(name, point["threshold"]) for name in names], float)


def choose_two_points(
    rows: pd.DataFrame, task: str, targets: OperatingPointsSection, score: str | None = None
) -> list[dict[str, Any]]:
    """A point of high specificity and one of high sensitivity for a binary task.

    Args:
        rows: predictions (those of `val`) whose `<task>` is known, with both classes.
        task: the task.
        targets: the rates to reach.
        score: the score's column; `p_<task>` by default.

    Returns:
        Two operating points: name, task, score (its column), target and threshold.
    """
    column = score or f"p_{task}"
    points = []
    for name, rate in (("high_specificity", "specificity"), ("high_sensitivity", "sensitivity")):
        target = {rate: getattr(targets, name)}
        threshold = choose_threshold(rows[task].to_numpy(), rows[column].to_numpy(), **target)
        points.append({"name": name, "task": task, "score": column, "target": target, "threshold": threshold})
    return points


def point_estimates(
    rows: pd.DataFrame, points: Sequence[dict[str, Any]], bootstrap: Bootstrap, split: str = "test"
) -> tuple[list[dict[str, Any]], dict[str, Estimate]]:
    """Sensitivity, specificity, PPV and NPV at frozen thresholds.

    Args:
        rows: prediction table; each point uses the rows in which its task is known.
        points: operating points with `name`, `task`, `score` (a column) and `threshold`.
        bootstrap: keyword arguments of every `*_estimate` function.
        split: for the keys of the metrics.

    Returns:
        The operating points with their four rates (exact binomial intervals) and the `_clustered` forms of these, and
        the rates as metrics `<split>.<task>.<rate>@<point>` (clustered).
    """
    filled, metrics = [], {}
    for point in points:
        known = rows[rows[point["task"]].notna()]
        rates = rate_estimates(
            known[point["task"]].to_numpy(),
            known[point["score"]].to_numpy(),
            threshold_of(point, known),
            known["group"].to_numpy(),
            bootstrap=bootstrap,
        )
        both = {}
        for name, rate in rates.items():
            metrics[f"{split}.{point['task']}.{name}@{point['name']}"] = rate.clustered
            both[name], both[f"{name}_clustered"] = rate.exact.to_dict(), rate.clustered.to_dict()
        filled.append(point | both)
    return filled, metrics
