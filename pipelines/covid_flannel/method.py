"""Both stages, fold by fold, and how the networks of a finished run answer for other pictures."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
from torch import nn

from pipelines.covid_flannel import shortcuts
from pipelines.covid_flannel.config import CLASSES, CovidConfig
from pipelines.covid_flannel.flannel import ConstantWeights, Flannel, fit_combination, vote, weights_of
from pipelines.covid_flannel.flannel import combine as combined
from pipelines.covid_flannel.learner import BaseLearner, answers_of, untaught_in
from pipelines.covid_flannel.metrics import SET_TASK, choose_fold_points, prediction_columns
from pipelines.covid_flannel.protocol import fold_numbers, roles
from pipelines.covid_flannel.stage1 import base_predictions, earlier_runs, name_of
from pipelines.shared.data.splits import folds
from pipelines.shared.errors import ConfigError
from pipelines.shared.judging.prediction_sets import (
    FrozenSets,
    choose_sets,
    freeze_sets,
    pooled_sets,
    with_set_columns,
)
from pipelines.shared.learning.cross_validation import own_folds
from pipelines.shared.learning.dataset import PreparedDataset
from pipelines.shared.learning.distributed import barrier
from pipelines.shared.learning.method import Method, describe, keep_ranges, load_network, network_outputs
from pipelines.shared.learning.model_files import save_network, update_model
from pipelines.shared.log import log
from pipelines.shared.run import FinishedRun, Run
from pipelines.shared.run_folder import plain, write_json
from pipelines.shared.seeds import seed_of
from pipelines.shared.stats.confusion import confusion_matrix, macro_f1
from pipelines.shared.stats.operating_points import pooled_points
from pipelines.shared.study import Data
from pipelines.shared.untaught import most_probable, untaught_lines

INNER = 3  # parts of the stacking fold, for predictions of it by an ensemble that has not seen them
COMBINATIONS = ("flannel", "constant")


class FlannelMethod(Method[CovidConfig]):
    """Five base learners in every fold of a cross-validation, and an ensemble that learns from their predictions."""

    learner = BaseLearner
    not_exported = "The run's answer combines several networks: see what was not exported."

    def fit(self, run: Run[CovidConfig], data: Data) -> None:
        """Stage 1 for every fold and learner, then stage 2.

        `predictions/test.parquet` pools the test parts of all folds. `predictions/val.parquet` pools the stacking
        parts, each predicted by an ensemble that was trained on the rest of it.

        Raises:
            ConfigError: `folds` names one that there is not.
        """
        config, folder = run.config, run.folder
        there = fold_numbers(data.records)
        chosen = there if config.chosen_folds is None else config.chosen_folds
        beyond = [k for k in chosen if k not in there]
        if beyond:
            raise ConfigError(
                f"folds: {beyond[0]} is not there.", f"The rarest class allows {len(there)}: 0 to {there[-1]}."
            )
        for fold in chosen:
            for line in untaught_lines(untaught_in(data.records, roles(data.records, fold, config)["train"])):
                log.warning(f"fold {fold}: {line}")
        earlier = earlier_runs(config)
        base = {
            fold: [base_predictions(run, data, fold, name, earlier) for name in config.chosen_learners]
            for fold in chosen
        }
        if run.world.main:
            tables: dict[str, list[pd.DataFrame]] = {"val": [], "test": []}
            points, sets = [], dict[int, FrozenSets]()
            for fold in chosen:
                log.info(f"fold {fold}: stage 2 on the predictions of {', '.join(config.chosen_learners)}")
                validated, tested = _stage2(run, data, fold, base[fold])
                own_points = choose_fold_points(validated, config, fold)
                for path in [p for p in folder.networks() if p.name.startswith(f"fold_{fold}-")]:
                    update_model(path, {"operating_points": own_points})
                points += own_points
                sets[fold] = choose_sets([SET_TASK], validated, config.conformal.level)
                tables["val"].append(validated)
                tables["test"].append(tested)
            frozen = pooled_sets(sets)
            val, test = (pd.concat(tables[split], ignore_index=True) for split in ("val", "test"))
            folder.write_table(folder.predictions("val"), val)
            folder.write_table(folder.predictions("test"), with_set_columns(test, frozen))
            learned = np.any([roles(data.records, fold, config)["train"] for fold in chosen], axis=0)
            keep_ranges(run, data, np.flatnonzero(learned))
            freeze_sets(folder, frozen)
            write_json(folder.operating_points, plain(pooled_points(points)))
            shortcuts.write_shortcuts(config, data, folder)
        barrier(run.world)

    def answer(self, run: Run[CovidConfig], finished: FinishedRun, data: Data) -> pd.DataFrame:
        """The mean over the folds' ensembles.

        A patient of the run itself is predicted by the one fold that has not seen them; `fold` says which, else null.
        """
        rows = data.records
        return pd.concat(
            [rows[[c for c in ("id", "group", "label") if c in rows]], _answers(run, finished, data)], axis=1
        )

    def saliency(
        self, run: Run[CovidConfig], finished: FinishedRun, picture: np.ndarray
    ) -> tuple[str, np.ndarray] | None:
        """What spoke for or against the class that the first base learner finds most probable."""
        from pipelines.covid_flannel.shown import saliency_of

        return saliency_of(run, finished, picture)


def _stage2(
    run: Run[CovidConfig], data: Data, fold: int, base: list[pd.DataFrame]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Train the combinations of one fold on its stacking part; returns the tables of that part and of the test part."""
    config = run.config
    parts = roles(data.records, fold, config)
    positions = {split: np.flatnonzero(parts[role]) for split, role in (("val", "stack"), ("test", "test"))}
    p = {
        split: stacked(base, data.records["id"].to_numpy()[rows], role)
        for (split, rows), role in zip(positions.items(), ("stack", "test"), strict=True)
    }
    answers = answers_of(data.records)[positions["val"]].astype(int)
    best = best_learner(p["val"], answers, config.chosen_learners)
    taught = taught_classes(p["val"])
    p = {split: among(predictions, taught) for split, predictions in p.items()}
    # Pictures of a class that no base learner was taught are scored, but there is nothing to learn from them.
    learns, number = np.isin(answers, taught), np.searchsorted(taught, answers)
    inner = inner_folds(data.records.iloc[positions["val"]], config.seed)
    methods = {split: methods_without_training(p[split], config.chosen_learners) for split in p}
    weights: dict[str, np.ndarray] = {}
    for kind in COMBINATIONS:
        seed = seed_of(config.seed, kind, fold)
        start = partial(_start, kind, config, seed, len(taught))
        final = fit_combination(start(), p["val"][learns], number[learns], config.ensemble, seed)
        methods["test"][kind] = combined(final, p["test"])
        methods["val"][kind], unseen = np.empty((len(answers), len(taught))), {}
        for k in np.unique(inner):
            own, rest = inner == k, (inner != k) & learns
            unseen[k] = fit_combination(start(), p["val"][rest], number[rest], config.ensemble, seed)
            methods["val"][kind][own] = combined(unseen[k], p["val"][own])
        if isinstance(final, Flannel):
            weights["test"] = weights_of(final, p["test"])
            weights["val"] = np.empty((len(answers), len(base)))
            for k, part in unseen.items():
                weights["val"][inner == k] = weights_of(part, p["val"][inner == k])
        name = name_of(fold, kind)
        model = describe(
            run, BaseLearner(config, untaught=untaught_in(data.records, parts["train"])), final, data, name, seed
        )
        model |= {"learners": config.chosen_learners, "ensemble": config.ensemble.model_dump()}
        save_network(run.folder.network(name), final, model)
    tables = []
    for split, rows in positions.items():
        records = data.records.iloc[rows].reset_index(drop=True)
        spread = {name: with_untaught(q, taught) for name, q in methods[split].items()}
        columns = prediction_columns(spread, weights[split], config.chosen_learners)
        about = records[["id", "group"]].assign(fold=fold, best_base=best)
        tables.append(pd.concat([about, records[["label"]], columns], axis=1))
    return tables[0], tables[1]


