"""Which recordings of a database are of one person: from a list of patients, or from sets of recordings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from pipelines.shared.data.tables import RowProblem, check_ids, read_csv, without_bad_rows
from pipelines.shared.errors import DataError

OWN_COLUMNS = {"id", "group", "split", "path", "header", "start", "steps", "rhythms", "record_label", "record_code"}


def read_patients(file: Path, on_bad_row: Literal["error", "skip"]) -> tuple[pd.DataFrame, list[str]]:
    """`data.patients`: record, patient, and whatever else is known of them, as text; and which rows are left out.

    Raises:
        DataError: no such table; empty cells, a record twice, or a column that the record table has itself.
    """
    table = read_csv(file, ["record", "patient"])
    problems = check_ids(table["record"], file)
    problems += [
        RowProblem(f"{file.name} row {i + 2}: empty patient", i) for i in table.index if pd.isna(table["patient"][i])
    ]
    problems += [
        f"{file.name}: the record table has a column {name} of its own; rename it"
        for name in table
        if name in OWN_COLUMNS
    ]
    return without_bad_rows(table, problems, on_bad_row, str(file))


def about_recordings(
    records: Sequence[str],
    unused: Sequence[str],
    patients: pd.DataFrame | None,
    same_patient: Sequence[Sequence[str]],
    known: Sequence[Sequence[str]],
    root: Path,
    on_bad_row: Literal["error", "skip"] = "error",
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """What is known of each recording: its group, and the further columns of the list.

    Args:
        records: the database's recordings, as paths below its folder.
        unused: more of them, which have no annotations.
        patients: see `read_patients`, or None. It must name every recording, and nothing else.
        same_patient: sets of recordings of one person, all of which must be there.
        known: the same, from the database's own description; a copy of the database may lack some of them.
        root: the database's folder, for messages.
        on_bad_row: `data.on_bad_row`: skip leaves out recordings that `patients` does not name.

    Returns:
        By recording what is known of it; a problem for each recording that is to be left out.

    Raises:
        DataError: a list that does not fit the recordings, with the strangers of both sides.
    """
    named = _Names([*records, *unused])
    problems: list[str] = []
    about: dict[str, dict[str, Any]] = {record: {"group": record} for record in named.records}
    if patients is not None:
        if on_bad_row == "error":
            _check_fit("data.patients", named, patients["record"], root, needed=records)
        rows = patients.drop(columns="record").rename(columns={"patient": "group"})
        matched = [named.find(name) for name in patients["record"]]
        told = {r: {str(k): v for k, v in row.items()} for r, row in zip(matched, rows.to_dict("records"), strict=True)}
        problems = [RowProblem(f"{r}: data.patients does not name it", r) for r in records if r not in told]
        problems += [
            RowProblem(f"{name}: data.patients names it, but there is no such recording", name)
            for name, record in zip(patients["record"], matched, strict=True)
            if record is None
        ]
        about |= {record: row for record, row in told.items() if record is not None}
    _check_fit("data.same_patient", named, [name for names in same_patient for name in names], root)
    for members in _joined([*same_patient, *(known if patients is None else [])]):
        there = [record for record in map(named.find, members) if record is not None]
        groups = {about[record]["group"] for record in there}
        for row in about.values():
            if row["group"] in groups:
                row["group"] = "+".join(members)
    return about, problems


class _Names:
    """Recordings by their path below the database's folder or, where only one has it, by their bare name."""

    def __init__(self, records: Sequence[str]) -> None:
        self.records = list(records)
        bare = [Path(record).name for record in records]
        often = Counter(bare)
        self.by_name = {name: record for name, record in zip(bare, records, strict=True) if often[name] == 1}
        self.by_name |= {record: record for record in records}

    def find(self, name: str) -> str | None:
        """The recording of this name."""
        return self.by_name.get(name)


def _check_fit(key: str, named: _Names, names: Iterable[str], root: Path, needed: Sequence[str] = ()) -> None:
    names = list(names)
    counts = Counter(map(named.find, names))
    strangers = [name for name in names if named.find(name) is None]
    missing = [record for record in needed if record not in counts]
    twice = [record for record, count in counts.items() if record is not None and count > 1] if needed else []
    lines = [
        f"  {len(misfits)} {what}: {_some(misfits)}"
        for what, misfits in (
            ("names without a recording", strangers),
            ("recordings without a name", missing),
            ("recordings named twice", twice),
        )
        if misfits
    ]
    if lines:
        raise DataError(
            f"{key} does not fit the recordings in {root}:\n" + "\n".join(lines),
            f"A recording is named by its path below that folder, without suffix, such as {named.records[0]}."
            + (" One without a row can be left out and reported: data.on_bad_row=skip." if needed else ""),
        )


def _joined(sets: Iterable[Sequence[str]]) -> list[list[str]]:
    """Sets that share a member as one: a person with a and b, and with b and c, is one person."""
    joined: list[list[str]] = []
    for members in sets:
        met = [group for group in joined if set(group) & set(members)]
        joined = [group for group in joined if group not in met]
        joined.append(list(dict.fromkeys([*(name for group in met for name in group), *members])))
    return joined


def _some(names: Collection[str], limit: int = 10) -> str:
    shown = ", ".join(list(names)[:limit])
    return shown + (f", and {len(names) - limit} more" if len(names) > limit else "")
