"""The leakage gate: no patient, and no picture, on two sides of a split.

Records that share the source's group key, that have identical pixels, or that are verified near-duplicates belong
together; what hangs together through any chain of these is a *component*. Components are what is divided.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pipelines.shared.data.records import SPLITS, check_records
from pipelines.shared.errors import DataError, counted, listed

Integers = NDArray[np.int64]

# A component this large that joins several source groups is probably a chain of look-alikes, not one patient.
ALARM_FRACTION, ALARM_RECORDS = 0.05, 50


@dataclass(frozen=True)
class GateReport:
    """What the leakage gate found. Everything is plain data: `to_dict` goes into a JSON file as it is.

    Attributes:
        records: Number of records before anything was dropped.
        source_groups: Number of the source's own groups.
        components: Number of components.
        merged: How many components join several source groups.
        largest: The largest component: `component`, `records`, `source_groups`, `ids`.
        alarm: Whether it is so large that it is probably a chain of look-alikes.
        identical: Sets of records with identical pixels, as lists of ids.
        near: Verified near-duplicates that are not identical: `a`, `b` (ids), `labels_differ`, and the further columns
            of the table that was given (`distance`, `difference`).
        conflicts: Sets of identical records whose labels differ: `{id: {label: value}}`.
        conflicting_labels: What was done with them: drop or keep.
        leaks: Components on several sides of the source's own split: `component` and the ids on each side.
        leakage: What was done with them: report or drop.
        dropped: What was left out: `id`, `reason` ("conflict" or "leak").
        by: What is divided: group (components) or record.
        straddling: With by="record", how many components ended on several sides; known only after the split
            (`dataclasses.replace(report, straddling=len(straddling(records)))`).
    """

    records: int
    source_groups: int
    components: int
    merged: int
    largest: dict[str, Any]
    alarm: bool
    identical: list[list[str]]
    near: list[dict[str, Any]]
    conflicts: list[dict[str, dict[str, Any]]]
    conflicting_labels: str
    leaks: list[dict[str, Any]]
    leakage: str
    dropped: list[dict[str, str]]
    by: str
    straddling: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """All fields, JSON-serialisable."""
        return asdict(self)

    def sentences(self) -> list[str]:
        """The findings in a few sentences, the gravest first."""
        lines = []
        if self.by == "record":
            where = f"; {counted(self.straddling, 'component')} ended on several sides" if self.straddling else ""
            lines.append(f"The split was made by record, not by group{where}: scores may be too good.")
        if self.leaks:
            gone = sum(d["reason"] == "leak" for d in self.dropped)
            done = f"{counted(gone, 'record')} dropped from the less protected sides" if gone else "left as they are"
            lines.append(
                f"The source's own split has {counted(len(self.leaks), 'component')} on several sides: {done}."
            )
        if self.alarm:
            lines.append(
                f"The largest component joins {self.largest['source_groups']} groups with {self.largest['records']} of "
                f"{self.records} records: probably a chain of look-alikes. Look at them; data.near_duplicates=false "
                "leaves look-alikes apart."
            )
        if self.conflicts:
            members = sum(len(c) for c in self.conflicts)
            done = f"all {members} records dropped" if self.conflicting_labels == "drop" else "kept"
            lines.append(f"{counted(len(self.conflicts), 'set')} of identical images with different labels: {done}.")
        if self.identical:
            members = sum(len(s) for s in self.identical)
            lines.append(f"{counted(len(self.identical), 'set')} of identical images ({members} records).")
        if self.near:
            differ = sum(pair["labels_differ"] for pair in self.near)
            labels = f", {differ} of them with different labels" if differ else ""
            lines.append(f"{counted(len(self.near), 'pair')} of near-duplicate images{labels}.")
        lines.append(
            f"{counted(self.records, 'record')} of {counted(self.source_groups, 'source group')} form "
            f"{counted(self.components, 'component')}; the largest has {counted(self.largest['records'], 'record')}."
        )
        return lines


def components(count: int, edges: ArrayLike) -> Integers:
    """Connected components of a graph.

    Args:
        count: Number of nodes.
        edges: (m, 2) node numbers.

    Returns:
        (count,) component of each node, numbered in the order of their first nodes.
    """
    i, j = np.asarray(edges, np.int64).reshape(-1, 2).T
    graph = coo_array((np.ones(len(i), bool), (i, j)), shape=(count, count))
    _, label = connected_components(graph, directed=False)
    numbers: Integers = pd.factorize(label)[0].astype(np.int64)
    return numbers


def leakage_gate(
    records: pd.DataFrame,
    *,
    labels: Sequence[str],
    near: pd.DataFrame | None = None,
    conflicting_labels: Literal["drop", "keep", "error"] = "drop",
    leakage: Literal["report", "drop", "error"] = "report",
    by: Literal["group", "record"] = "group",
) -> tuple[pd.DataFrame, GateReport]:
    """Find what belongs together, and what contradicts itself, before anything is divided.

    Args:
        records: The record table: `id`, `group`, `split`, `fingerprint` and the labels.
        labels: The label columns. Identical images conflict where two *known* values differ; unknown (NaN, None)
            beside known is no contradiction.
        near: Near-duplicates: `i`, `j`, positions in `records`; further columns are passed on to the report.
        conflicting_labels: For identical images with different labels: drop all of them (which one is right cannot be
            known), keep them, or raise an error.
        leakage: For components on several sides of the source's own split: report, drop, or raise an error. What is
            dropped lies on the less protected sides: train for the sake of val, both for the sake of test.
        by: What will be divided. "record" follows a paper that split by image: components are found and reported all
            the same, but `group` becomes the record's id.

    Returns:
        The records that are left, their index kept, with `component` (named after the smallest source group in it),
        `source_group` (what `group` was) and the new `group`; and the report. Components are those of *all* records:
        two patients who share a picture that was dropped stay together.

    Raises:
        DataError: With "error", listing what was found; or where `id`, `group` or `split` are not sound.
    """
    check_records(records)
    near = pd.DataFrame({"i": [], "j": []}, dtype=np.int64) if near is None else near
    ids, source = records["id"].astype(str).to_numpy(), records["group"].astype(str).to_numpy()
    fingerprint = records["fingerprint"].to_numpy()
    identical = [rows for rows in _positions(fingerprint) if len(rows) > 1]
    edges = [(rows[0], row) for rows in [*_positions(source), *identical] for row in rows[1:]]
    label = components(len(records), edges + near[["i", "j"]].to_numpy().tolist())
    component = pd.Series(source).groupby(label).transform("min").to_numpy()
    table = records.assign(source_group=source, component=component, group=ids if by == "record" else component)

    values = records[list(labels)].groupby(fingerprint).nunique()  # unknown ones do not count
    contradictory = set(values.index[(values > 1).any(axis=1)])
    conflicts = [rows for rows in identical if fingerprint[rows[0]] in contradictory]
    if conflicts and conflicting_labels == "error":
        _refuse_conflicts([_labels_of(records, rows, labels) for rows in conflicts])
    dropped: dict[str, str] = {}
    if conflicting_labels == "drop":
        dropped = {ids[row]: "conflict" for rows in conflicts for row in rows}

    leaks = _leaks(table[~np.isin(ids, list(dropped))])
    if leaks and leakage == "error":
        _refuse_leaks(leaks)
    if leakage == "drop":
        dropped |= {name: "leak" for leak in leaks for side in _sides(leak)[:-1] for name in leak[side]}

    sizes = pd.Series(component).value_counts()
    joined = pd.Series(source).groupby(component).nunique()
    largest = min(sizes.index[sizes == sizes.max()])
    members = sorted(ids[component == largest])
    report = GateReport(
        records=len(records),
        source_groups=len(set(source)),
        components=len(sizes),
        merged=int((joined > 1).sum()),
        largest={
            "component": largest,
            "records": len(members),
            "source_groups": int(joined[largest]),
            "ids": members,
        },
        alarm=bool(joined[largest] > 1 and len(members) > max(ALARM_RECORDS, ALARM_FRACTION * len(records))),
        identical=sorted(sorted(ids[rows]) for rows in identical),
        near=_near_pairs(table, near, labels),
        conflicts=[_labels_of(records, rows, labels) for rows in conflicts],
        conflicting_labels=conflicting_labels,
        leaks=leaks,
        leakage=leakage,
        dropped=[{"id": name, "reason": reason} for name, reason in sorted(dropped.items())],
        by=by,
    )
    return table[~np.isin(ids, list(dropped))].copy(), report


def straddling(records: pd.DataFrame, component: str = "component") -> pd.DataFrame:
    """Components with records on several sides of a split.

    Args:
        records: With the columns `split` (rows without one do not count) and `component`.
        component: The column that names the component.

    Returns:
        One row per such component (index), number of records in `train`, `val`, `test`.
    """
    counts = pd.crosstab(records[component], records["split"]).reindex(columns=SPLITS, fill_value=0)
    return counts[(counts > 0).sum(axis=1) > 1]


def _leaks(table: pd.DataFrame) -> list[dict[str, Any]]:
    leaking = table[table["component"].isin(straddling(table).index)]
    found = []
    for name, rows in leaking.groupby("component"):
        sides = {split: sorted(rows.loc[rows["split"] == split, "id"].astype(str)) for split in SPLITS}
        found.append({"component": name} | {split: members for split, members in sides.items() if members})
    return found


def _near_pairs(records: pd.DataFrame, near: pd.DataFrame, labels: Sequence[str]) -> list[dict[str, Any]]:
    """The pairs by id, without those that are identical anyway."""
    first, second = (records.iloc[near[end]].reset_index(drop=True) for end in ("i", "j"))
    pairs = near.drop(columns=["i", "j"]).reset_index(drop=True)
    pairs.insert(0, "a", first["id"].astype(str))
    pairs.insert(1, "b", second["id"].astype(str))
    pairs.insert(2, "labels_differ", False)
    for label in labels:
        pairs["labels_differ"] |= (first[label] != second[label]) & first[label].notna() & second[label].notna()
    identical = first["fingerprint"].notna() & (first["fingerprint"] == second["fingerprint"])
    return [{str(key): value for key, value in pair.items()} for pair in pairs[~identical].to_dict("records")]


def _sides(leak: Mapping[str, Any]) -> list[str]:
    """The sides of the split on which a component lies, the most protected last."""
    return [split for split in SPLITS if split in leak]


def _refuse_leaks(leaks: list[dict[str, Any]]) -> None:
    shown = [
        f"{leak['component']}: " + "; ".join(f"{s}: {', '.join(leak[s][:5])}" for s in _sides(leak)) for leak in leaks
    ]
    raise DataError(
        f"The source's own split has {counted(len(leaks), 'component')} on several sides:\n{listed(shown)}",
        "split.leakage=drop leaves out the records on the less protected sides, split.leakage=report keeps them.",
    )


def _refuse_conflicts(conflicts: list[dict[str, dict[str, Any]]]) -> None:
    shown = [
        " / ".join(f"{name}: " + ", ".join(f"{k}={v}" for k, v in values.items()) for name, values in conflict.items())
        for conflict in conflicts
    ]
    raise DataError(
        f"{counted(len(conflicts), 'set')} of identical images with different labels:\n{listed(shown)}",
        "Correct the labels, or leave these records out with data.conflicting_labels=drop (keep: use them all).",
    )


def _labels_of(records: pd.DataFrame, rows: Integers, labels: Sequence[str]) -> dict[str, dict[str, Any]]:
    values: dict[str, dict[str, Any]] = {}
    for row in records.iloc[rows].to_dict("records"):  # as Python's own types, which JSON knows
        values[str(row["id"])] = {name: None if pd.isna(row[name]) else row[name] for name in labels}
    return dict(sorted(values.items()))


def _positions(values: NDArray[Any]) -> list[Integers]:
    """Positions of each distinct value; None and NaN are no values."""
    return [np.asarray(rows) for rows in pd.Series(values).groupby(values, sort=False).indices.values()]
