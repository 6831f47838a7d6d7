"""Splits that are not drawn: one handed in by a file (`split.file`), one by time (`split.by_time`).

Every run writes its split as such a file, `split.csv`: `id`, `group`, `split` and, cross-validated, `fold`. A record
without a split is left out. Handed in again with the same data it gives the same split.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from pipelines.shared.data.records import SPLITS, Source
from pipelines.shared.data.tables import RowProblem, check_ids, raise_problems, read_csv, row_of
from pipelines.shared.errors import ConfigError, DataError, counted, listed, nearest
from pipelines.shared.run_folder import digest

FEWEST_FOLDS = 3  # one is tested, another validates, the rest is learned from
GIVEN_FOLD = "given_fold"  # the column of the record table that brings a file's folds to `Study.split`


@dataclass(frozen=True)
class SplitFile:
    """A split as a file has it.

    Attributes:
        path: the file.
        sha256: of its content.
        split: id -> train, val, test, or None for a record that is left out.
        fold: id -> number of its fold; empty where the file has no folds.
        rows: id -> its row's index label, for messages.
    """

    path: Path
    sha256: str
    split: Mapping[str, str | None]
    fold: Mapping[str, int]
    rows: Mapping[str, int]

    def place(self, ids: list[str]) -> str:
        """Where in the file these records stand."""
        return f"{self.path.name} row{'' if len(ids) == 1 else 's'} {', '.join(row_of(self.rows[i]) for i in ids)}"

    def sentence(self) -> str:
        """For the report."""
        return f"The split is that of {self.path.name} (SHA-256 {self.sha256[:12]}…), handed in with split.file."


def read_split_file(path: str, by: str = "group") -> SplitFile:
    """A CSV or Parquet file with the columns `id` and `split`, and `group` and `fold` where it has them.

    Args:
        path: the file.
        by: `split.by`; with "record" a group may be on several sides.

    Raises:
        ConfigError: no such file.
        DataError: columns that are missing; all rows that are wrong: ids that are empty or there twice, unknown names
            of splits, folds that are no numbers, groups on several sides.
    """
    file = Path(path)
    if not file.is_file():
        raise ConfigError(
            f"split.file={path} does not exist.",
            "Give a CSV with the columns id and split, such as the split.csv of a run folder.",
        )
    table = read_csv(file, ["id", "split"])
    problems = check_ids(table["id"], file)
    split = table["split"].str.lower()
    problems += [
        RowProblem(f"{file.name} row {row_of(i)}: split={table['split'][i]}, allowed: {', '.join(SPLITS)}, or empty", i)
        for i in table.index[split.notna() & ~split.isin(SPLITS)]
    ]
    split = split.where(split.isin(SPLITS), None)
    fold, odd = _folds(table, split, file)
    problems += odd
    if "group" in table and by == "group":
        problems += _on_several_sides(table["group"], split, fold, file, "group")
    if fold is None:
        absent = [name for name in ("train", "test") if not (split == name).any()]
        problems += [f"{file.name} gives no record to {name}" for name in absent]
    raise_problems(problems, str(file), "Correct these rows; nothing was divided.")
    ids = table["id"].astype(str)
    numbers = {} if fold is None else dict(zip(ids, fold, strict=True))
    rows = dict(zip(ids, table.index, strict=True))
    return SplitFile(file, digest(file), dict(zip(ids, split, strict=True)), numbers, rows)


def with_file_split(records: pd.DataFrame, given: SplitFile, source: Source, by: str) -> pd.DataFrame:
    """The records with the split (and as `given_fold` the folds) of a file instead of the source's own.

    Raises:
        DataError: ids of the file that the source does not have, or groups of the source on several sides.
    """
    known = {*source.records["id"].astype(str), *(str(i) for ids in source.excluded.values() for i in ids)}
    unknown = [i for i in given.split if i not in known]
    problems: list[str] = [f"{given.place([i])}: {source.name} has no record '{i}'" for i in unknown]
    ids = records["id"].astype(str)
    split = ids.map(given.split).astype(object)
    split = split.where(split.notna(), None)
    if by == "group":
        rows = ids.map(given.rows)
        problems += _on_several_sides(
            records["group"].astype(str).set_axis(rows),
            split.set_axis(rows),
            ids.map(given.fold).set_axis(rows) if given.fold else None,
            given.path,
            f"{source.group_key.split(':')[0]} (a group of {source.name})",
        )
    close = nearest(unknown[0], list(known)) if unknown else ""
    raise_problems(problems, str(given.path), f"Correct these rows; nothing was divided. {close}".rstrip())
    records = records.assign(split=split)
    return records.assign(**{GIVEN_FOLD: ids.map(given.fold)}) if given.fold else records


def left_out_by_file(records: pd.DataFrame, given: SplitFile, source: str) -> np.ndarray:
    """Which records the file leaves out, as it gives them no split, bool (records,).

    Raises:
        DataError: records that the file does not name.
    """
    ids = records["id"].astype(str)
    missing = ids[~ids.isin(list(given.split))]
    if len(missing):
        raise DataError(
            f"{given.path} lacks {counted(len(missing), 'record')} of {source}:\n{listed(missing)}",
            "Add a row for each; an empty split leaves a record out.",
        )
    return records["split"].isna().to_numpy()


def split_table(records: pd.DataFrame, undivided: pd.DataFrame) -> pd.DataFrame:
    """The content of `split.csv`: `id`, `group`, `split` and `fold` if there are folds, in the order of the records.

    Args:
        records: those of a run.
        undivided: usable records that it left out (`data.train_size`, …): they have no split.
    """
    columns = ["id", "group", "split", *(["fold"] if "fold" in records else [])]
    table = pd.concat([records[columns], undivided[["id", "group"]].assign(split=None)], ignore_index=True)
    return table.astype({"fold": "Int64"}) if "fold" in table else table


def _folds(table: pd.DataFrame, split: pd.Series, file: Path) -> tuple[pd.Series | None, list[str]]:
    """The number of each row's fold, -1 for a record that every fold tests or that is left out; and what is wrong."""
    if "fold" not in table or table["fold"].isna().all():
        return None, []
    fold = pd.to_numeric(table["fold"], errors="coerce").where(split.notna(), -1)
    odd = table.index[~(fold.ge(-1) & fold.mod(1).eq(0))]
    problems: list[str] = [
        RowProblem(f"{file.name} row {row_of(i)}: fold={table['fold'][i]} is not the number of a fold", i) for i in odd
    ]
    fold = fold.drop(odd).astype(int).reindex(table.index, fill_value=-1)
    found = sorted(set(fold) - {-1})
    if found != list(range(len(found))) or len(found) < FEWEST_FOLDS:
        problems.append(
            f"{file.name} has the folds {', '.join(map(str, found))}; they are numbered from 0 without a gap, at least "
            f"{FEWEST_FOLDS} of them"
        )
    return fold, problems


