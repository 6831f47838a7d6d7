"""The modes: each is a story told in one function.

What only some modes need (torch, figures and statistics) is imported where it is needed, not before: a prediction of
one file waits for nothing that it does not use.
"""

from __future__ import annotations

import pkgutil
import shutil
from functools import partial
from pathlib import Path
from typing import Any

from pipelines.shared import preemption
from pipelines.shared.cli.environment import claim, stage, start
from pipelines.shared.cli.inputs import input_files, score_in_parts
from pipelines.shared.data.assemble import (
    UNREADABLE,
    UNREADABLE_PARTS,
    Flow,
    card_name,
    check_labels,
    external_data,
    training_data,
)
from pipelines.shared.data.cards import load_card
from pipelines.shared.data.given_splits import split_table
from pipelines.shared.data.records import RECALIBRATION
from pipelines.shared.errors import RunError, listed
from pipelines.shared.handover.tracking import EXTRAS, TRACKED
from pipelines.shared.job import Job
from pipelines.shared.launch import launch
from pipelines.shared.log import log, start_log
from pipelines.shared.mode import REPORT, VERIFY, modes_of
from pipelines.shared.pretrained import NOTICE
from pipelines.shared.run import Run, open_finished
from pipelines.shared.run_folder import RunFolder, digest, plain, read_json, write_atomically, write_csv, write_json
from pipelines.shared.screen import print_path
from pipelines.shared.study import Data, Study
from pipelines.shared.untaught import untaught_lines


def run(study: Study[Any], job: Job) -> None:
    """Run one validated job in its mode."""
    preemption.install()
    mode = modes_of(study.name)[job.config.mode]
    if mode.one_process and launch().rank > 0:
        return
    if job.config.track is not None and mode.name in TRACKED:
        EXTRAS[job.config.track].require(f"track={job.config.track}")
    if launch().rank == 0 and mode.name not in (VERIFY.name, REPORT.name):
        print(study.title, flush=True)  # before torch: it loads for seconds, the first time on a machine for many
    pkgutil.resolve_name(mode.function)(study, job)


def train(study: Study[Any], job: Job) -> None:
    """Read the source, split, fit, choose thresholds on val, score test once, report.

    Resuming is the same story: what is finished is found on disk, and the trainer goes on from its checkpoint.
    """
    from pipelines.shared.learning.cross_validation import method_of
    from pipelines.shared.learning.distributed import main_first

    run = start(study, job)
    with stage(run, "data"), main_first(run.world):
        data = training_data(study, run.config)
        check_labels(study, data)
        if run.world.main:
            _same_as_before(run.folder, data)
            _write_data(run.folder, data)
    method = method_of(study, run.config)
    run = method.with_batch_size(run, data)
    with stage(run, "train"):
        method.fit(run, data)
    if not run.world.main:
        return
    with stage(run, "explain"):
        method.explain(run, data)
    _finish(run)


def external_validation(study: Study[Any], job: Job) -> None:
    """Apply a finished run to another dataset: its networks and thresholds are frozen.

    With `recalibrate`, thresholds chosen anew on a part of the dataset are judged beside the frozen ones on the rest.
    """
    from pipelines.shared.cli.recalibration import recalibrate, set_aside
    from pipelines.shared.judging.prediction_sets import freeze_sets, with_set_columns
    from pipelines.shared.learning.cross_validation import method_of
    from pipelines.shared.learning.distributed import main_first

    finished = open_finished(study, job.config.run)
    run = start(study, job)
    with stage(run, "data"), main_first(run.world):
        trained = read_json(finished.folder.flow)["source"]
        records = finished.folder.read_table(finished.folder.records)
        data = external_data(study, run.config, records, trained)
        if run.config.recalibrate is not None:
            data = set_aside(study, run.config, finished, data)
        check_labels(study, data, ["test", RECALIBRATION])
        data.flow["notes"].append(
            f"External validation of {finished.folder.path.name}: its networks and thresholds are frozen."
        )
        if finished.notice is not None:
            data.flow["notes"].append(" ".join(finished.notice.split()))
        data.flow["networks"] = list(finished.models.values())
        if run.world.main:
            _write_data(run.folder, data)
    with stage(run, "predict"):
        predictions = method_of(study, run.config).answer(run, finished, data)
    if run.world.main:
        if run.config.recalibrate is not None:
            predictions = recalibrate(study, run.config, run.folder, finished, data, predictions)
        predictions = with_set_columns(predictions, finished.prediction_sets)
        run.folder.write_table(run.folder.predictions("test"), predictions)
        freeze_sets(run.folder, finished.prediction_sets)
        write_json(run.folder.operating_points, finished.operating_points)
        _finish(run)


