"""The modes: each is a story told in one function. Torch is imported where it is needed, not before."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pipelines.shared import preemption
from pipelines.shared.assemble import card_name, external_data, prepare_all, training_data
from pipelines.shared.cards import load_card
from pipelines.shared.duplicates import near_duplicates
from pipelines.shared.environment import read_environment, stage, start
from pipelines.shared.errors import DataError, RunError, listed
from pipelines.shared.evaluator import calls, evaluate
from pipelines.shared.job import Job
from pipelines.shared.launch import launch
from pipelines.shared.leakage import leakage_gate
from pipelines.shared.log import log, start_log
from pipelines.shared.records import check_ids, inside, raise_problems, read_csv
from pipelines.shared.run_folder import RunFolder, plain, read_json, write_atomically, write_json
from pipelines.shared.study import Config, Data, Study

if TYPE_CHECKING:
    from pipelines.shared.distributed import World

PART = 512  # files that mode=predict scores before it writes them down


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
        data = training_data(study, config)
        study = study.for_training(study, config, data.records) if study.for_training else study
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
    """Score unlabelled files. Every file is a row of predictions.csv; one that cannot be read has its reason there.

    `PART` files at a time, each part kept in parts/: a run that was cut off goes on after the last one (mode=resume).
    """
    config: Config = job.config
    finished = RunFolder(Path(str(config.run)))
    study, networks = _finished_networks(study, finished)
    points = read_json(finished.operating_points)
    root, files = input_files(Path(config.input), study.suffixes)
    world, folder = start(study.title, job)
    kept = [pd.read_parquet(p) for p in sorted((folder.path / "parts").glob("*.parquet"))]
    done = {file for part in kept for file in part["file"]}
    left = [file for file in files if file not in done]
    if done:
        log.info(f"{len(files) - len(left):,} of {len(files):,} files are scored already")
    with stage(folder, "predict", world):
        for begin in range(0, len(left), PART):
            part = _predicted(study, config, root, left[begin : begin + PART], networks, points, world)
            kept.append(part)
            if world.main:
                folder.write_table(folder.path / "parts" / f"{len(kept) - 1:06d}.parquet", part)
            if len(left) > PART:
                log.info(f"{len(files) - len(left) + min(begin + PART, len(left)):,} of {len(files):,} files")
    if not world.main:
        return
    place = {file: i for i, file in enumerate(files)}
    table = pd.concat([part[part["file"].isin(place)] for part in kept], ignore_index=True)
    table = table.sort_values("file", key=lambda column: column.map(place))
    file = folder.path / "predictions.csv"
    write_atomically(file, lambda aside: table.to_csv(aside, index=False))
    good = int(table["reason"].isna().sum())
    log.info(f"{good} of {len(files)} files scored" + ("" if good == len(files) else "; the others say why not"))
    print(file)


def _predicted(
    study: Study, config: Config, root: Path, files: list[str], networks: list[Path], points: list[dict[str, Any]],
    world: World,
) -> pd.DataFrame:  # fmt: skip
    """One row per file: its reason if it has one, else the prediction columns and the calls at every threshold."""
    from pipelines.shared.distributed import main_first

    records = pd.DataFrame({"id": files, "path": files})
    with main_first(world):
        prepared = prepare_all(study, config, records, root)
    reason = prepared.facts["bad"].fillna(prepared.facts["unusable"])
    at = np.flatnonzero(reason.isna().to_numpy())
    table = pd.DataFrame({"file": files, "reason": reason})
    if len(at):
        from pipelines.shared.dataset import PreparedDataset
        from pipelines.shared.fitting import file_predictions

        dataset = PreparedDataset(prepared.take(at), [files[i] for i in at], np.zeros((len(at), 1)))
        columns = file_predictions(study, config, dataset, networks, world)
        scores = pd.concat([columns, calls(columns, points)], axis=1).convert_dtypes(convert_floating=False)
        table = table.join(scores.set_index(pd.Index(at)))
    return table


def input_files(path: Path, suffixes: Sequence[str]) -> tuple[Path, list[str]]:
    """The files to score, relative to the root returned: one file; all below a folder with the study's suffixes; or
    those that a table (CSV, Parquet) names in its column `path`, from the table's own folder.

    Raises:
        DataError: nothing there, or rows of a table that are empty, twice there or leave the folder.
    """
    path = path.expanduser()
    if path.is_file() and path.suffix.lower() in {".csv", ".parquet"} - set(suffixes):
        return path.parent, _listed_files(path)
    if path.is_file():
        return path.parent, [path.name]
    allowed = ", ".join(suffixes)
    if not path.is_dir():
        raise DataError(
            f"input={path} does not exist.", f"Give a file, a folder of files ({allowed}), or a table that names them."
        )
    files = [f for f in sorted(path.rglob("*")) if f.is_file() and f.suffix.lower() in suffixes]
    if not files:
        raise DataError(f"input={path} holds no file that this study reads.", f"It reads: {allowed}.")
    return path, [str(f.relative_to(path)) for f in files]


def _listed_files(table: Path) -> list[str]:
    """The paths that a table names; all mistakes at once. A file that is not there has its reason later."""
    paths = read_csv(table, ["path"])["path"]
    problems = check_ids(paths, table)
    problems += [f"{table.name} row {i + 2}: {p} leaves the folder {table.parent}"
                 for i, p in enumerate(paths) if isinstance(p, str) and not inside(p)]  # fmt: skip
    raise_problems(problems, str(table), "Correct these rows; nothing was scored.")
    return list(paths)


def export(study: Study, job: Job) -> None:
    """Write a finished run's networks as ONNX, checked against torch on the run's own test records."""
    from pipelines.shared.exporting import export_networks, needs_packages

    needs_packages()
    finished = RunFolder(Path(str(job.config.run)).expanduser())
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
            shutil.copy(finished.path / name, folder.path / name)
        else:
            log.warning(f"{finished.path.name} has no {name}: mode=report writes it.")
    print(folder.path / "export.json")


def verify(study: Study, job: Job) -> None:
    """Check a dataset against its card: tables, files, duplicates, counts. Writes nothing into its folder.

    Exit status 2 if its tables are wrong (all bad rows are listed), 1 if files cannot be read, 0 otherwise; what is
    found besides (duplicates, other counts than the card's) is for people to judge.
    """
    config: Config = job.config
    start_log(None)
    source = study.sources[config.data.name](config)
    facts_of = prepare_all(study, config, source.records, source.root)
    facts = facts_of.facts
    for column, what in (("bad", "files cannot be read"), ("unusable", "files are of no use")):
        mine = facts[column].notna().to_numpy()
        lines = [f"{p}: {r}" for p, r in zip(source.records["path"][mine], facts[column][mine], strict=True)]
        if lines:
            print(f"{len(lines)} {what}:\n{listed(lines, len(lines))}")
    readable = np.flatnonzero(facts["fingerprint"].notna().to_numpy())
    if len(readable) == 0:
        print(f"{source.name}: none of its {len(facts)} files can be read.")
        raise SystemExit(1)
    prepared = facts_of.take(readable)
    records = source.records.iloc[readable].reset_index(drop=True)
    records["fingerprint"] = prepared.facts["fingerprint"]
    near = near_duplicates(prepared.hashes, prepared.thumbnails) if config.data.near_duplicates else None
    _, gate = leakage_gate(records, labels=list(study.labels), near=near, conflicting_labels="drop", leakage="report")
    print("\n".join(gate.sentences()))
    for conflict in gate.conflicts:
        print("  identical, labels differ: " + "; ".join(f"{i} {values}" for i, values in conflict.items()))
    for members in gate.identical:
        print(f"  identical: {', '.join(members)}")
    for pair in gate.near:
        print(f"  near-duplicate{' with other labels' if pair['labels_differ'] else ''}: {pair['a']}, {pair['b']}")
    for note in source.notes:
        print(note)
    counts = load_card(card_name(source.name, study.name)).counts
    card = ", ".join(f"{count:,} {name}" for name, count in counts.items()) or "no numbers"
    print(
        f"The card counts {card}; found: {len(source.records):,} records, {source.records['group'].nunique():,} groups."
    )
    bad, unusable = int(facts["bad"].notna().sum()), int(facts["unusable"].notna().sum())
    print(
        f"{source.name}: {bad} files that cannot be read, {unusable} of no use, {len(gate.conflicts)} sets of "
        f"identical images with different labels, {len(gate.near)} pairs of near-duplicates."
    )
    if bad:
        raise SystemExit(1)


def report(study: Study, job: Job) -> None:
    """Compute metrics, figures and report again from the run's own files."""
    start_log(None)
    print(evaluate(study, RunFolder(job.run_dir)))


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
        evaluate(study, folder)
    metrics = read_json(folder.metrics)
    write_json(folder.metrics, metrics | {"seconds": read_environment(folder)["seconds"]})
    headline = metrics["metrics"][metrics["headline"]]
    if headline["value"] is None:
        log.info(f"{metrics['headline']} is undefined: {headline['reason']}")
    else:
        interval = "" if headline["low"] is None else f" ({headline['low']:.3f} to {headline['high']:.3f})"
        log.info(f"{metrics['headline']}  {headline['value']:.3f}{interval}")
    print(folder.report, flush=True)
