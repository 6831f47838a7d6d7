"""What the prediction sets of a run hold on test: metrics, and a section of the report. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.shared.data.records import RECALIBRATION
from pipelines.shared.judging.prediction_sets import (
    NEITHER,
    SetTask,
    is_yes_or_no,
    members,
    one_row_a_case,
    probabilities,
    telling,
)
from pipelines.shared.judging.report import Block, Cell, Section, Table, Text, left_then_right, words
from pipelines.shared.stats.conformal import group_weights, groups_needed
from pipelines.shared.stats.estimate import Estimate
from pipelines.shared.stats.proportions import weighted_ratio_estimate

if TYPE_CHECKING:
    from pipelines.shared.study import Evidence, Results, Study

Frozen = Mapping[str, Any]  # an entry of prediction_sets.json, see `choose_sets`

LIMITS = (
    "What is not promised. Not this very val part: the promise is an average over such parts, and thresholds from few "
    "groups may cover some percent more or less. Not another site: other devices or other patients can lower the "
    "coverage (`mode=evaluate … recalibrate=<share>` chooses the thresholds anew on a part of that site's groups). Not "
    "every kind of patient: coverage is an average over a class, and a subgroup may have less. Not the single patient: "
    "this one's set holds the truth or does not, and a set of one class is no proof of it. Besides, val also chose the "
    "networks' best epoch (or penalty), and where there is a calibration its temperature and the frequencies of the "
    "classes, so that the promise holds nearly, not exactly: the coverage on test is the check."
)
# Why a class of enough groups can be without a threshold.
TOO_MANY = "the probability of the class is 0, or missing, in too many of its records (as where training lacked it)"


def with_prediction_sets(study: Study[Any], evidence: Evidence[Any], results: Results) -> Results:
    """The results with what the frozen sets hold on test: metrics, and a section of the report.

    `test.<task>.coverage@<set>`, of single classes `coverage[<class>]`; `single` (share of sets of one class, besides
    those that are in every set) and `single_right` (of these, how many hold the true one). Of several classes also
    `set_size`; of yes or no `single[no]`, `single[yes]`, `both` and `neither`. A group counts once for each of its
    classes. Where no class has a threshold there are no sets and no metrics, and the section says why.
    """
    if not evidence.networks or not evidence.prediction_sets:
        return results
    tasks = {task.name: task for task in study.set_tasks(evidence.networks[0], evidence.config)}
    metrics: dict[str, Estimate] = {}
    blocks: list[Block] = []
    for frozen in evidence.prediction_sets:
        task = tasks.get(frozen["task"])
        if task is not None and not telling(frozen).any():
            blocks.append(Text(why_there_are_none(task.title, frozen)))
        elif task is not None:
            estimates, unknown = _estimates(evidence, task, frozen)
            metrics |= {f"test.{task.name}.{key}@{frozen['name']}": e for key, e in estimates.items()}
            blocks += _blocks(task, frozen, estimates, unknown)
    if not blocks:
        return results
    limits = [Text(LIMITS, "note")] if metrics else []
    return replace(
        results,
        metrics=results.metrics | metrics,
        sections=[*results.sections, Section("Prediction sets", [*blocks, *limits])],
    )


def _estimates(evidence: Evidence[Any], task: SetTask, frozen: Frozen) -> tuple[dict[str, Estimate], int]:
    """The metrics by name, and how many test cases with an answer have no true class among the set's."""
    table, classes, bootstrap = evidence.predictions["test"], frozen["classes"], evidence.bootstrap
    truth = task.truth(table)
    answered = one_row_a_case(table, frozen) & ~np.isnan(probabilities(table, frozen)).all(axis=1)
    known = answered & truth.isin(classes).to_numpy()
    inside, names, group = members(table, frozen)[known], truth[known].to_numpy(), table["group"].to_numpy()[known]
    size, codes = inside.sum(axis=1), np.array([classes.index(name) for name in names], int)
    hit = inside[np.arange(len(codes)), codes]
    every, single = np.ones(len(codes), bool), inside[:, telling(frozen)].sum(axis=1) == 1
    absent = "the class does not occur in test"
    asked = {  # what is averaged, over which cases, and why there may be none
        "coverage": (hit, every, ""),
        **{f"coverage[{name}]": (hit, codes == k, absent) for k, name in enumerate(classes)},
    }
    if is_yes_or_no(frozen):
        single = size == 1
        asked |= {f"single[{name}]": (single & inside[:, k], every, "") for k, name in enumerate(classes)}
        asked |= {"both": (size == 2, every, ""), NEITHER: (size == 0, every, "")}
    else:
        asked["set_size"] = (size, every, "")
    asked |= {"single": (single, every, ""), "single_right": (hit, single, "no set holds one class alone")}
    unknown = int((answered & ~known).sum())
    if not known.any():
        return dict.fromkeys(asked, Estimate(None, n=0, groups=0, reason="no test record has a known class")), unknown
    weights = group_weights(group, names)

    def mean(values: np.ndarray, rows: np.ndarray, none: str) -> Estimate:
        if not rows.any():
            return Estimate(None, n=0, groups=0, reason=none)
        return weighted_ratio_estimate((weights * values)[rows], weights[rows], group[rows], bootstrap=bootstrap)

    return {key: mean(*what) for key, what in asked.items()}, unknown


# --- the section ---


def _level(frozen: Frozen) -> str:
    return f"{100 * frozen['level']:g} %"


def _chosen_on(frozen: Frozen) -> str:
    return str(frozen.get("chosen_on", "val"))


