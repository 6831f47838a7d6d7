"""The base learners: timm backbones with a softmax over the four classes, each with its own input size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Self

import cv2
import numpy as np
import pandas as pd
import torch
from torch import nn

from pipelines.covid_flannel.config import CLASSES, CovidConfig, LearnerSection
from pipelines.covid_flannel.flannel import ConstantWeights, Flannel
from pipelines.covid_flannel.metrics import predict_columns
from pipelines.shared.learning.backbones import Architecture, ImageNetwork, build_image_network
from pipelines.shared.learning.calibration import calibrated, choose_calibration
from pipelines.shared.learning.dataset import Augment
from pipelines.shared.learning.image_learner import over_views
from pipelines.shared.learning.learner import Learner
from pipelines.shared.learning.losses import Loss, class_weights, weighted_cross_entropy
from pipelines.shared.stats.confusion import accuracy, confusion_matrix, macro_f1
from pipelines.shared.study import Data
from pipelines.shared.untaught import find_untaught


class CroppedNetwork(nn.Module):
    """An image network that scales whole pictures to `resize` pixels and looks at the middle `crop` of them.

    Input: uint8 (batch, side, side, 1). In training pictures are taken as augmentation makes them.
    """

    def __init__(self, network: ImageNetwork, resize: int | None, crop: int) -> None:
        super().__init__()
        self.network, self.resize, self.crop = network, resize, crop

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Logits, (batch, classes)."""
        side = pictures.shape[1]
        if side != self.crop and not self.training:  # in training augmentation has cropped them
            if self.resize not in (None, side):
                whole = pictures.permute(0, 3, 1, 2).float()
                scaled = nn.functional.interpolate(whole, self.resize, mode="bilinear", antialias=True)
                pictures = scaled.permute(0, 2, 3, 1)
            first = (pictures.shape[1] - self.crop) // 2
            pictures = pictures[:, first : first + self.crop, first : first + self.crop]
        logits: torch.Tensor = self.network(pictures)
        return logits


class BaseLearner(Learner[CovidConfig]):
    """One of the five: cross-entropy over the classes, weighted by how rare they are."""

    classes = CLASSES
    targets_shown = ("label",)
    link = "softmax"
    columns = staticmethod(predict_columns)

    def __init__(
        self,
        config: CovidConfig,
        section: LearnerSection | None = None,
        counts: np.ndarray | None = None,
        untaught: Mapping[str, str] | None = None,
    ) -> None:
        """`section`: of `base_learners`, by default the first; `counts`: training images of each class."""
        super().__init__(config, untaught)
        self.section = section or next(iter(config.base_learners.values()))
        self.counts = np.ones(len(CLASSES)) if counts is None else counts

    @classmethod
    def from_data(cls, config: CovidConfig, data: Data) -> Self:
        """The first base learner, with the classes' counts in the training part."""
        answers = answers_of(data.records.iloc[data.positions("train")])
        counts = np.bincount(answers.astype(int), minlength=len(CLASSES))
        return cls(config, None, counts, find_untaught(CLASSES, answers))

    def build(self) -> nn.Module:
        """The network with its starting weights."""
        own = {"backbone": self.section.backbone, "weights": self.section.weights}
        section = self.config.model.model_copy(update={k: v for k, v in own.items() if v is not None})
        network = build_image_network(section, len(CLASSES))
        return CroppedNetwork(network, self.section.resize, self.section.crop)

    def architecture(self, network: nn.Module) -> dict[str, Any]:
        """What `rebuild` needs, for model.json, of a base learner or a combination."""
        if isinstance(network, Flannel):
            return {"kind": "flannel", "learners": network.linear.out_features, "classes": network.classes,
                    "weights": network.kind}  # fmt: skip
        if isinstance(network, ConstantWeights):
            return {"kind": "constant", "learners": len(network.weight)}
        assert isinstance(network, CroppedNetwork)
        own = {"kind": "image", "resize": network.resize, "crop": network.crop}
        return own | network.network.architecture.to_dict()

    @staticmethod
    def rebuild(model: dict[str, Any]) -> nn.Module:
        """The network that a model.json describes, without weights."""
        parts = dict(model["architecture"])
        kind = parts.pop("kind")
        if kind == "flannel":
            return Flannel(parts["learners"], parts.get("classes", len(CLASSES)), parts["weights"]).double()
        if kind == "constant":
            return ConstantWeights(parts["learners"]).double()
        resize, crop = parts.pop("resize"), parts.pop("crop")
        return CroppedNetwork(ImageNetwork(Architecture(**parts)), resize, crop)

    def finished(self, network: nn.Module, model: dict[str, Any]) -> nn.Module:
        """A base learner, over several views of a picture where `model.test_time` asked for them, and calibrated; a
        combination as it is.
        """
        return calibrated(over_views(self, network, model), model)

    def targets(self, records: pd.DataFrame) -> np.ndarray:
        """float32 (records,): the number of each record's class."""
        return answers_of(records)

    def augment(self) -> Augment:
        """Random changes of the picture, scaled to `resize` pixels, then a random square of `crop` pixels."""
        from pipelines.shared.learning.augment import image_augment  # albumentations: only training needs it

        first = partial(scaled, side=self.section.resize)
        return image_augment(self.config.augment, first=first, side=self.section.crop)

    def loss(self) -> Loss:
        """Cross-entropy; a class weighs (1 / its training images) ** class_balance, on average over images 1."""
        weights = class_weights(self.counts, self.config.loss.class_balance)
        return partial(weighted_cross_entropy, weights=weights)

    def measure(self, targets: np.ndarray, outputs: np.ndarray) -> dict[str, float]:
        """`val_accuracy` and `val_macro_f1`."""
        matrix = confusion_matrix(targets.astype(int), outputs.argmax(axis=1), range(outputs.shape[1]))
        return {"val_accuracy": float(accuracy(matrix)), "val_macro_f1": float(macro_f1(matrix))}

    def calibrate(
        self,
        targets: np.ndarray,
        outputs: Callable[[], np.ndarray],
        measure: Callable[[np.ndarray], dict[str, float]],
    ) -> dict[str, Any]:
        """What `calibration` asks for; the prior is that of the training pictures."""
        section, monitor = self.config.calibration, self.config.trainer.monitor
        return choose_calibration(section, self.counts, self.never, targets, outputs, measure, monitor)


def answers_of(records: pd.DataFrame) -> np.ndarray:
    """float32 (records,): the number of each record's class."""
    return np.array([CLASSES.index(label) for label in records["label"]], np.float32)


def untaught_in(records: pd.DataFrame, train: np.ndarray) -> dict[str, str]:
    """The classes that the training records lack -> why; `train`: bool (records,)."""
    return find_untaught(CLASSES, answers_of(records)[train])


def scaled(picture: np.ndarray, seed: int, side: int | None) -> np.ndarray:
    """A square grey picture with sides of so many pixels; None: as it is. Nothing in it is random."""
    if side not in (None, picture.shape[0]):
        picture = cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)
    return picture.reshape(*picture.shape[:2], 1)
