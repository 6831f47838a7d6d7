"""CAMELYON16's folders, as people have them: the challenge's, the newer flat ones, mirrors, a part of either.

Slides are known by name (normal_, tumor_, test_ and a number, in any case, in any format that OpenSlide reads)
wherever they lie; annotations likewise. Folders of masks and of background tissue are passed over.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from pipelines.camelyon.annotations import check_annotation
from pipelines.camelyon.slides import SUFFIXES
from pipelines.shared.data.tables import BLANKS, RowProblem
from pipelines.shared.errors import DataError
from pipelines.shared.files import find_files

SLIDE_NAME = re.compile(r"(normal|tumor|test)[_ -]?(\d{1,6})$", re.IGNORECASE)
PASSED_OVER = ("mask", "background")  # in the name of a folder
WORDS = {"tumor": 1, "tumour": 1, "normal": 0}


def read_challenge(
    root: Path, partly: Sequence[str], apart: Mapping[str, str], groups: Mapping[str, str]
) -> tuple[pd.DataFrame, list[str], list[str]]:
    """The record table of a folder in either layout.

    Args:
        root: the folder.
        partly: training slides that are only partly annotated.
        apart: slides that are left out -> why.
        groups: `data.annotation_groups`.

    Returns:
        The records (index: the slides' keys, such as `tumor_001`), problems for `tables.without_bad_rows`, and notes
        for the report.

    Raises:
        DataError: the folder holds no slide of the challenge.
    """
    problems: list[str] = []
    notes: list[str] = []
    slides = _by_key(root, SUFFIXES, problems)
    xml = _by_key(root, (".xml",), problems)
    if not slides:
        raise DataError(
            f"{root} holds no slide named normal_…, tumor_… or test_….tif.",
            "See data_cards/camelyon16.md for the layout.",
        )
    labels = _test_labels(root, problems)
    if labels is None and any(key.startswith("test") for key in slides):
        notes.append(
            "No reference table of the test slides was found: those with an annotation count as tumour, the others as "
            "normal."
        )
    set_apart = {_key(name): reason for name, reason in apart.items()}
    partly_keys = {_key(name) for name in partly}
    rows = {}
    for key, file in slides.items():
        name = file.stem
        if key in set_apart:
            notes.append(f"{name} is set apart by the configuration: {set_apart[key]}.")
            continue
        test = key.startswith("test")
        tumor = key.startswith("tumor") if not test else labels.get(key, 0) if labels else key in xml
        if test and labels is not None and key not in labels:
            problems.append(RowProblem(f"{name}: the reference table does not name it", key))
        if tumor and key not in xml:
            problems.append(RowProblem(f"{name}: a tumour slide without an annotation ({name}.xml)", key))
        if not tumor and key in xml:
            problems += [RowProblem(text, key) for text in outlines_in_normal(name, root, xml[key], groups)]
        rows[key] = {
            "id": name, "group": name, "split": "test" if test else "train", "path": file.as_posix(),
            "tumor": float(tumor), "annotation": xml[key].as_posix() if tumor and key in xml else None,
            "partly": int(key in partly_keys),
        }  # fmt: skip
    for names, what in (
        ([f.as_posix() for key, f in xml.items() if key not in slides], "annotations belong to no slide here"),
        ([key for key in labels or {} if key not in slides], "slides of the reference table are not here"),
        ([key for key in partly_keys if key not in slides], "slides of data.partly_annotated are not here"),
    ):
        if names:
            notes.append(f"{len(names)} {what}: {some(names)}.")
    if any("without an annotation" in p for p in problems):
        packed = [f.as_posix() for f in find_files(root, {".zip"}) if "annotation" in f.name.lower()]
        problems += [f"{file} is still packed: unpack it" for file in packed]
    return pd.DataFrame.from_dict(rows, orient="index"), problems, notes


def outlines_in_normal(slide: str, root: Path, file: Path, groups: Mapping[str, str]) -> list[str]:
    """What contradicts the label of a normal slide that has an annotation all the same."""
    annotation, wrong = check_annotation(root / file, strict=False, groups=groups)
    if annotation is None:
        return [f"{slide}: its annotation {file.as_posix()} {'; '.join(wrong)}"]
    return [f"{slide} is normal, but {file.as_posix()} outlines tumour in it"] if annotation.tumour else []


def some(names: Sequence[str], limit: int = 12) -> str:
    """Names in one line, at most so many of them and then a count of the rest."""
    shown = sorted(names)[:limit]
    return ", ".join(shown) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def _by_key(root: Path, suffixes: Sequence[str], problems: list[str]) -> dict[str, Path]:
    """Slide key -> its file, relative to the folder. Two files of one slide are a problem, unless they are the same
    annotation, unpacked twice."""
    by_key: dict[str, Path] = {}
    for file in find_files(root, suffixes):
        match = SLIDE_NAME.match(file.stem)
        if match is None or any(word in part.lower() for part in file.parts[:-1] for word in PASSED_OVER):
            continue
        key = _key(file.stem)
        if key not in by_key:
            by_key[key] = file
        elif file.suffix.lower() != ".xml" or (root / file).read_bytes() != (root / by_key[key]).read_bytes():
            text = f"{by_key[key].as_posix()} and {file.as_posix()} are both {key}: remove one of them"
            problems.append(RowProblem(text, key))
    return by_key


def _key(name: str) -> str:
    match = SLIDE_NAME.match(name)
    if match is None:
        raise DataError(f"'{name}' is no slide of CAMELYON16.", "Names are normal_001, tumor_001, test_001.")
    return f"{match.group(1).lower()}_{int(match.group(2)):03d}"


def _test_labels(root: Path, problems: list[str]) -> dict[str, int] | None:
    """Labels of the test slides by key, from reference.csv, else from whatever table names them; None: there is none.

    Tables that contradict each other are a problem, whichever of them is newer.
    """
    tables = [f for f in find_files(root, {".csv"}) if f.parent.name != "truth"]
    named = [f for f in tables if f.stem.lower().startswith("reference")]
    labels: dict[str, int] = {}
    listed_in: dict[str, str] = {}
    for file in named or tables:
        try:
            text = (root / file).read_bytes().decode("utf-8-sig")
        except UnicodeDecodeError as failure:
            if named:
                problems.append(f"{file} is no text in UTF-8: {failure.reason} at byte {failure.start}")
            continue
        rows = _test_rows(text)
        if named and not rows:
            problems.append(f"{file} names no test slide: lines are test_001,Tumor or test_002,Normal")
        if not named and all(label is None for _, _, label in rows):
            continue  # a table of something else
        for number, key, label in rows:
            where = f"{file} line {number}"
            if label is None:
                problems.append(RowProblem(f"{where}: {key} is neither Tumor nor Normal", key))
            elif labels.setdefault(key, label) != label:
                problems.append(RowProblem(f"{listed_in[key]} and {where} contradict each other about {key}", key))
            else:
                listed_in.setdefault(key, where)
    return labels or None


def _test_rows(text: str) -> list[tuple[int, str, int | None]]:
    """Line number, key and label of every line that begins with a test slide; None: no label, or two."""
    rows = []
    for number, line in enumerate(text.splitlines(), start=1):
        cells = [c.strip(BLANKS).strip('"').strip(BLANKS) for c in re.split(r"[,;\t]", line)]
        match = SLIDE_NAME.match(Path(cells[0]).stem)
        if match is None or match.group(1).lower() != "test":
            continue
        labels = {WORDS[c.lower()] for c in cells[1:] if c.lower() in WORDS}
        rows.append((number, _key(match.group()), labels.pop() if len(labels) == 1 else None))
    return rows
