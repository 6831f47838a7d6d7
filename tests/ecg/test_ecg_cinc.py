"""Which of several references has the label of a recording, and references that are damaged."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import compose

from pipelines.ecg.data import SOURCES
from pipelines.ecg.wfdb_files import write_record
from pipelines.shared.errors import DataError


@pytest.fixture
def folder(tmp_path):
    """Three recordings in training2017/, the last of them in validation/ too."""
    for k, name in enumerate(("training2017/A1", "training2017/A2", "training2017/A3", "validation/A3")):
        stem = tmp_path / name
        stem.parent.mkdir(exist_ok=True)
        write_record(stem, np.random.default_rng(k).integers(-300, 300, 6000), "ECG", 200.0, [])
        stem.with_suffix(".dat").rename(stem.with_suffix(".mat"))
        header = stem.with_suffix(".hea")
        header.write_text(header.read_text().replace(".dat", ".mat"))
    return tmp_path


def write(folder, **files):
    """References: path without .csv (/ as __, - as _) -> the labels of A1, A2, A3, - for none."""
    for name, labels in files.items():
        file = folder / (name.replace("__", "/").replace("_", "-") + ".csv")
        file.write_text("".join(f"A{k},{label}\n" for k, label in enumerate(labels, 1) if label != "-"))


def cinc(folder):
    return SOURCES["cinc2017"](compose("ecg", "data=cinc2017", f"data.root={folder}"))


def given(folder):
    """The labels of A1, A2 and A3 in training2017, and of A3 in validation."""
    records = cinc(folder).records.set_index("record")["record_label"]
    return "".join(records[["training2017/A1", "training2017/A2", "training2017/A3", "validation/A3"]])


def refused(folder):
    with pytest.raises(DataError) as failure:
        cinc(folder)
    return str(failure.value)


@pytest.mark.parametrize(
    "files",
    [
        {"REFERENCE_v3": "NAO", "REFERENCE": "ONA"},
        {"training2017__REFERENCE": "ONA", "REFERENCE_v3": "NAO"},
        {"REFERENCE": "ONA", "training2017__REFERENCE_v3": "NAO", "validation__REFERENCE": "--A"},
        {"REFERENCE_v9": "ONA", "REFERENCE_v10": "NAO"},
        {"REFERENCE_v3.2": "ONA", "REFERENCE_v3.10": "NAO"},
        {"REFERENCE_original": "ONA", "REFERENCE": "NAO"},
        {"training2017__REFERENCE_v0": "ONA", "REFERENCE": "NAO"},
        {"reference_V2": "ONA", "Reference_V3 (1)": "NAO"},
    ],
)
def test_the_newest_version_wins_wherever_it_lies(folder, files):
    write(folder, **files)
    assert given(folder) == "NAOO"


def test_notes_say_which_file_was_used_and_what_an_older_one_says(folder):
    write(folder, REFERENCE_v3="NA-", REFERENCE="NOO", training2017__REFERENCE_v2="NAO")
    assert given(folder) == "NAOO"
    notes = cinc(folder).notes
    assert "Labels are from REFERENCE-v3.csv (2), training2017/REFERENCE-v2.csv (2)." in notes
    assert any("REFERENCE.csv has another label for 1 recording" in note for note in notes)


def test_of_one_version_the_file_nearest_to_the_recording_counts(folder):
    write(folder, training2017__REFERENCE_v3="NAO", validation__REFERENCE_v3="--~")
    assert given(folder) == "NAO~"


def test_one_version_twice_with_different_labels_is_refused(folder):
    write(folder, **{"REFERENCE_v3": "NAO", "REFERENCE_v3 (1)": "NAA"})
    said = refused(folder)
    assert "REFERENCE-v3.csv" in said
    assert "REFERENCE-v3 (1).csv" in said
    assert "training2017/A3" in said


def test_names_without_a_version_are_not_read_and_told(folder):
    write(folder, REFERENCE_v3="NAO", REFERENCE_mine="ONA")
    assert any("REFERENCE-mine.csv" in note for note in cinc(folder).notes)
    (folder / "REFERENCE-v3.csv").unlink()
    assert "found: REFERENCE-mine.csv" in refused(folder)


def test_an_older_reference_may_name_more_than_there_is_but_not_the_newest(folder):
    write(folder, REFERENCE_v3="NAO", REFERENCE="NAOAA")
    assert given(folder) == "NAOO"
    write(folder, REFERENCE_v3="NAOA")
    assert "A4: no such recording" in refused(folder)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"\xef\xbb\xbf \n\n", "is empty"),
        (b"A1,N\nA2,\xff\n", "is not UTF-8"),
        ("A1,N\n".encode("utf-16"), "is not UTF-8"),
        (b"A1;N\nA2;A\n", "no line is a record and a label with a comma between them; it begins with 'A1;N'"),
        (b"recording,label\n", "a header and no label"),
    ],
)
def test_a_reference_that_says_nothing_is_refused_even_beside_an_older_one(folder, content, said):
    write(folder, REFERENCE="NAO")
    (folder / "REFERENCE-v3.csv").write_bytes(content)
    assert said in refused(folder)


def test_rows_that_are_wrong_are_left_out_and_named_where_that_is_wanted(folder):
    write(folder, REFERENCE_v3="NXOA", REFERENCE="NAO")
    config = compose("ecg", "data=cinc2017", f"data.root={folder}", "data.on_bad_row=skip")
    found = SOURCES["cinc2017"](config)
    assert sorted(found.records["record"]) == ["training2017/A1", "training2017/A3", "validation/A3"]
    assert len(found.left_out) == 2
    assert "label 'X' of A2" in found.left_out[0], "no older label takes its place"
    assert "A4: no such recording" in found.left_out[1]


def test_blanks_of_any_kind_around_a_cell_are_no_part_of_it(folder):
    (folder / "REFERENCE-v3.csv").write_text("\ufeffA1\u00a0,N \nA2, A\n\u200bA3,\u00a0O\u200b\n", encoding="utf-8")
    assert given(folder) == "NAOO"


@pytest.mark.parametrize(("content", "said"), [(b"", "is empty"), (b"\xff\xfea\0", "is not UTF-8")])
def test_a_list_of_records_that_says_nothing_is_refused(tmp_path, content, said):
    (tmp_path / "RECORDS").write_bytes(content)
    with pytest.raises(DataError, match=said):
        SOURCES["wfdb"](compose("ecg", "data=wfdb", f"data.root={tmp_path}"))


def test_names_that_no_file_system_takes_are_recordings_without_files(tmp_path):
    (tmp_path / "RECORDS").write_text("9" * 400 + "\n")
    with pytest.raises(DataError, match="holds no WFDB record"):
        SOURCES["wfdb"](compose("ecg", "data=wfdb", f"data.root={tmp_path}"))
    (tmp_path / "own.csv").write_text(f"file,rhythm\n{'x' * 400},N\n{'y' * 400}.npy,N\n")
    config = compose(
        "ecg", "data=table", f"data.table={tmp_path / 'own.csv'}", "data.columns.path=file",
        "++data.targets={rhythm: rhythm}",
    )  # fmt: skip
    assert len(SOURCES["table"](config).records) == 2, "preparing them says why they cannot be read"
