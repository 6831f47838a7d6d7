"""Backbones: weights are what was asked for or an error, never a silent random start; what is saved loads again."""

from __future__ import annotations

import json

import numpy as np
import pytest
import safetensors.torch
import timm
import torch

from pipelines.shared.config import ModelSection
from pipelines.shared.errors import ConfigError, RunError, WeightsError
from pipelines.shared.learning.backbones import (
    BUNDLED,
    Architecture,
    ImageNetwork,
    _bundled_weights,
    build_image_network,
    weights_from,
)
from pipelines.shared.learning.model_files import load_weights, save_network, update_model
from pipelines.shared.run import read_model


def section(**changes) -> ModelSection:
    return ModelSection(
        **({"backbone": "tf_efficientnet_lite0", "weights": "imagenet", "drop_rate": 0.2, "networks": 1} | changes)
    )


@pytest.mark.slow
def test_the_bundled_weights_know_imagenet():
    """A plain red-yellow picture of noise says little; that features differ from a random start and repeat does."""
    network = build_image_network(section(), 3).eval()
    assert network.mean.flatten().tolist() == pytest.approx([127.5] * 3)
    again, random = build_image_network(section(), 3).eval(), build_image_network(section(weights="none"), 3).eval()
    picture = torch.randint(0, 256, (1, 64, 64, 3), dtype=torch.uint8)
    with torch.inference_mode():
        a, b, c = (n.features(picture) for n in (network, again, random))
    assert a.shape == (1, 1280)
    assert torch.equal(a, b)
    assert not torch.allclose(a, c, atol=1e-3)
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    assert len(model.state_dict()) == len(network.backbone.state_dict()) + 2


@pytest.mark.slow
@pytest.mark.parametrize("size", [0, 1, 2])
def test_the_bundled_weights_meet_pictures_scaled_as_in_their_training(size):
    """The first batch norm's variance, kept from training, is that of real photographs under mean = std = 0.5 alone."""
    from skimage import data

    network = build_image_network(section(backbone=f"tf_efficientnet_lite{size}"), 3).eval()
    photographs = torch.from_numpy(np.stack([data.chelsea()[:300, :400], data.coffee()[:300, :400]]))
    norm = network.backbone.bn1
    with torch.inference_mode():
        maps = network.backbone.conv_stem(network.scale(photographs))
        imagenet = (photographs.permute(0, 3, 1, 2) / 255 - 0.45) / 0.225
        otherwise = network.backbone.conv_stem(imagenet)
    alive = norm.running_var > 1e-3
    ratio, other = (float((m.var(dim=(0, 2, 3)) / norm.running_var)[alive].median()) for m in (maps, otherwise))
    assert 0.5 < ratio < 1.5
    assert other > 2.5


@pytest.mark.slow
def test_the_bundled_weights_know_a_cat_and_an_espresso():
    import timm.data
    from skimage import data

    names = timm.data.ImageNetInfo()
    for size in (1, 2):
        model = timm.create_model(f"tf_efficientnet_lite{size}", pretrained=False).eval()
        model.load_state_dict(_bundled_weights(f"tf_efficientnet_lite{size}"))
        for picture, word in ((data.chelsea(), "Egyptian cat"), (data.coffee(), "espresso")):
            square = torch.from_numpy(picture[:300, 75:375].copy()).permute(2, 0, 1)[None] / 127.5 - 1
            with torch.inference_mode():
                found = int(model(torch.nn.functional.interpolate(square, 240, mode="bilinear"))[0].argmax())
            assert names.index_to_description(found).startswith(word)


def test_a_package_that_is_missing_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(BUNDLED, "tf_efficientnet_lite2", "efficientnet_lite9_pytorch_model")
    with pytest.raises(WeightsError, match="efficientnet_lite9_pytorch_model, which is not installed") as failure:
        build_image_network(section(backbone="tf_efficientnet_lite2"), 3)
    assert "[backbones]" in failure.value.remedy
    assert "not installed" in str(weights_from("tf_efficientnet_lite2"))
    assert build_image_network(section(backbone="tf_efficientnet_lite2", weights="none"), 3).mean[0, 0, 0, 0] == 127.5