def _on_several_sides(group: pd.Series, split: pd.Series, fold: pd.Series | None, file: Path, what: str) -> list[str]:
    """One problem for each group in several splits or folds; the series' index are labels of the file's rows."""
    side = split if fold is None else split + " of fold " + fold.astype(str)
    known = group.notna() & split.notna()
    sides = side[known].groupby(group[known]).nunique()
    problems: list[str] = []
    for name in sides.index[sides > 1]:
        own = side[known & (group == name)]
        rows = ", ".join(row_of(i) for i in own.index[:10]) + (", …" if len(own) > 10 else "")
        there = " and ".join(dict.fromkeys(own))
        problems.append(RowProblem(f"{file.name} rows {rows}: {what} '{name}' is in {there}", *own.index))
    return problems


# --- by time ---


def without_time(records: pd.DataFrame, column: str) -> np.ndarray:
    """Which records have no time in `column`, bool (records,).

    Raises:
        DataError: no such column, or cells that are neither a number nor a date.
    """
    if column not in records:
        usable = [c for c in records if c not in ("id", "group", "split", "path")]
        raise DataError(f"split.by_time={column}: the records have no such column.", nearest(column, map(str, usable)))
    times, odd = _times(records[column])
    if odd.any():
        cells = [f"{i}: {cell}" for i, cell in zip(records["id"][odd], records[column][odd], strict=True)]
        raise DataError(
            f"split.by_time={column}: {counted(len(cells), 'cell')} {'is' if len(cells) == 1 else 'are'} neither a "
            f"number nor a date:\n{listed(cells)}",
            "Write dates as 2019-03-24 (or 2019, 2019-03), or all times as numbers; leave a cell empty if unknown.",
        )
    return times.isna().to_numpy()


