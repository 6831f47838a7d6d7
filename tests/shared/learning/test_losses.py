"""Softmax cross-entropy with weights and unknown targets, against torch's own on the known rows."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from pipelines.shared.learning.losses import weighted_cross_entropy


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_it_is_torchs_on_the_known_rows(smoothing):
    torch.manual_seed(0)
    logits = torch.randn(9, 4)
    targets = torch.tensor([0, 1, 2, 3, 0, float("nan"), 2, 1, float("nan")])
    weights = torch.tensor([1.0, 2.0, 0.5, 4.0])
    known = ~torch.isnan(targets)
    each = cross_entropy(logits[known], targets[known].long(), reduction="none", label_smoothing=smoothing)
    weight = weights[targets[known].long()]
    found = weighted_cross_entropy(logits, targets, weights, smoothing)
    assert found.item() == pytest.approx(((each * weight).sum() / weight.sum()).item())
    if not smoothing:
        theirs = cross_entropy(logits[known], targets[known].long(), weight=weights)
        assert found.item() == pytest.approx(theirs.item())


def test_nothing_known_gives_zero_and_no_gradient():
    logits = torch.randn(3, 4, requires_grad=True)
    value = weighted_cross_entropy(logits, torch.full((3,), float("nan")), torch.ones(4))
    value.backward()
    assert value.item() == 0
    assert not logits.grad.any()
