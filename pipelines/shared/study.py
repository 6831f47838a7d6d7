"""The parts that a study supplies. `modes` runs them in the order of the story."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pipelines.shared.records import Source
from pipelines.shared.report import Section
from pipelines.shared.run_folder import RunFolder
from pipelines.shared.stats.estimate import Estimate

if TYPE_CHECKING:  # torch is imported by the modes that need it
    from pathlib import Path

    from torch import nn

    from pipelines.shared.cache import Prepared
    from pipelines.shared.dataset import Augment, PreparedDataset
    from pipelines.shared.distributed import World
    from pipelines.shared.job import Job
    from pipelines.shared.trainer import Loss


class Deferred:
    """A module that imports torch, such as a study's model: it is imported when one of its functions is first called.

    So a study can name all its parts, and `report`, `verify` and mistakes are answered without torch.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, function: str) -> Callable[..., Any]:
        if function.startswith("__"):  # what copy and pickle ask for
            raise AttributeError(function)
        return partial(_call, self._name, function)


def _call(module: str, function: str, *arguments: Any, **keywords: Any) -> Any:
    return getattr(importlib.import_module(module), function)(*arguments, **keywords)


Config = Any  # the study's own pydantic model


@dataclass(frozen=True)
class Data:
    """A source made ready: checked, gated, split, prepared. `records` and `prepared` have the same order."""

    source: Source
    records: pd.DataFrame
    prepared: Prepared
    flow: dict[str, Any]

    def positions(self, split: str) -> np.ndarray:
        """Row numbers of a split."""
        return np.flatnonzero((self.records["split"] == split).to_numpy())


@dataclass(frozen=True)
class Evidence:
    """What a run left behind, read from its folder alone: all that metrics, figures and report are made from."""

    folder: RunFolder
    config: Config
    records: pd.DataFrame
    predictions: dict[str, pd.DataFrame]
    readers: pd.DataFrame | None
    flow: dict[str, Any]
    history: pd.DataFrame | None
    networks: list[dict[str, Any]]
    operating_points: list[dict[str, Any]]


@dataclass(frozen=True)
class Results:
    """What a study's evaluation found.

    Attributes:
        metrics: `<split>.<task>.<metric>` -> Estimate.
        headline: key of the headline metric.
        sentence: what that metric is, in words, for the report's first line.
        chance: the headline metric of a coin.
        chance_note: what the coin is, if it is none.
        oracle: the headline metric of a phantom's latent truth; None on real data.
        operating_points: as in metrics.json.
        paper: the paper's own numbers: what, value, low, high, source.
        departures: where the run differs from the paper: (what, in the paper, here).
        sections: the study's part of the report, in order.
        warnings: for the top of the report.
    """

    metrics: dict[str, Estimate]
    headline: str
    sentence: str
    chance: float
    oracle: Estimate | None
    operating_points: list[dict[str, Any]]
    paper: list[dict[str, Any]]
    departures: list[tuple[str, str, str]]
    sections: list[Section]
    warnings: list[str] = field(default_factory=list)
    chance_note: str = "a coin"


