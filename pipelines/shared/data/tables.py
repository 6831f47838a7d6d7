"""Tables of datasets: read as text, checked cell by cell, every problem with its row.

Every table of every study is read here, so that what nobody sees in a cell means nothing, and so that all that is wrong
with a table is listed at once.
"""

from __future__ import annotations

import csv
import os
import unicodedata
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.shared.data.cards import load_card
from pipelines.shared.errors import DataError, counted, listed, nearest

# What spreadsheets and web pages leave at the ends of a cell and nobody sees: every kind of blank, controls, byte order
# marks, joiners, marks of direction, variation selectors.
UNSEEN = {"Zs", "Zl", "Zp", "Cc", "Cf"}  # of Unicode's categories
SELECTORS = range(0xFE00, 0xFE10)
BLANKS = "".join(chr(c) for c in range(0x10000) if unicodedata.category(chr(c)) in UNSEEN or c in SELECTORS)
OnBadRow = Literal["error", "skip"]
SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}


class RowProblem(str):
    """What is wrong with rows of a table, in words. `rows`: their index labels in the table as it was read.

    A problem that is a plain `str` concerns the dataset as a whole: no row could be left out to mend it.
    """

    rows: tuple[Hashable, ...]

    def __new__(cls, text: str, *rows: Hashable) -> RowProblem:
        """Name the problem and its rows."""
        problem = super().__new__(cls, text)
        problem.rows = rows
        return problem


def read_csv(file: Path, needed: Sequence[str], card_name: str | None = None, separators: str = ",") -> pd.DataFrame:
    """A CSV (or Parquet) file as text columns without blanks around cells, the needed columns checked; empty is NaN.

    Every table of every study is read here, so that `P1` and `P1 ` are one patient. `separators` are those that a table
    may have; which one it has is seen in its header.

    Raises:
        DataError: missing, empty or unreadable file, or a needed column that is not there.
    """
    if not file.is_file():
        layout = f"{load_card(card_name).access} " if card_name else ""
        raise DataError(f"{file} does not exist.", f"{layout}See data_cards/{card_name or '<dataset>'}.md.")
    try:
        table = _parquet(file) if file.suffix.lower() == ".parquet" else _csv(file, separators)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, csv.Error, UnicodeError, OSError, ValueError,
            pa.ArrowException) as failure:  # fmt: skip
        reason = next(iter(str(failure).splitlines()), "") or type(failure).__name__
        if "field larger than field limit" in reason or "unexpected end of data" in reason:
            reason = "a quotation mark that is never closed"
        elif "expected after" in reason:
            reason = "a quotation mark inside of a quoted cell (it is written twice there)"
        raise DataError(f"{file} cannot be read as a table: {reason}.", "Give a UTF-8 CSV with a header.") from None
    table.columns = [str(c).strip(BLANKS) for c in table.columns]
    table = table.map(lambda cell: cell.strip(BLANKS) or np.nan, na_action="ignore").astype(object)
    if not table.columns.is_unique:
        twice = sorted(set(table.columns[table.columns.duplicated()]))
        raise DataError(f"{file} names a column twice: {', '.join(twice)}.", "Rename or remove one of them.")
    for column in needed:
        if column not in table.columns:
            raise DataError(
                f"{file} has no column '{column}'; found: {', '.join(table.columns)}.",
                nearest(column, list(table.columns)),
            )
    if table.empty:
        raise DataError(f"{file} has a header but no rows.", "Give a table with one row per record.")
    return table


def _csv(file: Path, separators: str) -> pd.DataFrame:
    """All columns as text. Only an empty cell is empty: "None" and "NA" are words that a label may be."""
    return pd.read_csv(
        file, sep=_check_fields(file, separators), dtype=str, encoding="utf-8-sig", skipinitialspace=True,
        keep_default_na=False, na_values=[""], index_col=False,
    )  # fmt: skip


def _parquet(file: Path) -> pd.DataFrame:
    """All columns as text; read without what pandas may have written into the file besides the table."""
    table = pq.read_table(file).replace_schema_metadata(None).to_pandas()
    words: pd.DataFrame = table.map(_as_text).astype(object)
    return words


def _other_separator(header: list[str]) -> str | None:
    """A table of one column whose name holds another separator was not separated by commas."""
    return next((words for sign, words in SEPARATORS.items() if len(header) == 1 and sign in header[0]), None)


def _check_fields(file: Path, separators: str) -> str:
    """The separator of a table; rows with more or fewer fields than the header are refused, pandas would shift them."""
    with file.open(encoding="utf-8-sig", newline="") as text:
        header = next(filter(None, csv.reader(text, skipinitialspace=True)), [])  # above it lines may be empty
        other = _other_separator(header)
        separator = next((sign for sign in separators[1:] if other == SEPARATORS[sign]), separators[0])
        if other and separator == separators[0]:
            raise DataError(f"{file} is separated by {other}, not by commas.", "Save it with commas.")
        text.seek(0)
        # Strict: a stray quotation mark would make one row of many.
        rows = csv.reader(text, delimiter=separator, skipinitialspace=True, strict=True)
        width = len(next(filter(None, rows), []))
        lines = [f"row {n}: {len(row)} fields" for n, row in enumerate(rows, start=2) if row and len(row) != width]
    if lines:
        raise DataError(f"{file} has rows that do not fit its {width} columns:\n{listed(lines)}", "Correct them.")
    return separator


