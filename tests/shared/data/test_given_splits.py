"""Splits that are handed in or made by time: what they give, and everything that may be wrong with them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import compose
from PIL import Image

from pipelines.covid_flannel.protocol import FIXED, divide
from pipelines.shared.cli.modes import _write_data
from pipelines.shared.data.assemble import training_data
from pipelines.shared.data.given_splits import (
    GIVEN_FOLD,
    left_out_by_file,
    read_split_file,
    split_table,
    time_split,
    with_file_split,
    without_time,
)
from pipelines.shared.data.records import SPLITS, Source
from pipelines.shared.errors import ConfigError, DataError
from pipelines.shared.run_folder import RunFolder, read_json
from pipelines.skin.study import STUDY

SHARES = {"train": 0.6, "val": 0.15, "test": 0.25}


def written(folder: Path, *lines: str) -> str:
    file = folder / "mine.csv"
    file.write_text("\n".join(lines) + "\n")
    return str(file)


def source_of(groups: list[str]) -> Source:
    records = pd.DataFrame({"id": [f"r{n}" for n in range(len(groups))], "group": groups, "split": None})
    return Source("toy", False, Path(), records, "patient")


# --- a file ---


def test_a_file_gives_every_record_its_split_and_leaves_out_those_without_one(tmp_path):
    file = written(tmp_path, "id,split", "r2,test", "r0,train", "r1,Val", "r3,")
    given, source = read_split_file(file), source_of(["a", "b", "c", "d"])
    records = with_file_split(source.records, given, source, "group")
    assert records["split"].tolist() == ["train", "val", "test", None]
    assert left_out_by_file(records, given, "toy").tolist() == [False, False, False, True]
    assert given.sha256 == hashlib.sha256(Path(file).read_bytes()).hexdigest()
    assert GIVEN_FOLD not in records


def test_everything_wrong_with_a_file_is_said_at_once_with_its_rows(tmp_path):
    file = written(tmp_path, "id,group,split", "r0,P1,train", "r1,P1,test", "r2,P2,tset", ",P3,val", "r0,P1,train")
    with pytest.raises(DataError) as caught:
        read_split_file(file)
    said = str(caught.value)
    for part in (file, "mine.csv row 4: split=tset, allowed: train, val, test, or empty", "mine.csv row 5: empty id",
                 "mine.csv rows 2, 6: id 'r0' occurs 2 times",
                 "mine.csv rows 2, 3, 6: group 'P1' is in train and test"):  # fmt: skip
        assert part in said, part


def test_by_record_a_group_may_be_on_several_sides(tmp_path):
    file = written(tmp_path, "id,group,split", "r0,P1,train", "r1,P1,test", "r2,P2,train")
    given, source = read_split_file(file, "record"), source_of(["a", "a", "b"])
    assert with_file_split(source.records, given, source, "record")["split"].tolist() == ["train", "test", "train"]


def test_ids_that_the_source_lacks_and_its_groups_on_two_sides_are_named(tmp_path):
    file = written(tmp_path, "id,split", "r0,train", "r1,test", "r2,train", "x9,val")
    source = source_of(["a", "a", "b"])
    with pytest.raises(DataError) as caught:
        with_file_split(source.records, read_split_file(file), source, "group")
    said = str(caught.value)
    assert "mine.csv row 5: toy has no record 'x9'" in said
    assert "mine.csv rows 2, 3: patient (a group of toy) 'a' is in train and test" in said


def test_records_that_the_file_lacks_are_named(tmp_path):
    given, source = read_split_file(written(tmp_path, "id,split", "r0,train", "r1,test")), source_of(["a", "b", "c"])
    records = with_file_split(source.records, given, source, "group")
    with pytest.raises(DataError, match=r"lacks 1 record of toy:\n  r2\nAdd a row"):
        left_out_by_file(records, given, "toy")


def test_a_file_that_is_not_there_or_names_no_test_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"split.file=no.csv does not exist"):
        read_split_file("no.csv")
    with pytest.raises(DataError, match=r"mine.csv gives no record to test"):
        read_split_file(written(tmp_path, "id,split", "r0,train", "r1,val"))


@pytest.mark.parametrize(
    ("folds", "said"),
    [
        (["0", "1", "3"], "has the folds 0, 1, 3; they are numbered from 0"),
        (["0", "1", "0"], "at least 3 of them"),
        (["0", "1", "two"], "row 4: fold=two is not the number of a fold"),
        (["0", "1", "1.5"], "row 4: fold=1.5 is not"),
    ],
)
def test_folds_are_numbers_without_a_gap(tmp_path, folds, said):
    file = written(tmp_path, "id,split,fold", *(f"r{n},test,{k}" for n, k in enumerate(folds)))
    with pytest.raises(DataError, match=said):
        read_split_file(file)


def test_a_group_in_two_folds_is_refused(tmp_path):
    rows = [f"r{n},{g},test,{n % 3}" for n, g in enumerate(["a", "b", "c", "a", "b", "a"])]
    with pytest.raises(DataError, match="group 'a' is in test of fold 0 and test of fold 2"):
        read_split_file(written(tmp_path, "id,group,split,fold", *rows))


# --- from a source to split.csv and back ---


def skin(folder: Path, lesions: int = 30, *overrides: str):
    """A folder in HAM10000's layout, two pictures of every lesion, with the day on which it was seen."""
    rng = np.random.default_rng(0)
    rows = ["lesion_id,image_id,dx,dx_type,age,sex,localization"]
    for n in range(2 * lesions):
        file = folder / "HAM10000_images_part_1" / f"I{n}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(file)
        rows.append(f"L{n // 2},I{n},{'mel' if n // 2 % 2 else 'nv'},histo,{20 + n // 2},male,back")
    (folder / "HAM10000_metadata.csv").write_text("\n".join(rows) + "\n")
    root = [f"data.root={folder}", f"cache.dir={folder.parent / 'cache'}", "preprocess.size=32"]
    return compose("skin", "data=ham10000", *root, *overrides)


