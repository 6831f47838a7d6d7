"""Studies from Python, for a notebook or a script of one's own.

    from pipelines import run

    finished = run("skin", "data=ham10000", "data.root=/data/ham10000", "experiment=ham10000")
    finished.metrics                # a table: value, interval, number of records and groups of every metric
    finished.predictions("test")    # a table: id, group, reference and probability of every record
    finished.show()                 # the report

A run is a process of its own, exactly the one that `python -m pipelines.<study>` starts: the notebook's own state has
no influence on its numbers, and its command line in the report can be typed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import webbrowser
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from pipelines.shared.errors import RunError, UserError
from pipelines.shared.job import EXIT_MISTAKE
from pipelines.shared.run_folder import RunFolder, read_json, read_table


@dataclass(frozen=True)
class Finished:
    """What a run left in its folder."""

    folder: Path

    @property
    def metrics(self) -> pd.DataFrame:
        """Every metric, one row each: value, low, high, method, n, groups, positives, reason (why it is undefined).

        Raises:
            RunError: the run made none (`mode=predict`), or the file is damaged.
        """
        content = read_json(RunFolder(self.folder).metrics, ["metrics"])
        return pd.DataFrame.from_dict(content["metrics"], orient="index").rename_axis("metric")

    @property
    def headline(self) -> str:
        """The name of the metric that the report begins with."""
        return str(read_json(RunFolder(self.folder).metrics, ["headline"])["headline"])

    def predictions(self, split: str = "test") -> pd.DataFrame:
        """Reference and probability of every record of a split (`test`, `val`).

        Raises:
            RunError: the run predicted no such split.
        """
        return read_table(RunFolder(self.folder).predictions(split))

    @property
    def answers(self) -> pd.DataFrame:
        """predictions.csv of `mode=predict`: one row per file."""
        return read_table(self.folder / "predictions.csv")

    @property
    def report(self) -> Path:
        """The report's page."""
        return RunFolder(self.folder).report

    def show(self) -> object:
        """The report: inside a notebook as the cell's value, elsewhere in the browser."""
        if not self.report.is_file():
            raise RunError(f"{self.folder} has no report.", "mode=predict, export and verify make none.")
        if "IPython" in sys.modules:
            from IPython.display import IFrame  # whoever runs a notebook has it

            return IFrame(os.path.relpath(self.report), width="100%", height=800)  # a notebook shows what lies below it
        return webbrowser.open(self.report.resolve().as_uri())


def run(study: str, *overrides: str) -> Finished:
    """Run `python -m pipelines.<study> overrides`, show what it prints, wait for its end.

    Args:
        study: a study's name; `python -m pipelines` lists them.
        overrides: as on the command line, each a text of its own and without the shell's quotes.

    Raises:
        UserError: the mistake that the command line would answer with two lines.
        subprocess.CalledProcessError: it ended for any other reason; what it printed tells which.
    """
    given = dict(text.split("=", 1) for text in overrides if "=" in text)
    place = given.get("run") if given.get("mode") in ("report", "resume") else given.get("run_dir")
    if place is None:
        place = f"outputs/{study}/{time.strftime('%Y-%m-%d_%H-%M-%S')}"
        overrides = (*overrides, f"run_dir={place}")
    command = [sys.executable, "-u", "-m", f"pipelines.{study}", *overrides]
    last: deque[str] = deque(maxlen=2)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            last.append(line.strip())
    if process.returncode == EXIT_MISTAKE and len(last) == 2:
        raise UserError(*last)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    if place[:1] in ("'", '"') and place[-1:] == place[:1]:  # as the command line wants a path with = or , in it
        place = place[1:-1]
    return Finished(Path(place).expanduser())
