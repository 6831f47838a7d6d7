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
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipelines.head_ct.config import HeadCtConfig
from pipelines.head_ct.metrics import SILVER
from pipelines.head_ct.pseudonyms import Names, salt_of
from pipelines.head_ct.series import Kernels, Study, choose, scan
from pipelines.head_ct.stacks import Fault, Stack, kind_of
from pipelines.shared.data.cache import WARNINGS_BETWEEN
from pipelines.shared.errors import BadFile, DataError, counted, listed
from pipelines.shared.files import shown_name
from pipelines.shared.run_folder import write_atomically

COLUMNS = [
    "id", "group", "path", "accession", "maker", "kernel", "slice_thickness", "slices", "tilt", "age", "sex", "series",
    "warnings", "details",
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
    if config.mode not in ("predict", "serve", "listen") and config.data.name == "phantom":
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
        contents = "; ".join(f"{counted(n, 'file')}: {reason}" for reason, n in kinds) or "it is empty"
        raise DataError(f"No CT slice among the {files} files there: {contents}.", "Give a folder of DICOM files.")
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
            write_index(folder / f"{study.study}.json", base, study.stack, names)
            rows.append(_row(study, study.stack))
    lookup = folder / "files.csv"
    write_lookup(lookup, {file_name(names, f): f for f in [*(s["file"] for s in slices), *(f.file for f in faults)]})
    table = pd.DataFrame(rows, columns=COLUMNS)
    return Archive(folder, table, [s for s in studies if s.stack is None], left, files, lookup)


def _row(study: Study, stack: Stack) -> dict[str, Any]:
    return {
        "id": study.study, "group": study.group, "path": f"{study.study}.json", "accession": stack.accession,
        "maker": stack.maker, "kernel": stack.kernel, "slice_thickness": round(stack.usual_thickness, 2),
        "slices": len(stack.files), "tilt": stack.tilt, "age": stack.age, "sex": stack.sex, "series": study.rule,
        "warnings": WARNINGS_BETWEEN.join(dict.fromkeys(map(kind_of, study.warnings))),
        "details": "; ".join(study.warnings),
    }  # fmt: skip


def write_index(file: Path, base: Path, stack: Stack, names: Names) -> None:
    """The place and geometry of a stack, and its files' hashed names, sizes and times, so that a changed file is
    prepared again."""
    files = []
    for name in sorted(set(stack.files)):
        status = (base / name).stat()
        files.append([name, file_name(names, name), status.st_size, status.st_mtime_ns])
    write_if_changed(file, json.dumps({"root": str(base), "stack": stack.to_json(), "files": files}, indent=1))


def write_if_changed(file: Path, text: str) -> None:
    """Write unless the file holds just this: its time is what prepared arrays are known by."""
    if file.is_file() and file.read_text(encoding="utf-8") == text:
        return
    write_atomically(file, lambda aside: aside.write_text(text, encoding="utf-8"))


def read_index(file: Path) -> dict[str, Any]:
    """What an index file holds: `root`, `stack` and `files`; or `picture`; or `bad`, why there is neither.

    Raises:
        BadFile: it is not there; the source must be read again.
    """
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise BadFile("its index in the cache is missing; run again") from None
    return content


def write_lookup(file: Path, real: Mapping[str, str]) -> None:
    """Which hashed name stands for which file: a table for whoever owns the data."""

    def write(aside: Path) -> None:
        with aside.open("w", newline="", encoding="utf-8") as text:
            writer = csv.writer(text)
            writer.writerow(["name", "file"])
            writer.writerows((name, shown_name(file)) for name, file in sorted(real.items()))

    write_atomically(file, write)


def studies_below(root: Path, config: HeadCtConfig, names: Names) -> Archive:
    """The archive of a folder in which there is a usable series at least.

    Raises:
        DataError: there is none; the files in which something is wrong are listed.
    """
    archive = open_archive(root, config, names)
    if archive.studies.empty:
        bad_files = [*bad_files_of(archive, names), *(f"{s.study}: {s.reason}" for s in archive.without)]
        raise DataError(
            f"None of the {archive.files} files there belongs to a usable series:\n{listed(bad_files)}",
            f"{archive.lookup} says which file is which (it may name people).",
        )
    return archive


def bad_files_of(archive: Archive, names: Names) -> list[str]:
    """Files in which something is wrong, by their hashed names."""
    return [f"{file_name(names, f.file)}: {f.reason}" for f in archive.faulty()]


def notes_of(archive: Archive) -> list[str]:
    """What was left out of a folder and why, counted."""
    notes = []
    for faulty, what in ((False, "in order but not used"), (True, "faulty and left out")):
        reasons = Counter(f.reason for f in archive.faults if f.faulty == faulty)
        if reasons:
            shown = "; ".join(f"{counted(n, 'file')}: {reason}" for reason, n in reasons.most_common())
            notes.append(f"{sum(reasons.values()):,} of {archive.files:,} files are {what}. {shown}.")
    if archive.without:
        reasons = Counter(str(s.reason) for s in archive.without)
        shown = "; ".join(f"{n}: {reason}" for reason, n in reasons.items())
        notes.append(f"{len(archive.without)} studies have no usable series ({shown}).")
    return notes


def finish(table: pd.DataFrame) -> pd.DataFrame:
    """The record table with every column of the module `data`'s docstring."""
    table = table.drop(columns=["accession"], errors="ignore").reset_index(drop=True)
    for column in ("critical", "concepts", *SILVER):
        table[column] = pd.to_numeric(table[column]).astype(float) if column in table else np.nan
    if "split" not in table:
        table["split"] = None
    table["split"] = table["split"].astype(object).where(table["split"].notna(), None)
    first = table["silver_4"].where(table["silver_4"].notna(), table["critical"])
    table["stratum"] = first + table["silver_8"].fillna(0)
    return table
