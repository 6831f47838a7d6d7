"""Losses that timm lacks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from pipelines.shared.learning.ahead import sent

# Outputs and targets to a scalar; missing (NaN) targets do not count.
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def masked_binary_cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean binary cross-entropy over the targets that are known.

    Args:
        logits: (batch, heads).
        targets: (batch, heads), 0 or 1, NaN where unknown: such a target counts neither in the sum nor in the mean.

    Returns:
        A scalar; zero (with a gradient of zero) if nothing in the batch is known.
    """
    known = ~torch.isnan(targets)
    filled = torch.where(known, targets, torch.zeros_like(targets))
    each = binary_cross_entropy_with_logits(logits.float(), filled, reduction="none")
    return (each * known).sum() / known.sum().clamp(min=1)


def weighted_cross_entropy(
    logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor, label_smoothing: float = 0.0
) -> torch.Tensor:
    """Mean softmax cross-entropy over the records whose class is known, each weighing what its class weighs.

    Args:
        logits: (batch, classes).
        targets: (batch,) class numbers as floats, NaN where unknown.
        weights: (classes,).
        label_smoothing: share of the target that is spread evenly over all classes.

    Returns:
        A scalar; zero (with a gradient of zero) if nothing in the batch is known.
    """
    known = ~torch.isnan(targets)
    numbers = torch.where(known, targets, torch.zeros_like(targets)).long()
    each = cross_entropy(logits.float(), numbers, reduction="none", label_smoothing=label_smoothing)
    weight = sent(weights, logits.device)[numbers] * known
    return (each * weight).sum() / weight.sum().clamp(min=1e-6)


def class_weights(counts: np.ndarray, balance: float) -> torch.Tensor:
    """float32 (classes,): (1 / count) ** balance, scaled so that the mean over the counted records is 1."""
    weights = np.maximum(counts, 1) ** -balance
    weights = weights * counts.sum() / (weights * counts).sum()
    return torch.tensor(weights, dtype=torch.float32)
