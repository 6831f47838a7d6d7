"""How learners become an answer. The default is an ensemble of equals; a study with stages of its own has its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Generic

import numpy as np
import pandas as pd
import torch
from torch import nn

import pipelines
from pipelines.shared.data.ranges import KEY, ranges_of, sampled
from pipelines.shared.errors import BadFile, ConfigError, RunError, UserError
from pipelines.shared.judging.prediction_sets import choose_sets, freeze_sets, with_set_columns
from pipelines.shared.learning.batch_size import sized
from pipelines.shared.learning.dataset import Loader, PreparedDataset, balanced_shares
from pipelines.shared.learning.distributed import barrier
from pipelines.shared.learning.hardware import batch_in_memory, keep_freed_memory, loader_workers, uses_bf16
from pipelines.shared.learning.learner import Learner
from pipelines.shared.learning.model_files import load_weights, save_network, update_model
from pipelines.shared.learning.predictor import predict
from pipelines.shared.log import log
from pipelines.shared.run import FinishedRun, Run, read_model
from pipelines.shared.run_folder import plain, read_table, write_csv, write_json
from pipelines.shared.seeds import seed_of
from pipelines.shared.study import C, Data
from pipelines.shared.untaught import untaught_lines


class Method(ABC, Generic[C]):
    """What a study does with its learners.

    Attributes:
        learner: the class of its networks.
        not_exported: what a run's answer needs besides its networks, and an export lacks.
        files: names of files in the run folder, besides models/, that an answer needs.
    """

    learner: type[Learner[C]]
    not_exported: str = ""
    files: tuple[str, ...] = ()

    @abstractmethod
    def fit(self, run: Run[C], data: Data) -> None:
        """Fill models/, history.csv, predictions/ and operating_points.json. What is finished is kept."""

    @abstractmethod
    def answer(self, run: Run[C], finished: FinishedRun, data: Data) -> pd.DataFrame:
        """The prediction table of any data by a finished run: val, test, another dataset, unlabelled files."""

    def explain(self, run: Run[C], data: Data) -> None:
        """Leave pictures of what was learned in the run folder; nothing, unless a study has something to show."""

    def with_batch_size(self, run: Run[C], data: Data) -> Run[C]:
        """The run with a number for `trainer.batch_size=auto`.

        Raises:
            ConfigError: this study does not find one by itself.
        """
        if run.config.trainer.batch_size == 0:
            raise ConfigError(
                "trainer.batch_size=auto is not possible here: several networks learn from different records.",
                "Give a number.",
            )
        return run

    def export_data(self, run: Run[C], finished: FinishedRun) -> PreparedDataset:
        """What an export is checked on: the run's own test records."""
        from pipelines.shared.handover.exporting import run_records

        return run_records(run, finished)

    def saliency(self, run: Run[C], finished: FinishedRun, picture: np.ndarray) -> tuple[str, np.ndarray] | None:
        """What the first network looked at in a prepared picture (height, width, channels), for a page: of which score,
        in words, and the map, float 0 to 1 (height, width). None, unless a study can say.
        """
        return None


class Ensemble(Method[C]):
    """`model.networks` networks that differ by their seed; their probabilities are averaged linearly."""

    def fit(self, run: Run[C], data: Data) -> None:
        """Train the networks, predict val and test, choose thresholds on val."""
        learner = self.learner.from_data(run.config, data)
        for line in untaught_lines(learner.untaught):
            log.warning(line)
        count = run.config.model.networks
        for k in range(count):
            name = "network" if count == 1 else f"network_{k:02d}"
            if not (run.folder.network(name) / "model.json").exists():
                fit_network(run, learner, data, name, seed_of(run.config.seed, "network", k))
        if run.world.main:
            keep_ranges(run, data, data.positions("train"))
        predict_and_choose(run, learner, data)

    def with_batch_size(self, run: Run[C], data: Data) -> Run[C]:
        """The run with the largest batch that fits, found by training steps on this device, and its learning rate."""
        if run.config.trainer.batch_size:
            return run
        learner = self.learner.from_data(run.config, data)
        training = dataset_of(data, learner.targets(data.records), "train", learner.augment())
        trainer = sized(run.config.trainer, learner.build(), learner.loss(), training, run.world)
        config = run.config.model_copy(update={"trainer": trainer})
        if run.world.main:
            run.folder.write_config(config.model_dump())  # a resumed run has the same
        return replace(run, config=config)

    def answer(self, run: Run[C], finished: FinishedRun, data: Data) -> pd.DataFrame:
        """The prediction table of all records of `data`, by all networks of the finished run."""
        learner = self.learner.from_model(run.config, next(iter(finished.models.values())))
        dataset = PreparedDataset(data.prepared, data.records["id"].tolist(), np.zeros((len(data.records), 1)))
        p = mean_probabilities(run, learner, finished.networks, {"records": dataset})["records"]
        return learner.table(data.records, p)


