"""The fundus disc: found where there is one, and only there; cropped and normalised as described."""

from __future__ import annotations

import os
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import compose
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipelines.retinopathy import fundus
from pipelines.retinopathy.fundus import Circle, find_circle, looks_filtered, prepare, prepare_mask
from pipelines.retinopathy.learner import RetinopathyLearner
from pipelines.shared.errors import BadFile

REAL = Path(os.environ.get("REAL_SAMPLES", Path(__file__).resolve().parents[2].parent / "shared" / "real"))
Bytes = NDArray[np.uint8]


def disc(
    width: int,
    height: int,
    x: float,
    y: float,
    radius: float,
    aspect: float = 1.0,
    inside: tuple[int, int, int] = (190, 90, 50),
    outside: tuple[int, int, int] = (0, 0, 0),
    noise: float = 3.0,
    seed: int = 0,
) -> Bytes:
    """A disc brighter in its middle, with texture and noise."""
    rng = np.random.default_rng(seed)
    row, column = np.mgrid[:height, :width]
    distance = np.hypot(column - x, (row - y) * aspect) / radius
    texture = cv2.GaussianBlur(rng.normal(0, 1, (height, width)), (0, 0), 3) * 40
    picture = np.where(
        (distance <= 1)[..., None],
        np.array(inside) * (1 - 0.3 * distance[..., None] ** 2) + texture[..., None],
        outside,
    )
    return np.clip(picture + rng.normal(0, noise, (height, width, 3)), 0, 255).astype(np.uint8)


def assert_close(found: Circle | None, x: float, y: float, radius: float, aspect: float = 1.0) -> None:
    assert found is not None
    assert np.hypot(found.x - x, (found.y - y) * aspect) < 0.02 * radius
    assert found.radius == pytest.approx(radius, rel=0.02)
    assert found.aspect == pytest.approx(aspect, rel=0.02)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(
    st.integers(220, 900),
    st.floats(0.62, 1.0),
    st.floats(0.36, 0.52),
    st.floats(-0.03, 0.03),
    st.sampled_from([(0, 0, 0), (30, 25, 35), (250, 245, 250), (60, 160, 90)]),
    st.integers(0, 5),
)
def test_find_circle_recovers_a_known_disc(
    width: int, proportion: float, radius: float, shift: float, outside: tuple[int, int, int], seed: int
) -> None:
    # The disc is wider than the picture is high in about half of the examples, and cut by its frame.
    height = round(width * proportion)
    x, y = width / 2 + shift * width, height / 2 - shift * height
    image = disc(width, height, x, y, radius * width, outside=outside, seed=seed)
    assert_close(find_circle(image), x, y, radius * width)


def test_find_circle_in_dark_and_low_contrast_pictures() -> None:
    assert_close(find_circle(disc(500, 400, 250, 200, 180, inside=(26, 12, 8))), 250, 200, 180)
    assert_close(
        find_circle(disc(500, 400, 250, 200, 180, inside=(120, 110, 100), outside=(95, 95, 95))), 250, 200, 180
    )


def test_find_circle_ignores_notch_straight_cuts_and_lettering() -> None:
    image = disc(600, 450, 300, 225, 210)
    image[60:90, 440:470] = (190, 90, 50)  # a notch at the edge
    image[:55] = 0  # cut straight above and below
    image[395:] = 0
    cv2.putText(image, "OD 45", (5, 440), 0, 0.8, (255, 255, 255), 2)
    assert_close(find_circle(image), 300, 225, 210)


def test_find_circle_of_which_only_the_corners_are_cut() -> None:
    assert_close(find_circle(disc(400, 400, 200, 200, 240)), 200, 200, 240)


def test_find_circle_sees_that_a_picture_was_squashed() -> None:
    original = disc(900, 600, 450, 300, 430)
    squashed = cv2.resize(original, (224, 224), interpolation=cv2.INTER_AREA)
    scale = 224 / 900
    found = find_circle(np.asarray(squashed, np.uint8))
    assert_close(found, (450 + 0.5) * scale - 0.5, (300 + 0.5) * 224 / 600 - 0.5, 430 * scale, aspect=600 / 900)
    assert found is not None
    assert found.height_radius == pytest.approx(430 * 224 / 600, rel=0.03)


