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
from pipelines.retinopathy.learner import RetinopathyLearner
from pipelines.retinopathy.metrics import HEADS, headline_task
from pipelines.shared.learning.method import load_network
from pipelines.shared.learning.saliency import confident_errors, saliency_maps, with_masks, write_gallery
from pipelines.shared.run import FinishedRun, Run
from pipelines.shared.study import Data


def explain(run: Run[RetinopathyConfig], data: Data, network: nn.Module) -> None:
    """Write saliency/ for the most confident errors of the headline task."""
    config = run.config
    test = run.folder.read_table(run.folder.predictions("test"))
    task = headline_task(test).name
    errors = confident_errors(test, task, config.explain.errors)
    grades = ["unknown" if np.isnan(g) else str(int(g)) for g in errors["grade"]]
    errors["subtitle"] = [f"grade {g}, score {p:.2f}" for g, p in zip(grades, errors[f"p_{task}"], strict=True)]
    scored = with_masks(data, test, config.explain.scored, config.seed)
    mask = partial(_mask, data, size=config.preprocess.size)
    write_gallery(network, _score(task), data, errors, scored, _fundus, mask, run)


def saliency_of(run: Run[RetinopathyConfig], finished: FinishedRun, picture: np.ndarray) -> tuple[str, np.ndarray]:
    """The map of one prepared picture, and what it is about."""
    task = "moderate_or_worse" if "dme" in finished.untaught else "referable"
    model = next(iter(finished.models.values()))
    network = load_network(run, RetinopathyLearner.from_model(run.config, model), finished.networks[0])
    found = saliency_maps(network, _score(task), [picture], [_fundus(picture)], run.world)
    about = "referable retinopathy" if task == "referable" else "moderate or worse retinopathy"
    return f"what speaks for or against {about}", found[0]


def _fundus(picture: np.ndarray) -> np.ndarray:
    """Where a prepared picture shows the fundus: inside its circle, and not cut off by the camera's frame."""
    axis = np.linspace(-1, 1, picture.shape[0])
    inside = axis[:, None] ** 2 + axis[None, :] ** 2 < 0.95**2
    fundus: np.ndarray = binary_erosion(inside & (picture.max(axis=2) > 12), np.ones((3, 3)))
    return fundus


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
