"""The benches go through, tiny and on a CPU: what they measure there means nothing."""

from __future__ import annotations

import ast
import importlib
import json
import math
import sys
from types import ModuleType

import pytest
from conftest import REPOSITORY

BENCH = REPOSITORY / "tests" / "bench"
FILES = sorted(BENCH.glob("bench_*.py"))


@pytest.fixture
def bench(monkeypatch):
    """A module of `tests/bench` by its name, forgotten afterwards."""
    monkeypatch.syspath_prepend(str(BENCH))
    yield importlib.import_module
    for name in (file.stem for file in BENCH.glob("*.py")):
        sys.modules.pop(name, None)


def sound(rows):
    for row in rows:
        assert math.isfinite(row["ratio"])
        assert row["ratio"] > 0
        assert {"what", "ratio", "ours", "reference"} <= set(row)


@pytest.mark.slow
def test_the_bench_of_a_gpu_goes_through(bench):
    rows = list(bench("bench_gpu").rows(tiny=True))
    assert len(rows) == 8
    sound(rows)


@pytest.mark.slow
def test_the_bench_of_scale_goes_through(bench):
    rows = bench("bench_scale").rows(records=3000, cached=200)
    assert len(rows) == 8
    sound(rows)


@pytest.mark.slow
def test_the_bench_of_a_larger_pdu_goes_through(bench):
    pytest.importorskip("pynetdicom", reason="the extra listen is not installed")
    sound([bench("bench_listen").pdu_row(rounds=1, slices=2)])


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_bench_has_rows_and_says_how_long_it_takes(file):
    body = ast.parse(file.read_text()).body
    said = [n.value for n in body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "MINUTES"]
    assert [isinstance(value, ast.Constant) and value.value > 0 for value in said] == [True]
    (rows,) = (n for n in body if isinstance(n, ast.FunctionDef) and n.name == "rows")
    assert len(rows.args.defaults) == len(rows.args.args), "it is called without arguments"


def test_a_bench_that_fails_costs_no_rows_of_the_others(bench, monkeypatch, tmp_path, capsys):
    row = {"what": "a thing", "ratio": 2.0, "ours": "1 s", "reference": "2 s"}
    for name, answer in (("ecg", [row]), ("head_ct", None), ("skin", [row])):
        module = ModuleType(f"bench_{name}")
        module.MINUTES, module.rows = 2, lambda answer=answer: list(answer)
        monkeypatch.setitem(sys.modules, f"bench_{name}", module)
    program = bench("bench")
    monkeypatch.setattr(program, "REPOSITORY", tmp_path)
    monkeypatch.setattr(program, "start_log", lambda *_, **__: None)
    assert program.main(["ecg", "head_ct", "skin"]) == 1
    said = capsys.readouterr()
    assert "ecg, head_ct, skin: about 6 minutes on two quiet cores" in said.err
    assert "Failed: head_ct" in said.err
    kept = json.loads((tmp_path / "outputs" / "bench-ecg-head_ct-skin.json").read_text())
    assert kept == [row | {"bench": "ecg"}, row | {"bench": "skin"}]


def test_a_bench_that_is_not_there_is_answered_with_those_that_are(bench, monkeypatch, capsys):
    program = bench("bench")
    monkeypatch.setattr(program, "start_log", lambda *_, **__: None)
    assert program.main(["speed"]) == 2
    problem, remedy = capsys.readouterr().err.splitlines()
    assert problem == "There is no bench speed."
    assert "tiatoolbox" in remedy
