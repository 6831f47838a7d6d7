"""Prediction sets of a run: chosen on val, frozen in prediction_sets.json, columns of predictions, judged on test.

The statistics, and what they promise, are in `stats.conformal`. No torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pipelines.shared.errors import RunError
from pipelines.shared.judging.report import Block, Cell, Section, Table, Text, left_then_right, words
from pipelines.shared.run_folder import AGAIN, RunFolder, plain, read_json, write_json
from pipelines.shared.stats.conformal import class_thresholds, group_weights, groups_needed, prediction_sets
from pipelines.shared.stats.estimate import Estimate
from pipelines.shared.stats.proportions import weighted_ratio_estimate

if TYPE_CHECKING:
    from pipelines.shared.study import Evidence, Results, Study

SEPARATOR = "|"
FrozenSets = list[dict[str, Any]]  # the content of prediction_sets.json, see `choose_sets`


@dataclass(frozen=True)
class SetTask:
    """A question with several answers, of which one is right, and which gets prediction sets.

    Attributes:
        name: in columns and in the keys of metrics, `<split>.<name>.<metric>`.
        title: for people.
        scores: class -> column of its probability.
        truth: of a prediction table, the true class of each row; None where it is unknown or none of these.
    """

    name: str
    title: str
    scores: Mapping[str, str]
    truth: Callable[[pd.DataFrame], pd.Series]


# --- chosen and frozen ---


def choose_sets(tasks: Sequence[SetTask], predictions: pd.DataFrame, level: float | None) -> FrozenSets:
    """Thresholds of each class, chosen on these predictions (those of `val`).

    Args:
        tasks: a task without any true class or probability here has none.
        predictions: with `group`.
        level: share of each class that is to be covered; None: no sets.

    Returns:
        One entry a task: `name` (`set_90`), task, level, `classes`, `scores` (their columns), `thresholds` (0: the
        class always belongs to the set), `groups` (of each class, that the threshold rests on).
    """
    found: FrozenSets = []
    for task in tasks if level is not None else ():
        truth = task.truth(predictions)
        rows = predictions[truth.notna()]
        classes, columns = list(task.scores), list(task.scores.values())
        if level is None or rows.empty or rows[columns].isna().all(axis=None):
            continue
        codes = truth[truth.notna()].map(classes.index).to_numpy(int)
        thresholds, groups = class_thresholds(rows[columns].to_numpy(), codes, rows["group"].to_numpy(), level)
        found.append(
            {
                "name": f"set_{100 * level:g}",
                "task": task.name,
                "level": level,
                "classes": classes,
                "scores": columns,
                "thresholds": thresholds.tolist(),
                "groups": groups.tolist(),
            }
        )
    return found


def pooled_sets(folds: Mapping[int, FrozenSets]) -> FrozenSets:
    """The sets of a cross-validation, of the tasks that every fold has.

    Returns:
        As `choose_sets`, with `fold_thresholds` by the fold's number as text; `thresholds` are their medians, for
        records that belong to no fold, `groups` the fewest of any fold.
    """
    by_fold = {str(k): {s["task"]: s for s in sets} for k, sets in folds.items()}
    pooled = []
    for task, first in next(iter(by_fold.values()), {}).items():
        if all(task in sets for sets in by_fold.values()):
            own = {k: sets[task]["thresholds"] for k, sets in by_fold.items()}
            fewest = np.min([sets[task]["groups"] for sets in by_fold.values()], axis=0)
            middle = np.median(list(own.values()), axis=0)
            pooled.append(
                first | {"thresholds": middle.tolist(), "groups": fewest.tolist(), "fold_thresholds": dict(own)}
            )
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
    lists = {"scores": str, "groups": int, "thresholds": int | float}
    return (
        all(isinstance(entry.get(key), str) for key in ("name", "task"))
        and all(_list_of(entry.get(key), kind, len(classes)) for key, kind in lists.items())
        and all(_list_of(values, int | float, len(classes)) for values in folds.values())
    )


def _list_of(values: object, kind: Any, length: int) -> bool:
    return isinstance(values, list) and len(values) == length and all(isinstance(value, kind) for value in values)


# --- as columns ---


def members(predictions: pd.DataFrame, frozen: Mapping[str, Any]) -> np.ndarray:
    """Which classes belong to the set of each row, bool (rows, classes); after a cross-validation by its own fold.

    Raises:
        RunError: the predictions lack a score that the set is made of.
    """
    lacking = [column for column in frozen["scores"] if column not in predictions]
    if lacking:
        raise RunError(
            f"prediction_sets.json asks for the score '{lacking[0]}', which the networks do not give.",
            "Copy the whole run folder again.",
        )
    thresholds = np.array(frozen["thresholds"], float)
    if "fold_thresholds" in frozen and "fold" in predictions:
        names = ["" if pd.isna(k) else str(int(k)) for k in predictions["fold"]]
        own = [frozen["fold_thresholds"].get(name, frozen["thresholds"]) for name in names]
        thresholds = np.array(own, float).reshape(len(names), len(frozen["classes"]))
    return prediction_sets(predictions[frozen["scores"]].to_numpy(float), thresholds)


def with_set_columns(predictions: pd.DataFrame, sets: FrozenSets) -> pd.DataFrame:
    """The table with a column `<task>@<name>` (`class@set_90`) for each of the sets: its classes, joined by "|".

    Null where there is no answer.
    """
    columns = {}
    for frozen in sets:
        names = np.array(frozen["classes"], dtype=object)
        texts = [SEPARATOR.join(names[row]) or None for row in members(predictions, frozen)]
        columns[f"{frozen['task']}@{frozen['name']}"] = pd.Series(texts, index=predictions.index, dtype=object)
    return predictions.assign(**columns)


# --- judged ---


def with_prediction_sets(study: Study[Any], evidence: Evidence[Any], results: Results) -> Results:
    """The results with what the frozen sets hold on test: metrics, and a section of the report.

    `test.<task>.coverage@<set>`, of single classes `coverage[<class>]`; `set_size`, `single` (share of sets of one
    class, besides those that are in every set) and `single_right` (of these, how many hold the true one). A group
    counts once for each of its classes.
    """
    classes = evidence.networks[0]["classes"] if evidence.networks else []
    tasks = {task.name: task for task in study.set_tasks(classes)}
    metrics: dict[str, Estimate] = {}
    blocks: list[Block] = []
    for frozen in evidence.prediction_sets:
        if frozen["task"] in tasks:
            estimates, unknown = _estimates(evidence, tasks[frozen["task"]], frozen)
            metrics |= {f"test.{frozen['task']}.{key}@{frozen['name']}": e for key, e in estimates.items()}
            blocks += _blocks(tasks[frozen["task"]], frozen, estimates, unknown)
    if not blocks:
        return results
    return replace(
        results,
        metrics=results.metrics | metrics,
        sections=[*results.sections, Section("Prediction sets", [*blocks, Text(LIMITS, "note")])],
    )


LIMITS = (
    "What is not promised. Not this very val part: the promise is an average over such parts, and thresholds from few "
    "groups may cover some percent more or less. Not another site: other cameras or other patients can lower the "
    "coverage (`mode=evaluate … recalibrate=<share>` chooses the thresholds anew on a part of that site's groups). Not "
    "every kind of patient: coverage is an average over a class, and a subgroup may have less. Not the single patient: "
    "this one's set holds the truth or does not, and a set of one class is no proof of it. Besides, val also chose the "
    "networks' best epoch, so that the promise holds nearly, not exactly: the coverage on test is the check."
)


def _estimates(evidence: Evidence[Any], task: SetTask, frozen: Mapping[str, Any]) -> tuple[dict[str, Estimate], int]:
    """The metrics by name, and how many test records with an answer have no true class among the set's."""
    test, bootstrap = evidence.predictions["test"], evidence.bootstrap
    test = test[test[frozen["scores"]].notna().any(axis=1)]
    truth = task.truth(test)
    inside, known = members(test, frozen), truth.isin(frozen["classes"]).to_numpy()
    inside, names = inside[known], truth[known].to_numpy()
    group = test["group"].to_numpy()[known]
    nothing = Estimate(None, n=0, groups=0, reason="no test record has a known class")
    keys = ["coverage", *(f"coverage[{name}]" for name in frozen["classes"]), "set_size", "single", "single_right"]
    if not known.any():
        return dict.fromkeys(keys, nothing), len(test)
    weights, codes = group_weights(group, names), np.array([frozen["classes"].index(name) for name in names])
    hit, size = inside[np.arange(len(codes)), codes], inside.sum(axis=1)

    def mean(values: np.ndarray, rows: np.ndarray, none: str) -> Estimate:
        if not rows.any():
            return Estimate(None, n=0, groups=0, reason=none)
        return weighted_ratio_estimate((weights * values)[rows], weights[rows], group[rows], bootstrap=bootstrap)

    every, single = np.ones(len(codes), bool), inside[:, _telling(frozen)].sum(axis=1) == 1
    values = [
        mean(hit, every, ""),
        *(mean(hit, codes == k, "the class does not occur in test") for k in range(len(frozen["classes"]))),
        mean(size, every, ""),
        mean(single, every, ""),
        mean(hit, single, "no set holds one class alone"),
    ]
    return dict(zip(keys, values, strict=True)), int((~known).sum())


