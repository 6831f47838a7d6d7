"""What a run says: on the screen as it is, in run.log with the time."""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from pathlib import Path

log = logging.getLogger("pipelines")


class _RunLog(logging.FileHandler):
    """A run.log that is silent on a full disk: the next file of the run that cannot be written says it."""

    def handleError(self, record: logging.LogRecord) -> None:
        pass

    def close(self) -> None:
        with suppress(OSError):
            super().close()


def start_log(folder: Path | None, quiet: bool = False) -> None:
    """Send messages to the screen, and to `folder/run.log` if a folder is given. Called once per job."""
    for handler in list(log.handlers):
        log.removeHandler(handler)
        handler.close()
    log.setLevel(logging.INFO)
    log.propagate = False
    screen = logging.StreamHandler(sys.stdout)
    screen.setLevel(logging.WARNING if quiet else logging.INFO)
    log.addHandler(screen)
    if folder is not None:
        file = _RunLog(folder / "run.log", encoding="utf-8")
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        log.addHandler(file)


def log_failure(message: str) -> None:
    """Write into run.log alone; the screen gets a failure from the command line."""
    record = log.makeRecord(log.name, logging.ERROR, "", 0, message, (), None)
    for handler in log.handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(record)
