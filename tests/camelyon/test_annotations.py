"""ASAP files, good and bad."""

from __future__ import annotations

import shlex

import numpy as np
import pytest
from asap import read_annotation, star, write_asap
from conftest import compose

from pipelines.camelyon import outlines
from pipelines.camelyon.annotations import EMPTY, NO_AREA, Polygon, check_annotation, outlines_of
from pipelines.camelyon.masks import lesion_map, tumour_mask
from pipelines.camelyon.outlines import CROSSING, LONGEST_OUTLINE, SPIKED, first_crossing
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
    assert set(found.kinds) == {CROSSING, NO_AREA}
    assert any("a.xml, tie: crosses itself" in note for note in found.notes)
    assert tumour_mask(found, 64, 640, 640).sum() in range(40, 61)  # half of 100 cells, both wings of the tie
    other = write_asap(tmp_path / "b.xml", [Polygon("there", "Tumor", SQUARE + 50_000)])
    _, problems = check_annotation(other, size=(4000, 4000), strict=False)
    assert "another slide" in problems[0]


def written(file, *parts, head=""):
    """A file of annotations: (name, type, group, coordinates as they stand in the file)."""
    body = ""
    for name, kind, group, points in parts:
        inside = "".join(f'<Coordinate Order="{o}" X="{x}" Y="{y}" />' for o, x, y in points)
        body += (
            f'<Annotation Name="{name}" Type="{kind}" PartOfGroup="{group}"><Coordinates>{inside}</Coordinates>'
            "</Annotation>"
        )
    text = f"{head}<ASAP_Annotations><Annotations>{body}</Annotations></ASAP_Annotations>"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def ordered(points):
    return [(i, x, y) for i, (x, y) in enumerate(np.asarray(points).tolist())]


@pytest.mark.parametrize("strict", [True, False])
def test_an_annotation_without_points_is_passed_over_and_said(tmp_path, strict):
    parts = [("good", "Polygon", "Tumor", ordered(SQUARE)), ("click", "Polygon", "Tumor", [])]
    found, problems = check_annotation(written(tmp_path / "a.xml", *parts), (4000, 4000), strict)
    assert problems == []
    assert [p.name for p in found.polygons] == ["good"]
    assert found.kinds == [EMPTY]
    assert "a.xml, click" in found.notes[0]
    assert len(lesion_map(found).lesions) == 1
    assert [p.name for p in outlines_of(tmp_path / "a.xml").polygons] == ["good"]


def test_groups_without_members_are_of_no_interest(tmp_path):
    file = write_asap(tmp_path / "a.xml", [Polygon("A", "Tumor", SQUARE)])
    more = '<AnnotationGroups><Group Name="necrosis" PartOfGroup="None" Color="#000000" /></AnnotationGroups>'
    file.write_text(file.read_text().replace("</ASAP_Annotations>", more + "</ASAP_Annotations>"))
    assert len(read_annotation(file).polygons) == 1


@pytest.mark.parametrize("kind", ["Dot", "PointSet", "LineMeasurement"])
def test_points_and_lines_are_no_outlines(tmp_path, kind):
    file = written(tmp_path / "a.xml", ("it", kind, "Tumor", ordered(SQUARE)))
    found, problems = check_annotation(file, strict=False)
    assert (found.polygons, problems, found.kinds) == ([], [], [NO_AREA])
    _, problems = check_annotation(file)
    assert f"it: is a {kind}, which surrounds nothing" in problems


def test_groups_of_other_names_are_what_the_configuration_says(tmp_path):
    polygons = [Polygon("A", "metastases", SQUARE), Polygon("B", "fat", SQUARE / 2), Polygon("C", "None", SQUARE / 4)]
    file = write_asap(tmp_path / "a.xml", polygons)
    with pytest.raises(DataError, match=r"unknown group 'metastases'.*'data\.annotation_groups=\{metastases: tumor\}'"):
        read_annotation(file)
    found = read_annotation(file, groups={"metastases": "tumor", "fat": "other", "None": "tumor"})
    assert [p.name for p in found.tumour] == ["A", "C"]
    assert [p.tumour for p in outlines_of(file, {"metastases": "tumor", "fat": "other"}).polygons] == [
        True,
        False,
        False,
    ]


@pytest.mark.parametrize("group", ["metastases", "Tumor cells", "肿瘤", "métastase", "a,b", "x:y", "it's", "1"])
def test_the_key_for_an_unknown_group_can_be_typed_as_it_is_told(tmp_path, group):
    file = write_asap(tmp_path / "a.xml", [Polygon("A", group, SQUARE)])
    _, (problem,) = check_annotation(file)
    (key,) = shlex.split(problem[problem.index("'data.") : problem.index(" (or other)")])
    groups = compose("camelyon", f"++{key}").annotation_groups
    assert groups == {group: "tumor"}
    assert len(read_annotation(file, groups=groups).tumour) == 1


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ('<Coordinate Order="inf" X="1" Y="2" />', "Order of a coordinate is not finite"),
        ('<Coordinate Order="nan" X="1" Y="2" />', "Order of a coordinate is not finite"),
        ('<Coordinate Order="first" X="1" Y="2" />', "no number ('first')"),
        ('<Coordinate Order="9" X="1e300" Y="2" />', "beyond reason (1e+300)"),
        (f'<Coordinate Order="9" X="{"9" * 5000}" Y="2" />', "a coordinate is not finite"),
        ('<Coordinate Order="9" X="1_0" Y="2" />', "no number ('1_0')"),
        ('<Coordinate Order="9" Y="2" />', "missing"),
        ("<a>" * 200_000, "nests more than 100 elements"),
        ("Größe".encode("latin-1"), "is not UTF-8 either (byte"),
    ],
)
def test_what_no_program_writes_is_a_problem_in_words(tmp_path, text, word):
    file = written(tmp_path / "a.xml", ("A", "Polygon", "Tumor", ordered(SQUARE)))
    text = text if isinstance(text, bytes) else text.encode()
    file.write_bytes(file.read_bytes().replace(b"</Coordinates>", text + b"</Coordinates>"))
    with pytest.raises(DataError) as caught:
        read_annotation(file)
    assert word in caught.value.problem
    assert len(caught.value.problem) < 600


