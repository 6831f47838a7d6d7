"""One backbone with a softmax over the training classes, which are found in the training records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Self

import numpy as np
import pandas as pd
import torch

from pipelines.shared.learning.calibration import choose_calibration
from pipelines.shared.learning.dataset import Augment
from pipelines.shared.learning.image_learner import ImageLearner
from pipelines.shared.learning.losses import Loss, class_weights, weighted_cross_entropy
from pipelines.shared.stats.confusion import accuracy, balanced_accuracy, confusion_matrix
from pipelines.shared.study import Data
from pipelines.skin.config import SkinConfig
from pipelines.skin.labels import BINARY, LEVELS
from pipelines.skin.metrics import predict_columns
from pipelines.skin.training_classes import class_numbers, training_classes


class SkinLearner(ImageLearner[SkinConfig]):
    """Cross-entropy over classes that the partitioning algorithm found, each a path of nodes joined by "/"."""

    targets_shown = ("lineage", *LEVELS, *BINARY)
    link = "softmax"

    def __init__(self, config: SkinConfig, classes: Sequence[str], counts: np.ndarray | None = None) -> None:
        """`counts`: training images of each class, for the loss; None for a network that is finished."""
        super().__init__(config)
        self.classes = list(classes)
        self.counts = np.ones(len(classes)) if counts is None else counts

    @classmethod
    def from_data(cls, config: SkinConfig, data: Data) -> Self:
        """The classes of the training part.

        Raises:
            DataError: all training images fall into one class.
        """
        lineages = data.records.loc[data.records["split"] == "train", "lineage"].tolist()
        classes = training_classes(lineages if data.all_folds is None else data.all_folds["lineage"].tolist(), config)
        return cls(config, classes, np.bincount(class_numbers(lineages, classes).astype(int), minlength=len(classes)))

    @classmethod
    def from_model(cls, config: SkinConfig, model: dict[str, Any]) -> Self:
        """The classes of a finished network."""
        return cls(config, model["classes"])

    def targets(self, records: pd.DataFrame) -> np.ndarray:
        """float32 (records,): the number of each record's training class; NaN where its disease lies in none."""
        return class_numbers(records["lineage"], self.classes)

    def augment(self) -> Augment:
        """Random changes of a prepared picture."""
        from pipelines.shared.learning.augment import image_augment  # albumentations: only training needs it

        return image_augment(self.config.augment, inscribed=self.config.augment.inscribed)

    def loss(self) -> Loss:
        """Cross-entropy; a class weighs (1 / its training images) ** class_balance, on average over images 1."""
        section = self.config.loss
        weights = class_weights(self.counts, section.class_balance)
        return partial(weighted_cross_entropy, weights=weights, label_smoothing=section.label_smoothing)

    def measure(self, targets: np.ndarray, outputs: np.ndarray) -> dict[str, float]:
        """`val_accuracy`, `val_balanced_accuracy` and `val_balanced_loss`; NaN where no class is known."""
        known = ~np.isnan(targets)
        if not known.any():
            return dict.fromkeys(("val_accuracy", "val_balanced_accuracy", "val_balanced_loss"), float("nan"))
        matrix = confusion_matrix(targets[known].astype(int), outputs[known].argmax(axis=1), range(outputs.shape[1]))
        return {
            "val_accuracy": float(accuracy(matrix)),
            "val_balanced_accuracy": float(balanced_accuracy(matrix)),
            "val_balanced_loss": self._balanced_loss(targets, outputs),
        }

    def _balanced_loss(self, targets: np.ndarray, outputs: np.ndarray) -> float:
        """Mean, over the classes that training had, of the mean log loss of their records; NaN if there are none.

        It tells epochs, and strengths of `calibration.prior`, apart where balanced accuracy jumps with single records.
        """
        taught = np.isin(targets, np.flatnonzero(self.counts))
        if not taught.any():
            return float("nan")
        numbers = torch.from_numpy(targets[taught])
        each_class = class_weights(np.bincount(numbers.int(), minlength=outputs.shape[1]), 1.0)
        return float(weighted_cross_entropy(torch.from_numpy(outputs[taught]), numbers, each_class))

    def calibrate(
        self,
        targets: np.ndarray,
        outputs: Callable[[], np.ndarray],
        measure: Callable[[np.ndarray], dict[str, float]],
    ) -> dict[str, Any]:
        """What `calibration` asks for; the prior is that of the training pictures."""
        section, monitor = self.config.calibration, self.config.trainer.monitor
        return choose_calibration(section, self.counts, self.never, targets, outputs, measure, monitor)

    def columns(self, probabilities: np.ndarray, /) -> pd.DataFrame:
        """Probabilities of the classes and, by the inference algorithm, of the nodes above them."""
        return predict_columns(probabilities, self.classes)
