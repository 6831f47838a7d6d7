"""A few records, one target of which is unknown, an augmentation that depends on nothing but its seed, a network."""

from __future__ import annotations

import numpy as np
import torch
from conftest import toy_prepared
from torch import nn

from pipelines.shared.learning.dataset import PreparedDataset

N = 22


class Toy(nn.Module):
    """A network with everything whose state could be lost: dropout, batch norm, a scale of uint8."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x.float() / 255)


def noisy(array: np.ndarray, seed: int) -> np.ndarray:
    """An augmentation that depends on nothing but its seed."""
    noise = np.random.default_rng(seed).integers(0, 20, array.shape)
    return np.clip(array.astype(int) + noise, 0, 255).astype(np.uint8)


def toy_data(augment=noisy) -> PreparedDataset:
    rng = np.random.default_rng(0)
    arrays = rng.integers(0, 256, (N, 6)).astype(np.uint8)
    targets = np.stack([arrays[:, 0] > 127, arrays[:, 1] > 127], axis=1).astype(np.float32)
    targets[3, 1] = np.nan
    return PreparedDataset(toy_prepared(arrays), [f"r{i}" for i in range(N)], targets, augment, seed=1)
