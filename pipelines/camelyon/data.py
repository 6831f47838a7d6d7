"""Where the slides come from: one adapter per source. A record is a slide; of `pcam` it is a patch.

Besides the columns that every study has: `tumor` (0 or 1; NaN unknown), `annotation` (path of the XML file, relative
to the source's root, or None), `partly` (1: only some of its metastases are outlined), and what `prepare` finds:
`width`, `height`, `mpp`, `levels`, `vendor`, `tissue_mm2`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipelines.camelyon import pcam
from pipelines.camelyon.annotations import check_annotation
from pipelines.camelyon.config import CamelyonConfig, TissueSection
from pipelines.camelyon.phantom import TRIAL, PhantomSettings, ensure_phantom
from pipelines.camelyon.slides import SUFFIXES, Slide, fingerprint
from pipelines.camelyon.tissue import require_tissue
from pipelines.shared.errors import BadFile, DataError, listed
from pipelines.shared.records import Source, Target, dataset_folder, raise_problems, read_table

__all__ = ["PREPARE_READS", "SOURCES", "SUFFIXES", "prepare", "prepare_settings"]

PREPARE_VERSION = 2  # raise it whenever `prepare` gives other arrays
OVERVIEW = 128  # pixels
PREPARE_READS = ("annotation", "outlines", "row")  # columns that `prepare` looks at, or that stand for a file it reads
SLIDE_NAME = re.compile(r"(normal|tumor|test)_?(\d+)$", re.IGNORECASE)


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
            "tissue": config.tissue.model_dump(),
            "mpp": config.patches.mpp,
            "crop": config.patches.crop,
        }
    )


def prepare(record: Mapping[str, Any], root: Path, settings: dict[str, Any]) -> tuple[np.ndarray, dict[str, Any]]:
    """One slide: its overview, uint8 (128, 128, 3), and its facts. One patch of pcam: the patch itself.

    Raises:
        BadFile: the slide cannot be opened or read, does not say its scale, or its annotation is no good.
        UnusableRecord: it holds no tissue.
    """
    if settings["source"] == "pcam":
        return pcam.read_patch(record, root)
    slide = Slide(root / record["path"], settings.get("slide_mpp"))
    try:
        slide.check()
        facts = slide.facts
        annotation = record.get("annotation")
        if isinstance(annotation, str):
            _, problems = check_annotation(
                root / annotation, (facts.width, facts.height), strict=settings["strict_outlines"]
            )
            if problems:
                shown = "; ".join(problems[:5]) + (f"; {len(problems) - 5} more" if len(problems) > 5 else "")
                raise BadFile(f"its annotation {annotation}: {shown}")
        area = require_tissue(slide, TissueSection(**settings["tissue"]))
        return slide.overview(settings["overview"]), {
            "fingerprint": fingerprint(slide.path),
            "width": facts.width,
            "height": facts.height,
            "mpp": facts.mpp[0],
            "levels": len(facts.downsamples),
            "vendor": facts.vendor,
            "tissue_mm2": round(area, 4),
            "warnings": slide.warned(settings["mpp"]),
        }
    finally:
        slide.close()


# --- CAMELYON16 ---


def phantom(config: CamelyonConfig) -> Source:
    """The synthetic slides, through the same code as `camelyon16`."""
    assert config.data.name == "phantom"
    settings = TRIAL if config.trial else PhantomSettings(**config.data.phantom.model_dump())
    root = ensure_phantom(Path(config.cache.dir), settings)
    records, notes = read_challenge(root, [], {})
    truth = pd.read_csv(root / "truth" / "slides.csv", keep_default_na=False).set_index("slide").loc[records["id"]]
    for column in ("centre", "artefacts"):
        records[column] = truth[column].to_numpy()
    lesions = pd.read_csv(root / "truth" / "lesions.csv")
    mine = {name: part.drop(columns="slide").to_json(orient="records") for name, part in lesions.groupby("slide")}
    records["truth_lesions"] = [mine.get(name, "[]") for name in records["id"]]
    if config.trial:
        notes.append("A trial run: few small slides. Its numbers mean nothing.")
    return Source("phantom", True, root, records, "slide", notes=notes)


def camelyon16(config: CamelyonConfig) -> Source:
    """`data=camelyon16`: the challenge's folders, or the newer flat ones (images/, annotations/).

    Raises:
        DataError: no slides, or tumour slides without an annotation, all at once.
    """
    data = config.data
    assert data.name == "camelyon16"
    root = dataset_folder(data.root, "camelyon16")
    records, notes = read_challenge(root, data.partly_annotated, data.set_apart)
    return Source("camelyon16", False, root, records, "slide (the set has one slide per patient)", notes=notes)


def read_challenge(root: Path, partly: list[str], apart: dict[str, str]) -> tuple[pd.DataFrame, list[str]]:
    """The record table of a folder in either layout, and notes for the report.

    Slides are found by name (normal_, tumor_, test_ and a number, in any case) wherever they lie below the folder,
    masks and other pictures are passed over; annotations likewise.
    """
    files: dict[str, Path] = {}
    xml: dict[str, Path] = {}
    problems: list[str] = []
    for file in sorted(root.rglob("*")):
        match = SLIDE_NAME.match(file.stem)
        if match is None or "mask" in file.parent.name.lower():
            continue
        key = f"{match.group(1).lower()}_{int(match.group(2)):03d}"
        there = files if file.suffix.lower() in (".tif", ".tiff") else xml if file.suffix.lower() == ".xml" else None
        if there is None:
            continue
        if key in there:
            problems.append(f"{there[key].relative_to(root)} and {file.relative_to(root)} are both {key}")
        there[key] = file
    if not files:
        raise DataError(
            f"{root} holds no slide named normal_…, tumor_… or test_….tif.",
            "See data_cards/camelyon16.md for the layout.",
        )
    notes: list[str] = []
    labels = _test_labels(root, problems)
    if labels is None and any(k.startswith("test") for k in files):
        notes.append(
            "No reference table of the test slides was found: those with an annotation count as tumour, the others as "
            "normal."
        )
    set_apart = {_key(name): reason for name, reason in apart.items()}
    partly_keys = {_key(name) for name in partly}
    rows = []
    for key, file in files.items():
        if key in set_apart:
            notes.append(f"{file.stem} is set apart by the configuration: {set_apart[key]}.")
            continue
        test = key.startswith("test")
        tumor = key.startswith("tumor") if not test else labels.get(key, 0) if labels else key in xml
        if test and labels is not None and key not in labels:
            problems.append(f"{file.stem}: the reference table does not name it")
        if tumor and key not in xml:
            problems.append(f"{file.stem}: a tumour slide without an annotation ({file.stem}.xml)")
        outlines = xml[key].relative_to(root).as_posix() if key in xml and tumor else None
        rows.append(
            {
                "id": file.stem, "group": file.stem, "split": "test" if test else "train",
                "path": file.relative_to(root).as_posix(), "tumor": float(tumor), "annotation": outlines,
                "partly": int(key in partly_keys),
            }
        )  # fmt: skip
    raise_problems(problems, str(root), "Complete the folder; data_cards/camelyon16.md says what belongs there.")
    return stamped(pd.DataFrame(rows), root), notes


def stamped(records: pd.DataFrame, root: Path) -> pd.DataFrame:
    """With `outlines`, a digest of each annotation: slides are checked anew when their outlines have changed."""
    files = [root / a if isinstance(a, str) else None for a in records["annotation"]]
    digests = [None if f is None else hashlib.sha256(f.read_bytes()).hexdigest()[:16] for f in files]
    return records.assign(outlines=pd.Series(digests, index=records.index, dtype=object))


def _key(name: str) -> str:
    match = SLIDE_NAME.match(name)
    if match is None:
        raise DataError(f"'{name}' is no slide of CAMELYON16.", "Names are normal_001, tumor_001, test_001.")
    return f"{match.group(1).lower()}_{int(match.group(2)):03d}"


def _test_labels(root: Path, problems: list[str]) -> dict[str, int] | None:
    """Labels of the test slides by key, from reference.csv or whatever table lies there; None: there is none."""
    labels: dict[str, int] = {}
    for file in sorted(root.rglob("*.csv")):
        if file.parent.name == "truth":
            continue
        for number, line in enumerate(file.read_text(encoding="utf-8-sig", errors="replace").splitlines(), start=1):
            cells = [c.strip().strip('"') for c in re.split(r"[,;\t]", line)]
            match = SLIDE_NAME.match(Path(cells[0]).stem)
            if match is None or match.group(1).lower() != "test":
                continue
            words = [c.lower() for c in cells[1:]]
            found = {1 for w in words if w == "tumor"} | {0 for w in words if w == "normal"}
            if len(found) != 1:
                problems.append(f"{file.relative_to(root)} line {number}: neither Tumor nor Normal: {line[:60]}")
                continue
            labels[f"test_{int(match.group(2)):03d}"] = found.pop()
    return labels or None


# --- a table of one's own ---


def table(config: CamelyonConfig) -> Source:
    """`data=table`: a row per slide, with or without annotations.

    Raises:
        DataError: all bad rows at once; no slide at all has an annotation.
    """
    data = config.data
    assert data.name == "table"
    source = read_table(data, [Target("tumor", (0, 1), required=True)])
    records, notes = source.records, source.notes
    stems = [Path(p).stem for p in records["path"]]
    found: dict[str, str] = {}
    if data.annotations is not None:
        folder = Path(data.annotations)
        folder = folder if folder.is_absolute() else source.root / folder
        if not folder.is_dir():
            raise DataError(f"data.annotations={data.annotations} is no folder.", "Give the folder of ASAP XML files.")
        found = {f.stem.lower(): _relative(f, source.root) for f in sorted(folder.glob("*.xml"))}
    tumor = records["tumor"].to_numpy() == 1
    outlines = [found.get(s.lower()) if t else None for s, t in zip(stems, tumor, strict=True)]
    records["annotation"] = outlines
    partly = {name.lower() for name in data.partly_annotated}
    records["partly"] = [int(s.lower() in partly) for s in stems]
    without = [i for i, a, t in zip(records["id"], outlines, tumor, strict=True) if t and a is None]
    if len(without) == int(tumor.sum()):
        raise DataError(
            f"None of the {len(without)} tumour slides has an annotation; patches cannot be labelled.",
            "Give data.annotations=<folder of ASAP XML files named like the slides>.",
        )
    if without:
        raise DataError(
            f"{len(without)} tumour slides have no annotation:\n{listed(without)}",
            "Give an XML file for each, or leave these slides out.",
        )
    records = stamped(records, source.root)
    return Source(source.name, source.synthetic, source.root, records, source.group_key, notes=notes)


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
