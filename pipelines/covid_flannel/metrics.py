"""What is predicted and how it is judged: columns of the prediction table, thresholds, table 6.3. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from pipelines.covid_flannel.config import CLASSES, COVID, CovidConfig
from pipelines.shared.errors import StatisticsError
from pipelines.shared.judging.prediction_sets import SetTask
from pipelines.shared.judging.tasks import MulticlassTask
from pipelines.shared.stats.agreement import confusion_estimates
from pipelines.shared.stats.auc import bootstrap_p_value
from pipelines.shared.stats.bootstrap import Bootstrap, bootstrap_estimate
from pipelines.shared.stats.confusion import (
    Measure,
    accuracy,
    class_f1,
    class_precision,
    class_sensitivity,
    confusion_cells,
    confusion_matrix,
    macro_f1,
    of_class,
)
from pipelines.shared.stats.estimate import Comparison, Estimate
from pipelines.shared.stats.operating_points import choose_threshold, is_positive, pooled_points, threshold_of
from pipelines.shared.stats.proportions import both_estimates
from pipelines.shared.untaught import most_probable

NAMES = {"covid19": "COVID-19", "viral": "other viral", "bacterial": "bacterial", "normal": "normal"}
SET_TASK = SetTask("class", "Class", {name: f"p_{name}" for name in CLASSES}, lambda table: table["label"])
COMBINED = {"average": "Averaging", "voting": "Voting", "constant": "Constant weights", "flannel": "FLANNEL"}


def predict_columns(probabilities: np.ndarray) -> pd.DataFrame:
    """`p_<class>` and the most probable class, of probabilities (n, classes)."""
    columns = {f"p_{name}": np.clip(probabilities[:, i], 0, 1) for i, name in enumerate(CLASSES)}
    return pd.DataFrame(columns | {"class_predicted": [CLASSES[i] for i in most_probable(probabilities)]})


def prediction_columns(methods: Mapping[str, np.ndarray], weights: np.ndarray, learners: list[str]) -> pd.DataFrame:
    """FLANNEL's `p_<class>`, then `<method>.<class>` of all others and `weight.<learner>`."""
    table = predict_columns(methods["flannel"])
    others = {f"{m}.{c}": p[:, i] for m, p in methods.items() if m != "flannel" for i, c in enumerate(CLASSES)}
    return table.assign(**others, **{f"weight.{name}": weights[:, i] for i, name in enumerate(learners)})


def methods_of(predictions: pd.DataFrame) -> list[str]:
    """The base learners in their order, then the combinations."""
    learners = [str(c).removeprefix("weight.") for c in predictions if str(c).startswith("weight.")]
    return [*learners, *COMBINED]


def task_of(method: str) -> MulticlassTask:
    """What a method answers: which of the four classes?"""
    return MulticlassTask(method, "label", CLASSES, "p_" if method == "flannel" else f"{method}.", NAMES)


def answers_of(predictions: pd.DataFrame, method: str) -> np.ndarray:
    """The most probable class of a method, (n,) names. `best_base` is each fold's best base learner."""
    if method == "best_base":
        parts = {name: answers_of(predictions, name) for name in predictions["best_base"].unique()}
        return np.array([parts[name][i] for i, name in enumerate(predictions["best_base"])], dtype=object)
    return task_of(method).answers(predictions)


# --- table 6.3 ---


MEASURES: dict[str, Measure] = {
    **{f"f1[{name}]": of_class(class_f1, position) for position, name in enumerate(CLASSES)},
    "macro_f1": macro_f1,
    f"precision[{COVID}]": of_class(class_precision, CLASSES.index(COVID)),
    f"recall[{COVID}]": of_class(class_sensitivity, CLASSES.index(COVID)),
    "accuracy": accuracy,
}


def table_metrics(predictions: pd.DataFrame, split: str, bootstrap: Bootstrap) -> dict[str, Estimate]:
    """`<split>.<method>.<measure>`: pooled over the folds with patient-clustered intervals, then of each fold
    (`macro_f1@fold_0`), their mean and standard deviation (`macro_f1@mean`, `@sd`), as in the paper's table.
    """
    metrics: dict[str, Estimate] = {}
    truth, group = predictions["label"].to_numpy(), predictions["group"].to_numpy()
    folds = predictions["fold"].to_numpy(dtype=float, na_value=np.nan)
    numbers = sorted({int(k) for k in folds if not np.isnan(k)})
    for method in methods_of(predictions):
        answers = answers_of(predictions, method)
        pooled = confusion_estimates(MEASURES, truth, answers, CLASSES, group, bootstrap=bootstrap)
        metrics |= {f"{split}.{method}.{name}": estimate for name, estimate in pooled.items()}
        matrices = [confusion_matrix(truth[folds == k], answers[folds == k], CLASSES) for k in numbers]
        for name, measure in MEASURES.items():
            values = [float(measure(matrix)) for matrix in matrices]
            for k, value, matrix in zip(numbers, values, matrices, strict=True):
                metrics[f"{split}.{method}.{name}@fold_{k}"] = Estimate(value, n=int(matrix.sum()), reason=_why(value))
            known = [v for v in values if not np.isnan(v)]
            few = None if len(known) > 1 else "fewer than two folds"
            method_of = f"over {len(known)} folds"
            mean = Estimate(float(np.mean(known)) if known else None, n=len(known), method=method_of, reason=few)
            sd = float(np.std(known, ddof=1)) if len(known) > 1 else None
            metrics[f"{split}.{method}.{name}@mean"] = mean
            metrics[f"{split}.{method}.{name}@sd"] = Estimate(sd, n=len(known), method=method_of, reason=few)
    return metrics


