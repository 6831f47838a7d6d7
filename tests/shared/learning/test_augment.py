"""The largest upright square inside a rotated picture."""

from __future__ import annotations

import albumentations as A
import numpy as np
import pytest

from pipelines.shared.config import AugmentSection
from pipelines.shared.learning import augment
from pipelines.shared.learning.augment import image_augment, inscribed_zoom

NOTHING = {
    "horizontal_flip": 0.0, "vertical_flip": 0.0, "rotate": 0.0, "scale": 0.0, "translate": 0.0, "brightness": 0.0,
    "contrast": 0.0, "saturation": 0.0, "hue": 0.0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("angle", "zoom"), [(0, 1), (45, 2**0.5), (90, 1), (180, 1), (-45, 2**0.5), (30, 0.5 + 0.75**0.5)]
)
def test_how_much_a_rotated_square_must_be_enlarged(angle, zoom):
    assert inscribed_zoom(angle) == pytest.approx(zoom)


def test_no_corner_is_black_and_no_pixel_comes_from_outside():
    augment = image_augment(AugmentSection(**NOTHING | {"rotate": 180.0}), inscribed=True)
    framed = np.full((65, 65, 3), 200, np.uint8)
    framed[26:39, 30:35] = 255
    angles = {augment(framed, seed).tobytes() for seed in range(20)}
    assert len(angles) > 15, "every seed has its own angle"
    for seed in range(40):
        found = augment(framed, seed)
        assert found.shape == framed.shape
        assert found.min() >= 199
        assert found[28:37, 28:37].max() > 250, "the middle stays the middle"
    corners = image_augment(AugmentSection(**NOTHING | {"rotate": 180.0}))(framed, 3)
    assert corners.min() == 0


@pytest.mark.parametrize("view", [{}, {"scale": 0.3}, {"crop_area": 0.9}])
def test_what_turns_into_the_picture_has_the_tone_that_is_asked_for(view):
    settings = AugmentSection(**NOTHING | {"rotate": 180.0} | view)
    grey = np.full((65, 65, 3), 128, np.uint8)
    pictures = [image_augment(settings, outside=128)(grey, seed) for seed in range(10)]
    assert {int(tone) for picture in pictures for tone in (picture.min(), picture.max())} == {128}
    assert min(int(image_augment(settings)(grey, seed).min()) for seed in range(10)) == 0


def test_what_is_seen_lies_inside_the_old_frame():
    """A picture whose values are its coordinates tells where each pixel came from."""
    side = 101
    x, y = np.meshgrid(np.linspace(0, 250, side), np.linspace(0, 250, side))
    picture = np.stack([x, y, np.full_like(x, 77)], axis=2).astype(np.uint8)
    augment = image_augment(AugmentSection(**NOTHING | {"rotate": 180.0, "scale": 0.2}), inscribed=True)
    for seed in range(30):
        found = augment(picture, seed)
        assert found[..., 2].min() == found[..., 2].max() == 77
        corners = found[[0, 0, -1, -1], [0, -1, 0, -1], :2].astype(float)
        sides = np.linalg.norm(corners[[0, 1, 3, 2]] - corners[[1, 3, 2, 0]], axis=1)
        assert sides.max() - sides.min() < 8, "an upright square of the rotated picture is a square of the old one"


def test_the_same_seed_gives_the_same_picture():
    augment = image_augment(AugmentSection(**NOTHING | {"rotate": 90.0, "hue": 0.1, "contrast": 0.2}), inscribed=True)
    picture = np.random.default_rng(0).integers(0, 255, (48, 48, 3), dtype=np.uint8)
    assert (augment(picture, 5) == augment(picture, 5)).all()
    assert (augment(picture, 5) != augment(picture, 6)).any()


EXTRA = {
    "horizontal_flip": 0.5, "vertical_flip": 0.5, "rotate": 45.0, "crop_area": 0.3, "crop_aspect": 1.5, "blur": 0.5,
    "jpeg": 0.5, "erase": 0.5, "operations": 2,
}  # fmt: skip


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("inscribed", [False, True])
def test_every_step_is_a_function_of_the_seed_and_keeps_the_shape(channels, inscribed):
    augment = image_augment(AugmentSection(**NOTHING | EXTRA), inscribed)
    again = image_augment(AugmentSection(**NOTHING | EXTRA), inscribed)
    picture = np.random.default_rng(0).integers(0, 255, (48, 48, channels), dtype=np.uint8)
    changed = [augment(picture, seed) for seed in range(12)]
    assert all(p.shape == picture.shape and p.dtype == np.uint8 for p in changed)
    assert len({p.tobytes() for p in changed}) == 12
    for seed in (7, 3, 11):
        assert (again(picture, seed) == changed[seed]).all()


def coordinates(side: int) -> np.ndarray:
    """A picture whose first two channels say where a pixel lies, from 5 to 250, and whose third is 77."""
    x, y = np.meshgrid(np.linspace(5, 250, side), np.linspace(5, 250, side))
    return np.stack([x, y, np.full_like(x, 77)], axis=2).round().astype(np.uint8)


