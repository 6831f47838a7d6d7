"""Public sets of graded fundus photographs, each read in the layout in which it is distributed, or copied.

What a set does not label is unknown (NaN), never negative. All bad rows of a set's tables are listed at once, or left
out and reported (`data.on_bad_row=skip`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from pipelines.retinopathy.config import PublicData, RetinopathyConfig
from pipelines.retinopathy.labels import add_grade_targets, either
from pipelines.shared.data.copies import ROWS, Copy, paths_of, stem, strangers
from pipelines.shared.data.records import Source
from pipelines.shared.data.tables import RowProblem, check_ids, parse_values, row_of, without_bad_rows
from pipelines.shared.errors import DataError

LEARNING = ("train", "resume", "verify")  # modes that need grades; verify refuses what train refuses
NO_DME = "No DME labels: the headline target is moderate-or-worse diabetic retinopathy."
NO_PATIENTS = "image (the set has no patient ids); identical and near-identical images are one group"
# Column -> what else it is called in copies of the same set.
APTOS = {"id_code": ("image",), "diagnosis": ("level",)}
EYEPACS = {"image": ("id_code",), "level": ("diagnosis",)}
IDRID = {"Image name": ("id_code",), "Retinopathy grade": ("diagnosis",)}
OEDEMA = "Risk of macular edema"
MESSIDOR = {
    "image_id": ("id_code", "image"),
    "adjudicated_dr_grade": ("diagnosis",),
    "adjudicated_dme": (),
    "adjudicated_gradable": (),
}
STANDARD, PAIRS = {"examid": (), "rDR": ()}, {"left": (), "right": ()}


def aptos2019(config: RetinopathyConfig) -> Source:
    """APTOS 2019: train.csv (id_code, diagnosis) and train_images/<id_code>.png.

    There are no patient ids, so each image is its own group until the leakage gate finds it twice; no DME labels and no
    gradability, so both are unknown. Copies that divided the competition's training part into train_1.csv, valid.csv
    and test.csv keep that split.
    """
    copy = _copy(config, "aptos2019", APTOS)
    folders = ("train_images", "images", "train", "resized_train_19")
    divided = None if copy.find("train.csv") else copy.find("train_1.csv")
    if divided is None:
        records, problems = _graded(copy, copy.needs("train.csv", "trainLabels19.csv"), APTOS, folders)
    else:
        records, problems = _graded(copy, divided, APTOS, ("train_images", "train"), split="train")
        for split, table, more in (
            ("val", "valid.csv", ("val_images", "val")),
            ("test", "test.csv", ("test_images", "test")),
        ):
            if (divided.parent / table).is_file():
                part, bad = _graded(copy, divided.parent / table, APTOS, more, split=split)
                records, problems = pd.concat([records, part]), problems + bad
        copy.notes.append("The split into train_1.csv, valid.csv and test.csv is this copy's, not the competition's.")
        problems += _in_several(records)
    return _source(config, copy, records.assign(group=records["id"]), problems, NO_PATIENTS)


def eyepacs(config: RetinopathyConfig) -> Source:
    """EyePACS, as in Kaggle's competition of 2015: trainLabels.csv (image, level), train/<patient>_left|right.jpeg.

    Where retinopathy_solution.csv (the test labels, published later) lies beside it, its images in test/ are the
    official test split.
    """
    copy = _copy(config, "eyepacs", EYEPACS)
    labels = copy.needs("trainLabels.csv", "trainLabels_cropped.csv", "trainLabels15.csv")
    folders = ("train", "images", "resized_train", "resized_train_cropped", "resized_train_15")
    records, problems = _graded(copy, labels, EYEPACS, folders)
    solution = copy.find("retinopathy_solution.csv", "testLabels15.csv")
    if solution is not None:
        test, more = _graded(copy, solution, EYEPACS, ("test", "resized_test", "resized_test_15"), split="test")
        records = pd.concat([records, test])
        problems += [*more, *_in_several(records)]
    parts = [re.fullmatch(r"(.+)_(left|right)", name.lower()) for name in records["id"]]
    problems += [
        RowProblem(f"{_where(label)}: image {name}: expected <patient>_left or <patient>_right", label)
        for (label, name), part in zip(records["id"].items(), parts, strict=True)
        if part is None and name
    ]
    records["group"] = [part[1] if part else "" for part in parts]
    records["eye"] = [part[2] if part else None for part in parts]
    return _source(config, copy, records, problems, "patient (both eyes)")


def idrid(config: RetinopathyConfig) -> Source:
    """IDRiD, part B (Disease Grading): grade and risk of macular oedema, official training and test split.

    Risk 2 (exudates within one disc diameter of the macula) is referable macular oedema; 0 and 1 are not. The names
    IDRiD_001 … occur in both parts, so an id begins with its split. Copies have one table, idrid_labels.csv, where the
    names of the test part end in "test".
    """
    copy = _copy(config, "idrid", {**IDRID, OEDEMA: ()})
    tables = {
        split: copy.find(f"*IDRiD_Disease Grading_{title} Labels.csv")
        for split, title in (("train", "Training"), ("test", "Testing"))
    }
    joined = copy.find("idrid_labels.csv")
    parts: list[pd.DataFrame] = []
    problems: list[str] = []
    if joined is not None and not any(tables.values()):
        tables = {"": joined}
    for split, file in tables.items():
        if file is None:
            title = "Training" if split == "train" else "Testing"
            raise DataError(
                f"{copy.root} should hold one *IDRiD_Disease Grading_{title} Labels.csv; found: none.",
                "See data_cards/idrid.md.",
            )
        part, bad = _oedema_graded(copy, file, split)
        parts.append(part)
        problems += bad
    records = pd.concat(parts)
    records = records.assign(group=records["id"], dme=(records["dme_risk"] == 2).where(records["dme_risk"].notna()))
    return _source(config, copy, records, problems, NO_PATIENTS, lacks_dme=False)


def _oedema_graded(copy: Copy, file: Path, split: str) -> tuple[pd.DataFrame, list[str]]:
    """One table of IDRiD; without a split it holds both parts."""
    table = copy.table(file, IDRID if not split else {**IDRID, OEDEMA: ()}, {} if split else {OEDEMA: ()})
    names = table["Image name"].map(stem, na_action="ignore")
    problems = check_ids(names, file)
    grade, bad_grades = parse_values(table["Retinopathy grade"], range(5), file)
    risks = table[OEDEMA] if OEDEMA in table else pd.Series(np.nan, index=table.index)
    risk, bad_risks = parse_values(risks, range(3), file, empty_ok=not split)
    names = names.fillna("")
    if split:
        title = {"train": "Training", "test": "Testing"}[split]
        base = file.parent.parent
        own = [
            f for f in copy.files() if f.is_relative_to(base) and f.parent.name.lower().endswith(f"{title} set".lower())
        ]
        folder = f"{'a' if split == 'train' else 'b'}. {title} Set"
        expected = (base / "1. Original Images" / folder).relative_to(copy.root).as_posix()
        splits, short = pd.Series(split, index=table.index), names
        pictures = copy.named(own)
    else:
        pictures, expected = copy.pictures("Imagenes", "images", beside=file.parent), "Imagenes"
        splits = names.str.lower().str.endswith("test").map({True: "test", False: "train"})
        short = names.str.replace(r"(?i)test$", "", regex=True)
    paths, leaving = paths_of(names, pictures, expected, ".jpg", file)
    part = {"id": splits + "_" + short, "split": splits, "path": paths, "grade": grade, "dme_risk": risk}
    return pd.DataFrame(part), [*problems, *bad_grades, *bad_risks, *leaving]


def messidor2(config: RetinopathyConfig) -> Source:
    """Messidor-2: messidor_data.csv (adjudicated grade, DME, gradability per image), messidor-2.csv (left;right pairs).

    Without messidor_data.csv the older reference standard is read, *refstandard*.csv (examid, rDR): one label,
    referable or not, for the two images of an examination. Both images then carry it.
    """
    copy = _copy(config, "messidor2", {**MESSIDOR, **STANDARD, **PAIRS})
    pictures = copy.pictures("IMAGES", "messidor-2")
    exams, problems = _examinations(copy)
    grades, standard = copy.find("messidor_data.csv"), copy.find("*refstandard*.csv")
    if grades is not None:
        records, bad = _adjudicated(copy, grades, pictures)
    elif standard is not None:
        records, bad = _by_examination(copy, standard, pictures, exams)
        copy.notes.append("One label per examination: both of its images carry it, also the eye that has no disease.")
        if config.mode in LEARNING:
            raise DataError(
                f"{standard.name} says only whether an examination is referable: no grades to learn from.",
                "Evaluate a finished run on it (mode=evaluate), or add messidor_data.csv with a grade per image.",
            )
    else:
        raise DataError(
            f"{copy.root} holds neither messidor_data.csv nor a *refstandard*.csv: the images come without grades.",
            "The card says where the grades are: data_cards/messidor2.md.",
        )
    stems = records["path"].map(lambda path: Path(path).stem.lower())
    records["group"] = [exams.get(name, name) for name in stems]
    records["split"] = None
    pairs = copy.find("messidor-2.csv")
    if pairs is None:
        alone = "each image counts as its own patient, although eyes come in pairs"
        copy.notes.append(f"There is no messidor-2.csv: {alone}.")
    else:
        copy.notes += strangers(stems, exams, pairs, "each a patient of its own")
    records, left_out = without_bad_rows(records, problems + bad, config.data.on_bad_row, str(copy.root), ROWS)
    records = records.reset_index(drop=True)
    return Source(
        "messidor2", False, copy.root, records, "examination (both eyes)", notes=copy.notes, left_out=left_out
    )


def _examinations(copy: Copy) -> tuple[dict[str, str], list[str]]:
    """Name of an image (small letters, no suffix) -> its examination (the name of its left image), from messidor-2.csv
    if it is there.
    """
    file = copy.find("messidor-2.csv")
    exams: dict[str, str] = {}
    problems: list[str] = []
    table = pd.DataFrame(columns=["left", "right"]) if file is None else copy.table(file, PAIRS)
    for label, left, right in table[["left", "right"]].itertuples(name=None):
        names = [stem(name).lower() for name in (left, right)]
        if not all(names):
            problems.append(RowProblem(f"{_where(label)}: an examination has two images, found: {left};{right}", label))
        twice = [name for name in names if name in exams]
        problems += [RowProblem(f"{_where(label)}: {name} is in another examination too", label) for name in twice]
        if all(names) and not twice:
            exams |= dict.fromkeys(names, names[0])
    return exams, problems


def _adjudicated(copy: Copy, file: Path, pictures: Mapping[str, str]) -> tuple[pd.DataFrame, list[str]]:
    table = copy.table(file, MESSIDOR)
    problems = check_ids(table["image_id"].map(stem, na_action="ignore"), file)
    gradable, bad = parse_values(table["adjudicated_gradable"], (0, 1), file)
    grade, bad_grades = parse_values(table["adjudicated_dr_grade"], range(5), file, empty_ok=True)
    dme, bad_dme = parse_values(table["adjudicated_dme"], (0, 1), file, empty_ok=True)
    problems += bad + bad_grades + bad_dme
    lacking = (gradable == 1) & table["adjudicated_dr_grade"].isna()
    problems += [RowProblem(f"{_where(i)}: gradable, but without a grade", i) for i in table.index[lacking]]
    names = table["image_id"].fillna("")
    paths, leaving = paths_of(names, pictures, "IMAGES", "", file)
    problems += leaving
    seen = gradable != 0
    records = pd.DataFrame({"id": names, "path": paths}, index=table.index)
    return _with_referable(records.assign(grade=grade.where(seen), dme=dme.where(seen), gradable=gradable)), problems


def _by_examination(
    copy: Copy, file: Path, pictures: Mapping[str, str], exams: Mapping[str, str]
) -> tuple[pd.DataFrame, list[str]]:
    table = copy.table(file, STANDARD)
    problems = check_ids(table["examid"], file)
    referable, bad = parse_values(table["rDR"], (0, 1), file)
    problems += bad
    rows, labels = [], []
    for (label, exam), reference in zip(table["examid"].fillna("").items(), referable, strict=True):
        name = stem(exam).lower()
        pair = [s for s, e in exams.items() if name in exams and e == exams[name]]
        names = pair or [s for s in pictures if s == name or re.match(re.escape(name) + r"[^0-9a-z]", s)]
        files = [pictures[s] for s in names if s in pictures]
        if exam and len(files) != 2:
            problems.append(RowProblem(f"{_where(label)}: examid {exam} has {len(files)} images, expected 2", label))
        rows += [{"id": Path(path).name, "path": path, "referable": reference, "exam": exam} for path in files]
        labels += [label] * len(files)
    records = pd.DataFrame(rows, columns=["id", "path", "referable", "exam"], index=labels)
    return add_grade_targets(records.assign(grade=np.nan, dme=np.nan, gradable=np.nan)), problems


# --- what the adapters share ---


def _copy(config: RetinopathyConfig, card: str, columns: Mapping[str, Sequence[str]]) -> Copy:
    assert isinstance(config.data, PublicData)
    return Copy.of(config.data, card, list(columns))


def _graded(
    copy: Copy, file: Path, columns: Mapping[str, Sequence[str]], folders: Sequence[str], split: str | None = None
) -> tuple[pd.DataFrame, list[str]]:
    """A table with a name and a grade (0-4) per image: its records, and its problems."""
    name, grade = columns
    rows = copy.table(file, columns)
    names = rows[name].map(stem, na_action="ignore")
    problems = check_ids(names, file)
    grades, bad = parse_values(rows[grade], range(5), file)
    names = names.fillna("")
    pictures = copy.pictures(*folders, beside=file.parent)
    paths, leaving = paths_of(names, pictures, folders[0], ".png", file)
    extra = len(set(pictures) - set(names.str.lower()))
    if extra:
        copy.notes.append(f"{extra} pictures have no row in {file.name} and are not used.")
    records = pd.DataFrame({"id": names, "split": split, "path": paths, "grade": grades})
    return records, [*problems, *bad, *leaving]


def _in_several(records: pd.DataFrame) -> list[str]:
    """Problems: images that several of a set's tables name."""
    problems: list[str] = []
    named = records[records["id"] != ""]
    for name, labels in named.groupby("id").groups.items():
        tables = list(dict.fromkeys(Path(str(label).rpartition(":")[0]).name for label in labels))
        if len(tables) > 1:
            problems.append(RowProblem(f"{name} is in {' and in '.join(tables)}", *labels))
    return problems


def _source(
    config: RetinopathyConfig,
    copy: Copy,
    records: pd.DataFrame,
    problems: list[str],
    group_key: str,
    lacks_dme: bool = True,
) -> Source:
    """The source of a set with a grade for every image and no gradability."""
    records, left_out = without_bad_rows(records, problems, config.data.on_bad_row, str(copy.root), ROWS)
    records = records.reset_index(drop=True).assign(gradable=np.nan)
    if lacks_dme:
        records = add_grade_targets(records.assign(dme=np.nan, referable=np.nan))
    else:
        records = _with_referable(records.assign(dme=records["dme"].astype(float)))
    notes = [NO_DME, *copy.notes] if lacks_dme else copy.notes
    return Source(config.data.name, False, copy.root, records, group_key, notes=notes, left_out=left_out)


def _with_referable(records: pd.DataFrame) -> pd.DataFrame:
    """Add the ordered targets, and referable: moderate or worse and/or referable macular oedema."""
    records = add_grade_targets(records)
    return records.assign(referable=either(records["moderate_or_worse"].to_numpy(), records["dme"].to_numpy()))


def _where(label: object) -> str:
    """A row of a table, for people."""
    return f"{Path(str(label).rpartition(':')[0]).name} row {row_of(label)}"
