"""Detections from heatmaps, and the challenge's CSV, good and bad."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from asap import read_detections
from scipy import ndimage

from pipelines.camelyon.lesions import (
    component_detections,
    outlines,
    suppressed_detections,
    write_detections,
)
from pipelines.shared.errors import DataError

ORIGIN, STRIDE = (1000.0, 2000.0), 64.0


def rows_of(table):
    return [tuple(row) for row in table[["probability", "x", "y"]].to_numpy().tolist()]


def level0(row, column):
    """The middle of a cell."""
    return ORIGIN[0] + (column + 0.5) * STRIDE, ORIGIN[1] + (row + 0.5) * STRIDE


@pytest.fixture
def heatmap():
    """Two regions above 0.9, one of them a ring; one weaker; cells without tissue."""
    values = np.zeros((30, 40))
    values[2:7, 3:8] = 0.91
    values[4, 5] = 0.2  # the ring's middle
    values[6, 7] = 0.97
    values[7, 8] = 0.93  # touches it at a corner
    values[20, 30:34] = 0.95
    values[10, 10] = 0.6
    values[15:, :5] = np.nan
    return values


def test_components_give_one_detection_each(heatmap):
    found = component_detections(heatmap, ORIGIN, STRIDE)
    assert rows_of(found) == [(0.97, *level0(6, 7)), (0.95, *level0(20, 30))]
    assert len(component_detections(heatmap, ORIGIN, STRIDE, threshold=0.5)) == 3
    assert component_detections(heatmap, ORIGIN, STRIDE, threshold=0.99).empty
    assert component_detections(np.full((3, 3), np.nan), ORIGIN, STRIDE).empty


def test_location_and_score_follow_their_rules(heatmap):
    ring = np.argwhere(ndimage.label(heatmap >= 0.9, np.ones((3, 3)))[0] == 1)
    centre = ring.mean(axis=0)
    rules = {"location": "centroid", "score": "mean"}
    first = rows_of(component_detections(heatmap, ORIGIN, STRIDE, **rules))[-1]
    x, y = level0(*centre)
    assert first == (pytest.approx(heatmap[tuple(ring.T)].mean()), np.floor(x), np.floor(y))
    inside = component_detections(heatmap, ORIGIN, STRIDE, location="inside").iloc[0]
    row, column = (inside["y"] - ORIGIN[1]) // STRIDE, (inside["x"] - ORIGIN[0]) // STRIDE
    assert heatmap[int(row), int(column)] >= 0.9
    distances = ((ring - centre) ** 2).sum(axis=1)
    assert ((np.array([row, column]) - centre) ** 2).sum() == pytest.approx(distances.min())


def literal_suppression(heatmap, radius, stop):
    """Take the highest cell, remove its disc, look again."""
    values = np.nan_to_num(heatmap, nan=0.0).copy()
    rows, columns = np.mgrid[: values.shape[0], : values.shape[1]]
    found = []
    while values.max() > stop:
        r, c = np.unravel_index(values.argmax(), values.shape)
        found.append((float(values[r, c]), *level0(r, c)))
        values[(rows - r) ** 2 + (columns - c) ** 2 <= radius**2] = 0
    return found


@pytest.mark.parametrize("seed", range(10))
def test_suppression_is_the_literal_one(seed):
    rng = np.random.default_rng(seed)
    values = np.clip(ndimage.gaussian_filter(rng.random((60, 80)), 1.5) * 2 - 0.4, 0, 1)
    if seed % 2:
        values = values.round(1)  # ties
    values[rng.random(values.shape) < 0.05] = np.nan
    radius = float(rng.uniform(1, 15))
    found = suppressed_detections(values, ORIGIN, STRIDE, radius=radius, level=6, stop=0.5)
    assert len(found) > 0
    assert rows_of(found) == literal_suppression(values, radius, 0.5)
    # The radius is in pixels of its level, whatever the heatmap's stride.
    assert rows_of(suppressed_detections(values, ORIGIN, STRIDE, radius=radius / 2, level=7)) == rows_of(found)


def test_suppression_stops_at_its_threshold(heatmap):
    assert len(suppressed_detections(heatmap, ORIGIN, STRIDE, radius=2)) >= 4
    assert suppressed_detections(np.full((5, 5), 0.5), ORIGIN, STRIDE).empty
    assert len(suppressed_detections(np.full((5, 5), 0.51), ORIGIN, STRIDE)) == 1


def test_outlines_have_their_holes(heatmap):
    found = outlines(heatmap >= 0.9, ORIGIN, STRIDE)
    assert sorted(len(rings) for rings in found) == [1, 2]
    ring = next(rings for rings in found if len(rings) == 2)
    for r, c, inside in ((3, 4, True), (4, 5, False), (6, 7, True), (7, 8, True), (0, 0, False)):
        assert contains(ring, level0(r, c)) == inside
    assert outlines(np.zeros((4, 4), bool), ORIGIN, STRIDE) == []


def contains(rings, point):
    from matplotlib.path import Path

    return sum(Path(ring).contains_point(point) for ring in rings) % 2 == 1


# --- files ---


def test_what_is_written_is_read_again(tmp_path, heatmap):
    found = component_detections(heatmap, ORIGIN, STRIDE)
    write_detections(tmp_path / "test_001.csv", found)
    assert (tmp_path / "test_001.csv").read_text().splitlines()[0] == "0.97,1480,2416"
    pd.testing.assert_frame_equal(read_detections(tmp_path / "test_001.csv"), found.astype(float))
    far = pd.DataFrame({"probability": [1 / 3], "x": [123_456_789.0], "y": [0.25]})
    write_detections(tmp_path / "far.csv", far)
    pd.testing.assert_frame_equal(read_detections(tmp_path / "far.csv"), far)


def test_an_empty_file_is_a_slide_without_detections(tmp_path):
    write_detections(tmp_path / "a.csv", component_detections(np.zeros((3, 3)), ORIGIN, STRIDE))
    assert (tmp_path / "a.csv").read_text() == ""
    assert read_detections(tmp_path / "a.csv").empty
    (tmp_path / "b.csv").write_text("\n\r\n  \n")
    assert list(read_detections(tmp_path / "b.csv").columns) == ["probability", "x", "y"]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("probability,x,y\n0.9,1,2\n", "line 1: 'probability,x,y' is a header, the format has none"),
        ("0.9,1,2\nhigh,1,2\n", "line 2: 'high,1,2' is not three numbers"),
        ("nan,1,2\n", "line 1: probability nan is not within 0 and 1"),
        ("1.5,1,2\n", "line 1: probability 1.5 is not within 0 and 1"),
        ("-0.1,1,2\n", "probability -0.1"),
        ("0.5,-1,2\n", "line 1: x -1 is no pixel"),
        ("0.5,1,nan\n", "line 1: y nan is no pixel"),
        ("0.5,1,inf\n", "y inf is no pixel"),
        ("0.5,1\n", "line 1: 2 columns, expected 3"),
        ("0.5,1,2,3\n", "line 1: 4 columns, expected 3"),
        ("0.5;1;2\n", "line 1: separated by semicolons, not by commas, expected 3"),
        ('0.5,1,2\n0.9,"1,2\n0.7,x,4\n', "line 2: '0.9,\"1,2' is not three numbers"),
        ('0.5,1,2\n0.9,"1,2\n0.7,x,4\n', "line 3: '0.7,x,4' is not three numbers"),
        ("0.5,1_0,2\n", "is not three numbers"),
        ("0.5,1,1e300\n", "y 1e+300 is no pixel"),
        ("0,5\t1\t2\n", "separated by tabs, not by commas"),
        (b"0.5,1,2\n\xe4,1,2\n", "is no text in UTF-8: invalid continuation byte at byte 8"),
        (b"\xff\xfe\x00\x01", "is no text in UTF-8"),
    ],
)
def test_bad_lines_are_named(tmp_path, text, word):
    file = tmp_path / "test_001.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=r"test_001\.csv") as caught:
        read_detections(file)
    assert word in caught.value.problem


def test_all_bad_lines_are_named_at_once(tmp_path):
    file = tmp_path / "a.csv"
    file.write_text("\ufeff0.5,1,2\r\n2,1,2\r\n0.5,-1,-2\r\n0.5,1\r\n", encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read_detections(file)
    for word in ("4 problems", "line 2: probability 2", "line 3: x -1", "line 3: y -2", "line 4: 2 columns"):
        assert word in caught.value.problem


def test_cells_may_be_quoted_and_blanks_are_no_part_of_them(tmp_path):
    (tmp_path / "a.csv").write_text('"0.5","10","20"\n\u00a0 0.25, 30 ,40\u200b\n,,\n\n', encoding="utf-8")
    assert rows_of(read_detections(tmp_path / "a.csv")) == [(0.5, 10, 20), (0.25, 30, 40)]
