"""Where the slides come from: one adapter per source. A record is a slide; of `pcam` it is a patch.

Besides the columns that every study has: `tumor` (0 or 1; NaN unknown), `annotation` (path of the XML file, relative
to the source's root, or None), `partly` (1: only some of its metastases are outlined), and what `prepare` finds:
`width`, `height`, `mpp`, `levels`, `vendor`, `tissue_mm2`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipelines.camelyon import pcam
from pipelines.camelyon.annotations import check_annotation
from pipelines.camelyon.challenge import outlines_in_normal, read_challenge, some
from pipelines.camelyon.config import CamelyonConfig, TissueSection
from pipelines.camelyon.pairing import pair, slide_key
from pipelines.camelyon.phantom.dataset import TRIAL, ensure_phantom
from pipelines.camelyon.slides import SUFFIXES, WSI, Slide, SlideProperties, fingerprint
from pipelines.camelyon.tissue import require_tissue
from pipelines.shared.data.records import Source, Target, dataset_folder, read_table
from pipelines.shared.data.splits import folds
from pipelines.shared.data.tables import RowProblem, without_bad_rows
from pipelines.shared.errors import BadFile, DataError, counted
from pipelines.shared.files import find_files

__all__ = ["PREPARE_READS", "SOURCES", "SUFFIXES", "prepare", "prepare_settings"]

PREPARE_VERSION = 2  # raise it whenever `prepare` gives other arrays
OVERVIEW = 128  # pixels
PREPARE_READS = ("annotation", "outlines", "row")  # columns that `prepare` looks at, or that stand for a file it reads


# --- one record ---


def prepare_settings(config: CamelyonConfig) -> dict[str, Any]:
    """Everything that a prepared record depends on besides the files; of a network also what its patches are."""
    common = {"study": "camelyon", "version": PREPARE_VERSION, "source": "pcam"}
    if config.data.name == "pcam":
        return common | {"mpp": pcam.MPP, "crop": config.patches.crop}
    known = {} if config.slide_mpp is None else {"slide_mpp": config.slide_mpp}
    return (
        common
        | known
        | {
            "source": "slides",
            "overview": OVERVIEW,
            "strict_outlines": config.data.strict_outlines,
            "annotation_groups": config.annotation_groups,
            "tissue": config.tissue.model_dump(),
            "mpp": config.patches.mpp,
            "crop": config.patches.crop,
        }
    )


def prepare(record: Mapping[str, Any], root: Path, settings: dict[str, Any]) -> tuple[np.ndarray, dict[str, Any]]:
    """One slide: its overview, uint8 (128, 128, 3), and its properties. One patch of pcam: the patch itself.

    Raises:
        BadFile: the slide cannot be opened or read, does not say its scale, or its annotation is no good.
        UnusableRecord: it holds no tissue.
    """
    if settings["source"] == "pcam":
        return pcam.read_patch(record, root)
    slide = Slide(root / record["path"], settings.get("slide_mpp"))
    try:
        slide.check()
        properties = slide.properties
        warnings = _check_outlines(record, root, properties, settings)
        area = require_tissue(slide, TissueSection(**settings["tissue"]))
        return slide.overview(settings["overview"]), {
            "fingerprint": fingerprint(slide.path),
            "width": properties.width,
            "height": properties.height,
            "mpp": properties.mpp[0],
            "levels": len(properties.downsamples),
            "vendor": properties.vendor,
            "tissue_mm2": round(area, 4),
            "warnings": [*slide.warned(settings["mpp"]), *warnings],
        }
    finally:
        slide.close()


def _check_outlines(
    record: Mapping[str, Any], root: Path, properties: SlideProperties, settings: dict[str, Any]
) -> list[str]:
    """The kinds of what is odd about a slide's annotation."""
    name = record.get("annotation")
    if not isinstance(name, str):
        return []
    annotation, problems = check_annotation(
        root / name,
        (properties.width, properties.height),
        settings["strict_outlines"],
        properties.mpp[0],
        settings["annotation_groups"],
    )
    if annotation is not None and not problems and not annotation.tumour:
        groups = ", ".join(sorted({p.group for p in annotation.polygons})) or "none"
        problems.append(
            f"outlines no tumour, although the slide holds some (groups: {groups}; others than the challenge's are "
            "named with data.annotation_groups)"
        )
    if problems:
        shown = "; ".join(problems[:5]) + (f"; {len(problems) - 5} more" if len(problems) > 5 else "")
        raise BadFile(f"its annotation {name}: {shown}")
    return sorted(set(annotation.kinds)) if annotation is not None else []


