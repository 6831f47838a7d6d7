from __future__ import annotations

import hashlib
import io
import os
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipelines.shared.data import duplicates
from pipelines.shared.data.duplicates import (
    MAX_DIFFERENCE,
    MAX_DISTANCE,
    REACH,
    WORD,
    candidate_pairs,
    describe,
    near_duplicates,
    perceptual_hash,
    pixel_hash,
    thumbnail,
    thumbnail_difference,
)

SAMPLES = Path(os.environ.get("REAL_SAMPLES", Path(__file__).parents[4] / "shared" / "real"))


def eye(seed: int, size: int = 256) -> np.ndarray:
    """What fundus photographs of one camera share (a bright disc on black, shading) and what they do not (vessels)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    disc = x**2 + y**2 < 0.9**2
    picture = np.full((size, size, 3), [190.0, 95.0, 45.0]) * (1 - 0.35 * (x**2 + y**2))[..., None]
    centre = rng.uniform([60, 110], [90, 150]) * size / 256
    for _ in range(14):
        point, angle = centre.copy(), rng.uniform(0, 2 * np.pi)
        path = [point.copy()]
        for _ in range(60):
            angle += rng.normal(0, 0.12)
            point += np.array([np.cos(angle), np.sin(angle)]) * size / 90
            path.append(point.copy())
        line = np.rint(np.array(path)).astype(np.int32)
        cv2.polylines(picture, [line], False, (110, 35, 20), thickness=int(rng.integers(1, 5)), lineType=cv2.LINE_AA)
    cv2.circle(picture, tuple(np.rint(centre).astype(int).tolist()), size // 14, (250, 220, 140), -1, cv2.LINE_AA)
    return np.where(disc[..., None], np.clip(picture, 0, 255), 0).astype(np.uint8)


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.array(Image.open(buffer))


def scaled(image: np.ndarray, factor: float) -> np.ndarray:
    method = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    return cv2.resize(image, None, fx=factor, fy=factor, interpolation=method)


def levels(image: np.ndarray, gain: float, offset: float) -> np.ndarray:
    return np.clip(image * gain + offset, 0, 255).astype(np.uint8)


def cropped(image: np.ndarray, fraction: float) -> np.ndarray:
    """Without `fraction` of the height at the top and of the width at the right."""
    height, width = image.shape[:2]
    return image[round(height * fraction) :, : width - round(width * fraction)]


COPIES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "the same": lambda image: image.copy(),
    "JPEG 50": lambda image: jpeg(image, 50),
    "JPEG 90": lambda image: jpeg(image, 90),
    "half": lambda image: scaled(image, 0.5),
    "double": lambda image: scaled(image, 2),
    "darker": lambda image: levels(image, 0.75, 0),
    "brighter": lambda image: levels(image, 1.15, 5),
    "less contrast": lambda image: levels(image, 0.7, 30),
    "blurred": lambda image: cv2.GaussianBlur(image, (0, 0), image.shape[1] / 224),
    "cropped 1 %": lambda image: cropped(image, 0.01),
    "cropped 2 %": lambda image: cropped(image, 0.02),
    "all at once": lambda image: jpeg(levels(scaled(cropped(image, 0.015), 0.5), 1.1, 5), 70),
}


def inner(image: np.ndarray) -> np.ndarray:
    """The square inside an eye's disc."""
    top, left = (round(0.2 * side) for side in image.shape[:2])
    return image[top:-top, left:-left]