def fit_network(run: Run[C], learner: Learner[C], data: Data, name: str, seed: int) -> None:
    """Train one network on `train`, keep its best epoch on `val`, and write models/<name>/ and its part of history.csv.

    A study that fits several networks on different records gives each its own `data`, with other splits.
    """
    from pipelines.shared.learning.frozen import fit_head
    from pipelines.shared.learning.trainer import fit

    loss, targets = learner.loss(), learner.targets(data.records)
    training = dataset_of(data, targets, "train", learner.augment(), seed)
    if run.config.trainer.sampling == "balanced":
        strata = learner.strata(data.part("train").records)
        training.shares = balanced_shares(strata, run.config.trainer.sampling_power)
    validation = dataset_of(data, targets, "val")
    validating = Loader(validation, loader_workers(run.config.trainer, run.world), run.world.device)
    torch.manual_seed(seed)
    network = learner.build()

    monitor = run.config.trainer.monitor

    def measure(outputs: np.ndarray) -> dict[str, float]:
        value = loss(torch.from_numpy(outputs), torch.from_numpy(validation.targets))
        return {"val_loss": float(value), **learner.measure(validation.targets, outputs)}

    def track(row: dict[str, Any]) -> None:
        if run.tracker is not None:
            run.tracker.epoch(run.folder.network(name).name, row)

    if run.config.model.head_only:
        rows = fit_head(network, _features(run, training, validation), training.targets, loss, measure, monitor, name)
        for row in rows:
            track(row)
    else:
        rows = fit(
            network,
            loss,
            training,
            lambda model: measure(network_outputs(run, model, validating, "Validating")),
            run.config.trainer,
            name=name,
            seed=seed,
            world=run.world,
            file=run.folder.checkpoint(name),
            must_match={"split": data.flow["split_fingerprint"]} | training_keys(run.config),
            on_epoch=track,
        )
    description = describe(run, learner, network, data, name, seed)

    def answers() -> np.ndarray:
        answering = learner.finished(network, description).to(run.world.device)
        return network_outputs(run, answering, validating, "Calibrating on val")

    chosen = learner.calibrate(validation.targets, answers, measure)
    if run.world.main:
        history = pd.DataFrame(rows)
        if run.folder.history.exists():
            history = pd.concat([read_table(run.folder.history, ["network"]).query("network != @name"), history])
        write_csv(run.folder.history, history)
        best = history[history["best"].astype(bool) & (history["network"] == name)].iloc[-1]
        extra = {"best_epoch": int(best["epoch"]), "monitor": {monitor: float(best[monitor])}}
        extra |= {"penalty": float(best["penalty"])} if run.config.model.head_only else {}
        calibration = {"calibration": chosen} if chosen else {}
        save_network(run.folder.network(name), network, description | extra | calibration)
    barrier(run.world)


def _features(
    run: Run[C], training: PreparedDataset, validation: PreparedDataset
) -> Callable[[nn.Module], tuple[np.ndarray, np.ndarray]]:
    """What `fit_head` asks for: a network's outputs for the training records, as they are, and for val."""
    training.augment = None
    return lambda network: (
        network_outputs(run, network.to(run.world.device), training, "Features of train"),
        network_outputs(run, network, validation, "Features of val"),
    )


def describe(run: Run[C], learner: Learner[C], network: nn.Module, data: Data, name: str, seed: int) -> dict[str, Any]:
    """What model.json says of every network."""
    return {
        "study": run.study.name,
        "name": run.folder.network(name).name,
        "version": pipelines.__version__,
        "architecture": learner.architecture(network),
        "classes": learner.classes,
        "untaught": dict(learner.untaught),
        "preprocessing": run.study.prepare_settings(run.config),
        "seed": seed,
        "trained_on": {"source": data.flow["source"], "split_fingerprint": data.flow["split_fingerprint"]},
        "operating_points": [],
    }


def keep_ranges(run: Run[C], data: Data, positions: np.ndarray) -> None:
    """Write into every model.json the ranges of simple measures over training records, of a sample where they are many:
    of what lies beyond them `mode=predict` warns. What is there several times counts once.
    """
    positions = positions[~data.prepared.metadata["fingerprint"].iloc[positions].duplicated().to_numpy()]
    measured = []
    for position in sampled(positions):
        with suppress(BadFile, OSError):  # a file that is away by now is one measured record less, no end of the run
            measured.append(run.study.measures(data, int(position), run.config))
    ranges = ranges_of(measured)
    for path in run.folder.networks():
        update_model(path, {KEY: {"records": len(positions), "measured": len(measured), "measures": ranges}})


def predict_and_choose(run: Run[C], learner: Learner[C], data: Data) -> None:
    """Predict val and test by all networks of the run, choose thresholds on val and freeze them, those of prediction
    sets too.
    """
    targets = learner.targets(data.records)
    parts = {split: dataset_of(data, targets, split) for split in ("val", "test")}
    answers = mean_probabilities(run, learner, run.folder.networks(), parts)
    if not run.world.main:
        return
    chosen = learner.choose(data.part("val").records, answers["val"])
    for path in run.folder.networks():
        update_model(path, {"chosen_on_val": chosen})
    learner = learner.from_model(run.config, read_model(run.folder.networks()[0], run.study.name))
    val, test = (learner.table(data.part(split).records, answers[split]) for split in ("val", "test"))
    choose_and_freeze(run, val, test)


