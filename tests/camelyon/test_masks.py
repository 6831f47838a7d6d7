"""Polygons against a full-resolution fill; lesions."""

from __future__ import annotations

import cv2
import numpy as np
import official
import pytest
from asap import random_polygons, star
from scipy import ndimage

from pipelines.camelyon import masks
from pipelines.camelyon.annotations import Annotation, Polygon
from pipelines.camelyon.masks import lesion_map, tumour_mask, windings

SQUARE = np.array([[100, 100], [900, 100], [900, 900], [100, 900]], float)


def annotation(*polygons):
    return Annotation(None, list(polygons))


# --- masks ---


@pytest.mark.parametrize("seed", range(8))
def test_points_inside_are_those_that_a_test_of_each_finds(seed):
    polygons = random_polygons(np.random.default_rng(seed), 3000, 2000)
    found = tumour_mask(annotation(*polygons), 32, 3000, 2000)
    np.testing.assert_array_equal(found, official.full_mask(polygons, 63, 94, 32, offset=16))


def test_what_is_surrounded_twice_is_inside():
    twice = np.vstack([SQUARE, SQUARE])
    assert windings(twice, (10, 10), 100)[5, 5] in (2, -2)
    assert tumour_mask(annotation(Polygon("", "Tumor", twice)), 100, 1000, 1000).sum() == 64
    # Neighbours share a border and no pixel, and leave none out.
    left, right = SQUARE.copy(), SQUARE + np.array([800, 0])
    both = [windings(p, (40, 80), 25) != 0 for p in (left, right)]
    assert not (both[0] & both[1]).any()
    assert (both[0] | both[1]).sum() == 32 * 64


def test_exclusions_are_cut_out_whatever_their_place_in_the_file():
    hole = Polygon("", "_2", SQUARE / 2 + 250)
    for order in ([Polygon("", "_0", SQUARE), hole], [hole, Polygon("", "_0", SQUARE)]):
        mask = tumour_mask(annotation(*order), 10, 1000, 1000)
        assert mask.sum() == 80 * 80 - 40 * 40
        assert not mask[50, 50]


@pytest.mark.parametrize("seed", range(5))
def test_level_5_is_what_a_full_resolution_fill_leaves_of_it(seed):
    """Nearest sampling of a full-resolution mask whose vertices are rounded: only pixels on an outline may differ."""
    width, height = 6000, 4500
    polygons = random_polygons(np.random.default_rng(seed), width, height)
    full = np.zeros((height, width), np.uint8)
    outline = np.zeros((height, width), np.uint8)
    for tumour in (True, False):
        for p in polygons:
            if p.tumour == tumour:
                points = [np.rint(p.points).astype(np.int32)]
                cv2.fillPoly(full, points, 255 if tumour else 0)
                cv2.polylines(outline, points, True, 1, thickness=3)
    halved = full
    for _ in range(5):  # level by level, as a pyramid is made
        halved = halved[::2, ::2]
    ours = official.full_mask(polygons, *halved.shape)
    found = lesion_map(annotation(*polygons), width, height)
    different = (halved > 0) != ours
    assert not (different & (outline[::32, ::32] == 0)).any()
    assert different.mean() < 0.001
    # The lesions themselves: same number, and nearly all pixels.
    theirs = official.evaluation_mask(halved > 0)
    mine = found.whole(*theirs.shape)
    assert len(found.lesions) == theirs.max()
    assert ((mine > 0) != (theirs > 0)).mean() < 0.002


# --- lesions ---


def same_partition(a, b):
    """Whether two label maps are the same but for their numbers."""
    pairs = np.unique(np.column_stack([a.ravel(), b.ravel()]), axis=0)
    return len(pairs) == len(set(pairs[:, 0])) == len(set(pairs[:, 1])) and ((a > 0) == (b > 0)).all()


