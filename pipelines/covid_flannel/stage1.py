"""Stage 1: the base learners of every fold, and their predictions kept on disk, one folder per (fold, learner).

    stage1/fold_0-resnet/predictions.parquet   id, role (stack, test), p_<class>; null where training lacks the class
    stage1/fold_0-resnet/key.json              everything that they depend on; written last, so it marks a finished one

A run takes what its own folder or those named by `stage1=` hold under the same key, and trains the rest.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipelines.covid_flannel.config import CLASSES, CovidConfig
from pipelines.covid_flannel.learner import BaseLearner, answers_of, untaught_in
from pipelines.covid_flannel.protocol import roles
from pipelines.shared.errors import RunError, listed
from pipelines.shared.learning.dataset import PreparedDataset
from pipelines.shared.learning.distributed import main_first
from pipelines.shared.learning.method import fit_network, load_network, network_outputs
from pipelines.shared.log import log
from pipelines.shared.run import Run
from pipelines.shared.run_folder import RunFolder, plain, read_json, read_table, write_atomically, write_csv, write_json
from pipelines.shared.seeds import seed_of
from pipelines.shared.study import Data

VERSION = 1  # raise it whenever the same key gives other base learners


def name_of(fold: int, learner: str) -> str:
    """The name of a base learner of one fold, in models/, stage1/ and history.csv."""
    return f"fold_{fold}-{learner}"


def key_of(config: CovidConfig, data: Data, fold: int, learner: str) -> dict[str, Any]:
    """Everything that the predictions of a base learner depend on: its recipe and, by hash, who plays which part."""
    records = data.records
    # Keys that have a default are those that earlier versions lack: at their defaults they change nothing.
    trainer = config.trainer.model_dump(exclude={"device", "workers", "checkpoint_seconds"}, exclude_defaults=True)
    parts = roles(records, fold, config)
    rows = (records["id"].astype(str) + "\t" + records["fingerprint"].astype(str) + "\t" + records["label"]).to_numpy()
    untaught = untaught_in(records, parts["train"])
    calibration = config.calibration.model_dump(exclude_defaults=True)
    return {
        "version": VERSION,
        "classes": CLASSES,
        "fold": fold,
        "learner": config.base_learners[learner].model_dump(exclude_defaults=True),
        "model": config.model.model_dump(exclude_defaults=True),
        "preprocess": config.preprocess.model_dump(exclude_defaults=True),
        "augment": config.augment.model_dump(exclude_defaults=True),
        "loss": config.loss.model_dump(exclude_defaults=True),
        "trainer": trainer,
        "seed": config.seed,
        **({"untaught": untaught} if untaught else {}),  # earlier versions had no null for them
        **({"calibration": calibration} if calibration else {}),  # nor could they be calibrated
        **{role: hashlib.sha256("\n".join(sorted(rows[mask])).encode()).hexdigest() for role, mask in parts.items()},
    }


def earlier_runs(config: CovidConfig) -> list[RunFolder]:
    """The run folders that `stage1` names, or that lie in the folders it names.

    Raises:
        RunError: a name with no base learners in or below it.
    """
    named = [config.stage1] if isinstance(config.stage1, str) else config.stage1 or []
    folders: list[RunFolder] = []
    for name in named:
        root = Path(name)
        runs = [p for p in [root, *sorted(root.glob("*"))] if (p / "stage1").is_dir()]
        if not runs:
            raise RunError(
                f"stage1={name}: neither it nor a folder in it holds base learners (stage1/).",
                "Give a run folder of this study, finished or not, or a folder of such.",
            )
        folders += [RunFolder(p) for p in runs]
    return folders


def stored(folder: RunFolder, name: str, key: dict[str, Any]) -> pd.DataFrame | None:
    """The predictions that a run folder holds under this name and key; None if there are none.

    Raises:
        RunError: there are some, but with another key (another split, class order, recipe …).
    """
    place = folder.path / "stage1" / name
    if not (place / "key.json").exists():
        return None
    there = read_json(place / "key.json", ["version"])
    wanted = json.loads(json.dumps(plain(key)))
    if there != wanted:
        differ = [
            f"{k}: {_brief(there.get(k))}, here {_brief(wanted.get(k))}"
            for k in sorted({*there, *wanted})
            if there.get(k) != wanted.get(k)
        ]
        raise RunError(
            f"The base predictions in {place} belong to another run:\n{listed(differ)}",
            "Use the configuration and data that made them, or leave stage1 out to train anew.",
        )
    table = read_table(place / "predictions.parquet")
    if list(table.columns) != ["id", "role", *(f"p_{c}" for c in CLASSES)]:
        raise RunError(
            f"{place}/predictions.parquet has other columns: {', '.join(map(str, table))}.", "Train it anew."
        )
    return table


def _brief(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:28] + "…"


def base_predictions(
    run: Run[CovidConfig], data: Data, fold: int, member: str, earlier: list[RunFolder]
) -> pd.DataFrame:
    """The predictions of one base learner for its stacking and test part: found, or trained and then stored.

    Raises:
        RunError: what is stored belongs to another split or recipe.
    """
    config, folder, world = run.config, run.folder, run.world
    name, key = name_of(fold, member), key_of(config, data, fold, member)
    with main_first(world):
        if world.main and stored(folder, name, key) is None:
            _take(earlier, folder, name, key)
        known = stored(folder, name, key)
    if known is not None:
        return known
    parts = roles(data.records, fold, config)
    split = np.select([parts["train"], parts["val"]], ["train", "val"], default="")
    of_fold = replace(
        data,
        records=data.records.assign(split=split),
        flow=data.flow | {"split_fingerprint": hashlib.sha256(json.dumps(plain(key)).encode()).hexdigest()},
    )
    answers = answers_of(data.records)
    counts = np.bincount(answers[parts["train"]].astype(int), minlength=len(CLASSES))
    learner = BaseLearner(config, config.base_learners[member], counts, untaught_in(data.records, parts["train"]))
    if not (folder.network(name) / "model.json").exists():
        fit_network(run, learner, of_fold, name, seed_of(config.seed, "base", fold, member))
    network = load_network(run, learner, folder.network(name))
    judged = np.flatnonzero(parts["stack"] | parts["test"])
    dataset = PreparedDataset(data.prepared.take(judged), data.records["id"].iloc[judged].tolist(), answers[judged])
    p = learner.probabilities(network_outputs(run, network, dataset, f"Predicting {name}"))
    table = pd.DataFrame({"id": dataset.ids.tolist(), "role": np.where(parts["test"][judged], "test", "stack")})
    table = table.join(pd.DataFrame(p, columns=[f"p_{c}" for c in CLASSES]))
    with main_first(world):
        if world.main:
            folder.write_table(folder.path / "stage1" / name / "predictions.parquet", table)
            write_json(folder.path / "stage1" / name / "key.json", plain(key))
            folder.checkpoint(name).unlink(missing_ok=True)  # 25 of them would take ten times the networks' place
    return table


def _copy_network(place: Path, target: Path) -> None:
    """Weights and model.json, which says that the network is there, last."""
    names = ["weights.safetensors", "model.json"]
    missing = [name for name in names if not (place / name).is_file()]
    if missing:
        raise RunError(
            f"stage1: {place} lacks {' and '.join(missing)}, though its predictions are there.",
            "Copy the whole run folder again, with its models/, or leave stage1 out to train anew.",
        )
    for name in names:
        write_atomically(target / name, partial(shutil.copyfile, place / name))


def _take(earlier: list[RunFolder], folder: RunFolder, name: str, key: dict[str, Any]) -> None:
    """Copy a finished base learner from an earlier run: network, part of the history, predictions; the key last."""
    for run in earlier:
        table = stored(run, name, key)
        if table is None:
            continue
        _copy_network(run.network(name), folder.network(name))
        log.info(f"{name}: taken from {run.path}")
        if run.history.exists():
            rows = read_table(run.history, ["network"]).query("network == @name")
            before = [read_table(folder.history).query("network != @name")] if folder.history.exists() else []
            write_csv(folder.history, pd.concat([*before, rows]))
        folder.write_table(folder.path / "stage1" / name / "predictions.parquet", table)
        write_json(folder.path / "stage1" / name / "key.json", plain(key))
        return
