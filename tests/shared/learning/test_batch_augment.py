"""What a device does to a batch is what albumentations does to its pictures one by one, within rounding."""

from __future__ import annotations

import pickle
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from conftest import toy_prepared

from pipelines.shared.config import AugmentSection
from pipelines.shared.learning.augment import image_augment
from pipelines.shared.learning.batch_augment import shifted_colours
from pipelines.shared.learning.dataset import Loader, OnDevice, PreparedDataset, batch_of

NOTHING = {
    "horizontal_flip": 0.0, "vertical_flip": 0.0, "rotate": 0.0, "scale": 0.0, "translate": 0.0, "brightness": 0.0,
    "contrast": 0.0, "saturation": 0.0, "hue": 0.0,
}  # fmt: skip
FLIPS = {"horizontal_flip": 0.5, "vertical_flip": 0.5}
COLOURS = {"brightness": 0.2, "contrast": 0.2, "saturation": 0.15, "hue": 0.05}


def smooth(count: int, height: int, width: int, channels: int) -> np.ndarray:
    """Pictures whose neighbouring pixels differ by a few tones, as in a photograph."""
    rng = np.random.default_rng(0)
    small = rng.integers(20, 236, (count, 6, 8, channels)).astype(np.float32)
    large = [cv2.resize(p, (width, height), interpolation=cv2.INTER_CUBIC).reshape(height, width, -1) for p in small]
    return np.clip(large, 0, 255).astype(np.uint8)


CASES = [
    (FLIPS, False, 0),
    (FLIPS | {"rotate": 180.0, "scale": 0.1, "translate": 0.05}, False, 0),
    (FLIPS | {"rotate": 180.0, "scale": 0.1}, False, 128),
    (FLIPS | {"rotate": 180.0, "scale": 0.2}, True, 0),
    (FLIPS | {"crop_area": 0.5}, False, 0),
    (FLIPS | {"crop_area": 0.5, "rotate": 90.0}, False, 128),
    (FLIPS | {"crop_area": 0.5, "rotate": 90.0}, True, 0),
    (COLOURS, False, 0),
    ({"saturation": 0.4}, False, 0),
    ({"brightness": 0.5, "contrast": 0.5}, False, 0),
    (FLIPS | {"rotate": 30.0} | COLOURS, False, 0),
]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("keys", "inscribed", "outside"), CASES)
def test_a_batch_is_changed_as_its_pictures_are_one_by_one(keys, inscribed, outside, channels):
    if channels == 1:
        keys = keys | {"saturation": 0.0, "hue": 0.0}
    pictures = smooth(24, 61, 61 if inscribed else 83, channels)
    one_by_one = image_augment(AugmentSection(**NOTHING | keys, on_device=False), inscribed, outside)
    at_once = image_augment(AugmentSection(**NOTHING | keys, on_device=True), inscribed, outside)
    expected = np.stack([one_by_one(picture, seed) for seed, picture in enumerate(pictures)])
    found = changed(at_once, pictures)
    assert found.shape == expected.shape
    apart = np.abs(found.astype(int) - expected)
    coloured = bool(keys.get("hue") or keys.get("saturation"))
    # OpenCV's hue has 180 steps; where the picture ends two interpolations of its border may lie further apart
    assert apart.mean() < (1 if coloured else 0.3), apart.mean()
    assert np.quantile(apart, 0.99) <= (8 if coloured else 2)
    assert expected.std() > 10


def changed(augment: Any, pictures: np.ndarray) -> np.ndarray:
    """Picture k with seed k."""
    assert isinstance(augment, OnDevice)
    begun = [augment.begin(picture, seed) for seed, picture in enumerate(pictures)]
    arrays, drawn = (torch.from_numpy(np.stack(part)) for part in zip(*begun, strict=True))
    return augment.finish(arrays, drawn).numpy()


def test_a_random_square_is_the_same_one():
    keys = FLIPS | {"rotate": 20.0, "scale": 0.1, "brightness": 0.2}
    pictures = smooth(16, 64, 64, 1)
    one_by_one = image_augment(AugmentSection(**NOTHING | keys), side=48)
    at_once = image_augment(AugmentSection(**NOTHING | keys, on_device=True), side=48)
    expected = np.stack([one_by_one(picture, seed) for seed, picture in enumerate(pictures)])
    found = changed(at_once, pictures)
    assert found.shape == expected.shape == (16, 48, 48, 1)
    assert np.abs(found.astype(int) - expected).mean() < 0.3


