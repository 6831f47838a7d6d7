"""A logistic head on features that are computed once."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
from conftest import compose
from sklearn.linear_model import LogisticRegression
from torch import nn
from toy_pictures import PictureNetwork

from pipelines.shared.errors import ConfigError, UserError
from pipelines.shared.handover import model_card
from pipelines.shared.learning import frozen
from pipelines.shared.learning.frozen import fit_head
from pipelines.shared.learning.losses import masked_binary_cross_entropy, weighted_cross_entropy

WIDTH = 60
EVEN = partial(weighted_cross_entropy, weights=torch.ones(3))


def clusters(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Features of three overlapping classes, in sixty dimensions of very different size."""
    rng = np.random.default_rng(seed)
    answers = rng.integers(0, 3, n)
    x = rng.normal(size=(n, WIDTH)) + np.eye(WIDTH)[answers] * 2
    return (x * np.logspace(-1, 1, WIDTH) + 3).astype(np.float32), answers.astype(np.float32)


def fitted(loss=EVEN, targets=None, monitor="val_loss", measure=None):
    (x, answers), (x_val, answers_val) = clusters(120, 0), clusters(60, 1)
    network, calls = PictureNetwork(), []
    network.head = nn.Linear(WIDTH, 3)

    def features(without_head: nn.Module):
        calls.append(without_head.head)
        return x, x_val

    def by_loss(outputs: np.ndarray) -> dict[str, float]:
        return {"val_loss": float(EVEN(torch.from_numpy(outputs), torch.from_numpy(answers_val)))}

    targets = answers if targets is None else targets
    rows = fit_head(network, features, targets, loss, measure or by_loss, monitor, "network")
    assert [type(head) for head in calls] == [nn.Identity], "computed once, without the head"
    return network, rows, x, x_val


def test_the_head_is_the_penalised_minimum_and_the_best_penalty_on_val_is_kept():
    network, rows, x, _ = fitted()
    answers = clusters(120, 0)[1]
    best = min(rows, key=lambda row: row["val_loss"])
    assert [row["penalty"] for row in rows if row["best"]][-1] == best["penalty"]
    assert 0 < rows.index(best) < len(rows) - 1, "neither the strongest nor the weakest"
    scaled = (x - x.mean(axis=0)) / x.std(axis=0)
    peer = LogisticRegression(C=1 / (best["penalty"] * len(x)), max_iter=5000, tol=1e-8).fit(scaled, answers)
    with torch.no_grad():
        p = network.head(torch.from_numpy(x)).softmax(dim=1).numpy()
    assert np.allclose(p, peer.predict_proba(scaled), atol=2e-3)


def test_unknown_targets_of_several_heads_are_masked_and_the_backbone_is_untouched():
    torch.manual_seed(0)
    before = {k: v.clone() for k, v in PictureNetwork().backbone.state_dict().items()}
    answers = clusters(120, 0)[1]
    targets = np.eye(3, dtype=np.float32)[answers.astype(int)]
    targets[::2, 1] = np.nan
    torch.manual_seed(0)
    network, rows, x, _ = fitted(masked_binary_cross_entropy, targets)
    assert all(math.isfinite(row["train_loss"]) for row in rows)
    with torch.no_grad():
        right = (network.head(torch.from_numpy(x)).argmax(dim=1).numpy() == answers).mean()
    assert right > 0.7
    assert all(torch.equal(v, before[k]) for k, v in network.backbone.state_dict().items())


def test_it_is_exact():
    first, second = fitted()[0].head.weight, fitted()[0].head.weight
    assert torch.equal(first, second)


def test_what_cannot_be_chosen_is_said():
    with pytest.raises(ConfigError, match="val_auc is not measured"):
        fitted(monitor="val_auc")
    with pytest.raises(UserError, match="never a number"):
        fitted(measure=lambda outputs: {"val_loss": math.nan})
    with pytest.raises(ConfigError, match="no linear head"):
        fit_head(nn.Flatten(), lambda n: (n, n), np.zeros(2), EVEN, lambda o: {}, "val_loss", "network")
    assert sorted(frozen.PENALTIES, reverse=True) == frozen.PENALTIES


@pytest.mark.parametrize(
    ("study", "overrides", "message"),
    [
        ("skin", ["model.weights=none"], "a backbone that has learned nothing sees nothing"),
        ("retinopathy", ["model.networks=3"], "they would be the same"),
        ("skin", ["trainer.sampling=balanced"], "trainer.sampling must be shuffle"),
        ("covid_flannel", [], r"base_learners.resnet.weights=none"),
    ],
)
def test_what_cannot_be_frozen_is_refused_at_once(study, overrides, message):
    with pytest.raises(ConfigError, match=message):
        compose(study, "model.freeze=backbone", *overrides)
    assert compose("covid_flannel", "model.freeze=backbone", "learners=[efficientnet]").model.head_only


def test_reports_and_cards_speak_of_the_penalty_and_not_of_epochs():
    config = compose("skin", "model.freeze=backbone")
    assert config.kept == "penalty"
    assert "frozen backbone" in config.learning
    assert "epoch" not in config.learning
    usual = compose("skin")
    assert usual.kept == "epoch"
    assert f"over {usual.trainer.epochs} epochs" in usual.learning
    network = {"best_epoch": 8, "monitor": {"val_loss": 0.5}}
    assert model_card._kept(network) == "epoch 8 was kept (val_loss 0.5000 on val)"
    assert model_card._kept(network | {"penalty": 0.01}) == "penalty 0.01 was kept (val_loss 0.5000 on val)"