def _telling(frozen: Mapping[str, Any]) -> np.ndarray:
    """Which classes are not in every set, bool (classes,)."""
    own = [frozen["thresholds"], *frozen.get("fold_thresholds", {}).values()]
    return np.asarray((np.array(own, float) > 0).any(axis=0))


def _blocks(task: SetTask, frozen: Mapping[str, Any], estimates: Mapping[str, Estimate], unknown: int) -> list[Block]:
    level, chosen_on = f"{100 * frozen['level']:g} %", frozen.get("chosen_on", "val")
    needed = groups_needed(frozen["level"])
    text = (
        f"**{task.title}.** In place of one answer, the classes that the network cannot rule out (column "
        f"`{frozen['task']}@{frozen['name']}` of the predictions). A class belongs to the set where its probability "
        f"reaches the class's threshold, and the most probable class always does. The thresholds were chosen on "
        f"{chosen_on}, so that {level} of the new groups (patients, lesions) with a class have it in their set, "
        "whether or not the probabilities are calibrated: split conformal prediction, class by class, each group "
        "counted once however many records it has."
    )
    rows: list[list[Cell]] = []
    for name, threshold, groups in zip(frozen["classes"], frozen["thresholds"], frozen["groups"], strict=True):
        estimate = estimates[f"coverage[{name}]"]
        shown = f"{threshold:.3g}" if threshold > 0 else "always in"
        rows.append([words(name), groups, shown, estimate.groups, estimate.n, estimate])
    whole = estimates["coverage"]
    rows.append(["All classes", None, None, whole.groups, whole.n, whole])
    columns = ["Class", f"Groups in {chosen_on}", "Threshold", "Groups in test", "Records", "Coverage on test"]
    caption = (
        f"How often the set holds the true class; {level} were asked for. Always in: the class has no threshold, and "
        "belongs to every set. Intervals from resampling groups."
    )
    besides = "" if _telling(frozen).all() else ", besides those in every set"
    sizes: list[list[Cell]] = [
        ["Classes in a set, mean", estimates["set_size"]],
        [f"Sets of one class{besides}", estimates["single"]],
        ["Of these, with the true class", estimates["single_right"]],
    ]
    blocks: list[Block] = [
        Text(text),
        Table(columns, rows, caption, left_then_right(columns)),
        Table(["How much the sets say", "Test"], sizes, "The smaller the sets, the more they say."),
    ]
    return [*blocks, *(Text(note, "note") for note in _notes(frozen, estimates, unknown, needed, level, chosen_on))]