def test_scaling_is_that_of_the_weights():
    network = ImageNetwork(Architecture("resnet18", 1, 0.0, [0.5, 0.4, 0.3], [0.2, 0.2, 0.2]))
    picture = torch.full((1, 32, 32, 3), 255, dtype=torch.uint8)
    scaled = network.scale(picture)
    assert scaled.shape == (1, 3, 32, 32)
    assert scaled[0, :, 0, 0].tolist() == pytest.approx([2.5, 3.0, 3.5], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_local_file_is_loaded(tmp_path, suffix):
    torch.manual_seed(0)
    model = timm.create_model("resnet18", pretrained=False)
    file = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": model.state_dict()}, file)
    else:
        safetensors.torch.save_file(model.state_dict(), file)
    network = build_image_network(section(backbone="resnet18", weights=str(file)), 2)
    for key, value in network.backbone.state_dict().items():
        assert torch.equal(value, model.state_dict()[key])


@pytest.mark.slow
def test_what_cannot_be_had_is_an_error(tmp_path, monkeypatch):
    with pytest.raises(WeightsError, match="no such file"):
        build_image_network(section(weights=str(tmp_path / "none.pth")), 1)
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"not weights at all")
    with pytest.raises(WeightsError, match="cannot be read"):
        build_image_network(section(weights=str(broken)), 1)
    foreign = tmp_path / "resnet.pth"
    torch.save(timm.create_model("resnet18", pretrained=False).state_dict(), foreign)
    with pytest.raises(WeightsError, match="does not fit"):
        build_image_network(section(weights=str(foreign)), 1)
    with pytest.raises(ConfigError, match="Did you mean"):
        build_image_network(section(backbone="resnet-18", weights="none"), 1)

    def offline(*_, **__):
        raise OSError("no network here")

    monkeypatch.setattr("pipelines.shared.learning.backbones.timm.create_model", _only_without_weights(offline))
    with pytest.raises(WeightsError, match=r"model\.weights=none"):
        build_image_network(section(backbone="resnet18"), 1)


def _only_without_weights(download):
    original = timm.create_model
    return lambda *a, **k: download() if k.get("pretrained") else original(*a, **k)


def test_no_pickled_code_runs(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"state_dict": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(WeightsError):
        build_image_network(section(backbone="resnet18", weights=str(tmp_path / "evil.pth")), 1)
    assert not (tmp_path / "ran").exists()


def test_saved_networks_load_again_or_say_why_not(tmp_path):
    network = build_image_network(section(weights="none"), 2).eval()
    facts = {"study": "retinopathy", "classes": ["a", "b"], "architecture": network.architecture.to_dict()}
    facts["preprocessing"] = {}
    save_network(tmp_path, network, facts | {"threshold": np.float64(0.5)})
    assert json.loads((tmp_path / "model.json").read_text())["threshold"] == 0.5
    read = read_model(tmp_path, "retinopathy", ["a", "b"])
    again = load_weights(tmp_path, ImageNetwork(Architecture(**read["architecture"]))).eval()
    picture = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    with torch.inference_mode():
        assert torch.equal(network(picture), again(picture))
    update_model(tmp_path, {"operating_points": [1]})
    assert read_model(tmp_path, "retinopathy", ["a", "b"])["operating_points"] == [1]
    with pytest.raises(RunError, match="study 'retinopathy'"):
        read_model(tmp_path, "skin", ["a", "b"])
    with pytest.raises(RunError, match="asks for"):
        read_model(tmp_path, "retinopathy", ["b", "a"])
    with pytest.raises(RunError, match="cannot be loaded"):
        load_weights(tmp_path, ImageNetwork(Architecture("resnet18", 2, 0.0, [0.5] * 3, [0.5] * 3)))
    (tmp_path / "weights.safetensors").unlink()
    with pytest.raises(RunError, match="cannot be loaded"):
        load_weights(tmp_path, again)
    with pytest.raises(RunError, match="is missing"):
        read_model(tmp_path / "nowhere", "retinopathy", [])
