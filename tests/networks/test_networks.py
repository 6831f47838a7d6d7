"""The table of networks: sizes as published, costs by an independent count, mistakes answered by name."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from torch import nn

from pipelines.networks.command import main
from pipelines.networks.measure import Task, measure, multiply_adds
from pipelines.networks.page import short, write_page
from pipelines.networks.published import PUBLISHED, one_protocol_error
from pipelines.shared.learning.backbones import (
    Architecture,
    ImageNetwork,
    create_backbone,
    expected_scale,
    weights_from,
)
from pipelines.shared.learning.classics import LeNet


@pytest.mark.parametrize(
    ("name", "millions"), [("lenet", 0.06), ("alexnet", 60), ("vgg16", 138), ("vgg19", 144), ("resnet50", 25),
                           ("googlenet", 5), ("inception_v3", 23), ("resnext50_32x4d", 25), ("densenet121", 8)]
)  # fmt: skip
def test_sizes_are_those_that_are_quoted(name, millions):
    with torch.device("meta"):
        network = ImageNetwork(Architecture(name, PUBLISHED[name].classes, 0.0, [0.5] * 3, [0.5] * 3))
    found = sum(p.numel() for p in network.parameters()) / 1e6
    assert PUBLISHED[name].parameters == millions
    assert found == pytest.approx(millions, rel=0.05 if name != "googlenet" else 0.35)  # batch norm came later
    if name == "vgg16":
        assert found * 4e6 / 2**20 == pytest.approx(533, rel=0.02)


def test_multiply_adds_are_counted():
    """By hand: output positions times kernel, layer by layer."""
    network = nn.Sequential(LeNet(), nn.Linear(84, 10))
    expected = 28**2 * 6 * 25 + 10**2 * 16 * 25 * 6 + 400 * 120 + 120 * 84 + 84 * 10
    assert multiply_adds(network, torch.zeros(1, 1, 32, 32)) == expected
    assert multiply_adds(network, torch.zeros(3, 1, 32, 32)) == 3 * expected


@pytest.mark.slow
def test_the_classics_are_backbones():
    for name, width in (("lenet", 84), ("alexnet", 4096), ("googlenet", 1024)):
        backbone = create_backbone(name).eval()
        assert backbone.head_hidden_size == width
        assert backbone(torch.zeros(2, 3, 96, 96)).shape == (2, width)
    assert expected_scale("alexnet")[0] == [0.485, 0.456, 0.406]
    assert expected_scale("googlenet")[0] == [0.5] * 3
    assert weights_from("lenet") is None
    assert "torchvision" in weights_from("alexnet")
    assert weights_from("tf_efficientnet_lite0") == "installed with this project"
    assert weights_from("vgg16").startswith("timm's hub")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["alexnet", "googlenet"])
def test_the_classics_take_torchvisions_own_files(name, tmp_path):
    from torchvision import models

    from pipelines.shared.config import ModelSection
    from pipelines.shared.learning.backbones import build_image_network

    torch.manual_seed(0)
    original = models.get_model(name, weights=None, **({"init_weights": False} if name == "googlenet" else {}))
    torch.save(original.state_dict(), tmp_path / "w.pth")
    section = ModelSection(backbone=name, weights=str(tmp_path / "w.pth"), drop_rate=0.0, networks=1)
    ours = build_image_network(section, 2).backbone.eval()
    original.eval()
    last = "classifier.6" if name == "alexnet" else "fc"
    inputs = {}
    original.get_submodule(last).register_forward_hook(lambda m, i, o: inputs.update(features=i[0]))
    picture = torch.randn(1, 3, 96, 96)
    with torch.inference_mode():
        original(picture)
        assert torch.allclose(ours(picture), inputs["features"], atol=1e-5)


def test_grey_and_colour_give_lenet_the_same():
    network = LeNet().eval()
    grey = torch.rand(1, 1, 64, 64)
    assert torch.allclose(network(grey), network(grey.expand(1, 3, 64, 64)), atol=1e-5)


def test_one_network_is_measured():
    found = measure(Task("lenet", 32, 2, 0.01, "cpu", True, 10))
    assert found["problem"] is None
    assert found["parameters"] == 61_706
    assert found["training_per_s"] > 0
    assert found["inference_per_s"] > 0
    assert found["inference_mb"] <= found["training_mb"] + 1
    small = measure(Task("alexnet", 16, 1, 0.01, "cpu", False, 10))
    assert small["problem"]


def test_published_errors_under_one_protocol():
    errors = [one_protocol_error(n) for n in ("alexnet", "googlenet", "vgg16", "resnet50")]
    assert errors == [20.93, 10.47, 9.62, 7.14]
    assert one_protocol_error("lenet") is None
    assert PUBLISHED["alexnet"].top5_error == 15.3


def test_a_page_also_where_a_network_could_not_be_measured(tmp_path):
    row = {
        "name": "x", "label": "x", "year": None, "size": 16, "batch": 1, "parameters_m": 1.0,
        "quoted_parameters_m": None, "weights_mb": 4.0, "quoted_weights_mb": None, "multiply_adds_g": None,
        "inference_per_s": None, "training_per_s": None, "minutes_per_10000": None, "inference_mb": None,
        "training_mb": None, "imagenet_weights": "none", "published_top5_error": None, "published_how": None,
        "top5_error_one_protocol": None, "problem": "too small a picture",
    }  # fmt: skip
    page = write_page(pd.DataFrame([row]), tmp_path, "cpu").read_text()
    assert "too small a picture" in page


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["resnet5O", "alexnett"], "Did you mean"),
        (["lenet", "--size", "3"], "out of range"),
        (["lenet", "--batch", "0"], "too small"),
        (["lenet", "--device", "tpu"], "unknown"),
    ],
)
def test_mistakes_are_two_lines(arguments, words, capsys, tmp_path):
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--out", str(tmp_path / "out")])
    said = capsys.readouterr().err
    assert stop.value.code == 2
    assert words in said
    assert len(said.strip().splitlines()) == 2
    assert not (tmp_path / "out").exists()


def test_numbers_have_three_digits():
    assert [short(v) for v in (0.000423, 4.089, 61.1, 833.2, 1204.4)] == ["0.000423", "4.09", "61.1", "833", "1,204"]