def _as_text(value: object) -> object:
    if isinstance(value, (list, dict, np.ndarray, bytes)):
        raise ValueError(f"a cell holds {type(value).__name__}, not text or a number")
    if pd.isna(value):  # type: ignore[call-overload]
        return np.nan
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def look_alikes(names: pd.Series) -> list[list[str]]:
    """Sets of different names that differ only by case, by what nobody sees, or in how Unicode writes a letter."""
    distinct = pd.Series(names.dropna().astype(str).unique())
    unseen = dict.fromkeys(map(ord, BLANKS))
    folded = distinct.map(lambda name: unicodedata.normalize("NFKC", name.translate(unseen)).casefold())
    return [sorted(group) for _, group in distinct.groupby(folded) if len(group) > 1]


def row_of(label: Hashable) -> str:
    """The number of a table's row (1 is the header) from its index label: its place when it was read, or `file:row`."""
    return label.rpartition(":")[2] if isinstance(label, str) else str(int(label) + 2)  # type: ignore[call-overload]


def check_ids(ids: pd.Series, file: Path) -> list[str]:
    """Problems with an id column: empty cells and duplicates, each with its row (1 is the header)."""
    problems: list[str] = [
        RowProblem(f"{file.name} row {row_of(row)}: empty {ids.name}", row) for row in ids.index[ids.isna()]
    ]
    for value, rows in ids[ids.notna() & ids.duplicated(keep=False)].groupby(ids).groups.items():
        where = ", ".join(row_of(row) for row in rows)
        text = f"{file.name} rows {where}: {ids.name} '{value}' occurs {len(rows)} times"
        problems.append(RowProblem(text, *rows))
    return problems


def parse_values(
    column: pd.Series, allowed: Sequence[int], file: Path, mapping: Mapping[str, int] | None = None,
    empty_ok: bool = False, words: Mapping[str, int] | None = None,
) -> tuple[pd.Series, list[str]]:  # fmt: skip
    """Text cells as numbers of an allowed set; returns the parsed column (NaN where bad) and the problems.

    With `words` a cell holds one of these instead of a number; `mapping` has the user's own words besides.
    """
    mapping = mapping or {}
    parsed: list[float] = []
    problems: list[str] = []
    known = {str(v): float(v) for v in allowed} | {f"{v}.0": float(v) for v in allowed}
    known = {word: float(v) for word, v in words.items()} if words else known
    known |= {str(k).strip(): float(v) for k, v in mapping.items()}
    for row, cell in column.items():
        text = "" if pd.isna(cell) else str(cell).strip(BLANKS)
        parsed.append(known.get(text, np.nan))
        where = f"{file.name} row {row_of(row)}"
        if text == "":
            if not empty_ok:
                problems.append(RowProblem(f"{where}: empty {column.name}", row))
        elif text not in known:
            choice = f" is unknown. {nearest(text, words)}" if words else f", allowed: {', '.join(map(str, allowed))}"
            problems.append(RowProblem(f"{where}: {column.name}={text}{choice}", row))
    return pd.Series(parsed, index=column.index, name=column.name, dtype=float), problems


def inside(relative: str) -> bool:
    """Whether a path of a table stays inside the dataset's folder."""
    path = Path(os.path.normpath(relative))  # by name, not through links: images may lie on another disk
    return "\0" not in relative and not path.is_absolute() and ".." not in path.parts


def raise_problems(problems: Sequence[str], what: str, remedy: str) -> None:
    """Raise one DataError that lists all problems found in a dataset's tables, if there are any."""
    if problems:
        found = counted(len(problems), "problem")
        raise DataError(f"{what}: {found}.\n{listed(problems, len(problems))}", remedy)


def without_bad_rows(
    records: pd.DataFrame,
    problems: Sequence[str],
    on_bad_row: OnBadRow,
    what: str,
    remedy: str = "Correct these rows, or drop and report them with data.on_bad_row=skip.",
) -> tuple[pd.DataFrame, list[str]]:
    """The rows without problems, as `data.on_bad_row` has it, and what was wrong with those left out.

    Args:
        records: with the index labels that the problems name.
        problems: `RowProblem`s; a plain `str` is a problem of the whole dataset and is always raised.
        on_bad_row: `data.on_bad_row`.
        what: the file or folder, for the message.
        remedy: what to do.

    Returns:
        The good rows, and one text for each row left out.

    Raises:
        DataError: all problems at once, if they are not to be skipped or no row would be left.
    """
    whole = [p for p in problems if not isinstance(p, RowProblem)]
    if on_bad_row == "error" or whole:
        raise_problems(whole if on_bad_row == "skip" else problems, what, remedy)
    bad: dict[Hashable, list[str]] = {}
    for problem in problems:
        for row in problem.rows if isinstance(problem, RowProblem) else ():
            bad.setdefault(row, []).append(str(problem))
    good = records[~records.index.isin(list(bad))]
    if bad and good.empty:
        raise DataError(f"{what}: none of its rows can be used.\n{listed(problems)}", "Correct them.")
    return good, ["; ".join(reasons) for reasons in bad.values()]


def numeric_if_possible(column: pd.Series) -> pd.Series:
    """A text column as numbers where every non-empty cell is one, else unchanged."""
    try:
        return pd.to_numeric(column)
    except (ValueError, TypeError):
        return column
