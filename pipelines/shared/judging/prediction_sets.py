"""Prediction sets of a run: chosen on val, frozen in prediction_sets.json, columns of predictions.

The statistics, and what they promise, are in `stats.conformal`; how sets are judged, in `coverage`. No torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipelines.shared.errors import RunError
from pipelines.shared.log import log
from pipelines.shared.run_folder import AGAIN, RunFolder, plain, read_json, write_json
from pipelines.shared.stats.conformal import class_thresholds, prediction_sets

SEPARATOR = "|"
NO, YES, NEITHER = "no", "yes", "neither"
OTHER_CLASSES = "the folds of the cross-validation learned different classes."
FrozenSets = list[dict[str, Any]]  # the content of prediction_sets.json, see `choose_sets`


@dataclass(frozen=True)
class SetTask:
    """A question of which one answer is right, and which gets prediction sets: one of several classes, or yes or no.

    Attributes:
        name: in columns and in the keys of metrics, `<split>.<name>.<metric>`.
        title: for people.
        scores: class -> column of its probability, or columns that add up to it; of a question of yes or no that of
            `YES` alone (see `BinaryTask.set_task`).
        truth: of a prediction table, the true class of each row; None where it is unknown or none of these.
        unit: column whose value is the same in all rows of one case, such as the steps of a recording: they have one
            truth and one set, from their mean probabilities. None: each row is a case.
    """

    name: str
    title: str
    scores: Mapping[str, str | Sequence[str]]
    truth: Callable[[pd.DataFrame], pd.Series]
    unit: str | None = None

    @property
    def classes(self) -> list[str]:
        """What may be in a set."""
        return [NO, YES] if list(self.scores) == [YES] else list(self.scores)


# --- chosen and frozen ---


def choose_sets(tasks: Sequence[SetTask], predictions: pd.DataFrame, level: float | None) -> FrozenSets:
    """Thresholds of each class, chosen on these predictions (those of `val`).

    Args:
        tasks: one of a single class, or without any true class or probability here, has none.
        predictions: with `group`.
        level: share of each class that is to be covered; None: no sets.

    Returns:
        One entry a task: `name` (`set_90`), task, level, `classes`, `scores` (their columns; lists where these are
        added up; of yes or no the one of yes), `unit` where a task has one, `thresholds` (0: the class always belongs
        to the set), `groups` (of each class, that the threshold rests on).
    """
    found: FrozenSets = []
    if level is None:
        return found
    for task in tasks:
        entry: dict[str, Any] = {
            "name": f"set_{100 * level:g}",
            "task": task.name,
            "level": level,
            "classes": task.classes,
            "scores": [c if isinstance(c, str) else list(c) for c in task.scores.values()],
            **({} if task.unit is None else {"unit": task.unit}),
        }
        truth, p = task.truth(predictions), probabilities(predictions, entry)
        rows = truth.notna().to_numpy() & one_row_a_case(predictions, entry)
        if len(task.classes) < 2 or not rows.any() or np.isnan(p[rows]).all():
            continue
        codes = truth[rows].map(task.classes.index).to_numpy(int)
        thresholds, groups = class_thresholds(p[rows], codes, predictions["group"].to_numpy()[rows], level)
        found.append(entry | {"thresholds": thresholds.tolist(), "groups": groups.tolist()})
    return found


def pooled_sets(folds: Mapping[int, FrozenSets]) -> FrozenSets:
    """The sets of a cross-validation.

    Returns:
        As `choose_sets`, with `fold_thresholds` by the fold's number as text; `thresholds` are their medians, for
        records that belong to no fold, `groups` the fewest of any fold. In a fold without sets of a task each of its
        classes always belongs. A task whose classes differ has no sets, and `reason` says so.
    """
    by_fold = {str(k): {s["task"]: s for s in sets} for k, sets in folds.items()}
    pooled = []
    for task in dict.fromkeys(task for sets in by_fold.values() for task in sets):
        first = next(sets[task] for sets in by_fold.values() if task in sets)
        none = first | {"thresholds": [0.0] * len(first["classes"]), "groups": [0] * len(first["classes"])}
        own = {k: sets.get(task, none) for k, sets in by_fold.items()}
        if any(entry["classes"] != first["classes"] for entry in own.values()):
            log.warning(f"no prediction sets for {task}: {OTHER_CLASSES}")
            pooled.append(none | {"reason": OTHER_CLASSES})
            continue
        thresholds = {k: entry["thresholds"] for k, entry in own.items()}
        middle = np.median(list(thresholds.values()), axis=0).tolist()
        fewest = np.min([entry["groups"] for entry in own.values()], axis=0).tolist()
        pooled.append(first | {"thresholds": middle, "groups": fewest, "fold_thresholds": thresholds})
    return pooled


def freeze_sets(folder: RunFolder, sets: FrozenSets) -> None:
    """Write prediction_sets.json; nothing where there are none, and what an earlier start left is removed."""
    if sets:
        write_json(folder.prediction_sets, plain([{"chosen_on": "val", **s} for s in sets]))
    else:
        folder.prediction_sets.unlink(missing_ok=True)


def frozen_sets(folder: RunFolder) -> FrozenSets:
    """What prediction_sets.json of a run holds; nothing of a run that was made without them.

    Raises:
        RunError: it is damaged.
    """
    file = folder.prediction_sets
    return checked_sets(read_json(file), file) if file.exists() else []


def checked_sets(content: Any, file: Path) -> FrozenSets:
    """The sets that a file of a run holds.

    Raises:
        RunError: the file is damaged.
    """
    if not isinstance(content, list) or not all(isinstance(entry, dict) and _sound(entry) for entry in content):
        raise RunError(f"{file} does not hold the thresholds of prediction sets: it is damaged.", AGAIN)
    return content


def _sound(entry: dict[str, Any]) -> bool:
    classes, folds = entry.get("classes"), entry.get("fold_thresholds", {})
    if not isinstance(classes, list) or not isinstance(folds, dict) or not isinstance(entry.get("level"), float):
        return False
    lists = {"groups": int, "thresholds": int | float}
    return (
        all(isinstance(entry.get(key), str) for key in ("name", "task"))
        and isinstance(entry.get("unit"), str | None)
        and _list_of(entry.get("scores"), str | list)
        and len(entry["scores"]) == (1 if is_yes_or_no(entry) else len(classes))
        and all(_list_of(entry.get(key), kind, len(classes)) for key, kind in lists.items())
        and all(_list_of(values, int | float, len(classes)) for values in folds.values())
    )


def _list_of(values: object, kind: Any, length: int | None = None) -> bool:
    return (
        isinstance(values, list) and length in (None, len(values)) and all(isinstance(value, kind) for value in values)
    )


# --- as columns ---


def is_yes_or_no(frozen: Mapping[str, Any]) -> bool:
    """Whether a frozen entry is of a question of yes or no: one score, that of yes."""
    return frozen["classes"] == [NO, YES] and len(frozen["scores"]) == 1


def telling(frozen: Mapping[str, Any]) -> np.ndarray:
    """Which classes are not in every set, bool (classes,). Where there are none, there are no sets."""
    own = [frozen["thresholds"], *frozen.get("fold_thresholds", {}).values()]
    return np.asarray((np.array(own, float) > 0).any(axis=0))


def one_row_a_case(predictions: pd.DataFrame, frozen: Mapping[str, Any]) -> np.ndarray:
    """The rows that stand for their case (the first one of a recording), bool (rows,)."""
    unit = frozen.get("unit")
    return np.ones(len(predictions), bool) if unit is None else ~predictions.duplicated(unit).to_numpy()


def probabilities(predictions: pd.DataFrame, frozen: Mapping[str, Any]) -> np.ndarray:
    """The probability of each class, float64 (rows, classes), of a case in all of its rows; NaN where there is none.

    Raises:
        RunError: the predictions lack a score that the set is made of.
    """
    asked = [[score] if isinstance(score, str) else score for score in frozen["scores"]]
    lacking = [column for columns in asked for column in columns if column not in predictions]
    if lacking:
        raise RunError(
            f"prediction_sets.json asks for the score '{lacking[0]}', which the networks do not give.",
            "Copy the whole run folder again.",
        )
    p = np.column_stack([predictions[columns].astype(float).sum(axis=1, min_count=1) for columns in asked])
    if frozen.get("unit") is not None:
        p = pd.DataFrame(p).groupby(predictions[frozen["unit"]].to_numpy(), sort=False).transform("mean").to_numpy()
    return np.hstack([1 - p, p]) if is_yes_or_no(frozen) else p


def members(predictions: pd.DataFrame, frozen: Mapping[str, Any]) -> np.ndarray:
    """Which classes belong to the set of each row, bool (rows, classes); after a cross-validation by its own fold.

    Of several classes the most probable one always does. A set of yes or no may hold neither: which of the two is the
    more probable says little where a score is not calibrated.

    Raises:
        RunError: the predictions lack a score that the set is made of.
    """
    p, thresholds = probabilities(predictions, frozen), np.array(frozen["thresholds"], float)
    if "fold_thresholds" in frozen and "fold" in predictions:
        names = ["" if pd.isna(k) else str(int(k)) for k in predictions["fold"]]
        own = [frozen["fold_thresholds"].get(name, frozen["thresholds"]) for name in names]
        thresholds = np.array(own, float).reshape(len(names), len(frozen["classes"]))
    return prediction_sets(p, thresholds, never_empty=not is_yes_or_no(frozen))


def with_set_columns(predictions: pd.DataFrame, sets: FrozenSets) -> pd.DataFrame:
    """The table with a column `<task>@<name>` (`class@set_90`) for each of the sets: its classes, joined by "|".

    `neither` for an empty set; null where there is no answer. Sets of which no class has a threshold have no
    column, and one that a fold of a cross-validation gave them is removed.
    """
    columns, without = {}, []
    for frozen in sets:
        name = f"{frozen['task']}@{frozen['name']}"
        if not telling(frozen).any():
            without.append(name)
            continue
        inside, which = np.unique(members(predictions, frozen), axis=0, return_inverse=True)
        names = np.array(frozen["classes"], dtype=object)
        texts = np.array([SEPARATOR.join(names[row]) or NEITHER for row in inside], dtype=object)[which.ravel()]
        texts[np.isnan(probabilities(predictions, frozen)).all(axis=1)] = None
        columns[name] = pd.Series(texts, index=predictions.index, dtype=object)
    return predictions.drop(columns=without, errors="ignore").assign(**columns)