# --- CAMELYON16 ---


def phantom(config: CamelyonConfig) -> Source:
    """The synthetic slides, through the same code as `camelyon16`."""
    assert config.data.name == "phantom"
    settings = config.data.phantom.model_copy(update=TRIAL if config.trial else {})
    root = ensure_phantom(Path(config.cache.dir), settings)
    source = _challenge(config, root, [], {})
    records = source.records
    truth = pd.read_csv(root / "truth" / "slides.csv", keep_default_na=False).set_index("slide").loc[records["id"]]
    for column in ("centre", "artefacts"):
        records[column] = truth[column].to_numpy()
    lesions = pd.read_csv(root / "truth" / "lesions.csv")
    lesions_of = {name: part.drop(columns="slide").to_json(orient="records") for name, part in lesions.groupby("slide")}
    records["truth_lesions"] = [lesions_of.get(name, "[]") for name in records["id"]]
    if config.trial:
        source.notes.append(
            f"A trial run: {TRIAL['slides']} small slides, whatever data.phantom.slides says. Its numbers mean nothing."
        )
    return replace(source, name="phantom", synthetic=True, group_key="slide")


def camelyon16(config: CamelyonConfig) -> Source:
    """`data=camelyon16`: the challenge's folders, or the newer flat ones (images/, annotations/).

    Raises:
        DataError: no slides; slides, annotations or labels that are missing or contradict each other, all at once.
    """
    data = config.data
    assert data.name == "camelyon16"
    return _challenge(config, dataset_folder(data.root, "camelyon16"), data.partly_annotated, data.set_apart)


def _challenge(config: CamelyonConfig, root: Path, partly: list[str], apart: dict[str, str]) -> Source:
    WSI.require("A whole slide")
    records, problems, notes = read_challenge(root, partly, apart, config.annotation_groups)
    records, left_out = without_bad_rows(
        records,
        problems,
        config.data.on_bad_row,
        str(root),
        "Complete the folder (data_cards/camelyon16.md says what belongs there), or leave these slides out with "
        "data.on_bad_row=skip.",
    )
    records = stamped(records.reset_index(drop=True), root)
    return Source(
        "camelyon16", False, root, records, "slide (the set has one slide per patient)", notes=notes, left_out=left_out
    )


def stamped(records: pd.DataFrame, root: Path) -> pd.DataFrame:
    """With `outlines`, a digest of each annotation: slides are checked anew when their outlines have changed."""
    digests = [_digest(root / a) if isinstance(a, str) else None for a in records["annotation"]]
    return records.assign(outlines=pd.Series(digests, index=records.index, dtype=object))


def _digest(file: Path) -> str:
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()[:16]
    except OSError as failure:  # `prepare` says so
        return str(failure.strerror)


def check_parts(config: CamelyonConfig, records: pd.DataFrame) -> None:
    """What training needs of the divided slides, known before it begins.

    Raises:
        DataError: no normal tissue to learn from, too few training slides of a kind for the folds, or slides of one
            kind only to choose thresholds on.
    """
    if config.data.name == "pcam":
        return
    train, val = (records[records["split"] == split] for split in ("train", "val"))
    folds(train, config.slide_scores.folds, "tumor", config.seed)
    if (train["partly"] == 1).all():
        raise DataError(
            "All training slides are marked as partly annotated, so there is no normal tissue to learn from.",
            "Name fewer in data.partly_annotated, or add normal slides.",
        )
    kinds = set(val["tumor"].dropna())
    if len(kinds) < 2:
        kinds_present = {0.0: "normal ones only", 1.0: "tumour slides only"}[kinds.pop()] if kinds else "none"
        raise DataError(
            f"Operating points are chosen on val, which needs slides of both kinds; it has {kinds_present}.",
            "Move some there (data.columns.split), or let the slides be divided by leaving the column out.",
        )