def time_split(records: pd.DataFrame, column: str, fractions: Mapping[str, float]) -> tuple[pd.Series, list[str]]:
    """The latest groups are test, those before them val, the earliest train.

    A group's time is that of its latest record: so no record of train is later than the time of any group of val, and
    none of these later than that of any group of test. Groups with the same time stay together: the borders lie between
    two times, as near to the wanted shares of groups as they allow.

    Args:
        records: `id`, `group` and `column`, which every record has (`without_time`).
        column: numbers, or dates in ISO 8601.
        fractions: of the groups, for train, val and test.

    Returns:
        The split of each row, and sentences for the report.

    Raises:
        DataError: fewer than three different times of groups.
    """
    group = records["group"].astype(str)
    times = _times(records[column])[0].groupby(group).max()
    counts = times.value_counts().sort_index()
    if len(counts) < len(SPLITS):
        raise DataError(
            f"split.by_time={column}: {counted(len(times), 'group')}, {counted(len(counts), 'different time')}; at "
            "least 3 are needed, as those with the same time stay together.",
            "Give a column with finer times, or leave split.by_time out.",
        )
    share = counts.cumsum().to_numpy() / len(times)  # of the groups up to each time
    # The last time of val and that of train, each as near to the wanted share as leaves something for the others.
    val = 1 + int(np.abs(share[1:-1] - (1 - fractions["test"])).argmin())
    train = int(np.abs(share[:val] - fractions["train"]).argmin())
    split = pd.Series(
        np.select([times <= counts.index[train], times <= counts.index[val]], SPLITS[:2], "test"), index=times.index
    )
    parts = {name: int((split == name).sum()) for name in SPLITS}
    shown = [
        f"{name} {parts[name]:,} groups ({parts[name] / len(times):.0%}, {fractions[name]:.0%} wanted)"
        for name in SPLITS
    ]
    notes = [
        f"The split is by time ({column}; a group counts at its latest record): train until "
        f"{_shown(counts.index[train])}, val until {_shown(counts.index[val])}, test until {_shown(counts.index[-1])}: "
        + ", ".join(shown)
        + "."
    ]
    tied = [int(counts.iloc[k]) for k in (train + 1, val + 1) if counts.iloc[k] > 1]
    if tied:
        notes.append(
            f"Groups with the same time stay together: the earliest time of val and of test is shared by "
            f"{counts.iloc[train + 1]} and {counts.iloc[val + 1]} groups."
        )
    return group.map(split).rename("split"), notes


def _times(column: pd.Series) -> tuple[pd.Series, pd.Series]:
    """The times, as numbers or as dates, and which cells are neither (they and the empty ones are missing)."""
    numbers = pd.to_numeric(column, errors="coerce")
    if not (column.notna() & numbers.isna()).any():
        return numbers.astype(float), pd.Series(False, index=column.index)
    dates = pd.to_datetime(column.astype(str).where(column.notna()), errors="coerce", format="ISO8601", utc=True)
    return dates, column.notna() & dates.isna()


def _shown(time: object) -> str:
    if isinstance(time, pd.Timestamp):
        return str(time.date()) if time == time.normalize() else str(time)
    return f"{time:g}" if isinstance(time, float) and abs(time) < 1e6 else f"{time:.0f}"
