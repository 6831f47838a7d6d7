"""The layout of the published test set of Hannun et al. 2019: raw signals, and episodes of rhythms in JSON.

    <id>.ecg                        int16, little-endian, 200 Hz, one lead
    <id>_grp[0-2].episodes.json     the committee's consensus
    <id>_rev[0-5].episodes.json     six cardiologists, each on their own

An episode has `onset` and `offset`, samples from 1, and `rhythm_name`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any

from pipelines.ecg.config import CLASSES
from pipelines.ecg.labels import MASKED, RATE, STEP, step_labels
from pipelines.shared.data.tables import RowProblem
from pipelines.shared.errors import DataError
from pipelines.shared.files import find_files


@dataclass(frozen=True)
class Readings:
    """Labels of every step, by record: the committee's, and each reader's by the reader's name; what is wrong."""

    records: list[str]
    committee: dict[str, list[str]]
    readers: dict[str, dict[str, list[str]]]
    notes: list[str]
    problems: list[str]


def read_irhythm(folder: Path, names: Mapping[str, str]) -> Readings:
    """All labels of a folder.

    Args:
        folder: with the files above, in it or below; a record that lies below is named by its path.
        names: rhythm names that are not those of the classes -> class.

    Raises:
        DataError: no records.
    """
    records = sorted(str(f.with_suffix("")) for f in find_files(folder) if f.suffix == ".ecg")
    if not records:
        raise DataError(f"{folder} holds no .ecg file.", "Give the folder with <id>.ecg and <id>_*.episodes.json.")
    known = {name: name for name in CLASSES} | dict(names)
    committee: dict[str, list[str]] = {}
    readers: dict[str, dict[str, list[str]]] = {}
    problems: list[str] = []
    several = rest = twice = 0
    for record in records:
        samples = (folder / f"{record}.ecg").stat().st_size // 2
        rest += samples % STEP
        committee[record] = [MASKED] * (samples // STEP)
        beside = f"{escape(record)}_{{}}*.episodes.json"
        consensus = sorted(folder.glob(beside.format("grp")))
        several += len(consensus) > 1
        if not consensus:
            text = f"{record}: no {record}_grp*.episodes.json, so nobody's consensus is known"
            problems.append(RowProblem(text, record))
        readers[record] = {}
        for file in [*consensus[:1], *sorted(folder.glob(beside.format("rev")))]:
            labels, who, mistakes = read_episodes(file, samples, known)
            problems += [RowProblem(f"{file.name}: {p}", record) for p in mistakes]
            if file in consensus:
                committee[record] = labels
                continue
            if who in readers[record]:
                twice += 1
                who = f"{who}, {file.name.split('.')[0].rpartition('_')[2]}"
            readers[record][who] = labels
    notes = [
        f"Only whole steps of {STEP / RATE:g} s are used: {rest / RATE:,.1f} s at the ends of {len(records):,} "
        "recordings are left out."
    ]
    if twice:
        notes.append(f"{twice} readings are by a cardiologist who has read that record already; each counts by itself.")
    if several:
        notes.append(f"{several} records have more than one consensus; the first is used.")
    return Readings(records, committee, readers, notes, problems)


def read_episodes(file: Path, samples: int, known: Mapping[str, str]) -> tuple[list[str], str, list[str]]:
    """One file of episodes.

    Args:
        file: the JSON.
        samples: length of the record, at 200 Hz.
        known: rhythm name -> class.

    Returns:
        One label per step; who read it; what is wrong. Steps after the last offset are masked.
    """
    nothing = [MASKED] * (samples // STEP)
    try:
        content: Any = json.loads(file.read_text(encoding="utf-8-sig"))
        rows = [(int(e["onset"]), int(e["offset"]), str(e["rhythm_name"])) for e in content["episodes"]]
        reviewer = content.get("reviewer_id")
    except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError) as failure:
        return nothing, "", [f"cannot be read as episodes: {type(failure).__name__} {failure}"]
    if not rows:
        return nothing, "", ["it has no episodes"]
    if reviewer is None:  # then by the file's own number: rev0 to rev5
        reviewer = file.name.split(".")[0].rpartition("_")[2]
    problems: list[str] = []
    onsets: list[int] = []
    rhythms: list[str] = []
    last = 0
    rows.sort()
    for onset, offset, name in rows:
        what = f"{name} from {onset} to {offset}"
        if name not in known:
            problems.append(f"unknown rhythm name {name} (from {onset} to {offset})")
        if onset < 1 or offset < onset:
            problems.append(f"{what} is no episode: onset and offset are samples from 1")
        elif onset < last:  # that one ends at the sample at which the next begins is a matter of counting
            problems.append(f"{what} overlaps the episode before it, which ends at {last}")
        if offset > samples:
            problems.append(f"{what} ends beyond the record's {samples} samples")
        last = max(last, offset)
        onsets += [onset - 1, offset]  # what lies between two episodes was labelled by nobody
        rhythms += [known.get(name, MASKED), MASKED]
    if problems:
        return nothing, str(reviewer), problems
    labels = step_labels(onsets, rhythms, last // STEP)
    return (labels + nothing)[: len(nothing)], str(reviewer), problems