def test_find_circle_in_a_local_average_filtered_picture() -> None:
    raw = disc(400, 300, 200, 150, 185).astype(np.float32)
    filtered = np.clip(4 * raw - 4 * cv2.GaussianBlur(raw, (0, 0), 6) + 128, 0, 255).astype(np.uint8)
    assert_close(find_circle(filtered), 200, 150, 185)


def page() -> Bytes:
    image = np.full((800, 600, 3), 255, np.uint8)
    for row in range(50, 780, 30):
        cv2.putText(image, "the patient was seen on", (40, row), 0, 1.0, (0, 0, 0), 2)
    return image


RNG = np.random.default_rng(1)
NOT_FUNDUS = {
    "black": np.zeros((300, 300, 3), np.uint8),
    "white": np.full((300, 400, 3), 255, np.uint8),
    "grey": np.full((224, 224, 3), 128, np.uint8),
    "noise": RNG.integers(0, 256, (300, 300, 3), dtype=np.uint8),
    "faint noise": RNG.integers(120, 136, (300, 300, 3), dtype=np.uint8),
    "gradient": np.broadcast_to(np.linspace(0, 255, 300)[:, None], (300, 300))[..., None].repeat(3, 2).astype(np.uint8),
    "rectangle": cv2.rectangle(np.zeros((300, 400, 3), np.uint8), (60, 40), (340, 260), (200, 100, 50), -1),
    "text": page(),
    "one pixel": np.zeros((1, 1, 3), np.uint8),
    "strip": np.full((40, 900, 3), 90, np.uint8),
}


@pytest.mark.parametrize("name", NOT_FUNDUS)
def test_find_circle_finds_nothing_where_there_is_none(name: str) -> None:
    assert find_circle(NOT_FUNDUS[name]) is None


def test_find_circle_is_fast() -> None:
    image = disc(1000, 800, 500, 400, 460)
    find_circle(image)
    seconds = []
    for _ in range(7):
        start = time.process_time()
        find_circle(image)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.05  # about 0.006 on an idle core


def test_prepare_maps_the_disc_onto_the_square() -> None:
    image = np.zeros((300, 400, 3), np.uint8)
    cv2.circle(image, (200, 150), 100, (200, 100, 50), -1)
    cv2.circle(image, (250, 150), 6, (0, 0, 255), -1)  # half a radius to the right
    image[:20] = 255  # far outside the disc
    small = prepare(image, 64, graham=False, circle=Circle(200, 150, 100))
    assert small.shape == (64, 64, 3)
    assert small.dtype == np.uint8
    blue = np.argwhere(small[..., 2] > 150)
    assert blue.mean(axis=0) == pytest.approx([31.5, 31.5 + 16], abs=0.6)
    assert small[0, 0].tolist() == [0, 0, 0]
    assert small[32, 2].tolist() == [200, 100, 50]


def test_prepare_pads_what_the_frame_cut_off_with_black() -> None:
    image = np.full((200, 400, 3), 77, np.uint8)
    small = prepare(image, 100, graham=False, circle=Circle(199.5, 99.5, 200))
    assert (small[:24] == 0).all()
    assert (small[76:] == 0).all()
    assert small[50, 50].tolist() == [77, 77, 77]
    assert small[50, 1].tolist() == [77, 77, 77]


def test_prepare_blackens_what_lies_outside_the_disc() -> None:
    small = prepare(disc(300, 300, 150, 150, 120, outside=(250, 240, 250)), 60, graham=False)
    row, column = np.mgrid[:60, :60]
    outside = np.hypot(row - 29.5, column - 29.5) > 30
    assert (small[outside] == 0).all()


def test_prepare_undoes_the_squashing() -> None:
    image = disc(224, 224, 112, 112, 72, aspect=0.67, noise=0)
    small = prepare(image, 80, graham=False, circle=Circle(112, 112, 72, 0.67))
    row, column = np.mgrid[:80, :80]
    assert (small[np.hypot(row - 39.5, column - 39.5) < 38].max(axis=1) > 60).all()  # no black left inside


def test_prepare_shrinks_without_aliasing() -> None:
    stripes = np.zeros((800, 800, 3), np.uint8)
    stripes[:, ::2] = 200
    small = prepare(stripes, 100, graham=False, circle=Circle(400, 400, 380))
    middle = small[30:70, 30:70].astype(float)
    assert middle.mean() == pytest.approx(100, abs=3)
    assert middle.std() < 12


