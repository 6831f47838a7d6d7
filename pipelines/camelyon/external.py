"""A finished run on another dataset: heatmaps by its last network, slide scores by its forest."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from pipelines.camelyon import scoring
from pipelines.camelyon.config import CamelyonConfig
from pipelines.camelyon.training import make_heatmaps, make_masks
from pipelines.shared import fitting
from pipelines.shared.distributed import World, barrier
from pipelines.shared.errors import RunError
from pipelines.shared.run_folder import RunFolder
from pipelines.shared.study import Data, Study


def final_network(run: RunFolder, networks: list[Path]) -> Path:
    """The network that scores slides: after hard negatives, where there were any.

    Raises:
        RunError: the run was trained on ready patches and has no such network.
    """
    for name in ("second", "first"):
        if run.network(name) in networks:
            return run.network(name)
    raise RunError(f"run={run.path} has no network of whole slides.", "Give a run that was trained on slides.")


def external_predictions(
    study: Study, config: CamelyonConfig, data: Data, networks: list[Path], folder: RunFolder, world: World
) -> pd.DataFrame:
    """The prediction table of another dataset; detections, lesions and overlays are left in the run folder."""
    run = RunFolder(networks[0].parent.parent)
    if config.data.name == "pcam":
        chosen = [final_network(run, networks)] if (run.path / "heatmaps").exists() else networks
        return fitting.external_predictions(study, config, data, chosen, world)
    network = final_network(run, networks)
    forest = scoring.forest_of(config, run)
    make_masks(config, data, folder, world)
    make_heatmaps(study, config, data, data.records["id"].tolist(), network.name, folder, world, network)
    predictions = pd.DataFrame()
    if world.main:
        places = dict.fromkeys(data.records["id"], network.name)
        scoring.score_training(config, data, folder, places, before=None)
        predictions = scoring.slide_predictions(data.records, folder, forest)
    barrier(world)
    return predictions
