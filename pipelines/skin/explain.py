"""Saliency of the most confident errors, whether the maps point at lesions, and the map of the last hidden layer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import nn

from pipelines.shared.backbones import ImageNetwork
from pipelines.shared.distributed import World
from pipelines.shared.embeddings import write_embeddings
from pipelines.shared.explain import confident_errors, with_masks, write_gallery
from pipelines.shared.run_folder import RunFolder
from pipelines.shared.study import Data
from pipelines.skin.config import SkinConfig
from pipelines.skin.data import centre_square
from pipelines.skin.metrics import answered
from pipelines.skin.training_classes import DEPTHS, find_classes


def explain(config: SkinConfig, data: Data, network: nn.Module, folder: RunFolder, world: World) -> None:
    """Write predictions/embeddings.npy and saliency/: pictures, maps and gallery.csv of the most confident errors about
    malignancy, scores.csv where lesions are known.
    """
    assert isinstance(network, ImageNetwork)
    write_embeddings(network, data, folder, world, config.trainer.batch_size)
    test = folder.read_table(folder.predictions("test"))
    if not answered(test, "malignant") or test["malignant"].nunique() < 2:
        return
    errors = confident_errors(test, "malignant", config.explain.errors)
    names = zip(errors["label"].str.replace("_", " "), errors["p_malignant"], strict=True)
    errors["subtitle"] = [f"{label}, P(malignant) {p:.2f}" for label, p in names]
    scored = with_masks(data, test, config.explain.scored, config.seed)
    mask = partial(_mask, data, size=config.preprocess.size)
    write_gallery(network, _score(config, data), data, errors, scored, _bright, mask, folder, world)


def _bright(picture: np.ndarray) -> np.ndarray:
    """Where a prepared picture shows skin, not the dark frame of a dermatoscope."""
    return picture.max(axis=2) > 12


def _score(config: SkinConfig, data: Data) -> Callable[[torch.Tensor], torch.Tensor]:
    """The score that is explained: the log-odds of a malignant disease (of an ensemble its first network's)."""
    lineages = data.records["lineage"][data.records["split"] == "train"]
    classes = find_classes(lineages, config.data.max_class_size, DEPTHS.get(config.partition.level))
    malignant = torch.tensor([name.split("/")[0] == "malignant" for name in classes])

    def log_odds(outputs: torch.Tensor) -> torch.Tensor:
        mine = malignant.to(outputs.device)
        return torch.logsumexp(outputs[:, mine], dim=1) - torch.logsumexp(outputs[:, ~mine], dim=1)

    return log_odds


def _mask(data: Data, record: pd.Series, size: int) -> np.ndarray | None:
    """The lesion's mask in the geometry of the prepared picture, bool (size, size)."""
    if not isinstance(record.get("truth_mask"), str):
        return None
    with Image.open(data.source.root / record["truth_mask"]) as picture:
        return centre_square(np.asarray(picture.convert("L")), size) > 127