@dataclass(frozen=True)
class Study:
    """One study: where its data come from, what its model is, how it is judged.

    Attributes:
        name: the package's name.
        title: for the report.
        sources: `data=<name>` -> function from the configuration to a `Source`.
        prepare: (record, root, settings=…) -> (array, facts), see `cache.Prepare`; top-level, so that it can be
            sent to other processes.
        prepare_settings: configuration -> everything `prepare` depends on, JSON-serialisable.
        prepare_reads: columns of the record table, besides id and path, that `prepare` looks at.
        labels: target columns that identical pictures must agree on.
        labelled: record table -> which records carry a label of the task, bool (records,); None: those with a value in
            any of `labels`.
        stratify: the column that the split balances.
        classes: what the network's outputs are, in order.
        targets: record table -> float32 (records, ...), NaN where unknown.
        augment: configuration -> augmentation of a prepared array.
        build: configuration -> a network with its starting weights.
        architecture: a network -> what `rebuild` needs of it, for model.json.
        rebuild: model.json -> the same network without weights.
        loss: configuration -> loss of outputs and targets.
        measure: (targets, outputs) -> what the trainer may monitor, besides `val_loss`.
        predict_columns: probabilities -> the `p_…` columns of the prediction table.
        probabilities: outputs -> probabilities, which an ensemble averages linearly.
        target_columns: record table -> the target columns of the prediction table.
        prediction_table: (record table, probabilities) -> the whole prediction table, for a study that answers several
            times per record, as for the steps of a sequence; None: one row per record.
        choose_points: (prediction table of val, configuration) -> operating points.
        evaluate: evidence -> results. Must not need torch.
        explain: writes saliency maps for some test records, or None.
        suffixes: file names that `mode=predict` takes from a folder.
        fit_and_predict: for a study with several stages; None: `fitting.fit_and_predict`.
        external: for a study whose finished run leaves more than a prediction table on another dataset: (study,
            configuration, data, networks, run folder, world) -> the table; None: `fitting.external_predictions`.
        split: for a study that divides its records in its own way, as into the folds of a cross-validation: (record
            table after the leakage gate, configuration) -> the same with `split` (and `fold`); None:
            `splits.grouped_split`.
        check: what training needs of the divided records beyond labels in each part, known before it begins:
            (configuration, record table with `split`), raises DataError. None: nothing.
        combine: for a study whose finished networks are not simply averaged: (study, configuration, networks, dataset,
            its rows of the record table, world) -> prediction columns. Rows of unlabelled files have an `id` only.
        for_training: for a study whose classes are found in its training records: the study with these classes, all
            parts that depend on them bound. None: the classes are fixed.
        for_classes: the same for a finished network, from the classes in its model.json.
        exportable: a finished network as ONNX can say it: the same answers, without what depends on values of the
            input, such as leaving out what is empty. None: as it is.
        export_data: for networks that take something else than prepared records: (study, configuration, finished run)
            -> what an export is checked on, from the run's test records.
        beyond_export: what a run's answer needs besides its networks, and an export lacks.
        modes: modes of the study's own, name -> function of study and job (named in its config.py as `MODES` too).
    """

    name: str
    title: str
    sources: Mapping[str, Callable[[Config], Source]]
    prepare: Callable[..., tuple[np.ndarray, dict[str, Any]]]
    prepare_settings: Callable[[Config], dict[str, Any]]
    labels: Sequence[str]
    stratify: str
    classes: list[str]
    targets: Callable[[pd.DataFrame], np.ndarray]
    augment: Callable[[Config], Augment]
    build: Callable[[Config], nn.Module]
    architecture: Callable[[nn.Module], dict[str, Any]]
    rebuild: Callable[[dict[str, Any]], nn.Module]
    loss: Callable[[Config], Loss]
    measure: Callable[[np.ndarray, np.ndarray], dict[str, float]]
    probabilities: Callable[[np.ndarray], np.ndarray]
    predict_columns: Callable[[np.ndarray], pd.DataFrame]
    target_columns: Callable[[pd.DataFrame], pd.DataFrame]
    choose_points: Callable[[pd.DataFrame, Config], list[dict[str, Any]]]
    evaluate: Callable[[Evidence], Results]
    suffixes: Sequence[str]
    prepare_reads: Sequence[str] = ()
    labelled: Callable[[pd.DataFrame], np.ndarray] | None = None
    prediction_table: Callable[[pd.DataFrame, np.ndarray], pd.DataFrame] | None = None
    explain: Callable[[Config, Data, nn.Module, RunFolder, World], None] | None = None
    fit_and_predict: Callable[[Study, Config, Data, RunFolder, World], None] | None = None
    external: Callable[[Study, Config, Data, list[Path], RunFolder, World], pd.DataFrame] | None = None
    split: Callable[[pd.DataFrame, Config], pd.DataFrame] | None = None
    check: Callable[[Config, pd.DataFrame], None] | None = None
    combine: Callable[[Study, Config, list[Path], PreparedDataset, pd.DataFrame, World], pd.DataFrame] | None = None
    for_training: Callable[[Study, Config, pd.DataFrame], Study] | None = None
    for_classes: Callable[[Study, list[str]], Study] | None = None
    exportable: Callable[[nn.Module], nn.Module] | None = None
    export_data: Callable[[Study, Config, RunFolder], PreparedDataset] | None = None
    beyond_export: str = ""
    modes: Mapping[str, Callable[[Study, Job], None]] = field(default_factory=dict)
