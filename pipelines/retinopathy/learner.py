"""One backbone with six sigmoid heads (Gulshan 2016: one network trained on several binary outputs at once)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Self

import numpy as np
import pandas as pd
from torch import nn

from pipelines.retinopathy.config import RetinopathyConfig
from pipelines.retinopathy.fundus import GREY
from pipelines.retinopathy.labels import GRADE_TARGETS
from pipelines.retinopathy.metrics import HEADS, TASKS, choose_cut_points, grade_kappa, predict_columns
from pipelines.retinopathy.ordinal import LINKS, CumulativeHead, grade_loss
from pipelines.shared.errors import StatisticsError
from pipelines.shared.learning.backbones import ImageNetwork
from pipelines.shared.learning.dataset import Augment
from pipelines.shared.learning.image_learner import ImageLearner
from pipelines.shared.learning.losses import Loss
from pipelines.shared.log import log
from pipelines.shared.stats.auc import auroc


class RetinopathyLearner(ImageLearner[RetinopathyConfig]):
    """Six ordered or separate binary outputs; unknown targets are masked out of the loss."""

    classes = HEADS
    targets_shown = ("grade", *TASKS)
    link = "sigmoid"

    def __init__(
        self,
        config: RetinopathyConfig,
        untaught: Mapping[str, str] | None = None,
        cut_points: Sequence[float | None] | None = None,
    ) -> None:
        """`cut_points`: of the expected grade, chosen on val; None where none were."""
        super().__init__(config, untaught)
        self.cut_points = cut_points

    @classmethod
    def from_model(cls, config: RetinopathyConfig, model: dict[str, Any]) -> Self:
        """The learner of a finished network."""
        return cls(config, model.get("untaught"), model.get("chosen_on_val", {}).get("cut_points"))

    def build(self) -> nn.Module:
        """The backbone with the weights that the configuration asks for, and a new head."""
        network = super().build()
        return _with_links(network) if self.config.loss.grade == "cumulative" else network

    def architecture(self, network: nn.Module) -> dict[str, Any]:
        """What `rebuild` needs, for model.json."""
        return super().architecture(network) | {"grade": self.config.loss.grade}

    @staticmethod
    def rebuild(model: dict[str, Any]) -> nn.Module:
        """The network that a model.json describes, without weights."""
        parts = dict(model["architecture"])
        grade = parts.pop("grade", "separate")  # networks of earlier versions lack it
        network = ImageLearner.rebuild({"architecture": parts})
        return _with_links(network) if grade == "cumulative" else network

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

        outside = GREY if self.config.preprocess.local_average else 0  # as around the disc
        return image_augment(self.config.augment, outside=outside)

    def loss(self) -> Loss:
        """Binary cross-entropy over the heads whose target is known; with `loss.expected_grade` more, see `ordinal`."""
        return partial(grade_loss, expected_grade=self.config.loss.expected_grade)

    def measure(self, targets: np.ndarray, outputs: np.ndarray) -> dict[str, float]:
        """`val_auroc`: of moderate or worse, the head that every source has; `val_kappa`: the grade's, quadratic.

        Each NaN while val holds one class only.
        """
        return {"val_auroc": _auroc(targets, outputs), "val_kappa": self._kappa(targets, outputs)}

    def _kappa(self, targets: np.ndarray, outputs: np.ndarray) -> float:
        grade = targets[:, :LINKS].sum(axis=1)  # NaN if one of them is
        rows = ~np.isnan(grade)
        if len(np.unique(grade[rows])) < 2:
            return float("nan")
        p = self.probabilities(outputs[rows])
        try:
            cuts = choose_cut_points(grade[rows], p) if self.config.operating_points.grade == "kappa" else None
            return grade_kappa(grade[rows], predict_columns(p, cuts))
        except StatisticsError:
            return float("nan")

    def choose(self, records: pd.DataFrame, probabilities: np.ndarray) -> dict[str, Any]:
        """The cut points of the expected grade, if the configuration asks for them and val has two grades."""
        if self.config.operating_points.grade == "half":
            return {}
        try:
            return {"cut_points": choose_cut_points(records["grade"].to_numpy(float), probabilities)}
        except StatisticsError as failure:
            log.warning(f"operating_points.grade=kappa: val gives no cut points ({failure}); outputs at 0.5 count")
            return {}

    def columns(self, probabilities: np.ndarray, /) -> pd.DataFrame:
        """The prediction columns, see `metrics.predict_columns`."""
        return predict_columns(probabilities, self.cut_points)


def _with_links(network: nn.Module) -> nn.Module:
    assert isinstance(network, ImageNetwork)
    network.head = CumulativeHead(network.backbone.head_hidden_size, len(HEADS) - LINKS)
    return network


def _auroc(targets: np.ndarray, outputs: np.ndarray) -> float:
    head = HEADS.index("moderate_or_worse")
    known = ~np.isnan(targets[:, head])
    truth = targets[known, head]
    return auroc(truth, outputs[known, head]) if len(np.unique(truth)) == 2 else float("nan")
