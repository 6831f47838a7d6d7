"""mixup and CutMix: what is mixed, by how much, and what the loss of it is."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy, one_hot

from pipelines.shared.learning.losses import masked_binary_cross_entropy, weighted_cross_entropy
from pipelines.shared.learning.mixing import mixed, mixed_loss

NAN = float("nan")


def pictures() -> torch.Tensor:
    """Picture i is grey of value 40 i."""
    return torch.arange(5).mul(40).to(torch.uint8).view(5, 1, 1, 1).expand(5, 16, 16, 3).contiguous()


def test_mixup_adds_the_neighbour(trainer_section):
    shares = set()
    for seed in range(8):
        torch.manual_seed(seed)
        mixture, own = mixed(pictures(), trainer_section(mixup=1.0))
        wanted = own * pictures() + (1 - own) * pictures().roll(1, 0)
        assert torch.allclose(mixture, wanted, atol=1e-3)
        shares.add(own)
    assert len(shares) == 8
    assert max(shares) - min(shares) > 0.4
    torch.manual_seed(7)
    assert mixed(pictures(), trainer_section(mixup=1.0))[1] == own


def test_cutmix_takes_a_rectangle_of_the_neighbour(trainer_section):
    for seed in range(8):
        torch.manual_seed(seed)
        mixture, own = mixed(pictures(), trainer_section(cutmix=1.0))
        foreign = (mixture != pictures()).all(dim=3)
        assert torch.equal(mixture[foreign], pictures().roll(1, 0).float()[foreign])
        assert own == pytest.approx(1 - float(foreign[1].float().mean()), abs=1e-6)
        rows, columns = torch.nonzero(foreign[1], as_tuple=True)
        if len(rows):
            assert (rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1) == len(rows)


def test_both_take_turns_and_neither_leaves_all_as_it_is(trainer_section):
    kinds = set()
    for seed in range(12):
        torch.manual_seed(seed)
        mixture, own = mixed(pictures(), trainer_section(mixup=1.0, cutmix=1.0))
        if 0 < own < 1:
            kinds.add(len(mixture[1].unique()) == 1)
    assert kinds == {True, False}
    before = torch.get_rng_state()
    untouched, own = mixed(pictures(), trainer_section())
    assert own == 1
    assert torch.equal(untouched, pictures())
    assert torch.equal(before, torch.get_rng_state())


def test_the_loss_is_that_of_mixed_targets_weighted_and_smoothed():
    torch.manual_seed(0)
    logits, targets, own = torch.randn(5, 3), torch.tensor([0.0, 2.0, 1.0, 0.0, 2.0]), 0.3
    soft = own * one_hot(targets.long(), 3) + (1 - own) * one_hot(targets.roll(1, 0).long(), 3)
    even = torch.ones(3)
    found = mixed_loss(lambda o, t: weighted_cross_entropy(o, t, even, 0.1), logits, targets, own)
    assert found.item() == pytest.approx(cross_entropy(logits, soft, label_smoothing=0.1).item(), abs=1e-6)
    weights = torch.tensor([0.5, 1.0, 4.0])
    found = mixed_loss(lambda o, t: weighted_cross_entropy(o, t, weights), logits, targets, own)
    each = -(soft * weights * logits.log_softmax(dim=1)).sum(dim=1)
    assert found.item() == pytest.approx((each.sum() / (soft * weights).sum()).item(), abs=1e-6)


def test_the_loss_of_several_heads_is_that_of_mixed_targets_and_masks_each_by_itself():
    torch.manual_seed(0)
    logits, targets, own = torch.randn(4, 2), torch.tensor([[0.0, 1.0], [1.0, 1.0], [0.0, 0.0], [1.0, 0.0]]), 0.3
    soft = own * targets + (1 - own) * targets.roll(1, 0)
    wanted = torch.nn.functional.binary_cross_entropy_with_logits(logits, soft)
    assert mixed_loss(masked_binary_cross_entropy, logits, targets, own).item() == pytest.approx(
        wanted.item(), abs=1e-6
    )
    targets[0, 0] = NAN
    assert torch.isfinite(mixed_loss(masked_binary_cross_entropy, logits, targets, own))
