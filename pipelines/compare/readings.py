"""A run's headline metric, found again from its prediction table as a function of resampled rows.

Nothing of the study is asked: the columns of the contract are tried (`<task>` with `p_<task>`; a target with the most
probable of its `p_<class>`), and only what gives exactly the value in metrics.json is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipelines.compare.runs import Run
from pipelines.shared.errors import StatisticsError
from pipelines.shared.stats.auc import auroc_statistic, average_precision_statistic
from pipelines.shared.stats.bootstrap import Statistic
from pipelines.shared.stats.confusion import (
    accuracy,
    balanced_accuracy,
    class_f1,
    cohen_kappa,
    confusion_cells,
    macro_f1,
)
from pipelines.shared.untaught import most_probable

SAME = 1e-9
Measure = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Reading:
    """A metric as a function of resamples, and the rows that it rests on.

    Attributes:
        rows: positions in the run's test table (those whose target is known).
        truth: the target of these rows.
        score: the score that an AUROC ranks; None for any other metric.
        statistic: counts (b, rows) -> values (b,).
        group: keys of these rows.
    """

    rows: np.ndarray
    truth: np.ndarray
    score: np.ndarray | None
    statistic: Statistic
    group: np.ndarray


def read_metric(run: Run, key: str) -> Reading | str:
    """The metric as a `Reading`, or why it cannot be had from the prediction table."""
    expected = run.estimate(key)
    if expected is None or expected.value is None:
        return f"{key} is undefined: {expected.reason if expected else 'it is not in metrics.json'}"
    split, task, name = key.split(".", 2)
    if split != "test":
        return f"{key} is not a metric of test"
    candidates = _binary(run.test, task, name) if name in ("auroc", "average_precision") else _matrix(run, task, name)
    for reading in candidates:
        try:
            value = float(reading.statistic(np.ones((1, len(reading.rows)), dtype=np.uint8))[0])
        except StatisticsError:
            continue
        if abs(value - expected.value) < SAME:
            return reading
    return f"{key} cannot be found again from the columns of predictions/test.parquet"


def _binary(test: pd.DataFrame, task: str, name: str) -> Iterator[Reading]:
    if task not in test or f"p_{task}" not in test:
        return
    rows = np.flatnonzero(test[task].notna().to_numpy())
    truth, score = test[task].to_numpy()[rows].astype(float), test[f"p_{task}"].to_numpy()[rows]
    make = auroc_statistic if name == "auroc" else average_precision_statistic
    try:
        statistic = make(truth, score)
    except StatisticsError:
        return
    yield Reading(rows, truth, score if name == "auroc" else None, statistic, test["group"].to_numpy()[rows])


def _weighted_f1(confusion: np.ndarray) -> np.ndarray:
    """Mean F1 weighted by support, (..., k, k) -> (...); one that is undefined counts as 0."""
    support = confusion.sum(axis=-1)
    mean: np.ndarray = (np.nan_to_num(class_f1(confusion)) * support).sum(axis=-1) / support.sum(axis=-1)
    return mean


def _measure(task: str, name: str) -> Measure | None:
    measures: dict[str, Measure] = {
        "accuracy": accuracy,
        "balanced_accuracy": balanced_accuracy,
        "macro_f1": macro_f1,
        "quadratic_kappa": cohen_kappa,
    }
    if task == "weighted" and name.startswith("f1"):
        return _weighted_f1
    return measures.get(name)


def _matrix(run: Run, task: str, name: str) -> Iterator[Reading]:
    """Confusion matrices of every target column with every column of answers that fits it."""
    measure, test = _measure(task, name), run.test
    if measure is None:
        return
    for target in dict.fromkeys([task, "label", "target", "grade"]):
        if target not in test:
            continue
        rows = np.flatnonzero(test[target].notna().to_numpy())
        truth = _words(test[target].iloc[rows])
        for predicted in _answers(run, target, rows):
            classes = sorted({*truth, *predicted}, key=_numbers_first)
            yield Reading(
                rows, truth, None, _of_matrix(truth, predicted, classes, measure), test["group"].to_numpy()[rows]
            )


def _answers(run: Run, target: str, rows: np.ndarray) -> Iterator[np.ndarray]:
    """Answers for the target's rows: the most probable of its classes, or a column that states them."""
    test = run.test.iloc[rows]
    values = run.records[target].dropna() if target in run.records else test[target]
    classes = sorted({*_words(values), *_words(test[target])})
    every = {str(c).removeprefix("p_"): str(c) for c in test if str(c).startswith("p_")}
    own = {c: f"p_{c}" for c in classes if f"p_{c}" in test}
    for chosen in (every, own, own | _of_ancestors(run, target, [c for c in classes if c not in own])):
        if len(chosen) > 1:
            best = most_probable(test[list(chosen.values())].to_numpy(float))
            yield np.array(list(chosen), dtype=object)[best]
    for column in (f"{target}_predicted", "class_predicted"):
        if column in test:
            yield _words(test[column])


def _of_ancestors(run: Run, target: str, classes: list[str]) -> dict[str, str]:
    """For classes of a taxonomy that have no column of their own: that of the deepest node of their `lineage` with one.

    A lineage is a path of nodes from the top, joined by "/".
    """
    if "lineage" not in run.records or target not in run.records:
        return {}
    lineage = run.records.drop_duplicates(target).set_index(target)["lineage"]
    columns = {}
    for name in classes:
        nodes = str(lineage.get(name, "")).split("/")
        column = next((f"p_{node}" for node in reversed(nodes) if f"p_{node}" in run.test), None)
        if column is not None:
            columns[name] = column
    return columns


def _of_matrix(truth: np.ndarray, predicted: np.ndarray, classes: list[str], measure: Measure) -> Statistic:
    cells = confusion_cells(truth, predicted, classes)
    k = len(classes)
    used, place = np.unique(cells, return_inverse=True)
    members = np.zeros((len(cells), len(used)))
    members[np.arange(len(cells)), place] = 1

    def statistic(counts: np.ndarray) -> np.ndarray:
        matrices = np.zeros((len(counts), k * k))
        matrices[:, used] = counts @ members
        return measure(matrices.reshape(-1, k, k))

    return statistic


def _words(column: pd.Series) -> np.ndarray:
    """Values as text; whole numbers without their decimal point."""
    return np.array(
        [str(int(v)) if isinstance(v, (float, np.floating)) and float(v).is_integer() else str(v) for v in column],
        dtype=object,
    )


def _numbers_first(word: str) -> tuple[int, float, str]:
    return (0, float(word), word) if word.replace(".", "", 1).isdigit() else (1, 0.0, word)
