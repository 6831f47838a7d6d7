"""What differs between the copies of a public set that people have: the authors', Kaggle's, mirrors, repacked archives.

A folder lies one level deeper or is there twice, a table is separated by tabs, a column is called otherwise, a name has
a suffix or not. What can be meant in one way only is read; what could be meant in two is refused, and the message names
the key that decides.
"""

from __future__ import annotations

import filecmp
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

import pandas as pd

from pipelines.shared.config import CopySection
from pipelines.shared.data.cards import load_card
from pipelines.shared.data.images import SUFFIXES
from pipelines.shared.data.records import dataset_folder
from pipelines.shared.data.tables import RowProblem, inside, read_csv, row_of
from pipelines.shared.errors import DataError, counted, listed, nearest
from pipelines.shared.files import find_files

ROWS = "Correct these rows, take the file as it is distributed, or drop and report them with data.on_bad_row=skip."


@dataclass
class Copy:
    """One copy of a public set.

    Attributes:
        root: its folder.
        card: the set's data card.
        images: `data.images`, the folder below the root that holds the pictures; None: found by its name.
        columns: `data.columns`, the set's name of a column -> this copy's.
        notes: what was read otherwise than as distributed.
    """

    root: Path
    card: str
    images: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, data: CopySection, card: str, columns: Sequence[str]) -> Copy:
        """The copy that a configuration names.

        Args:
            data: `data.root`, `data.images`, `data.columns`.
            card: the set's data card.
            columns: all columns that the set's adapter reads, by the set's own names.

        Raises:
            DataError: no such folder, or `data.columns` names a column that is none of the set's.
        """
        root = dataset_folder(data.root, card)
        for name in data.columns:
            if name not in columns:
                raise DataError(f"data.columns.{name}: {card} has no such column.", nearest(name, columns))
        return cls(root, card, data.images, data.columns)

    def find(self, *names: str) -> Path | None:
        """The first of these tables that is there, in the root or below; names may hold `*` and differ in case.

        Raises:
            DataError: several of one name that are not the same file.
        """
        for name in names:
            if (self.root / name).is_file():
                return self.root / name
        files = find_files(self.root)
        for name in names:
            matching = [self.root / f for f in files if fnmatch(f.name.lower(), name.lower())]
            if matching:
                return self._one(matching)
        return None

    def needs(self, *names: str) -> Path:
        """As `find`, where one of the tables must be there."""
        file = self.find(*names)
        if file is None:
            other = [str(f) for f in find_files(self.root) if f.suffix.lower() in (".csv", ".tab", ".tsv", ".parquet")]
            held = f" Tables there: {', '.join(other[:8])}." if other else ""
            raise DataError(
                f"{self.root / names[0]} does not exist.{held}",
                f"{load_card(self.card).access} See data_cards/{self.card}.md; other tables are read by data=table.",
            )
        return file

    def _one(self, files: list[Path]) -> Path:
        first = min(files, key=lambda file: len(file.parts))
        if any(not filecmp.cmp(first, file, shallow=False) for file in files):
            shown = listed(file.relative_to(self.root) for file in files)
            raise DataError(
                f"{self.root} holds several tables of one name:\n{shown}",
                "Name the folder that one of them lies in with data.root, or leave one there.",
            )
        return first

    def table(
        self, file: Path, needed: Mapping[str, Sequence[str]], optional: Mapping[str, Sequence[str]] | None = None
    ) -> pd.DataFrame:
        """A table of the set with the set's own column names, whatever this copy calls them.

        A column is found by `data.columns`, else by its name or one of its other names, case, blanks and `_` aside.

        Args:
            file: separated by commas, semicolons or tabs.
            needed: column -> other names that it has in known copies.
            optional: the same for columns that may be absent.

        Returns:
            Text cells; the index labels are `<file>:<row>`, unique over all tables of a set, for `RowProblem`.

        Raises:
            DataError: a column that is not there.
        """
        table = read_csv(file, [], self.card, separators=",;\t")
        by_name = {_letters(str(column)): str(column) for column in reversed(table.columns)}
        columns_of: dict[str, str] = {}
        for column, others in {**needed, **(optional or {})}.items():
            theirs = self.columns.get(column)
            if theirs is not None and theirs not in table.columns:
                raise DataError(
                    f"data.columns.{column}={theirs}: {file} has no such column; found: {', '.join(table.columns)}.",
                    nearest(theirs, table.columns),
                )
            names = [theirs] if theirs is not None else [by_name.get(_letters(name)) for name in (column, *others)]
            name = next((name for name in names if name is not None), None)
            if name is not None:
                columns_of[column] = name
            elif column in needed:
                raise DataError(
                    f"{file} has no column '{column}'; found: {', '.join(table.columns)}.",
                    f"{nearest(column, table.columns)} Say which it is with 'data.columns={{{column}: <column>}}'.",
                )
        filled = table.notna().any(axis=1).to_numpy().nonzero()[0]
        table = table.iloc[: filled.max() + 1 if len(filled) else 0]  # spreadsheets leave empty rows at the end
        table = pd.DataFrame({column: table[name] for column, name in columns_of.items()})
        return table.set_axis([f"{file}:{row + 2}" for row in range(len(table))])

    def pictures(self, *folders: str, beside: Path | None = None) -> dict[str, str]:
        """Name in small letters without suffix -> path relative to the root, of all pictures.

        They are looked for below `data.images`; without it below folders of these names, which lie in the root or
        beside a table (case, blanks and `_` aside); where there is none, below the root.

        Raises:
            DataError: `data.images` is no folder, or two different pictures have one name.
        """
        if self.images is not None:
            return self.named(self.files())
        names = {_letters(name) for name in folders}
        around = dict.fromkeys(f for place in (beside or self.root, self.root) for f in sorted(place.iterdir()))
        places = [f for f in around if f.is_dir() and _letters(f.name) in names] or [self.root]
        return self.named(place / f for place in places for f in find_files(place, SUFFIXES))

    def files(self) -> list[Path]:
        """All pictures below `data.images`, without it below the root.

        Raises:
            DataError: `data.images` is no folder below the root.
        """
        place = self.root / (self.images or "")
        if not inside(self.images or "") or not place.is_dir():
            inner = [f.name for f in sorted(self.root.iterdir()) if f.is_dir()]
            raise DataError(
                f"data.images={self.images}: {self.root} has no such folder.", nearest(str(self.images), inner)
            )
        return [place / f for f in find_files(place, SUFFIXES)]

    def named(self, files: Iterable[Path]) -> dict[str, str]:
        """Name in small letters without suffix -> path relative to the root, of some pictures below it."""
        of_stem: dict[str, str] = {}
        again, twice = 0, []
        for file in files:
            path = file.relative_to(self.root).as_posix()
            first = of_stem.setdefault(file.stem.lower(), path)
            if first == path:
                continue
            if filecmp.cmp(self.root / first, file, shallow=False):
                again += 1
            else:
                twice.append(f"{first} and {path}")
        if twice:
            raise DataError(
                f"{self.root} holds different pictures of one name:\n{listed(twice)}",
                "Name the folder to read with data.images=<folder below data.root>, or leave one of each there.",
            )
        if again:
            self.notes.append(
                f"{counted(again, 'picture')} in a second folder, the same byte for byte, not read again."
            )
        return of_stem


