"""Errors that a user can act on.

A `UserError` is answered in two lines without a traceback and exit status 2: what is wrong (the key or
file and what was found) and what to do about it (what is allowed, the nearest name). Anything else that is
raised is a bug and keeps its traceback.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from difflib import get_close_matches

LONGEST_LINE = 2_000  # characters of a message's line, whatever a damaged file makes it quote


class UserError(Exception):
    """A mistake in what the user gave. `problem` names it, `remedy` says what to do."""

    def __init__(self, problem: str, remedy: str) -> None:
        problem, remedy = ("\n".join(shortened(line) for line in text.split("\n")) for text in (problem, remedy))
        super().__init__(problem, remedy)  # as it was called, so that it can come back from another process
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.problem}\n{self.remedy}"


class ConfigError(UserError):
    """A key or value of the configuration."""


class DataError(UserError):
    """A dataset: its folder, tables or files."""


class RunError(UserError):
    """A run folder: missing, unfinished, or of another study."""


class WeightsError(UserError):
    """Network weights that were asked for and cannot be had."""


class MissingPackage(UserError):
    """A package that is not installed. No file's fault: it ends what would otherwise find every file bad."""


class BadFile(Exception):
    """One file that cannot be read. The message is the reason, one line, without the file's name.

    Collected per file, so that a run names all bad files at once instead of stopping at the first.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(shortened(" ".join(reason.split())))  # it may quote the file


class UnusableRecord(BadFile):
    """A record that can be read but that the study's protocol has no use for, such as a photograph without a fundus.

    Never stops a run: it is counted, listed and left out. `metadata` is what is known of it all the same.
    """

    def __init__(self, reason: str, metadata: dict[str, object] | None = None) -> None:
        super().__init__(reason)
        self.metadata = metadata or {}


def reason_of(failure: BaseException) -> str:
    """Why one file of many could not be used, in words, whatever it raised: one file never ends a batch."""
    if isinstance(failure, BadFile):
        return str(failure)
    if isinstance(failure, UserError):
        return f"{failure.problem} {failure.remedy}"
    if isinstance(failure, MemoryError):
        return "needs more memory than there is"
    if type(failure).__name__ == "OutOfMemoryError":  # torch's, which is not imported for its sake
        return "needs more memory than the device has; trainer.device=cpu uses the computer's own"
    if isinstance(failure, OSError):
        return f"cannot be read: {failure.strerror or type(failure).__name__}"
    text = " ".join(str(failure).split())[:200]
    return f"cannot be read: {type(failure).__name__}{': ' + text if text else ''}"


# What a disk answers where nothing is wrong with the program, and what helps.
_ROOM = "Free some space and start again; what had begun training goes on with mode=resume run=<its folder>."
_PLACE = "Choose a place that can be written: run_dir=<folder> for a new run, cache.dir=<folder> for what is cached."
_DISK = {
    errno.ENOSPC: ("no space left on the disk", _ROOM),
    errno.EDQUOT: ("the disk quota is used up", _ROOM),
    errno.EFBIG: (
        "the file grew larger than this system allows",
        "Raise the limit (ulimit -f) and start again; what had begun training goes on with mode=resume "
        "run=<its folder>.",
    ),
    errno.EROFS: ("the disk is read-only", _PLACE),
    errno.EACCES: ("permission denied", _PLACE),
    errno.EPERM: ("not permitted", _PLACE),
    errno.ENOTDIR: ("a part of its path is a file, not a folder", _PLACE),
    errno.ENAMETOOLONG: ("the name is too long for this disk", _PLACE),
    errno.EIO: ("the disk reports a fault", "Look after the disk, then start again."),
}
# The same where a library reports a failed write in words of its own: torch, safetensors, numpy.
_UNFINISHED_WRITE = ("No space left", "file write failed", "unexpected pos", "File too large", " requested and ")


def disk_failure(failure: BaseException) -> tuple[str, str] | None:
    """Why the disk refused and what to do, if that is what a failure tells; None for any other failure."""
    if isinstance(failure, OSError) and failure.errno in _DISK:
        return _DISK[failure.errno]
    text = str(failure)
    if "File too large" in text:
        return _DISK[errno.EFBIG]
    of_a_writer = isinstance(failure, (OSError, RuntimeError)) or type(failure).__name__ == "SafetensorError"
    if of_a_writer and any(words in text for words in _UNFINISHED_WRITE):
        room = _ROOM.replace("Free some space", "Free some space, or raise the limit (ulimit -f),")
        return "no space left on the disk, or the file grew larger than this system allows", room
    return None


class StatisticsError(ValueError):
    """A statistic that is undefined on this input; the message is the reason."""


def nearest(name: str, allowed: Iterable[str], count: int = 3) -> str:
    """'Did you mean …?' for a mistyped name, else the list of what is allowed."""
    allowed = [str(a) for a in allowed]
    close = get_close_matches(str(name), allowed, n=count, cutoff=0.5)
    if close:
        return f"Did you mean {' or '.join(close)}?"
    shown = ", ".join(allowed[:20]) + (", …" if len(allowed) > 20 else "")
    return f"Allowed: {shown}."


def shortened(line: str) -> str:
    """A line without its middle, if it is too long to be read."""
    half = LONGEST_LINE // 2
    return line if len(line) <= LONGEST_LINE else f"{line[:half]} … {line[-half:]}"


def listed(items: Iterable[object], limit: int = 20) -> str:
    """Items one per line, indented, at most `limit` of them and then a count of the rest."""
    items = list(items)
    lines = [f"  {item}" for item in items[:limit]]
    if len(items) > limit:
        lines.append(f"  … and {len(items) - limit} more")
    return "\n".join(lines)


def counted(number: int | None, noun: str) -> str:
    """A number with its noun: 1 record, 2 records."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