def test_a_random_part_has_its_area_and_ratio_and_lies_inside():
    augment = image_augment(AugmentSection(**NOTHING | {"crop_area": 0.25, "crop_aspect": 1.5}))
    areas, ratios, middles = [], [], []
    for seed in range(120):
        found = augment(coordinates(101), seed)
        assert found[..., 2].min() == 77
        width, height = (float(np.ptp(found[..., k])) / 245 for k in (0, 1))
        areas.append(width * height)
        ratios.append(width / height)
        middles.append(found[50, 50, 0])
    assert 0.24 < min(areas) < 0.35
    assert 0.85 < max(areas) < 1.01
    assert 1 / 1.55 < min(ratios) < 0.75
    assert 1.3 < max(ratios) < 1.55
    assert np.ptp(middles) > 80


def test_a_turned_part_is_upright_in_its_own_frame_and_never_leaves_the_picture():
    augment = image_augment(AugmentSection(**NOTHING | {"crop_area": 0.5, "rotate": 180.0, "crop_aspect": 1.0}), True)
    for seed in range(40):
        found = augment(coordinates(101), seed)
        assert found[..., 2].min() == found[..., 2].max() == 77, "nothing from outside"
        a, b, c, d = (found[i, k, :2].astype(float) for i, k in ((0, 0), (0, -1), (-1, -1), (-1, 0)))
        sides = [np.linalg.norm(p - q) for p, q in ((a, b), (b, c), (c, d), (d, a))]
        assert max(sides) - min(sides) < 5
        assert abs(np.dot(b - a, d - a)) < 0.05 * max(sides) ** 2, "right angles stay right angles"


@pytest.mark.parametrize(("key", "axis"), [("horizontal_flip", 0), ("vertical_flip", 1)])
def test_a_part_is_mirrored_as_often_as_asked(key, axis):
    augment = image_augment(AugmentSection(**NOTHING | {"crop_area": 0.9, key: 0.25}))
    mirrored = 0
    for seed in range(200):
        found = augment(coordinates(31), seed).astype(int)
        first, last = (found[15, 2, 0], found[15, -2, 0]) if axis == 0 else (found[2, 15, 1], found[-2, 15, 1])
        mirrored += first > last
    assert 30 < mirrored < 70


def test_a_picture_with_nothing_to_change_comes_back_as_it_is():
    picture = coordinates(64)
    for settings in ({}, {"crop_area": 1.0, "crop_aspect": 1.0}):
        assert (image_augment(AugmentSection(**NOTHING | settings))(picture, 3) == picture).all()


def test_a_part_does_not_go_with_scale_or_translation():
    with pytest.raises(
        ValueError, match=r"crop_area=0.3 takes the place of scale=0.1 and translate=0, which must be 0"
    ):
        AugmentSection(**NOTHING | {"crop_area": 0.3, "scale": 0.1})


def test_steps_are_drawn_independently():
    """By a seed, albumentations gives every step the same draws: what is mirrored would always be turned over too."""
    augment = image_augment(AugmentSection(**NOTHING | {"horizontal_flip": 0.5, "vertical_flip": 0.5}))
    picture = np.zeros((8, 8, 3), np.uint8)
    picture[0, 0] = 200
    seen = {(0, 0): 0, (0, 7): 0, (7, 0): 0, (7, 7): 0}
    for seed in range(600):
        row, column = np.argwhere(augment(picture, seed)[..., 0])[0]
        seen[int(row), int(column)] += 1
    assert min(seen.values()) > 110, seen  # of 150, whose standard deviation is 11


def test_how_much_a_picture_is_turned_says_nothing_of_its_contrast():
    augment = image_augment(AugmentSection(**NOTHING | {"rotate": 40.0, "contrast": 0.3}), inscribed=True)
    picture = np.full((65, 65, 3), 100, np.uint8)
    picture[:32] = 50
    drawn = []
    for seed in range(300):
        found = augment(picture, seed)[..., 0].astype(float)
        drawn.append([(found[:, 60].mean() - found[:, 4].mean()) / found.std(), found.std()])
    assert abs(np.corrcoef(np.array(drawn).T)[0, 1]) < 0.2


@pytest.mark.parametrize("channels", [1, 3])
def test_whole_views_are_those_of_albumentations(channels, monkeypatch):
    settings = AugmentSection(**NOTHING | {"rotate": 30.0, "scale": 0.1, "translate": 0.05}, on_device=False)
    picture = np.random.default_rng(0).integers(0, 255, (40, 56, channels), dtype=np.uint8)
    ours = [image_augment(settings, outside=17)(picture, seed) for seed in range(30)]
    monkeypatch.setattr(augment, "WholeView", A.Affine)
    theirs = [image_augment(settings, outside=17)(picture, seed) for seed in range(30)]
    assert all((a == b).all() for a, b in zip(ours, theirs, strict=True))
