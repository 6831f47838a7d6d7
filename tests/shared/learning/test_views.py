"""Test-time augmentation: which views there are, that probabilities are averaged, and who answers with them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from conftest import compose, study_of
from torch import nn

from pipelines.shared.learning.backbones import Architecture, ImageNetwork
from pipelines.shared.learning.distributed import World
from pipelines.shared.learning.method import first_network, load_network
from pipelines.shared.learning.model_files import save_network
from pipelines.shared.learning.views import MeanOverViews, corners, views
from pipelines.shared.run import Run, read_model
from pipelines.shared.run_folder import RunFolder
from pipelines.shared.stats.probabilities import sigmoid, softmax

CPU = World(0, 1, torch.device("cpu"))
COUNTS = {"mirror": 2, "flips": 4, "mirror_crops": 10, "flips_crops": 20}
LINKS = {"softmax": softmax, "sigmoid": sigmoid}


class Corner(nn.Module):
    """The pixels of the upper left corner as outputs: every view has its own."""

    def forward(self, pictures):
        return pictures[:, 0, 0].float() / 32


def pictures(count=2, height=16, width=24, channels=3):
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(0, 256, (count, height, width, channels), np.uint8))


def test_flips_exchange_left_and_right_and_top_and_bottom():
    x = pictures()
    assert [v.tolist() for v in views(x, "mirror")] == [x.tolist(), x.numpy()[:, :, ::-1].tolist()]
    found = [v.numpy() for v in views(x, "flips")]
    expected = [x.numpy()[:, ::a, ::b] for a, b in ((1, 1), (-1, 1), (1, -1), (-1, -1))]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("test_time", COUNTS)
def test_every_view_has_the_size_of_the_picture(test_time):
    for channels in (1, 3):
        x = pictures(channels=channels)
        found = list(views(x, test_time))
        assert len(found) == COUNTS[test_time]
        assert all(v.shape == x.shape for v in found)


def test_corners_are_enlarged_from_their_own_corner():
    x = torch.zeros(1, 16, 16, 1, dtype=torch.uint8)
    x[0, 0, 0], x[0, 0, 15], x[0, 15, 0], x[0, 15, 15] = 40, 80, 120, 160
    x[0, 8, 8] = 255  # every corner has the middle
    found = [c[0, :, :, 0].numpy() for c in corners(x)]
    places = [(0, 0), (0, 15), (15, 0), (15, 15)]
    for part, place, value in zip(found, places, (40, 80, 120, 160), strict=True):
        assert part[place] == value
        assert sum(part[other] == 0 for other in places) == 3
        assert 100 < part.max() <= 255
    flat = torch.full((1, 16, 16, 3), 77, dtype=torch.uint8)
    assert all(torch.allclose(c, torch.tensor(77.0)) for c in corners(flat)), "values are kept, not scaled"


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("test_time", COUNTS)
def test_probabilities_are_averaged_not_outputs(link, test_time):
    x, network = pictures(5), Corner()
    averaged = MeanOverViews(network, test_time, link, np.zeros(3, bool))
    each = [LINKS[link](network(view).numpy()) for view in views(x, test_time)]
    found = LINKS[link](averaged(x).numpy())
    np.testing.assert_allclose(found, np.mean(each, axis=0), atol=1e-6)
    of_outputs = LINKS[link](np.mean([network(view).numpy() for view in views(x, test_time)], axis=0))
    assert np.abs(found - of_outputs).max() > 0.01


def test_a_class_that_nothing_taught_takes_no_share_in_any_view():
    x, never = pictures(5), np.array([False, True, False])
    averaged = MeanOverViews(Corner(), "flips", "softmax", never)
    each = [softmax(Corner()(view).numpy()[:, [0, 2]]) for view in views(x, "flips")]
    np.testing.assert_allclose(softmax(averaged(x).numpy())[:, [0, 2]], np.mean(each, axis=0), atol=1e-6)


def test_outputs_far_from_zero_stay_numbers():
    class Sure(nn.Module):
        def forward(self, x):
            return x[:, 0, 0, :1].float() - 40

    x = torch.tensor([[[[0], [80]]]], dtype=torch.uint8)  # -40 and, from the mirror image, 40
    found = MeanOverViews(Sure(), "mirror", "sigmoid", np.zeros(1, bool))(x)
    assert found.item() == pytest.approx(0, abs=1e-6)
    same = MeanOverViews(Sure(), "mirror", "sigmoid", np.zeros(1, bool))(x[:, :, :1].expand(-1, -1, 2, -1))
    assert same.item() == pytest.approx(-40, rel=1e-5)


@pytest.mark.parametrize("study", ["retinopathy", "skin", "covid_flannel"])
def test_a_finished_network_answers_with_all_views_and_a_network_in_training_with_one(study):
    config = compose(study, "model.test_time=flips", "model.backbone=test_efficientnet", "model.weights=none")
    kind = study_of(study).method(config).learner
    if study == "covid_flannel":
        section = next(iter(config.base_learners.values()))
        own = section.model_copy(update={"backbone": None, "weights": None})
        learner = kind(config, own)
    else:
        learner = kind.from_model(config, {"classes": ["a/b", "c/d"]})
    torch.manual_seed(0)
    network = learner.build().eval()
    model = json.loads(json.dumps({"architecture": learner.architecture(network), "classes": learner.classes}))
    assert model["architecture"]["test_time"] == "flips"
    again = learner.rebuild(model).eval()
    again.load_state_dict(network.state_dict())
    finished = learner.finished(again, model).eval()
    x = pictures(2, 64, 64, 1 if study == "covid_flannel" else 3)
    with torch.inference_mode():
        turned = [x.flip(axes) if axes else x for axes in ((), (1,), (2,), (1, 2))]
        single = [learner.activation(network(t).numpy()) for t in turned]
        found = learner.activation(finished(x).numpy())
    np.testing.assert_allclose(found, np.mean(single, axis=0), atol=1e-6)
    assert np.abs(found - single[0]).max() > 1e-6


@pytest.mark.parametrize("study", ["retinopathy", "skin"])
def test_saliency_is_of_the_network_that_sees_one_picture(study, tmp_path):
    config = compose(study, "model.test_time=flips", "model.backbone=test_efficientnet", "model.weights=none")
    kind = study_of(study).method(config).learner
    learner = kind.from_model(config, {"classes": ["a/b", "c/d"]})
    network, folder = learner.build(), RunFolder(tmp_path)
    facts = {"study": study, "architecture": learner.architecture(network), "classes": learner.classes}
    save_network(folder.network("network"), network, facts | {"preprocessing": {}})
    run = Run(study_of(study), config, folder, CPU)
    explained = first_network(run, kind)
    assert isinstance(explained, ImageNetwork)
    assert isinstance(load_network(run, learner, folder.network("network")), MeanOverViews)
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in explained.state_dict().items())


def test_a_network_of_an_earlier_version_says_flips_in_its_own_way(tmp_path):
    parts = Architecture("test_efficientnet", 2, 0.0, [0.5] * 3, [0.5] * 3).to_dict()
    del parts["test_time"]
    base = {"schema": 1, "study": "skin", "classes": ["a", "b"], "preprocessing": {}}
    for flips, expected in ((True, "flips"), (False, "none")):
        model = base | {"architecture": parts | {"test_time_flips": flips}}
        (tmp_path / "model.json").write_text(json.dumps(model))
        read = read_model(tmp_path, "skin")
        assert ImageNetwork(Architecture(**read["architecture"])).architecture.test_time == expected