def divided(config):
    data = training_data(STUDY, config)
    return data, dict(zip(data.records["id"], data.records["split"], strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("size", [None, 10])
def test_a_runs_split_handed_in_again_is_the_same_split(tmp_path, size):
    extra = [] if size is None else [f"data.train_size={size}"]
    data, before = divided(skin(tmp_path / "ham", 30, *extra))
    folder = RunFolder(tmp_path / "run")
    _write_data(folder, data)
    table, flow = pd.read_csv(folder.split), read_json(folder.flow)
    assert flow["split_file"] == {"name": "split.csv", "sha256": hashlib.sha256(folder.split.read_bytes()).hexdigest()}
    assert list(table) == ["id", "group", "split"]
    assert len(table) == 60
    assert table["split"].isna().sum() == 60 - len(before)
    again, after = divided(skin(tmp_path / "ham", 30, "seed=7", f"split.file={folder.split}"))
    assert after == before
    assert again.flow["split_fingerprint"] == data.flow["split_fingerprint"]
    assert again.flow["split_given"] == flow["split_file"]
    assert any("handed in with split.file" in note for note in again.flow["notes"])
    _write_data(folder, again)
    assert pd.read_csv(folder.split).equals(table), "also what was left out is handed on"


@pytest.mark.slow
def test_folds_are_handed_on_too(tmp_path):
    data, before = divided(skin(tmp_path / "ham", 30, "split.folds=5"))
    assert set(before.values()) == {"test"}
    folder = RunFolder(tmp_path / "run")
    _write_data(folder, data)
    assert list(pd.read_csv(folder.split)) == ["id", "group", "split", "fold"]
    again, _ = divided(skin(tmp_path / "ham", 30, "seed=7", "split.folds=5", f"split.file={folder.split}"))
    assert again.flow["split_fingerprint"] == data.flow["split_fingerprint"]
    alone, roles = divided(skin(tmp_path / "ham", 30, "split.folds=5", "split.fold=4", f"split.file={folder.split}"))
    tested = {i for i, split in roles.items() if split == "test"}
    assert tested == set(data.records.loc[data.records["fold"] == 4, "id"])
    assert {i for i, s in roles.items() if s == "val"} == set(data.records.loc[data.records["fold"] == 0, "id"])
    _write_data(folder, alone)
    assert list(pd.read_csv(folder.split)) == ["id", "group", "split"], "one fold is a split like any other"
    file = written(tmp_path, "id,split", *(f"{i},{s}" for i, s in roles.items()))
    with pytest.raises(ConfigError, match="has no column fold"):
        divided(skin(tmp_path / "ham", 30, "split.folds=5", f"split.file={file}"))
    _write_data(folder, data)
    with pytest.raises(ConfigError, match="has the folds 0, 1, 2, 3, 4"):
        divided(skin(tmp_path / "ham", 30, "split.folds=4", f"split.file={folder.split}"))
    with pytest.raises(ConfigError, match=r"holds a cross-validation.\nDo the same: split.folds=5"):
        divided(skin(tmp_path / "ham", 30, f"split.file={folder.split}"))


@pytest.mark.slow
def test_a_file_that_is_no_fit_for_the_data_stops_training(tmp_path):
    config = skin(tmp_path / "ham", 30)
    _, before = divided(config)
    rows = [f"{name},{split}" for name, split in before.items() if name != "I7"]
    file = written(tmp_path, "id,split", *rows)
    with pytest.raises(DataError, match=r"lacks 1 record of ham10000:\n  I7"):
        divided(skin(tmp_path / "ham", 30, f"split.file={file}"))


def test_a_covid_study_takes_its_folds_from_a_file():
    config = compose("covid_flannel")
    rng = np.random.default_rng(1)
    records = pd.DataFrame(
        {"id": [f"r{n}" for n in range(40)], "group": [f"p{n}" for n in range(40)], "split": None,
         "label": "normal", "stratum": np.repeat([0, 1, 2, 3], 10)}
    )  # fmt: skip
    given = rng.permutation(np.repeat([0, 1, 2, 3, FIXED], 8))
    found = divide(records.assign(split="test", **{GIVEN_FOLD: given}), config)
    assert found["fold"].tolist() == given.tolist()
    assert (found["split"] == np.where(given == FIXED, "test", "train")).all()
    csv = split_table(found, found.head(0))
    assert list(csv) == ["id", "group", "split", "fold"]


# --- by time ---


def timed(times: list, groups: list[str] | None = None) -> pd.DataFrame:
    names = [f"p{n}" for n in range(len(times))] if groups is None else groups
    return pd.DataFrame({"id": [f"r{n}" for n in range(len(times))], "group": names, "seen": times})


def test_the_latest_groups_are_test_those_before_them_val():
    order = np.random.default_rng(0).permutation(100)
    split, notes = time_split(timed(order.tolist()), "seen", SHARES)
    expected = np.where(order < 60, "train", np.where(order < 75, "val", "test"))
    assert split.tolist() == expected.tolist()
    assert "train until 59, val until 74, test until 99" in notes[0]
    assert len(notes) == 1


def test_a_group_counts_at_its_latest_record_and_stays_whole():
    times, groups = [1, 9, 2, 3, 4, 5, 6], ["a", "a", "b", "c", "d", "e", "f"]
    records = timed(times, groups)
    split, _ = time_split(records, "seen", SHARES)
    assert split[records["group"] == "a"].tolist() == ["test", "test"]
    latest = records.assign(split=split).groupby("split")["seen"].max()
    assert latest["train"] <= latest["val"] <= latest["test"]


def test_groups_of_one_time_stay_together_and_the_report_says_so():
    split, notes = time_split(timed([2017] * 50 + [2018] * 30 + [2019] * 20), "seen", SHARES)
    assert split.value_counts().to_dict() == {"train": 50, "val": 30, "test": 20}
    assert "test 20 groups (20%, 25% wanted)" in notes[0]
    assert "shared by 30 and 20 groups" in notes[1]


@pytest.mark.parametrize("counts", [(90, 5, 5), (1, 1, 98), (98, 1, 1), (5, 90, 5), (1, 1, 1)])
def test_however_uneven_the_times_no_part_is_empty(counts):
    split, _ = time_split(timed(np.repeat([1, 2, 3], counts).tolist()), "seen", SHARES)
    assert [int((split == name).sum()) for name in SPLITS] == list(counts)


def test_dates_are_iso_and_may_differ_in_precision():
    dates = ["2019-03-24", "2019", "2018-12", "2020-01-01T10:00:00", "2017-01-01", "2016-05-05"]
    split, notes = time_split(timed(dates), "seen", SHARES)
    assert split.tolist()[3] == "test"
    assert split.tolist()[-1] == "train"
    assert "2020-01-01 10:00:00" in notes[0]


def test_times_that_cannot_be_ordered_are_answered_in_words():
    with pytest.raises(DataError, match="2 different times; at least 3"):
        time_split(timed([1, 1, 2, 2]), "seen", SHARES)
    with pytest.raises(DataError, match=r"1 cell is neither a number nor a date:\n  r1: 03/24/2019"):
        without_time(timed(["2019-03-24", "03/24/2019", None]), "seen")
    with pytest.raises(DataError, match=r"no such column.\nDid you mean seen"):
        without_time(timed([1]), "sen")
    assert without_time(timed([1.0, None, 3.0]), "seen").tolist() == [False, True, False]


@pytest.mark.slow
def test_by_time_from_the_source_on_and_what_has_no_time(tmp_path):
    config = skin(tmp_path / "ham", 30, "split.by_time=age")
    data, _ = divided(config)
    ages = data.records.groupby("split")["age"]
    assert ages.max()["train"] < ages.min()["val"]
    assert ages.max()["val"] < ages.min()["test"]
    assert data.records.groupby("group")["split"].nunique().max() == 1
    table = pd.read_csv(tmp_path / "ham" / "HAM10000_metadata.csv", dtype=str)
    table.loc[3, "age"] = None
    table.to_csv(tmp_path / "ham" / "HAM10000_metadata.csv", index=False)
    with pytest.raises(DataError, match=r"1 record of ham10000 without a time:\n  I3"):
        divided(config)
    skipping = compose(
        "skin", "data=ham10000", f"data.root={tmp_path / 'ham'}", f"cache.dir={tmp_path / 'cache'}",
        "preprocess.size=32", "split.by_time=age", "data.on_bad_row=skip",
    )  # fmt: skip
    data, after = divided(skipping)
    assert "I3" not in after
    assert data.flow["lists"]["Without a time in age"] == ["I3"]
    assert data.undivided is not None
    assert data.undivided["id"].tolist() == ["I3"]


def test_a_split_is_handed_in_or_made_by_time_not_both():
    with pytest.raises(ConfigError, match="a split is handed in or made by time"):
        compose("skin", "split.file=a.csv", "split.by_time=age")
