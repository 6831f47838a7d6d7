"""The grade as an ordered answer: cumulative links, the expected grade's loss, cut points for kappa, all kept."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import compose

from pipelines.retinopathy.learner import RetinopathyLearner
from pipelines.retinopathy.metrics import HEADS, choose_cut_points, grade_kappa, predict_columns
from pipelines.retinopathy.ordinal import LINKS, CumulativeHead, grade_loss
from pipelines.shared.errors import StatisticsError
from pipelines.shared.learning.losses import masked_binary_cross_entropy

NAN = float("nan")


def targets_of(grades):
    grade = torch.tensor(grades)[:, None]
    heads = torch.where(torch.isnan(grade), NAN, (grade >= torch.arange(1, 5)).float())
    return torch.cat([heads, torch.full((len(grades), 2), NAN)], dim=1)


def test_links_are_one_score_with_a_bias_each():
    torch.manual_seed(0)
    head = CumulativeHead(8, 2)
    logits = head(torch.randn(50, 8))
    assert logits.shape == (50, len(HEADS))
    steps = logits[:, :LINKS].diff(dim=1)
    torch.testing.assert_close(steps, steps[:1].expand(50, -1))
    assert (steps < 0).all(), "mild or worse is more probable than proliferative"
    others = logits[:, LINKS:].diff(dim=1)
    assert others.std() > 0.1, "macular oedema and gradability have weights of their own"


def test_links_learn_an_order_and_stay_ordered():
    torch.manual_seed(0)
    features = torch.randn(400, 3)
    grades = torch.bucketize(features[:, 0] * 2, torch.tensor([-1.0, 0.5, 1.2, 3.0])).float()
    head, wanted = CumulativeHead(3, 2), targets_of(grades.tolist())
    optimizer = torch.optim.Adam(head.parameters(), 0.05)
    for _ in range(200):
        optimizer.zero_grad()
        grade_loss(head(features), wanted, 0.0).backward()
        optimizer.step()
    assert (head.biases.diff() < 0).all()
    cuts = (-(head.linear.bias[0] + head.biases) / head.linear.weight[0, 0]).detach() * 2
    torch.testing.assert_close(cuts, torch.tensor([-1.0, 0.5, 1.2, 3.0]), atol=0.25, rtol=0)


def test_the_expected_grades_loss_is_its_formula():
    logits = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    wanted = targets_of([2.0, 0.0, NAN])
    plain = masked_binary_cross_entropy(logits, wanted)
    assert grade_loss(logits, wanted, 0.0) == plain
    expected = logits[:2, :4].sigmoid().sum(dim=1)
    squared = ((expected - torch.tensor([2.0, 0.0])) ** 2).mean()
    torch.testing.assert_close(grade_loss(logits, wanted, 0.5), plain + 0.5 * squared)
    unknown = targets_of([NAN, NAN])
    assert grade_loss(logits[:2].requires_grad_(), unknown, 1.0) == 0


def test_a_run_without_the_keys_learns_as_before():
    config = compose("retinopathy")
    assert config.loss.grade == "separate"
    assert config.operating_points.grade == "half"
    values = config.model_dump()
    del values["loss"], values["operating_points"]["grade"]
    assert type(config).model_validate(values) == config


def test_links_come_back_from_their_model_json():
    config = compose("retinopathy", "loss.grade=cumulative", "model.backbone=test_efficientnet", "model.weights=none")
    learner = RetinopathyLearner(config)
    torch.manual_seed(0)
    network = learner.build().eval()
    model = json.loads(json.dumps({"architecture": learner.architecture(network)}))
    again = RetinopathyLearner.rebuild(model).eval()
    again.load_state_dict(network.state_dict())
    x = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    with torch.inference_mode():
        assert torch.equal(again(x), network(x))
        assert (network(x)[:, :LINKS].diff(dim=1) < 0).all()
    del model["architecture"]["grade"]  # as of an earlier version
    assert isinstance(RetinopathyLearner.rebuild(model).head, torch.nn.Linear)


def made(n=600, seed=0):
    """Grades as in a screening, and probabilities of heads that are too low for the worse ones."""
    rng = np.random.default_rng(seed)
    grade = rng.choice(5, n, p=[0.5, 0.1, 0.25, 0.08, 0.07]).astype(float)
    latent = grade + rng.normal(0, 0.7, n)
    p = 1 / (1 + np.exp(-(latent[:, None] - np.array([0.6, 1.7, 3.3, 4.2])) * 2))
    return grade, np.concatenate([p, np.full((n, 2), 0.5)], axis=1)


def test_cut_points_raise_kappa_and_change_nothing_but_the_grade():
    grade, p = made()
    cuts = choose_cut_points(grade, p)
    assert cuts == sorted(cuts)
    half, cut = predict_columns(p), predict_columns(p, cuts)
    assert grade_kappa(grade, cut) > grade_kappa(grade, half) + 0.01
    other_grade, other_p = made(seed=1)
    assert grade_kappa(other_grade, predict_columns(other_p, cuts)) > grade_kappa(other_grade, predict_columns(other_p))
    pd.testing.assert_frame_equal(half.drop(columns="grade_predicted"), cut.drop(columns="grade_predicted"))
    probabilities = cut[[f"p_grade_{k}" for k in range(5)]]
    assert (probabilities >= 0).all(axis=None)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)


def test_grades_that_nothing_taught_have_no_cut_point_and_are_not_predicted():
    grade, p = made()
    p[:, 3] = NAN
    cuts = choose_cut_points(grade, p)
    assert cuts[3] is None
    assert None not in cuts[:3]
    assert predict_columns(p, cuts)["grade_predicted"].max() == 3
    p[:, 0] = NAN
    cuts = choose_cut_points(grade, p)
    assert [cut is None for cut in cuts] == [True, False, False, True]
    assert set(predict_columns(p, cuts)["grade_predicted"]) == {1, 2, 3}
    with pytest.raises(StatisticsError, match="no grade"):
        choose_cut_points(grade, np.full((600, 6), NAN))


def test_a_learner_chooses_keeps_and_uses_them():
    grade, p = made()
    records = pd.DataFrame({"id": range(len(grade)), "group": 0, "grade": grade})
    records.loc[:9, "grade"] = NAN
    learner = RetinopathyLearner(compose("retinopathy", "operating_points.grade=kappa"))
    chosen = learner.choose(records, p)
    again = RetinopathyLearner.from_model(learner.config, json.loads(json.dumps({"chosen_on_val": chosen})))
    table = again.table(records, p)
    assert table["grade_predicted"].tolist() == predict_columns(p, chosen["cut_points"])["grade_predicted"].tolist()
    assert learner.choose(records.assign(grade=2.0), p) == {}, "one grade has no cut points"
    assert RetinopathyLearner(compose("retinopathy")).choose(records, p) == {}


@pytest.mark.parametrize("rule", ["half", "kappa"])
def test_kappa_can_be_monitored(rule):
    grade, p = made()
    targets = targets_of(grade.tolist()).numpy()
    outputs = np.log(p / (1 - p))
    learner = RetinopathyLearner(compose("retinopathy", f"operating_points.grade={rule}"))
    cuts = choose_cut_points(grade, p) if rule == "kappa" else None
    found = learner.measure(targets, outputs)["val_kappa"]
    assert found == pytest.approx(grade_kappa(grade, predict_columns(p, cuts)))
    assert np.isnan(learner.measure(targets[grade == 2], outputs[grade == 2])["val_kappa"])


def test_the_report_says_where_the_grade_comes_from():
    from pipelines.retinopathy.sections import _rule

    network = {"chosen_on_val": {"cut_points": [0.51, 1.42, None, None]}}
    assert "0.51, 1.42" in _rule(SimpleNamespace(networks=[network]))
    for networks in ([], [{}], [{"chosen_on_val": {}}]):
        assert "0.5 or above" in _rule(SimpleNamespace(networks=networks))
