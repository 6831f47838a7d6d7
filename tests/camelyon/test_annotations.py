"""ASAP files, good and bad."""

from __future__ import annotations

import numpy as np
import pytest
from asap import star, write_asap

from pipelines.camelyon.annotations import Polygon, check_annotation, first_crossing, read_annotation
from pipelines.camelyon.masks import tumour_mask
from pipelines.shared.errors import DataError

SQUARE = np.array([[100, 100], [900, 100], [900, 900], [100, 900]], float)


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
    assert any("a.xml, tie: crosses itself" in note for note in found.notes)
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