@pytest.mark.parametrize("circle", [Circle(100, 100, 90), Circle(100, 60, 130), Circle(100, 100, 60, 0.7)])
def test_graham_of_a_constant_image_is_neutral(circle: Circle) -> None:
    constant = np.full((200, 200, 3), (180, 90, 40), np.uint8)
    assert (prepare(constant, 90, graham=True, circle=circle) == 128).all()


def test_graham_is_four_times_the_difference_from_the_local_average() -> None:
    image = disc(300, 300, 149.5, 149.5, 150, noise=8, seed=4)
    circle = Circle(149.5, 149.5, 149.5)  # its box is the whole picture, so that nothing is resampled
    result = prepare(image, 300, graham=True, circle=circle)
    pixels = image.astype(np.float64)
    expected = np.clip(4 * (pixels - cv2.GaussianBlur(pixels, (0, 0), 5)) + 128, 0, 255)
    middle = (slice(100, 200), slice(100, 200))  # far from the edge, where the averages agree
    assert np.abs(result[middle] - expected[middle]).max() <= 1.0
    assert (result[0] == 128).all()


def test_graham_removes_illumination_and_colour() -> None:
    image = disc(300, 300, 150, 150, 145)
    darker = (image * np.linspace(0.4, 1.0, 300)[None, :, None]).astype(np.uint8)
    plain = prepare(darker, 128, graham=False, circle=Circle(150, 150, 145)).astype(float)
    normal = prepare(darker, 128, graham=True, circle=Circle(150, 150, 145)).astype(float)
    left, right = (slice(40, 88), slice(16, 50)), (slice(40, 88), slice(78, 112))
    assert plain[right].mean() - plain[left].mean() > 20
    assert abs(normal[right].mean() - normal[left].mean()) < 3


def test_a_raw_photograph_gets_the_look_of_a_filtered_and_squashed_copy() -> None:
    raw, circle = disc(900, 680, 450, 340, 400, noise=1), Circle(450, 340, 400)
    blurred = cv2.GaussianBlur(raw, (0, 0), 3)  # px of the photograph, whose radius is 400
    copy = np.asarray(cv2.resize(cv2.addWeighted(raw, 4, blurred, -4, 128), (224, 224), interpolation=cv2.INTER_AREA))
    of_copy = Circle((450 + 0.5) * 224 / 900 - 0.5, (340 + 0.5) * 224 / 680 - 0.5, 400 * 224 / 900, aspect=680 / 900)
    known = prepare(copy, 192, graham=False, circle=of_copy, applied=True).astype(float)
    same = prepare(raw, 192, graham=True, circle=circle, sigma=3 / 400).astype(float)
    coarse = prepare(raw, 192, graham=True, circle=circle).astype(float)
    middle = (slice(40, 152), slice(40, 152))
    assert np.corrcoef(known[middle].ravel(), same[middle].ravel())[0, 1] > 0.9
    assert same[middle].std() == pytest.approx(known[middle].std(), rel=0.2)
    assert coarse[middle].std() > 1.5 * known[middle].std()
    for result in (known, same):  # the same grey outside
        assert (result[0] == 128).all()


def test_filtered_pictures_are_known_by_their_corners() -> None:
    raw = disc(400, 300, 200, 150, 140)
    filtered = cv2.addWeighted(raw, 4, cv2.GaussianBlur(raw, (0, 0), 5), -4, 128)
    assert not looks_filtered(raw)
    assert looks_filtered(np.asarray(filtered, np.uint8))


def test_prepare_looks_for_the_circle_and_says_when_there_is_none() -> None:
    image = disc(400, 300, 200, 150, 180)
    circle = find_circle(image)
    assert np.array_equal(prepare(image, 64, False), prepare(image, 64, False, circle))
    with pytest.raises(BadFile, match="no fundus disc"):
        prepare(NOT_FUNDUS["black"], 64, graham=False)


