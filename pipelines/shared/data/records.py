"""The record table: what there is to learn from, one row per record.

Every source, whatever its layout on disk, becomes a `Source` whose `records` have the columns `id` (unique),
`group` (patient, lesion, slide … the unit that must not be divided), `split` (train, val, test, or None where the
source has no official split), `path` (relative to the source's root), the study's targets, and the source's own
columns. A missing target is NaN: unknown, never negative.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipelines.shared.config import TableSection
from pipelines.shared.data.cards import load_card
from pipelines.shared.data.tables import (
    RowProblem,
    check_ids,
    inside,
    numeric_if_possible,
    parse_values,
    read_csv,
    without_bad_rows,
)
from pipelines.shared.errors import DataError, listed, nearest

SPLITS = ["train", "val", "test"]  # from the least to the most protected
RECALIBRATION = "recalibration"  # what an evaluation with recalibrate=<share> chooses thresholds anew on
PARTS = [*SPLITS[:-1], RECALIBRATION, SPLITS[-1]]  # all that a run's records may be used for


@dataclass(frozen=True)
class Source:
    """A dataset as an adapter found it.

    Attributes:
        name: the source's name, as in `data=<name>`.
        synthetic: whether the data were made by a phantom.
        root: the folder that `path` is relative to. Never written to.
        records: the record table.
        group_key: what a group is, for people ("patient", "image: the set has no patient ids").
        readers: individual readings, one row per record and reader (`id`, `reader`, the study's targets), or None.
        notes: what the reader of the report should know about how the source was read.
        left_out: rows of its tables that could not be understood (`data.on_bad_row=skip`), each with its reason.
        bad_files: files with something wrong in them that are no record of their own (a slice of a series): "name:
            reason" each. They are refused or passed over like bad records, `data.on_bad_file`.
        lookup: where it is written which name stands for which file, if the names of files are hashed.
        excluded: rows that the set itself or the study's rules have no use for: the reason -> their ids.
    """

    name: str
    synthetic: bool
    root: Path
    records: pd.DataFrame
    group_key: str
    readers: pd.DataFrame | None = None
    notes: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    excluded: Mapping[str, list[str]] = field(default_factory=dict)
    bad_files: list[str] = field(default_factory=list)
    lookup: Path | None = None


@dataclass(frozen=True)
class Target:
    """A target that a user's table may carry: its name, the values it may take, whether it must be there.

    `words`: what a cell says for each value, where a table holds names of classes and not their numbers.
    """

    name: str
    values: Sequence[int]
    required: bool = False
    words: Mapping[str, int] = field(default_factory=dict)


def dataset_folder(root: str | None, card_name: str) -> Path:
    """The dataset's folder, checked to exist.

    Raises:
        DataError: no root given, or no such folder; says what the card says about getting the data.
    """
    card = load_card(card_name)
    how = f"{card.title}: {card.access} Expected there: {'; '.join(card.layout)}."
    if root is None:
        raise DataError(f"data={card_name} needs data.root=<folder>.", how)
    folder = Path(root)
    if not folder.is_dir():
        found = "is a file, not a folder" if folder.exists() else "does not exist"
        raise DataError(f"data.root={root} {found}.", how)
    return folder


def read_table(config: TableSection, targets: Sequence[Target]) -> Source:
    """`data=table`: the user's own CSV or Parquet, its columns named in the configuration.

    Args:
        config: `data.table`, `data.root`, `data.columns`, `data.targets`, `data.values`.
        targets: the study's targets; those that the table does not name are unknown (NaN).

    Raises:
        DataError: listing every bad row at once.
    """
    if config.table is None:
        raise DataError("data=table needs data.table=<CSV or Parquet file>.", "See data_cards/table.md.")
    file = Path(config.table)
    root = Path(config.root) if config.root else file.parent
    if not root.is_dir():
        raise DataError(
            f"data.root={config.root} does not exist.", "Give the folder that the table's paths start from."
        )
    names = [t.name for t in targets]
    for key in [*config.targets, *config.values]:
        if key not in names:
            raise DataError(f"data.targets.{key}: this study has no such target.", nearest(key, names))
    columns = config.columns
    wanted = [c for c in (columns.path, columns.id, columns.group, columns.split) if c] + list(config.targets.values())
    table = read_csv(file, wanted)
    missing = [t.name for t in targets if t.required and t.name not in config.targets]
    if missing:
        raise DataError(
            f"data.targets names no column for: {', '.join(missing)}.",
            f"Give it, for example 'data.targets={{{missing[0]}: <column>}}'; columns: {', '.join(table.columns)}.",
        )

    def problem(row: int, text: str) -> RowProblem:  # read_csv numbers rows from 0
        return RowProblem(f"{file.name} row {row + 2}: {text}", row)

    def empty(column: str) -> list[str]:
        return [problem(i, f"empty {column}") for i in np.flatnonzero(table[column].isna()).tolist()]

    problems = empty(columns.path)
    paths = table[columns.path].fillna("").astype(str)
    problems += [problem(i, f"{p} leaves the folder {root}") for i, p in enumerate(paths) if not inside(p)]
    ids = table[columns.id or columns.path]
    problems += check_ids(ids, file) if columns.id else check_ids(table[columns.path].dropna(), file)
    records = pd.DataFrame({"id": ids.astype(str), "path": paths})
    if columns.group:
        problems += empty(columns.group)
        records["group"] = table[columns.group].astype(str)
    else:
        records["group"] = records["id"]
    if columns.split:
        split = table[columns.split].str.lower()
        bad = split.notna() & ~split.isin(SPLITS)
        problems += [
            problem(i, f"{columns.split}={split.iloc[i]}, allowed: {', '.join(SPLITS)}")
            for i in np.flatnonzero(bad).tolist()
        ]
        records["split"] = split.where(split.notna(), None).astype(object)
    else:
        records["split"] = None
    for target in targets:
        if target.name in config.targets:
            mapping = _mapping(config.values.get(target.name, {}), target)
            column = table[config.targets[target.name]]
            records[target.name], bad_cells = parse_values(
                column, target.values, file, mapping, not target.required, target.words
            )
            problems += bad_cells
        else:
            records[target.name] = np.nan
    used = set(wanted)
    for name in table.columns:
        if name not in used and name not in records.columns:
            records[name] = numeric_if_possible(table[name])
    records, left_out = without_bad_rows(records, problems, config.on_bad_row, str(file))
    group_key = columns.group or "single record (no group column was given)"
    notes = [] if columns.group else ["The table names no group column: every record counts as its own patient."]
    return Source("table", False, root, records.reset_index(drop=True), group_key, notes=notes, left_out=left_out)


def _mapping(values: dict[str, int | float | str], target: Target) -> dict[str, int]:
    known: Mapping[Any, int] = target.words or {value: value for value in target.values}
    for word, value in values.items():
        if value not in known:
            raise DataError(
                f"data.values.{target.name}.{word}={value} is no {target.name}.", nearest(str(value), known)
            )
    return {word: known[value] for word, value in values.items()}


def check_records(records: pd.DataFrame) -> None:
    """What every function here relies on.

    Raises:
        DataError: No records, an id that is not unique, a record without a group, or an unknown split.
    """
    if records.empty:
        raise DataError("There are no records.", "Look at what was left out before, and why.")
    duplicated = records.loc[records["id"].duplicated(), "id"].unique()
    if len(duplicated):
        raise DataError(f"Ids that are not unique:\n{listed(duplicated)}", "Give each record an id of its own.")
    without = records.loc[records["group"].isna(), "id"]
    if len(without):
        raise DataError(f"Records without a group:\n{listed(without)}", "Give each a group, if need be its own id.")
    unknown = sorted(set(records["split"].dropna().astype(str)) - set(SPLITS))
    if unknown:
        raise DataError(f"Unknown split: {', '.join(unknown)}.", f"Allowed: {', '.join(SPLITS)}, or empty.")
