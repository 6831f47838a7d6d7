"""One backbone with six sigmoid heads (Gulshan 2016: one network trained on several binary outputs at once)."""

from __future__ import annotations

import numpy as np
import pandas as pd

from pipelines.retinopathy.config import RetinopathyConfig
from pipelines.retinopathy.labels import GRADE_TARGETS
from pipelines.retinopathy.metrics import HEADS, TASKS, predict_columns
from pipelines.shared.learning.dataset import Augment
from pipelines.shared.learning.image_learner import ImageLearner
from pipelines.shared.learning.losses import Loss, masked_binary_cross_entropy
from pipelines.shared.stats.auc import auroc


class RetinopathyLearner(ImageLearner[RetinopathyConfig]):
    """Six ordered or separate binary outputs; unknown targets are masked out of the loss."""

    classes = HEADS
    targets_shown = ("grade", *TASKS)
    link = "sigmoid"
    columns = staticmethod(predict_columns)

    def targets(self, records: pd.DataFrame) -> np.ndarray:
        """float32 (records, 6), NaN where unknown; with `data.grades_per_image` those of few graders in training."""
        values = records[HEADS].to_numpy(np.float32).copy()
        if "grade_few" in records:
            grade = records["grade_few"].to_numpy(float)
            columns = [np.where(np.isnan(grade), np.nan, grade >= k) for k in range(1, 5)]
            others = [records[name].to_numpy(float) for name in ("dme_few", "gradable_few")]
            few = np.stack([*columns, *others], axis=1)
            train = (records["split"] == "train").to_numpy()
            values[train] = few[train]
        return values

    def strata(self, records: pd.DataFrame) -> np.ndarray:
        """The grade: how many of the four ordered heads are known to be met; -1 where none is known."""
        grades = self.targets(records)[:, : len(GRADE_TARGETS)]
        return np.where(np.isnan(grades).all(axis=1), -1, np.nansum(grades, axis=1)).astype(int)

    def augment(self) -> Augment:
        """Random changes of a prepared photograph."""
        from pipelines.shared.learning.augment import image_augment  # albumentations: only training needs it

        return image_augment(self.config.augment)

    def loss(self) -> Loss:
        """Binary cross-entropy over the heads whose target is known."""
        return masked_binary_cross_entropy

    def measure(self, targets: np.ndarray, outputs: np.ndarray) -> dict[str, float]:
        """`val_auroc`: of moderate or worse, the head that every source has; NaN while val holds one class only."""
        head = HEADS.index("moderate_or_worse")
        known = ~np.isnan(targets[:, head])
        truth = targets[known, head]
        if len(np.unique(truth)) < 2:
            return {"val_auroc": float("nan")}
        return {"val_auroc": auroc(truth, outputs[known, head])}
