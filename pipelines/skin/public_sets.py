"""Public sets of skin lesions, each read in the layout in which it is distributed, or copied."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from pipelines.shared.data.copies import ROWS, Copy, paths_of, stem, strangers, without_rows_of
from pipelines.shared.data.records import Source
from pipelines.shared.data.tables import OnBadRow, RowProblem, check_ids, read_csv, row_of, without_bad_rows
from pipelines.shared.errors import DataError, counted
from pipelines.skin.config import SkinConfig
from pipelines.skin.labels import add_levels, check_labels, read_diagnoses
from pipelines.skin.taxonomy import Taxonomy
from pipelines.skin.trees import read_tree

OLDEST = 120  # years
PARTS = {"training": "train", "validation": "val", "test": "test"}  # of ISIC 2018 -> our splits
# Column -> what else it is called in copies of the same set.
HAM = {"lesion_id": (), "image_id": ("isic_id", "image"), "dx": (), "age": (), "sex": (), "localization": ()}
HAM_BESIDES = {"dx_type": (), "fitzpatrick_scale": ()}
FITZPATRICK = {"md5hash": ("hasher",), "fitzpatrick_scale": ("fitzpatrick",), "label": ()}
FITZPATRICK_BESIDES = {"nine_partition_label": (), "three_partition_label": ()}


def ham10000(config: SkinConfig) -> Source:
    """HAM10000, and with it everything that comes in its layout."""
    assert config.data.name == "ham10000"
    copy = Copy.of(config.data, "ham10000", [*HAM, *HAM_BESIDES])
    return read_ham10000(copy, read_tree(config.data.taxonomy), "ham10000", config.data.on_bad_row)


def read_ham10000(copy: Copy, tree: Taxonomy, name: str, on_bad_row: OnBadRow) -> Source:
    """HAM10000's layout: HAM10000_metadata.csv (lesion_id, image_id, dx, dx_type, age, sex, localization) and the
    images in folders HAM10000_images_part_1, … or images.

    `dx_type` says how a diagnosis was made. It leaks the label (only benign lesions have follow-up or consensus), so
    nothing learns from it. Two additions are read where they are: the column `fitzpatrick_scale` (1 to 6), and
    readers.csv (image_id, reader, diagnosis), one row per picture and reader.

    Raises:
        DataError: all problems of the tables at once.
    """
    file = copy.needs("HAM10000_metadata.csv", "HAM10000_metadata", "HAM10000_metadata.tab")
    table = copy.table(file, HAM, HAM_BESIDES)
    ids = table["image_id"].map(stem, na_action="ignore")
    problems = check_ids(ids, file)
    problems += [
        RowProblem(f"{file.name} row {row_of(i)}: empty lesion_id", i) for i in table.index[table["lesion_id"].isna()]
    ]
    problems += check_labels(table["dx"], tree, file.name)
    age, bad = _numbers(table["age"], file.name, 0, OLDEST)
    problems += bad
    images = copy.pictures(
        "HAM10000_images_part_1", "HAM10000_images_part_2", "HAM10000_images", "images", beside=file.parent
    )
    paths, bad = paths_of(ids, images, "HAM10000_images_part_1", ".jpg", file)
    problems += bad
    copy.notes += _without_row(images, ids, file.name)
    records = pd.DataFrame(
        {
            "id": ids,
            "group": table["lesion_id"],
            "split": None,
            "path": paths,
            "label": table["dx"],
            "age": age,
            "sex": _known(table["sex"]),
            "site": _known(table["localization"]),
        }
    )
    if "dx_type" in table:
        records["dx_type"] = table["dx_type"]
    if "fitzpatrick_scale" in table:
        skin_type, bad = _numbers(table["fitzpatrick_scale"], file.name, 1, 6)
        problems += bad
        records["skin_type"] = skin_type
    readers = None
    if (copy.root / "readers.csv").is_file():
        readers, bad = _readers(copy.root / "readers.csv", tree, set(records["id"]), file.name)
        problems += bad
    records, left_out = without_bad_rows(records, problems, on_bad_row, str(copy.root), ROWS)
    if readers is not None:
        readers = without_rows_of(readers, problems).reset_index(drop=True)
    two = records.groupby("group")["label"].nunique()
    copy.notes += [f"{(two > 1).sum()} lesions have pictures with different labels."] if (two > 1).any() else []
    records = add_levels(records.reset_index(drop=True), tree)
    return Source(name, name == "phantom", copy.root, records, "lesion", readers, copy.notes, left_out)


def _readers(file: Path, tree: Taxonomy, known: set[str], table: str) -> tuple[pd.DataFrame, list[str]]:
    """Readings of pictures, one row per picture and reader; and their problems."""
    readings = read_csv(file, ["image_id", "reader", "diagnosis"])[["image_id", "reader", "diagnosis"]]
    readings = readings.set_axis([f"{file}:{row + 2}" for row in range(len(readings))])
    readings["image_id"] = readings["image_id"].map(stem, na_action="ignore")
    readers, problems = read_diagnoses(readings.rename(columns={"image_id": "id"}), tree, file.name)
    nameless = readers.index[readers["reader"].isna()]
    if len(nameless):
        problems.append(RowProblem(f"{file.name}: readings without a reader: {len(nameless)}", *nameless))
    twice = readers[readers.duplicated(["id", "reader"], keep=False)]
    for _, rows in twice.groupby(["id", "reader"]):
        who, what = rows[["reader", "id"]].iloc[0]
        problems.append(RowProblem(f"{file.name}: {who} read {what} {len(rows)} times", *rows.index))
    for name, labels in readers.groupby("id", dropna=False).groups.items():
        if name not in known:
            problems.append(RowProblem(f"{file.name}: {name} has no row in {table}", *labels))
    return readers, problems


def isic2018(config: SkinConfig) -> Source:
    """ISIC 2018 Task 3: ISIC2018_Task3_<Part>_GroundTruth.csv (image and seven one-hot columns), alone or in a folder
    of its name, beside ISIC2018_Task3_<Part>_Input/<image>.jpg.

    With several parts their names are the split. Training pictures are grouped by lesion where
    ISIC2018_Task3_Training_LesionGroupings.csv (image, lesion_id) is there too. The test part's table may also be
    Harvard Dataverse's, in HAM10000's columns (image_id, lesion_id, dx).

    Raises:
        DataError: no ground truth, or all problems of the tables at once.
    """
    assert config.data.name == "isic2018"
    tree = read_tree(config.data.taxonomy)
    copy = Copy.of(config.data, "isic2018", ["image", "lesion_id", *tree.leaves])
    chosen = [part for part in PARTS if config.data.part in (None, part)]
    truths = {part: copy.find(f"ISIC2018_Task3_{part}_GroundTruth.csv") for part in chosen}
    given = {part: file for part, file in truths.items() if file is not None}
    if not given:
        part = (config.data.part or "<Training|Validation|Test>").capitalize()
        raise DataError(
            f"{copy.root} holds no ISIC2018_Task3_{part}_GroundTruth.csv.",
            "Give the folder that holds the ground truth and input folders; data.part says which is read.",
        )
    problems: list[str] = []
    copy.notes.append(
        "ISIC 2018's pictures come in part from HAM10000's own centres: for HAM10000 it is partly external data."
    )
    images = _isic_pictures(copy, list(given))
    tables = []
    for part, file in given.items():
        records, bad = _isic_labels(copy, file, tree)
        folder = f"ISIC2018_Task3_{part.capitalize()}_Input"
        records["path"], leaving = paths_of(records["id"], images, folder, ".jpg", file)
        problems += bad + leaving
        tables.append(records.assign(part=part, split=PARTS[part] if len(given) > 1 else None))
    records = pd.concat(tables)
    copy.notes += _without_row(images, records["id"], "the ground truth")
    records, left_out = without_bad_rows(records, problems, config.data.on_bad_row, str(copy.root), ROWS)
    groupings = copy.find("ISIC2018_Task3_Training_LesionGroupings.csv")
    lesion = {}
    if groupings is not None:
        lesions = copy.table(groupings, {"image": (), "lesion_id": ()}).dropna()
        lesion = dict(zip(lesions["image"].map(stem), lesions["lesion_id"], strict=True))
        training = records.loc[records["part"] == "training", "id"]
        copy.notes += strangers(training, lesion, groupings, "each a lesion of its own") if len(training) else []
    groups = [lesion.get(i, own) for i, own in zip(records["id"], records["group"], strict=True)]
    records = records.assign(group=groups).reset_index(drop=True)
    grouped = bool((records["group"] != records["id"]).any())
    key = "lesion where one is named, else image" if grouped else "image (no lesion groupings were found)"
    records = records[["id", "group", "split", "path", "label"]]
    return Source("isic2018", False, copy.root, add_levels(records, tree), key, notes=copy.notes, left_out=left_out)


def _isic_pictures(copy: Copy, parts: list[str]) -> dict[str, str]:
    """The pictures of these parts: in folders …_Input, at Harvard Dataverse …_Images; all where none is named so."""
    folders = tuple(f"isic2018_task3_{part}_i" for part in parts)
    files = copy.files()
    own = [f for f in files if any(p.lower().startswith(folders) for p in f.relative_to(copy.root).parts[:-1])]
    return copy.named(own or files)


def _isic_labels(copy: Copy, file: Path, tree: Taxonomy) -> tuple[pd.DataFrame, list[str]]:
    """id, group (the lesion, or the id) and label of each row of a ground truth, and the problems."""
    leaves = {leaf: () for leaf in tree.leaves}
    table = copy.table(file, {"image": ("image_id", "image_name")}, {**leaves, "lesion_id": (), "dx": ()})
    ids = table["image"].map(stem, na_action="ignore")
    problems = check_ids(ids, file)
    if "dx" in table:
        upper = {leaf.lower(): leaf for leaf in tree.leaves}
        label = table["dx"].map(lambda word: upper.get(word.lower(), word), na_action="ignore")
        problems += check_labels(label, tree, file.name)
    else:
        label, bad = _one_hot(copy.table(file, {"image": ("image_id", "image_name"), **leaves})[tree.leaves], file)
        problems += bad
    group = table["lesion_id"].where(table["lesion_id"].notna(), ids) if "lesion_id" in table else ids
    return pd.DataFrame({"id": ids, "group": group, "label": label}), problems


def _one_hot(cells: pd.DataFrame, file: Path) -> tuple[pd.Series, list[str]]:
    """The label of each row of one-hot columns, and the problems: cells besides 0 and 1, rows without one 1."""
    problems: list[str] = []
    values = cells.apply(pd.to_numeric, errors="coerce").to_numpy(float)
    odd = ~np.isin(values, [0, 1])
    for row, column in np.argwhere(odd).tolist():
        label, name = cells.index[row], cells.columns[column]
        text = f"{file.name} row {row_of(label)}: {name}={cells.iloc[row, column]!s}, allowed: 0, 1"
        problems.append(RowProblem(text, label))
    total = values.sum(axis=1)
    for row in np.flatnonzero((total != 1) & ~odd.any(axis=1)).tolist():
        label = cells.index[row]
        named = ", ".join(c for c, v in zip(cells.columns, values[row], strict=True) if v) or "no class"
        text = f"{file.name} row {row_of(label)}: the classes sum to {total[row]:g} ({named}), must be 1"
        problems.append(RowProblem(text, label))
    names = [cells.columns[i] for i in np.nan_to_num(values).argmax(axis=1)]
    return pd.Series(names, index=cells.index), problems


def fitzpatrick17k(config: SkinConfig) -> Source:
    """Fitzpatrick17k: fitzpatrick17k.csv (md5hash, fitzpatrick_scale, label, nine_ and three_partition_label) and the
    pictures, which are fetched one by one from their atlases, as images/<md5hash>.jpg.

    Rows without a picture are left out and counted: the addresses of some are dead for everybody. -1 is an unknown
    skin type. There are no patient or lesion ids.

    Raises:
        DataError: all problems of the table at once, or no picture at all.
    """
    assert config.data.name == "fitzpatrick17k"
    copy = Copy.of(config.data, "fitzpatrick17k", [*FITZPATRICK, *FITZPATRICK_BESIDES])
    tree = read_tree(config.data.taxonomy)
    file = copy.needs("fitzpatrick17k.csv")
    table = copy.table(file, FITZPATRICK, FITZPATRICK_BESIDES)
    ids = table["md5hash"].map(stem, na_action="ignore")
    table["label"] = table["label"].str.replace("/", "").str.strip()
    problems = check_ids(ids, file)
    problems += check_labels(table["label"], tree, file.name)
    known = ~table["fitzpatrick_scale"].isin(["-1", "-1.0"])
    skin_type, bad = _numbers(table["fitzpatrick_scale"].where(known), file.name, 1, 6)
    problems += bad
    images = copy.pictures("images", "finalfitz17k", "data", beside=file.parent)
    copy.notes += _without_row(images, ids, file.name)
    records = pd.DataFrame({"id": ids, "group": ids, "split": None})
    paths = ids.str.lower().map(images)
    records = records.assign(path=paths, label=table["label"], skin_type=skin_type)
    records, left_out = without_bad_rows(records, problems, config.data.on_bad_row, str(copy.root), ROWS)
    missing = records["path"].isna()
    if missing.all():
        raise DataError(f"{copy.root} holds none of the {len(records)} pictures.", "Expected: images/<md5hash>.jpg.")
    table = table.loc[records.index[~missing]].reset_index(drop=True)
    excluded = {"Rows without a picture": list(records["id"][missing])}
    records = add_levels(records[~missing].reset_index(drop=True), tree)
    copy.notes.append("No patient or lesion ids: several pictures of one patient may lie on two sides of the split.")
    copy.notes += _partition_notes(table, records)
    key = "image (the set has no patient ids); identical and near-identical images are one group"
    return Source("fitzpatrick17k", False, copy.root, records, key, None, copy.notes, left_out, excluded=excluded)


def _partition_notes(table: pd.DataFrame, records: pd.DataFrame) -> list[str]:
    """Labels that the table's own partition columns place elsewhere than the tree."""
    notes = []
    own_name = {"benign melanocyte": "benign_melanocytic", "malignant cutaneous lymphoma": "cutaneous_lymphoma"}
    for column, level in (("three_partition_label", "three_way"), ("nine_partition_label", "nine_way")):
        if column in table:
            theirs = table[column].map(lambda v: own_name.get(v, re.sub(r"[ -]", "_", str(v))))
            differ = theirs != records[level]
            labels = sorted(set(records["label"][differ]))
            if labels:
                notes.append(
                    f"The tree places these labels elsewhere than {column}, and is followed: {', '.join(labels)}."
                )
    return notes


# --- what the adapters share ---


def _without_row(images: Mapping[str, str], ids: pd.Series, file_name: str) -> list[str]:
    """A note on pictures that the table does not name, if there are any: unlabelled, so not used."""
    extra = [images[i] for i in sorted(set(images) - set(ids.dropna().str.lower()))]
    shown = ", ".join(extra[:5]) + (", …" if len(extra) > 5 else "")
    return [f"{counted(len(extra), 'picture')} without a row in {file_name}, not used: {shown}."] if extra else []


def _numbers(column: pd.Series, file_name: str, low: float, high: float) -> tuple[pd.Series, list[str]]:
    """A text column as numbers within a range, NaN where empty; and the problems."""
    numbers = pd.to_numeric(column, errors="coerce")
    allowed = f"a number from {low} to {high}, or empty"
    problems: list[str] = [
        RowProblem(f"{file_name} row {row_of(label)}: {column.name}={column[label]}, allowed: {allowed}", label)
        for label in column.index[column.notna() & ~numbers.between(low, high)]
    ]
    return numbers, problems


def _known(column: pd.Series) -> pd.Series:
    """A text column with None for what is empty or called unknown."""
    return column.astype(object).where(column.notna() & (column.str.lower() != "unknown"), None)
