"""A saliency map points at what the score depends on, and nowhere outside the region."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from pipelines.shared.learning.distributed import World
from pipelines.shared.learning.saliency import saliency_maps

ONE = World(0, 1, torch.device("cpu"))


class Patch(nn.Module):
    """Its score is the mean of one small patch."""

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return pictures[:, 20:26, 30:36, 1].mean(dim=(1, 2))[:, None]


def test_the_map_points_at_the_patch():
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (64, 64, 3)).astype(np.uint8)
    region = np.ones((64, 64), bool)
    (found,) = saliency_maps(Patch(), lambda outputs: outputs[:, 0], [picture], [region], ONE)
    assert found.shape == (64, 64)
    assert found.min() >= 0
    assert found.max() == 1
    inside = np.zeros((64, 64), bool)
    inside[18:28, 28:38] = True
    assert found[inside].mean() > 20 * found[~inside].mean()


def test_nothing_is_attributed_outside_the_region():
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (64, 64, 3)).astype(np.uint8)
    region = np.ones((64, 64), bool)
    region[:, 24:] = False
    (found,) = saliency_maps(Patch(), lambda outputs: outputs[:, 0], [picture], [region], ONE)
    assert not found.any()


def test_the_headline_score_is_the_log_odds_of_referable():
    from pipelines.retinopathy.artifacts import _score
    from pipelines.retinopathy.metrics import HEADS, predict_columns
    from pipelines.shared.stats.probabilities import sigmoid

    outputs = torch.randn(50, len(HEADS), dtype=torch.float64)
    referable = predict_columns(sigmoid(outputs.numpy()))["p_referable"].to_numpy()
    odds = np.log(referable / (1 - referable))
    assert np.allclose(_score("referable")(outputs).numpy(), odds)
    moderate = outputs[:, HEADS.index("moderate_or_worse")]
    assert torch.equal(_score("moderate_or_worse")(outputs), moderate)