def described(images: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    return np.stack([perceptual_hash(i) for i in images]), np.stack([thumbnail(i) for i in images])


# --- exact equality ---


def test_pixel_hash_knows_pixels_and_shape() -> None:
    image = eye(0)
    assert pixel_hash(image) == pixel_hash(image.copy())
    assert pixel_hash(image) == pixel_hash(np.asfortranarray(image))
    assert len(pixel_hash(image)) == 64
    changed = image.copy()
    changed[0, 0, 0] ^= 1
    zeros = [np.zeros(shape, np.uint8) for shape in ((4, 6, 3), (6, 4, 3), (2, 12, 3))]
    hashes = [pixel_hash(picture) for picture in (image, changed, image[:, ::-1], *zeros)]
    assert len(set(hashes)) == 6


def test_pixel_hash_is_the_same_on_every_machine() -> None:
    golden = hashlib.sha256(b"((4, 4, 3), '|u1')" + bytes(range(48))).hexdigest()
    assert pixel_hash(np.arange(48, dtype=np.uint8).reshape(4, 4, 3)) == golden


# --- hashes and thumbnails ---


def test_thumbnail() -> None:
    picture = np.zeros((128, 256, 3), np.uint8)
    picture[:, 128:] = (255, 255, 255)
    small = thumbnail(picture)
    assert small.shape == (64, 64)
    assert small.dtype == np.uint8
    assert (small[:, :32] == 0).all()
    assert (small[:, 32:] == 255).all()
    assert thumbnail(picture, side=8).shape == (8, 8)
    fine = np.repeat((np.indices((256, 256)).sum(axis=0) % 2 * 200).astype(np.uint8)[..., None], 3, axis=2)
    assert (thumbnail(fine) == 100).all()  # areas are averaged, not sampled


@pytest.mark.parametrize("image", [np.zeros((9, 9), np.uint8), np.zeros((9, 9, 4), np.uint8), np.zeros((9, 9, 3))])
def test_thumbnail_of_something_else(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match="array"):
        thumbnail(image)


def test_hash_follows_the_cosine_transform() -> None:
    """A single cosine of vertical frequency 3 and horizontal frequency 5 sets the sign of that one coefficient."""
    position = (np.arange(64) + 0.5) / 64 * np.pi
    wave = 128 + 100 * np.outer(np.cos(3 * position), np.cos(5 * position))
    for picture, sign in ((wave, True), (255 - wave, False)):
        grey = np.repeat(np.rint(picture).astype(np.uint8)[..., None], 3, axis=2)
        bits = np.unpackbits(perceptual_hash(grey).view(np.uint8)).reshape(16, 16).astype(bool)
        assert bits[3 - 1, 5 - 1] == sign


def test_hash_shape_and_independence_of_brightness() -> None:
    code = perceptual_hash(eye(1))
    assert code.shape == (4,)
    assert code.dtype == np.uint64
    halved = (eye(1) // 2 * 2, eye(1) // 2 + 60)
    assert np.bitwise_count(perceptual_hash(halved[0]) ^ perceptual_hash(halved[1])).sum() <= 10


def test_hash_of_one_colour_is_none() -> None:
    for value in (0, 77, 255):
        assert not perceptual_hash(np.full((40, 50, 3), value, np.uint8)).any()


# --- candidate pairs ---


def reference_pairs(hashes: np.ndarray, distance: int) -> list[tuple[int, int]]:
    codes = [int.from_bytes(code.tobytes(), "little") for code in hashes]
    count = range(len(codes))
    return [(i, j) for i in count for j in count if i < j and (codes[i] ^ codes[j]).bit_count() <= distance]


@given(
    seed=st.integers(0, 10**6),
    count=st.integers(0, 40),
    flips=st.integers(0, 100),
    distance=st.sampled_from([0, 1, 40, 64, 128, 255, 256]),
)
@settings(max_examples=60, deadline=None)
def test_candidate_pairs_equal_brute_force(seed: int, count: int, flips: int, distance: int) -> None:
    rng = np.random.default_rng(seed)
    base = rng.integers(0, 2, (3, 256))
    bits = base[rng.integers(0, 3, count)] ^ (rng.random((count, 256)) < flips / 256)
    hashes = np.packbits(bits.astype(np.uint8), axis=1).view(np.uint64).reshape(count, 4)
    found = candidate_pairs(hashes, distance)
    assert found.dtype == np.int64
    assert found.shape == (len(found), 2)
    assert [tuple(pair) for pair in found] == reference_pairs(hashes, distance)


def test_candidate_pairs_across_blocks() -> None:
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, (9000, 4), dtype=np.uint64)
    expected = [(0, 8999), (10, 255), (255, 256), (3000, 3001), (4095, 4096), (4351, 8500)]
    for i, j in expected:
        hashes[j] = hashes[i]
        hashes[j, 2] ^= np.uint64(0b1011)
    hashes[256] = hashes[10]  # three of a kind: 10, 255, 256
    found = [tuple(pair) for pair in candidate_pairs(hashes, 6)]
    assert found == sorted([*expected, (10, 256)])


def test_candidate_pairs_opposite_hashes_do_not_overflow() -> None:
    hashes = np.array([[0] * 4, [2**64 - 1] * 4], np.uint64)
    assert len(candidate_pairs(hashes, 255)) == 0
    assert len(candidate_pairs(hashes, 256)) == 1


def test_beyond_the_exact_number_only_near_words_are_candidates() -> None:
    """Copies and strangers: what is found is what all pairs say of those whose third word is near."""
    rng = np.random.default_rng(1)
    base = rng.integers(0, 2, (400, 256))
    copies = base ^ (rng.random((400, 256)) < rng.uniform(0, 0.25, (400, 1)))
    hashes = np.packbits(np.concatenate([base, copies]).astype(np.uint8), axis=1).view(np.uint64).reshape(800, 4)
    whole = candidate_pairs(hashes)
    near = np.bitwise_count(hashes[whole[:, 0], WORD] ^ hashes[whole[:, 1], WORD]) <= REACH
    np.testing.assert_array_equal(candidate_pairs(hashes, exact=799), whole[near])
    assert 300 < near.sum() < len(whole), "copies as poor as these lose some"


@pytest.mark.parametrize("copy", COPIES)
def test_copies_are_found_by_one_word_too(copy: str) -> None:
    images = [eye(seed) for seed in range(12)]
    hashes, _ = described([inner(image) for image in images + [COPIES[copy](image) for image in images]])
    pairs = candidate_pairs(hashes, exact=0)
    assert {(n, n + 12) for n in range(12)} <= {(int(i), int(j)) for i, j in pairs}


@pytest.mark.slow
def test_ten_thousand_hashes_take_seconds() -> None:
    hashes = np.random.default_rng(0).integers(0, 2**64, (10_000, 4), dtype=np.uint64)
    start = time.process_time()
    candidate_pairs(hashes, MAX_DISTANCE)
    assert time.process_time() - start < 5


# --- near-duplicates ---


@pytest.mark.parametrize("copy", COPIES)
def test_copies_are_found_and_nothing_else(copy: str) -> None:
    images = [eye(seed) for seed in range(12)]
    images = [inner(image) for image in images + [COPIES[copy](image) for image in images]]
    found = near_duplicates(*described(images))
    assert list(found.columns) == ["i", "j", "distance", "difference"]
    assert list(zip(found["i"], found["j"], strict=True)) == [(n, n + 12) for n in range(12)]
    assert (found["distance"] <= MAX_DISTANCE).all()
    assert found["difference"].between(0, MAX_DIFFERENCE).all()
    if copy == "the same":
        assert (found["distance"] == 0).all()
        assert (found["difference"] < 1e-4).all()


@pytest.mark.slow
def test_different_eyes_are_told_apart_by_what_is_inside_their_discs() -> None:
    eyes = [eye(seed) for seed in range(60)]
    hashes, thumbnails = described([inner(image) for image in eyes])
    pairs = candidate_pairs(hashes, 256)
    assert len(pairs) == 60 * 59 / 2
    assert thumbnail_difference(thumbnails, pairs).min() > 2 * MAX_DIFFERENCE  # whatever the first step lets through
    assert near_duplicates(hashes, thumbnails).empty
    plain = np.corrcoef(np.stack([thumbnail(image) for image in eyes]).reshape(60, -1).astype(float))
    assert np.median(plain) > 0.9  # what an ordinary correlation of whole frames makes of them


def test_describe_takes_pixels_of_the_picture_and_looks_of_its_content() -> None:
    facts = describe(eye(0), inner(eye(0)))
    assert facts["fingerprint"] == pixel_hash(eye(0))
    np.testing.assert_array_equal(facts["hash"], perceptual_hash(inner(eye(0))))
    np.testing.assert_array_equal(facts["thumbnail"], thumbnail(inner(eye(0))))


def test_difference_is_symmetric_and_within_0_and_1() -> None:
    _, thumbnails = described([eye(0), jpeg(eye(0), 50), eye(1), 255 - eye(0)])
    pairs = np.array([(i, j) for i in range(4) for j in range(4)])
    table = thumbnail_difference(thumbnails, pairs).reshape(4, 4)
    np.testing.assert_allclose(table, table.T, atol=1e-6)
    assert (table >= 0).all()
    assert (table <= 1).all()
    assert table[0, 1] < 0.05 < 0.2 < table[0, 2]


def test_difference_against_least_squares() -> None:
    """The bases and the two directions, against `lstsq` on one pair."""
    first, second = thumbnail(eye(3)), thumbnail(cropped(eye(3), 0.03))
    inner = slice(duplicates.MARGIN, 64 - duplicates.MARGIN, duplicates.STEP)
    axis = np.linspace(-1, 1, 64)

    def explained(target: np.ndarray, other: np.ndarray) -> float:
        a, b = (duplicates._local_structure(t).astype(float) for t in (target, other))
        down, across = np.gradient(b)
        columns = [b, across, across * axis, down, down * axis[:, None], np.ones_like(b)]
        design = np.stack([c[inner, inner].ravel() for c in columns], axis=1)
        y = a[inner, inner].ravel()
        fitted = design @ np.linalg.lstsq(design, y, rcond=None)[0]
        return float(np.corrcoef(y, fitted)[0, 1])

    expected = 1 - min(explained(first, second), explained(second, first))
    assert thumbnail_difference(np.stack([first, second]), np.array([[0, 1]]))[0] == pytest.approx(expected, abs=2e-3)
    assert expected > 0.005


def test_difference_in_tiles_and_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    _, thumbnails = described([eye(seed, size=64) for seed in range(20)])
    pairs = np.random.default_rng(0).integers(0, 20, (150, 2))
    whole = thumbnail_difference(thumbnails, pairs)
    monkeypatch.setattr(duplicates, "TILE", 6)
    monkeypatch.setattr(duplicates, "CHUNK", 4)
    np.testing.assert_allclose(thumbnail_difference(thumbnails, pairs), whole, atol=1e-6)


def test_pictures_without_structure_or_hash_are_left_out() -> None:
    flat = [np.full((64, 64, 3), value, np.uint8) for value in (0, 0, 9)]
    hashes, thumbnails = described([*flat, eye(0, 64), eye(0, 64)])
    found = near_duplicates(hashes, thumbnails)
    assert list(zip(found["i"], found["j"], strict=True)) == [(3, 4)]
    assert (thumbnail_difference(thumbnails, np.array([[0, 1], [0, 3], [3, 0]])) == 1).all()


def test_a_hash_of_zero_is_none() -> None:
    _, thumbnails = described([eye(0), eye(0), eye(1), eye(1)])
    hashes = np.stack([np.zeros(4, np.uint64)] * 2 + [perceptual_hash(eye(1))] * 2)
    found = near_duplicates(hashes, thumbnails)
    assert list(zip(found["i"], found["j"], strict=True)) == [(2, 3)]


def test_nothing_to_compare() -> None:
    for count in (0, 1, 2):
        found = near_duplicates(np.zeros((count, 4), np.uint64), np.zeros((count, 64, 64), np.uint8))
        assert found.empty
        assert list(found.columns) == ["i", "j", "distance", "difference"]
        assert found["i"].dtype == np.int64


def test_hashes_and_thumbnails_must_belong_together() -> None:
    with pytest.raises(ValueError, match="3 hashes"):
        near_duplicates(np.zeros((3, 4), np.uint64), np.zeros((2, 64, 64), np.uint8))


@pytest.mark.slow
def test_twenty_thousand_candidates_take_seconds() -> None:
    rng = np.random.default_rng(0)
    thumbnails = rng.integers(0, 256, (2000, 64, 64), dtype=np.uint8)
    pairs = np.sort(rng.integers(0, 2000, (20_000, 2)), axis=1)
    start = time.process_time()
    difference = thumbnail_difference(thumbnails, pairs)
    assert time.process_time() - start < 10
    same = pairs[:, 0] == pairs[:, 1]
    assert (difference[same] < 1e-4).all()
    assert difference[~same].min() > 0.5


# --- real pictures, where they are at hand ---


def real_images(name: str) -> tuple[list[str], list[np.ndarray]]:
    folder = SAMPLES / name
    if not folder.is_dir():
        pytest.skip(f"the sample of {name} is not here (REAL_SAMPLES)")
    paths = sorted(p for p in folder.rglob("*") if p.suffix in (".png", ".jpg", ".jpeg"))
    return [p.stem for p in paths], [np.array(Image.open(p).convert("RGB")) for p in paths]


def test_aptos_has_four_pairs_all_identical() -> None:
    _, images = real_images("aptos2019")
    found = near_duplicates(*described(images))
    assert len(found) == 4
    assert (found["difference"] < 1e-4).all()
    for i, j in zip(found["i"], found["j"], strict=True):
        assert pixel_hash(images[i]) == pixel_hash(images[j])
    assert len({pixel_hash(image) for image in images}) == 58


@pytest.mark.parametrize("name", ["chest_xray", "covid-chestxray-dataset"])
def test_different_radiographs_are_not_joined(name: str) -> None:
    _, images = real_images(name)
    assert near_duplicates(*described(images)).empty


@pytest.mark.slow
def test_near_duplicates_of_ham10000_are_photographs_of_one_lesion() -> None:
    import pandas as pd

    names, images = real_images("ham10000")
    lesion = pd.read_csv(SAMPLES / "ham10000" / "HAM10000_metadata.csv").set_index("image_id")["lesion_id"]
    found = near_duplicates(*described(images))
    assert len(found) == 6
    for i, j in zip(found["i"], found["j"], strict=True):
        assert lesion[names[i]] == lesion[names[j]]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "least"), [("aptos2019", 0.65), ("chest_xray", 1), ("covid-chestxray-dataset", 0.98)])
@pytest.mark.parametrize("copy", COPIES)
def test_copies_of_real_pictures_are_found(name: str, least: float, copy: str) -> None:
    """With crops at one corner, which are harder than those of which the docstring speaks."""
    _, images = real_images(name)
    count = len(images)
    found = near_duplicates(*described(images + [COPIES[copy](image) for image in images]))
    own = set(zip(found["i"], found["j"], strict=True))
    recall = sum((n, n + count) in own for n in range(count)) / count
    assert recall >= (least if "crop" in copy or "all" in copy else 0.98)
