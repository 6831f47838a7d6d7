"""The inputs of `mode=froc`: detections, annotations and a table of slides that fit together, or all that is wrong.

- `detections`: one `<slide>.csv` per slide, lines `probability,x,y`, no header. A slide without a file has no
  detections, and stays in the denominator; the report names it.
- `annotations`: one ASAP `<slide>.xml` per tumour slide.
- `slides`: every slide of the test, label 1 or `tumor`, 0 or `normal`; where they are known, also `mpp` (microns per
  level-0 pixel) and `width` and `height` (level-0 pixels).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from pipelines.camelyon.annotations import MPP, check_annotation
from pipelines.camelyon.challenge import some
from pipelines.camelyon.config import PLAUSIBLE_MPP
from pipelines.camelyon.lesions import COLUMNS, check_detections
from pipelines.camelyon.masks import LesionMap, lesion_map
from pipelines.camelyon.pairing import Pairs, pair, slide_key
from pipelines.shared.data.tables import read_csv
from pipelines.shared.errors import DataError, counted, listed
from pipelines.shared.files import find_files
from pipelines.shared.screen import track

LABELS = {"0": 0, "normal": 0, "negative": 0, "1": 1, "tumor": 1, "tumour": 1, "positive": 1}
SIDES = (1, 1_000_000)  # level-0 pixels
REMEDY = (
    "Correct them; nothing was guessed or left out. detections: <slide>.csv with lines probability,x,y (level-0 "
    "pixels, no header); annotations: <slide>.xml of ASAP for each tumour slide; slides: a CSV with slide,label and, "
    "where they are known, mpp,width,height (with a slide's size, outlines may lie anywhere on it)."
)


@dataclass(frozen=True)
class Submission:
    """Three inputs that fit together.

    Attributes:
        slides: one row per slide: slide, label (0 or 1), mpp (microns per level-0 pixel), file (whether it has a file
            of detections).
        detections: slide, probability, x, y.
        maps: the lesions of each tumour slide.
        scale: the microns per pixel that everything in microns rests on, and where they come from, in words.
        notes: what the reader should know about how they were read.
        warnings: what may spoil the result.
    """

    slides: pd.DataFrame
    detections: pd.DataFrame
    maps: dict[str, LesionMap]
    scale: str
    notes: list[str]
    warnings: list[str]


def read_submission(
    detections: Path, annotations: Path, slides: Path, mpp: float | None = None, groups: Mapping[str, str] | None = None
) -> Submission:
    """Read and check the three inputs.

    Args:
        detections: folder of CSVs.
        annotations: folder of ASAP XML.
        slides: the table.
        mpp: microns per level-0 pixel of slides whose row does not say them; None: the challenge's.
        groups: `data.annotation_groups`.

    Raises:
        DataError: all problems at once: of the table of slides, of any line of any CSV, of any XML file, tumour slides
            without XML, normal slides with tumour outlines, files that could belong to two slides, and detections of
            which no file belongs to a slide.
    """
    table, problems = _read_slides(slides)
    table["mpp"], scale = _scales(table, mpp, slides.name)
    names = table["slide"].dropna().unique().tolist()
    csv_files, wrong = _files(detections, ".csv", "detections", names)
    problems += wrong
    xml_files, wrong = _files(annotations, ".xml", "annotations", names)
    problems += wrong
    _stop(problems)  # the three belong to each other: without one of them nothing more can be said
    notes: list[str] = []
    warnings: list[str] = []

    table["file"] = table["slide"].isin(csv_files.files)
    missing = table.loc[~table["file"], "slide"].tolist()
    unknown = csv_files.strangers
    if unknown and not table["file"].any():
        problems.append(
            f"detections: none of its {counted(len(unknown), 'file')} is of a slide in {slides.name}; "
            f"files: {some(unknown)}; slides: {some(missing)}"
        )
    elif unknown:
        warnings.append(f"{counted(len(unknown), 'file')} of slides that {slides.name} does not list: {some(unknown)}.")
    if missing:
        # With files of unknown slides it may be a matter of names, so it is said where nobody can miss it.
        (warnings if unknown else notes).append(
            f"Slides without a file of detections count as slides without detections, {len(missing)} of them: "
            f"{some(missing)}."
        )
    tables = []
    for name, file in csv_files.files.items():
        detected, wrong = check_detections(detections / file)
        problems += [f"{file}, {w}" for w in wrong]
        tables.append(detected.assign(slide=name))
    maps: dict[str, LesionMap] = {}
    slips: list[str] = []
    for row in track(table.to_dict("records"), "Reading annotations"):
        name, size = str(row["slide"]), None if np.isnan(row["width"]) else (int(row["width"]), int(row["height"]))
        xml = annotations / xml_files.files[name] if name in xml_files.files else None
        wrong, noticed, lesions = _lesions(name, row["label"] == 1, xml, size, row["mpp"], groups)
        problems += wrong
        slips += noticed
        if lesions is not None:
            maps[name] = lesions
    empty = [name for name, lesions in maps.items() if lesions.lesions.empty]
    if empty:
        warnings.append(
            "Tumour slides without a lesion, because their annotations outline no tumour or none that covers a pixel "
            f"of level 5: {some(empty)}. Every detection there is a false positive."
        )
    if slips:
        notes.append(f"Outlines that are odd, and were filled as they are or passed over, {len(slips)}: {some(slips)}.")
    extra = xml_files.strangers
    if extra:
        notes.append(f"{counted(len(extra), 'annotation')} of slides that {slides.name} does not list: {some(extra)}.")
    _stop(problems)
    if not (table["label"] == 0).any():
        warnings.append(
            "There are no normal slides: all false positives come from tumour slides, so the curve is not comparable "
            "to one of the whole test set."
        )
    together = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=COLUMNS, dtype=float)
    if "slide" not in together:
        together["slide"] = pd.Series(dtype=object)
    return Submission(table, together[["slide", *COLUMNS]], maps, scale, notes, warnings)


def _read_slides(file: Path) -> tuple[pd.DataFrame, list[str]]:
    """slide (as written there), label (0 or 1), mpp, width and height (NaN: not said)."""
    table = read_csv(file, ["slide", "label"])
    problems = [f"{file.name} row {i + 2}: empty slide" for i in np.flatnonzero(table["slide"].isna())]
    words = table["label"].fillna("").str.lower().str.removesuffix(".0")
    problems += [
        f"{file.name} row {i + 2}: label={table['label'][i]}, allowed: 1, tumor, 0, normal"
        for i in np.flatnonzero(~words.isin(list(LABELS)))
    ]
    problems += [
        f"{file.name} rows {rows}: slide '{name}' occurs {n} times" for name, rows, n in _twice(table["slide"])
    ]
    checked = pd.DataFrame({"slide": table["slide"], "label": words.map(LABELS)})
    for column, (low, high) in {"mpp": PLAUSIBLE_MPP, "width": SIDES, "height": SIDES}.items():
        cells = table.get(column, pd.Series(np.nan, index=table.index))
        checked[column] = pd.to_numeric(cells, errors="coerce")
        problems += [
            f"{file.name} row {i + 2}: {column}={cells[i]}, allowed: {low:g} to {high:g}, or empty"
            for i in np.flatnonzero(cells.notna() & ~checked[column].between(low, high))
        ]
    for i in np.flatnonzero(checked["width"].isna() != checked["height"].isna()):
        problems.append(f"{file.name} row {i + 2}: width and height belong together, one of them is empty")
    return checked, problems


def _twice(slides: pd.Series) -> list[tuple[str, str, int]]:
    """Slides that are listed twice: their name, rows and count. Slides of one name in different folders are different,
    and so are `a.svs` and `a.tif`; their files tell them apart."""
    names = slides.dropna().str.replace("\\", "/").str.lower()
    keys = names.map(lambda name: f"{name.rpartition('/')[0]}/{slide_key(name)}".lstrip("/"))
    repeated = []
    for key, group in names.groupby(keys):
        if len(group) > 1 and (group.duplicated().any() or (group == key).any()):
            repeated.append((str(key), ", ".join(str(int(i) + 2) for i in group.index), len(group)))
    return repeated


def _scales(table: pd.DataFrame, mpp: float | None, file: str) -> tuple[pd.Series, str]:
    """Microns per level-0 pixel of each slide, and where they come from, in words."""
    given = table["mpp"].notna()
    scales = table["mpp"].fillna(MPP if mpp is None else mpp)
    low, high = scales.min(), scales.max()
    number = f"{low:g}" if low == high else f"{low:g} to {high:g}"
    origins = [f"column mpp of {file}"] if given.any() else []
    if not given.all():
        origins.append("data.mpp" if mpp is not None else "the challenge's scale, as no other is given")
    return scales, f"{number} microns per level-0 pixel ({'; else '.join(origins)})"


def _files(folder: Path, suffix: str, key: str, slides: list[str]) -> tuple[Pairs, list[str]]:
    """The file of each slide, and problems."""
    if not folder.is_dir():
        return Pairs(), [f"{key}={folder} " + ("is a file, not a folder" if folder.exists() else "does not exist")]
    files = [f.as_posix() for f in find_files(folder, {suffix})]
    if not files:
        return Pairs(), [f"{key}={folder} holds no {suffix} file"]
    pairs = pair(slides, files)
    return pairs, [f"{key}: {text}" for text, _ in pairs.problems]


def _lesions(
    slide: str,
    tumour: bool,
    file: Path | None,
    size: tuple[int, int] | None,
    mpp: float,
    groups: Mapping[str, str] | None,
) -> tuple[list[str], list[str], LesionMap | None]:
    """Problems, notes and the lesions of one slide, None if it is normal."""
    if file is None:
        return ([f"{slide} is a tumour slide without an annotation ({slide}.xml)"] if tumour else []), [], None
    # The official annotations hold outlines that cross themselves; the evaluator takes them as they are filled.
    annotation, problems = check_annotation(file, size, strict=False, mpp=mpp, groups=groups)
    problems = [f"{file.name}, {p}" for p in problems]
    if problems or annotation is None:
        return problems, [], None
    if not tumour:
        wrong = [f"{slide} is normal, but {file.name} outlines tumour in it"] if annotation.tumour else []
        return wrong, [], None
    width, height = size or (None, None)
    return [], annotation.notes, lesion_map(annotation, width, height, mpp)


def _stop(problems: list[str]) -> None:
    if problems:
        raise DataError(
            f"mode=froc: {counted(len(problems), 'problem')} with its inputs.\n{listed(problems, 50)}", REMEDY
        )
