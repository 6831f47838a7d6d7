"""The grade as an ordered answer: cumulative links of one score, and the loss of a regression beside cross-entropy."""

from __future__ import annotations

import torch
from torch import nn

from pipelines.retinopathy.labels import GRADE_TARGETS
from pipelines.shared.learning.losses import masked_binary_cross_entropy

LINKS = len(GRADE_TARGETS)


class CumulativeHead(nn.Module):
    """Features (batch, width) to logits (batch, LINKS + others): the first LINKS are one score plus a bias for each.

    Cao et al., Pattern Recognit Lett 140:325 (2020), "CORAL": as the weights are shared, P(grade >= k) falls with k
    for every picture once the biases do, which they do where cross-entropy is least.
    """

    def __init__(self, width: int, others: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 1 + others)
        self.biases = nn.Parameter(torch.linspace(1.0, -1.0, LINKS))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Logits, ordered from mild or worse to proliferative; then the others."""
        outputs = self.linear(features)
        return torch.cat([outputs[:, :1] + self.biases, outputs[:, 1:]], dim=1)


def grade_loss(logits: torch.Tensor, targets: torch.Tensor, expected_grade: float) -> torch.Tensor:
    """Binary cross-entropy of all heads, plus `expected_grade` times the squared error of the expected grade.

    Args:
        logits: (batch, LINKS + others).
        targets: of the same shape, 0 to 1, NaN where unknown; a grade counts where all of its heads are known.
        expected_grade: 0 or more.
    """
    value = masked_binary_cross_entropy(logits, targets)
    if not expected_grade:
        return value
    grade = targets[:, :LINKS].sum(dim=1)
    known = ~torch.isnan(grade)
    error = logits[:, :LINKS].float().sigmoid().sum(dim=1) - torch.where(known, grade, torch.zeros_like(grade))
    return value + expected_grade * (error**2 * known).sum() / known.sum().clamp(min=1)