def test_prepare_mask_has_the_geometry_of_prepare() -> None:
    image = np.zeros((300, 400, 3), np.uint8)
    mask = np.zeros((300, 400), np.uint8)
    cv2.circle(image, (240, 110), 14, (255, 255, 255), -1)
    cv2.circle(mask, (240, 110), 14, 255, -1)
    circle = Circle(205, 140, 130, 0.9)
    small, small_mask = prepare(image, 96, False, circle), prepare_mask(mask, circle, 96)
    assert small_mask.shape == (96, 96)
    assert set(np.unique(small_mask)) == {0, 255}
    assert np.array_equal(small_mask > 0, small[..., 0] >= 64)


def test_prepare_mask_keeps_small_lesions() -> None:
    mask = np.zeros((1000, 1000), np.uint8)
    cv2.circle(mask, (500, 500), 6, 255, -1)
    assert prepare_mask(mask, Circle(500, 500, 490), 128).any()


@pytest.mark.parametrize(
    "image", [np.zeros((50, 50), np.uint8), np.zeros((50, 50, 4), np.uint8), np.zeros((50, 50, 3), np.float32)]
)
def test_wrong_arrays_are_named(image: NDArray[np.generic]) -> None:
    with pytest.raises(ValueError, match=r"\(H, W, 3\) of uint8"):
        find_circle(image)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"\(H, W, 3\) of uint8"):
        prepare(image, 32, graham=False)  # type: ignore[arg-type]


def test_impossible_requests_are_named() -> None:
    image = disc(100, 100, 50, 50, 45)
    with pytest.raises(ValueError, match="size"):
        prepare(image, 0, False, Circle(50, 50, 45))
    with pytest.raises(ValueError, match="radius"):
        prepare(image, 32, False, Circle(50, 50, 0))
    with pytest.raises(ValueError, match="radius"):
        prepare(image, 32, False, Circle(50, 50, float("nan")))
    with pytest.raises(ValueError, match="outside the picture"):
        prepare(image, 32, False, Circle(500, 500, 45))
    with pytest.raises(ValueError, match=r"\(H, W\) of uint8"):
        prepare_mask(image, Circle(50, 50, 45), 32)


def test_circle_fit_agrees_with_exact_points() -> None:
    angle = np.linspace(0.2, 2.5, 40)
    for aspect in (1.0, 0.75):
        points = np.stack([310 + 95 * np.cos(angle), 120 + 95 / aspect * np.sin(angle)], axis=1)
        fitted = fundus._solve(points[None], free_aspect=aspect != 1)
        assert fitted[0] == pytest.approx([310, 120, 95, aspect], rel=1e-4)


def read(path: Path) -> Bytes:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    assert image is not None
    return np.ascontiguousarray(image[..., ::-1]).astype(np.uint8)


@pytest.mark.slow
def test_all_real_fundus_photographs_are_found() -> None:
    files = sorted((REAL / "aptos2019" / "train_images").glob("*.png"))
    if not files:
        pytest.skip(f"no real sample in {REAL} (set REAL_SAMPLES)")
    found = {path.stem: find_circle(read(path)) for path in files}
    assert [name for name, circle in found.items() if circle is None] == []
    # Square copies of 1:1, 4:3, 3:2 and 1.4:1 photographs.
    assert all(0.64 < circle.aspect < 1.02 for circle in found.values() if circle)
    assert all(75 < circle.radius < 135 for circle in found.values() if circle)


@pytest.mark.slow
def test_chest_radiographs_have_no_fundus_disc() -> None:
    files = sorted((REAL / "chest_xray" / "train").glob("*/*.jpeg"))
    if not files:
        pytest.skip(f"no real sample in {REAL} (set REAL_SAMPLES)")
    found = [path.stem for path in files[::3] if find_circle(read(path)) is not None]
    assert len(found) <= 1, found


@pytest.mark.parametrize("filtered", [True, False])
def test_what_turns_into_a_photograph_looks_as_around_the_disc(filtered):
    """Where the local average is subtracted: grey. A grey picture then stays one, whatever its tone."""
    config = compose("retinopathy", f"preprocess.local_average={filtered}", "augment.jpeg=0")
    augment = RetinopathyLearner(config).augment()
    pictures = [augment(np.full((64, 64, 3), 128, np.uint8), seed).astype(int) for seed in range(10)]
    assert (max(np.ptp(picture, axis=(0, 1)).max() for picture in pictures) < 3) == filtered
