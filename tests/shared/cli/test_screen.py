"""What a terminal shows, and what a file that stands in for one gets."""

from __future__ import annotations

import socket
import sys
from types import SimpleNamespace

import pytest

from pipelines.shared.cli import modes
from pipelines.shared.screen import print_path


@pytest.mark.parametrize(
    ("terminal", "term", "linked"),
    [(True, "xterm", True), (True, "dumb", False), (True, "", False), (True, None, False), (False, "xterm", False)],
)
def test_a_path_is_a_link_in_a_terminal_alone(tmp_path, monkeypatch, capsys, terminal, term, linked):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal, raising=False)
    monkeypatch.setattr(socket, "gethostname", lambda: "node7")
    monkeypatch.delenv("TERM", raising=False)
    if term is not None:
        monkeypatch.setenv("TERM", term)
    monkeypatch.chdir(tmp_path)
    print_path(type(tmp_path)("my runs") / "report.html")
    said = capsys.readouterr().out
    target = f"file://node7{tmp_path.as_posix()}/my%20runs/report.html"
    link = f"\033]8;;{target}\033\\my runs/report.html\033]8;;\033\\\n"
    assert said == (link if linked else "my runs/report.html\n")


@pytest.mark.parametrize(("mode", "expected"), [("train", "A study\n"), ("report", ""), ("verify", "")])
def test_the_title_comes_before_anything_is_loaded(monkeypatch, capsys, mode, expected):
    seen = []
    monkeypatch.setattr(
        modes.pkgutil, "resolve_name", lambda name: lambda study, job: seen.append(capsys.readouterr().out)
    )
    monkeypatch.setattr(modes.preemption, "install", lambda: None)
    study = SimpleNamespace(name="skin", title="A study")
    modes.run(study, SimpleNamespace(config=SimpleNamespace(mode=mode, track=None)))
    assert seen == [expected]
