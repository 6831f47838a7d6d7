"""Public sets of graded fundus photographs, each read in the layout in which it is distributed.

What a set does not label is unknown (NaN), never negative. All bad rows of a set's tables are listed at once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from pipelines.retinopathy.config import RetinopathyConfig
from pipelines.retinopathy.labels import add_grade_targets, either
from pipelines.shared.errors import DataError, listed
from pipelines.shared.records import Source, check_ids, dataset_folder, inside, parse_values, raise_problems, read_csv

PICTURES = {".png", ".jpg", ".jpeg", ".tif", ".tiff"}
AS_DISTRIBUTED = "Correct these rows, or take the file as it is distributed."
NO_DME = "No DME labels: the headline target is moderate-or-worse diabetic retinopathy."


def aptos2019(config: RetinopathyConfig) -> Source:
    """APTOS 2019: train.csv (id_code, diagnosis) and train_images/<id_code>.png.

    There are no patient ids, so each image is its own group until the leakage gate finds it twice; no DME labels and no
    gradability, so both are unknown.
    """
    root = dataset_folder(config.data.root, "aptos2019")
    records, problems, extra = _graded(
        root, "aptos2019", "train.csv", "id_code", "diagnosis", ("train_images", "images", "train")
    )
    raise_problems(problems, str(root / "train.csv"), AS_DISTRIBUTED)
    records = records.assign(group=records["id"], dme=np.nan, gradable=np.nan, referable=np.nan)
    group_key = "image (the set has no patient ids); identical and near-identical images are one group"
    return Source("aptos2019", False, root, add_grade_targets(records), group_key, notes=[NO_DME, *extra])


def eyepacs(config: RetinopathyConfig) -> Source:
    """EyePACS, as in Kaggle's competition of 2015: trainLabels.csv (image, level), train/<patient>_left|right.jpeg.

    Where retinopathy_solution.csv (the test labels, published later) lies beside it, its images in test/ are the
    official test split.
    """
    root = dataset_folder(config.data.root, "eyepacs")
    records, problems, notes = _graded(root, "eyepacs", "trainLabels.csv", "image", "level", ("train", "images"))
    if (root / "retinopathy_solution.csv").exists():
        test, more, extra = _graded(root, "eyepacs", "retinopathy_solution.csv", "image", "level", ("test",))
        records = pd.concat([records, test.assign(split="test")], ignore_index=True)
        problems, notes = problems + more, notes + extra
        both = records.loc[records["id"].duplicated() & (records["id"] != ""), "id"]
        problems += [f"{name} is in trainLabels.csv and in retinopathy_solution.csv" for name in both]
    parts = [re.fullmatch(r"(.+)_(left|right)", name) for name in records["id"]]
    problems += [
        f"image {name}: expected <patient>_left or <patient>_right"
        for name, part in zip(records["id"], parts, strict=True)
        if name and part is None
    ]
    raise_problems(problems, str(root), AS_DISTRIBUTED)
    records = records.assign(
        group=[part[1] for part in parts if part],
        eye=[part[2] for part in parts if part],
        dme=np.nan,
        gradable=np.nan,
        referable=np.nan,
    )
    return Source("eyepacs", False, root, add_grade_targets(records), "patient (both eyes)", notes=[NO_DME, *notes])


def idrid(config: RetinopathyConfig) -> Source:
    """IDRiD, part B (Disease Grading): grade and risk of macular oedema, official training and test split.

    Risk 2 (exudates within one disc diameter of the macula) is referable macular oedema; 0 and 1 are not. The names
    IDRiD_001 … occur in both parts, so an id begins with its split.
    """
    root = dataset_folder(config.data.root, "idrid")
    parts, problems = [], []
    for split, title, letter in (("train", "Training", "a"), ("test", "Testing", "b")):
        pattern = f"*IDRiD_Disease Grading_{title} Labels.csv"
        files = sorted(root.rglob(pattern))
        if len(files) != 1:
            found = ", ".join(str(f.relative_to(root)) for f in files) or "none"
            raise DataError(f"{root} should hold one {pattern}; found: {found}.", "See data_cards/idrid.md.")
        base = files[0].parent.parent
        folder = base / "1. Original Images" / f"{letter}. {title} Set"
        table = read_csv(files[0], ["Image name", "Retinopathy grade", "Risk of macular edema"], "idrid")
        table = table.dropna(how="all")
        problems += check_ids(table["Image name"], files[0])
        grade, bad_grades = parse_values(table["Retinopathy grade"], range(5), files[0])
        risk, bad_risks = parse_values(table["Risk of macular edema"], range(3), files[0])
        problems += bad_grades + bad_risks
        names = table["Image name"].fillna("").str.strip()
        prefix = f"{folder.relative_to(root).as_posix()}/"
        paths, leaving = _paths(names, _pictures(root, folder), prefix, ".jpg", files[0])
        problems += leaving
        part = {"id": f"{split}_" + names, "split": split, "path": paths, "grade": grade, "dme_risk": risk}
        parts.append(pd.DataFrame(part))
    raise_problems(problems, str(root), AS_DISTRIBUTED)
    records = pd.concat(parts, ignore_index=True)
    records = records.assign(group=records["id"], dme=(records["dme_risk"] == 2).astype(float), gradable=np.nan)
    group_key = "image (the set has no patient ids); identical and near-identical images are one group"
    return Source("idrid", False, root, _with_referable(records), group_key)


def messidor2(config: RetinopathyConfig) -> Source:
    """Messidor-2: messidor_data.csv (adjudicated grade, DME, gradability per image), messidor-2.csv (left;right pairs).

    Without messidor_data.csv the older reference standard is read, *refstandard*.csv (examid, rDR): one label,
    referable or not, for the two images of an examination. Both images then carry it.
    """
    root = dataset_folder(config.data.root, "messidor2")
    pictures = _pictures(root, next((root / f for f in ("IMAGES", "images") if (root / f).is_dir()), root))
    exams, problems = _examinations(root)
    grades = root / "messidor_data.csv"
    standards = sorted(root.glob("*refstandard*.csv"))
    if grades.exists():
        records, bad = _adjudicated(grades, pictures)
        notes = []
    elif standards:
        records, bad = _by_examination(standards[0], pictures, exams)
        notes = ["One label per examination: both of its images carry it, also the eye that has no disease."]
        if config.mode in ("train", "resume"):
            raise DataError(
                f"{standards[0].name} says only whether an examination is referable: no grades to learn from.",
                "Evaluate a finished run on it (mode=evaluate), or add messidor_data.csv with a grade per image.",
            )
    else:
        raise DataError(
            f"{root} holds neither messidor_data.csv nor a *refstandard*.csv: the images come without grades.",
            "The card says where the grades are: data_cards/messidor2.md.",
        )
    raise_problems(problems + bad, str(root), AS_DISTRIBUTED)
    stems = records["path"].map(lambda path: Path(path).stem.lower())
    records["group"] = [exams.get(stem, stem) for stem in stems]
    records["split"] = None
    alone = int((~stems.isin(list(exams))).sum())
    if not exams:
        notes.append("There is no messidor-2.csv: each image counts as its own patient, although eyes come in pairs.")
    elif alone:
        notes.append(f"{alone} images are not in messidor-2.csv and count as patients of their own.")
    return Source("messidor2", False, root, records, "examination (both eyes)", notes=notes)


def _examinations(root: Path) -> tuple[dict[str, str], list[str]]:
    """Stem of an image -> its examination (the stem of its left image), from messidor-2.csv if it is there."""
    file = root / "messidor-2.csv"
    if not file.exists():
        return {}, []
    table = read_csv(file, [])
    if len(table.columns) == 1 and ";" in table.columns[0]:
        names = [name.strip() for name in table.columns[0].split(";")]
        cells = table.iloc[:, 0].fillna("").str.split(";", expand=True).reindex(columns=range(len(names)))
        table = cells.set_axis(names, axis=1)
    if not {"left", "right"} <= set(table.columns):
        raise DataError(f"{file} has the columns {', '.join(table.columns)}.", "Expected: left;right.")
    exams: dict[str, str] = {}
    problems = []
    for row, (left, right) in enumerate(zip(table["left"], table["right"], strict=True), start=2):
        stems = [Path(str(name).strip()).stem.lower() for name in (left, right) if isinstance(name, str)]
        if len(stems) != 2 or not all(stems):
            problems.append(f"{file.name} row {row}: an examination has two images, found: {left};{right}")
        for stem in stems:
            if stem in exams:
                problems.append(f"{file.name} row {row}: {stem} is in another examination too")
            exams[stem] = stems[0]
    return exams, problems


def _adjudicated(file: Path, pictures: Mapping[str, str]) -> tuple[pd.DataFrame, list[str]]:
    columns = ["image_id", "adjudicated_dr_grade", "adjudicated_dme", "adjudicated_gradable"]
    table = read_csv(file, columns, "messidor2")
    problems = check_ids(table["image_id"], file)
    gradable, bad = parse_values(table["adjudicated_gradable"], (0, 1), file)
    grade, bad_grades = parse_values(table["adjudicated_dr_grade"], range(5), file, empty_ok=True)
    dme, bad_dme = parse_values(table["adjudicated_dme"], (0, 1), file, empty_ok=True)
    problems += bad + bad_grades + bad_dme
    lacking = (gradable == 1) & table["adjudicated_dr_grade"].isna()
    problems += [f"{file.name} row {i + 2}: gradable, but without a grade" for i in np.flatnonzero(lacking)]
    names = table["image_id"].fillna("").str.strip()
    paths, leaving = _paths(names, pictures, "IMAGES/", "", file)
    problems += leaving
    records = pd.DataFrame({"id": names, "path": paths})
    seen = gradable != 0
    return _with_referable(records.assign(grade=grade.where(seen), dme=dme.where(seen), gradable=gradable)), problems


def _by_examination(
    file: Path, pictures: Mapping[str, str], exams: Mapping[str, str]
) -> tuple[pd.DataFrame, list[str]]:
    table = read_csv(file, ["examid", "rDR"], "messidor2")
    problems = check_ids(table["examid"], file)
    referable, bad = parse_values(table["rDR"], (0, 1), file)
    problems += bad
    rows = []
    for row, (exam, label) in enumerate(zip(table["examid"].fillna("").str.strip(), referable, strict=True), start=2):
        stem = Path(exam).stem.lower() if Path(exam).suffix.lower() in PICTURES else exam.lower()
        pair = [s for s, e in exams.items() if stem in exams and e == exams[stem]]
        stems = pair or [s for s in pictures if s == stem or re.match(re.escape(stem) + r"[^0-9a-z]", s)]
        found = [pictures[s] for s in stems if s in pictures]
        if exam and len(found) != 2:
            problems.append(f"{file.name} row {row}: examid {exam} has {len(found)} images, expected 2")
        rows += [{"id": Path(path).name, "path": path, "referable": label, "exam": exam} for path in found]
    records = pd.DataFrame(rows, columns=["id", "path", "referable", "exam"])
    return add_grade_targets(records.assign(grade=np.nan, dme=np.nan, gradable=np.nan)), problems


def _with_referable(records: pd.DataFrame) -> pd.DataFrame:
    """Add the ordered targets, and referable: moderate or worse and/or referable macular oedema."""
    records = add_grade_targets(records)
    return records.assign(referable=either(records["moderate_or_worse"].to_numpy(), records["dme"].to_numpy()))


def _graded(
    root: Path, card: str, table: str, name: str, grade: str, folders: tuple[str, ...]
) -> tuple[pd.DataFrame, list[str], list[str]]:
    """A table with a name and a grade (0-4) per image of one folder.

    Returns:
        The records, problems, and a note on images that have no row.
    """
    file = root / table
    rows = read_csv(file, [name, grade], card)
    problems = check_ids(rows[name], file)
    grades, bad = parse_values(rows[grade], range(5), file)
    folder = next((f for f in folders if (root / f).is_dir()), folders[0])
    names = rows[name].fillna("").astype(str).str.strip()
    found = _pictures(root, root / folder)
    paths, leaving = _paths(names, found, f"{folder}/", ".png", file)
    problems += bad + leaving
    extra = len(set(found) - set(names.str.lower()))
    notes = [f"{extra} images in {folder}/ have no row in {table} and are not used."] if extra else []
    return pd.DataFrame({"id": names, "split": None, "path": paths, "grade": grades}), problems, notes


def _pictures(root: Path, folder: Path) -> dict[str, str]:
    """Lower-case stem -> path relative to root, of all pictures below a folder (suffixes vary between copies).

    Raises:
        DataError: two pictures of one name, so that a table's name would not say which is meant.
    """
    pictures: dict[str, str] = {}
    twice = []
    for file in sorted(f for f in folder.rglob("*") if f.suffix.lower() in PICTURES):
        path = file.relative_to(root).as_posix()
        if file.stem.lower() in pictures:
            twice.append(f"{pictures[file.stem.lower()]} and {path}")
        pictures[file.stem.lower()] = path
    if twice:
        raise DataError(f"{folder} holds pictures of the same name:\n{listed(twice)}", "Leave one of each there.")
    return pictures


def _paths(
    names: pd.Series, pictures: Mapping[str, str], prefix: str, suffix: str, table: Path
) -> tuple[list[str], list[str]]:
    """Where each named picture is (if it is not there, where it was expected), and names that leave the folder."""
    paths = [pictures.get(_stem(name).lower(), f"{prefix}{name}{suffix}") for name in names]
    leaving = [
        f"{table.name} row {row}: {name} leaves the folder"
        for row, (name, path) in enumerate(zip(names, paths, strict=True), start=2)
        if not inside(path) or not inside(name)
    ]
    return paths, leaving


def _stem(name: str) -> str:
    return Path(name).stem if Path(name).suffix.lower() in PICTURES else name
