"""What `mode=predict` scores: the files that `input` names, in parts that a later run finds again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from pipelines.shared.data.tables import RowProblem, check_ids, inside, raise_problems, read_csv
from pipelines.shared.errors import DataError, RunError
from pipelines.shared.files import is_dicom, kinds, shown_name, walk
from pipelines.shared.log import log
from pipelines.shared.run_folder import RunFolder, read_table

if TYPE_CHECKING:
    from pipelines.shared.learning.distributed import World

PART = 512  # files that are scored before they are written down


@dataclass(frozen=True)
class Inputs:
    """The files to score, relative to `root`, and those that the study cannot read."""

    root: Path
    files: list[str]
    others: list[Path]

    def closing(self, scored: int) -> str:
        """The last line of a prediction: every file below `input` is a row or is counted here."""
        line = f"{scored} of {len(self.files)} files scored"
        line += "" if scored == len(self.files) else "; the others say why not"
        return line + (f"; not of a kind that this study reads: {kinds(self.others)}" if self.others else "")


def input_files(path: Path, suffixes: Sequence[str]) -> Inputs:
    """The files to score: one file; all below a folder that the study reads, by suffix or, DICOM, by content; or those
    that a table (CSV, Parquet) names in its column `path`, from the table's own folder.

    Raises:
        DataError: nothing there, or rows of a table that are empty, twice there or leave the folder.
    """
    if path.is_file() and path.suffix.lower() in {".csv", ".parquet"} - set(suffixes):
        return Inputs(path.parent, _listed_files(path), [])
    if path.is_file():
        return Inputs(path.parent, [path.name], [])
    allowed = ", ".join(suffixes)
    if not path.is_dir():
        raise DataError(
            f"input={path} does not exist.", f"Give a file, a folder of files ({allowed}), or a table that names them."
        )
    every = walk(path)
    files = [f for f in every if _is_read(path / f, suffixes)]
    taken = set(files)
    others = [f for f in every if f not in taken]
    if not files:
        there = f" It holds {kinds(others)}." if others else ""
        raise DataError(f"input={path} holds no file that this study reads.{there}", f"It reads: {allowed}.")
    return Inputs(path, [str(f) for f in files], others)


def _is_read(path: Path, suffixes: Sequence[str]) -> bool:
    if path.exists() and not path.is_file():  # a pipe or a device would be waited for
        return False
    return path.suffix.lower() in suffixes or (".dcm" in suffixes and is_dicom(path))


def _listed_files(table: Path) -> list[str]:
    """The paths that a table names; all mistakes at once. A file that is not there has its reason later."""
    paths = read_csv(table, ["path"])["path"]
    problems = check_ids(paths, table)
    problems += [
        RowProblem(f"{table.name} row {i + 2}: {p} leaves the folder {table.parent}", i)
        for i, p in enumerate(paths)
        if isinstance(p, str) and not inside(p)
    ]
    raise_problems(problems, str(table), "Correct these rows; nothing was scored.")
    return list(paths)


def score_in_parts(
    folder: RunFolder, files: Sequence[str], score: Callable[[list[str]], pd.DataFrame], world: World, size: int = PART
) -> pd.DataFrame:
    """The rows of all files, in their order, scored `size` at a time and written down after each part.

    A run that was cut off goes on after its last whole part.

    Args:
        folder: the parts lie in its `parts/`.
        files: paths relative to `input`.
        score: some of the files -> a table whose column `file` holds their names (`shown_name`), a row or more each.
        world: the main process writes.
        size: files in a part.
    """
    kept: list[pd.DataFrame] = []
    for file in sorted((folder.path / "parts").glob("*.parquet")):
        try:
            kept.append(read_table(file, ["file"]))
        except RunError:  # damaged: its files are scored again
            file.unlink(missing_ok=True)
    done = {file for part in kept for file in part["file"]}
    left = [file for file in files if shown_name(file) not in done]
    if done:
        log.info(f"{len(files) - len(left):,} of {len(files):,} files are scored already")
    number = max((int(file.stem) for file in (folder.path / "parts").glob("*.parquet")), default=-1) + 1
    often = -(-len(left) // (100 * size)) * size  # a hundred lines at most
    for begin in range(0, len(left), size):
        part = score(left[begin : begin + size])
        kept.append(part)
        if world.main:
            folder.write_table(folder.path / "parts" / f"{number + begin // size:06d}.parquet", part)
        if len(left) > size and (begin + size) % often == 0:
            log.info(f"{len(files) - len(left) + min(begin + size, len(left)):,} of {len(files):,} files")
    place = {shown_name(file): i for i, file in enumerate(files)}
    table = pd.concat([part[part["file"].isin(place)] for part in kept], ignore_index=True)
    return table.sort_values("file", key=lambda column: column.map(place), kind="stable", ignore_index=True)