def _letters(name: str) -> str:
    """What is left of a name without case, blanks and signs."""
    return re.sub(r"[\W_]", "", name.casefold())


def there(path: Path) -> bool:
    """Whether a file that a table names exists; none does whose name is longer than the disk takes."""
    try:
        return path.exists()
    except OSError:
        return False


def stem(name: object) -> str:
    """A picture's name of a table without its suffix, if it has one that a picture may have; empty for no name."""
    text = "" if pd.isna(name) else str(name)  # type: ignore[call-overload]
    return text[: -len(Path(text).suffix)] if Path(text).suffix.lower() in SUFFIXES else text


def paths_of(
    names: pd.Series, pictures: Mapping[str, str], folder: str, suffix: str, file: Path
) -> tuple[list[str], list[str]]:
    """Where each named picture lies (if it is not there: where it was expected); and names that leave the folder.

    Args:
        names: as the table has them, with a suffix or without.
        pictures: see `Copy.pictures`.
        folder: where a picture that is not there was expected.
        suffix: the same picture's suffix.
        file: the table, for the problems.
    """
    paths = [pictures.get(stem(name).lower(), f"{folder}/{stem(name)}{suffix}") for name in names]
    problems = [
        RowProblem(f"{file.name} row {row_of(label)}: {name} leaves the folder", label)
        for label, name, path in zip(names.index, names, paths, strict=True)
        if not inside(path) or not inside(stem(name))
    ]
    return paths, list(problems)


def without_rows_of(table: pd.DataFrame, problems: Iterable[str]) -> pd.DataFrame:
    """The rows of a further table of a set, such as its readers', that no problem names."""
    bad = {label for problem in problems if isinstance(problem, RowProblem) for label in problem.rows}
    return table[~table.index.isin(list(bad))]


def strangers(images: Iterable[str], named: Iterable[str], file: Path, alone: str) -> list[str]:
    """Notes on what only one of two knows: the images of a set, and a list that says which of them belong together.

    Args:
        images: names of the images.
        named: names in the list, written alike.
        file: the list.
        alone: what becomes of images that it does not name, for the note.

    Raises:
        DataError: the list names none of the images, so it is another set's or written in another way.
    """
    ours, theirs = set(images), set(named)
    lacking, beyond = sorted(ours - theirs), sorted(theirs - ours)
    if ours and len(lacking) == len(ours):
        raise DataError(
            f"{file} names none of the {len(ours)} images: it names {_some(beyond)}; the images are {_some(lacking)}.",
            "Give the list that belongs to these images, or take it out of the folder.",
        )
    notes = [f"{counted(len(lacking), 'image')} not in {file.name}, {alone}: {_some(lacking)}."] if lacking else []
    return notes + (
        [f"{counted(len(beyond), 'name')} of {file.name} without an image: {_some(beyond)}."] if beyond else []
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
