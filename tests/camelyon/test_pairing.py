"""Which file belongs to which slide."""

from __future__ import annotations

import pytest

from pipelines.camelyon.pairing import pair, slide_key
from pipelines.shared.files import output_name


def test_names_differ_in_case_folder_and_suffix():
    names = ["Test_001.tif", "test_001", "images/TEST_001.TIFF", "c:\\slides\\test_001.svs", "test_001.tif.csv"]
    assert {slide_key(n) for n in names} == {"test_001"}
    assert slide_key("2024.01.15.tif") == "2024.01.15"
    assert slide_key("患者/切片一.svs") == "切片一"


@pytest.mark.parametrize(
    ("slides", "files", "expected"),
    [
        (["A.tif", "b.svs"], ["old/a.xml", "B.xml"], {"A.tif": "old/a.xml", "b.svs": "B.xml"}),
        # Folders decide where names recur, however deep they lie.
        (["p1/s.tif", "p3/s.tif"], ["p1/s.xml", "p3/s.xml"], {"p1/s.tif": "p1/s.xml", "p3/s.tif": "p3/s.xml"}),
        (["a/p1/s.tif", "a/p3/s.tif"], ["P1/s.xml"], {"a/p1/s.tif": "P1/s.xml"}),
        (["p1/s.tif", "p3/s.tif"], ["x/p3/s.xml", "x/p1/s.xml"], {"p1/s.tif": "x/p1/s.xml", "p3/s.tif": "x/p3/s.xml"}),
        # So does the whole file name of a slide, and the name that mode=predict gives to its results.
        (["s.svs", "s.tif"], ["s.svs.xml", "s.tif.xml"], {"s.svs": "s.svs.xml", "s.tif": "s.tif.xml"}),
        (["p1/s.tif", "p2/s.tif"], [output_name("p2/s.tif") + ".csv"], {"p2/s.tif": output_name("p2/s.tif") + ".csv"}),
    ],
)
def test_files_meet_their_slides(slides, files, expected):
    found = pair(slides, files)
    assert found.problems == []
    assert found.files == expected


@pytest.mark.parametrize(
    ("slides", "files", "text"),
    [
        (["p1/s.tif", "p3/s.tif"], ["s.xml"], "s.xml could belong to p1/s.tif or p3/s.tif"),
        (["s.svs", "s.tif"], ["s.xml"], "s.xml could belong to s.svs or s.tif"),
        (["S.tif", "s.tif"], ["s.xml"], "s.xml could belong to S.tif or s.tif"),
        (["s.tif"], ["a/s.xml", "b/S.xml"], "a/s.xml or b/S.xml could belong to s.tif"),
        (["p1/s.tif"], ["a/p1/s.xml", "b/p1/s.xml"], "a/p1/s.xml or b/p1/s.xml could belong to p1/s.tif"),
        (["p1/s.tif", "p3/s.tif"], ["p1/s.xml", "s.xml"], "s.xml could belong to p1/s.tif or p3/s.tif"),
    ],
)
def test_what_could_belong_to_two_is_a_problem_that_names_all(slides, files, text):
    found = pair(slides, files)
    assert [problem for problem, _ in found.problems] == [text]
    assert not set(found.files) & {"p3/s.tif", "s.svs"}


def test_files_of_no_slide_are_strangers():
    found = pair(["p1/s.tif", "t.tif"], ["p1/s.xml", "p2/s.xml", "u.xml", "t.xml"])
    assert found.files == {"p1/s.tif": "p1/s.xml", "t.tif": "t.xml"}
    assert found.problems == []
    assert sorted(found.strangers) == ["p2/s.xml", "u.xml"]
