"""One backbone with one sigmoid output."""

from __future__ import annotations

import numpy as np
import pandas as pd

from pipelines.nodules.config import NodulesConfig
from pipelines.nodules.metrics import HEADS, NODULE
from pipelines.shared.learning.dataset import Augment
from pipelines.shared.learning.image_learner import ImageLearner
from pipelines.shared.learning.losses import Loss, masked_binary_cross_entropy
from pipelines.shared.stats.auc import auroc


class NodulesLearner(ImageLearner[NodulesConfig]):
    """Is there a nodule in the picture?"""

    classes = HEADS
    targets_shown = ("nodule",)
    link = "sigmoid"

    def targets(self, records: pd.DataFrame) -> np.ndarray:
        """float32 (records, 1)."""
        return records[HEADS].to_numpy(np.float32)

    def augment(self) -> Augment:
        """Random changes of a prepared picture."""
        from pipelines.shared.learning.augment import image_augment  # albumentations: only training needs it

        return image_augment(self.config.augment)

    def loss(self) -> Loss:
        """Binary cross-entropy."""
        return masked_binary_cross_entropy

    def measure(self, targets: np.ndarray, outputs: np.ndarray) -> dict[str, float]:
        """`val_auroc`; NaN while val holds one class only."""
        both = len(np.unique(targets)) == 2
        return {"val_auroc": auroc(targets[:, 0], outputs[:, 0]) if both else float("nan")}

    def columns(self, probabilities: np.ndarray, /) -> pd.DataFrame:
        """`p_nodule`."""
        return pd.DataFrame({NODULE.score: probabilities[:, 0]})
