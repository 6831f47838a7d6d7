"""The leakage gate and the grouped split: no patient, and no picture, on two sides of a split.

Records that share the source's group key, that have identical pixels, or that are verified near-duplicates belong
together; what hangs together through any chain of these is a *component*. Components are what is divided.

Nothing here depends on the order of rows: groups are put in order by a hash of (seed, group).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pipelines.shared.errors import DataError, listed, nearest

Integers = NDArray[np.int64]

SPLITS = ["train", "val", "test"]  # from the least to the most protected
EVERYTHING = "all groups"

# A component this large that joins several source groups is probably a chain of look-alikes, not one patient.
ALARM_FRACTION, ALARM_RECORDS = 0.05, 50


# --- the leakage gate ---


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
        said = []
        if self.by == "record":
            where = f"; {_count(self.straddling, 'component')} ended on several sides" if self.straddling else ""
            said.append(f"The split was made by record, not by group{where}: scores may be too good.")
        if self.leaks:
            gone = sum(d["reason"] == "leak" for d in self.dropped)
            done = f"{_count(gone, 'record')} dropped from the less protected sides" if gone else "left as they are"
            said.append(f"The source's own split has {_count(len(self.leaks), 'component')} on several sides: {done}.")
        if self.alarm:
            said.append(
                f"The largest component joins {self.largest['source_groups']} groups with {self.largest['records']} of "
                f"{self.records} records: probably a chain of look-alikes. Look at them; data.near_duplicates=false "
                "leaves look-alikes apart."
            )
        if self.conflicts:
            members = sum(len(c) for c in self.conflicts)
            done = f"all {members} records dropped" if self.conflicting_labels == "drop" else "kept"
            said.append(f"{_count(len(self.conflicts), 'set')} of identical images with different labels: {done}.")
        if self.identical:
            members = sum(len(s) for s in self.identical)
            said.append(f"{_count(len(self.identical), 'set')} of identical images ({members} records).")
        if self.near:
            differ = sum(pair["labels_differ"] for pair in self.near)
            labels = f", {differ} of them with different labels" if differ else ""
            said.append(f"{_count(len(self.near), 'pair')} of near-duplicate images{labels}.")
        said.append(
            f"{_count(self.records, 'record')} of {_count(self.source_groups, 'source group')} form "
            f"{_count(self.components, 'component')}; the largest has {_count(self.largest['records'], 'record')}."
        )
        return said


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
    return pd.factorize(label)[0].astype(np.int64)


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
    _check(records)
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
        f"The source's own split has {_count(len(leaks), 'component')} on several sides:\n{listed(shown)}",
        "split.leakage=drop leaves out the records on the less protected sides, split.leakage=report keeps them.",
    )


def _refuse_conflicts(conflicts: list[dict[str, dict[str, Any]]]) -> None:
    shown = [
        " / ".join(f"{name}: " + ", ".join(f"{k}={v}" for k, v in values.items()) for name, values in conflict.items())
        for conflict in conflicts
    ]
    raise DataError(
        f"{_count(len(conflicts), 'set')} of identical images with different labels:\n{listed(shown)}",
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


def _check(records: pd.DataFrame) -> None:
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


def _count(number: int | None, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


# --- splits ---


def grouped_split(
    records: pd.DataFrame, fractions: Mapping[str, float], stratify: str | None, seed: int, carve_val: bool = True
) -> pd.Series:
    """Divide records into train, val and test by whole groups, respecting the source's own split.

    Rows that have a split keep it. Rows without one are divided among the splits that the source does not name (all
    three where it names none; `train` where it names all), except that a row whose group has a split already follows
    its group. If then there is no `val`, it is carved out of `train`.

    Within each stratum groups are put in order by size, then by a hash of (seed, group), and dealt out in proportion:
    numbers of groups come as close to the fractions as whole groups allow, numbers of records nearly so.

    Args:
        records: `id`, `group`, `split`, and the column named by `stratify`.
        fractions: Share of the groups for each of train, val, test; 0 or missing for a split that is not wanted.
        stratify: Column whose classes each split should have alike. A group's stratum is its largest value, so number
            the classes by severity; groups without a value are a stratum of their own.
        seed: Another seed, another split.
        carve_val: Whether `val` may be taken from the source's own `train`.

    Returns:
        The split of each row, with the index of `records`.

    Raises:
        DataError: A class with fewer groups than splits that want a share of it, or a wanted split left empty.
    """
    _check(records)
    wanted = [name for name in SPLITS if fractions.get(name, 0) > 0]
    group = records["group"].astype(str)
    split = records["split"].astype(object).where(records["split"].notna(), None)
    given = set(split.dropna())

    highest = split.map({name: rank for rank, name in enumerate(SPLITS)}).astype(float).groupby(group).transform("max")
    split = split.where(split.notna(), highest.map(dict(enumerate(SPLITS))))
    if split.isna().any():
        targets = [name for name in wanted if name not in given] or ["train"]
        split = _divide(
            records, split, split.isna(), {name: fractions.get(name, 1) for name in targets}, stratify, seed
        )
    if carve_val and {"train", "val"} <= set(wanted) and not (split == "val").any():
        movable = (split == "train") & ~group.isin(group[split != "train"])
        shares = {name: fractions[name] for name in ("train", "val")}
        split = _divide(records, split, movable, shares, stratify, seed)

    for name in wanted:
        if not (split == name).any():
            named = f"names {', '.join(sorted(given))}" if given else "is empty"
            raise DataError(
                f"No records are left for {name}: the source's own split {named}.",
                f"Name {name} in it too, or leave the column empty for a split of our own.",
            )
    return split.rename("split")


def folds(records: pd.DataFrame, k: int, stratify: str | None, seed: int) -> pd.Series:
    """Divide records into k folds by whole groups, for cross-validation.

    Within each stratum, the rarest first, the largest remaining group goes to the fold that has the fewest records of
    this stratum, then the fewest of all: the folds are balanced in both as far as whole groups allow.

    Args:
        records: `id`, `group`, and the column named by `stratify`; `split` is not looked at.
        k: Number of folds.
        stratify: As in `grouped_split`.
        seed: Another seed, other folds.

    Returns:
        The fold (0 to k - 1) of each row, with the index of `records`.

    Raises:
        DataError: A class with fewer groups than folds.
    """
    if k < 2:
        raise ValueError(f"at least 2 folds are needed, not {k}")
    _check(records)
    strata = _strata(records, stratify, seed)
    _check_strata(strata, k, f"the {k} folds", stratify)
    totals = np.zeros(k, int)
    place = np.argsort([_order(seed, "fold", str(n)) for n in range(k)])  # which fold wins a tie
    fold: dict[str, int] = {}
    for _, groups in strata:
        here = np.zeros(k, int)
        for group, size in groups.items():
            best = min(range(k), key=lambda n: (here[n], totals[n], place[n]))
            fold[str(group)] = best
            here[best] += size
            totals[best] += size
    return records["group"].astype(str).map(fold).rename("fold")


def subsample_groups(records: pd.DataFrame, n_groups: int, seed: int) -> pd.DataFrame:
    """The records of `n_groups` groups. With one seed, the smaller sample is part of the larger (learning curves).

    Raises:
        DataError: More groups are asked for than there are.
    """
    groups = records["group"].astype(str)
    existing = sorted(groups.unique(), key=lambda group: _order(seed, "subsample", group))
    if not 1 <= n_groups <= len(existing):
        raise DataError(
            f"{n_groups} groups were asked for, there are {len(existing)}.", "Ask for fewer, but at least 1."
        )
    return records[groups.isin(existing[:n_groups])]


def split_fingerprint(records: pd.DataFrame) -> str:
    """SHA-256 (hex) of which record of which group is in which split, whatever the order of rows."""
    columns = (records[name].astype(object).where(records[name].notna(), None) for name in ("id", "group", "split"))
    rows = sorted([str(name), str(group), split] for name, group, split in zip(*columns, strict=True))
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def _divide(
    records: pd.DataFrame,
    split: pd.Series,
    rows: pd.Series,
    shares: Mapping[str, float],
    stratify: str | None,
    seed: int,
) -> pd.Series:
    """`split`, but the marked rows divided anew: whole groups, in proportion to `shares`."""
    shares = {name: share / sum(shares.values()) for name, share in shares.items()}
    strata = _strata(records[rows], stratify, seed)
    _check_strata(strata, len(shares), ", ".join(shares), stratify)
    chosen: dict[str, str] = {}
    given, seen = dict.fromkeys(shares, 0), 0
    for stratum, groups in strata:
        count = len(groups)
        seen += count
        owed = {name: share * seen - given[name] for name, share in shares.items()}
        counts = _apportion(count, shares, owed, least=0 if stratum is None else 1)
        dealt = dict.fromkeys(shares, 0)
        for n, group in enumerate(groups.index, start=1):
            # To whom most is due so far: this spreads every size of group over the splits.
            due = {name: counts[name] * n / count - dealt[name] for name in shares if dealt[name] < counts[name]}
            name = max(due, key=lambda key: due[key])
            chosen[group] = name
            dealt[name] += 1
        given = {name: given[name] + counts[name] for name in shares}
    return split.where(~rows, records["group"].astype(str).map(chosen))


def _apportion(count: int, shares: Mapping[str, float], owed: Mapping[str, float], least: int) -> dict[str, int]:
    """How many of a stratum's groups each split gets: its share rounded down, and what remains to whom most is owed.

    `owed` is what each split lacks over all strata so far, so that rounding evens out. At least `least` each.
    """
    counts = {name: max(least, int(count * share + 1e-9)) for name, share in shares.items()}
    while sum(counts.values()) > count:
        counts[max(counts, key=lambda name: counts[name])] -= 1
    for name in sorted(shares, key=lambda name: counts[name] - owed[name])[: count - sum(counts.values())]:
        counts[name] += 1
    return counts


def _strata(records: pd.DataFrame, stratify: str | None, seed: int) -> list[tuple[Any, pd.Series]]:
    """Strata, the rarest first: the class, and its groups' sizes (index: group) in the order in which they are dealt.

    The class is None for groups whose class is unknown, and `EVERYTHING` where there are no classes.
    """
    if stratify is not None and stratify not in records.columns:
        raise DataError(f"The records have no column '{stratify}' to stratify by.", nearest(stratify, records.columns))
    group = records["group"].astype(str)
    table = pd.DataFrame({"size": group.value_counts()})
    table["order"] = [_order(seed, "split", name) for name in table.index]
    table = table.sort_values(["size", "order"], ascending=[False, True])
    if stratify is None or records[stratify].isna().all():
        return [(EVERYTHING, table["size"])] if len(table) else []
    known = records[stratify].dropna().astype(object)
    table["class"] = known.groupby(group[records[stratify].notna()]).max()
    strata: list[tuple[Any, pd.Series]] = [(value, rows["size"]) for value, rows in table.groupby("class", sort=False)]
    strata.sort(key=lambda stratum: (len(stratum[1]), str(stratum[0])))
    unknown = table.loc[table["class"].isna(), "size"]
    return [*strata, (None, unknown)] if len(unknown) else strata


def _check_strata(strata: Iterable[tuple[Any, pd.Series]], parts: int, names: str, stratify: str | None) -> None:
    short = [(value, len(groups)) for value, groups in strata if value is not None and len(groups) < parts]
    if not short:
        return
    needed = f"at least {parts} are needed, one for each of {names}"
    if short[0][0] == EVERYTHING:
        raise DataError(f"There are {_count(short[0][1], 'group')}; {needed}.", "Add groups, or ask for fewer parts.")
    shown = [f"{stratify}={value}: {_count(groups, 'group')}" for value, groups in short]
    raise DataError(
        f"Too few groups in {'a class' if len(short) == 1 else 'some classes'}; {needed}:\n{listed(shown)}",
        "Add groups of these classes, join them with a neighbouring class, leave them out, or ask for fewer parts.",
    )


def _order(seed: int, purpose: str, name: str) -> str:
    """A pseudo-random place in line for a group, the same wherever and in whatever company it is asked for."""
    return hashlib.sha256(json.dumps([seed, purpose, name]).encode()).hexdigest()
