"""Recordings of one person: lists that fit, and lists that do not."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import compose

from pipelines.ecg.annotations import write_rhythms
from pipelines.ecg.data import SOURCES
from pipelines.ecg.labels import NOTES, Episode
from pipelines.ecg.wfdb_files import write_record
from pipelines.shared.errors import DataError


@pytest.fixture
def database(tmp_path):
    """Four recordings, two of them in a folder of their own."""
    for k, name in enumerate(("a", "b", "more/c", "more/d")):
        stem = tmp_path / "set" / name
        stem.parent.mkdir(parents=True, exist_ok=True)
        write_record(stem, np.random.default_rng(k).integers(-300, 300, 6000), "MLII", 200.0, [])
        write_rhythms(stem, "atr", [Episode(0, 6000, "SINUS")], NOTES, 200)
    return tmp_path / "set"


def groups(database, *more, name="wfdb"):
    records = SOURCES[name](compose("ecg", f"data={name}", f"data.root={database}", *more)).records
    return dict(zip(records["record"], records["group"], strict=True))


def listing(database, text):
    file = database.parent / "patients.csv"
    file.write_text(text, encoding="utf-8")
    return f"data.patients={file}"


def refused(database, *more, name="wfdb"):
    with pytest.raises(DataError) as failure:
        groups(database, *more, name=name)
    return str(failure.value)


def test_names_are_paths_or_bare_names_that_only_one_has(database):
    text = "record,patient,age\na,1,60\nb,1,61\nmore/c,2,62\nd,2,63\n"
    assert groups(database, listing(database, text)) == {"a": "1", "b": "1", "more/c": "2", "more/d": "2"}
    assert groups(database, "data.same_patient=[[a,c]]") == {"a": "a+c", "b": "b", "more/c": "a+c", "more/d": "more/d"}


def test_names_with_a_suffix_are_strangers_and_so_are_the_recordings(database):
    said = refused(database, listing(database, "record,patient\na.hea,1\nb.hea,1\nmore/c.hea,2\nmore/d.hea,2\n"))
    assert "data.patients does not fit" in said
    assert "4 names without a recording: a.hea, b.hea, more/c.hea, more/d.hea" in said
    assert "4 recordings without a name: a, b, more/c, more/d" in said
    assert "without suffix, such as a" in said


def test_half_a_list_is_refused(database):
    said = refused(database, listing(database, "record,patient\na,1\nb,1\n"))
    assert "2 recordings without a name: more/c, more/d" in said
    assert "without a recording" not in said


def test_cells_that_are_empty_make_no_patient(database):
    said = refused(database, listing(database, "record,patient\na,\nb, \nmore/c,1\n,2\n"))
    for part in ("row 2: empty patient", "row 3: empty patient", "row 5: empty record"):
        assert part in said


def test_blanks_around_a_name_make_no_other_patient(database):
    text = "\ufeffrecord , patient\na,P1\nb,P1 \n more/c\u00a0,\u200bP1\nd,P2\n"
    assert groups(database, listing(database, text)) == {"a": "P1", "b": "P1", "more/c": "P1", "more/d": "P2"}


def test_what_does_not_fit_is_left_out_and_named_where_that_is_wanted(database):
    text = "record,patient\na,1\nb,\nc,2\nx,3\n"
    config = compose("ecg", "data=wfdb", f"data.root={database}", listing(database, text), "data.on_bad_row=skip")
    source = SOURCES["wfdb"](config)
    assert source.records["record"].tolist() == ["a", "more/c"]
    assert source.left_out == [
        "patients.csv row 3: empty patient",
        "b: data.patients does not name it",
        "more/d: data.patients does not name it",
        "x: data.patients names it, but there is no such recording",
    ]


def test_a_recording_named_twice_is_refused(database):
    said = refused(database, listing(database, "record,patient\na,1\nb,1\nmore/c,2\nc,3\nd,2\n"))
    assert "1 recordings named twice: more/c" in said


def test_columns_of_the_list_do_not_replace_those_of_the_record_table(database):
    said = refused(database, listing(database, "record,patient,split,path\na,1,test,x\nb,1,,\nc,1,,\nd,1,,\n"))
    assert "has a column split of its own" in said
    assert "has a column path of its own" in said


def test_sets_that_share_a_recording_are_one_person(database):
    found = groups(database, "data.same_patient=[[a,b],[c,d],[b,c]]")
    assert len(set(found.values())) == 1


def test_a_list_and_sets_together(database):
    text = "record,patient\na,1\nb,2\nc,2\nd,3\n"
    found = groups(database, listing(database, text), "data.same_patient=[[a,b]]")
    assert found["a"] == found["b"] == found["more/c"] != found["more/d"]


def test_sets_with_strangers_are_refused(database):
    for name in ("wfdb", "mitdb"):
        said = refused(database, "data.same_patient=[[a,x],[b,more/y]]", name=name)
        assert "data.same_patient does not fit" in said
        assert "2 names without a recording: x, more/y" in said


def test_a_recording_without_annotations_is_no_stranger(database):
    (database / "a.atr").unlink()
    assert groups(database, "data.same_patient=[[a,b]]")["b"] == "a+b"
    for text in ("record,patient\na,1\nb,1\nc,2\nd,2\n", "record,patient\nb,1\nc,2\nd,2\n"):
        assert groups(database, listing(database, text))["b"] == "1"


def test_what_is_known_of_mitdb_needs_no_key_and_no_whole_copy(database):
    for kind in ("hea", "dat", "atr"):
        (database / f"a.{kind}").rename(database / f"201.{kind}")
    header = database / "201.hea"
    header.write_text(header.read_text().replace("a.dat", "201.dat").replace("a 1", "201 1"))
    assert groups(database, name="mitdb")["201"] == "201+202"
    assert groups(database, "data.same_patient=[[201,b]]", name="mitdb")["b"] == "201+b+202"
