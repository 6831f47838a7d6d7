"""WFDB databases with rhythm annotations: the phantom, the MIT-BIH Arrhythmia Database, and any other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipelines.ecg import signals
from pipelines.ecg.config import EcgConfig
from pipelines.ecg.labels import MASKED, RATE, STEP, step_labels, window_labels, windows
from pipelines.ecg.rows import beyond, finish, open_or_none, rest_note, window_rows
from pipelines.shared.errors import BadFile, DataError
from pipelines.shared.records import Source, raise_problems
from pipelines.shared.screen import track


def wfdb_database(
    root: Path,
    config: EcgConfig,
    name: str,
    patients: pd.DataFrame | None = None,
    same_patient: Sequence[Sequence[str]] = (),
) -> Source:
    """A WFDB database whose `.atr` files hold rhythm changes in `aux_note`.

    Records are those that RECORDS names, else all. Files `.reva`, `.revb`, … are the readings of single readers.

    Raises:
        DataError: no records; every annotation that is unknown, unordered or beyond its record's end.
    """
    size, notes_to_classes = config.preprocess.steps, config.labels.wfdb
    stems, unannotated = _wfdb_stems(root)
    readers_of: dict[Path, list[str]] = {}
    for file in root.rglob("*.rev[a-z]"):
        readers_of.setdefault(file.with_suffix(""), []).append(file.suffix[1:])
    person = {member: "+".join(members) for members in same_patient for member in members}
    about = {} if patients is None else patients.set_index("record").to_dict("index")
    rows: list[dict[str, Any]] = []
    readings: list[dict[str, Any]] = []
    problems: list[str] = []
    unmapped: Counter[str] = Counter()
    rest = 0
    for stem in track(stems, f"Reading annotations of {name}", len(stems)):
        header = stem.with_suffix(".hea")
        recording = open_or_none(header, config)
        steps, rate = (recording.steps, recording.rate) if recording else (0, 0.0)
        rest += beyond(recording)
        record = str(stem.relative_to(root))
        more = {str(k): v for k, v in about.get(record, {}).items()}
        group = str(more.pop("patient", person.get(stem.name, record)))
        place = {
            "record": record,
            "group": group,
            "path": str((recording.file if recording else header).relative_to(root)),
            "header": str(header.relative_to(root)),
        }
        labels, other, found = wfdb_labels(stem, "atr", steps, rate, notes_to_classes)
        problems += [f"{record}.atr: {p}" for p in found]
        unmapped.update(other)
        mine = window_rows(place, steps, size, labels, more)
        rows += mine
        for extension in sorted(readers_of.get(stem, [])):
            read, _, found = wfdb_labels(stem, extension, steps, rate, notes_to_classes)
            problems += [f"{record}.{extension}: {p}" for p in found]
            for row, (start, counted) in zip(mine, windows(steps, size), strict=True):
                texts = window_labels(read, start, counted, size)
                readings.append({"id": row["id"], "reader": extension, "rhythms": texts})
    known = ", ".join(f"{note} {target or 'masked'}" for note, target in notes_to_classes.items())
    raise_problems(
        problems,
        str(root),
        "Correct the files, or say what the rhythm is, as in 'labels.wfdb={\\(XYZ: SVT}' (null: masked). "
        f"Known: {known}.",
    )
    notes = rest_note(rest, len(stems))
    if unannotated:
        notes.append(f"{unannotated} recordings have no .atr file and are not used.")
    if unmapped:
        shown = ", ".join(f"{note} {count * STEP / RATE:,.0f} s" for note, count in sorted(unmapped.items()))
        notes.append(f"Rhythms that are none of the twelve classes are masked: {shown}.")
    readers = pd.DataFrame(readings) if readings else None
    return Source(name, name == "phantom", root, finish(rows, config), "patient", readers, notes)


def wfdb_labels(
    stem: Path, extension: str, steps: int, rate: float, classes: Mapping[str, str | None]
) -> tuple[list[str], Counter[str], list[str]]:
    """Labels of all steps from an annotation file.

    Args:
        stem: the record without suffix.
        extension: of the annotation file.
        steps: of the record.
        rate: Hz, of the record: annotation files count its samples.
        classes: rhythm note -> class, None for a rhythm that is none of the twelve.

    Returns:
        One label per step; how many steps have a rhythm that is none of the twelve, by its note; what is wrong.
    """
    if not rate:  # the record cannot be read, and that will be said
        return [MASKED] * steps, Counter(), []
    try:
        samples, notes, _ = signals.read_rhythms(stem, extension)
    except BadFile as reason:
        return [MASKED] * steps, Counter(), [str(reason)]
    problems = [
        f"unknown rhythm {note} at {sample / rate:.1f} s"
        for sample, note in zip(samples, notes, strict=True)
        if note not in classes
    ]
    if (np.diff(samples) < 0).any():
        problems.append("its rhythm changes are not in the order of time")
    onsets = np.round(samples * RATE / rate).astype(int).tolist()
    if onsets and onsets[-1] >= (steps + 1) * STEP:
        problems.append(f"a rhythm begins at {onsets[-1] / RATE:.1f} s, beyond the end of the recording")
    labels = step_labels(onsets, [classes.get(note) or note for note in notes], steps)
    other = Counter(label for label in labels if label.startswith("("))
    return [MASKED if label.startswith("(") else label for label in labels], other, problems


def _wfdb_stems(root: Path) -> tuple[list[Path], int]:
    """The records of a database without their suffix, and how many were passed over for want of annotations."""
    listing = root / "RECORDS"
    if listing.is_file():
        names = [line.strip() for line in listing.read_text(encoding="utf-8").splitlines() if line.strip()]
        stems = [root / name for name in names]
    else:
        stems = sorted({f.with_suffix("") for kind in ("hea", "atr") for f in root.rglob(f"*.{kind}")})
    annotated = [stem for stem in stems if stem.with_suffix(".atr").is_file()]
    if not annotated:
        raise DataError(
            f"{root} holds no WFDB record with an .atr file.",
            "Give the folder that holds the .hea, .dat and .atr files of a database with rhythm annotations.",
        )
    return annotated, len(stems) - len(annotated)
