"""From annotations to one class per step of 256 samples at 200 Hz (Hannun 2019, Methods; the published label rule)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import pandas as pd

from pipelines.ecg.config import CLASSES, LabelSection

RATE = 200  # Hz
STEP = 256  # samples: 1.28 s

# What a step may be besides one of the classes, in the record table and as a code of the network's targets.
MASKED = "?"  # there is a signal, but nobody said what it is, or it is none of the classes
UNLABELLED = "-"  # a step of a recording that has one label as a whole
ABSENT = "."  # no step of this window: padding, or counted in the window before
CODES = {name: i for i, name in enumerate(CLASSES)} | {MASKED: -1, UNLABELLED: -2, ABSENT: -3}

# How the classes are written in aux_note: the words of the MIT-BIH database where it has one.
NOTES = {
    "AF": "(AFIB",
    "AVB": "(BII",
    "BIGEMINY": "(B",
    "EAR": "(EAR",
    "IVR": "(IVR",
    "JUNCTIONAL": "(NOD",
    "NOISE": "(NOISE",
    "SINUS": "(N",
    "SVT": "(SVTA",
    "TRIGEMINY": "(T",
    "VT": "(VT",
    "WENCKEBACH": "(WENCKEBACH",
    MASKED: "(UNREADABLE",
}


@dataclass(frozen=True)
class Episode:
    """A stretch of one rhythm. Samples at 200 Hz, from 0; `end` is the first sample that is no longer part of it."""

    start: int
    end: int
    rhythm: str


def nearest_step(sample: int) -> int:
    """The step boundary nearest to a sample (from 0); halfway between two the later one."""
    return (sample + STEP // 2) // STEP


def step_labels(onsets: Sequence[int], rhythms: Sequence[str], steps: int) -> list[str]:
    """One label per step: onsets are moved to the nearest boundary, an episode ends where the next one begins.

    Args:
        onsets: first samples of the episodes at 200 Hz, from 0, ascending.
        rhythms: their labels.
        steps: of the recording; what lies outside is cut off, steps before the first onset are `MASKED`.

    Returns:
        Exactly `steps` labels.
    """
    labels = [MASKED] * steps
    bounds = [min(max(nearest_step(onset), 0), steps) for onset in onsets] + [steps]
    for begin, end, rhythm in zip(bounds, bounds[1:], rhythms, strict=False):
        labels[begin:end] = [rhythm] * max(0, end - begin)
    return labels


def pack(labels: Sequence[str]) -> str:
    """Labels as run lengths, for the record table: 'SINUS:12 AF:11'."""
    return " ".join(f"{name}:{len(list(run))}" for name, run in groupby(labels))


def unpack(text: str) -> list[str]:
    """The inverse of `pack`."""
    runs = (part.rpartition(":") for part in text.split())
    return [name for name, _, count in runs for _ in range(int(count))]


def step_codes(texts: Sequence[str], steps: int) -> np.ndarray:
    """Packed labels as int (windows, steps): position in `CLASSES`, or a negative code of `CODES`."""
    table = np.full((len(texts), steps), CODES[ABSENT])
    for row, text in zip(table, texts, strict=True):
        labels = unpack(text)
        row[: len(labels)] = [CODES[name] for name in labels]
    return table


def known_codes(records: pd.DataFrame) -> np.ndarray:
    """`step_codes` of a record table; steps whose signal has a gap (`lost_steps`, from `data.prepare`) are masked."""
    table = step_codes(list(records["rhythms"]), int(records["steps"].max()))
    for row, lost in zip(table, records.get("lost_steps", [None] * len(records)), strict=True):
        if isinstance(lost, str):
            steps = [int(step) for step in lost.split()]
            row[steps] = np.where(row[steps] == CODES[ABSENT], CODES[ABSENT], CODES[MASKED])
    return table


def episodes(labels: Sequence[str]) -> list[Episode]:
    """Runs of equal labels as episodes."""
    rows, first = [], 0
    for name, run in groupby(labels):
        length = len(list(run))
        rows.append(Episode(first * STEP, (first + length) * STEP, name))
        first += length
    return rows


def windows(steps: int, size: int) -> list[tuple[int, int]]:
    """Windows of `size` steps over a recording: (first step, steps at its beginning that the one before has counted).

    The last window is moved back so that it is full; only a recording that is shorter than a window is padded.
    """
    count = max(1, -(-steps // size))
    starts = [min(k * size, max(0, steps - size)) for k in range(count)]
    return [(start, k * size - start) for k, start in enumerate(starts)]


def window_labels(labels: Sequence[str], start: int, counted: int, size: int) -> str:
    """The packed labels of one window."""
    in_window = list(labels[start : start + size])
    return pack([ABSENT] * counted + in_window[counted:])


def record_words(labels: LabelSection) -> list[str]:
    """The labels that a whole recording may have: those of `labels.record`, then the classes themselves."""
    return [*labels.record, *(name for name in CLASSES if name not in labels.record)]


def membership(labels: LabelSection) -> np.ndarray:
    """Which classes each of `record_words` allows: float32 (words, 12), 0 or 1."""
    allowed = [labels.record.get(word, [word]) for word in record_words(labels)]
    return np.array([[float(name in names) for name in CLASSES] for names in allowed], np.float32)


def carried(records: pd.DataFrame) -> list[set[str]]:
    """The labels that each row carries: classes of its steps, and `record <label>` for that of its whole recording."""
    sets = []
    for text, label in zip(records["rhythms"], records["record_label"], strict=True):
        names = {part.rpartition(":")[0] for part in text.split()}
        sets.append({n for n in names if CODES[n] >= 0} | ({f"record {label}"} if isinstance(label, str) else set()))
    return sets


def labelled(records: pd.DataFrame) -> np.ndarray:
    """Which rows carry any label, bool (rows,); steps that are masked carry none."""
    return np.array([bool(names) for names in carried(records)])


def strata(records: pd.DataFrame) -> pd.Series:
    """For a balanced split: the rank of each patient's rarest rhythm, the rarest highest; NaN where nothing is known.

    A rhythm that is the rarest of fewer than three patients cannot be divided into three parts, so those patients go by
    their next rarest.

    Args:
        records: with the columns group, rhythms (packed) and record_label.
    """
    names_of: dict[str, set[str]] = {}
    for group, names in zip(records["group"], carried(records), strict=True):
        names_of.setdefault(str(group), set()).update(names)
    carriers = pd.Series([name for names in names_of.values() for name in names], dtype=object).value_counts()
    usual = sorted(carriers.index, key=lambda name: (-carriers[name], name))  # the most usual first
    usable = set(usual)
    while True:
        rarest = {
            group: max((n for n in names if n in usable), key=usual.index, default=None)
            for group, names in names_of.items()
        }
        sizes = pd.Series([n for n in rarest.values() if n is not None], dtype=object).value_counts()
        small = set(sizes.index[sizes < 3])
        if not small:
            break
        usable -= small
    rank = {name: float(place) for place, name in enumerate(usual)}
    return records["group"].astype(str).map({g: rank[n] for g, n in rarest.items() if n is not None}).astype(float)
