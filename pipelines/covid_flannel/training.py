"""Both stages, fold by fold, and how the networks of a finished run answer for other pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

import pipelines
from pipelines.covid_flannel import shortcuts
from pipelines.covid_flannel.config import CLASSES, CovidConfig
from pipelines.covid_flannel.flannel import ConstantWeights, Flannel, fit_combination, vote
from pipelines.covid_flannel.flannel import combine as combined
from pipelines.covid_flannel.metrics import choose_fold_points, pooled_points, prediction_columns, softmax
from pipelines.covid_flannel.protocol import fold_numbers, roles
from pipelines.covid_flannel.stage1 import base_predictions, earlier_runs, name_of
from pipelines.shared.dataset import PreparedDataset
from pipelines.shared.distributed import World, barrier
from pipelines.shared.errors import ConfigError
from pipelines.shared.fitting import load_network, network_outputs
from pipelines.shared.log import log
from pipelines.shared.model_files import save_network, update_facts
from pipelines.shared.run_folder import RunFolder, plain, read_json, write_json
from pipelines.shared.seeds import seed_of
from pipelines.shared.splits import folds
from pipelines.shared.stats.confusion import confusion_matrix, macro_f1
from pipelines.shared.study import Data, Study

INNER = 3  # parts of the stacking fold, for predictions of it by an ensemble that has not seen them
COMBINATIONS = ("flannel", "constant")


def fit_and_predict(study: Study, config: CovidConfig, data: Data, folder: RunFolder, world: World) -> None:
    """Stage 1 for every fold and learner, then stage 2; fills models/, stage1/, predictions/, operating_points.json.

    `predictions/test.parquet` pools the test parts of all folds. `predictions/val.parquet` pools the stacking parts,
    each predicted by an ensemble that was trained on the rest of it.

    Raises:
        ConfigError: `folds` names one that there is not.
    """
    there = fold_numbers(data.records)
    chosen = there if config.folds is None else config.folds
    beyond = [k for k in chosen if k not in there]
    if beyond:
        raise ConfigError(
            f"folds: {beyond[0]} is not there.", f"The rarest class allows {len(there)}: 0 to {there[-1]}."
        )
    earlier = earlier_runs(config)
    base = {
        fold: [
            base_predictions(study, config, data, folder, world, fold, learner, earlier)
            for learner in config.chosen_learners
        ]
        for fold in chosen
    }
    if world.main:
        tables: dict[str, list[pd.DataFrame]] = {"val": [], "test": []}
        points = []
        for fold in chosen:
            log.info(f"fold {fold}: stage 2 on the predictions of {', '.join(config.chosen_learners)}")
            validated, tested = _stage2(study, config, data, folder, fold, base[fold])
            found = choose_fold_points(validated, config, fold)
            for path in [p for p in folder.networks() if p.name.startswith(f"fold_{fold}-")]:
                update_facts(path, {"operating_points": found})
            points += found
            tables["val"].append(validated)
            tables["test"].append(tested)
        for split, parts in tables.items():
            folder.write_table(folder.predictions(split), pd.concat(parts, ignore_index=True))
        write_json(folder.operating_points, plain(pooled_points(points)))
        shortcuts.write_shortcuts(config, data, folder)
    barrier(world)


def _stage2(
    study: Study, config: CovidConfig, data: Data, folder: RunFolder, fold: int, base: list[pd.DataFrame]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Train the combinations of one fold on its stacking part; returns the tables of that part and of the test part."""
    parts = roles(data.records, fold, config)
    at = {split: np.flatnonzero(parts[role]) for split, role in (("val", "stack"), ("test", "test"))}
    p = {split: stacked(base, data.records["id"].to_numpy()[rows], role)
         for (split, rows), role in zip(at.items(), ("stack", "test"), strict=True)}  # fmt: skip
    answers = study.targets(data.records)[at["val"]].astype(int)
    inner = inner_folds(data.records.iloc[at["val"]], config.seed)
    methods = {split: methods_without_training(p[split], config.chosen_learners) for split in p}
    weights: dict[str, np.ndarray] = {}
    for kind in COMBINATIONS:
        seed = seed_of(config.seed, kind, fold)
        final = fit_combination(_start(kind, config, seed), p["val"], answers, config.ensemble, seed)
        methods["test"][kind] = combined(final, p["test"])
        methods["val"][kind], unseen = np.empty((len(answers), len(CLASSES))), {}
        for k in np.unique(inner):
            rest = inner != k
            part = fit_combination(_start(kind, config, seed), p["val"][rest], answers[rest], config.ensemble, seed)
            methods["val"][kind][~rest] = combined(part, p["val"][~rest])
            unseen[k] = part
        if isinstance(final, Flannel):
            weights["test"] = weights_of(final, p["test"])
            weights["val"] = np.empty((len(answers), len(base)))
            for k, part in unseen.items():
                weights["val"][inner == k] = weights_of(part, p["val"][inner == k])
        _save(study, config, data, folder, fold, kind, final, seed)
    best = best_learner(p["val"], answers, config.chosen_learners)
    found = []
    for split, rows in at.items():
        records = data.records.iloc[rows].reset_index(drop=True)
        columns = prediction_columns(methods[split], weights[split], config.chosen_learners)
        about = records[["id", "group"]].assign(fold=fold, best_base=best)
        found.append(pd.concat([about, study.target_columns(records), columns], axis=1))
    return found[0], found[1]