def predict_files(study: Study[Any], job: Job) -> None:
    """Score unlabelled files. Every file is a row of predictions.csv; one that cannot be read has its reason there."""
    finished = open_finished(study, job.config.run)
    inputs = input_files(Path(str(job.config.input)), study.suffixes)
    run = start(study, job)
    for line in untaught_lines(finished.untaught):
        log.warning(line)
    scorer = study.scorer(run, finished)
    with stage(run, "predict"):
        table = score_in_parts(run.folder, inputs.files, partial(scorer.rows, inputs.root), run.world)
    if not run.world.main:
        return
    file = run.folder.path / "predictions.csv"
    write_csv(file, table)
    log.info(inputs.closing(int(table["reason"].isna().sum())))
    print_path(file)


def serve(study: Study[Any], job: Job) -> None:
    """Answer requests over HTTP by a finished run until it is stopped."""
    from pipelines.shared.handover.serve import SERVE, serve_run

    SERVE.require("mode=serve")
    serve_run(study, job, open_finished(study, job.config.run))


def export(study: Study[Any], job: Job) -> None:
    """Write a finished run's networks as ONNX, checked against torch on the run's own test records."""
    from pipelines.shared.handover.exporting import ONNX, export_networks
    from pipelines.shared.learning.cross_validation import method_of

    ONNX.require("mode=export")
    finished = open_finished(study, job.config.run)
    run = start(study, job)
    method = method_of(study, run.config)
    with stage(run, "export"):
        entries = export_networks(run, method, finished)
    if method.not_exported:
        log.info(method.not_exported)
    content = {"run": finished.folder.path.name, "networks": entries, "beyond": method.not_exported or None}
    write_json(run.folder.path / "export.json", content)
    for name in ("model_card.md", "reporting_checklist.md", *([NOTICE] if finished.notice else [])):
        if (finished.folder.path / name).exists():
            write_atomically(run.folder.path / name, partial(shutil.copyfile, finished.folder.path / name))
        else:
            log.warning(f"{finished.folder.path.name} has no {name}: mode=report writes it.")
    print_path(run.folder.path / "export.json")


def verify(study: Study[Any], job: Job) -> None:
    """Check a dataset against its card and refuse exactly what `train` would refuse. Writes nothing into its folder.

    Exit status 2 if the tables are wrong or the records cannot be learned from (in two lines, after all that was found
    before), 1 if files cannot be read, 0 otherwise; what is found besides (duplicates, warnings, other counts than the
    card's) is for people to judge.
    """
    start_log(None)
    flow = Flow()
    wanted = job.config
    config = wanted.model_copy(update={"data": wanted.data.model_copy(update={"on_bad_file": "skip"})})
    try:
        data = training_data(study, config, flow)
        check_labels(study, data)
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
    card = ", ".join(f"{count:,} {name}" for name, count in counts.items()) or "nothing"
    print(f"Found: {len(records):,} records, {records['group'].nunique():,} groups; the data card counts {card}.")
    print(
        f"{data.source.name}: {len(bad)} files that cannot be read, {len(found['conflicts'])} sets of "
        f"identical images with different labels, {len(found['near'])} pairs of near-duplicates."
    )
    if bad and wanted.data.on_bad_file == "error":
        raise SystemExit(1)


def report(study: Study[Any], job: Job) -> None:
    """Compute metrics, figures and report again from the run's own files."""
    from pipelines.shared.judging.evaluator import evaluate, write_results

    start_log(None)
    folder = RunFolder(job.run_dir)
    claim(folder)  # a run that goes on there writes the same files
    print_path(write_results(study, *evaluate(study, folder)))


def _write_data(folder: RunFolder, data: Data) -> None:
    folder.write_table(folder.records, data.records)
    readers = data.source.readers
    if readers is not None:
        folder.write_table(folder.readers, readers[readers["id"].isin(data.records["id"])])
    flow = data.flow
    if data.undivided is not None:  # of a run that divides: the others have nothing to hand on
        write_csv(folder.split, split_table(data.records, data.undivided))
        flow = flow | {"split_file": {"name": folder.split.name, "sha256": digest(folder.split)}}
    write_json(folder.flow, plain(flow))


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


def _finish(run: Run[Any]) -> None:
    from pipelines.shared.judging.evaluator import evaluate, write_results

    with stage(run, "evaluate"):
        evidence, results = evaluate(run.study, run.folder)
    log.info(f"{results.headline}  {results.metrics[results.headline]}")
    print_path(write_results(run.study, evidence, results, run.tracker))
