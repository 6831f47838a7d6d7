"""Where training stands, and what the best epoch is."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch


@dataclass
class Progress:
    """Where training stands. Plain numbers, except for the best epoch's weights (a copy, not a reference)."""

    epoch: int = 0
    batch: int = 0
    loss_sum: float = 0.0
    seconds: float = 0.0
    best_value: float = math.nan
    best_epoch: int = -1
    best_weights: dict[str, torch.Tensor] | None = None


def better(value: float, best: float, monitor: str) -> bool:
    """Whether a monitored value beats the best so far. NaN never does; the first number does."""
    if math.isnan(value) or math.isnan(best):
        return math.isnan(best) and not math.isnan(value)
    return value < best if monitor.endswith("loss") else value > best
