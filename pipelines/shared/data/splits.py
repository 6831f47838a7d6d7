"""The grouped split: whole groups, stratified, seeded.

Nothing here depends on the order of rows: groups are put in order by a hash of (seed, group).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from pipelines.shared.data.records import SPLITS, check_records
from pipelines.shared.errors import DataError, counted, listed, nearest

EVERYTHING = "all groups"


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
    check_records(records)
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
    check_records(records)
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


def fold_roles(fold: ArrayLike, tested: int) -> np.ndarray:
    """Who plays which part while one fold is tested: the next one is val (after the last the first), the others train.

    Over all folds every record is test once and val once.

    Args:
        fold: (records,) numbers from 0 without a gap.
        tested: the number of the fold that is tested.

    Returns:
        (records,) train, val or test.
    """
    numbers = np.asarray(fold, int)
    following = (tested + 1) % (int(numbers.max()) + 1)
    return np.where(numbers == tested, "test", np.where(numbers == following, "val", "train"))


def common_classes(records: pd.DataFrame, stratify: str, k: int) -> tuple[pd.DataFrame, list[str]]:
    """The records with classes of fewer than k groups unknown in `stratify`, so that they are dealt out among the
    others, and the names of these classes: not every fold has one of theirs.
    """
    gravest = records[stratify].groupby(records["group"].astype(str)).max() if stratify in records else pd.Series()
    counts = gravest.dropna().value_counts()
    rare = list(counts.index[counts < k])
    if not rare:
        return records, []
    return records.assign(**{stratify: records[stratify].where(~records[stratify].isin(rare))}), sorted(map(str, rare))


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
    """SHA-256 (hex) of which record of which group is in which split (and fold, if any), whatever the order of rows."""
    names = ["id", "group", "split", *(["fold"] if "fold" in records else [])]
    columns = (records[name].astype(object).where(records[name].notna(), None) for name in names)
    rows = sorted([str(name), str(group), *where] for name, group, *where in zip(*columns, strict=True))
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
        count = short[0][1]
        raise DataError(
            f"There {'is' if count == 1 else 'are'} {counted(count, 'group')}; {needed}.",
            "Add groups, or ask for fewer parts; or, if groups are not what they should be, name another column "
            "(data.columns.group; without one every record is its own group).",
        )
    shown = [f"{stratify}={value}: {counted(groups, 'group')}" for value, groups in short]
    raise DataError(
        f"Too few groups in {'a class' if len(short) == 1 else 'some classes'}; {needed}:\n{listed(shown)}",
        "Add groups of these classes, join them with a neighbouring class, leave them out, or ask for fewer parts.",
    )


def _order(seed: int, purpose: str, name: str) -> str:
    """A pseudo-random place in line for a group, the same wherever and in whatever company it is asked for."""
    return hashlib.sha256(json.dumps([seed, purpose, name]).encode()).hexdigest()