def choose_and_freeze(run: Run[C], val: pd.DataFrame, test: pd.DataFrame) -> None:
    """Write both prediction tables, choose thresholds on val and freeze them, those of prediction sets too."""
    folder = run.folder
    folder.write_table(folder.predictions("val"), val)
    val = folder.read_table(folder.predictions("val"))
    tasks = run.study.set_tasks(read_model(folder.networks()[0], run.study.name), run.config)
    sets = choose_sets(tasks, val, run.config.conformal.level)
    folder.write_table(folder.predictions("test"), with_set_columns(test, sets))
    freeze_sets(folder, sets)
    freeze_points(run, run.study.choose_points(val, run.config))


def freeze_points(run: Run[C], points: list[dict[str, Any]]) -> None:
    """Write operating_points.json, and into every model.json."""
    points = [{**point, "chosen_on": "val"} for point in points]
    write_json(run.folder.operating_points, plain(points))
    for path in run.folder.networks():
        update_model(path, {"operating_points": points})


def dataset_of(data: Data, targets: np.ndarray, split: str, augment: Any = None, seed: int = 0) -> PreparedDataset:
    """The records of a split with their targets (one row for each record of `data`)."""
    positions = data.positions(split)
    prepared, ids = data.prepared.take(positions), data.records["id"].to_numpy()[positions]
    return PreparedDataset(prepared, ids, targets[positions], augment, seed)


def network_outputs(run: Run[C], model: nn.Module, dataset: PreparedDataset | Loader, what: str) -> np.ndarray:
    """One network's outputs for a dataset, with the precision and loader workers of the configuration."""
    trainer = run.config.trainer
    precision = "bf16" if uses_bf16(trainer, run.world) else "fp32"
    workers = loader_workers(trainer, run.world)
    with batch_in_memory(trainer, run.world):
        return predict(model, dataset, run.world, trainer.batch_size, workers, precision, what)


def mean_probabilities(
    run: Run[C], learner: Learner[C], networks: list[Path], datasets: Mapping[str, PreparedDataset]
) -> dict[str, np.ndarray]:
    """Probabilities for each dataset, averaged linearly over the networks."""
    sums: dict[str, Any] = dict.fromkeys(datasets, 0.0)
    for path in networks:
        network = load_network(run, learner, path)
        for name, dataset in datasets.items():
            outputs = network_outputs(run, network, dataset, f"Predicting {name}")
            sums[name] = sums[name] + learner.probabilities(outputs)
    return {name: total / len(networks) for name, total in sums.items()}


def load_network(run: Run[C], learner: Learner[C], path: Path) -> nn.Module:
    """A finished network of a run folder, checked to be of this study and these classes, on the run's device."""
    keep_freed_memory(run.world.device)
    if run.resident is not None and path in run.resident:
        return run.resident[path]
    model = read_model(path, run.study.name, learner.classes)
    network = learner.finished(_rebuilt(learner, path, model), model).to(run.world.device)
    if run.resident is not None:
        run.resident[path] = network
    return network


def first_network(run: Run[C], kind: type[Learner[C]]) -> nn.Module:
    """The first network of a run that is being finished, as it sees one picture (without the views of `test_time`): the
    one that saliency is about.
    """
    path = run.folder.networks()[0]
    model = read_model(path, run.study.name)
    return _rebuilt(kind.from_model(run.config, model), path, model).to(run.world.device)


def _rebuilt(learner: Learner[C], path: Path, model: dict[str, Any]) -> nn.Module:
    """The network that a model.json describes, with its weights.

    Raises:
        RunError: its architecture lacks a key or has one too many, or the weights are damaged.
    """
    try:
        network = learner.rebuild(model)
    except UserError:
        raise
    except Exception as failure:  # a damaged description fails in as many ways as there are layers
        reason = " ".join(str(failure).split()) or type(failure).__name__
        raise RunError(
            f"{path / 'model.json'}: its architecture cannot be built: {reason}.", "Copy the whole run folder again."
        ) from None
    return load_weights(path, network)


def training_keys(config: C) -> dict[str, Any]:
    """Every key that the weights depend on, dotted, with its value; not where and how fast they are computed.

    A key with a default in the configuration's model is one that earlier versions lack: at its default it is left out.
    """
    elsewhere = {
        "mode", "run", "run_dir", "input", "intended_use", "track", "cache", "statistics", "serve", "listen"
    }  # fmt: skip
    values = config.model_dump(exclude=elsewhere, exclude_defaults=True)
    for key in ("device", "workers", "checkpoint_seconds"):
        values["trainer"].pop(key)
    values["subgroups"] = config.subgroups  # none are the default, but earlier versions wrote that down too
    return _dotted(values)


def _dotted(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _dotted(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
