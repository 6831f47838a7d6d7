"""The base learners: timm backbones with a softmax over the four classes, each with its own input size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
from torch import nn

from pipelines.covid_flannel.config import CLASSES, CovidConfig, LearnerSection
from pipelines.covid_flannel.flannel import ConstantWeights, Flannel
from pipelines.shared.augment import image_augment
from pipelines.shared.backbones import Architecture, ImageNetwork, build_image_network
from pipelines.shared.dataset import Augment
from pipelines.shared.losses import weighted_cross_entropy
from pipelines.shared.stats.confusion import accuracy, confusion_matrix, macro_f1
from pipelines.shared.study import Study
from pipelines.shared.trainer import Loss


class CroppedNetwork(nn.Module):
    """An image network that scales whole pictures to `resize` pixels and looks at the middle `crop` of them.

    Input: uint8 (batch, side, side, 1). Pictures of `crop` pixels, as augmentation makes them, are taken as they are.
    """

    def __init__(self, network: ImageNetwork, resize: int | None, crop: int) -> None:
        super().__init__()
        self.network, self.resize, self.crop = network, resize, crop

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Logits, (batch, classes)."""
        side = pictures.shape[1]
        if side != self.crop:
            if self.resize not in (None, side):
                whole = pictures.permute(0, 3, 1, 2).float()
                scaled = nn.functional.interpolate(whole, self.resize, mode="bilinear", antialias=True)
                pictures = scaled.permute(0, 2, 3, 1)
            first = (pictures.shape[1] - self.crop) // 2
            pictures = pictures[:, first : first + self.crop, first : first + self.crop]
        return self.network(pictures)


def first_learner(config: CovidConfig) -> LearnerSection:
    """What `build` and `augment` are about where no learner is named."""
    return next(iter(config.base_learners.values()))


def build(config: CovidConfig, learner: LearnerSection | None = None) -> nn.Module:
    """A base learner with its starting weights."""
    learner = learner or first_learner(config)
    own = {"backbone": learner.backbone, "weights": learner.weights}
    section = config.model.model_copy(update={k: v for k, v in own.items() if v is not None})
    return CroppedNetwork(build_image_network(section, len(CLASSES)), learner.resize, learner.crop)


def architecture(network: nn.Module) -> dict[str, Any]:
    """What `rebuild` needs, of a base learner or a combination."""
    if isinstance(network, Flannel):
        learners = network.linear.out_features
        return {"kind": "flannel", "learners": learners, "weights": network.kind}
    if isinstance(network, ConstantWeights):
        return {"kind": "constant", "learners": len(network.weight)}
    assert isinstance(network, CroppedNetwork)
    own = {"kind": "image", "resize": network.resize, "crop": network.crop}
    return own | network.network.architecture.to_dict()


def rebuild(facts: dict[str, Any]) -> nn.Module:
    """The network that model.json describes, without weights."""
    parts = dict(facts["architecture"])
    kind = parts.pop("kind")
    if kind == "flannel":
        return Flannel(parts["learners"], len(CLASSES), parts["weights"]).double()
    if kind == "constant":
        return ConstantWeights(parts["learners"]).double()
    resize, crop = parts.pop("resize"), parts.pop("crop")
    return CroppedNetwork(ImageNetwork(Architecture(**parts)), resize, crop)


def targets(records: pd.DataFrame) -> np.ndarray:
    """float32 (records,): the number of each record's class."""
    return np.array([CLASSES.index(label) for label in records["label"]], np.float32)


def augment(config: CovidConfig, learner: LearnerSection | None = None) -> Augment:
    """Random changes of a prepared picture, then a random square of the learner's size."""
    learner = learner or first_learner(config)
    return partial(random_crop, steps=image_augment(config.augment), resize=learner.resize, crop=learner.crop)


def random_crop(
    picture: np.ndarray, seed: int, steps: Callable[[np.ndarray, int], np.ndarray], resize: int | None, crop: int
) -> np.ndarray:
    """uint8 (side, side, 1) -> (crop, crop, 1), a function of the seed."""
    changed = steps(picture, seed)
    if resize not in (None, changed.shape[0]):
        changed = cv2.resize(changed, (resize, resize), interpolation=cv2.INTER_AREA)
    changed = changed.reshape(*changed.shape[:2], 1)
    free = changed.shape[0] - crop
    top, left = np.random.default_rng(seed).integers(0, free + 1, 2)
    return np.ascontiguousarray(changed[top : top + crop, left : left + crop])


def loss(config: CovidConfig, counts: np.ndarray | None = None) -> Loss:
    """Cross-entropy; a class weighs (1 / its training images) ** class_balance, on average over images 1."""
    counts = np.ones(len(CLASSES)) if counts is None else counts
    weights = np.maximum(counts, 1) ** -config.loss.class_balance
    weights = weights * counts.sum() / (weights * counts).sum()
    return partial(weighted_cross_entropy, weights=torch.tensor(weights, dtype=torch.float32))


def for_learner(study: Study, learner: LearnerSection, counts: np.ndarray) -> Study:
    """The study with one base learner; `counts` are the training images of each class."""
    return replace(
        study,
        build=partial(build, learner=learner),
        augment=partial(augment, learner=learner),
        loss=partial(loss, counts=counts),
    )


def measure(targets: np.ndarray, outputs: np.ndarray) -> dict[str, float]:
    """`val_accuracy` and `val_macro_f1`."""
    matrix = confusion_matrix(targets.astype(int), outputs.argmax(axis=1), range(outputs.shape[1]))
    return {"val_accuracy": float(accuracy(matrix)), "val_macro_f1": float(macro_f1(matrix))}
