"""`mode=export`: a finished run's networks as ONNX, checked against torch on the run's own test records.

A file takes prepared records as the networks do (pictures are scaled inside it), in batches of any size, and answers
probabilities. Its metadata say what goes in, how records are prepared, what comes out, which thresholds hold and where
they were chosen.
"""

from __future__ import annotations

import json
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import pipelines
from pipelines.shared.data.assemble import prepare_all
from pipelines.shared.data.records import Source
from pipelines.shared.errors import RunError
from pipelines.shared.extras import Extra
from pipelines.shared.learning.dataset import Loader, PreparedDataset
from pipelines.shared.learning.method import Method, load_network
from pipelines.shared.learning.predictor import predict
from pipelines.shared.log import log
from pipelines.shared.run import FinishedRun, Run
from pipelines.shared.run_folder import plain, read_json, write_atomically
from pipelines.shared.screen import track

CHECKED = 64  # records of another source that an export is checked on, where the run's own are not there
BOUND = 1e-4  # of a difference between torch and ONNX Runtime, in probability
ONNX = Extra("onnx", {"onnx": "onnx", "onnxruntime": "onnxruntime", "onnxscript": "onnxscript"})


class Answering(nn.Module):
    """A network followed by what turns its outputs into probabilities; NaN for what no training record taught.

    `link`: sigmoid or softmax; `never`: which outputs are untaught, bool (classes,).
    """

    never: torch.Tensor

    def __init__(self, network: nn.Module, link: str, never: np.ndarray) -> None:
        super().__init__()
        self.network = network
        self.activation: nn.Module = nn.Softmax(dim=-1) if link == "softmax" else nn.Sigmoid()
        self.some = bool(never.any())
        self.register_buffer("never", torch.from_numpy(never))

    def forward(self, records: torch.Tensor) -> torch.Tensor:
        """Prepared records to probabilities, as `Learner.probabilities` makes them."""
        outputs = self.network(records)
        if self.some:
            outputs = outputs.masked_fill(self.never, -torch.inf)
        answers: torch.Tensor = self.activation(outputs)
        return answers.masked_fill(self.never, torch.nan) if self.some else answers


def run_records(run: Run[Any], finished: FinishedRun) -> PreparedDataset:
    """The run's own test records, prepared as its networks take them; some of `data` for a run without records.

    Raises:
        RunError: the source no longer has them, or has other content under their ids.
    """
    source = run.study.sources[run.config.data.name](run.config)
    if finished.notice is not None:
        return _some_records(run, source)
    table = finished.folder.read_table(finished.folder.records)
    table = table[table["split"] == "test"].set_index("id")
    rows = source.records[source.records["id"].isin(table.index)].reset_index(drop=True)
    prepared = prepare_all(run.study, run.config, rows, source.root)
    same = prepared.metadata["fingerprint"].to_numpy() == table.loc[rows["id"], "fingerprint"].to_numpy()
    if len(rows) < len(table) or not same.all():
        raise RunError(
            f"{source.name} in {source.root} is no longer what {finished.folder.path} was tested on: "
            f"{len(table) - len(rows)} test records are gone, {int((~same).sum())} have other content.",
            "An export is checked on the run's own test records: restore them.",
        )
    return PreparedDataset(prepared, list(rows["id"]), np.zeros((len(rows), 1)))


