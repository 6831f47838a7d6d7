"""One backbone with a softmax over the training classes, which are found in the training records."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from pipelines.shared.augment import image_augment
from pipelines.shared.backbones import Architecture, ImageNetwork, build_image_network
from pipelines.shared.dataset import Augment
from pipelines.shared.losses import weighted_cross_entropy
from pipelines.shared.stats.confusion import accuracy, balanced_accuracy, confusion_matrix
from pipelines.shared.trainer import Loss
from pipelines.skin.config import SkinConfig
from pipelines.skin.training_classes import class_numbers


class FlippedNetwork(ImageNetwork):
    """The network as it is used once it is finished: its probabilities are averaged over the picture's four flips."""

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Logarithms of the averaged probabilities, (batch, classes): their softmax is the average."""
        flips = [pictures, pictures.flip(1), pictures.flip(2), pictures.flip(1, 2)]
        return torch.stack([super(FlippedNetwork, self).forward(f).softmax(dim=1) for f in flips]).mean(dim=0).log()


def build(config: SkinConfig, classes: Sequence[str] = ()) -> nn.Module:
    """The network with its starting weights."""
    return build_image_network(config.model, outputs=len(classes))


def architecture(network: nn.Module, test_time_flips: bool = False) -> dict[str, Any]:
    """What `rebuild` needs."""
    assert isinstance(network, ImageNetwork)
    return network.architecture.to_dict() | {"test_time_flips": test_time_flips}


def rebuild(facts: dict[str, Any]) -> nn.Module:
    """The network that model.json describes, without weights."""
    facts = dict(facts["architecture"])
    flips = facts.pop("test_time_flips")
    return (FlippedNetwork if flips else ImageNetwork)(Architecture(**facts))


def targets(records: pd.DataFrame, classes: Sequence[str] = ()) -> np.ndarray:
    """float32 (records,): the number of each record's training class; NaN where its disease lies in none."""
    return class_numbers(records["lineage"], classes)


def augment(config: SkinConfig) -> Augment:
    """Random changes of a prepared picture."""
    return image_augment(config.augment, inscribed=config.augment.inscribed)


def loss(config: SkinConfig, counts: np.ndarray | None = None) -> Loss:
    """Cross-entropy; a class weighs (1 / its training images) ** class_balance, on average over images 1."""
    assert counts is not None, "the study has no classes yet"
    weights = np.maximum(counts, 1) ** -config.loss.class_balance
    weights = weights * counts.sum() / (weights * counts).sum()
    as_tensor = torch.tensor(weights, dtype=torch.float32)
    return partial(weighted_cross_entropy, weights=as_tensor, label_smoothing=config.loss.label_smoothing)


def measure(targets: np.ndarray, outputs: np.ndarray) -> dict[str, float]:
    """`val_accuracy` and `val_balanced_accuracy` over the training classes; NaN where no class is known."""
    known = ~np.isnan(targets)
    if not known.any():
        return {"val_accuracy": float("nan"), "val_balanced_accuracy": float("nan")}
    matrix = confusion_matrix(targets[known].astype(int), outputs[known].argmax(axis=1), range(outputs.shape[1]))
    return {"val_accuracy": float(accuracy(matrix)), "val_balanced_accuracy": float(balanced_accuracy(matrix))}
