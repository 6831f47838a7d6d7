"""The layout of the PhysioNet/CinC Challenge 2017: one label per recording."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.ecg.config import EcgConfig
from pipelines.ecg.labels import UNLABELLED
from pipelines.ecg.rows import beyond, finish, good_rows, open_or_none, rest_note, text_lines, window_rows
from pipelines.ecg.wfdb_files import beside
from pipelines.shared.data.records import Source, dataset_folder
from pipelines.shared.data.tables import BLANKS, RowProblem
from pipelines.shared.errors import DataError, counted
from pipelines.shared.files import find_files
from pipelines.shared.screen import track

CINC_RATE = 300  # Hz
# REFERENCE.csv, REFERENCE-v3.csv, REFERENCE-original.csv; a browser calls a second copy "REFERENCE-v3 (1).csv".
REFERENCE = re.compile(
    r"reference(?:[-_ ]?(?:v(?P<version>\d+(?:\.\d+)*)|(?P<first>original)))?(?: \(\d+\))?\.csv", re.I
)


@dataclass(frozen=True)
class Reference:
    """One file of labels.

    Attributes:
        file: relative to the dataset's folder.
        version: as numbers, (3,) of v3; one without a version is older than v1, one that is called original the oldest.
        labels: record -> label.
    """

    file: Path
    version: tuple[int, ...]
    labels: dict[str, str]

    def rank(self, record: Path) -> tuple[tuple[int, ...], int]:
        """How much it has to say of a recording: the newest version first, then the folder nearest above it."""
        near = record.is_relative_to(self.file.parent)
        return self.version, len(self.file.parent.parts) if near else -1


def cinc2017(config: EcgConfig, root: str | None = None) -> Source:
    """The PhysioNet/CinC Challenge 2017: REFERENCE-v3.csv (record, label) and WFDB records in any subfolder.

    Of several references the newest version that names a recording has its label, wherever it lies. Where a folder of
    validation records (named validation, or below sample2017) lies beside the training records, it is the test part.
    Those 300 records are training records too: the leakage gate finds them by their signal.

    Raises:
        DataError: no reference, every row that is no label or names no file, two references of one version that differ.
    """
    folder = dataset_folder(root or config.data.root, "cinc2017")
    references, notes, problems = read_references(folder, list(config.labels.record))
    stems = sorted({folder / f.with_suffix("") for f in find_files(folder, {".mat", ".hea"})})
    validation = [s for s in stems if _of_validation(s.relative_to(folder))]
    both = 0 < len(validation) < len(stems)
    rows: list[dict[str, Any]] = []
    without, rest = [], 0
    used: Counter[str] = Counter()
    differing: Counter[str] = Counter()
    for stem in track(stems, "Reading headers of cinc2017", len(stems)):
        path = stem.relative_to(folder)
        record = str(path)
        known = sorted((r for r in references if stem.name in r.labels), key=lambda r: r.rank(path), reverse=True)
        if not known:
            without.append(record)
            continue
        chosen, label = known[0], known[0].labels[stem.name]
        used[str(chosen.file)] += 1
        for other in (r for r in known[1:] if r.labels[stem.name] != label):
            differing[str(other.file)] += 1
            if other.rank(path) == chosen.rank(path):
                text = f"{record}: {label} in {chosen.file}, but {other.labels[stem.name]} in {other.file}"
                problems.append(RowProblem(text, stem.name))
        header = beside(stem, "hea")
        recording = open_or_none(header, config)
        steps = recording.steps if recording else 0
        rest += beyond(recording)
        place = {
            "record": record,
            "group": record,
            "path": f"{record}.mat",
            "header": f"{record}.hea",
            "record_label": label,
            "expected_rate": float(CINC_RATE),
            "split": ("test" if stem in validation else "train") if both else None,
        }
        rows += window_rows(place, steps, config.preprocess.steps, [UNLABELLED] * steps)
    problems += _without_recording(references, {s.name for s in stems}, folder)
    remedy = "Correct the reference, or copy the missing files."
    rows, left_out = good_rows(rows, problems, config, str(folder), remedy, key=lambda row: Path(row["record"]).name)
    if not rows:
        raise DataError(
            f"No recording below {folder} has a label.", "Copy the .mat and .hea files that REFERENCE names."
        )
    notes = [*_used(references, used, differing), *notes, *rest_note(rest, used.total())]
    notes.append("One label per recording: it is learned through the mean of the step probabilities of each window.")
    if without:
        notes.append(f"{len(without)} recordings have no label and are not used: {', '.join(without[:5])}.")
    key = "recording (the set has no patient ids); identical signals are one group"
    return Source("cinc2017", False, folder, finish(rows, config), key, notes=notes, left_out=left_out)


def _of_validation(path: Path) -> bool:
    return any(part.lower().startswith(("validation", "sample")) for part in path.parts[:-1])


def read_references(folder: Path, allowed: Sequence[str]) -> tuple[list[Reference], list[str], list[str]]:
    """All references below a folder; notes on files that are none; problems.

    Raises:
        DataError: there is none.
    """
    files = [f for f in find_files(folder) if f.name.lower().startswith("reference")]
    references: list[Reference] = []
    others: list[str] = []
    problems: list[str] = []
    for file in (f for f in files if f.suffix.lower() == ".csv"):
        name = REFERENCE.fullmatch(file.name)
        if name is None:
            others.append(str(file))
            continue
        version = (-1,) if name["first"] else tuple(int(part) for part in (name["version"] or "0.1").split("."))
        labels, mistakes = _labels(folder / file, str(file), allowed)
        references.append(Reference(file, version, labels))
        problems += mistakes
    if not references:
        shown = f"; found: {', '.join(others)}" if others else ""
        raise DataError(
            f"{folder} holds no REFERENCE-v3.csv{shown}.", "It lists one record and its label (N, A, O, ~) per line."
        )
    notes = [f"Not read, for their names say no version: {', '.join(others)}."] if others else []
    return references, notes, problems


def _labels(path: Path, name: str, allowed: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """The labels of one reference, and what is wrong with it."""
    labels: dict[str, str] = {}
    problems: list[str] = []
    lines = text_lines(path)
    if not any("," in line for _, line in lines):
        return {}, [
            f"{name}: no line is a record and a label with a comma between them; it begins with {lines[0][1]!r}"
        ]
    for number, line in lines:
        record, _, label = (part.strip(BLANKS).strip('"').strip(BLANKS) for part in line.partition(","))
        if number == lines[0][0] and label not in allowed and not record[-1:].isdigit():
            continue  # a header
        where = f"{name} line {number}"
        if label not in allowed:
            problems.append(RowProblem(f"{where}: label '{label}' of {record}, allowed: {', '.join(allowed)}", record))
        elif labels.setdefault(record, label) != label:
            problems.append(RowProblem(f"{where}: {record} has two labels, {labels[record]} and {label}", record))
    if not labels and not problems:
        problems.append(f"{name}: a header and no label")
    return labels, problems


def _without_recording(references: Sequence[Reference], stems: set[str], folder: Path) -> list[str]:
    """Names of the newest references that have no recording; that an older one knows more of them is no mistake."""
    newest = max(reference.version for reference in references)
    named = {name for r in references if r.version == newest for name in r.labels}
    return [RowProblem(f"{name}: no such recording below {folder}", name) for name in sorted(named - stems)]


def _used(references: Sequence[Reference], used: Counter[str], differing: Counter[str]) -> list[str]:
    """Which files the labels are from, and how many labels are others in those that are older."""
    notes = [f"Labels are from {', '.join(f'{file} ({count:,})' for file, count in used.most_common())}."]
    for reference in references:
        file = str(reference.file)
        if differing[file]:
            count = counted(differing[file], "recording")
            notes.append(f"{file} has another label for {count}: the newest version counts, then the nearest file.")
        elif not used[file]:
            notes.append(f"{file} adds nothing.")
    return notes
