"""The modes of a study: what each does, what may be set in it, and the function that runs it. No torch.

Help, checks and dispatch take them from here. A study's own modes are `MODES` of its config.py.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass

HERE = "pipelines.shared.cli.modes"


@dataclass(frozen=True)
class Mode:
    """What `mode=<name>` does.

    Attributes:
        name: as it is given.
        takes: what is given with it, for help.
        help: what it does, in one line.
        function: `module:name` of a function of study and job; its module is imported when the mode runs.
        one_process: one process does the work: of several that torchrun or srun started, the others end at once.
        beside_run: what may be set beside the finished run that it works on, as everything else is part of what that
            run is; None: it works on no finished run.
        keys: all keys that count in it; None: any.
    """

    name: str
    takes: str
    help: str
    function: str
    one_process: bool = False
    beside_run: tuple[str, ...] | None = None
    keys: tuple[str, ...] | None = None


TRAIN = Mode("train", "(default)", "fit, choose thresholds on val, score test once, report", f"{HERE}:train")
EVALUATE = Mode(
    "evaluate",
    "run=<folder> data=<source>",
    "apply a finished run to another dataset, thresholds frozen (with recalibrate=<share> new ones too)",
    f"{HERE}:external_validation",
    beside_run=("data", "recalibrate", "cache", "statistics", "trainer.device", "trainer.workers", "run_dir", "track"),
)
PREDICT = Mode(
    "predict",
    "run=<folder> input=<path>",
    "score a file, a folder, or the files that a table names",
    f"{HERE}:predict_files",
    beside_run=("input", "cache", "trainer.device", "trainer.workers", "run_dir"),
)
SERVE = Mode(
    "serve",
    "run=<folder>",
    "the run behind HTTP, with a page to try it",
    f"{HERE}:serve",
    one_process=True,
    beside_run=("serve", "cache", "trainer.device", "run_dir"),
)
EXPORT = Mode(
    "export",
    "run=<folder>",
    "its networks as ONNX, checked against torch on its test records",
    f"{HERE}:export",
    one_process=True,
    beside_run=("cache", "trainer.device", "trainer.workers", "run_dir"),
)
VERIFY = Mode(
    "verify",
    "data=<source> data.root=<folder>",
    "check a dataset folder, list all problems",
    f"{HERE}:verify",
    one_process=True,
)
RESUME = Mode(
    "resume",
    "run=<folder>",
    "go on with a run that was cut off",
    f"{HERE}:train",
    beside_run=("cache", "trainer.device", "trainer.workers", "track"),
)
REPORT = Mode(
    "report",
    "run=<folder>",
    "compute metrics and report again from the run's own files",
    f"{HERE}:report",
    one_process=True,
    beside_run=(),
)
COMMON_MODES = [TRAIN, EVALUATE, PREDICT, SERVE, EXPORT, VERIFY, RESUME, REPORT]


def modes_of(study: str) -> dict[str, Mode]:
    """The modes of a study by name: those that all have, then its own; one of the same name stands in for it."""
    own: list[Mode] = getattr(importlib.import_module(f"pipelines.{study}.config"), "MODES", [])
    return {mode.name: mode for mode in [*COMMON_MODES, *own]}


def help_of(study: str) -> str:
    """What `--help` says of the modes of a study, a line each."""
    modes = {f"{mode.name} {mode.takes}": mode.help for mode in modes_of(study).values()}
    width = max(map(len, modes))
    lines = [f"{given:<{width}} {what}" for given, what in modes.items()]
    return "modes   " + "\n        ".join(lines)