def _notes(
    frozen: Mapping[str, Any],
    estimates: Mapping[str, Estimate],
    unknown: int,
    needed: int,
    level: str,
    chosen_on: str,
) -> list[str]:
    few = [
        f"{words(name)} ({groups})"
        for name, groups in zip(frozen["classes"], frozen["groups"], strict=True)
        if groups < needed
    ]
    notes = []
    if not _telling(frozen).any():
        notes.append("No class has a threshold: every set holds all of them, and says nothing.")
    if few:
        notes.append(
            f"Too few groups in {chosen_on} for a threshold at {level}, which takes {needed}: {', '.join(few)}. "
            "Nothing rules out such a class, so it belongs to every set. More groups, a larger val part or a lower "
            "`conformal.level` help."
        )
    if "fold_thresholds" in frozen:
        notes.append(
            "Cross-validated: the records of each fold have that fold's own thresholds. Shown is their median, and the "
            "fewest groups of any fold; for other data the median is used, for which nothing is promised."
        )
    short = [
        words(name)
        for name in frozen["classes"]
        if (high := estimates[f"coverage[{name}]"].high) is not None and high < frozen["level"]
    ]
    if short:
        notes.append(
            f"On test clearly less than {level} were covered of: {', '.join(short)}. Few groups "
            f"chose their thresholds, or test is unlike {chosen_on}."
        )
    if unknown:
        notes.append(
            f"{unknown:,} test records have no known class, or one that the network does not answer: not counted."
        )
    return notes
