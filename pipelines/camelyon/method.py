"""From slides to an answer: patches, hard negatives, heatmaps, lesions, a forest (Wang et al. 2016); or ready patches.

A training slide's features come from the heatmap of a network that has not seen it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from pipelines.camelyon import scoring, stages
from pipelines.camelyon.config import CamelyonConfig
from pipelines.camelyon.learner import PatchLearner
from pipelines.camelyon.patches import PatchReader
from pipelines.shared.data.cache import Prepared
from pipelines.shared.errors import RunError
from pipelines.shared.learning.dataset import PreparedDataset
from pipelines.shared.learning.distributed import barrier
from pipelines.shared.learning.method import Ensemble, Method, choose_and_freeze, keep_ranges
from pipelines.shared.run import FinishedRun, Run
from pipelines.shared.study import Data

CHECKED = 512  # patches of the test slides that an export is checked on


def final_network(finished: FinishedRun) -> str:
    """The network that scores slides: after hard negatives, where there were any.

    Raises:
        RunError: the run was trained on ready patches and has no such network.
    """
    for name in ("second", "first"):
        if name in finished.models:
            return name
    raise RunError(
        f"run={finished.folder.path} has no network of whole slides.", "Give a run that was trained on slides."
    )


class SlideMethod(Method[CamelyonConfig]):
    """A patch network with hard negatives; heatmaps of all slides; detections; a forest over heatmaps' features."""

    learner = PatchLearner
    not_exported = (
        "A slide's score is a forest's over features of its heatmap, and lesions are found in that heatmap; heatmap, "
        "detections and forest are not exported, mode=predict makes them."
    )
    files = ("forest.npz",)

    def fit(self, run: Run[CamelyonConfig], data: Data) -> None:
        """All stages of `stages`, the same once more without the slides of each fold, then slide scores."""
        config, folder = run.config, run.folder
        stages.make_masks(run, data)
        patches = stages.all_patches(run, data)
        final = stages.fit_models(run, data, patches, "")
        fold = stages.fold_of(config, data.records)
        for k in range(config.slide_scores.folds):
            others = patches[~patches["slide"].isin(fold.index[fold == k])]
            name = stages.fit_models(run, data, others, f"fold_{k}-")
            stages.make_heatmaps(run, data, fold.index[fold == k].tolist(), name)
        scored = data.records.loc[data.records["split"] != "train", "id"].tolist()
        stages.make_heatmaps(run, data, scored, final)
        test = data.records.loc[data.records["split"] == "test", "id"].tolist()
        if final != "first":
            stages.make_heatmaps(run, data, test, "first")
        stages.score_patches(run, data, patches, [final] if final == "first" else ["first", final])
        if run.world.main:
            places = {name: f"fold_{k}-{final}" for name, k in fold.items()} | dict.fromkeys(scored, final)
            scoring.score_training(config, data, folder, places, before=None if final == "first" else "first")
            predictions = scoring.slide_predictions(data.records, folder, scoring.train_forest(config, folder))
            keep_ranges(run, data, data.positions("train"))
            of_split = [predictions["id"].isin(data.part(split).records["id"]) for split in ("val", "test")]
            choose_and_freeze(run, *(predictions[rows].reset_index(drop=True) for rows in of_split))
        barrier(run.world)

    def answer(self, run: Run[CamelyonConfig], finished: FinishedRun, data: Data) -> pd.DataFrame:
        """The prediction table of other slides; detections, lesions and overlays are left in the run folder."""
        network = final_network(finished)
        forest = scoring.forest_of(run.config, finished.folder)
        stages.make_masks(run, data)
        stages.make_heatmaps(run, data, data.records["id"].tolist(), network, finished.folder.network(network))
        predictions = pd.DataFrame()
        if run.world.main:
            places = dict.fromkeys(data.records["id"], network)
            scoring.score_training(run.config, data, run.folder, places, before=None)
            predictions = scoring.slide_predictions(data.records, run.folder, forest)
        barrier(run.world)
        return predictions

    def export_data(self, run: Run[CamelyonConfig], finished: FinishedRun) -> PreparedDataset:
        """Patches of the test slides, evenly chosen among those that the run has scored."""
        file = finished.folder.path / "patches" / "patches.parquet"
        patches = finished.folder.read_table(file).query("split == 'test'")
        chosen = patches.iloc[:: -(-len(patches) // CHECKED)].reset_index(drop=True)
        settings, config = run.config.patches, run.config
        root = run.study.sources[config.data.name](config).root
        reader = PatchReader(chosen, root, settings.mpp, settings.size, config.slide_mpp)
        n = len(chosen)
        nothing = pd.DataFrame({"bad": [None] * n, "unusable": [None] * n, "fingerprint": chosen["id"]})
        prepared = Prepared(nothing, np.zeros((n, 0)), np.zeros((n, 0, 0), np.uint8), None, reader)
        return PreparedDataset(prepared, list(chosen["id"]), np.zeros((n, 1)))


class PatchMethod(Ensemble[CamelyonConfig]):
    """PatchCamelyon has patches only: networks are fitted and judged on them."""

    learner = PatchLearner

    def answer(self, run: Run[CamelyonConfig], finished: FinishedRun, data: Data) -> pd.DataFrame:
        """By all networks of a run on patches; by the last one of a run on slides."""
        if (finished.folder.path / "heatmaps").exists():
            name = final_network(finished)
            finished = replace(finished, models={name: finished.models[name]})
        return super().answer(run, finished, data)
