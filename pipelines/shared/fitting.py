"""The default fit of a study: one network or an ensemble, val and test predicted, thresholds chosen on val."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

import pipelines
from pipelines.shared.dataset import PreparedDataset
from pipelines.shared.distributed import World, barrier
from pipelines.shared.model_files import load_weights, read_facts, save_network, update_facts
from pipelines.shared.predictor import predict
from pipelines.shared.run_folder import RunFolder, plain, read_table, write_csv, write_json
from pipelines.shared.seeds import seed_of
from pipelines.shared.study import Config, Data, Study
from pipelines.shared.trainer import fit, loader_workers


def fit_and_predict(study: Study, config: Config, data: Data, folder: RunFolder, world: World) -> None:
    """Fill models/, history.csv, predictions/ and operating_points.json. Networks that are finished are kept."""
    targets = study.targets(data.records)
    for k in range(config.model.networks):
        name = "network" if config.model.networks == 1 else f"network_{k:02d}"
        if not (folder.network(name) / "model.json").exists():
            fit_network(study, config, data, targets, folder, world, name, seed_of(config.seed, "network", k))
    parts = {split: _dataset(data, targets, split) for split in ("val", "test")}
    outputs = ensemble(study, folder.networks(), parts, config, world)
    if world.main:
        for split, probabilities in outputs.items():
            folder.write_table(folder.predictions(split), prediction_table(study, data, split, probabilities))
        points = study.choose_points(folder.read_table(folder.predictions("val")), config)
        points = [point | {"chosen_on": "val"} for point in points]
        write_json(folder.operating_points, plain(points))
        for path in folder.networks():
            update_facts(path, {"operating_points": points})


def fit_network(
    study: Study, config: Config, data: Data, targets: np.ndarray, folder: RunFolder, world: World, name: str, seed: int
) -> None:
    """Train one network on `train`, keep its best epoch on `val`, and write models/<name>/ and its part of history.csv.

    A study that fits several networks on different records gives each its own `data`, with other splits.
    """
    loss = study.loss(config)
    training, validation = _dataset(data, targets, "train", study.augment(config), seed), _dataset(data, targets, "val")
    torch.manual_seed(seed)
    network = study.build(config)

    def validate(model: nn.Module) -> dict[str, float]:
        outputs = network_outputs(model, validation, config, world, "Validating")
        value = loss(torch.from_numpy(outputs), torch.from_numpy(validation.targets))
        return {"val_loss": float(value), **study.measure(validation.targets, outputs)}

    rows = fit(
        network,
        loss,
        training,
        validate,
        config.trainer,
        name=name,
        seed=seed,
        world=world,
        file=folder.checkpoint(name),
        belongs_to={"split": data.flow["split_fingerprint"]} | training_keys(config),
    )
    if world.main:
        history = pd.DataFrame(rows)
        if folder.history.exists():
            history = pd.concat([read_table(folder.history, ["network"]).query("network != @name"), history])
        write_csv(folder.history, history)
        best = history[history["best"].astype(bool) & (history["network"] == name)].iloc[-1]
        facts = {
            "study": study.name,
            "name": name,
            "version": pipelines.__version__,
            "architecture": study.architecture(network),
            "classes": study.classes,
            "preprocessing": study.prepare_settings(config),
            "seed": seed,
            "best_epoch": int(best["epoch"]),
            "monitor": {config.trainer.monitor: float(best[config.trainer.monitor])},
            "trained_on": {"source": data.flow["source"], "split_fingerprint": data.flow["split_fingerprint"]},
            "operating_points": [],
        }
        save_network(folder.network(name), network, facts)
    barrier(world)


def _dataset(data: Data, targets: np.ndarray, split: str, augment: Any = None, seed: int = 0) -> PreparedDataset:
    at = data.positions(split)
    return PreparedDataset(data.prepared.take(at), data.records["id"].to_numpy()[at], targets[at], augment, seed)


def network_outputs(model: nn.Module, dataset: PreparedDataset, config: Config, world: World, what: str) -> np.ndarray:
    """One network's outputs for a dataset, with the precision and loader workers of the configuration."""
    trainer = config.trainer
    bf16 = trainer.precision == "bf16" or (trainer.precision == "auto" and world.device.type == "cuda")
    precision, workers = "bf16" if bf16 else "fp32", loader_workers(trainer, world)
    return predict(model, dataset, world, trainer.batch_size, workers, precision, what)


def ensemble(
    study: Study, networks: list[Path], datasets: dict[str, PreparedDataset], config: Config, world: World
) -> dict[str, np.ndarray]:
    """Probabilities for each dataset, averaged linearly over the networks."""
    sums: dict[str, Any] = dict.fromkeys(datasets, 0.0)
    for path in networks:
        network = load_network(study, path).to(world.device)
        for name, dataset in datasets.items():
            outputs = network_outputs(network, dataset, config, world, f"Predicting {name}")
            sums[name] = sums[name] + study.probabilities(outputs)
    return {name: total / len(networks) for name, total in sums.items()}


def external_predictions(study: Study, config: Config, data: Data, networks: list[Path], world: World) -> pd.DataFrame:
    """The prediction table of an external dataset."""
    dataset = _dataset(data, study.targets(data.records), "test")
    if study.combine is not None:
        rows = data.records.iloc[data.positions("test")].reset_index(drop=True)
        columns = study.combine(study, config, networks, dataset, rows, world)
        return pd.concat([rows[["id", "group"]], study.target_columns(rows), columns], axis=1)
    probabilities = ensemble(study, networks, {"test": dataset}, config, world)["test"]
    return prediction_table(study, data, "test", probabilities)


def file_predictions(
    study: Study, config: Config, dataset: PreparedDataset, networks: list[Path], world: World
) -> pd.DataFrame:
    """The prediction columns of unlabelled files."""
    if study.combine is not None:
        rows = pd.DataFrame({"id": dataset.ids})
        return study.combine(study, config, networks, dataset, rows, world)
    return study.predict_columns(ensemble(study, networks, {"files": dataset}, config, world)["files"])


def prediction_table(study: Study, data: Data, split: str, probabilities: np.ndarray) -> pd.DataFrame:
    """id, group, the study's targets, p_<class>…: one row per record of a split, or as many as the study gives it."""
    rows = data.records.iloc[data.positions(split)].reset_index(drop=True)
    if study.prediction_table is not None:
        return study.prediction_table(rows, probabilities)
    return pd.concat([rows[["id", "group"]], study.target_columns(rows), study.predict_columns(probabilities)], axis=1)


def load_network(study: Study, path: Path) -> nn.Module:
    """A network of a run folder, checked to be of this study and its classes."""
    return load_weights(path, study.rebuild(read_facts(path, study.name, study.classes)))


def training_keys(config: Config) -> dict[str, Any]:
    """Every key that the weights depend on, dotted, with its value; not where and how fast they are computed."""
    values = config.model_dump(exclude={"mode", "run", "run_dir", "input", "intended_use", "cache", "statistics"})
    for key in ("device", "workers", "checkpoint_seconds"):
        values["trainer"].pop(key)
    return _dotted(values)


def _dotted(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _dotted(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
