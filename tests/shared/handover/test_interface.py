"""Studies from Python, and the list of them."""

from __future__ import annotations

import re
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from conftest import PATIENCE, STUDIES, run_command
from made_service import fundus

import pipelines
from pipelines import interface
from pipelines.__main__ import main
from pipelines.interface import Finished
from pipelines.shared.errors import RunError, UserError


@pytest.mark.slow
def test_a_finished_run_answers_for_files_from_python(made_run, tmp_path, capfd):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(fundus(0))
    finished = pipelines.run(
        "retinopathy", "mode=predict", f"run={made_run}", f"input={tmp_path / 'photos'}", f"run_dir={tmp_path / 'run'}"
    )
    assert finished == Finished(tmp_path / "run")
    assert list(finished.answers["file"]) == ["a.png"]
    assert finished.answers["p_referable"].between(0, 1).all()
    assert f"run folder: {tmp_path / 'run'}" in capfd.readouterr().out  # a notebook shows what the run says
    for look in (lambda: finished.metrics, finished.show, lambda: finished.predictions("test")):
        with pytest.raises(RunError):
            look()


@pytest.mark.parametrize("given", ["~/a=b", "'~/a=b'", '"~/a=b"'])
def test_the_folder_is_the_one_that_the_command_line_writes(given, monkeypatch):
    made = SimpleNamespace(stdout=[], returncode=0)
    monkeypatch.setattr(interface.subprocess, "Popen", lambda *command, **options: nullcontext(made))
    assert pipelines.run("skin", f"run_dir={given}") == Finished(Path.home() / "a=b")


def test_a_mistake_is_the_command_lines(tmp_path):
    with pytest.raises(UserError, match=r"Unknown key 'trainer\.epoch'") as caught:
        pipelines.run("skin", "trainer.epoch=3", f"run_dir={tmp_path / 'run'}")
    assert caught.value.remedy.startswith("Did you mean trainer.epochs")


def test_metrics_are_a_table(made_run):
    finished = Finished(made_run)
    assert finished.headline == "test.referable.auroc"
    expected = pd.Series({"value": 0.91, "low": 0.87, "high": 0.94})
    pd.testing.assert_series_equal(
        finished.metrics.loc[finished.headline, expected.index].astype(float), expected, check_names=False
    )


def test_every_study_is_listed(capsys, monkeypatch):
    assert main([]) == main(["--help"]) == 0
    listed = capsys.readouterr().out
    assert [name for name in STUDIES if f"\n{name} " in listed] == STUDIES
    assert all(len(line) <= 120 for line in listed.splitlines())
    for tool in ("compare", "networks", "publish"):
        assert re.search(rf"pipelines\.{tool} --help +\w", listed)
    assert '"$(python -m pipelines --completion)"' in listed
    monkeypatch.setattr(sys, "argv", ["/opt/bin/imaging-pipelines"])
    assert main([]) == 0
    assert '"$(imaging-pipelines --completion)"' in capsys.readouterr().out
    assert main(["skinn"]) == 2
    problem, remedy = capsys.readouterr().err.splitlines()
    assert "'skinn'" in problem
    assert "Did you mean skin" in remedy


@pytest.mark.slow
def test_the_version_is_this_packages():
    for words in (["pipelines"], ["pipelines.skin"], ["pipelines", "skin"]):
        done = run_command([sys.executable, "-m", *words, "--version"], seconds=PATIENCE)
        assert done.stdout.strip() == pipelines.__version__
