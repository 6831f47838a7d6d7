"""Cross-validation of any method, all folds in one run (`split.folds=5`).

Each fold is a run of its own below the run folder, with its own train, val and test, best epochs and thresholds:

    folds/<k>/                       history, checkpoints, predictions and operating points of fold k
    models/fold_<k>-<name>/          its networks
    predictions/{test,val}.parquet   of all folds, with `fold`; every record is once in each
    operating_points.json            `thresholds` by fold, and their median as `threshold`
    prediction_sets.json             likewise, where there are any
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipelines.shared.data.assemble import check_labels
from pipelines.shared.data.splits import fold_roles
from pipelines.shared.judging.prediction_sets import freeze_sets, frozen_sets, pooled_sets, with_set_columns
from pipelines.shared.learning.dataset import PreparedDataset
from pipelines.shared.learning.distributed import barrier
from pipelines.shared.learning.method import Method
from pipelines.shared.log import log
from pipelines.shared.run import FinishedRun, Run
from pipelines.shared.run_folder import RunFolder, plain, read_json, read_table, write_csv, write_json
from pipelines.shared.stats.operating_points import pooled_points
from pipelines.shared.study import C, Data, Study


def method_of(study: Study[C], config: C) -> Method[C]:
    """How a study learns and answers, in every fold of a cross-validation where the configuration asks for it."""
    method = study.method(config)
    return CrossValidation(method) if config.split.pools_folds and not study.own_folds else method


@dataclass(frozen=True)
class FoldFolder(RunFolder):
    """What one fold writes: networks into the whole run's models/, predictions into folds/<k>/, all else to `path`."""

    whole: RunFolder
    fold: int

    def network(self, name: str) -> Path:
        """models/fold_<k>-<name>/ of the whole run."""
        return self.whole.network(f"{prefix(self.fold)}{name}")

    def networks(self) -> list[Path]:
        """The folders of the fold's networks, in order of their names."""
        return [place for place in self.whole.networks() if place.name.startswith(prefix(self.fold))]

    def predictions(self, split: str) -> Path:
        """folds/<k>/predictions/<split>.parquet."""
        return RunFolder(fold_path(self.whole, self.fold)).predictions(split)


def prefix(fold: int) -> str:
    """How the names of a fold's networks begin."""
    return f"fold_{fold}-"


def fold_path(whole: RunFolder, fold: int) -> Path:
    """folds/<k>/."""
    return whole.path / "folds" / str(fold)


def fold_data(study: Study[C], config: C, data: Data, fold: int) -> Data:
    """The records as one fold uses them: with its own train, val and test, and `data.train_size` of its own."""
    roles = fold_roles(data.records["fold"], fold)
    records = study.split(data.records.drop(columns="fold").assign(split=roles), config)
    part = data.take(data.records.index.get_indexer(records.index))
    return replace(part, records=records.reset_index(drop=True), all_folds=data.records)


def own_folds(finished: FinishedRun, source: str, rows: pd.DataFrame) -> np.ndarray:
    """The fold (rows,) that tested a record, or others of its patient, where they are of the run itself; else NaN.

    Args:
        finished: a cross-validated run, its record table with `fold`.
        source: the name of the source that `rows` are from: a group's name means the same only within one source.
        rows: records with `fingerprint` and `group`; files without them are of nobody.
    """
    if "group" not in rows or "fingerprint" not in rows:
        return np.full(len(rows), np.nan)
    tested = finished.folder.read_table(finished.folder.records)
    tested = tested[tested["split"] == "test"]
    own = rows["fingerprint"].map(dict(zip(tested["fingerprint"], tested["fold"], strict=True))).to_numpy(float)
    if read_json(finished.folder.flow)["source"] != source:
        return own
    by_group = dict(zip(tested["source_group"], tested["fold"], strict=True))
    by_group |= dict(zip(tested["group"], tested["fold"], strict=True))
    same = rows["group"].map(by_group).to_numpy(float)
    return np.where(np.isnan(own), same, own)


class CrossValidation(Method[C]):
    """Another method, once in every fold."""

    def __init__(self, method: Method[C]) -> None:
        self.method, self.learner = method, method.learner
        self.not_exported, self.files = method.not_exported, method.files

    def fit(self, run: Run[C], data: Data) -> None:
        """Fit every fold, then pool their predictions and operating points.

        Raises:
            DataError: the train or val part of a fold has no label.
        """
        count = int(data.records["fold"].max()) + 1
        parts = [fold_data(run.study, run.config, data, k) for k in range(count)]
        for part in parts:
            check_labels(run.study, part)
        for k, part in enumerate(parts):
            counts = part.records["split"].value_counts()
            log.info(f"fold {k} of {count}: " + ", ".join(f"{s} {counts[s]:,}" for s in ("train", "val", "test")))
            folder = FoldFolder(fold_path(run.folder, k), run.folder, k)
            if not folder.operating_points.exists():
                self.method.fit(replace(run, folder=folder), part)
            barrier(run.world)
        if run.world.main:
            _pool(run.folder, count)
        barrier(run.world)

    def answer(self, run: Run[C], finished: FinishedRun, data: Data) -> pd.DataFrame:
        """By the networks of all folds, averaged; what the run itself tested, by the fold that had not seen it.

        `fold` says which that is, else null.
        """
        own = own_folds(finished, run.config.data.name, data.records)
        tables = []
        for fold in sorted({-1 if np.isnan(k) else int(k) for k in own}):
            positions = np.flatnonzero(np.isnan(own) if fold < 0 else own == fold)
            which = finished if fold < 0 else _of_fold(finished, fold)
            table = self.method.answer(run, which, data.take(positions))
            tables.append(table.assign(fold=pd.array([None if fold < 0 else fold] * len(table), dtype="Int64")))
        place = {name: i for i, name in enumerate(data.records["id"])}
        return pd.concat(tables).sort_values("id", key=lambda ids: ids.map(place), kind="stable", ignore_index=True)

    def explain(self, run: Run[C], data: Data) -> None:
        """What the method shows, of fold 0: its networks and its test records."""
        folder = FoldFolder(run.folder.path, run.folder, 0)
        self.method.explain(replace(run, folder=folder), fold_data(run.study, run.config, data, 0))

    def export_data(self, run: Run[C], finished: FinishedRun) -> PreparedDataset:
        """As the method has it: the test records are those of all folds."""
        return self.method.export_data(run, finished)


def _of_fold(finished: FinishedRun, fold: int) -> FinishedRun:
    models = {name: model for name, model in finished.models.items() if name.startswith(prefix(fold))}
    return replace(finished, models=models)


def _pool(whole: RunFolder, count: int) -> None:
    """The run's own history, predictions and operating points, from those of its folds."""
    folds = [FoldFolder(fold_path(whole, k), whole, k) for k in range(count)]
    histories = [read_table(f.history, ["network"]) for f in folds]
    named = [rows.assign(network=prefix(k) + rows["network"]) for k, rows in enumerate(histories)]
    write_csv(whole.history, pd.concat(named, ignore_index=True))
    sets = pooled_sets({f.fold: frozen_sets(f) for f in folds})
    freeze_sets(whole, sets)
    for split in ("val", "test"):
        tables = [whole.read_table(f.predictions(split)).assign(fold=f.fold) for f in folds]
        table = pd.concat(tables, ignore_index=True)
        whole.write_table(whole.predictions(split), with_set_columns(table, sets) if split == "test" else table)
    points: list[dict[str, Any]] = [{**point, "fold": f.fold} for f in folds for point in read_json(f.operating_points)]
    write_json(whole.operating_points, plain(pooled_points(points)))
