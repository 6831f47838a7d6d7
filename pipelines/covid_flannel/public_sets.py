"""The two public sets of chest X-rays, each read in the layout in which it is distributed, or copied."""

from __future__ import annotations

import filecmp
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipelines.covid_flannel.config import CLASSES
from pipelines.covid_flannel.rules import Rules, file_name, finding, finding_words, modality, view
from pipelines.shared.data.copies import Copy, there
from pipelines.shared.data.images import SUFFIXES
from pipelines.shared.data.records import Source
from pipelines.shared.data.tables import OnBadRow, RowProblem, check_ids, inside, row_of, without_bad_rows
from pipelines.shared.errors import DataError, counted, listed, nearest
from pipelines.shared.files import find_files

PARTS = ("train", "val", "test")
KINDS = ("normal", "pneumonia")
OLDEST = 120  # years
REMEDY = (
    "Correct these, add the word to a table of your own (data.rules=<file>.yaml), or drop and report the rows with "
    "data.on_bad_row=skip."
)
# Column -> what else it is called in releases of the same set.
CCX = {"patientid": ("patient_id",), "finding": (), "view": (), "modality": (), "filename": ()}
CCX_BESIDES = {"age": (), "sex": (), "location": ()}
KEY = "patient"


def read_ccx(copy: Copy, rules: Rules, on_bad_row: OnBadRow) -> Source:
    """CCX's layout: metadata.csv (patientid or Patientid, finding, view, modality, filename, …) and images/.

    Rows of other modalities and views, and findings without a class here, are left out and counted; of such a row
    nothing else is asked. A row whose file is absent stays: it is a file that cannot be read, for
    `data.on_bad_file` to decide.

    Raises:
        DataError: all problems of the table at once: unknown findings, views and modalities, empty cells.
    """
    file = copy.needs("metadata.csv")
    table = copy.table(file, CCX, CCX_BESIDES)
    table = table.astype(object).where(table.notna(), None)
    problems: list[str] = []
    excluded: dict[str, list[str]] = {}
    compound = Counter[str]()
    rows: dict[str, dict[str, Any]] = {}
    for label, row in zip(table.index, table.to_dict("records"), strict=True):
        meanings = {
            "modality": modality(row["modality"] or "", rules),
            "view": view(row["view"] or "", rules),
            "finding": finding(row["finding"] or "", rules),
        }
        if "," in (row["finding"] or "") and not meanings["finding"].unknown:
            compound[f"{row['finding']} -> {meanings['finding'].name or 'left out'}"] += 1
        column, reason = next(((c, m.reason) for c, m in meanings.items() if m.reason is not None), ("", None))
        if reason is not None:
            why = f"Finding: {reason}" if column == "finding" else reason[:1].upper() + reason[1:]
            what = f"{row['filename']}: {row['finding']}" if column == "finding" else str(row["filename"])
            excluded.setdefault(why, []).append(what)
            continue
        where = f"{file.name} row {row_of(label)}"
        unknown = [column for column, meaning in meanings.items() if meaning.unknown]
        problems += [RowProblem(f"{where}: {_unknown(column, row[column], rules)}", label) for column in unknown]
        if row["patientid"] is None:
            problems.append(RowProblem(f"{where}: empty patientid", label))
        age = _age(row.get("age"))
        if row.get("age") is not None and not 0 <= age <= OLDEST:
            allowed = f"a number from 0 to {OLDEST}, or empty"
            problems.append(RowProblem(f"{where}: age={row['age']}, allowed: {allowed}", label))
        rows[label] = {
            "id": row["filename"], "group": f"ccx {row['patientid']}", "split": None, "path": None,
            "label": meanings["finding"].name, "source": "ccx", "view": meanings["view"].name,
            "finding": row["finding"], "age": age, "sex": row.get("sex"), "hospital": row.get("location"),
        }  # fmt: skip
    notes = []
    if compound:
        findings = "; ".join(f"{what} ({n})" for what, n in sorted(compound.items()))
        notes.append(f"Compound findings: {findings}.")
    if not rows:
        counts = ", ".join(f"{len(names)} with {why}" for why, names in sorted(excluded.items()))
        raise DataError(f"{file} has no row left: {counts}.", "Name another table of rules with data.rules.")
    records = pd.DataFrame.from_dict(rows, orient="index")
    problems += check_ids(records["id"].rename("filename"), file)
    records["path"], leaving = _ccx_paths(copy, file, records["id"])
    records, bad = without_bad_rows(records, problems + leaving, on_bad_row, str(file), REMEDY)
    absent = [path for path in records["path"] if not there(copy.root / path)]
    if absent:
        names = ", ".join(Path(path).name for path in absent[:20])
        notes.append(f"{len(absent)} rows have no file in images/: {names}.")
    records = numbered(records.reset_index(drop=True))
    excluded = dict(sorted(excluded.items()))
    return Source("ccx", False, copy.root, records, KEY, None, [*copy.notes, *notes], bad, excluded=excluded)


def _ccx_paths(copy: Copy, file: Path, names: pd.Series) -> tuple[list[str], list[str]]:
    """Where the files of a table lie: in images/ beside it, else wherever one of that name is; and names that leave."""
    home = file.parent / "images" if copy.images is None else copy.root / copy.images
    paths, problems, elsewhere = [], [], None
    for label, name in names.items():
        path = home / str(name)
        if not isinstance(name, str) or not inside(name):
            if isinstance(name, str):
                text = f"{file.name} row {row_of(label)}: filename={name} is no name of a file in images/"
                problems.append(RowProblem(text, label))
            path = home / "none"
        elif not there(path):
            if elsewhere is None:
                elsewhere = _by_name(copy)
            path = elsewhere.get(Path(name).name.lower(), path)
        paths.append(path.relative_to(copy.root).as_posix())
    return paths, list(problems)


