"""`python -m pipelines`, or `imaging-pipelines` where the wheel is installed: the list of studies, or one of them.

imaging-pipelines skin trainer.epochs=5        the same as python -m pipelines.skin trainer.epochs=5
"""

from __future__ import annotations

import importlib
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pipelines import __version__
from pipelines.shared.errors import nearest
from pipelines.shared.job import EXIT_MISTAKE, end_with_reader
from pipelines.shared.mode import COMMON_MODES


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the list or the version, or start a study or a tool by its name; returns the exit status.

    Args:
        arguments: those of the command line; None: take them from there.
    """
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or [""]
    commands = sorted(file.parent.name for file in Path(__file__).parent.glob("*/__main__.py"))
    if name in commands:
        # As python -m starts it: processes that it starts in its turn find its module by name.
        sys.argv[1:] = rest
        runpy.run_module(f"pipelines.{name}", run_name="__main__", alter_sys=True)
        return 0
    if name == "--version":
        print(__version__)
        return 0
    if name and name not in ("--help", "-h"):
        print(f"There is no study or tool '{name}'.\n{nearest(name, commands)}", file=sys.stderr)
        return EXIT_MISTAKE
    table = Table("python -m pipelines.…", "Study", "data=…", box=None, padding=(0, 2, 1, 0))
    for name in sorted(file.parent.name for file in Path(__file__).parent.glob("*/study.py")):
        if name == "shared":  # where a study is defined, and none
            continue
        study = importlib.import_module(f"pipelines.{name}.study").STUDY
        table.add_row(name, study.title, ", ".join(study.sources))
    console = Console()
    console.print(table)
    console.print(
        "Each runs on its phantom, a synthetic dataset, unless data=<source> data.root=<folder> say otherwise.\n"
        f"mode=… is one of {', '.join(mode.name for mode in COMMON_MODES)}, or one of the study's own.\n"
        "--help after a study's name lists its keys. python -m pipelines.compare sets runs side by side."
    )
    return 0


if __name__ == "__main__":
    if len(sys.argv) == 1:  # the list alone: a service must outlive whoever hangs up
        end_with_reader()
    sys.exit(main())
