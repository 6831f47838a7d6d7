"""`python -m pipelines`, or `imaging-pipelines` where the wheel is installed: the list of studies, or one of them.

imaging-pipelines skin trainer.epochs=5        the same as python -m pipelines.skin trainer.epochs=5
"""

from __future__ import annotations

import importlib
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from pipelines import __version__
from pipelines.shared.errors import nearest
from pipelines.shared.job import EXIT_MISTAKE, end_with_reader
from pipelines.shared.mode import COMMON_MODES

TOOLS = {
    "compare": "finished runs or sweeps side by side",
    "networks": "what networks cost on this machine",
    "publish": "a finished run as others may use it",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the list or the version, or start a study or a tool by its name; returns the exit status.

    Args:
        arguments: those of the command line; None: take them from there.
    """
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or [""]
    here = Path(__file__).parent
    commands = sorted(file.parent.name for file in here.glob("*/__main__.py"))
    studies = [command for command in commands if (here / command / "study.py").is_file()]
    if name in commands:
        # As python -m starts it: processes that it starts in its turn find its module by name.
        sys.argv[1:] = rest
        runpy.run_module(f"pipelines.{name}", run_name="__main__", alter_sys=True)
        return 0
    if name == "--version":
        print(__version__)
        return 0
    if name in ("--completion", "--complete"):
        from pipelines.shared.cli.completion import completions, script

        print("\n".join(completions(" ".join(rest), commands, studies)) if name == "--complete" else script())
        return 0
    if name and name not in ("--help", "-h"):
        print(f"There is no study or tool '{name}'.\n{nearest(name, commands)}", file=sys.stderr)
        return EXIT_MISTAKE
    print(overview(studies, [command for command in commands if command not in studies]))
    return 0


def overview(studies: Sequence[str], tools: Sequence[str]) -> str:
    """The list of studies with their sources, and how to go on."""
    lines = ["Studies, each with what data=… may be:", ""]
    for name in studies:
        study = importlib.import_module(f"pipelines.{name}.study").STUDY
        lines += [f"{name:<15}{study.title}", f"{'':<15}{', '.join(study.sources)}"]
    start = "imaging-pipelines " if Path(sys.argv[0]).stem == "imaging-pipelines" else "python -m pipelines."
    modes = ", ".join(mode.name for mode in COMMON_MODES)
    usage = {
        "<study>": "on its phantom, synthetic data: minutes, offline",
        "<study> data=<source> data.root=<folder>": "on a dataset",
        "<study> mode=<mode> …": "what else it does, mostly with a finished run",
        "<study> --help": "its modes, and every key with its value",
        **{f"{tool} --help": TOOLS.get(tool, "") for tool in tools},
    }
    width = max(map(len, usage)) + 2
    lines += ["", *(f"{start}{command:<{width}}{what}" for command, what in usage.items())]
    lines += ["", f"Modes of every study: {modes}; --help lists its own too."]
    return "\n".join([*lines, f'Completion in bash: eval "$({start.rstrip(" .")} --completion)"'])


if __name__ == "__main__":
    if len(sys.argv) == 1:  # the list alone: a service must outlive whoever hangs up
        end_with_reader()
    sys.exit(main())