# --- a table of one's own ---


def table(config: CamelyonConfig) -> Source:
    """`data=table`: a row per slide, with or without annotations.

    Raises:
        DataError: all bad rows at once; no slide at all has an annotation.
    """
    data = config.data
    assert data.name == "table"
    WSI.require("A whole slide")
    source = read_table(data, [Target("tumor", (0, 1), required=True)])
    records, notes = source.records, list(source.notes)
    problems: list[str] = []
    outlines: dict[str, str] = {}
    if data.annotations is not None:
        folder = Path(data.annotations)
        folder = folder if folder.is_absolute() else source.root / folder
        if not folder.is_dir():
            raise DataError(f"data.annotations={data.annotations} is no folder.", "Give the folder of ASAP XML files.")
        outlines = _outlines(records, source.root, folder, config.annotation_groups, problems, notes)
    tumor = records["tumor"] == 1
    records["annotation"] = [outlines.get(p) if t else None for p, t in zip(records["path"], tumor, strict=True)]
    records["partly"] = _marked(records, data.partly_annotated, problems)
    without = records.index[tumor & records["annotation"].isna()]
    ambiguous = {row for p in problems if isinstance(p, RowProblem) for row in p.rows}
    if len(without) == tumor.sum() and not ambiguous:
        raise DataError(
            f"None of the {len(without)} tumour slides has an annotation; patches cannot be labelled.",
            "Give data.annotations=<folder of ASAP XML files named like the slides>.",
        )
    for row in without.difference(list(ambiguous)):
        problems.append(RowProblem(f"{records['id'][row]}: a tumour slide without an annotation", row))
    records, left_out = without_bad_rows(
        records,
        problems,
        data.on_bad_row,
        str(data.table),
        "Give an XML file for each tumour slide, in folders like those of the slides where names recur; or leave these "
        "slides out with data.on_bad_row=skip.",
    )
    records = stamped(records.reset_index(drop=True), source.root)
    return replace(source, records=records, notes=notes, left_out=[*source.left_out, *left_out])


def _outlines(
    records: pd.DataFrame, root: Path, folder: Path, groups: dict[str, str], problems: list[str], notes: list[str]
) -> dict[str, str]:
    """Path of each slide -> its XML file, relative to the root; of normal slides too."""
    pairs = pair(records["path"].tolist(), [f.as_posix() for f in find_files(folder, {".xml"})])
    row = dict(zip(records["path"], records.index, strict=True))
    problems += [RowProblem(text, *(row[s] for s in slides)) for text, slides in pairs.problems]
    if pairs.strangers:
        notes.append(
            f"{counted(len(pairs.strangers), 'annotation')} of no slide of the table: {some(pairs.strangers)}."
        )
    for path, file in pairs.files.items():
        if records["tumor"][row[path]] == 0:
            texts = outlines_in_normal(path, folder, Path(file), groups)
            problems += [RowProblem(text, row[path]) for text in texts]
    return {path: _relative(folder / file, root) for path, file in pairs.files.items()}


def _marked(records: pd.DataFrame, names: list[str], problems: list[str]) -> list[int]:
    """1 for the slides that `data.partly_annotated` names: by id, path, or file name if no other slide has the same."""
    marked: set[Any] = set()
    keys = records["path"].map(slide_key)
    for name in names:
        matching = records.index[(records["id"] == name) | (records["path"] == name)]
        matching = matching if len(matching) else records.index[keys == slide_key(name)]
        if len(matching) == 1:
            marked.add(matching[0])
        else:
            which = f"{len(matching)} slides: {some(records['id'][matching].tolist())}" if len(matching) else "no slide"
            problems.append(f"data.partly_annotated: '{name}' names {which} of the table")
    return [int(i in marked) for i in records.index]


def _relative(file: Path, root: Path) -> str:
    """A path from the root, also where it lies beside it."""
    import os

    return Path(os.path.relpath(file.resolve(), root.resolve())).as_posix()


SOURCES: Mapping[str, Callable[[CamelyonConfig], Source]] = {
    "phantom": phantom,
    "camelyon16": camelyon16,
    "pcam": pcam.pcam,
    "table": table,
}
