"""ASAP files, good and bad; polygons against a full-resolution fill; lesions; GeoJSON."""

from __future__ import annotations

import json

import cv2
import numpy as np
import official
import pytest
from asap import random_polygons, star, write_asap
from scipy import ndimage

from pipelines.camelyon.annotations import (
    Annotation,
    Polygon,
    check_annotation,
    first_crossing,
    lesion_map,
    read_annotation,
    tumour_mask,
    windings,
    write_geojson,
)
from pipelines.shared.errors import DataError

SQUARE = np.array([[100, 100], [900, 100], [900, 900], [100, 900]], float)


def annotation(*polygons):
    return Annotation(None, list(polygons))


# --- files ---


def test_an_asap_file_is_read_with_its_groups(tmp_path):
    polygons = [
        Polygon("A", "Tumor", SQUARE + 0.25),
        Polygon("B", "_0", SQUARE + 2000),
        Polygon("C", "_1", SQUARE + 4000),
        Polygon("D", "_2", SQUARE / 2),
        Polygon("E", "Exclusion", SQUARE / 4),
        Polygon("F", "None", SQUARE / 8),
    ]
    found = read_annotation(write_asap(tmp_path / "a.xml", polygons), size=(8000, 8000))
    assert [(p.name, p.group) for p in found.polygons] == [(p.name, p.group) for p in polygons]
    assert [p.name for p in found.tumour] == ["A", "B", "C"]
    for mine, theirs in zip(found.polygons, polygons, strict=True):
        np.testing.assert_array_equal(mine.points, theirs.points)


def test_points_are_in_the_order_of_their_numbers_and_may_have_a_comma(tmp_path):
    file = tmp_path / "a.xml"
    file.write_text(
        '<ASAP_Annotations><Annotations><Annotation Name="A" Type="Polygon" PartOfGroup="Tumor"><Coordinates>'
        '<Coordinate Order="2" X="20,5" Y="30" /><Coordinate Order="0" X="1" Y="2" />'
        '<Coordinate Order="1" X="20" Y="2" /></Coordinates></Annotation></Annotations></ASAP_Annotations>'
    )
    assert read_annotation(file).polygons[0].points.tolist() == [[1, 2], [20, 2], [20.5, 30]]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "is empty"),
        ("<ASAP_Annotations><Annotations>", "is no XML"),
        ("probability,x,y", "is no XML"),
        ("<annotations></annotations>", "is no ASAP annotation: its root is <annotations>"),
        ("<ASAP_Annotations><Annotations></Annotations></ASAP_Annotations>", "holds no annotation"),
    ],
)
def test_what_is_no_annotation_says_so(tmp_path, text, word):
    file = tmp_path / "tumor_001.xml"
    file.write_text(text)
    with pytest.raises(DataError, match=r"tumor_001\.xml") as caught:
        read_annotation(file)
    assert word in caught.value.problem
    assert caught.value.remedy
    with pytest.raises(DataError, match="cannot be read"):
        read_annotation(tmp_path / "absent.xml")


def test_all_problems_of_a_file_are_told_at_once(tmp_path):
    bow_tie = np.array([[0, 0], [500, 500], [500, 0], [0, 500]], float)
    polygons = [
        Polygon("good", "Tumor", SQUARE),
        Polygon("stranger", "Tumour", SQUARE),
        Polygon("line", "Tumor", SQUARE[:2]),
        Polygon("bow tie", "_0", bow_tie),
        Polygon("elsewhere", "Tumor", SQUARE + 50_000),
        Polygon("over the border", "Tumor", SQUARE + 3500),
        Polygon("negative", "Tumor", SQUARE - 2000),
        Polygon("nowhere", "Tumor", SQUARE * np.nan),
    ]
    file = write_asap(tmp_path / "a.xml", polygons)
    with pytest.raises(DataError) as caught:
        read_annotation(file, size=(4000, 4000))
    problem = caught.value.problem
    assert "7 problems" in problem
    for word in (
        "stranger: unknown group 'Tumour', allowed: Tumor, _0, _1, _2, Exclusion, None",
        "line: has 2 points",
        "bow tie: crosses itself near",
        "elsewhere: lies outside the slide of 4000 x 4000 pixels",
        "over the border: reaches far outside",
        "negative: lies outside",
        "nowhere: a coordinate is not finite",
    ):
        assert word in problem
    assert "good" not in problem


