"""FLANNEL, its focal loss, the base learners."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import compose
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from pipelines.covid_flannel.config import CLASSES
from pipelines.covid_flannel.flannel import (
    ConstantWeights,
    Flannel,
    class_weights,
    combine,
    fit_combination,
    focal_loss,
    vote,
    weights_of,
)
from pipelines.covid_flannel.learner import BaseLearner
from pipelines.covid_flannel.sections import bound


def draw(rows: int, learners: int = 5, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.full(4, 0.5), (rows, learners))


@given(st.integers(0, 10_000), st.floats(0, 10))
@settings(max_examples=40, deadline=None)
def test_the_focal_loss_is_its_formula(seed, gamma):
    rng = np.random.default_rng(seed)
    logits, truth, alpha = rng.normal(0, 3, (7, 4)), rng.integers(0, 4, 7), rng.uniform(0.1, 5, 4)
    total = 0.0
    for row, m in zip(logits, truth, strict=True):
        p = np.exp(row[m]) / np.exp(row).sum()
        total += -alpha[m] * (1 - p) ** gamma * np.log(p)
    found = focal_loss(torch.tensor(logits), torch.tensor(truth), gamma, torch.tensor(alpha))
    assert float(found) == pytest.approx(total / 7, rel=1e-9)


def test_the_focal_loss_without_focus_is_cross_entropy():
    logits, truth = torch.randn(9, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0, 1, 2, 3, 0])
    plain = focal_loss(logits, truth, 0.0, torch.ones(4, dtype=torch.float64))
    assert float(plain) == pytest.approx(float(cross_entropy(logits, truth)), rel=1e-12)


def test_its_gradient_stays_finite_where_a_picture_is_certain():
    logits = torch.tensor([[60.0, -60.0, 0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    for truth in (0, 1):
        value = focal_loss(logits, torch.tensor([truth]), 0.5, torch.ones(4, dtype=torch.float64))
        (gradient,) = torch.autograd.grad(value, logits)
        assert torch.isfinite(gradient).all()


def test_classes_weigh_inversely_to_their_frequency():
    alpha = class_weights(np.array([0, 1, 1, 1, 3, 3]), 4, True).numpy()
    assert alpha[2] == 0
    assert alpha[0] / alpha[1] == pytest.approx(3)
    assert alpha[[0, 1, 1, 1, 3, 3]].mean() == pytest.approx(1)
    assert (class_weights(np.array([0, 1]), 4, False).numpy() == 1).all()


def test_flannel_is_the_outer_product_through_one_layer():
    p = draw(3)
    network = Flannel(5, 4, "tanh").double()
    weight, bias = network.linear.weight.detach().numpy(), network.linear.bias.detach().numpy()
    found = combine(network, p)
    for row in range(3):
        f = p[row].ravel()
        w = np.tanh(weight @ np.outer(f, f).ravel() + bias)
        logits = (w[:, None] * p[row]).sum(axis=0)
        assert found[row] == pytest.approx(np.exp(logits) / np.exp(logits).sum(), rel=1e-12)


def test_a_picture_is_answered_the_same_whoever_is_beside_it():
    p, network = draw(64), Flannel(5, 4)
    for answer in (combine, weights_of):
        assert (answer(network, p) == np.concatenate([answer(network, p[[row]]) for row in range(64)])).all()
    assert network.linear.weight.dtype == torch.float32  # the network itself is left as it is: others may be asking it


@given(st.integers(0, 10_000), st.floats(0.1, 1000))
@settings(max_examples=40, deadline=None)
def test_softmax_weights_never_exceed_the_bound(seed, scale):
    """e / (e + 3): the sum is a mean of probabilities, at most 1, and goes through a second softmax."""
    torch.manual_seed(seed)
    network = Flannel(5, 4, "softmax").double()
    with torch.no_grad():
        network.linear.weight.mul_(scale)
    p = np.concatenate([draw(20, seed=seed), np.tile(np.eye(4)[0], (1, 5, 1))])
    found = combine(network, p)
    assert found.max() <= bound(4) + 1e-12
    assert found[-1, 0] == pytest.approx(bound(4))  # all learners certain: reached, not exceeded
    assert bound(4) == pytest.approx(0.475, abs=5e-4)


def test_tanh_weights_may_exceed_it():
    network = Flannel(5, 4, "tanh").double()
    with torch.no_grad():
        network.linear.bias.fill_(10.0)
    assert combine(network, np.tile(np.eye(4)[0], (1, 5, 1))).max() > 0.9


@pytest.mark.slow
def test_stage_two_learns_whom_to_trust():
    """One learner knows, the others guess: FLANNEL and constant weights find it, voting cannot."""
    config = compose("covid_flannel").ensemble
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 4, 400)
    p = rng.dirichlet(np.ones(4), (400, 5))
    p[:, 2] = 0.7 * np.eye(4)[truth] + 0.3 * p[:, 2]
    for start in (Flannel(5, 4, "tanh"), Flannel(5, 4, "softmax"), ConstantWeights(5)):
        trained = fit_combination(start, p[:300], truth[:300], config, 0)
        assert (combine(trained, p[300:]).argmax(axis=1) == truth[300:]).mean() > 0.9
    assert (vote(p[300:]).argmax(axis=1) == truth[300:]).mean() < 0.8


def test_stage_two_is_the_same_each_time():
    config = compose("covid_flannel", "ensemble.epochs=3").ensemble
    p, truth, found = draw(60), np.arange(60) % 4, []
    for _ in range(2):
        torch.manual_seed(0)
        found.append(combine(fit_combination(Flannel(5, 4), p, truth, config, 7), p))
    assert (found[0] == found[1]).all()


def test_ties_of_a_vote_go_to_the_higher_mean():
    p = np.array([[[0.6, 0.4, 0, 0], [0.45, 0.55, 0, 0]]])
    assert vote(p).argmax() == 0
    assert vote(p).sum() == pytest.approx(1)


def test_a_learner_sees_the_middle_and_learns_from_random_squares():
    config = compose("covid_flannel", "preprocess.size=80", "base_learners.mobilenet.resize=72")
    learner = config.base_learners["mobilenet"]
    network = BaseLearner(config, learner).build().eval()
    picture = np.random.default_rng(0).integers(0, 255, (80, 80, 1)).astype(np.uint8)
    steps = BaseLearner(config, learner).augment()
    squares = [steps(picture, seed) for seed in (1, 1, 2)]
    assert squares[0].shape == (64, 64, 1)
    assert (squares[0] == squares[1]).all()
    assert (squares[0] != squares[2]).any()
    changed = picture.copy()
    changed[:2] = 0  # beyond the middle 64 of 72
    with torch.inference_mode():
        outputs = [network(torch.from_numpy(x)[None]) for x in (picture, changed)]
    assert outputs[0].shape == (1, len(CLASSES))
    assert torch.equal(*outputs)
    rebuilt = BaseLearner.rebuild({"architecture": BaseLearner(config).architecture(network)})
    rebuilt.load_state_dict(network.state_dict())
    with torch.inference_mode():
        assert torch.equal(rebuilt.eval()(torch.from_numpy(picture)[None]), outputs[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["inception_v3", "vgg19_bn", "resnext101", "resnet152", "densenet161"])
def test_the_papers_five_take_a_batch_and_their_heads_learn(name):
    config = compose("covid_flannel", "experiment=qiao2020", f"base_learners.{name}.weights=none")
    assert list(config.base_learners) == ["inception_v3", "vgg19_bn", "resnext101", "resnet152", "densenet161"]
    learner = config.base_learners[name]
    network = BaseLearner(config, learner).build().train()
    network.network.requires_grad_(False)  # timm's own, whose gradients take long
    network.network.head.requires_grad_(True)
    loss, steps = BaseLearner(config).loss(), BaseLearner(config, learner).augment()
    side = config.preprocess.size
    pictures = np.random.default_rng(0).integers(0, 255, (2, side, side, 1)).astype(np.uint8)
    batch = torch.from_numpy(np.stack([steps(p, i) for i, p in enumerate(pictures)]))
    assert batch.shape == (2, learner.crop, learner.crop, 1)
    optimizer = torch.optim.Adam(network.network.head.parameters(), config.trainer.learning_rate)
    before = network.network.head.weight.detach().clone()
    value = loss(network(batch), torch.tensor([0.0, 2.0]))
    value.backward()
    optimizer.step()
    assert torch.isfinite(value)
    assert not torch.equal(before, network.network.head.weight)
