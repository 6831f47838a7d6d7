"""One validated job: its configuration, its place, and how a study's own configuration is found."""

from __future__ import annotations

import importlib
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipelines.shared.config import StudyConfig
from pipelines.shared.errors import ConfigError, UserError

EXIT_MISTAKE = 2
EXIT_RESUME_ME = 75  # EX_TEMPFAIL of sysexits.h: cut off on request, a checkpoint is written
EXIT_INTERRUPTED = 130


@dataclass(frozen=True)
class Job:
    """One validated configuration and where it runs.

    Attributes:
        config: the study's configuration.
        run_dir: the run folder.
        command: what was typed, for the report.
        sweep: the name of the sweep that it is a part of.
    """

    config: StudyConfig
    run_dir: Path
    command: str
    sweep: str | None = None


def config_model(study: str) -> type[StudyConfig]:
    """The pydantic model of a study's configuration: `CONFIG` of its config.py.

    Raises:
        ConfigError: there is no such package, or it is no study.
    """
    name = f"pipelines.{study}.config"
    try:
        model: type[StudyConfig] = importlib.import_module(name).CONFIG
    except ModuleNotFoundError as failure:
        if failure.name not in (f"pipelines.{study}", name):
            raise
        raise ConfigError(
            f"'{study}' is no study: there is no pipelines/{study}/config.py.",
            "python -m pipelines lists the studies; pipelines/shared/README.md, Adding a study, says what one needs.",
        ) from None
    return model


def predict_keys(study: str) -> list[str]:
    """Keys that say what files to be scored do not say themselves (`PREDICT_KEYS` of a study's config.py).

    They describe those files, not the finished run: its own values, of its own data, never count for others' files.
    Only a choice that has a default (the leads) stays the run's where it is not given.
    """
    return list(getattr(importlib.import_module(f"pipelines.{study}.config"), "PREDICT_KEYS", []))


def end_with_reader() -> None:
    """Let a reader that has seen enough (`--help | head`) end the program, as it ends other commands: no traceback."""
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)


def exit_on_mistake(command: Callable[[], object]) -> None:
    """Run a command; a user's mistake is two lines on standard error and its exit status."""
    try:
        command()
    except UserError as mistake:
        print(f"{mistake.problem}\n{mistake.remedy}", file=sys.stderr)
        sys.exit(EXIT_MISTAKE)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