def test_slips_of_the_hand_become_notes_where_they_are_allowed(tmp_path):
    bow_tie = np.array([[0, 0], [640, 640], [640, 0], [0, 640]], float)
    file = write_asap(tmp_path / "a.xml", [Polygon("tie", "Tumor", bow_tie), Polygon("dot", "Tumor", SQUARE[:1])])
    found, problems = check_annotation(file, strict=False)
    assert problems == []
    assert len(found.notes) == 2
    assert "a.xml, tie: crosses itself" in found.notes[0]
    assert tumour_mask(found, 64, 640, 640).sum() in range(40, 61)  # half of 100 cells, both wings of the tie
    other = write_asap(tmp_path / "b.xml", [Polygon("there", "Tumor", SQUARE + 50_000)])
    _, problems = check_annotation(other, size=(4000, 4000), strict=False)
    assert "another slide" in problems[0]


def test_crossing_sides_are_found_and_touching_ones_are_not():
    rng = np.random.default_rng(0)
    for _ in range(50):
        assert first_crossing(star(rng, (500, 500), 400)) is None
    assert first_crossing(np.vstack([SQUARE, SQUARE[:1]])) is None  # closed twice
    assert first_crossing(np.repeat(SQUARE, 2, axis=0)) is None
    for _ in range(50):
        points = rng.uniform(0, 1000, (8, 2))
        assert (first_crossing(points) is not None) == crosses(points)
    angle = np.linspace(0, 2 * np.pi, 20_001)[:-1]
    circle = np.column_stack([np.cos(angle), np.sin(angle)]) * 10_000
    assert first_crossing(circle) is None
    circle[[700, 705]] = circle[[705, 700]]
    where = first_crossing(circle)
    assert np.abs(where - circle[702]).max() < 20


def crosses(points):
    """Every side with every other."""

    def turn(a, b, c):
        return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])

    sides = list(zip(points, np.roll(points, -1, axis=0), strict=True))
    return any(
        turn(a, b, c) * turn(a, b, d) < 0 and turn(c, d, a) * turn(c, d, b) < 0
        for k, (a, b) in enumerate(sides)
        for c, d in sides[k + 1 :]
    )


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


# --- GeoJSON ---


def test_geojson_holds_closed_rings_points_and_classes(tmp_path):
    import pandas as pd

    detections = pd.DataFrame({"probability": [0.9], "x": [10], "y": [20]})
    regions = [[SQUARE, SQUARE / 2 + 250]]
    write_geojson(tmp_path / "a.geojson", [Polygon("A 1", "Tumor", SQUARE)], regions, detections)
    content = json.loads((tmp_path / "a.geojson").read_text())
    assert content["type"] == "FeatureCollection"
    kinds = [f["geometry"]["type"] for f in content["features"]]
    assert kinds == ["Polygon", "Polygon", "Point"]
    for feature in content["features"]:
        assert feature["type"] == "Feature"
        assert feature["properties"]["objectType"] == "annotation"
        assert feature["properties"]["classification"]["name"] in ("Tumor", "Detection")
    for ring in content["features"][1]["geometry"]["coordinates"]:
        assert ring[0] == ring[-1]
        assert len(ring) == 5
    assert content["features"][2]["geometry"]["coordinates"] == [10, 20]
    assert content["features"][2]["properties"]["measurements"] == {"Probability": 0.9}
    write_geojson(tmp_path / "b.geojson")
    assert json.loads((tmp_path / "b.geojson").read_text())["features"] == []