def stacked(base: list[pd.DataFrame], ids: np.ndarray, role: str) -> np.ndarray:
    """Base predictions (records, learners, classes) for these records, in this order, of this role alone."""
    columns = [f"p_{c}" for c in CLASSES]
    arrays = [table[table["role"] == role].set_index("id")[columns].loc[ids].to_numpy() for table in base]
    return np.stack(arrays, axis=1)


def taught_classes(p: np.ndarray) -> np.ndarray:
    """Numbers of the classes that the base learners answer, p (records, learners, classes): the others are NaN."""
    return np.flatnonzero(~np.isnan(p).any(axis=(0, 1)))


def among(p: np.ndarray, taught: np.ndarray) -> np.ndarray:
    """Base predictions (records, learners, classes) of the taught classes alone; the very array where all are."""
    return p if len(taught) == p.shape[2] else p.take(taught, axis=2)


def with_untaught(p: np.ndarray, taught: np.ndarray) -> np.ndarray:
    """Probabilities (records, taught classes) as (records, classes), NaN for the classes that were not taught."""
    whole = np.full((len(p), len(CLASSES)), np.nan)
    whole[:, taught] = p
    return whole


def inner_folds(records: pd.DataFrame, seed: int) -> np.ndarray:
    """Parts of a stacking fold by patient (records,); stratified where every class has a patient for each."""
    fewest = records.groupby("group")["stratum"].max().value_counts().min()
    return folds(records, INNER, "stratum" if fewest >= INNER else None, seed).to_numpy()


