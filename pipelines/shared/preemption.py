"""SIGTERM, as a scheduler sends it to a job it takes the machine from: save, then exit with "resume me" (75)."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from pipelines.shared.job import EXIT_RESUME_ME

_state = {"requested": False, "deferring": False}


def install() -> None:
    """Answer SIGTERM from now on. Outside `deferred()` all files are whole at any moment, so it exits at once."""

    def handler(number: int, frame: FrameType | None) -> None:
        _state["requested"] = True
        if not _state["deferring"]:
            raise SystemExit(EXIT_RESUME_ME)

    _state["requested"] = False
    signal.signal(signal.SIGTERM, handler)


@contextmanager
def deferred() -> Iterator[None]:
    """Within this block SIGTERM only sets a flag; the block asks `requested()` and saves first."""
    _state["deferring"] = True
    try:
        yield
    finally:
        _state["deferring"] = False
    if _state["requested"]:
        raise SystemExit(EXIT_RESUME_ME)


def requested() -> bool:
    """Whether SIGTERM has come."""
    return _state["requested"]
