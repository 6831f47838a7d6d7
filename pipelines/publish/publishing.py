"""What a published run is made of, and whether it still answers as the run did."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from pipelines.publish.licences import notice, weights_licence
from pipelines.shared.config import StudyConfig
from pipelines.shared.data.cards import load_card
from pipelines.shared.errors import RunError
from pipelines.shared.handover.exporting import largest_difference
from pipelines.shared.judging.prediction_sets import freeze_sets
from pipelines.shared.learning.cross_validation import method_of
from pipelines.shared.learning.distributed import World
from pipelines.shared.learning.method import Method, load_network, network_outputs
from pipelines.shared.pretrained import NOTICE
from pipelines.shared.run import FinishedRun, Run, open_finished
from pipelines.shared.run_folder import (
    RunFolder,
    digest,
    plain,
    read_json,
    write_atomically,
    write_json,
    write_table,
    write_text,
)
from pipelines.shared.study import Study

LARGEST = 10_000_000  # bytes of a published run's weights
SMALL = 1024  # elements of a tensor that stays as it is: norms, biases, combinations of networks
TOLERANCE = 0.01  # of a probability, between the run's networks and the published ones
RECORDS = ["id", "group", "source_group", "split", "fingerprint", "fold"]  # no paths, no targets, nothing about people
FLOW = ["source", "card", "synthetic", "group_key", "fingerprint", "split_fingerprint", "split_file", "split_given"]
PATH = re.compile(r"""(?<==)["']?(?:/|~)[^\s"'`]*""")  # the value of a key in a command that is a path of a machine


@dataclass(frozen=True)
class Published:
    """What publishing found: the largest difference of a probability, over how many records, and bytes of weights."""

    difference: float
    records: int
    size: int

    def sentence(self) -> str:
        """For the screen and the card."""
        return (
            f"Weights of {self.size / 1e6:.1f} MB in half precision; on {self.records:,} test records no probability "
            f"differs from the run's own by more than {self.difference:.2g} ({TOLERANCE:g} is allowed)."
        )


def publish_run(
    study: Study[Any], config: StudyConfig, folder: RunFolder, target: Path, name: str, licence: str | None
) -> Published:
    """Write a published run to `target`, whole or not at all.

    Args:
        study: the run's.
        config: the run's.
        folder: the run's.
        target: a folder that is not there yet.
        name: what others call it.
        licence: of the weights, where the data card leaves that to the owner of the data.

    Raises:
        DataError: the data's licence does not allow it.
        RunError: the weights are too large, the answers differ too much, or the run needs a file of this machine.
    """
    finished = open_finished(study, folder.path)
    flow = read_json(folder.flow, FLOW[:6])
    card = load_card(flow["card"])
    words = notice(study.name, name, card, weights_licence(card, licence))
    values = portable(config)
    aside = RunFolder(target.with_name(f".{target.name}.tmp"))
    shutil.rmtree(aside.path, ignore_errors=True)
    try:
        size = sum(_halved(folder.network(one), aside.network(one)) for one in finished.models)
        if size > LARGEST:
            raise RunError(
                f"The weights of {folder.path} take {size / 1e6:.1f} MB in half precision; {LARGEST / 1e6:g} are "
                "allowed.",
                "Publish a run with a smaller backbone or fewer networks.",
            )
        write_json(aside.operating_points, finished.operating_points)
        freeze_sets(aside, finished.prediction_sets)
        aside.write_config(values)
        write_json(aside.flow, plain({key: flow.get(key) for key in FLOW}))
        records = folder.read_table(folder.records)
        write_table(aside.records, records[[c for c in RECORDS if c in records]])
        method = method_of(study, config)
        for extra in ("metrics.json", "reporting_checklist.md", "split.csv", *method.files):
            if (folder.path / extra).is_file():
                write_atomically(aside.path / extra, partial(shutil.copyfile, folder.path / extra))
        run = Run(study, config, folder, World(0, 1, torch.device("cpu")))
        found = Published(*_agreement(run, method, finished, open_finished(study, aside.path)), size)
        card_file = folder.path / "model_card.md"
        text = card_file.read_text(encoding="utf-8") if card_file.is_file() else f"# Model card: {study.title}\n"
        write_text(aside.path / card_file.name, _card(text, words, found))
        checklist = aside.path / "reporting_checklist.md"
        if checklist.is_file():
            write_text(checklist, PATH.sub("<path>", checklist.read_text(encoding="utf-8")))
        write_text(aside.path / NOTICE, words + "\n")
        target.parent.mkdir(parents=True, exist_ok=True)
        aside.path.rename(target)
    finally:
        shutil.rmtree(aside.path, ignore_errors=True)
    return found


def portable(config: StudyConfig) -> dict[str, Any]:
    """A run's configuration without what belongs to the machine that made it.

    Raises:
        RunError: a key whose value is a file of this machine that answers need.
    """
    values = config.model_dump()
    values |= {"mode": "train", "run": None, "run_dir": ".", "input": None, "track": None}
    values["data"] |= {"root": None} | ({"table": None} if "table" in values["data"] else {})
    values["cache"] |= {"dir": ".cache"}
    values["split"] |= {"file": None}
    values["trainer"] |= {"device": "auto", "workers": None}
    values["model"] |= {"weights": Path(values["model"]["weights"]).name}
    if "stage1" in values:
        values["stage1"] = None
    for key, value in _leaves(values):
        if isinstance(value, str) and (
            value.startswith(("/", "~")) or (value.endswith((".yaml", ".yml")) and Path(value).is_file())
        ):
            raise RunError(
                f"{key}={value} is a file of this machine, which others do not have.",
                "Put it into conf/ under a name, and train with that name.",
            )
    return values


def _leaves(values: Any, prefix: str = "") -> list[tuple[str, Any]]:
    if isinstance(values, dict):
        return [leaf for key, value in values.items() for leaf in _leaves(value, f"{prefix}.{key}".lstrip("."))]
    if isinstance(values, list):
        return [leaf for value in values for leaf in _leaves(value, prefix)]
    return [(prefix, values)]


def _halved(folder: Path, target: Path) -> int:
    """Copy a network, large tensors in half precision; loading makes them float32 again. Returns bytes of weights."""
    state = safetensors.torch.load_file(folder / "weights.safetensors")
    for key, value in state.items():
        if value.dtype == torch.float32 and value.numel() >= SMALL and value.half().isfinite().all():
            state[key] = value.half()
    file = target / "weights.safetensors"
    write_atomically(file, lambda aside: safetensors.torch.save_file(state, aside))
    model = read_json(folder / "model.json")
    write_json(target / "model.json", plain(model | {"stored_as": "float16", "sha256": digest(file)}))
    return file.stat().st_size


def _agreement(run: Run[Any], method: Method[Any], finished: FinishedRun, copy: FinishedRun) -> tuple[float, int]:
    """The largest difference of a probability between a run's networks and their copies, and over how many records.

    Raises:
        RunError: it is larger than TOLERANCE.
    """
    data = method.export_data(run, finished)
    largest = 0.0
    for name, model in finished.models.items():
        if "learners" in model:  # it combines networks' answers, and its few weights are as they were
            continue
        learner = method.learner.from_model(run.config, model)
        networks = [load_network(run, learner, one.folder.network(name)) for one in (finished, copy)]
        its, copied = (learner.probabilities(network_outputs(run, each, data, name)) for each in networks)
        largest = max(largest, largest_difference(its, copied))
    if not largest <= TOLERANCE:  # also where it is no number
        raise RunError(
            f"In half precision a probability of {finished.folder.path} differs by {largest:.3g}, {TOLERANCE:g} is "
            "allowed.",
            "Hand on the run folder itself: run=<folder> takes it as it is.",
        )
    return largest, len(data)


def _card(text: str, words: str, found: Published) -> str:
    """The run's model card with what holds of the copy, first that it is not for patients."""
    head, line, rest = PATH.sub("<path>", text).partition("\n")
    return f"{head}{line}\n## This copy\n\n{words}\n\n{found.sentence()}\n{rest}".rstrip() + "\n"
