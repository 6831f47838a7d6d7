"""From a run folder's tables to metrics.json, figures and report. Never torch: any result can be made again."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd

from pipelines.shared.config import StudyConfig
from pipelines.shared.data.cards import load_card
from pipelines.shared.data.records import PARTS, SPLITS
from pipelines.shared.errors import ConfigError, RunError
from pipelines.shared.handover.checklist import write_checklist
from pipelines.shared.handover.model_card import JudgedRun, write_card
from pipelines.shared.handover.tracking import Tracker
from pipelines.shared.job import config_model
from pipelines.shared.judging import figures
from pipelines.shared.judging.coverage import with_prediction_sets
from pipelines.shared.judging.prediction_sets import frozen_sets
from pipelines.shared.judging.published import published_table
from pipelines.shared.judging.recalibration import beside, recalibrated_results
from pipelines.shared.judging.report import (
    Code,
    Headline,
    HeadlineFigure,
    Picture,
    Report,
    Section,
    Table,
    Text,
    render,
)
from pipelines.shared.run_folder import AGAIN, RunFolder, plain, read_json, read_table, read_yaml, write_json
from pipelines.shared.stats.bootstrap import Bootstrap
from pipelines.shared.study import Evidence, Results, Study
from pipelines.shared.untaught import untaught_lines
from pipelines.shared.validation import check

SCHEMA = 1
# What is looked for when a run's files are read, so that a damaged one is named at once.
FLOW = ["source", "card", "synthetic", "group_key", "fingerprint", "steps", "lists", "gate", "notes", "warnings"]
HISTORY = ["network", "epoch", "train_loss", "best"]
MODEL = ["study", "name", "architecture", "classes", "preprocessing"]


def evaluate(study: Study[Any], folder: RunFolder) -> tuple[Evidence[Any], Results]:
    """What the files of a run folder show, with the study's figures drawn.

    Raises:
        RunError: a file of the run is missing or damaged.
    """
    evidence = read_evidence(study, folder)
    recalibrated = recalibrated_results(study, evidence)
    results = with_prediction_sets(study, evidence, study.evaluate(evidence))
    if recalibrated is not None:
        results = beside(results, recalibrated, evidence)
    return evidence, replace(results, warnings=[*untaught_lines(evidence.untaught), *results.warnings])


def write_results(
    study: Study[Any], evidence: Evidence[StudyConfig], results: Results, tracker: Tracker | None = None
) -> Path:
    """Write metrics.json, model card, checklist, all that the tracker gets and, as the run's last file, report.html.

    A run with its report counts as complete, so all else comes before it.

    Returns:
        The path of the report.
    """
    folder = evidence.folder
    environment = read_json(folder.environment, ["seconds", "packages", "command", "machine", "version", "commit"])
    write_json(folder.metrics, plain(metrics_file(study, evidence, results, environment)))
    card = JudgedRun(study, evidence, results, environment, load_card(evidence.flow["card"]))
    write_card(card, folder.path)
    write_checklist(card, folder.path)
    report = _report(study, evidence, results, environment)  # draws the last figures
    if tracker is not None:
        tracker.finish(folder)
    return render(report, folder.path)


def read_evidence(study: Study[Any], folder: RunFolder) -> Evidence[Any]:
    """Read a run folder's tables.

    Raises:
        RunError: one of them is missing.
    """
    records = read_table(folder.records, ["id", "group", "split", "path", "fingerprint"])
    predictions = {s: _predictions(folder, s, records) for s in SPLITS if folder.predictions(s).exists()}
    if "test" not in predictions:
        raise RunError(f"{folder.path} has no predictions/test.parquet.", "Finish the run first: mode=resume.")
    flow = read_json(folder.flow, FLOW)
    points = read_json(folder.operating_points)
    if not isinstance(points, list):
        raise RunError(f"{folder.operating_points} holds no list of operating points: it is damaged.", AGAIN)
    return Evidence(
        folder=folder,
        config=_read_config(study.name, folder),
        records=records,
        predictions=predictions,
        readers=read_table(folder.readers, ["id"]) if folder.readers.exists() else None,
        flow=flow,
        history=read_table(folder.history, HISTORY) if folder.history.exists() else None,
        # An external validation holds no networks, but what is known of those that it applied.
        networks=[read_json(n / "model.json", MODEL) for n in folder.networks()] or flow.get("networks", []),
        operating_points=points,
        prediction_sets=frozen_sets(folder),
    )


def _read_config(study: str, folder: RunFolder) -> StudyConfig:
    try:
        return check(config_model(study), read_yaml(folder.config))
    except ConfigError as mistake:
        raise RunError(f"{folder.config} is damaged or of another version: {mistake.problem}", AGAIN) from None


def _predictions(folder: RunFolder, split: str, records: pd.DataFrame) -> pd.DataFrame:
    """A prediction table, checked to be about the records of its split: all of them, or some of those that a
    cross-validated study tests (which folds, the configuration says)."""
    file = folder.predictions(split)
    table = read_table(file, ["id", "group"])
    expected = set(records["id"] if "fold" in records else records.loc[records["split"] == split, "id"])
    predicted = set(table["id"])
    complete = predicted if "fold" in records else expected
    if not predicted or predicted - expected or complete - predicted:
        raise RunError(
            f"{file} is about {len(predicted):,} records, of which {len(predicted & expected):,} are among the "
            f"{len(expected):,} of {folder.records.name}: one of the two tables is damaged.",
            AGAIN,
        )
    return table


def bootstrap_settings(config: StudyConfig) -> Bootstrap:
    """How the intervals of a run are made."""
    return Bootstrap(config.statistics.resamples, config.seed, config.statistics.level)


def metrics_file(
    study: Study[Any], evidence: Evidence[StudyConfig], results: Results, environment: dict[str, Any]
) -> dict[str, Any]:
    """The content of metrics.json."""
    flow, records = evidence.flow, evidence.records
    splits = {
        split: {"records": len(part), "groups": int(part["group"].nunique())}
        for split, part in records.groupby("split")
    }
    oracle = results.oracle
    return {
        "schema": SCHEMA,
        "study": study.name,
        "source": {
            "name": flow["source"],
            "synthetic": flow["synthetic"],
            "records": len(records),
            "groups": int(records["group"].nunique()),
            "fingerprint": flow["fingerprint"],
        },
        "splits": splits,
        # How to have the same split again: split.csv, by its SHA-256, and the file that was handed in, if one was.
        "split_file": {"written": flow.get("split_file"), "given": flow.get("split_given")},
        "headline": results.headline,
        "metrics": {key: estimate.to_dict() for key, estimate in results.metrics.items()},
        "reference": {"chance": results.chance, "oracle": oracle.value if oracle else None},
        "operating_points": results.operating_points,
        "paper": [asdict(number) for number in results.paper],
        "seconds": environment["seconds"],
    }


# --- the report: what every study's has in common ---


def _report(
    study: Study[Any], evidence: Evidence[StudyConfig], results: Results, environment: dict[str, Any]
) -> Report:
    flow, history, main = evidence.flow, evidence.history, results.metrics[results.headline]
    test = evidence.records[evidence.records["split"] == "test"]
    kind = "synthetic phantom" if flow["synthetic"] else "real data"
    figures_ = [
        HeadlineFigure(results.sentence, main, f"test, {len(test):,} records of {test['group'].nunique():,} groups"),
        HeadlineFigure("Chance", results.chance, results.chance_note),
    ]
    if results.oracle is not None:
        figures_.append(HeadlineFigure("Oracle", results.oracle, "the phantom's latent truth, same reference"))
    if results.paper:
        first = results.paper[0]
        figures_.append(HeadlineFigure("Paper", first.value, f"{first.what}; {first.source}: another dataset"))
    headline = Headline(_headline_sentence(evidence, results, kind), figures_, [*flow["warnings"], *results.warnings])
    sections = [
        _data_section(study, evidence),
        *([_training_section(evidence, history)] if history is not None and len(history) else []),
        *results.sections,
        *([_paper_section(results)] if results.paper or results.departures else []),
        _environment_section(evidence, environment),
    ]
    return Report(study.title, study.name, flow["synthetic"], headline, sections, footer=environment["version"])


def _headline_sentence(evidence: Evidence[StudyConfig], results: Results, kind: str) -> str:
    records = evidence.records
    test = records[records["split"] == "test"]
    main = results.metrics[results.headline]
    result = (
        f"{results.sentence}: {main}" if main.value is not None else f"{results.sentence} is undefined: {main.reason}"
    )
    counts = [f"{name} {int((records['split'] == name).sum()):,}" for name in PARTS if (records["split"] == name).any()]
    return (
        f"{result}, on {len(test):,} test records of {test['group'].nunique():,} groups of {evidence.flow['source']} "
        f"({kind}).\n\nIn all {len(records):,} records of {records['group'].nunique():,} groups: {', '.join(counts)}. "
        f"A group is a {evidence.flow['group_key']}."
    )


def _data_section(study: Study[Any], evidence: Evidence[StudyConfig]) -> Section:
    flow, records = evidence.flow, evidence.records
    path = evidence.folder.figures / "flow.png"
    kept = [step for step in flow["steps"] if step["kind"] == "kept"]
    steps: list[tuple[str, str]] = [(s["label"], f"{s['count']:,}") for s in kept]
    exclusions: list[tuple[int, str, str]] = []
    position = -1
    for step in flow["steps"]:
        if step["kind"] == "kept":
            position += 1
        elif step["count"]:
            exclusions.append((position, step["label"], f"{step['count']:,}"))
    parts = [
        (name, f"{len(part):,} of {part['group'].nunique():,} groups")
        for name, part in ((s, records[records["split"] == s]) for s in PARTS)
        if len(part)
    ]
    figures.flow(path, steps, exclusions, parts, note=evidence.note)
    blocks: list[Any] = [
        Picture("figures/flow.png", "From the files found to the records used.", "Flow diagram of record counts.")
    ]
    blocks += [Text(sentence) for sentence in flow["gate"]]
    if flow["lists"]:
        rows = [
            [name, len(items), ", ".join(map(str, items[:12])) + (" …" if len(items) > 12 else "")]
            for name, items in flow["lists"].items()
            if items
        ]
        if rows:
            blocks.append(Table(["What", "Records", "Which"], rows, "Records left out or flagged, by reason."))
    blocks += [Text(note, "note") for note in flow["notes"]]
    card = load_card(flow["card"])
    if card.confounds:
        blocks.append(Text("Known confounds of this dataset (its card): " + " ".join(card.confounds), "note"))
    return Section("Data and split", blocks)


def _training_section(evidence: Evidence[StudyConfig], history: pd.DataFrame) -> Section:
    monitor = evidence.config.trainer.monitor
    figures.history(
        evidence.folder.figures / "history.png",
        history,
        monitor,
        higher_is_better=not monitor.endswith("loss"),
        note=evidence.note,
    )
    best = history[history["best"].astype(bool)].groupby("network").tail(1)
    rows: list[list[Any]] = [
        [
            str(r["network"]),
            f"{r['penalty']:g}" if evidence.config.model.head_only else int(r["epoch"]),
            int((history["network"] == r["network"]).sum()),
            float(r[monitor]),
        ]
        for _, r in best.iterrows()
    ]
    one = evidence.config.kept
    columns = ["Network", f"Best {one}", {"epoch": "Epochs", "penalty": "Penalties"}[one], monitor]
    caption = f"The {one} that was kept, by the monitored metric on val."
    table = Table(columns, rows, caption, ["left", "right", "right", "right"])
    picture = Picture("figures/history.png", f"Loss and {monitor} by {one}.", "Training curves.")
    return Section("Training", [picture, table, *_calibration_table(evidence.networks)])


def _calibration_table(networks: list[dict[str, Any]]) -> list[Table]:
    """What stands behind the networks' outputs, chosen on val; nothing where nothing does."""
    rows = [
        [n["name"], c["temperature"], c["prior_strength"], c["val"]["before"], c["val"]["after"]]
        for n, c in ((n, n["calibration"]) for n in networks if n.get("calibration"))
    ]
    if not rows:
        return []
    caption = (
        "Temperature and strength of the correction for the classes' frequencies, chosen on val and frozen with the "
        "network. What val gained is optimistic, as it chose."
    )
    monitor = next(n["calibration"]["val"]["monitor"] for n in networks if n.get("calibration"))
    return [Table(["Network", "Temperature", "Prior's strength", f"{monitor} before", "after"], rows, caption)]


def _paper_section(results: Results) -> Section:
    note = "These numbers are from other data. They say what the paper found, not what this run should have found."
    table = published_table(results.paper, "The paper's own numbers.")
    columns = ["What", "In the paper", "Here"]
    departures = Table(columns, results.departures, "Where this run departs from the paper.", ["left"] * 3)
    return Section("Beside the paper", [Text(note, "note"), table, departures])


def _environment_section(evidence: Evidence[StudyConfig], environment: dict[str, Any]) -> Section:
    versions = ", ".join(f"{name} {version}" for name, version in environment["packages"].items())
    seconds = [[name, round(float(value), 1)] for name, value in environment["seconds"].items()]
    commit = environment["commit"] or "unknown"
    text = f"Seed {evidence.config.seed}; commit {commit}; {environment['machine']}; {versions}."
    return Section(
        "How this was made",
        [
            Code(environment["command"]),
            Text(text),
            Table(["Stage", "Seconds"], seconds, "Time by stage."),
            Text(
                "Everything on this page was computed from the files in this run's folder (predictions/, "
                "records.parquet, config.yaml, …) and can be computed again with mode=report."
            ),
        ],
    )