@pytest.mark.parametrize(
    "entity", ['<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;&a;">', '<!ENTITY b SYSTEM "file:///etc/hostname">']
)
def test_entities_are_refused_before_they_grow(tmp_path, entity):
    file = written(tmp_path / "a.xml", ("&b;", "Polygon", "Tumor", ordered(SQUARE)), head=f"<!DOCTYPE x [{entity}]>")
    with pytest.raises(DataError, match="declares an entity"):
        read_annotation(file)


@pytest.mark.parametrize(
    ("encoding", "word"),
    [("utf-16", None), ("iso-8859-1", None), ("gb2312", "save it as UTF-8"), ("klingon", "klingon")],
)
def test_an_encoding_is_read_if_the_file_names_it(tmp_path, encoding, word):
    head = f'<?xml version="1.0" encoding="{encoding}"?>'
    file = written(tmp_path / "a.xml", ("x", "Polygon", "Tumor", ordered(SQUARE)), head=head)
    file.write_bytes(file.read_text().encode("utf-16" if encoding == "utf-16" else "ascii"))
    found, problems = check_annotation(file)
    assert [word in p for p in problems] == ([True] if word else [])
    assert (found is None) == bool(word)


def test_a_corner_ten_times_too_far_is_named(tmp_path):
    """It would make a mask of gigabytes, and hundreds of lesions."""
    angle = np.linspace(0, 2 * np.pi, 90, endpoint=False)
    circle = np.column_stack([30_000 + 2000 * np.cos(angle), 40_000 + 1500 * np.sin(angle)])
    for right in (circle, SQUARE * 5 + 9000, SQUARE[:3] * 5 + 9000):
        for corner in (0, 2):
            wrong = right.copy()
            wrong[corner] *= 10
            file = write_asap(tmp_path / "a.xml", [Polygon("A", "Tumor", wrong), Polygon("B", "Tumor", SQUARE + 9000)])
            _, problems = check_annotation(file, strict=False)
            assert len(problems) == 1
            assert f"A: its corner number {corner} (x" in problems[0]
    inside, problems = check_annotation(file, size=(400_000, 400_000), strict=False)  # of a slide so large it may be
    assert (problems, inside.kinds) == ([], [SPIKED])
    _, problems = check_annotation(file, size=(60_000, 60_000), strict=False)
    assert "lies far from all others" in problems[0]


def test_an_outline_far_from_all_others_is_named_where_the_size_is_not_known(tmp_path):
    near = [Polygon("A", "Tumor", SQUARE + 10_000), Polygon("B", "_2", SQUARE + 60_000)]
    file = write_asap(tmp_path / "a.xml", [*near, Polygon("C", "Tumor", SQUARE + np.array([190_000, 12_000]))])
    _, problems = check_annotation(file, strict=False)
    assert len(problems) == 1
    assert problems[0].startswith("C: lies far from all others (31 mm along x, at 0.243 microns per pixel)")
    assert check_annotation(file, size=(200_000, 90_000))[1] == []
    assert check_annotation(file, mpp=0.12, strict=False)[1] == []  # of a finer scan it is near
    # Two sections on one glass, 54 mm long, are no mistake.
    section = [Polygon("A", "Tumor", SQUARE + 40_000), Polygon("B", "Tumor", SQUARE + np.array([40_000, 150_000]))]
    assert check_annotation(write_asap(tmp_path / "b.xml", section), strict=False)[1] == []
    vast = write_asap(tmp_path / "c.xml", [Polygon("V", "Tumor", SQUARE * 400)])
    assert "V: reaches further than any slide" in check_annotation(vast, strict=False)[1][0]


def test_an_outline_of_kilometres_is_refused(tmp_path):
    n = 1 + int(LONGEST_OUTLINE * 1e6 / 0.243 / 20_000)
    comb = np.column_stack([np.arange(n) % 2 * 20_000.0, np.arange(n) * 2.0])
    file = write_asap(tmp_path / "a.xml", [Polygon("A", "Tumor", comb)])
    assert "m long, which no hand draws" in check_annotation(file, strict=False)[1][0]


def test_the_search_for_crossings_has_an_end(tmp_path, monkeypatch):
    """Corners above each other: every side must be compared with every other."""
    monkeypatch.setattr(outlines, "PAIRS", 1000)
    line = np.column_stack([np.full(200, 300.0), np.arange(200.0)])
    with pytest.raises(OverflowError):
        first_crossing(line)
    found, problems = check_annotation(write_asap(tmp_path / "a.xml", [Polygon("A", "Tumor", line)]), strict=False)
    assert (problems, found.kinds) == ([], [outlines.UNSEARCHED])


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
