"""Where the photographs come from (public sets: `public_sets`), and how one file becomes the network's input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import ndtr

from pipelines.retinopathy import fundus, public_sets
from pipelines.retinopathy.config import LabelRules, RetinopathyConfig
from pipelines.retinopathy.labels import add_grade_targets, either, few_graders, own_referable, reference
from pipelines.retinopathy.phantom.dataset import PhantomSettings, ensure_phantom
from pipelines.shared.data.duplicates import describe, pixel_hash
from pipelines.shared.data.images import SUFFIXES, read_picture
from pipelines.shared.data.records import Source, Target, read_table
from pipelines.shared.data.tables import check_ids, numeric_if_possible, parse_values, raise_problems, read_csv
from pipelines.shared.errors import DataError, UnusableRecord
from pipelines.shared.files import find_files

TARGETS = [Target("grade", range(5)), Target("dme", (0, 1)), Target("gradable", (0, 1))]
PREPARE_VERSION = 2  # raise it whenever `prepare` gives other arrays or metadata


# --- one file ---


def prepare_settings(config: RetinopathyConfig) -> dict[str, Any]:
    """Everything that a prepared array depends on besides the file."""
    wanted, applied = config.preprocess.local_average, config.data.local_average_applied
    sigma = config.preprocess.local_average_sigma
    return {
        "study": "retinopathy",
        "version": PREPARE_VERSION,
        "size": config.preprocess.size,
        "local_average": wanted and not applied,
        **({"local_average_sigma": sigma} if wanted and not applied and sigma is not None else {}),
        **({"local_average_applied": True} if wanted and applied else {}),
    }


def prepare(record: Mapping[str, Any], root: Path, settings: dict[str, Any]) -> tuple[np.ndarray, dict[str, Any]]:
    """One photograph, cropped to its fundus circle: uint8 (size, size, 3), and its metadata.

    Raises:
        BadFile: the file cannot be read.
        UnusableRecord: no fundus circle can be found, so the photograph counts as ungradable.
    """
    image, warnings = read_picture(root / record["path"])
    circle = fundus.find_circle(image)
    if circle is None:
        raise UnusableRecord("ungradable: no fundus circle found", {"fingerprint": pixel_hash(image)})
    filtered = fundus.looks_filtered(image)
    if settings["local_average"] and filtered:
        warnings = [
            *warnings,
            "looks local-average filtered already, and is filtered here (data.local_average_applied)",
        ]
    if settings.get("local_average_applied") and not filtered:
        warnings = [*warnings, "does not look local-average filtered, as data.local_average_applied says it is"]
    array = fundus.prepare(
        image,
        settings["size"],
        settings["local_average"],
        circle,
        sigma=settings.get("local_average_sigma"),
        applied=settings.get("local_average_applied", False),
    )
    place = {
        "circle_x": circle.x,
        "circle_y": circle.y,
        "circle_radius": circle.radius,
        "circle_aspect": circle.aspect,
        "width": image.shape[1],
        "height": image.shape[0],
    }
    edge = round(settings["size"] * (1 - 0.5**0.5) / 2)  # the square inside the circle: all discs share their rim
    return array, describe(image, array[edge:-edge, edge:-edge]) | place | {"warnings": warnings}


# --- sources ---


def phantom(config: RetinopathyConfig) -> Source:
    """The phantom, made on first use, read through the adapter of its native layout."""
    assert config.data.name == "phantom"
    settings = PhantomSettings(**config.data.phantom.model_dump())
    root = ensure_phantom(Path(config.cache.dir), settings)
    source = multi_grader(root, config.data.labels, config.data.grades_per_image, config.seed)
    truth = pd.read_csv(root / "truth" / "truth.csv").set_index("image_id").reindex(source.records["id"])
    # The oracle knows both latent severities, in units of a grader's noise from the border of what is referable.
    noise = max(settings.grader_noise, 1e-3)
    moderate = ndtr((truth["severity"].to_numpy() - settings.borders[1]) / noise)
    oedema = ndtr((truth["dme_severity"].to_numpy() - settings.dme_border) / noise)
    masks = [f"truth/masks/{i}.png" for i in truth.index]
    records = source.records.assign(
        truth_severity=truth["severity"].to_numpy(),
        truth_dme_severity=truth["dme_severity"].to_numpy(),
        truth_referable=1 - (1 - moderate) * (1 - oedema),
        truth_moderate_or_worse=moderate,
        truth_mask=pd.Series([m if (root / m).exists() else None for m in masks], dtype=object),
    )
    return replace(source, records=records)


def multi_grader(root: Path, rules: LabelRules, grades_per_image: int | None, seed: int) -> Source:
    """The layout of a set with several graders: images/, grades.csv (image_id, grader, grade, dme, gradable) and
    metadata.csv (image_id, patient_id, and any further columns).

    Raises:
        DataError: all bad rows of both tables at once.
    """
    grades_file, metadata_file = root / "grades.csv", root / "metadata.csv"
    grades = read_csv(grades_file, ["image_id", "grader", "grade", "dme", "gradable"])
    metadata = read_csv(metadata_file, ["image_id", "patient_id"])
    problems = check_ids(metadata["image_id"], metadata_file)
    columns = {"id": grades["image_id"], "reader": grades["grader"]}
    for target in TARGETS:
        columns[target.name], bad = parse_values(grades[target.name], target.values, grades_file, empty_ok=True)
        problems += bad
    readings = pd.DataFrame(columns)
    unknown = sorted(set(readings["id"].dropna()) ^ set(metadata["image_id"].dropna()))
    problems += [f"{i}: only in one of grades.csv and metadata.csv" for i in unknown]
    raise_problems(problems, str(root), "Correct these rows; nothing was guessed or left out.")

    records = metadata.rename(columns={"image_id": "id", "patient_id": "group"})
    found = {file.stem: f"images/{file.as_posix()}" for file in find_files(root / "images", SUFFIXES)}
    records["path"] = [found.get(i, f"images/{i}.png") for i in records["id"]]
    records["split"] = None
    if "age" in records:
        records["age"] = numeric_if_possible(records["age"])
    records = records.join(reference(readings, rules), on="id")
    if grades_per_image is not None:
        few = reference(few_graders(readings, grades_per_image, seed), rules)
        records = records.join(few.add_suffix("_few"), on="id")
    readers = readings.assign(referable=own_referable(readings))
    return Source("phantom", True, root, add_grade_targets(records), "patient (both eyes)", readers)


def table(config: RetinopathyConfig) -> Source:
    """`data=table`: the user's own table with any of the targets grade, dme, gradable."""
    assert config.data.name == "table"
    source = read_table(config.data, TARGETS)
    records = add_grade_targets(source.records)
    ungradable = records["gradable"].to_numpy(float) == 0
    for column in ("grade", "dme", "mild_or_worse", "moderate_or_worse", "severe_or_worse", "proliferative"):
        records.loc[ungradable, column] = np.nan
    moderate, dme = records["moderate_or_worse"].to_numpy(float), records["dme"].to_numpy(float)
    # Without its DME label an image with a low grade is unknown; one with a high grade must then be left out too,
    # or the positives would be more often known than the negatives.
    records["referable"] = np.where(np.isnan(dme), np.nan, either(moderate, dme))
    if config.mode in public_sets.LEARNING and records["grade"].isna().all():
        columns = ", ".join(source.records.columns)
        raise DataError(
            "data.targets names no column for grade, or the column is empty.",
            f"Give one, such as 'data.targets={{grade: diagnosis}}'; the table has: {columns}.",
        )
    notes = [*source.notes]
    lacking = int(np.isnan(dme).sum())
    if lacking == len(dme):
        notes.append("No DME labels: the headline target is moderate-or-worse diabetic retinopathy.")
    elif lacking:
        notes.append(f"{lacking} images have no DME label: whether they are referable counts as unknown.")
    return replace(source, records=records, notes=notes)


SOURCES = {
    "phantom": phantom,
    "aptos2019": public_sets.aptos2019,
    "eyepacs": public_sets.eyepacs,
    "messidor2": public_sets.messidor2,
    "idrid": public_sets.idrid,
    "table": table,
}
