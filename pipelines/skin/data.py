"""Where the pictures come from: one adapter per source, and how one file becomes the network's input."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from pipelines.shared.duplicates import describe
from pipelines.shared.errors import DataError, listed
from pipelines.shared.images import SUFFIXES, read_picture
from pipelines.shared.records import (
    Source,
    Target,
    check_ids,
    dataset_folder,
    inside,
    raise_problems,
    read_csv,
    read_table,
)
from pipelines.skin.config import SkinConfig
from pipelines.skin.labels import add_levels, check_labels, read_diagnoses
from pipelines.skin.phantom import PhantomSettings, ensure_phantom, oracle_columns
from pipelines.skin.taxonomy import Taxonomy
from pipelines.skin.trees import read_tree

PREPARE_VERSION = 2  # raise it whenever `prepare` gives other arrays or facts
OLDEST = 120  # years
REMEDY = "Correct these; nothing was guessed or left out."
PARTS = {"training": "train", "validation": "val", "test": "test"}  # of ISIC 2018 -> our splits


# --- one file ---


def prepare_settings(config: SkinConfig) -> dict[str, Any]:
    """Everything that a prepared array depends on besides the file."""
    return {"study": "skin", "version": PREPARE_VERSION, "size": config.preprocess.size}


def prepare(record: Mapping[str, Any], root: Path, settings: dict[str, Any]) -> tuple[np.ndarray, dict[str, Any]]:
    """The largest square around a picture's centre, where the lesion is: uint8 (size, size, 3), and its facts.

    Raises:
        BadFile: the file cannot be read.
    """
    image, warnings = read_picture(root / record["path"])
    array = centre_square(image, settings["size"])
    # Dermatoscopes leave a dark frame around a disc; only the square inside it tells two pictures apart.
    edge = round(settings["size"] * (1 - 0.5**0.5) / 2)
    facts = describe(image, np.ascontiguousarray(array[edge:-edge, edge:-edge]))
    return array, facts | {"width": image.shape[1], "height": image.shape[0], "warnings": warnings}


def centre_square(image: np.ndarray, size: int) -> np.ndarray:
    """The largest square around the centre of a picture or mask (height, width[, 3]), scaled to `size` pixels."""
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = image[top : top + side, left : left + side]
    how = cv2.INTER_AREA if side >= size else cv2.INTER_CUBIC
    return cv2.resize(square, (size, size), interpolation=how)


# --- sources ---


def phantom(config: SkinConfig) -> Source:
    """The phantom, made on first use, read through HAM10000's adapter."""
    assert config.data.name == "phantom"
    settings = PhantomSettings(**config.data.phantom.model_dump())
    root = ensure_phantom(Path(config.cache.dir), settings)
    tree = read_tree(config.data.taxonomy)
    source = read_ham10000(root, tree, "phantom", config.data.on_bad_file)
    truth = pd.read_csv(root / "truth" / "truth.csv", dtype={"image_id": str}).set_index("image_id")
    disease = truth["disease"].reindex(source.records["id"]).tolist()
    oracle = oracle_columns(disease, settings.label_noise, tree)
    masks = [f"truth/masks/{i}.png" for i in source.records["id"]]
    records = source.records.join(oracle).assign(truth_mask=masks)
    return Source("phantom", True, root, records, source.group_key, source.readers, source.notes)


def ham10000(config: SkinConfig) -> Source:
    """HAM10000, and with it everything that comes in its layout."""
    root = dataset_folder(config.data.root, "ham10000")
    return read_ham10000(root, read_tree(config.data.taxonomy), "ham10000", config.data.on_bad_file)


