"""A folder of DICOM files as studies that identify nobody.

What a run may know of a study is written as `<cache>/head_ct/index-…/<study>.json`, and that file is the record's path:
folders and file names, which often are names of people, stay in the cache. Which hashed name is which file is in
`files.csv` beside the index, for whoever owns the data.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from pipelines.head_ct.config import HeadCtConfig
from pipelines.head_ct.pseudonyms import Names, salt_of
from pipelines.head_ct.series import Kernels, Study, choose, scan
from pipelines.head_ct.stacks import Fault, Stack
from pipelines.shared.errors import BadFile, DataError, listed
from pipelines.shared.run_folder import write_atomically

COLUMNS = [
    "id", "group", "path", "accession", "maker", "kernel", "slice_thickness", "slices", "tilt", "age", "sex", "series",
    "warnings",
]  # fmt: skip


@dataclass(frozen=True)
class Archive:
    """Studies with a usable series (`studies`, one row each), and everything that was left out."""

    folder: Path
    studies: pd.DataFrame
    without: list[Study]
    faults: list[Fault]
    files: int
    lookup: Path

    def faulty(self) -> list[Fault]:
        """Files in which something is wrong."""
        return [f for f in self.faults if f.faulty]


def private_folder(config: HeadCtConfig) -> Path:
    """Where the cache keeps what may identify people."""
    return Path(config.cache.dir) / "head_ct"


def names_of(config: HeadCtConfig) -> Names:
    """The hashed names of this installation; a phantom has nobody to protect and the same names everywhere."""
    if config.mode != "predict" and config.data.name == "phantom":
        return Names("phantom")
    own = config.data.salt_file
    return Names(salt_of(Path(own) if own else private_folder(config) / "salt"))


def file_name(names: Names, file: str) -> str:
    """The name under which a file appears in messages and tables."""
    return names.of("f", file)


def open_archive(root: Path, config: HeadCtConfig, names: Names, again: bool = False) -> Archive:
    """Scan a folder (or file) and choose a series per study. `again` reads headers that were read before.

    Raises:
        DataError: nothing below the folder is a CT slice.
    """
    private = private_folder(config)
    slices, faults = scan(root, names, None if again else private)
    files = len({s["file"] for s in slices}) + len(faults)
    if not slices and not any(f.faulty for f in faults):
        kinds = Counter(f.reason for f in faults).most_common(3)
        found = "; ".join(f"{n} files: {reason}" for reason, n in kinds) or "it is empty"
        raise DataError(f"No CT slice among the {files} files there: {found}.", "Give a folder of DICOM files.")
    kernels = Kernels(config.series.soft_kernels, config.series.sharp_kernels)
    studies, left = choose(slices, faults, kernels, config.series.thickness)
    base = (root.parent if root.is_file() else root).resolve()
    key = json.dumps(
        [str(base), str(root.resolve()), hashlib.sha256(names.salt.encode()).hexdigest(), config.series.model_dump()]
    )
    folder = private / f"index-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for study in studies:
        if study.stack is not None:
            write_index(folder / f"{study.study}.json", base, study.stack)
            rows.append(_row(study, study.stack))
    lookup = folder / "files.csv"
    _write_lookup(lookup, names, [*{s["file"] for s in slices}, *(f.file for f in faults)])
    table = pd.DataFrame(rows, columns=COLUMNS)
    return Archive(folder, table, [s for s in studies if s.stack is None], left, files, lookup)


def _row(study: Study, stack: Stack) -> dict[str, Any]:
    return {
        "id": study.study, "group": study.group, "path": f"{study.study}.json", "accession": stack.accession,
        "maker": stack.maker, "kernel": stack.kernel, "slice_thickness": round(stack.usual_thickness, 2),
        "slices": len(stack.files), "tilt": stack.tilt, "age": stack.age, "sex": stack.sex, "series": study.rule,
        "warnings": "; ".join(study.warnings),
    }  # fmt: skip


def write_index(file: Path, base: Path, stack: Stack) -> None:
    """The place and geometry of a stack, and its files' sizes and times, so that a changed file is prepared again."""
    stamps = []
    for name in sorted(set(stack.files)):
        status = (base / name).stat()
        stamps.append([name, status.st_size, status.st_mtime_ns])
    write_if_changed(file, json.dumps({"root": str(base), "stack": stack.to_json(), "stamps": stamps}, indent=1))


def write_if_changed(file: Path, text: str) -> None:
    """Write unless the file holds just this: its time is what prepared arrays are known by."""
    if file.is_file() and file.read_text(encoding="utf-8") == text:
        return
    write_atomically(file, lambda aside: aside.write_text(text, encoding="utf-8"))


def read_index(file: Path) -> dict[str, Any]:
    """What an index file holds: `root` and `stack`, or `picture`.

    Raises:
        BadFile: it is not there; the source must be read again.
    """
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise BadFile("its index in the cache is missing; run again") from None
    return content


def _write_lookup(file: Path, names: Names, files: Sequence[str]) -> None:
    rows = sorted((file_name(names, f), f) for f in files)

    def write(aside: Path) -> None:
        with aside.open("w", newline="", encoding="utf-8", errors="surrogateescape") as text:
            writer = csv.writer(text)
            writer.writerow(["name", "file"])
            writer.writerows(rows)

    write_atomically(file, write)


def refuse_faults(archive: Archive, names: Names, config: HeadCtConfig) -> None:
    """Stop a run over files in which something is wrong, all of them named at once (`data.on_bad_file=error`).

    Raises:
        DataError: there are some.
    """
    faulty = archive.faulty()
    if faulty and config.data.on_bad_file == "error" and config.mode != "verify":
        lines = [f"{file_name(names, f.file)}: {f.reason}" for f in faulty]
        raise DataError(
            f"{len(faulty)} of {archive.files} files cannot be used:\n{listed(lines, len(lines))}",
            f"Their names are in {archive.lookup} (it may name people). Correct or remove them, or drop and report "
            "them with data.on_bad_file=skip.",
        )


def notes_of(archive: Archive) -> list[str]:
    """What was left out of a folder and why, counted."""
    notes = []
    for faulty, what in ((False, "in order but not used"), (True, "faulty and left out")):
        reasons = Counter(f.reason for f in archive.faults if f.faulty == faulty)
        if reasons:
            shown = "; ".join(f"{n:,} {'files' if n > 1 else 'file'}: {reason}" for reason, n in reasons.most_common(8))
            notes.append(f"{sum(reasons.values()):,} of {archive.files:,} files are {what}. {shown}.")
    if archive.without:
        reasons = Counter(str(s.reason) for s in archive.without)
        shown = "; ".join(f"{n}: {reason}" for reason, n in reasons.items())
        notes.append(f"{len(archive.without)} studies have no usable series ({shown}).")
    table = archive.studies
    if len(table):
        kinds: Counter[str] = Counter()
        for text in table["warnings"]:
            kinds.update({_kind(w) for w in str(text).split("; ") if w})
        if kinds:
            notes.append(
                "Warnings about the series used, by studies: "
                + "; ".join(f"{name} {n}" for name, n in kinds.most_common(10))
                + "."
            )
    return notes


def _kind(warning: str) -> str:
    """A warning without its numbers."""
    for begin in ("spacing uneven", "slices are missing", "slices shifted in their plane", "covers"):
        if warning.startswith(begin):
            return begin
    return warning.split(":")[0][:60]