def _why(value: float) -> str | None:
    return "the class occurs neither in the truth nor in the answers" if np.isnan(value) else None


def auroc_metrics(predictions: pd.DataFrame, bootstrap: Bootstrap) -> dict[str, Estimate]:
    """`test.<method>.auroc[<class>]`, each class against the rest."""
    metrics: dict[str, Estimate] = {}
    for method in methods_of(predictions):
        metrics |= task_of(method).aurocs(predictions, "test", bootstrap)
    return metrics


def comparisons(predictions: pd.DataFrame, bootstrap: Bootstrap) -> dict[str, Comparison]:
    """FLANNEL's macro-F1 minus that of the best base learner (of each fold, chosen on its stacking part), of every base
    learner and of every other combination, on the same resamples of patients.
    """
    truth, group = predictions["label"].to_numpy(), predictions["group"].to_numpy()
    flannel = answers_of(predictions, "flannel")
    rivals = [*(["best_base"] if "best_base" in predictions else []), *methods_of(predictions)]
    return {
        rival: confusion_difference(
            macro_f1, truth, flannel, answers_of(predictions, rival), CLASSES, group, bootstrap=bootstrap
        )
        for rival in rivals
        if rival != "flannel"
    }


def confusion_difference(
    measure: Measure,
    truth: ArrayLike,
    first: ArrayLike,
    second: ArrayLike,
    classes: Sequence[Any],
    group: ArrayLike,
    *,
    bootstrap: Bootstrap,
) -> Comparison:
    """A measure of the confusion matrix of `first` minus that of `second`, two models' answers for the same rows.

    By the paired clustered bootstrap: both on the same resamples of groups; p-value as in `auc.auroc_difference`.

    Args:
        measure: from matrices (..., k, k) to (...), NaN where undefined.
        truth: (n,) classes.
        first: (n,) classes, of one model.
        second: (n,) classes, of the other.
        classes: all k classes in their order.
        group: (n,) keys.
        bootstrap: resamples, seed and level.
    """
    k = len(classes)
    try:
        cells = [confusion_cells(truth, predicted, classes) for predicted in (first, second)]
    except StatisticsError as error:
        return Comparison(Estimate(None, n=np.size(truth), reason=str(error)))
    drawn: list[np.ndarray] = []

    def statistic(counts: np.ndarray) -> np.ndarray:
        both = [
            measure(np.stack([np.bincount(c, weights=row, minlength=k * k) for row in counts]).reshape(-1, k, k))
            for c in cells
        ]
        drawn.append(both[0] - both[1])
        return drawn[-1]

    value = float(statistic(np.ones((1, len(cells[0]))))[0])
    drawn.clear()
    estimate = bootstrap_estimate(value, statistic, group, n=len(cells[0]), bootstrap=bootstrap)
    if estimate.low is None:
        return Comparison(estimate)
    differences = np.concatenate(drawn)
    return Comparison(estimate, bootstrap_p_value(differences[~np.isnan(differences)]))


# --- thresholds ---


def choose_fold_points(validated: pd.DataFrame, config: CovidConfig, fold: int) -> list[dict[str, Any]]:
    """Thresholds of P(COVID-19) on the predictions of one fold's stacking part.

    None where that part lacks a class, or training lacked COVID-19.
    """
    truth = (validated["label"] == COVID).to_numpy()
    if truth.all() or not truth.any() or validated[f"p_{COVID}"].isna().any():
        return []
    score = validated[f"p_{COVID}"].to_numpy()
    section = config.operating_points
    choices: dict[str, dict[str, float]] = {
        "high_specificity": {"specificity": section.high_specificity},
        "high_sensitivity": {"sensitivity": section.high_sensitivity},
    }
    return [
        {"name": name, "task": COVID, "score": f"p_{COVID}", "fold": fold, "target": target,
         "threshold": choose_threshold(truth, score, **target), "chosen_on": "val"}
        for name, target in choices.items()
    ]  # fmt: skip


def point_metrics(
    predictions: pd.DataFrame, points: Sequence[dict[str, Any]], bootstrap: Bootstrap
) -> tuple[list[dict[str, Any]], dict[str, Estimate]]:
    """The operating points with what they give on test, every fold's pictures called by its own frozen threshold."""
    metrics: dict[str, Estimate] = {}
    filled = []
    truth = (predictions["label"] == COVID).to_numpy()
    for point in points:
        called = is_positive(predictions[point["score"]], threshold_of(point, predictions))
        both: dict[str, Any] = {}
        rates = {"sensitivity": (truth, called), "specificity": (~truth, ~called), "ppv": (called, truth)}
        for name, (rows, hit) in rates.items():
            rate = both_estimates(
                hit[rows], predictions["group"].to_numpy()[rows], no_rows="no such rows", bootstrap=bootstrap
            )
            metrics[f"test.{point['task']}.{name}@{point['name']}"] = rate.clustered
            both[name], both[f"{name}_clustered"] = rate.exact.to_dict(), rate.clustered.to_dict()
        filled.append(point | both)
    return filled, metrics


def choose_points(predictions: pd.DataFrame, config: CovidConfig) -> list[dict[str, Any]]:
    """The operating points of pooled stacking predictions (`fold` in each row)."""
    parts = predictions.groupby("fold")
    return pooled_points([p for fold, rows in parts for p in choose_fold_points(rows, config, int(str(fold)))])


def chance_of(predictions: pd.DataFrame) -> float:
    """Macro-F1 to be expected of answers drawn with the classes' own frequencies: an F1 is then its class's share."""
    shares = predictions["label"].value_counts(normalize=True)
    return float(shares.mean())
