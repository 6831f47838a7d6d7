"""ONNX: the same answers as torch for any batch, metadata that say what goes in and out, refusals in words."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
from conftest import toy_prepared
from torch import nn

from pipelines.shared.errors import UserError
from pipelines.shared.handover import exporting
from pipelines.shared.learning.calibration import calibrated
from pipelines.shared.learning.dataset import PreparedDataset
from pipelines.shared.learning.views import MeanOverViews


class Toy(nn.Module):
    """uint8 pictures (batch, 8, 8, 3) -> (batch, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.convolution(pictures.permute(0, 3, 1, 2).float() / 255).mean(dim=(2, 3))


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    torch.manual_seed(0)
    network = exporting.Answering(Toy(), "softmax", np.zeros(4, bool)).eval()
    arrays = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 3), dtype=np.uint8)
    data = PreparedDataset(toy_prepared(arrays), [str(i) for i in range(7)], np.zeros((7, 1)))
    file = tmp_path_factory.mktemp("onnx") / "toy.onnx"
    exporting._write(network, torch.from_numpy(arrays[:2]), {"classes": json.dumps(["ä", "b"])}, file)
    return network, arrays, data, file


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 3, 7])
def test_batches_of_any_size_get_torchs_answers(toy, batch_size):
    network, arrays, data, file = toy
    with torch.inference_mode():
        expected = network(torch.from_numpy(arrays)).numpy()
    answers = exporting.onnx_answers(file, data, batch_size, "")
    assert answers.shape == (7, 4)
    assert np.abs(answers - expected).max() < 1e-6
    assert exporting.onnx_answers(file, data, batch_size, "", records=1).shape == (1, 4)


@pytest.mark.slow
def test_what_nothing_taught_is_no_number_in_the_file_either(toy, tmp_path):
    """Neither an answer nor a difference to torch; the other classes share the whole probability."""
    _, arrays, data, _ = toy
    network = exporting.Answering(Toy(), "softmax", np.array([False, True, False, False])).eval()
    exporting._write(network, torch.from_numpy(arrays[:2]), {}, tmp_path / "toy.onnx")
    answers = exporting.onnx_answers(tmp_path / "toy.onnx", data, 3, "")
    assert np.isnan(answers).any(axis=0).tolist() == [False, True, False, False]
    assert np.nansum(answers, axis=1) == pytest.approx(1, abs=1e-6)
    with torch.inference_mode():
        expected = network(torch.from_numpy(arrays)).numpy()
    assert exporting.largest_difference(answers, expected) < 1e-6
    assert exporting.largest_difference(np.nan_to_num(answers), expected) == np.inf


@pytest.mark.slow
def test_a_file_averages_over_the_same_views_as_torch(toy, tmp_path):
    _, arrays, data, _ = toy
    never = np.array([False, True, False, False])
    network = exporting.Answering(MeanOverViews(Toy(), "mirror_crops", "softmax", never), "softmax", never).eval()
    exporting._write(network, torch.from_numpy(arrays[:2]), {}, tmp_path / "toy.onnx")
    answers = exporting.onnx_answers(tmp_path / "toy.onnx", data, 3, "")
    with torch.inference_mode():
        expected = network(torch.from_numpy(arrays)).numpy()
    assert exporting.largest_difference(answers, expected) < 1e-5
    assert (
        exporting.largest_difference(
            answers, network.activation(network.network.network(torch.from_numpy(arrays))).detach().numpy()
        )
        > 1e-4
    )


@pytest.mark.slow
def test_a_file_is_calibrated_as_torch_is(toy, tmp_path):
    plain, arrays, data, _ = toy
    calibration = {"temperature": 0.25, "prior_strength": 1.5, "log_prior": [-0.1, -3.0, -2.0, -4.0]}
    network = exporting.Answering(calibrated(Toy(), {"calibration": calibration}), "softmax", np.zeros(4, bool)).eval()
    network.network.network.load_state_dict(plain.network.state_dict())
    exporting._write(network, torch.from_numpy(arrays[:2]), {}, tmp_path / "toy.onnx")
    answers = exporting.onnx_answers(tmp_path / "toy.onnx", data, 3, "")
    with torch.inference_mode():
        raw, expected = plain.network(torch.from_numpy(arrays)), network(torch.from_numpy(arrays)).numpy()
    assert exporting.largest_difference(answers, expected) < 1e-6
    shift = torch.tensor([-0.15, -4.5, -3.0, -6.0])
    assert exporting.largest_difference(answers, (4 * raw - shift).softmax(dim=-1).numpy()) < 1e-6


@pytest.mark.slow
def test_metadata_are_in_the_file(toy):
    import onnxruntime

    found = onnxruntime.InferenceSession(str(toy[3])).get_modelmeta().custom_metadata_map
    assert json.loads(found["classes"]) == ["ä", "b"]


def test_packages_that_are_missing_are_named_with_their_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match="onnxruntime") as failure:
        exporting.ONNX.require("mode=export")
    assert "[onnx]" in failure.value.remedy
    assert "onnxscript" not in failure.value.problem
