"""The largest upright square inside a rotated picture."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.shared.config import AugmentSection
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