def methods_without_training(p: np.ndarray, learners: list[str]) -> dict[str, np.ndarray]:
    """Probabilities (records, classes) of every base learner, of their average and of plain voting."""
    methods = {name: p[:, i] for i, name in enumerate(learners)}
    return methods | {"average": p.mean(axis=1), "voting": vote(p)}


def best_learner(p: np.ndarray, answers: np.ndarray, learners: list[str]) -> str:
    """The base learner with the highest macro-F1 on the stacking part; the first of several."""
    most_likely = most_probable(p).T
    scores = [macro_f1(confusion_matrix(answers, answered, range(len(CLASSES)))) for answered in most_likely]
    return learners[int(np.argmax(scores))]


def _start(kind: str, config: CovidConfig, seed: int, classes: int) -> nn.Module:
    import torch

    torch.manual_seed(seed)
    count = len(config.chosen_learners)
    if kind == "constant":
        return ConstantWeights(count)
    return Flannel(count, classes, config.ensemble.weights)


# --- a finished run on other pictures ---


def _answers(run: Run[CovidConfig], finished: FinishedRun, data: Data) -> pd.DataFrame:
    """The prediction columns of pictures, in their order."""
    config, rows = run.config, data.records
    chosen = sorted({int(name.split("-")[0].removeprefix("fold_")) for name in finished.models})
    learners = config.chosen_learners
    own = own_folds(finished, config.data.name, rows)
    own = np.where(np.isin(own, chosen), own, np.nan)
    names = [*learners, "average", "voting", *COMBINATIONS]
    totals = {name: np.zeros((len(rows), len(CLASSES))) for name in names}
    weights = np.zeros((len(rows), len(learners)))
    answered = np.zeros(len(rows))
    place = finished.folder.network
    for fold in chosen:
        positions = np.flatnonzero(np.isnan(own) | (own == fold))
        if len(positions) == 0:
            continue
        prepared, ids = data.prepared.take(positions), rows["id"].iloc[positions].tolist()
        part = PreparedDataset(prepared, ids, np.zeros((len(positions), 1)))
        learner = BaseLearner.from_model(config, finished.models[name_of(fold, learners[0])])
        loaded = [load_network(run, learner, place(name_of(fold, name))) for name in learners]
        outputs = [network_outputs(run, network, part, f"Predicting, fold {fold}") for network in loaded]
        p = np.stack([learner.probabilities(one) for one in outputs], axis=1)
        taught = taught_classes(p)
        p = among(p, taught)
        methods = methods_without_training(p, learners)
        for kind in COMBINATIONS:
            network = load_network(run, learner, place(name_of(fold, kind)))
            methods[kind] = combined(network, p)
            if isinstance(network, Flannel):
                weights[positions] += weights_of(network, p)
        for name in names:
            totals[name][positions] += with_untaught(methods[name], taught)
        answered[positions] += 1
    mean = {name: total / answered[:, None] for name, total in totals.items()}
    columns = prediction_columns(mean, weights / answered[:, None], learners)
    return columns.assign(fold=pd.array([None if np.isnan(k) else int(k) for k in own], dtype="Int64"))
