"""Losses that timm lacks."""

from __future__ import annotations

import torch
from torch.nn.functional import binary_cross_entropy_with_logits


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