def read_ham10000(root: Path, tree: Taxonomy, name: str, on_bad_file: str) -> Source:
    """HAM10000's layout: HAM10000_metadata.csv (lesion_id, image_id, dx, dx_type, age, sex, localization) and the
    images in folders HAM10000_images_part_1, … or images.

    `dx_type` says how a diagnosis was made. It leaks the label (only benign lesions have follow-up or consensus), so
    nothing learns from it. Two additions are read where they are: the column `fitzpatrick_scale` (1 to 6), and
    readers.csv (image_id, reader, diagnosis), one row per picture and reader.

    Raises:
        DataError: all problems of the tables at once.
    """
    file = root / "HAM10000_metadata.csv"
    if not file.exists() and (root / "HAM10000_metadata").is_file():
        file = root / "HAM10000_metadata"  # as the Dataverse names it
    card = "ham10000" if name == "ham10000" else f"skin_{name}"
    table = read_csv(file, ["lesion_id", "image_id", "dx", "age", "sex", "localization"], card)
    problems = check_ids(table["image_id"], file)
    problems += [f"{file.name} row {i + 2}: empty lesion_id" for i in np.flatnonzero(table["lesion_id"].isna())]
    problems += check_labels(table["dx"], tree, file.name)
    age, bad = _numbers(table["age"], file.name, 0, OLDEST)
    problems += bad
    folders = [f for f in sorted(root.iterdir()) if f.is_dir() and re.match(r"(ham10000_)?images", f.name.lower())]
    images = _images(root, folders)
    paths, bad, notes = _pair(table["image_id"], images, on_bad_file, file.name, "HAM10000_images_part_1")
    problems += bad
    records = pd.DataFrame(
        {
            "id": table["image_id"],
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
    if (root / "readers.csv").is_file():
        readings = read_csv(root / "readers.csv", ["image_id", "reader", "diagnosis"])
        readings = readings.rename(columns={"image_id": "id"})[["id", "reader", "diagnosis"]]
        readers, bad = read_diagnoses(readings, tree, "readers.csv")
        problems += bad
        unknown = sorted(set(readers["id"]) - set(records["id"]))
        problems += [f"readers.csv: {i} has no row in {file.name}" for i in unknown]
    two = records.dropna(subset=["group"]).groupby("group")["label"].nunique()
    notes += [f"{(two > 1).sum()} lesions have pictures with different labels."] if (two > 1).any() else []
    raise_problems(problems, str(root), REMEDY)
    return Source(name, name == "phantom", root, add_levels(records, tree), "lesion", readers, notes)


def isic2018(config: SkinConfig) -> Source:
    """ISIC 2018 Task 3: ISIC2018_Task3_<Part>_GroundTruth.csv (image and seven one-hot columns), alone or in a folder
    of its name, beside ISIC2018_Task3_<Part>_Input/<image>.jpg.

    With several parts their names are the split. Training pictures are grouped by lesion where
    ISIC2018_Task3_Training_LesionGroupings.csv (image, lesion_id) is there too.

    Raises:
        DataError: no ground truth, or all problems of the tables at once.
    """
    assert config.data.name == "isic2018"
    root = dataset_folder(config.data.root, "isic2018")
    tree = read_tree(config.data.taxonomy)
    found: dict[str, Path] = {}
    for file in sorted(root.rglob("*_GroundTruth.csv")):
        match = re.fullmatch(r"ISIC2018_Task3_(Training|Validation|Test)_GroundTruth", file.stem)
        if match and (config.data.part in (None, match[1].lower())):
            found.setdefault(match[1], file)
    if not found:
        part = (config.data.part or "<Training|Validation|Test>").capitalize()
        raise DataError(
            f"{root} holds no ISIC2018_Task3_{part}_GroundTruth.csv.",
            "Give the folder that holds the ground truth and input folders; data.part says which is read.",
        )
    problems: list[str] = []
    notes = ["ISIC 2018's pictures come in part from HAM10000's own centres: for HAM10000 it is partly external data."]
    tables = []
    for part, file in found.items():
        records, bad = _one_hot(file, tree)
        problems += bad
        folders = [f for f in sorted(root.rglob(f"ISIC2018_Task3_{part}_I*")) if f.is_dir()]
        name = f"ISIC2018_Task3_{part}_Input"
        records["path"], bad, said = _pair(
            records["id"], _images(root, folders), config.data.on_bad_file, file.name, name
        )
        problems += bad
        notes += said
        tables.append(records.assign(split=PARTS[part.lower()] if len(found) > 1 else None))
    raise_problems(problems, str(root), REMEDY)
    records = pd.concat(tables, ignore_index=True)
    groupings = next(iter(sorted(root.rglob("ISIC2018_Task3_Training_LesionGroupings.csv"))), None)
    lesion = {}
    if groupings is not None:
        lesions = read_csv(groupings, ["image", "lesion_id"])
        lesion = dict(zip(lesions["image"], lesions["lesion_id"], strict=True))
    records["group"] = [lesion.get(i, i) for i in records["id"]]
    key = "lesion where the groupings name one, else image" if lesion else "image (no lesion groupings were found)"
    records = records[["id", "group", "split", "path", "label"]]
    return Source("isic2018", False, root, add_levels(records, tree), key, notes=notes)


def _one_hot(file: Path, tree: Taxonomy) -> tuple[pd.DataFrame, list[str]]:
    """id and label of each row of a one-hot table, and the problems: cells besides 0 and 1, rows without one 1."""
    table = read_csv(file, ["image", *tree.leaves], "isic2018")
    classes = [str(column) for column in table if column in tree.leaves]
    problems = check_ids(table["image"], file)
    values = table[classes].apply(pd.to_numeric, errors="coerce").to_numpy(float)
    odd = ~np.isin(values, [0, 1])
    for row, column in np.argwhere(odd):
        cell = table[classes[column]].iloc[row]
        problems.append(f"{file.name} row {row + 2}: {classes[column]}={cell}, allowed: 0, 1")
    total = values.sum(axis=1)
    for row in np.flatnonzero((total != 1) & ~odd.any(axis=1)):
        named = ", ".join(c for c, v in zip(classes, values[row], strict=True) if v) or "no class"
        problems.append(f"{file.name} row {row + 2}: the classes sum to {total[row]:g} ({named}), must be 1")
    label = [classes[i] for i in np.nan_to_num(values).argmax(axis=1)]
    return pd.DataFrame({"id": table["image"], "label": label}), problems


def fitzpatrick17k(config: SkinConfig) -> Source:
    """Fitzpatrick17k: fitzpatrick17k.csv (md5hash, fitzpatrick_scale, label, nine_ and three_partition_label) and the
    pictures, which are fetched one by one from their atlases, as images/<md5hash>.jpg.

    Rows without a picture are left out and counted: the addresses of some are dead for everybody. -1 is an unknown
    skin type. There are no patient or lesion ids.

    Raises:
        DataError: all problems of the table at once, or no picture at all.
    """
    root = dataset_folder(config.data.root, "fitzpatrick17k")
    tree = read_tree(config.data.taxonomy)
    file = root / "fitzpatrick17k.csv"
    table = read_csv(file, ["md5hash", "fitzpatrick_scale", "label"], "fitzpatrick17k")
    table["label"] = table["label"].str.replace("/", "").str.strip()
    problems = check_ids(table["md5hash"], file)
    problems += check_labels(table["label"], tree, file.name)
    skin_type, bad = _numbers(table["fitzpatrick_scale"].where(table["fitzpatrick_scale"] != "-1"), file.name, 1, 6)
    problems += bad
    folders = [f for f in (root / "images", root / "data" / "finalfitz17k") if f.is_dir()]
    images = _images(root, folders)
    extra = sorted(set(images) - set(table["md5hash"].dropna()))
    problems += [f"{images[i]}: picture without a row in {file.name}" for i in extra]
    raise_problems(problems, str(root), REMEDY)
    records = pd.DataFrame({"id": table["md5hash"], "group": table["md5hash"], "split": None})
    records = records.assign(path=records["id"].map(images), label=table["label"], skin_type=skin_type)
    missing = records["path"].isna()
    if missing.all():
        raise DataError(f"{root}/images holds none of the {len(records)} pictures.", "Expected: images/<md5hash>.jpg.")
    records = add_levels(records[~missing].reset_index(drop=True), tree)
    notes = ["No patient or lesion ids: several pictures of one patient may lie on two sides of the split."]
    notes += [f"{int(missing.sum())} of {len(missing)} rows have no picture and are left out."] if missing.any() else []
    notes += _partition_notes(table[~missing].reset_index(drop=True), records)
    key = "image (the set has no patient ids); identical and near-identical images are one group"
    return Source("fitzpatrick17k", False, root, records, key, notes=notes)


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


def table(config: SkinConfig) -> Source:
    """`data=table`: the user's own table, its diagnoses being labels of the tree that `data.taxonomy` names.

    Raises:
        DataError: no column for the diagnosis, or all bad rows at once.
    """
    assert config.data.name == "table"
    section, tree = config.data, read_tree(config.data.taxonomy)
    number = {leaf: i for i, leaf in enumerate(tree.leaves)}
    words = {str(k): str(v) for k, v in section.values.get("diagnosis", {}).items()}
    wrong = [f"data.values.diagnosis.{k}={v}" for k, v in words.items() if v not in number]
    if wrong:
        raise DataError(f"No labels of the tree {section.taxonomy}:\n{listed(wrong)}", f"Allowed: {', '.join(number)}.")
    column = section.targets.get("diagnosis")
    if section.table is not None and column is not None:
        file = Path(section.table)
        cells = read_csv(file, [column])[column].rename(column)
        raise_problems(check_labels(cells.replace(words), tree, file.name), str(file), REMEDY)
    values = {"diagnosis": {**number, **{word: number[leaf] for word, leaf in words.items()}}}
    source = read_table(
        section.model_copy(update={"values": values}), [Target("diagnosis", range(len(number)), required=True)]
    )
    label = [tree.leaves[int(i)] for i in source.records["diagnosis"]]
    records = add_levels(source.records.drop(columns="diagnosis").assign(label=label), tree)
    return Source("table", False, source.root, records, source.group_key, notes=source.notes)


# --- what the adapters share ---


def _images(root: Path, folders: Iterable[Path]) -> dict[str, str]:
    """Name without suffix -> path relative to the root, of all pictures in some folders."""
    found: dict[str, str] = {}
    for folder in folders:
        for file in sorted(folder.iterdir()):
            if file.suffix.lower() in SUFFIXES:
                found.setdefault(file.stem, str(file.relative_to(root)))
    return found


def _pair(
    ids: pd.Series, images: Mapping[str, str], on_bad_file: str, file_name: str, folder: str
) -> tuple[list[str], list[str], list[str]]:
    """Paths of the rows' pictures; rows without picture and pictures without row, as problems or (skip) as notes."""
    known = ids.fillna("").astype(str)
    paths = [images.get(i, f"{folder}/{i}.jpg") for i in known]
    problems = [f"{file_name} row {n + 2}: {i} leaves the folder" for n, i in enumerate(known) if not inside(paths[n])]
    missing = [f"{file_name} row {n + 2}: no picture of {i}" for n, i in enumerate(known) if i and i not in images]
    extra = [f"{images[i]}: picture without a row in {file_name}" for i in sorted(set(images) - set(known))]
    if on_bad_file == "skip":  # rows without a picture become files that cannot be read, and are dropped and reported
        return paths, problems, [f"{len(extra)} pictures have no row in {file_name}."] if extra else []
    return paths, problems + missing + extra, []


def _numbers(column: pd.Series, file_name: str, low: float, high: float) -> tuple[pd.Series, list[str]]:
    """A text column as numbers within a range, NaN where empty; and the problems."""
    numbers = pd.to_numeric(column, errors="coerce")
    bad = column.notna() & ~numbers.between(low, high)
    lines = [
        f"{file_name} row {i + 2}: {column.name}={column.iloc[i]}, allowed: a number from {low} to {high}, or empty"
        for i in np.flatnonzero(bad)
    ]
    return numbers, lines


def _known(column: pd.Series) -> pd.Series:
    """A text column with None for what is empty or called unknown."""
    return column.astype(object).where(column.notna() & (column.str.lower() != "unknown"), None)


SOURCES = {
    "phantom": phantom,
    "ham10000": ham10000,
    "isic2018": isic2018,
    "fitzpatrick17k": fitzpatrick17k,
    "table": table,
}