def _by_name(copy: Copy) -> Mapping[str, Path]:
    """Files of the set by their whole name in small letters; those that two folders have are left out."""
    files = copy.files()
    counts = Counter(f.name.lower() for f in files)
    return {f.name.lower(): f for f in files if counts[f.name.lower()] == 1}


def _unknown(column: str, cell: str | None, rules: Rules) -> str:
    """Why a cell stops the run, and what would let the row be left out."""
    known = {
        "modality": [*rules.modalities, *rules.modalities_left_out],
        "view": [v for words in rules.views.values() for v in words] + rules.views_left_out,
        "finding": finding_words(rules),
    }[column]
    key = {"modality": "modalities_left_out", "view": "views_left_out", "finding": "left_out"}[column]
    if cell is None:
        return f'empty {column} (written as "" under {key} of a table of rules, it leaves such rows out)'
    close = nearest(cell.split("/")[-1] if column == "finding" else cell, known)
    return f"{column}={cell} is not in the table (a word under its {key} leaves such rows out). {close}"


def read_kcx(copy: Copy, rules: Rules, official_test: bool, on_bad_row: OnBadRow) -> Source:
    """KCX's layout: folders train, val, test (those that are there), in the root or below, with NORMAL and PNEUMONIA.

    Class and patient are in a file's name. All its pictures are AP views of children. Only `official_test` gives
    records of test/ a split of their own.

    Raises:
        DataError: no such folders, or file names that fit no pattern, all of them listed.
    """
    base, files, notes = _kcx_files(copy.root)
    rows: dict[str, dict[str, Any]] = {}
    problems: list[str] = []
    for path in files:
        relative = (base / path).as_posix()
        part, kind = path.parts[0].lower(), path.parts[1].lower()
        parsed = file_name(path.stem, rules)
        if len(path.parts) < 3 or kind not in KINDS:
            problems.append(RowProblem(f"{relative}: lies in neither NORMAL nor PNEUMONIA", relative))
        elif parsed is None:
            problems.append(RowProblem(f"{relative}: the name fits no pattern of the table", relative))
        elif (parsed[0] == "normal") != (kind == "normal"):
            problems.append(RowProblem(f"{relative}: the name says {parsed[0]}", relative))
        name, patient = parsed or (None, None)
        split = "test" if official_test and part == "test" else None
        rows[relative] = {
            "id": path.as_posix(), "group": f"kcx {patient}", "split": split, "path": relative, "label": name,
            "source": "kcx", "view": "AP", "finding": None, "age": np.nan, "sex": None, "hospital": "kcx",
        }  # fmt: skip
    if not rows:
        raise DataError(f"{copy.root} holds no pictures.", f"Read are: {', '.join(SUFFIXES)}.")
    records = pd.DataFrame.from_dict(rows, orient="index")
    records, bad = without_bad_rows(records, problems, on_bad_row, str(copy.root), REMEDY)
    both = records.groupby("group")["label"].nunique()
    if (both > 1).any():
        notes.append(f"{(both > 1).sum()} person numbers occur under several classes; each is taken for one patient.")
    return Source("kcx", False, copy.root, numbered(records.reset_index(drop=True)), KEY, None, notes, bad)


def _kcx_files(root: Path) -> tuple[Path, list[Path], list[str]]:
    """The folder that holds train, val and test, relative to the root, its pictures, and notes.

    Kaggle's archive holds everything twice, chest_xray/train and chest_xray/chest_xray/train.

    Raises:
        DataError: no such folders, or two that differ.
    """
    copies: dict[Path, list[Path]] = {}
    besides: list[Path] = []
    for file in find_files(root, SUFFIXES):
        named = [i for i, part in enumerate(file.parts[:-1]) if part.lower() in PARTS]
        base = Path(*file.parts[: named[-1]]) if named else None
        if base is None:
            besides.append(file)
        else:
            copies.setdefault(base, []).append(file.relative_to(base))
    layout = {base for base, files in copies.items() if any(f.parent.name.lower() in KINDS for f in files)}
    if not layout:
        raise DataError(f"{root} holds no folder train/NORMAL, train/PNEUMONIA, …", "See data_cards/kcx.md.")
    first = min(layout, key=lambda base: len(base.parts))
    notes = []
    for other in sorted(layout - {first}):
        files = set(copies[first])
        if not all(
            f in files and filecmp.cmp(root / first / f, root / other / f, shallow=False) for f in copies[other]
        ):
            raise DataError(
                f"{root} holds the set in several folders that differ:\n{listed(sorted(layout))}",
                "Name the one to read with data.root (data=ccx_kcx: data.kcx), or leave one there.",
            )
        notes.append(f"{other} holds {counted(len(copies[other]), 'picture')} of {first} again and is not read.")
    if besides:
        notes.append(f"{counted(len(besides), 'picture')} outside of train, val and test, not read: {besides[0]}, …")
    return first, copies[first], notes


def _age(cell: Any) -> float:
    try:
        return float(cell) if cell is not None else np.nan
    except ValueError:
        return np.nan


def numbered(records: pd.DataFrame) -> pd.DataFrame:
    """Add `stratum`: rare and grave classes last, so that a patient with several classes counts as the gravest."""
    return records.assign(stratum=[len(CLASSES) - 1 - CLASSES.index(label) for label in records["label"]])