def _some_records(run: Run[Any], source: Source) -> PreparedDataset:
    """Records of a source, evenly chosen, that the run's preparation can use.

    Raises:
        RunError: there is none.
    """
    rows = source.records.iloc[:: -(-len(source.records) // CHECKED)].reset_index(drop=True)
    prepared = prepare_all(run.study, run.config, rows, source.root)
    good = np.flatnonzero((prepared.metadata["bad"].isna() & prepared.metadata["unusable"].isna()).to_numpy())
    if len(good) == 0:
        raise RunError(f"None of {len(rows)} records of {source.name} can be used.", "Give other data=<source>.")
    log.info(f"the run came without its records: checked on {len(good)} of {source.name}")
    return PreparedDataset(prepared.take(good), list(rows["id"].iloc[good]), np.zeros((len(good), 1)))


def export_networks(run: Run[Any], method: Method[Any], finished: FinishedRun) -> list[dict[str, Any]]:
    """Export every network that takes prepared records.

    Returns:
        One entry per network: name, file (None where it is not exported), largest_difference, records, and why not.

    Raises:
        RunError: ONNX Runtime's answers differ from torch's by more than `BOUND`; no file is left.
    """
    data = method.export_data(run, finished)
    entries: list[dict[str, Any]] = []
    for name, model in finished.models.items():
        entry: dict[str, Any] = {"name": name, "file": None, "largest_difference": None, "reason": None}
        entries.append(entry)
        if "learners" in model:
            entry["reason"] = (
                f"it combines the answers of {', '.join(model['learners'])} and takes no records itself; its weights "
                "are in weights.safetensors, model.json says how to build it"
            )
            log.info(f"{name}: not exported: {entry['reason']}")
            continue
        entry |= _export(run, method, finished, name, data)
        log.info(
            f"{name}: {entry['file']}, largest difference to torch {entry['largest_difference']:.2g} on "
            f"{len(data):,} records"
        )
    if all(entry["file"] is None for entry in entries):
        raise RunError(f"run={finished.folder.path} holds no network that can be exported.", str(entries[0]["reason"]))
    return entries


def _export(
    run: Run[Any], method: Method[Any], finished: FinishedRun, network_name: str, data: PreparedDataset
) -> dict[str, Any]:
    file = run.folder.path / f"{network_name}.onnx"
    learner = method.learner.from_model(run.config, finished.models[network_name])
    network = load_network(run, learner, finished.folder.network(network_name)).cpu()
    network = learner.exportable(network.eval()).eval()
    first = torch.from_numpy(np.stack([np.array(data.prepared.array(i % len(data))) for i in range(2)]))
    name = f"probabilities ({learner.link})"
    answering = Answering(network, learner.link, learner.never).eval()
    metadata = describe(run, method, finished, network_name, first, name)
    write_atomically(file, lambda aside: _write(answering, first, metadata, aside))
    batch_size, world = run.config.trainer.batch_size, run.world
    expected = predict(answering.to(world.device), data, world, batch_size, 0, "fp32", f"{network_name}: torch")
    answers = onnx_answers(file, data, batch_size, f"{network_name}: ONNX Runtime")
    alone = onnx_answers(file, data, 1, network_name, records=1)
    difference = max(largest_difference(answers, expected), largest_difference(alone, expected[:1]))
    if not difference <= BOUND:  # also where it is no number
        file.unlink()
        raise RunError(
            f"{network_name}: ONNX Runtime and torch differ by up to {difference:.3g} ({BOUND:g} is allowed); "
            "the file was removed.",
            "Export with the versions of constraints.txt, or on a CPU (trainer.device=cpu).",
        )
    return {"file": file.name, "largest_difference": difference, "records": len(data), "output": name}


def largest_difference(a: np.ndarray, b: np.ndarray) -> float:
    """The largest difference; what is NaN in both, as nothing taught it, is none, and in one of them infinite."""
    return float(np.nan_to_num(np.where(np.isnan(a) & np.isnan(b), 0.0, np.abs(a - b)), nan=np.inf).max())


def _write(network: nn.Module, first: torch.Tensor, metadata: dict[str, str], aside: Path) -> None:
    for name in ("onnxscript", "onnx_ir", "torch.onnx"):  # they tell of every step of the optimisation
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network, (first,), dynamo=True, verbose=False, input_names=["records"], output_names=["answers"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )  # fmt: skip
    assert program is not None
    program.model.metadata_props.update(metadata)
    program.save(str(aside), external_data=False)


def onnx_answers(
    file: Path, data: PreparedDataset, batch_size: int, description: str, records: int | None = None
) -> np.ndarray:
    """The answers of ONNX Runtime (CPU) for all records, or the first few, in their order."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    positions = range(len(data) if records is None else min(records, len(data)))
    batches = [[(0, p, 0) for p in positions[i : i + batch_size]] for i in range(0, len(positions), batch_size)]
    parts = [
        session.run(["answers"], {"records": arrays.numpy()})[0]
        for arrays, _, _ in track(Loader(data)(batches), description, len(batches))
    ]
    return np.concatenate(parts)


def describe(
    run: Run[Any], method: Method[Any], finished: FinishedRun, name: str, first: torch.Tensor, output: str
) -> dict[str, str]:
    """The metadata of an ONNX file, text by key; what is no word is JSON."""
    flow, model = read_json(finished.folder.flow), finished.models[name]
    points = [p for p in finished.operating_points if p.get("threshold") is not None]
    content: dict[str, Any] = {
        "study": run.study.name,
        "title": run.study.title,
        "network": name,
        "version": f"imaging-pipelines {pipelines.__version__}",
        "trained_with": f"imaging-pipelines {model.get('version')}",
        "run": finished.folder.path.name,
        "seed": model.get("seed"),
        "classes": model["classes"],
        "untaught": model.get("untaught", {}),
        "input": {
            "dtype": str(first.dtype).removeprefix("torch."),
            "shape": ["batch", *first.shape[1:]],
            "what": "arrays as the study prepares them for its networks; scaling happens inside",
        },
        "preprocessing": model["preprocessing"],
        "output": output,
        **({"calibration": model["calibration"]} if "calibration" in model else {}),  # is inside the file
        "operating_points": points,
        **({"prediction_sets": finished.prediction_sets} if finished.prediction_sets else {}),
        "chosen_on_val": model.get("chosen_on_val", {}),
        "trained_on": model.get("trained_on"),
        "synthetic": flow["synthetic"],
        **({} if finished.notice is None else {"licence": finished.notice}),
        "beyond_this_file": _beyond(run.study.name, method, points, finished, model),
    }
    return {k: v if isinstance(v, str) else json.dumps(plain(v), ensure_ascii=False) for k, v in content.items()}


def _beyond(
    study: str, method: Method[Any], points: list[dict[str, Any]], finished: FinishedRun, model: dict[str, Any]
) -> list[str]:
    """What a user must do that the file does not."""
    tasks = [f"Records are prepared by pipelines.{study}.data.prepare with the settings under preprocessing."]
    own = {f"p_{c}" for c in model["classes"]}
    scores = sorted({str(p["score"]) for p in points if p.get("score") not in own | {None}})
    if scores:
        tasks.append(
            f"The scores {', '.join(scores)} that thresholds are for are made from the answers by "
            f"pipelines.{study}.metrics.predict_columns."
        )
    chosen = ", ".join(model.get("chosen_on_val", {}))
    if chosen:
        tasks.append(f"pipelines.{study}.metrics.predict_columns takes the {chosen} under chosen_on_val too.")
    if method.not_exported:
        tasks.append(method.not_exported)
    elif len(finished.models) > 1:
        tasks.append(f"The run's answer is the mean of the probabilities of its {len(finished.models)} networks.")
    return tasks