def stacked(base: list[pd.DataFrame], ids: np.ndarray, role: str) -> np.ndarray:
    """Base predictions (records, learners, classes) for these records, in this order, of this role alone."""
    columns = [f"p_{c}" for c in CLASSES]
    mine = [table[table["role"] == role].set_index("id")[columns].loc[ids].to_numpy() for table in base]
    return np.stack(mine, axis=1)


def inner_folds(records: pd.DataFrame, seed: int) -> np.ndarray:
    """Parts of a stacking fold by patient (records,); stratified where every class has a patient for each."""
    fewest = records.groupby("group")["stratum"].max().value_counts().min()
    return folds(records, INNER, "stratum" if fewest >= INNER else None, seed).to_numpy()


def methods_without_training(p: np.ndarray, learners: list[str]) -> dict[str, np.ndarray]:
    """Probabilities (records, classes) of every base learner, of their average and of plain voting."""
    found = {name: p[:, i] for i, name in enumerate(learners)}
    return found | {"average": p.mean(axis=1), "voting": vote(p)}


def best_learner(p: np.ndarray, answers: np.ndarray, learners: list[str]) -> str:
    """The base learner with the highest macro-F1 on the stacking part; the first of several."""
    scores = [macro_f1(confusion_matrix(answers, q.argmax(axis=1), range(len(CLASSES)))) for q in p.swapaxes(0, 1)]
    return learners[int(np.argmax(scores))]


def weights_of(flannel: nn.Module, p: np.ndarray) -> np.ndarray:
    """The learned weights, (records, learners)."""
    import torch

    assert isinstance(flannel, Flannel)
    with torch.inference_mode():
        return flannel.weights(torch.from_numpy(p.astype(np.float64))).numpy()


def _start(kind: str, config: CovidConfig, seed: int) -> nn.Module:
    import torch

    torch.manual_seed(seed)
    count = len(config.chosen_learners)
    if kind == "constant":
        return ConstantWeights(count)
    return Flannel(count, len(CLASSES), config.ensemble.weights)


def _save(
    study: Study,
    config: CovidConfig,
    data: Data,
    folder: RunFolder,
    fold: int,
    kind: str,
    network: nn.Module,
    seed: int,
) -> None:
    name = name_of(fold, kind)
    facts: dict[str, Any] = {
        "study": study.name,
        "name": name,
        "version": pipelines.__version__,
        "architecture": study.architecture(network),
        "learners": config.chosen_learners,
        "ensemble": config.ensemble.model_dump(),
        "classes": study.classes,
        "preprocessing": study.prepare_settings(config),
        "seed": seed,
        "trained_on": {"source": data.flow["source"], "split_fingerprint": data.flow["split_fingerprint"]},
        "operating_points": [],
    }
    save_network(folder.network(name), network, facts)


# --- a finished run on other pictures ---


def combine(
    study: Study, config: CovidConfig, networks: list[Path], dataset: PreparedDataset, rows: pd.DataFrame, world: World
) -> pd.DataFrame:
    """The prediction columns of pictures: the mean over the folds' ensembles.

    A patient of the run itself is predicted by the one fold that has not seen them; `fold` says which, else null.
    """
    chosen = sorted({int(p.name.split("-")[0].removeprefix("fold_")) for p in networks})
    learners = config.chosen_learners
    own = _own_fold(config, rows, chosen)
    names = [*learners, "average", "voting", *COMBINATIONS]
    totals = {name: np.zeros((len(rows), len(CLASSES))) for name in names}
    weights = np.zeros((len(rows), len(learners)))
    answered = np.zeros(len(rows))
    folder = networks[0].parent
    for fold in chosen:
        at = np.flatnonzero(np.isnan(own) | (own == fold))
        if len(at) == 0:
            continue
        part = PreparedDataset(dataset.prepared.take(at), [dataset.ids[i] for i in at], dataset.targets[at])
        loaded = [load_network(study, folder / name_of(fold, name)).to(world.device) for name in learners]
        p = np.stack([softmax(network_outputs(n, part, config, world, f"Predicting, fold {fold}")) for n in loaded], 1)
        methods = methods_without_training(p, learners)
        for kind in COMBINATIONS:
            network = load_network(study, folder / name_of(fold, kind)).eval()
            methods[kind] = combined(network, p)
            if kind == "flannel":
                weights[at] += weights_of(network, p)
        for name in names:
            totals[name][at] += methods[name]
        answered[at] += 1
    mean = {name: total / answered[:, None] for name, total in totals.items()}
    columns = prediction_columns(mean, weights / answered[:, None], learners)
    return columns.assign(fold=pd.array([None if np.isnan(k) else int(k) for k in own], dtype="Int64"))


def _own_fold(config: CovidConfig, rows: pd.DataFrame, chosen: list[int]) -> np.ndarray:
    """The test fold (rows,) of pictures or patients that belong to the run's own cross-validation; NaN for others."""
    if "group" not in rows or config.run is None:
        return np.full(len(rows), np.nan)
    run = RunFolder(Path(config.run))
    records = run.read_table(run.records)
    tested = records[records["fold"].isin(chosen)]
    by_picture = dict(zip(tested["fingerprint"], tested["fold"], strict=True))
    own = rows["fingerprint"].map(by_picture).to_numpy(float)
    by_group = dict(zip(tested["group"], tested["fold"], strict=True))
    by_group |= dict(zip(tested["source_group"], tested["fold"], strict=True))
    if read_json(run.flow)["source"] != config.data.name:  # a patient's name means the same only within one source
        return own
    same = rows["group"].map(by_group).to_numpy(float)
    return np.where(np.isnan(own), same, own)
