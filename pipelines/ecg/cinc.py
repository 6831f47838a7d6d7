"""The layout of the PhysioNet/CinC Challenge 2017: one label per recording."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines.ecg.config import EcgConfig
from pipelines.ecg.labels import UNLABELLED
from pipelines.ecg.rows import beyond, finish, open_or_none, rest_note, window_rows
from pipelines.shared.errors import DataError
from pipelines.shared.records import Source, dataset_folder, raise_problems
from pipelines.shared.screen import track

CINC_RATE = 300  # Hz


def cinc2017(config: EcgConfig, root: str | None = None) -> Source:
    """The PhysioNet/CinC Challenge 2017: REFERENCE-v3.csv (record, label) and WFDB records in any subfolder.

    Where a folder of validation records (named validation, or below sample2017) lies beside the training records, it
    is the test part. Those 300 records are training records too: the leakage gate finds them by their signal.

    Raises:
        DataError: no reference, every row that is no label or names no file.
    """
    folder = dataset_folder(root or config.data.root, "cinc2017")
    references = sorted(folder.rglob("REFERENCE*.csv"), reverse=True)  # v3 before v2 before the first
    if not references:
        raise DataError(
            f"{folder} holds no REFERENCE-v3.csv.", "It lists one record and its label (N, A, O, ~) per line."
        )
    stems = sorted({f.with_suffix("") for kind in ("mat", "hea") for f in folder.rglob(f"*.{kind}")})
    validation = [s for s in stems if _of_validation(s.relative_to(folder))]
    both = 0 < len(validation) < len(stems)
    label_of, problems = _cinc_labels(references, folder, list(config.labels.record))
    rows: list[dict[str, Any]] = []
    without, rest = [], 0
    used: set[str] = set()
    for stem in track(stems, "Reading headers of cinc2017", len(stems)):
        record = str(stem.relative_to(folder))
        # A folder's own reference first, then any other that knows the name.
        near = [labels for parent, labels in label_of if stem.is_relative_to(parent)]
        known = [labels for labels in [*near, *(labels for _, labels in label_of)] if stem.name in labels]
        label = known[0][stem.name] if known else None
        if label is None:
            without.append(record)
            continue
        used.add(stem.name)
        header = stem.with_suffix(".hea")
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
    named = {name for _, labels in label_of for name in labels}
    missing = sorted(named - {s.name for s in stems})
    problems += [f"{name}: no such recording below {folder}" for name in missing]
    raise_problems(problems, str(folder), "Correct the reference, or copy the missing files.")
    notes = rest_note(rest, len(used))
    notes.append("One label per recording: it is learned through the mean of the step probabilities of each window.")
    if without:
        notes.append(f"{len(without)} recordings have no label and are not used: {', '.join(without[:5])}.")
    key = "recording (the set has no patient ids); identical signals are one group"
    return Source("cinc2017", False, folder, finish(rows, config), key, notes=notes)


def _of_validation(path: Path) -> bool:
    return any(part.lower().startswith(("validation", "sample")) for part in path.parts[:-1])


def _cinc_labels(
    references: Sequence[Path], folder: Path, allowed: Sequence[str]
) -> tuple[list[tuple[Path, dict[str, str]]], list[str]]:
    """Labels by reference file (the folder it speaks of, name -> label), the newest version of each folder first."""
    found: list[tuple[Path, dict[str, str]]] = []
    problems: list[str] = []
    done: set[Path] = set()
    for file in references:
        if file.parent in done:
            continue
        done.add(file.parent)
        labels: dict[str, str] = {}
        for number, line in enumerate(file.read_text(encoding="utf-8-sig").splitlines(), start=1):
            name, _, label = (part.strip().strip('"') for part in line.partition(","))
            if not line.strip() or (number == 1 and label not in allowed and not name[-1:].isdigit()):
                continue  # an empty line, or a header
            where = f"{file.relative_to(folder)} line {number}"
            if label not in allowed:
                problems.append(f"{where}: label '{label}' of {name}, allowed: {', '.join(allowed)}")
            elif name in labels and labels[name] != label:
                problems.append(f"{where}: {name} has two labels, {labels[name]} and {label}")
            else:
                labels[name] = label
        found.append((file.parent, labels))
    return sorted(found, key=lambda item: -len(item[0].parts)), problems
