"""A small network for pictures, with a backbone whose layers are known, and pictures for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from conftest import toy_prepared
from torch import nn

from pipelines.shared.learning.dataset import PreparedDataset, balanced_shares
from pipelines.shared.learning.distributed import World
from pipelines.shared.learning.losses import weighted_cross_entropy
from pipelines.shared.learning.predictor import predict
from pipelines.shared.learning.trainer import History, fit

SIDE, N = 48, 22
WEIGHTS = torch.tensor([1.0, 2.0, 3.0])
# The whole kit at once.
ALL: dict[str, Any] = {
    "epochs": 3, "layer_decay": 0.7, "head_epochs": 1, "first_size": 32, "mixup": 0.4, "cutmix": 1.0, "ema_decay": 0.8,
    "ema_warmup": True, "average_epochs": 2, "accumulate": 2, "clip_norm": 1.0, "weight_decay": 0.1,
}  # fmt: skip


class Backbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, stride=4)
        self.blocks = nn.Sequential(
            nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3)),
            nn.Sequential(nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.2)),
        )

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        return {"stem": r"^stem", "blocks": r"^blocks\.(\d+)"}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.blocks(self.stem(x)).mean(dim=(2, 3))


class PictureNetwork(nn.Module):
    """uint8 or float (batch, height, width, 3) to (batch, 3); `sides` are those that it saw in training."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.head, self.sides = Backbone(), nn.Linear(6, 3), []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.sides.append(x.shape[1])
        return self.head(self.backbone(x.permute(0, 3, 1, 2).float() / 255))


def noisy(array: np.ndarray, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 20, array.shape)
    return np.clip(array.astype(int) + noise, 0, 255).astype(np.uint8)


def toy_pictures(balanced: bool = True) -> PreparedDataset:
    """Three classes of 14, 6 and 2 pictures that differ in brightness; one label is unknown."""
    rng = np.random.default_rng(0)
    classes = np.repeat([0.0, 1.0, 2.0], [14, 6, 2])
    arrays = (rng.integers(0, 120, (N, SIDE, SIDE, 3)) + classes[:, None, None, None] * 60).astype(np.uint8)
    targets = classes.copy()
    targets[3] = np.nan
    shares = balanced_shares(classes, 0.8) if balanced else None
    return PreparedDataset(toy_prepared(arrays), [f"r{i}" for i in range(N)], targets, noisy, 1, shares)


def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return weighted_cross_entropy(outputs, targets, WEIGHTS)


def train_pictures(file: Any, section: Any, world: World | None = None) -> tuple[PictureNetwork, History]:
    world = world or World(0, 1, torch.device("cpu"))
    data = toy_pictures(section.sampling == "balanced")
    plain = PreparedDataset(data.prepared, data.ids, data.targets)
    torch.manual_seed(7)
    model = PictureNetwork()

    def validate(scored: nn.Module) -> dict[str, float]:
        outputs = torch.from_numpy(predict(scored, plain, world, 5))
        return {"val_loss": float(loss(outputs, torch.from_numpy(plain.targets)))}

    history = fit(
        model, loss, data, validate, section, name="network", seed=1, world=world, file=file, must_match={}
    )  # fmt: skip
    return model, [{k: v for k, v in row.items() if k != "seconds"} for row in history]
