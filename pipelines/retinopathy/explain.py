"""Saliency of the most confident errors, and whether the maps point at the phantom's lesions."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from scipy.ndimage import binary_erosion
from torch import nn

from pipelines.retinopathy import fundus
from pipelines.retinopathy.config import RetinopathyConfig
from pipelines.retinopathy.metrics import HEADS, headline_task
from pipelines.shared.distributed import World
from pipelines.shared.explain import confident_errors, with_masks, write_gallery
from pipelines.shared.run_folder import RunFolder
from pipelines.shared.study import Data


def explain(config: RetinopathyConfig, data: Data, network: nn.Module, folder: RunFolder, world: World) -> None:
    """Write saliency/ for the most confident errors of the headline task."""
    test = folder.read_table(folder.predictions("test"))
    task = headline_task(test)
    errors = confident_errors(test, task, config.explain.errors)
    grades = ["unknown" if np.isnan(g) else str(int(g)) for g in errors["grade"]]
    errors["subtitle"] = [f"grade {g}, score {p:.2f}" for g, p in zip(grades, errors[f"p_{task}"], strict=True)]
    scored = with_masks(data, test, config.explain.scored, config.seed)
    mask = partial(_mask, data, size=config.preprocess.size)
    write_gallery(network, _score(task), data, errors, scored, _fundus, mask, folder, world)


def _fundus(picture: np.ndarray) -> np.ndarray:
    """Where a prepared picture shows the fundus: inside its circle, and not cut off by the camera's frame."""
    axis = np.linspace(-1, 1, picture.shape[0])
    inside = axis[:, None] ** 2 + axis[None, :] ** 2 < 0.95**2
    return binary_erosion(inside & (picture.max(axis=2) > 12), np.ones((3, 3)))


def _score(task: str) -> Any:
    """The score that is explained: the headline's log-odds (of an ensemble its first network's)."""
    moderate, dme = HEADS.index("moderate_or_worse"), HEADS.index("dme")
    if task == "referable":

        def log_odds(outputs: torch.Tensor) -> torch.Tensor:
            a, b = outputs[:, moderate], outputs[:, dme]
            return torch.logsumexp(torch.stack([a, b, a + b]), dim=0)  # of 1 - (1 - p_a)(1 - p_b)

        return log_odds
    return lambda outputs: outputs[:, moderate]


def _mask(data: Data, record: pd.Series, size: int) -> np.ndarray | None:
    """The lesion mask in the geometry of the prepared picture, bool (size, size)."""
    if not isinstance(record.get("truth_mask"), str):
        return None
    mask = np.asarray(Image.open(data.source.root / record["truth_mask"]).convert("L"))
    circle = fundus.Circle(record["circle_x"], record["circle_y"], record["circle_radius"], record["circle_aspect"])
    return fundus.prepare_mask(mask, circle, size) > 127
