"""The cohort table of a report: a row per characteristic, a column per part."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd

from pipelines.shared.data.records import PARTS
from pipelines.shared.judging.report import UNDEFINED, Cell, Table, left_then_right


class Cohort:
    """Collects the rows of the table; a characteristic that the source does not record gets no row."""

    def __init__(self, records: pd.DataFrame) -> None:
        parts = {split: records[records["split"] == split] for split in PARTS}
        self.records = records
        self.parts = {split: part for split, part in parts.items() if len(part)}
        self.rows: list[list[Cell]] = []

    def add(self, label: str, cell: Callable[[pd.DataFrame], Cell]) -> None:
        """A row: `cell` makes an entry of the records of a split."""
        self.rows.append([label, *(cell(part) for part in self.parts.values())])

    def counts(self, records: str, groups: str) -> None:
        """How many records and groups there are; the arguments say what these are."""
        self.add(records, len)
        self.add(groups, lambda part: int(part["group"].nunique()))

    def people(self) -> None:
        """Age and sex, once per group."""
        if self._records("age"):
            self.add("Age, years: mean (SD)", lambda part: _mean(pd.to_numeric(_per_group(part, "age"), "coerce")))
        if self._records("sex"):
            self.add("Female", lambda part: _female(_per_group(part, "sex")))

    def share(self, label: str, column: str, value: Any = 1) -> None:
        """How many have a value in a column, of those in which it is known."""
        if self._records(column):
            self.add(label, lambda part: share(int((part[column] == value).sum()), int(part[column].notna().sum())))

    def median(self, label: str, column: str) -> None:
        """The median of a column."""
        if self._records(column):
            self.add(label, lambda part: _number(part[column].median()))

    def table(self, caption: str) -> Table:
        """The table, numbers to the right."""
        columns = ["Characteristic", *self.parts]
        return Table(columns, self.rows, caption, left_then_right(columns))

    def _records(self, column: str) -> bool:
        return column in self.records and bool(self.records[column].notna().any())


def share(part: int, whole: int) -> str:
    """A count with its percentage: '34 (12.5 %)'."""
    return f"{part:,} ({100 * part / whole:.1f} %)" if whole else UNDEFINED


def _per_group(part: pd.DataFrame, column: str) -> pd.Series:
    return part.drop_duplicates("group")[column]


def _mean(values: pd.Series) -> str:
    deviation = f" ({values.std():.1f})" if values.notna().sum() > 1 else ""
    return f"{values.mean():.1f}{deviation}" if values.notna().any() else UNDEFINED


def _female(sex: pd.Series) -> str:
    return share(int((sex.astype(str).str.upper().str[0] == "F").sum()), int(sex.notna().sum()))


def _number(value: float) -> str | None:
    return None if pd.isna(value) else f"{value:g}"
