"""What the patch network learns: tumour or not, from patches cropped, turned and coloured at random."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from pipelines.camelyon.config import CamelyonConfig
from pipelines.camelyon.metrics import CLASSES, TASK, predict_columns
from pipelines.camelyon.model import GOOGLENET, FlippedPatchNetwork, PatchNetwork, Plan, with_maps
from pipelines.shared.errors import ConfigError, StatisticsError
from pipelines.shared.learning.backbones import build_image_network
from pipelines.shared.learning.dataset import Augment
from pipelines.shared.learning.learner import Learner
from pipelines.shared.learning.losses import Loss, masked_binary_cross_entropy
from pipelines.shared.stats.auc import auroc


class PatchLearner(Learner[CamelyonConfig]):
    """Binary cross-entropy over patches whose label is known."""

    classes = CLASSES
    targets_shown = (TASK,)
    link = "sigmoid"
    columns = staticmethod(predict_columns)

    def build(self) -> PatchNetwork:
        """A network with the weights that the configuration asks for.

        Raises:
            ConfigError: unknown backbone, or a level that it does not have.
            WeightsError: the weights cannot be had.
        """
        section = self.config.model
        if section.backbone == GOOGLENET and section.level is not None:
            raise ConfigError("model.backbone=googlenet has no levels.", "Set model.level=null.")
        whole = build_image_network(section, 1)
        mean, std = list(whole.architecture.mean), list(whole.architecture.std)
        crop = self.config.patches.crop
        plan = Plan(
            section.backbone, section.level, section.channels, section.drop_rate, crop, mean, std, section.test_time
        )
        return PatchNetwork(plan, with_maps(section.backbone, whole.backbone))

    def architecture(self, network: nn.Module) -> dict[str, Any]:
        """What `rebuild` needs, for model.json."""
        assert isinstance(network, PatchNetwork)
        return asdict(network.plan)

    @staticmethod
    def rebuild(model: dict[str, Any]) -> PatchNetwork:
        """The network that a model.json describes, as it answers once it is finished, without weights."""
        plan = Plan(**model["architecture"])
        return PatchNetwork(plan) if plan.test_time == "none" else FlippedPatchNetwork(plan)

    def targets(self, records: pd.DataFrame) -> np.ndarray:
        """(records, 1) float32: tumour or not, NaN where unknown."""
        return records[[TASK]].to_numpy(np.float32)

    def augment(self) -> Augment:
        """A random crop and quarter turn, then flips and colours as configured."""
        from pipelines.shared.learning.augment import image_augment  # albumentations: only training needs it

        return image_augment(self.config.augment, first=partial(_turned_part, crop=self.config.patches.crop))

    def loss(self) -> Loss:
        """Binary cross-entropy."""
        return masked_binary_cross_entropy

    def measure(self, targets: np.ndarray, outputs: np.ndarray) -> dict[str, float]:
        """`val_auroc` over patches, NaN where it is undefined."""
        known = ~np.isnan(targets[:, 0])
        try:
            return {"val_auroc": auroc(targets[known, 0], outputs[known, 0])}
        except StatisticsError:
            return {"val_auroc": float("nan")}


def _turned_part(patch: np.ndarray, seed: int, crop: int) -> np.ndarray:
    """A random part of a patch, turned by a random number of quarter turns."""
    rng = np.random.default_rng(seed)
    if patch.shape[0] > crop:
        top, left = (int(rng.integers(side - crop + 1)) for side in patch.shape[:2])
        patch = patch[top : top + crop, left : left + crop]
    return np.ascontiguousarray(np.rot90(patch, int(rng.integers(4))))
