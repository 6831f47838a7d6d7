"""What only a GPU can show: nothing waits for it within a step, and it changes pictures as a CPU does."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from conftest import compose, toy_prepared

from pipelines.ecg.learner import EcgLearner
from pipelines.retinopathy.ordinal import grade_loss
from pipelines.shared.config import AugmentSection
from pipelines.shared.learning.ahead import arriving, made_ahead
from pipelines.shared.learning.augment import image_augment
from pipelines.shared.learning.dataset import Loader, PreparedDataset, batch_of
from pipelines.shared.learning.losses import masked_binary_cross_entropy, weighted_cross_entropy

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU")

EVERYTHING = {
    "horizontal_flip": 0.5, "vertical_flip": 0.5, "rotate": 180.0, "scale": 0.1, "translate": 0.02, "brightness": 0.2,
    "contrast": 0.2, "saturation": 0.15, "hue": 0.03, "on_device": True,
}  # fmt: skip


@pytest.fixture
def waiting_is_an_error():
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


LOSSES = {
    "cross-entropy": (partial(weighted_cross_entropy, weights=torch.ones(5)), (8, 5), (8,)),
    "binary": (masked_binary_cross_entropy, (8, 3), (8, 3)),
    "grades": (partial(grade_loss, expected_grade=0.5), (8, 5), (8, 5)),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_does_not_wait_for_the_forward_pass(name, waiting_is_an_error):
    loss, of_outputs, of_targets = LOSSES[name]
    outputs = torch.zeros(of_outputs, device="cuda", requires_grad=True)
    loss(outputs, torch.ones(of_targets, device="cuda")).backward()


def test_the_loss_of_steps_does_not_wait_either(waiting_is_an_error):
    loss = EcgLearner(compose("ecg")).loss()
    scores = torch.zeros((2, 6, 12), device="cuda", requires_grad=True)
    loss(scores, torch.ones((2, 7), device="cuda")).backward()


@pytest.mark.parametrize("inscribed", [False, True])
def test_it_changes_pictures_as_a_cpu_does(inscribed):
    side = 64
    x, y = np.meshgrid(np.arange(side), np.arange(side))
    waves = [128 + 90 * np.sin(x / (7 + k) + k) * np.cos(y / (9 - k / 3)) for k in range(12)]
    pictures = np.stack(waves).reshape(4, 3, side, side).transpose(0, 2, 3, 1).astype(np.uint8)
    augment = image_augment(AugmentSection(**EVERYTHING), inscribed)
    data = PreparedDataset(toy_prepared(pictures), list("abcd"), np.zeros((4, 1)), augment)
    keys = [(1, k, 0) for k in range(4)]
    (there,) = [arrays.cpu() for arrays, _, _ in Loader(data, 1, torch.device("cuda", 0))([keys])]
    apart = (there.int() - batch_of(data, keys)[0].int()).abs().float()
    assert apart.mean() < 0.5
    assert apart.quantile(0.99) <= 3


def test_what_is_made_ahead_arrives_in_order_and_whole(waiting_is_an_error):
    device = torch.device("cuda", 0)
    large = [torch.full((2**20,), float(k)).pin_memory() for k in range(6)]
    made = ((k, tensor.to(device, non_blocking=True)) for k, tensor in enumerate(large))
    sums = [(k, arriving(tensor.sum())) for k, tensor in made_ahead(made, device)]
    assert [k for k, _ in sums] == list(range(6))
    assert [int(wait()) for _, wait in sums] == [k * 2**20 for k in range(6)]
