"""WFDB annotation files (`.atr`, `.reva`, …): rhythm changes as they are written there, and the steps they label.

The format is annot(5) of the WFDB Applications Guide. It is read here and not by `wfdb.rdann`, which loops for ever on
some comments and overlooks a time resolution that is not the first annotation of the file.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipelines.ecg.labels import MASKED, RATE, STEP, Episode, step_labels
from pipelines.ecg.wfdb_files import beside, read_header
from pipelines.shared.errors import BadFile

# Codes of the format (ecgcodes.h): what an annotation is, and words that belong to the annotation before them.
ST_CHANGE, T_WAVE_CHANGE, NOTE, RHYTHM = 18, 19, 22, 28
SKIP, NUMBER, SUBTYPE, CHANNEL, AUX = 59, 60, 61, 62, 63
RESOLUTION = "## time resolution:"
SHOWN = 5  # problems of one kind that are named per file


@dataclass(frozen=True)
class Rhythms:
    """The rhythm changes of an annotation file, in its order.

    Attributes:
        seconds: when, from the recording's beginning, float64 (changes,).
        notes: such as "(AFIB"; ")" where the rhythm ends and none follows.
        annotations: how many annotations of any kind the file has.
    """

    seconds: np.ndarray
    notes: list[str]
    annotations: int


@dataclass(frozen=True)
class Labels:
    """What an annotation file says of a recording.

    Attributes:
        steps: one label per step.
        rhythms: whether there is any rhythm change; a file may hold beats alone.
        none_of_the_twelve: how many steps have a rhythm that is masked, by its note.
        problems: what is wrong with the file.
    """

    steps: list[str]
    rhythms: bool = False
    none_of_the_twelve: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    @property
    def uncovered(self) -> int:
        """Steps that no rhythm covers: before the first one, or after one that is closed."""
        return self.steps.count(MASKED) - self.none_of_the_twelve.total() if self.rhythms else 0


def wfdb_labels(stem: Path, extension: str, steps: int, classes: Mapping[str, str | None]) -> Labels:
    """Labels of all steps of a recording from an annotation file.

    Args:
        stem: the record without suffix.
        extension: of the annotation file.
        steps: of the recording; 0 where it cannot be read, which will be said elsewhere.
        classes: rhythm note -> class, None for a rhythm that is none of the twelve.
    """
    if not steps:
        return Labels([])
    try:
        rhythms = read_rhythms(stem, extension)
    except BadFile as reason:
        return Labels([MASKED] * steps, problems=[str(reason)])
    if rhythms.annotations == 0:
        return Labels([MASKED] * steps, problems=["it holds no annotation"])
    seconds, notes = rhythms.seconds, rhythms.notes
    where = [f"{printable(note)} at {second:,.1f} s" for note, second in zip(notes, seconds, strict=True)]
    # The end of a recording that is not a whole number of steps is not known here, only that of its last whole step.
    end = (steps + 1) * STEP / RATE
    problems = [
        *_first("unknown rhythm", [w for w, n in zip(where, notes, strict=True) if n != ")" and n not in classes]),
        *_first("before the recording's beginning:", [w for w, s in zip(where, seconds, strict=True) if s < 0]),
        *_first("beyond the end of the recording:", [w for w, s in zip(where, seconds, strict=True) if s >= end]),
        *_first("not in the order of time:", [where[i + 1] for i in np.flatnonzero(np.diff(seconds) < 0)]),
    ]
    if problems:
        return Labels([MASKED] * steps, True, problems=problems)
    named = step_labels(*_course(np.round(seconds * RATE).astype(int).tolist(), notes), steps)
    other = Counter(note for note in named if note != MASKED and classes[note] is None)
    return Labels([classes.get(note) or MASKED for note in named], bool(notes), other)


def _course(samples: Sequence[int], notes: Sequence[str]) -> tuple[list[int], list[str]]:
    """Onsets and rhythms, `MASKED` from where a rhythm is closed to where the next one begins.

    Where one rhythm ends at the sample at which the next begins, the two annotations may stand in either order.
    """
    onsets: list[int] = []
    rhythms: list[str] = []
    for sample, note in zip(samples, notes, strict=True):
        begun_now = bool(onsets) and onsets[-1] == sample and len(rhythms) > 1 and rhythms[-2] != MASKED
        if note == ")" and begun_now:
            continue
        onsets.append(sample)
        rhythms.append(MASKED if note == ")" else note)
    return onsets, rhythms


def _first(what: str, items: Sequence[str]) -> list[str]:
    """The first few of many like problems; a damaged file may have thousands."""
    more = [f"{what} {items[SHOWN]} and {len(items) - SHOWN:,} more"] if len(items) > SHOWN else []
    return [*(f"{what} {item}" for item in items[:SHOWN]), *more]


def printable(note: str) -> str:
    """A note as it can be shown on any screen."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in note)


