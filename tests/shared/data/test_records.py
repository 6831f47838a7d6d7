"""The record table from a user's own table, and what is said about bad ones."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from conftest import compose

from pipelines.shared.config import TableColumns, TableSection
from pipelines.shared.data import assemble
from pipelines.shared.data.records import Source, Target, dataset_folder, read_table
from pipelines.shared.errors import DataError, listed, nearest

TARGETS = [Target("grade", range(5)), Target("dme", (0, 1))]


def section(folder, **changes) -> TableSection:
    columns = {"path": "file", "id": None, "group": "patient", "split": None} | changes.pop("columns", {})
    values = {
        "name": "table", "root": str(folder), "table": str(folder / "mine.csv"), "columns": TableColumns(**columns),
        "targets": {"grade": "diagnosis"}, "values": {}, "on_bad_file": "error", "conflicting_labels": "drop",
        "near_duplicates": True, "train_size": None,
    }  # fmt: skip
    return TableSection(**(values | changes))


def write(folder, text: str) -> None:
    (folder / "mine.csv").write_text(text, encoding="utf-8")


GOOD = "file,patient,diagnosis,camera,age\na.png,1,0,X,50\nb.png,1,4,Y,\nc.png,2,,X,61\n"


def test_a_good_table(tmp_path):
    write(tmp_path, GOOD)
    source = read_table(section(tmp_path), TARGETS)
    records = source.records
    assert records["id"].tolist() == ["a.png", "b.png", "c.png"]
    assert records["group"].tolist() == ["1", "1", "2"]
    assert records["grade"].tolist()[:2] == [0, 4]
    assert np.isnan(records["grade"][2]), "an empty cell is unknown"
    assert records["dme"].isna().all(), "a target that the table lacks is unknown, not negative"
    assert records["age"].tolist()[0] == 50
    assert records["camera"].tolist() == ["X", "Y", "X"]
    assert records["split"].isna().all()
    assert not source.synthetic


def test_parquet_words_for_values_and_a_split(tmp_path):
    table = pd.DataFrame(
        {"file": ["a", "b"], "patient": [7, 8], "diagnosis": ["none", "severe"], "part": ["Train", None]}
    )
    table.to_parquet(tmp_path / "mine.parquet")
    config = section(
        tmp_path, table=str(tmp_path / "mine.parquet"), values={"grade": {"none": 0, "severe": 3}},
        columns={"split": "part"},
    )  # fmt: skip
    records = read_table(config, TARGETS).records
    assert records["grade"].tolist() == [0, 3]
    assert records["group"].tolist() == ["7", "8"]
    assert records["split"].tolist()[0] == "train"
    assert records["split"].isna().tolist()[1]


def test_without_a_group_column_the_source_says_so(tmp_path):
    write(tmp_path, GOOD)
    source = read_table(section(tmp_path, columns={"group": None}), TARGETS)
    assert source.records["group"].tolist() == source.records["id"].tolist()
    assert "own patient" in source.notes[0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (GOOD.replace("b.png,1,4", "b.png,1,9"), "row 3: diagnosis=9, allowed: 0, 1, 2, 3, 4"),
        (GOOD.replace("b.png,1,4", "b.png,1,2.5"), "row 3: diagnosis=2.5"),
        (GOOD.replace("b.png", "a.png"), "rows 2, 3: file 'a.png' occurs 2 times"),
        (GOOD.replace("b.png", "../b.png"), "row 3: ../b.png leaves the folder"),
        (GOOD.replace("b.png", "/etc/passwd"), "row 3: /etc/passwd leaves the folder"),
        (GOOD.replace("b.png,1", "b.png,"), "row 3: empty patient"),
        (GOOD.replace("b.png", ""), "row 3: empty file"),
    ],
)
def test_bad_rows_are_named(tmp_path, text, said):
    write(tmp_path, text)
    with pytest.raises(DataError) as caught:
        read_table(section(tmp_path), TARGETS)
    assert said in caught.value.problem


def test_all_bad_rows_are_listed_at_once(tmp_path):
    write(tmp_path, GOOD.replace("1,4", "1,9").replace("a.png,1,0", "a.png,1,x"))
    with pytest.raises(DataError) as caught:
        read_table(section(tmp_path), TARGETS)
    assert "2 problems" in caught.value.problem
    assert "row 2" in caught.value.problem
    assert "row 3" in caught.value.problem


def test_words_that_pandas_takes_for_nothing_are_words(tmp_path):
    write(tmp_path, "file,patient,diagnosis\nNA,null,None\nb.png,n/a,Mild\n")
    source = read_table(section(tmp_path, values={"grade": {"None": 0, "Mild": 1}}), TARGETS)
    assert source.records["grade"].tolist() == [0, 1]
    assert source.records["id"].tolist() == ["NA", "b.png"]
    assert source.records["group"].tolist() == ["null", "n/a"]


def test_numeric_codes_can_be_mapped_and_values_are_checked(tmp_path):
    write(tmp_path, "file,patient,diagnosis\na,1,1\nb,2,2\n")
    source = read_table(section(tmp_path, values={"grade": {1: 0, 2: 4}}), TARGETS)
    assert source.records["grade"].tolist() == [0, 4]
    for wrong in (9, 2.7, "one"):
        with pytest.raises(DataError, match=r"data\.values\.grade\.1="):
            read_table(section(tmp_path, values={"grade": {1: wrong}}), TARGETS)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("file,patient,diagnosis\na.png,1,0,\n", "row 2: 4 fields"),
        ("file,patient,diagnosis\na.png,1\n", "row 2: 2 fields"),
        ("file,file ,patient,diagnosis\na,b,1,0\n", "names a column twice: file"),
    ],
)
def test_tables_that_pandas_would_bend_into_shape_are_refused(tmp_path, text, said):
    write(tmp_path, text)
    with pytest.raises(DataError, match=said):
        read_table(section(tmp_path), TARGETS)


def test_missing_things_are_named(tmp_path):
    with pytest.raises(DataError, match=r"mine\.csv does not exist"):
        read_table(section(tmp_path), TARGETS)
    write(tmp_path, GOOD)
    with pytest.raises(DataError, match=r"no column 'diagnosi'.*\n.*diagnosis"):
        read_table(section(tmp_path, targets={"grade": "diagnosi"}), TARGETS)
    with pytest.raises(DataError, match=r"no such target.*\n.*grade"):
        read_table(section(tmp_path, targets={"grad": "diagnosis"}), TARGETS)
    with pytest.raises(DataError, match="does not exist"):
        read_table(section(tmp_path, root=str(tmp_path / "nowhere")), TARGETS)
    with pytest.raises(DataError, match="needs"):
        read_table(section(tmp_path, table=None), TARGETS)
    with pytest.raises(DataError, match="names no column for: grade"):
        read_table(section(tmp_path, targets={}), [Target("grade", range(5), required=True)])
    write(
        tmp_path,
        GOOD.replace("c.png,2,,", "c.png,2,1,").replace("camera", "part").replace("X", "train").replace("Y", "dev"),
    )
    with pytest.raises(DataError, match="part=dev, allowed: train, val, test"):
        read_table(section(tmp_path, columns={"split": "part"}), TARGETS)


def test_a_missing_dataset_says_how_to_get_it(tmp_path):
    with pytest.raises(DataError, match=r"needs data\.root.*\n.*Kaggle.*train\.csv"):
        dataset_folder(None, "aptos2019")
    with pytest.raises(DataError, match=r"does not exist.*\n.*Kaggle"):
        dataset_folder(str(tmp_path / "nowhere"), "aptos2019")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="is a file"):
        dataset_folder(str(tmp_path / "file"), "aptos2019")


def test_nearest_and_listed():
    assert nearest("epoch", ["epochs", "seed"]) == "Did you mean epochs?"
    assert nearest("zzz", ["epochs", "seed"]) == "Allowed: epochs, seed."
    assert listed(range(3), 2) == "  0\n  1\n  … and 1 more"


def test_bad_rows_are_errors_or_left_out_with_their_reasons(tmp_path):
    write(tmp_path, "file,patient,diagnosis\na,1,1\nb,1,x\n,2,2\nd,3,0\nd,3,1\n")
    with pytest.raises(DataError) as caught:
        read_table(section(tmp_path), TARGETS)
    assert "row 3: diagnosis=x" in caught.value.problem
    assert "data.on_bad_row=skip" in caught.value.remedy
    source = read_table(section(tmp_path, on_bad_row="skip"), TARGETS)
    assert list(source.records["path"]) == ["a"]
    assert len(source.left_out) == 4
    assert any("row 3" in line for line in source.left_out)


def test_a_record_table_without_what_every_study_needs_is_named(tmp_path):
    records = pd.DataFrame({"id": ["a"], "path": ["a.png"]})
    study = SimpleNamespace(
        name="tiles", sources={"phantom": lambda _: Source("ham10000", True, tmp_path, records, "none")}
    )
    with pytest.raises(DataError, match="its adapter makes lacks group, split") as caught:
        assemble._source(study, compose("skin"))
    assert "pipelines/tiles/data.py" in caught.value.remedy