def test_what_stays_with_the_cores_has_the_draws_that_it_has_without_a_device():
    keys = NOTHING | FLIPS | {"rotate": 40.0, "blur": 0.5, "jpeg": 0.5, "erase": 0.5, "operations": 2}
    pictures = smooth(12, 64, 64, 3)
    augment: Any = image_augment(AugmentSection(**keys, on_device=True))
    whole = image_augment(AugmentSection(**keys))
    still = image_augment(AugmentSection(**keys | {"horizontal_flip": 0.0, "vertical_flip": 0.0, "rotate": 0.0}))
    begun = [augment.begin(picture, seed)[0] for seed, picture in enumerate(pictures)]
    differs = [(b != p).any() for b, p in zip(begun, pictures, strict=True)]
    assert all(differs), "two changes of tone each"
    assert any((b != still(p, seed)).any() for seed, (b, p) in enumerate(zip(begun, pictures, strict=True)))
    again = [augment.begin(picture, seed)[0] for seed, picture in enumerate(pictures)]
    assert all((a == b).all() for a, b in zip(begun, again, strict=True))
    # brightness survives turning: the mean of a picture tells that tones and erasing were drawn alike
    means = [(b.mean(), whole(p, seed).mean()) for seed, (b, p) in enumerate(zip(begun, pictures, strict=True))]
    assert np.corrcoef(np.array(means).T)[0, 1] > 0.5


@pytest.mark.parametrize("pixel", [(0, 0, 0), (255, 255, 255), (90, 90, 90), (200, 40, 40), (40, 200, 40), (9, 8, 250)])
def test_colours_against_opencv(pixel):
    picture = np.full((1, 1, 3), pixel, np.uint8)
    hsv = cv2.cvtColor(picture.astype(np.float32) / 255, cv2.COLOR_RGB2HSV)
    for hue, saturation in [(0, 0), (30, 0), (-75, 0), (0, 40), (120, -60)]:
        shifted = hsv.copy()
        shifted[..., 0] = (hsv[..., 0] + hue) % 360
        if hsv[0, 0, 1] > 0:
            shifted[..., 1] = np.clip(hsv[..., 1] + saturation / 255, 0, 1)
        expected = 255 * cv2.cvtColor(shifted, cv2.COLOR_HSV2RGB)
        tensor = torch.from_numpy(picture.astype(np.float32)).permute(2, 0, 1)[None]
        found = shifted_colours(tensor, torch.full((1, 1, 1), float(hue)), torch.full((1, 1, 1), float(saturation)))
        assert found[0, :, 0, 0].numpy() == pytest.approx(expected[0, 0], abs=0.01)
        half = shifted_colours(tensor.half(), *(torch.full((1, 1, 1), float(n)).half() for n in (hue, saturation)))
        assert half[0, :, 0, 0].numpy() == pytest.approx(expected[0, 0], abs=1.1)


def test_a_dataset_gives_what_the_device_has_finished_and_goes_to_other_processes():
    pictures = smooth(6, 32, 32, 3)
    augment = image_augment(AugmentSection(**NOTHING | FLIPS | {"rotate": 90.0} | COLOURS, on_device=True), True)
    data = PreparedDataset(toy_prepared(pictures), list("abcdef"), np.zeros((6, 1)), augment, seed=3)
    keys = [(1, k, 0) for k in range(6)]
    arrays, targets, positions = batch_of(pickle.loads(pickle.dumps(data)), keys)
    assert arrays.shape == (6, 32, 32, 3)
    assert arrays.dtype == torch.uint8
    assert targets.shape == (6, 1)
    assert positions.tolist() == list(range(6))
    assert (arrays == batch_of(data, keys)[0]).all()
    assert (arrays != batch_of(data, [(2, k, 0) for k in range(6)])[0]).any(), "every epoch is drawn anew"
    alone = [batch_of(data, [key])[0][0] for key in keys]
    assert (arrays == torch.stack(alone)).all(), "the batch does not matter"
    by_workers = list(Loader(data, workers=2)([keys[:4], keys[4:]]))
    assert (arrays == torch.cat([batch for batch, _, _ in by_workers])).all()
    augment = image_augment(AugmentSection(**NOTHING | FLIPS, on_device=True))
    begun, later = augment.begin(pictures[0], 7)
    assert (
        augment(pictures[0], 7) == augment.finish(*(torch.from_numpy(a)[None] for a in (begun, later)))[0].numpy()
    ).all()


def test_unless_it_is_said_only_a_gpu_does_it():
    pictures = smooth(6, 32, 32, 3)
    keys = NOTHING | FLIPS | {"rotate": 90.0}
    data, asked, never = (
        PreparedDataset(toy_prepared(pictures), list("abcdef"), np.zeros((6, 1)), image_augment(AugmentSection(**k)))
        for k in (keys, keys | {"on_device": True}, keys | {"on_device": False})
    )
    cpu, gpu = torch.device("cpu"), torch.device("cuda", 0)
    assert not isinstance(data.on(cpu).augment, OnDevice)
    assert not isinstance(never.on(gpu).augment, OnDevice)
    assert data.on(gpu) is data
    assert asked.on(cpu) is asked
    keyed = [(0, k, 0) for k in range(6)]
    assert (batch_of(data, keyed)[0] == batch_of(never, keyed)[0]).all()
    assert (data.augment(pictures[0], 5) == never.augment(pictures[0], 5)).all()
    (loaded,) = Loader(data)([keyed])
    assert (loaded[0] == batch_of(never, keyed)[0]).all()
