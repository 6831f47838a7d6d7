"""One backbone with six sigmoid heads (Gulshan 2016: one network trained on several binary outputs at once)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from pipelines.retinopathy.config import RetinopathyConfig
from pipelines.retinopathy.metrics import HEADS
from pipelines.shared.augment import image_augment
from pipelines.shared.backbones import Architecture, ImageNetwork, build_image_network
from pipelines.shared.dataset import Augment
from pipelines.shared.losses import masked_binary_cross_entropy
from pipelines.shared.stats.auc import auroc
from pipelines.shared.trainer import Loss


def build(config: RetinopathyConfig) -> nn.Module:
    """The network with its starting weights."""
    return build_image_network(config.model, outputs=len(HEADS))


def architecture(network: nn.Module) -> dict[str, Any]:
    """What `rebuild` needs."""
    assert isinstance(network, ImageNetwork)
    return network.architecture.to_dict()


def rebuild(facts: dict[str, Any]) -> nn.Module:
    """The network that model.json describes, without weights."""
    return ImageNetwork(Architecture(**facts["architecture"]))


def targets(records: pd.DataFrame) -> np.ndarray:
    """float32 (records, 6), NaN where unknown. With `data.grades_per_image`, training rows have their few graders'."""
    values = records[HEADS].to_numpy(np.float32).copy()
    if "grade_few" in records:
        grade = records["grade_few"].to_numpy(float)
        columns = [np.where(np.isnan(grade), np.nan, grade >= k) for k in range(1, 5)]
        few = np.stack([*columns, records["dme_few"].to_numpy(float), records["gradable_few"].to_numpy(float)], axis=1)
        train = (records["split"] == "train").to_numpy()
        values[train] = few[train]
    return values


def augment(config: RetinopathyConfig) -> Augment:
    """Random changes of a prepared photograph."""
    return image_augment(config.augment)


def loss(config: RetinopathyConfig) -> Loss:
    """Binary cross-entropy over the heads whose target is known."""
    return masked_binary_cross_entropy


def measure(targets: np.ndarray, outputs: np.ndarray) -> dict[str, float]:
    """`val_auroc`: of moderate or worse, the head that every source has; NaN while val holds one class only."""
    head = HEADS.index("moderate_or_worse")
    known = ~np.isnan(targets[:, head])
    truth = targets[known, head]
    if len(np.unique(truth)) < 2:
        return {"val_auroc": float("nan")}
    return {"val_auroc": auroc(truth, outputs[known, head])}
