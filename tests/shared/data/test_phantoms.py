"""A phantom's folder is complete or absent, made once per settings."""

from __future__ import annotations

import os
import time

import pytest

from pipelines.shared.data.phantoms import ABANDONED, ensure_folder, write_table


def test_it_is_made_once_per_settings(tmp_path):
    calls = []

    def make(folder):
        calls.append(folder)
        (folder / "a.txt").write_text("x")

    first = ensure_folder(tmp_path, "toy", 1, {"size": 2}, make)
    assert first == ensure_folder(tmp_path, "toy", 1, {"size": 2}, make)
    assert (first / "a.txt").read_text() == "x"
    assert len(calls) == 1
    others = {
        ensure_folder(tmp_path, "toy", 2, {"size": 2}, make),
        ensure_folder(tmp_path, "toy", 1, {"size": 3}, make),
    }
    assert len(others | {first}) == 3
    assert not list(tmp_path.glob(".phantom-*"))


def test_what_fails_leaves_nothing(tmp_path):
    def make(folder):
        (folder / "half.txt").write_text("x")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        ensure_folder(tmp_path, "toy", 1, {}, make)
    assert not list(tmp_path.iterdir())


def test_when_two_make_the_same_the_first_wins(tmp_path):
    def make(folder):
        (folder / "a.txt").write_text("second")
        if not list(tmp_path.glob("phantom-toy-*")):
            winner = ensure_folder(tmp_path, "toy", 1, {}, lambda f: (f / "a.txt").write_text("first"))
            assert winner.exists()

    assert (ensure_folder(tmp_path, "toy", 1, {}, make) / "a.txt").read_text() == "first"


def test_half_made_folders_of_killed_runs_are_removed(tmp_path):
    for name, age in ((".phantom-toy-old", ABANDONED + 60), (".phantom-toy-new", 5)):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    ensure_folder(tmp_path, "toy", 1, {}, lambda folder: None)
    assert sorted(p.name for p in tmp_path.glob(".phantom-*")) == [".phantom-toy-new"]


def test_a_table_has_the_columns_of_its_first_row(tmp_path):
    write_table(tmp_path / "t.csv", [{"a": 1, "b": None}, {"a": "x,y", "b": 2}])
    assert (tmp_path / "t.csv").read_text() == 'a,b\n1,\n"x,y",2\n'
