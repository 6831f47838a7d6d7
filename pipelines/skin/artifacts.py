"""Saliency of the most confident errors, whether the maps point at lesions, and the map of the last hidden layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import nn

from pipelines.shared.learning.backbones import ImageNetwork
from pipelines.shared.learning.method import load_network
from pipelines.shared.learning.saliency import confident_errors, saliency_maps, with_masks, write_gallery
from pipelines.shared.run import FinishedRun, Run
from pipelines.shared.study import Data
from pipelines.skin.config import SkinConfig
from pipelines.skin.data import centre_square
from pipelines.skin.embeddings import write_embeddings
from pipelines.skin.learner import SkinLearner
from pipelines.skin.metrics import MALIGNANT


def explain(run: Run[SkinConfig], data: Data, network: nn.Module) -> None:
    """Write predictions/embeddings.npy and saliency/: pictures, maps and gallery.csv of the most confident errors about
    malignancy, scores.csv where lesions are known.
    """
    assert isinstance(network, ImageNetwork)
    config = run.config
    write_embeddings(network, data, run)
    test = run.folder.read_table(run.folder.predictions("test"))
    if not MALIGNANT.has_both_classes(test):
        return
    errors = confident_errors(test, "malignant", config.explain.errors)
    names = zip(errors["label"].str.replace("_", " "), errors["p_malignant"], strict=True)
    errors["subtitle"] = [f"{label}, P(malignant) {p:.2f}" for label, p in names]
    scored = with_masks(data, test, config.explain.scored, config.seed)
    mask = partial(_mask, data, size=config.preprocess.size)
    write_gallery(
        network, _score(SkinLearner.from_data(config, data).classes), data, errors, scored, _bright, mask, run
    )


def saliency_of(run: Run[SkinConfig], finished: FinishedRun, picture: np.ndarray) -> tuple[str, np.ndarray] | None:
    """The map of one prepared picture, and what it is about; None where the classes are all of one kind."""
    learner = SkinLearner.from_model(run.config, next(iter(finished.models.values())))
    if len({_is_malignant(name) for name in learner.classes}) < 2:
        return None
    network = load_network(run, learner, finished.networks[0])
    found = saliency_maps(network, _score(learner.classes), [picture], [_bright(picture)], run.world)
    return "what speaks for or against malignancy", found[0]


def _is_malignant(name: str) -> bool:
    return name.split("/")[0] == "malignant"


def _bright(picture: np.ndarray) -> np.ndarray:
    """Where a prepared picture shows skin, not the dark frame of a dermatoscope."""
    bright: np.ndarray = picture.max(axis=2) > 12
    return bright


def _score(classes: Sequence[str]) -> Callable[[torch.Tensor], torch.Tensor]:
    """The score that is explained: the log-odds of a malignant disease (of an ensemble its first network's)."""
    malignant = torch.tensor([_is_malignant(name) for name in classes])

    def log_odds(outputs: torch.Tensor) -> torch.Tensor:
        columns = malignant.to(outputs.device)
        return torch.logsumexp(outputs[:, columns], dim=1) - torch.logsumexp(outputs[:, ~columns], dim=1)

    return log_odds


def _mask(data: Data, record: pd.Series, size: int) -> np.ndarray | None:
    """The lesion's mask in the geometry of the prepared picture, bool (size, size)."""
    if not isinstance(record.get("truth_mask"), str):
        return None
    with Image.open(data.source.root / record["truth_mask"]) as picture:
        return centre_square(np.asarray(picture.convert("L")), size) > 127