@pytest.mark.parametrize("seed", range(30))
def test_lesions_are_those_of_the_full_mask(seed):
    rng = np.random.default_rng(1000 + seed)
    width, height = int(rng.integers(2000, 8000)), int(rng.integers(2000, 6000))
    polygons = random_polygons(rng, width, height, most=10)
    labels = official.evaluation_mask(official.full_mask(polygons, -(-height // 32), -(-width // 32)))
    found = lesion_map(annotation(*polygons), width, height)
    mine = found.whole(*labels.shape)
    assert same_partition(mine, labels)
    itc = {int(mine[labels == k][0]) for k in official.isolated_tumour_cells(labels)}
    assert set(found.lesions["label"][found.lesions["itc"]]) == itc
    assert found.lesions["label"].tolist() == list(range(1, labels.max() + 1))
    for row in found.lesions.to_dict("records"):
        cells = np.argwhere(mine == row["label"])
        np.testing.assert_allclose([row["y"], row["x"]], cells.mean(axis=0) * 32)
        assert row["area"] == pytest.approx(len(cells) * (0.243 * 32 / 1000) ** 2)


@pytest.mark.parametrize("seed", range(10))
def test_the_size_of_the_slide_need_not_be_known(seed):
    """Unless a lesion reaches the right or lower border; the left and upper ones are always at 0."""
    polygons = random_polygons(np.random.default_rng(seed), 5000, 4000, most=8)
    end = np.ceil(np.max([p.points.max(axis=0) for p in polygons], axis=0)).astype(int) + 6 * 32
    exact, larger = (lesion_map(annotation(*polygons), *size) for size in (end, end + 100_000))
    unknown = lesion_map(annotation(*polygons))
    for other in (exact, larger):
        assert unknown.lesions.equals(other.lesions)
        shape = (400, 500)
        np.testing.assert_array_equal(unknown.whole(*shape), other.whole(*shape))


def test_distant_lesions_take_no_memory():
    far = [Polygon("", "Tumor", SQUARE + offset) for offset in (0, 90_000, 180_000)]
    found = lesion_map(annotation(*far), 200_000, 200_000)
    assert len(found.tiles) == 3
    assert sum(labels.size for _, _, labels in found.tiles) < 10_000
    assert found.at(np.array([500, 90_500, 45_000]), np.array([500, 90_500, 45_000])).tolist() == [1, 2, 0]


def test_memory_is_bounded_whatever_is_drawn(monkeypatch):
    """In parts as at once: many sides that cross many rows, and a grid of many points."""
    polygons = [Polygon("", "Tumor", star(np.random.default_rng(1), (2500, 2000), 1900, 60)), Polygon("", "_2", SQUARE)]
    once, whole = windings(polygons[0].points, (400, 500), 10), tumour_mask(annotation(*polygons), 10, 5000, 4000)
    monkeypatch.setattr(masks, "CROSSINGS", 97)
    monkeypatch.setattr(masks, "STRIP", 1009)
    np.testing.assert_array_equal(windings(polygons[0].points, (400, 500), 10), once)
    np.testing.assert_array_equal(tumour_mask(annotation(*polygons), 10, 5000, 4000), whole)


def test_detections_beyond_every_slide_lie_on_no_lesion():
    found = lesion_map(annotation(Polygon("", "Tumor", SQUARE)))
    assert found.at(np.array([500, 1e12, -1e12]), np.array([500, 1e12, 500])).tolist() == [1, 0, 0]


def test_lesions_touch_at_a_corner_and_rings_are_filled():
    reach = 75 / (0.243 * 64)
    assert 4.8 < reach < 4.9
    ring = [Polygon("", "Tumor", SQUARE * 4), Polygon("", "Exclusion", SQUARE * 2 + 1000)]
    found = lesion_map(annotation(*ring))
    assert len(found.lesions) == 1
    assert found.at(np.array([2000]), np.array([2000])).tolist() == [1]
    # Two squares whose grown corners meet only diagonally are one lesion, further apart two.
    near = [annotation(Polygon("", "_0", SQUARE), Polygon("", "_0", SQUARE + 800 + 32 * gap)) for gap in range(12)]
    counts = [len(lesion_map(a).lesions) for a in near]
    assert counts[0] == 1
    assert counts[-1] == 2
    assert counts == sorted(counts)


def test_isolated_tumour_cells_are_those_shorter_than_275_microns():
    """A square of n grown pixels has its major axis at 4 sqrt((n^2 - 1) / 12)."""
    for side in range(2, 40):
        found = lesion_map(annotation(Polygon("", "Tumor", SQUARE / 800 * 32 * side + 640)))
        labels = found.whole(120, 120)
        moments = np.argwhere(labels == 1).var(axis=0)
        expected = 4 * np.sqrt(moments.max()) * 0.243 * 32
        assert found.lesions["length"][0] == pytest.approx(expected)
        assert bool(found.lesions["itc"][0]) == (expected < 275)
    coarse = lesion_map(annotation(Polygon("", "Tumor", SQUARE)), mpp=0.5)
    fine = lesion_map(annotation(Polygon("", "Tumor", SQUARE)), mpp=0.25)
    assert coarse.lesions["length"][0] > fine.lesions["length"][0]


def test_outlines_too_small_for_a_pixel_leave_no_lesion():
    found = lesion_map(annotation(Polygon("", "Tumor", SQUARE / 100 + 40)), 5000, 5000)
    assert found.lesions.empty
    assert found.tiles == []
    assert found.at(np.array([40]), np.array([40])).tolist() == [0]
    nothing = lesion_map(annotation(Polygon("", "_2", SQUARE)), 5000, 5000)
    assert nothing.lesions.empty


def test_growth_is_by_euclidean_distance():
    found = lesion_map(annotation(Polygon("", "Tumor", SQUARE / 800 + 63.5 - 0.125 + 320)), 5000, 5000)
    labels = found.whole(40, 40)
    point = np.zeros((40, 40), bool)
    point[12, 12] = True
    expected = ndimage.distance_transform_edt(~point) < 75 / (0.243 * 64)
    np.testing.assert_array_equal(labels > 0, expected)
