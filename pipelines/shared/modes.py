"""The modes: each is a story told in one function. Torch is imported where it is needed, not before."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pipelines.shared import preemption
from pipelines.shared.assemble import (
    UNREADABLE,
    UNREADABLE_PARTS,
    Flow,
    card_name,
    check_labels,
    external_data,
    prepare_all,
    training_data,
)
from pipelines.shared.cards import load_card
from pipelines.shared.environment import claim, stage, start
from pipelines.shared.errors import RunError, listed
from pipelines.shared.evaluator import calls, evaluate, write_results
from pipelines.shared.files import shown_name
from pipelines.shared.inputs import input_files, score_in_parts
from pipelines.shared.job import Job
from pipelines.shared.launch import launch
from pipelines.shared.log import log, start_log
from pipelines.shared.run_folder import RunFolder, plain, read_json, write_atomically, write_csv, write_json
from pipelines.shared.study import Config, Data, Study

if TYPE_CHECKING:
    from pipelines.shared.distributed import World


def run(study: Study, job: Job) -> None:
    """Run one validated job in its mode."""
    preemption.install()
    if job.config.mode in ("verify", "report", "export") and launch().rank > 0:
        return  # work for one process
    modes = {
        "train": train,
        "resume": train,
        "evaluate": external_validation,
        "predict": predict_files,
        "export": export,
        "verify": verify,
        "report": report,
    }
    (modes | dict(study.modes))[job.config.mode](study, job)


def train(study: Study, job: Job) -> None:
    """Read the source, split, fit, choose thresholds on val, score test once, report.

    Resuming is the same story: what is finished is found on disk, and the trainer goes on from its checkpoint.
    """
    from pipelines.shared.distributed import main_first
    from pipelines.shared.fitting import fit_and_predict, load_network

    config = job.config
    world, folder = start(study.title, job)
    with stage(folder, "data", world), main_first(world):
        study, data = _learnable(study, config)
        if world.main:
            _same_as_before(folder, data)
            _write_data(folder, data)
    with stage(folder, "train", world):
        (study.fit_and_predict or fit_and_predict)(study, config, data, folder, world)
    if not world.main:
        return
    if study.explain is not None:
        with stage(folder, "explain", world):
            study.explain(config, data, load_network(study, folder.networks()[0]).to(world.device), folder, world)
    _finish(study, folder, world)


def external_validation(study: Study, job: Job) -> None:
    """Apply a finished run to another dataset: its networks and thresholds are frozen."""
    from pipelines.shared.distributed import main_first
    from pipelines.shared.fitting import external_predictions

    config, finished = job.config, RunFolder(Path(str(job.config.run)))
    study, networks = _finished_networks(study, finished)
    points = read_json(finished.operating_points)
    world, folder = start(study.title, job)
    with stage(folder, "data", world), main_first(world):
        trained = read_json(finished.flow)["source"]
        data = external_data(study, config, finished.read_table(finished.records), trained)
        check_labels(study, data, ["test"])
        data.flow["notes"].append(
            f"External validation of {finished.path.name}: its networks and thresholds are frozen."
        )
        data.flow["networks"] = [read_json(path / "model.json") for path in networks]
        if world.main:
            _write_data(folder, data)
    with stage(folder, "predict", world):
        if study.external is not None:
            predictions = study.external(study, config, data, networks, folder, world)
        else:
            predictions = external_predictions(study, config, data, networks, world)
    if world.main:
        folder.write_table(folder.predictions("test"), predictions)
        write_json(folder.operating_points, points)
        _finish(study, folder, world)


def predict_files(study: Study, job: Job) -> None:
    """Score unlabelled files. Every file is a row of predictions.csv; one that cannot be read has its reason there."""
    config: Config = job.config
    finished = RunFolder(Path(str(config.run)))
    study, networks = _finished_networks(study, finished)
    points = read_json(finished.operating_points)
    inputs = input_files(Path(config.input), study.suffixes)
    world, folder = start(study.title, job)
    with stage(folder, "predict", world):
        table = score_in_parts(
            folder,
            inputs.files,
            lambda files: _predicted(study, config, inputs.root, files, networks, points, world),
            world,
        )
    if not world.main:
        return
    file = folder.path / "predictions.csv"
    write_csv(file, table)
    log.info(inputs.closing(int(table["reason"].isna().sum())))
    print(file)


def _predicted(
    study: Study, config: Config, root: Path, files: list[str], networks: list[Path], points: list[dict[str, Any]],
    world: World,
) -> pd.DataFrame:  # fmt: skip
    """One row per file: its reason if it has one, else the prediction columns and the calls at every threshold."""
    from pipelines.shared.distributed import main_first

    names = [shown_name(file) for file in files]
    records = pd.DataFrame({"id": names, "path": files})
    with main_first(world):
        prepared = prepare_all(study, config, records, root)
    reason = prepared.facts["bad"].fillna(prepared.facts["unusable"])
    at = np.flatnonzero(reason.isna().to_numpy())
    table = pd.DataFrame({"file": names, "reason": reason, "warnings": prepared.facts["warnings"]})
    if len(at):
        from pipelines.shared.dataset import PreparedDataset
        from pipelines.shared.fitting import file_predictions

        dataset = PreparedDataset(prepared.take(at), [names[i] for i in at], np.zeros((len(at), 1)))
        columns = file_predictions(study, config, dataset, networks, world)
        scores = pd.concat([columns, calls(columns, points)], axis=1).convert_dtypes(convert_floating=False)
        table = table.join(scores.set_index(pd.Index(at)))
    return table


def export(study: Study, job: Job) -> None:
    """Write a finished run's networks as ONNX, checked against torch on the run's own test records."""
    from pipelines.shared.exporting import export_networks, needs_packages

    needs_packages()
    finished = RunFolder(Path(str(job.config.run)))
    study, networks = _finished_networks(study, finished)
    world, folder = start(study.title, job)
    with stage(folder, "export", world):
        entries = export_networks(study, job.config, finished, networks, folder, world)
    if study.beyond_export:
        log.info(study.beyond_export)
    content = {"run": finished.path.name, "networks": entries, "beyond": study.beyond_export or None}
    write_json(folder.path / "export.json", content)
    for name in ("model_card.md", "reporting_checklist.md"):
        if (finished.path / name).exists():
            write_atomically(folder.path / name, partial(shutil.copyfile, finished.path / name))
        else:
            log.warning(f"{finished.path.name} has no {name}: mode=report writes it.")
    print(folder.path / "export.json")


def verify(study: Study, job: Job) -> None:
    """Check a dataset against its card and refuse exactly what `train` would refuse. Writes nothing into its folder.

    Exit status 2 if the tables are wrong or the records cannot be learned from (in two lines, after all that was found
    before), 1 if files cannot be read, 0 otherwise; what is found besides (duplicates, warnings, other counts than the
    card's) is for people to judge.
    """
    start_log(None)
    flow = Flow()
    wanted: Config = job.config
    config = wanted.model_copy(update={"data": wanted.data.model_copy(update={"on_bad_file": "skip"})})
    try:
        _, data = _learnable(study, config, flow)
    finally:
        bad = flow.lists.get(UNREADABLE, []) + flow.lists.get(UNREADABLE_PARTS, [])
        for label, lines in flow.lists.items():
            print(f"{label} ({len(lines)}):\n{listed(lines, len(lines))}")
    print("\n".join([*data.flow["gate"], *data.flow["warnings"], *data.flow["notes"]]))
    found = data.flow["gate_findings"]
    for conflict in found["conflicts"]:
        print("  identical, labels differ: " + "; ".join(f"{i} {values}" for i, values in conflict.items()))
    for members in found["identical"]:
        print(f"  identical: {', '.join(members)}")
    for pair in found["near"]:
        print(f"  near-duplicate{' with other labels' if pair['labels_differ'] else ''}: {pair['a']}, {pair['b']}")
    records = data.source.records
    counts = load_card(card_name(data.source.name, study.name)).counts
    card = ", ".join(f"{count:,} {name}" for name, count in counts.items()) or "no numbers"
    print(f"The card counts {card}; found: {len(records):,} records, {records['group'].nunique():,} groups.")
    print(
        f"{data.source.name}: {len(bad)} files that cannot be read, {len(found['conflicts'])} sets of "
        f"identical images with different labels, {len(found['near'])} pairs of near-duplicates."
    )
    if bad and wanted.data.on_bad_file == "error":
        raise SystemExit(1)


def report(study: Study, job: Job) -> None:
    """Compute metrics, figures and report again from the run's own files."""
    start_log(None)
    folder = RunFolder(job.run_dir)
    claim(folder)  # a run that goes on there writes the same files
    print(write_results(study, *evaluate(study, folder)))


def _learnable(study: Study, config: Config, flow: Flow | None = None) -> tuple[Study, Data]:
    """What `train` learns from and `verify` checks, so that both refuse the same."""
    data = training_data(study, config, flow)
    study = study.for_training(study, config, data.records) if study.for_training else study
    check_labels(study, data)
    return study, data


def _write_data(folder: RunFolder, data: Data) -> None:
    folder.write_table(folder.records, data.records)
    readers = data.source.readers
    if readers is not None:
        folder.write_table(folder.readers, readers[readers["id"].isin(data.records["id"])])
    write_json(folder.flow, plain(data.flow))


def _same_as_before(folder: RunFolder, data: Data) -> None:
    """Refuse to resume if the data are no longer those the run began with."""
    if not folder.flow.exists():
        return
    before = read_json(folder.flow)
    for key, what in (("fingerprint", "data"), ("split_fingerprint", "split")):
        if before[key] != data.flow[key]:
            raise RunError(
                f"{folder.path} began with another {what} ({before[key][:8]}, now {data.flow[key][:8]}).",
                "Restore the dataset as it was, or start a new run.",
            )


def _finished_networks(study: Study, folder: RunFolder) -> tuple[Study, list[Path]]:
    """A run's networks, and the study with the classes that they answer."""
    from pipelines.shared.model_files import read_facts

    networks = folder.networks()
    if not networks or not folder.operating_points.exists():
        raise RunError(f"run={folder.path} holds no finished network.", "Finish it first: mode=resume run=<folder>.")
    if study.for_classes is not None:
        study = study.for_classes(study, read_facts(networks[0], study.name)["classes"])
    for path in networks:
        read_facts(path, study.name, study.classes)
    return study, networks


def _finish(study: Study, folder: RunFolder, world: World) -> None:
    with stage(folder, "evaluate", world):
        evidence, results = evaluate(study, folder)
    log.info(f"{results.headline}  {results.metrics[results.headline]}")
    print(write_results(study, evidence, results), flush=True)