def read_rhythms(stem: Path, extension: str) -> Rhythms:
    """The rhythm changes of an annotation file.

    Rhythm changes are the annotations whose note begins with "(" and those of their own kind ("+"); changes of ST
    segment and T wave are written alike, but are none. ")" closes a rhythm, also with its name before it, as in
    "AFIB)". Times count in the file's own resolution where it names one, else in the header's sampling frequency.

    Raises:
        BadFile: missing, damaged or cut off, or a time resolution that cannot be.
    """
    file = stem.with_name(f"{stem.name}.{extension}")
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        raise BadFile("it does not exist") from None
    except OSError as failure:
        raise BadFile(f"it cannot be read: {failure.strerror}") from None
    entries = _annotations(content)
    resolutions = {note for time, kind, note in entries if kind == NOTE and time == 0 and note.startswith(RESOLUTION)}
    if len(resolutions) > 1:
        raise BadFile(f"several time resolutions: {'; '.join(sorted(map(printable, resolutions)))}")
    rate = _resolution(resolutions.pop()) if resolutions else _header_rate(stem)
    changes = [
        (time, ")" if _closes(note) else note)
        for time, kind, note in entries
        if kind not in (ST_CHANGE, T_WAVE_CHANGE) and (note.startswith("(") or note == ")" or (kind == RHYTHM and note))
    ]
    about_the_file = sum(kind == NOTE and time == 0 and note.startswith("##") for time, kind, note in entries)
    seconds = np.array([time for time, _ in changes], float) / rate
    return Rhythms(seconds, [note for _, note in changes], len(entries) - about_the_file)


def _closes(note: str) -> bool:
    return note.endswith(")") and "(" not in note


def _resolution(note: str) -> float:
    """Ticks per second, from the note that names them.

    Raises:
        BadFile: it is no positive number.
    """
    text = note.removeprefix(RESOLUTION).strip()
    try:
        rate = float(text)
    except ValueError:
        rate = math.nan
    if not 0 < rate < math.inf:
        raise BadFile(f"its time resolution is {printable(text)!r}, which is no rate")
    return rate


def _header_rate(stem: Path) -> float:
    """The sampling frequency of a header, Hz: that of its frames, in which annotations count.

    Raises:
        BadFile: there is none that can be read.
    """
    try:
        return read_header(beside(stem, "hea")).rate
    except BadFile as reason:
        raise BadFile(f"neither it nor its header names a time resolution: {reason}") from None


def _annotations(content: bytes) -> list[tuple[int, int, str]]:
    """(time in ticks, kind, note) of every annotation: 16-bit words, 6 bits of kind above 10 bits of time passed.

    Raises:
        BadFile: damaged or cut off.
    """
    if not content:
        return []
    if len(content) % 2:
        raise BadFile("cut off: its last word is half")
    words = np.frombuffer(content, "<u2").tolist()
    annotations: list[tuple[int, int, str]] = []
    time = word = 0
    try:
        while words[word]:
            kind, value = words[word] >> 10, words[word] & 0x3FF
            word += 1
            if kind == SKIP:  # the time passed is too long for 10 bits: 32 follow, the high ones first
                passed = words[word] << 16 | words[word + 1]
                time += passed - (1 << 32) * (passed >> 31)
                word += 2
            elif kind == AUX:
                length = value & 0xFF
                text = content[2 * word : 2 * word + length].decode("latin-1")
                word += (length + 1) // 2
                annotations[-1] = (*annotations[-1][:2], text.partition("\0")[0].strip())
            elif kind not in (NUMBER, SUBTYPE, CHANNEL):
                time += value
                annotations.append((time, kind, ""))
    except IndexError:
        raise BadFile("cut off or damaged: its end mark is missing") from None
    if any(words[word:]):
        raise BadFile("damaged: more follows after its end mark")
    return [annotation for annotation in annotations if annotation[1]]  # kind 0 is no annotation


def write_rhythms(stem: Path, extension: str, episodes: Sequence[Episode], notes: dict[str, str], rate: float) -> None:
    """Write episodes as rhythm changes (symbol "+", the note in `aux_note`) beside the recording `stem`."""
    import wfdb

    samples = np.array([round(e.start * rate / RATE) for e in episodes], dtype=np.int64)
    text = [notes[e.rhythm] for e in episodes]
    wfdb.wrann(stem.name, extension, samples, ["+"] * len(episodes), aux_note=text, fs=rate, write_dir=str(stem.parent))
