"""Tables as they are read: columns and cells, rows that are left out, keys that look alike."""

from __future__ import annotations

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.shared.data.tables import RowProblem, inside, look_alikes, parse_values, read_csv, without_bad_rows
from pipelines.shared.errors import DataError

BLANK_CELLS = ["P1", "P1 ", " P1", "P1\u00a0", "\ufeffP1", "P1\u200b \u00a0", "\tP1", "\u202aP1\u202c", "P1\u200e",
               "P1\ufe0f", "P1\u0001", "\u2066P1\u2069"]  # fmt: skip


def test_a_link_to_another_disk_is_inside_and_a_way_out_is_not():
    assert inside("images/a.png")
    assert inside("images/../a.png")
    for outside in ("../a.png", "images/../../a.png", "/etc/passwd", "a\0b"):
        assert not inside(outside)


@pytest.mark.parametrize("content", [b"", b"file,patient\n", b"\xff\xfe\x00bad", b'file,"pa\n1,2,3,4\n'])
def test_files_that_are_no_tables(tmp_path, content):
    (tmp_path / "mine.csv").write_bytes(content)
    with pytest.raises(DataError):
        read_csv(tmp_path / "mine.csv", ["file", "patient"])


def test_parse_values_accepts_numbers_written_as_floats(tmp_path):
    column = pd.Series(["1.0", " 2", None], name="grade")
    values, problems = parse_values(column, range(5), tmp_path / "x.csv")
    assert values.tolist()[:2] == [1, 2]
    assert problems == ["x.csv row 4: empty grade"]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_blanks_around_a_cell_make_no_other_value(tmp_path, suffix):
    file = tmp_path / f"t{suffix}"
    table = pd.DataFrame(
        {"\u00a0id ": [f"i{k}" for k in range(len(BLANK_CELLS))], "group": BLANK_CELLS, "empty": " \u00a0"}
    )
    table.to_csv(file, index=False) if suffix == ".csv" else table.to_parquet(file)
    found = read_csv(file, ["id", "group"])
    assert set(found["group"]) == {"P1"}
    assert found["empty"].isna().all()


def test_groups_that_look_alike_are_reported():
    assert look_alikes(pd.Series(["P1", "p1", "P 1", "P\u200b1", "P2", None, "\uff30\uff12"])) == [
        ["P 1", "P1", "P\u200b1", "p1"],
        ["P2", "\uff30\uff12"],
    ]
    assert look_alikes(pd.Series(["a", "b"])) == []


def test_empty_lines_above_a_header_are_no_header(tmp_path):
    (tmp_path / "t.csv").write_text("\n\nid,group\na,1\n")
    assert read_csv(tmp_path / "t.csv", ["id"]).to_numpy().tolist() == [["a", "1"]]


@pytest.mark.parametrize(("content", "said"), [
    (b"id;group\n1;2\n", "separated by semicolons"),
    (b"id\tgroup\n1\t2\n", "separated by tabs"),
    (b'id,group\n1,"2\n' + b"3,4\n" * 50_000, "quotation mark"),
    (b"id,group\n\xff\xfe,2\n", "cannot be read"),
    ("id,group\n1,2\n".encode("utf-16"), "cannot be read"),
    (b"", "cannot be read"),
    (b"id,group\n1,2,3\n", "do not fit its 2 columns"),
])  # fmt: skip
def test_a_table_that_is_none_is_answered_in_words(tmp_path, content, said):
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(DataError, match=said):
        read_csv(tmp_path / "t.csv", ["id"])


def test_a_parquet_file_needs_no_index_of_pandas_and_no_cell_but_text_and_numbers(tmp_path):
    pq.write_table(pa.table({"id": ["a", "b"], "grade": [1.0, None]}), tmp_path / "t.parquet")
    assert read_csv(tmp_path / "t.parquet", ["id"])["grade"].tolist()[0] == "1"
    pq.write_table(pa.table({"id": [[1, 2], [3]]}), tmp_path / "t.parquet")
    with pytest.raises(DataError, match="a cell holds"):
        read_csv(tmp_path / "t.parquet", ["id"])


def test_a_problem_of_the_whole_dataset_is_never_skipped():
    rows = pd.DataFrame({"id": ["a", "b"]})
    with pytest.raises(DataError, match="no folder images"):
        without_bad_rows(rows, ["no folder images", RowProblem("row 2: odd", 0)], "skip", "set")
    with pytest.raises(DataError, match="none of its rows"):
        without_bad_rows(rows, [RowProblem("odd", 0, 1)], "skip", "set")
    good, left_out = without_bad_rows(rows, [RowProblem("odd", 0), RowProblem("odder", 0)], "skip", "set")
    assert list(good["id"]) == ["b"]
    assert left_out == ["odd; odder"]