def why_there_are_none(title: str, frozen: Frozen) -> str:
    """Why no class of a frozen entry has a threshold, for the report."""
    if "reason" in frozen:
        return f"**{title}.** No prediction sets: {frozen['reason']}"
    counts = ", ".join(f"{words(name)} {n}" for name, n in zip(frozen["classes"], frozen["groups"], strict=True))
    scoreless = _scoreless(frozen)
    return (
        f"**{title}.** No prediction sets. A threshold at {_level(frozen)} takes {groups_needed(frozen['level'])} "
        f"groups (patients, lesions) with the class in {_chosen_on(frozen)}, which has of {counts}. "
        + (f"Of {', '.join(scoreless)} there are enough, but {TOO_MANY}. " if scoreless else "")
        + ("" if len(scoreless) == len(frozen["classes"]) else _what_helps(frozen))
    ).rstrip()


def _scoreless(frozen: Frozen) -> list[str]:
    """Classes that have groups enough and still no threshold."""
    needed = groups_needed(frozen["level"])
    parts = zip(frozen["classes"], frozen["thresholds"], frozen["groups"], strict=True)
    return [words(name) for name, threshold, groups in parts if threshold == 0 and groups >= needed]


def _what_helps(frozen: Frozen) -> str:
    if _chosen_on(frozen) == RECALIBRATION:
        return "More groups or a larger share help."
    return "More groups, a larger val part or a lower `conformal.level` help."


def _blocks(task: SetTask, frozen: Frozen, estimates: Mapping[str, Estimate], unknown: int) -> list[Block]:
    level, chosen_on = _level(frozen), _chosen_on(frozen)
    if is_yes_or_no(frozen):
        what = (
            "In place of yes or no, what the network cannot rule out: no, yes, both (it is unsure), or neither (the "
            "score is where few of either lie; as unsure as both)"
        )
        rule = (
            "An answer belongs to the set where its probability reaches the answer's threshold; that of no is 1 minus "
            "that of yes."
        )
    else:
        what = "In place of one answer, the classes that the network cannot rule out"
        rule = (
            "A class belongs to the set where its probability reaches the class's threshold, and the most probable "
            "class always does."
        )
    case = "" if task.unit is None else f" The rows of one {task.unit} have one set, from their mean probabilities."
    text = (
        f"**{task.title}.** {what} (column `{frozen['task']}@{frozen['name']}` of the predictions). {rule}{case} The "
        f"thresholds were chosen on {chosen_on}, so that {level} of the new groups (patients, lesions) with a class "
        "have it in their set, whether or not the probabilities are calibrated: split conformal prediction, class by "
        "class, each group counted once however many records it has."
    )
    rows: list[list[Cell]] = []
    for name, threshold, groups in zip(frozen["classes"], frozen["thresholds"], frozen["groups"], strict=True):
        estimate = estimates[f"coverage[{name}]"]
        shown = f"{threshold:.3g}" if threshold > 0 else "always in"
        rows.append([words(name), groups, shown, estimate.groups, estimate.n, estimate])
    whole = estimates["coverage"]
    one, every = ("Answer", "All answers") if is_yes_or_no(frozen) else ("Class", "All classes")
    rows.append([every, None, None, whole.groups, whole.n, whole])
    columns = [one, f"Groups in {chosen_on}", "Threshold", "Groups in test", "Records", "Coverage on test"]
    caption = (
        f"How often the set holds the true class; {level} were asked for. Always in: the class has no threshold (the "
        "notes below say why), and belongs to every set. Intervals from resampling groups."
    )
    sizes = _sizes(frozen, estimates)
    blocks: list[Block] = [
        Text(text),
        Table(columns, rows, caption, left_then_right(columns)),
        Table(["How much the sets say", "Test"], sizes, "The smaller the sets, the more they say."),
    ]
    return [*blocks, *(Text(note, "note") for note in _notes(frozen, estimates, unknown))]


def _sizes(frozen: Frozen, estimates: Mapping[str, Estimate]) -> list[list[Cell]]:
    right: list[Cell] = ["Of these, with the true class", estimates["single_right"]]
    if is_yes_or_no(frozen):
        return [
            ["No alone", estimates["single[no]"]],
            ["Yes alone", estimates["single[yes]"]],
            ["Both: unsure", estimates["both"]],
            ["Neither", estimates[NEITHER]],
            ["Sets of one answer", estimates["single"]],
            right,
        ]
    besides = "" if telling(frozen).all() else ", besides those in every set"
    return [
        ["Classes in a set, mean", estimates["set_size"]],
        [f"Sets of one class{besides}", estimates["single"]],
        right,
    ]


def _notes(frozen: Frozen, estimates: Mapping[str, Estimate], unknown: int) -> list[str]:
    level, chosen_on, needed = _level(frozen), _chosen_on(frozen), groups_needed(frozen["level"])
    few = [
        f"{words(name)} ({groups})"
        for name, groups in zip(frozen["classes"], frozen["groups"], strict=True)
        if groups < needed
    ]
    notes, of_fold = [], " of a fold that has too few" if "fold_thresholds" in frozen else ""
    if few:
        notes.append(
            f"Too few groups in {chosen_on} for a threshold at {level}, which takes {needed}: {', '.join(few)}. "
            f"Nothing rules out such a class, so it belongs to every set{of_fold}. {_what_helps(frozen)}"
        )
    scoreless = _scoreless(frozen)
    if scoreless:
        notes.append(
            f"No threshold for {', '.join(scoreless)}, though there are groups enough: {TOO_MANY}. Nothing rules out "
            "such a class either, so it belongs to every set."
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
