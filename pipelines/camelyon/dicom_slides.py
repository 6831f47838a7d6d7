"""DICOM whole-slide images: a slide is a series of files, one or more for each of its levels (DICOM PS3.3, A.32.8).

OpenSlide opens a slide from any of its levels, and finds the others in the same folder.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipelines.shared.cli.inputs import Inputs
from pipelines.shared.data.dicom_files import read_dicom
from pipelines.shared.files import is_dicom

SUFFIX = ".dcm"
WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"  # VL Whole Slide Microscopy Image Storage


@dataclass(frozen=True)
class Header:
    """What a DICOM file says of itself.

    Attributes:
        kind: UID of its SOP class; "" where it says none.
        series: UID of its series.
        level: whether it is (a part of) a level, not the slide's label, overview or thumbnail.
        width: of the level, pixels.
    """

    kind: str
    series: str
    level: bool
    width: int


def header_of(path: Path) -> Header | None:
    """The header of a DICOM file; None for anything else, and for what cannot be read."""
    if not is_dicom(path):
        return None
    tags = ["SOPClassUID", "SeriesInstanceUID", "ImageType", "TotalPixelMatrixColumns"]
    try:
        ds: Any = read_dicom(path, stop_before_pixels=True, specific_tags=tags)[0]
        return Header(
            str(ds.get("SOPClassUID", "")),
            str(ds.get("SeriesInstanceUID", "")),
            "VOLUME" in list(ds.get("ImageType") or []),
            int(ds.get("TotalPixelMatrixColumns") or 0),
        )
    except Exception:  # pydicom raises many types for damaged files; opening the slide says what is wrong
        return None


def why_no_slide(path: Path) -> str:
    """Why OpenSlide cannot open a file."""
    header = header_of(path)
    if header is None:
        return "is no slide that OpenSlide can open"
    if header.kind == WHOLE_SLIDE:
        return "is a DICOM slide of a kind that OpenSlide cannot open"
    from pydicom.uid import UID

    return f"is DICOM, but no whole-slide image: {UID(header.kind).name or 'it does not say what it is'}"


def one_file_each(inputs: Inputs) -> tuple[Inputs, int]:
    """The inputs with one file for each DICOM slide, its largest level; and how many files are read with these."""
    slides: dict[tuple[Path, str], list[tuple[bool, int, str]]] = defaultdict(list)
    for file in inputs.files:
        header = header_of(inputs.root / file)
        if header is not None and header.kind == WHOLE_SLIDE and header.series:
            slides[Path(file).parent, header.series].append((header.level, header.width, file))
    chosen = {max(found, key=lambda of_one: of_one[:2])[2] for found in slides.values()}
    parts = {file for found in slides.values() for *_, file in found} - chosen
    return replace(inputs, files=[file for file in inputs.files if file not in parts]), len(parts)
