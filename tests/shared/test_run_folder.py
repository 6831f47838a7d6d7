"""The files of a run: written whole or not at all, refused in words where damaged, by one process alone."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow
import pytest
import torch
from conftest import compose
from filelock import FileLock
from pyarrow import parquet
from torch import nn

from pipelines.shared.cli import app, environment, modes
from pipelines.shared.cli.app import _place
from pipelines.shared.cli.environment import claim, start
from pipelines.shared.cli.finished import read_run_config
from pipelines.shared.data.phantoms import ensure_folder
from pipelines.shared.errors import RunError, UserError
from pipelines.shared.job import Job
from pipelines.shared.learning.model_files import load_weights, save_network
from pipelines.shared.run_folder import (
    RunFolder,
    read_array,
    read_arrays,
    read_json,
    read_picture,
    read_table,
    read_yaml,
    write_array,
    write_arrays,
    write_atomically,
    write_csv,
    write_json,
    write_png,
    write_text,
)

REFUSALS = {
    errno.ENOSPC: "no space left",
    errno.EDQUOT: "quota",
    errno.EFBIG: "grew larger than this system allows",
    errno.EROFS: "read-only",
    errno.EACCES: "permission denied",
}


@pytest.mark.parametrize(("number", "words"), REFUSALS.items(), ids=REFUSALS.values())
def test_what_a_disk_refuses_is_told_in_words(tmp_path, number, words):
    file = tmp_path / "a.txt"
    write_text(file, "before")

    def refused(aside: Path) -> None:
        aside.write_text("half")
        raise OSError(number, os.strerror(number))

    with pytest.raises(UserError, match=f"a.txt cannot be written: .*{words}.*; the previous one is kept"):
        write_atomically(file, refused)
    assert file.read_text() == "before"
    assert [f.name for f in tmp_path.iterdir()] == ["a.txt"]
    with pytest.raises(UserError, match=f"phantom cannot be written to .*{words}"):
        ensure_folder(tmp_path / "cache", "skin", 1, {}, lambda folder: refused(folder / "x"))


def test_any_other_failure_is_a_bug_and_stays_one(tmp_path):
    with pytest.raises(ZeroDivisionError):
        write_atomically(tmp_path / "a", lambda aside: aside.write_text(str(1 / 0)))


def test_the_command_line_answers_for_every_file_that_a_disk_refuses(monkeypatch, capsys):
    def refused(*_):
        raise OSError(errno.EFBIG, "File too large", "/place/of/a/file")

    monkeypatch.setattr(app, "_compose_and_run", refused)
    assert app._answer("retinopathy", []) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 2
    assert "/place/of/a/file" in lines[0]
    assert "ulimit" in lines[1]


def test_a_full_disk_does_not_end_in_a_traceback_for_every_line_of_the_log(tmp_path, capsys):
    from pipelines.shared.log import log, start_log

    start_log(tmp_path)
    log.handlers[-1].stream = Path("/dev/full").open("w")  # noqa: SIM115
    log.info("hello")
    start_log(None)
    shown = capsys.readouterr()
    assert "Traceback" not in shown.err
    assert "hello" in shown.out


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    events = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda f: events.append("fsync") or fsync(f))
    monkeypatch.setattr(Path, "replace", lambda a, b: events.append(f"rename {b.name}") or replace(a, b))
    write_text(tmp_path / "a", "x")
    write_atomically(tmp_path / "a", lambda aside: aside.write_text("y"), keep=tmp_path / "b")
    assert events == ["fsync", "rename a", "fsync", "rename b", "rename a"]
    assert ((tmp_path / "a").read_text(), (tmp_path / "b").read_text()) == ("y", "x")


FILES = {
    "a.json": (lambda f: write_json(f, {"a": list(range(50))}), read_json),
    "a.yaml": (lambda f: write_text(f, "a: {b: [1, 2, 3], c: 'four'}\n"), read_yaml),
    "a.csv": (lambda f: write_csv(f, pd.DataFrame({"a": range(50), "b": "x"})), read_table),
    "a.parquet": (lambda f: RunFolder(f.parent).write_table(f, pd.DataFrame({"a": range(50)})), read_table),
    "a.npy": (lambda f: write_array(f, np.arange(50.0)), read_array),
    "a.npz": (lambda f: write_arrays(f, {"a": np.arange(50.0)}), read_arrays),
    "a.png": (lambda f: write_png(f, np.arange(256, dtype=np.uint8).reshape(16, 16)), read_picture),
}


@pytest.mark.parametrize("name", FILES)
def test_damaged_files_are_named(tmp_path, name):
    file = tmp_path / name
    write, read = FILES[name]
    with pytest.raises(RunError, match=f"{name} is missing"):
        read(file)
    write(file)
    read(file)
    content = file.read_bytes()
    for damaged in (content[: len(content) // 2], b"", os.urandom(len(content))):
        file.write_bytes(damaged)
        with pytest.raises(RunError, match=f"{name} cannot be read") as caught:
            read(file)
        assert len(str(caught.value).splitlines()) == 2


def test_a_table_whose_text_is_damaged_is_named(tmp_path):
    text = pyarrow.array(["one", "two"]).buffers()
    damaged = pyarrow.StringArray.from_buffers(2, text[1], pyarrow.py_buffer(b"on\xfftwo"))
    parquet.write_table(pyarrow.table({"id": damaged}), tmp_path / "a.parquet")
    with pytest.raises(RunError, match=r"a\.parquet cannot be read: .*UTF8"):
        read_table(tmp_path / "a.parquet")


def test_tables_and_json_without_what_is_looked_for(tmp_path):
    write_csv(tmp_path / "a.csv", pd.DataFrame({"a": [1]}))
    with pytest.raises(RunError, match=r"a\.csv has no column b"):
        read_table(tmp_path / "a.csv", ["a", "b"])
    write_json(tmp_path / "a.json", [])
    with pytest.raises(RunError, match=r"a\.json holds a list"):
        read_json(tmp_path / "a.json", ["a"])
    write_json(tmp_path / "a.json", {"b": 1})
    with pytest.raises(RunError, match=r"a\.json has no a"):
        read_json(tmp_path / "a.json", ["a", "b"])


def test_weights_are_known_by_their_checksum_and_old_ones_still_load(tmp_path):
    facts = {"study": "x", "name": "network", "classes": [], "architecture": {}, "preprocessing": {}}
    network = nn.Linear(100, 3)
    save_network(tmp_path, network, facts)
    again = load_weights(tmp_path, nn.Linear(100, 3))
    assert torch.equal(again.weight, network.weight)
    file, model = tmp_path / "weights.safetensors", tmp_path / "model.json"
    content = file.read_bytes()
    file.write_bytes(content[:-200] + bytes(200))
    with pytest.raises(RunError, match=r"weights\.safetensors cannot be loaded: .* checksum"):
        load_weights(tmp_path, nn.Linear(100, 3))
    model.write_text(json.dumps({k: v for k, v in json.loads(model.read_text()).items() if k != "sha256"}))
    load_weights(tmp_path, nn.Linear(100, 3))  # of an earlier version: there is nothing to compare with


# --- the beginning of a run, and who writes there ---


def test_the_configuration_is_the_first_file_of_a_run(tmp_path, monkeypatch):
    """So a run that is killed at any moment can be resumed, or has left nothing that is in the way."""
    seen = []
    start_log = environment.start_log
    monkeypatch.setattr(
        environment,
        "start_log",
        lambda folder, quiet=False: (
            seen.append(folder and sorted(f.name for f in folder.iterdir())) or start_log(folder, quiet)
        ),
    )
    config = compose("retinopathy", f"run_dir={tmp_path / 'run'}", "trainer.device=cpu")
    start("title", Job(config, tmp_path / "run", "command"))
    assert seen[0] is None
    assert {"config.yaml", "environment.json"} <= set(seen[1])
    assert read_run_config(tmp_path / "run", "retinopathy")["mode"] == "train"
    environment._claims.pop().release()


def test_a_folder_with_nothing_but_a_log_is_begun_anew(tmp_path):
    for name in ("run.log", ".lock", ".config.yaml.7.tmp"):
        (tmp_path / name).touch()
        config = compose("retinopathy", f"run_dir={tmp_path}")
        job = _place(config, None, None, True, "x")
        assert job is not None
        assert job.run_dir == tmp_path
    with pytest.raises(RunError, match="cut off before it had begun") as caught:
        read_run_config(tmp_path, "retinopathy")
    assert f"run_dir={tmp_path}" in caught.value.remedy
    (tmp_path / "config.yaml").touch()
    with pytest.raises(RunError, match="not empty"):
        _place(config, None, None, True, "x")


def test_a_folder_that_another_process_writes_is_left_alone(tmp_path):
    folder = RunFolder(tmp_path)
    job = Job(compose("retinopathy"), tmp_path, "x")
    (tmp_path / ".half.tmp").touch()
    with FileLock(tmp_path / ".lock"):
        for begin in (lambda: claim(folder), lambda: modes.report(None, job)):
            with pytest.raises(RunError, match="another run is writing there"):
                begin()
    assert (tmp_path / ".half.tmp").exists(), "a file that the other one is writing was removed"
    claim(folder)
    assert not (tmp_path / ".half.tmp").exists()
    environment._claims.pop().release()
