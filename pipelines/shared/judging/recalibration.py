"""A finished run recalibrated on a part of a new site (`recalibrate=<share>`), beside the frozen one. No torch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pipelines.shared.judging.coverage import why_there_are_none, with_prediction_sets
from pipelines.shared.judging.prediction_sets import FrozenSets, checked_sets, telling
from pipelines.shared.judging.report import Cell, Section, Table, Text, words
from pipelines.shared.run import checked_points
from pipelines.shared.run_folder import read_json, read_table
from pipelines.shared.study import Evidence, Results, Study

FILE = "recalibration.json"
RECALIBRATED = "recalibrated"  # the test part's answers afterwards, and the first word of their metrics


def recalibrated_results(study: Study[Any], evidence: Evidence[Any]) -> Results | None:
    """What the recalibrated answers give on the same test records; None where nothing was recalibrated.

    It draws the study's figures, so those of the frozen answers must be drawn after it.

    Raises:
        RunError: recalibration.json or the answers' table is damaged.
    """
    file = evidence.folder.path / FILE
    if not file.exists():
        return None
    made = read_json(file, ["operating_points"])
    points = checked_points(made["operating_points"], file)
    sets = checked_sets(made.get("prediction_sets", []), file)
    table = read_table(evidence.folder.predictions(RECALIBRATED), ["id", "group"])
    evidence = replace(evidence, predictions={"test": table}, operating_points=points, prediction_sets=sets)
    return with_prediction_sets(study, evidence, study.evaluate(evidence))


def beside(frozen: Results, recalibrated: Results, evidence: Evidence[Any]) -> Results:
    """The frozen results, which stay what the run is judged by, with the recalibrated ones beside them.

    Rates at the new thresholds, and other metrics that recalibration changed, are added as
    `recalibrated.<task>.<metric>`, its operating points as `recalibrated_<name>`.
    """
    made = read_json(
        evidence.folder.path / FILE, ["share", "seed", "records", "groups", "chosen", "operating_points", "not_chosen"]
    )
    changed = {
        key: estimate
        for key, estimate in recalibrated.metrics.items()
        if key.startswith("test.")
        and ("@" in key or key not in frozen.metrics or estimate.value != frozen.metrics[key].value)
    }
    test = evidence.records[evidence.records["split"] == "test"]
    text = (
        f"Of the site's groups a random {made['share']:.0%} was set aside ({made['records']:,} records of "
        f"{made['groups']:,} groups; seed {made['seed']}), to choose anew on it what the run had frozen. Both answers "
        f"are judged on the others, {len(test):,} records of {test['group'].nunique():,} groups. Everything else in "
        "this report is of the frozen run: recalibrated is what that many labelled cases of the site can make of it."
    )
    blocks: list[Any] = [Text(text)]
    if made["chosen"]:
        blocks.append(Text("Chosen besides thresholds: " + "; ".join(map(_said, made["chosen"].items())) + "."))
    if made["not_chosen"]:
        blocks.append(
            Text(f"No new threshold for {', '.join(made['not_chosen'])}: one of the two parts lacks a class.", "note")
        )
    sets = {s["task"]: s for s in made.get("prediction_sets", [])}
    blocks += _without_sets(evidence.prediction_sets, sets)
    if recalibrated.operating_points:
        blocks.append(_thresholds(frozen.operating_points, recalibrated.operating_points))
    rows: list[list[Cell]] = [
        [key.removeprefix("test."), frozen.metrics.get(key), estimate]
        for key, estimate in changed.items()
        if "=" not in key  # not of every subgroup, `[sex=F]`
    ]
    if rows:
        blocks.append(Table(["On the same records", "Frozen", "Recalibrated"], rows, "What recalibration changed."))
    points = [{**p, "name": f"{RECALIBRATED}_{p['name']}"} for p in recalibrated.operating_points]
    return replace(
        frozen,
        metrics=frozen.metrics | {RECALIBRATED + key.removeprefix("test"): e for key, e in changed.items()},
        operating_points=[*frozen.operating_points, *points],
        sections=[*frozen.sections, Section("Recalibrated for this site", blocks)],
    )


def _without_sets(frozen: FrozenSets, anew: dict[str, dict[str, Any]]) -> list[Text]:
    """Of which of the run's tasks the part that was set aside gave no prediction sets, and why."""
    said = []
    for task in (entry["task"] for entry in frozen):
        if task not in anew:
            said.append(
                f"**{words(task)}.** No prediction sets: no record that was set aside has a class to choose on."
            )
        elif not telling(anew[task]).any():
            said.append(why_there_are_none(words(task), anew[task]))
    return [Text(text, "note") for text in said]


def _thresholds(frozen: list[dict[str, Any]], recalibrated: list[dict[str, Any]]) -> Table:
    before = {(p.get("task"), p["name"]): p["threshold"] for p in frozen}
    rows: list[list[Cell]] = [
        [f"{p.get('task', '')} {p['name']}".strip(), before.get((p.get("task"), p["name"])), p["threshold"]]
        for p in recalibrated
    ]
    return Table(["Threshold", "Frozen", "Recalibrated"], rows, "Thresholds, for the same targets.")


def _said(item: tuple[str, Any]) -> str:
    name, value = item
    values = value if isinstance(value, list) else [value]
    shown = ", ".join(f"{v:.3g}" if isinstance(v, float) else str(v) for v in values if v is not None)
    return f"{name.replace('_', ' ')} {shown}"
