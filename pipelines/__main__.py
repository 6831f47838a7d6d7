"""`python -m pipelines`: the studies, what each reads, and how it is started."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pipelines import __version__
from pipelines.shared.job import COMMON_MODES


def main(arguments: list[str]) -> int:
    """Print the list, or the version; returns the exit status."""
    if arguments == ["--version"]:
        print(__version__)
        return 0
    if arguments:
        print(
            f"python -m pipelines takes no '{arguments[0]}'.\nStart a study with python -m pipelines.<study>; without "
            "arguments this lists them.",
            file=sys.stderr,
        )
        return 2
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
        f"mode=… is one of {', '.join(COMMON_MODES)}, or one of the study's own.\n"
        "--help after a study's name lists its keys. python -m pipelines.compare sets runs side by side."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
