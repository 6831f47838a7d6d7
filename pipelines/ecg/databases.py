"""WFDB databases with rhythm annotations: the phantom, the MIT-BIH Arrhythmia Database, and any other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import pandas as pd

from pipelines.ecg.annotations import Labels, wfdb_labels
from pipelines.ecg.config import EcgConfig
from pipelines.ecg.labels import RATE, STEP, carried, window_labels, windows
from pipelines.ecg.patients import about_recordings
from pipelines.ecg.rows import beyond, finish, good_rows, open_or_none, rest_note, text_lines, window_rows
from pipelines.ecg.wfdb_files import beside, is_there
from pipelines.shared.data.records import Source
from pipelines.shared.data.tables import RowProblem, inside, raise_problems
from pipelines.shared.errors import DataError, counted
from pipelines.shared.files import find_files
from pipelines.shared.screen import track

READERS = [f".rev{letter}" for letter in ascii_lowercase]


def wfdb_database(
    root: Path,
    config: EcgConfig,
    name: str,
    patients: pd.DataFrame | None = None,
    same_patient: Sequence[Sequence[str]] = (),
    known: Sequence[Sequence[str]] = (),
) -> Source:
    """A WFDB database whose `.atr` files hold rhythm changes in `aux_note`.

    Records are those that RECORDS names, else all. Files `.reva`, `.revb`, … are the readings of single readers.

    Args:
        root: its folder.
        config: the configuration.
        name: of the source.
        patients: the patient of each recording, and more that is known of them, see `patients.read_patients`.
        same_patient: recordings of one person.
        known: the same, as the database's own description has it.

    Raises:
        DataError: no records, or none with a rhythm of the twelve classes; a list of patients that does not fit; every
            annotation file that is damaged or empty, every annotation that is unknown, unordered or outside of its
            recording.
    """
    size, classes = config.preprocess.steps, config.labels.wfdb
    stems, unannotated = _wfdb_stems(root)
    names, unused = ([_record(stem, root) for stem in some] for some in (stems, unannotated))
    about, problems = about_recordings(names, unused, patients, same_patient, known, root, config.data.on_bad_row)
    readers_of: dict[Path, list[str]] = {}
    for file in find_files(root, READERS):
        readers_of.setdefault(root / file.with_suffix(""), []).append(file.suffix[1:])
    rows: list[dict[str, Any]] = []
    readings: list[dict[str, Any]] = []
    labels_of: dict[str, Labels] = {}
    rest = 0
    for stem in track(stems, f"Reading annotations of {name}", len(stems)):
        header = beside(stem, "hea")
        recording = open_or_none(header, config)
        steps = recording.steps if recording else 0
        rest += beyond(recording)
        record = _record(stem, root)
        place = {
            "record": record,
            "path": str((recording.file if recording else header).relative_to(root)),
            "header": str(header.relative_to(root)),
        }
        labels_of[record] = wfdb_labels(stem, "atr", steps, classes)
        problems += [RowProblem(f"{record}.atr: {p}", record) for p in labels_of[record].problems]
        record_rows = window_rows(place, steps, size, labels_of[record].steps, about[record])
        rows += record_rows
        for extension in sorted(readers_of.get(stem, [])):
            read = wfdb_labels(stem, extension, steps, classes)
            problems += [RowProblem(f"{record}.{extension}: {p}", record) for p in read.problems]
            for row, (start, seen) in zip(record_rows, windows(steps, size), strict=True):
                texts = window_labels(read.steps, start, seen, size)
                readings.append({"id": row["id"], "reader": extension, "rhythms": texts})
    masks = ", ".join(f"{note} {target or 'masked'}" for note, target in classes.items())
    rows, left_out = good_rows(
        rows,
        problems,
        config,
        str(root),
        "Correct the files, or say what the rhythm is, as in 'labels.wfdb={\\(XYZ: SVT}' (null: masked). "
        f"Known: {masks}.",
    )
    records = finish(rows, config)
    labels_of = {record: labels for record, labels in labels_of.items() if record in set(records["record"])}
    about_labels = label_notes(labels_of)
    if not any(carried(records)) and any(labels.steps for labels in labels_of.values()):
        raise DataError(
            f"No recording of {name} in {root} carries a rhythm of the twelve classes. {' '.join(about_labels)}",
            "Give a database with rhythm changes in aux_note, or name its rhythms in labels.wfdb.",
        )
    notes = [*rest_note(rest, len(stems)), *about_labels]
    if unannotated:
        notes.append(f"{len(unannotated)} recordings have no .atr file and are not used.")
    readers = pd.DataFrame(readings) if readings else None
    if readers is not None:
        readers = readers[readers["id"].isin(records["id"])].reset_index(drop=True)
    return Source(name, name == "phantom", root, records, "patient", readers, notes, left_out)


def label_notes(labels_of: Mapping[str, Labels]) -> list[str]:
    """What of some recordings, by their name, carries no class, and why."""
    notes = []
    beats = [record for record, labels in labels_of.items() if labels.steps and not labels.rhythms]
    if beats:
        shown = ", ".join(beats[:5]) + (", …" if len(beats) > 5 else "")
        notes.append(f"{counted(len(beats), 'recording')} with annotations of beats but of no rhythm: masked: {shown}.")
    uncovered = sum(labels.uncovered for labels in labels_of.values())
    if uncovered:
        seconds = uncovered * STEP / RATE
        notes.append(f"{seconds:,.0f} s before the first rhythm or after the end of one that is closed are masked.")
    masked = sum((labels.none_of_the_twelve for labels in labels_of.values()), Counter[str]())
    if masked:
        shown = ", ".join(f"{note} {count * STEP / RATE:,.0f} s" for note, count in sorted(masked.items()))
        notes.append(f"Rhythms that are none of the twelve classes are masked: {shown}.")
    return notes


def _record(stem: Path, root: Path) -> str:
    return str(stem.relative_to(root))


def _wfdb_stems(root: Path) -> tuple[list[Path], list[Path]]:
    """The records of a database without their suffix, and those that are passed over for want of annotations."""
    listing = root / "RECORDS"
    if listing.is_file():
        names = [name.removesuffix(".hea") for _, name in text_lines(listing)]
        outside = [f"{name} leaves the folder" for name in names if not inside(name)]
        raise_problems(outside, str(listing), "Correct these lines.")
        stems = [root / name for name in dict.fromkeys(names)]
    else:
        stems = list(dict.fromkeys(root / f.with_suffix("") for f in find_files(root, {".hea", ".atr"})))
    annotated = [stem for stem in stems if is_there(stem, "atr")]
    if not annotated:
        raise DataError(
            f"{root} holds no WFDB record with an .atr file.",
            "Give the folder that holds the .hea, .dat and .atr files of a database with rhythm annotations.",
        )
    return annotated, [stem for stem in stems if stem not in set(annotated)]
