"""DICOM files as slices: every file is a CT slice with known geometry, or has a reason why not.

Headers are read here, pixels in `pixels`. Nothing is guessed: a slice needs its position, orientation, spacing and
rescale in its own header (or in the functional groups of an enhanced multi-frame file).

What identifies people stays here: patient, study, series, accession and file names leave this module as salted hashes
(`pseudonyms`), reasons quote no text from a header but numbers and the names of DICOM's own classes.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.head_ct.elements import number_of, numbers_of, seconds_of, text_of, whole_of, words_of
from pipelines.head_ct.pseudonyms import Names
from pipelines.shared.data.dicom_files import looks_like_dicom, read_dicom
from pipelines.shared.data.images import keep_pydicom_quiet
from pipelines.shared.errors import BadFile

if TYPE_CHECKING:
    from pydicom import Dataset

READER_VERSION = 3  # raise it whenever the same file gives another row
CT, ENHANCED_CT, LEGACY_CT = ("1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2")
DEFLATED = "1.2.840.10008.1.2.1.99"
# pydicom's warnings quote values too.
warnings.filterwarnings("ignore", module=r"pydicom\.")
MIN_SIDE, MAX_SIDE, MAX_FRAMES = 16, 4096, 5000
MAX_BYTES = 4 << 30  # of one file; larger ones are no head CT
MAX_INFLATED = 256 << 20  # of a deflated file
TAGS = [
    "SOPClassUID", "SOPInstanceUID", "Modality", "ImageType", "StudyInstanceUID", "SeriesInstanceUID", "PatientID",
    "AccessionNumber", "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation",
    "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelSpacing", "ImagePositionPatient",
    "ImageOrientationPatient", "RescaleSlope", "RescaleIntercept", "SliceThickness", "GantryDetectorTilt",
    "ConvolutionKernel", "Manufacturer", "InstanceNumber", "AcquisitionNumber", "AcquisitionTime",
    "AcquisitionDateTime", "ContrastBolusAgent",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "SeriesDescription",
    "PatientAge", "PatientSex", "BodyPartExamined",
]  # fmt: skip


class NotASlice(BadFile):
    """A file that is in order but no CT slice: a report, a localiser, another modality, no DICOM at all."""


# --- one file's header ---


def read_rows(path: Path, names: Names) -> list[dict[str, Any]]:
    """The slices of a file, one row per frame, with geometry and hashed identifiers.

    Raises:
        NotASlice: the file is in order but holds no CT slice.
        BadFile: it should hold CT slices but something in it is missing or wrong.
    """
    size = _checked_size(path)
    try:
        header, assumed = _header(path, size)
        return [row | {"syntax_assumed": assumed} for row in _rows(header, path, size, names)]
    except (BadFile, MemoryError):
        raise
    except RecursionError:
        raise BadFile("has sequences nested too deeply") from None
    except Exception as failure:  # broken files make a parser raise almost anything; its text may quote the header
        raise BadFile(f"its DICOM header cannot be read ({type(failure).__name__})") from None


def _checked_size(path: Path) -> int:
    try:
        size = path.stat().st_size
    except OSError:
        raise BadFile("cannot be opened: a broken link, or it was removed") from None
    if size == 0:
        raise BadFile("is empty (0 bytes)")
    if size > MAX_BYTES:
        raise NotASlice("is larger than 4 GiB, no head CT")
    return size


def first_bytes(path: Path) -> bytes:
    """The first 4 KiB of a file.

    Raises:
        BadFile: it cannot be opened.
    """
    try:
        with path.open("rb") as file:
            return file.read(4096)
    except OSError as failure:
        raise BadFile(f"cannot be opened: {failure.strerror or 'input/output error'}") from None


def _header(path: Path, size: int, tags: Sequence[str] | None = TAGS) -> tuple[Dataset, bool]:
    """All before the pixels, and whether the transfer syntax had to be assumed."""
    keep_pydicom_quiet()
    start = first_bytes(path)
    if not looks_like_dicom(start):
        raise NotASlice("is not a DICOM file")
    if DEFLATED.encode() in start:
        _check_inflated(path, size)
    dataset, assumed = read_dicom(path, stop_before_pixels=True, specific_tags=tags)
    if start[128:132] != b"DICM" and "SOPClassUID" not in dataset and "Modality" not in dataset:
        raise NotASlice("is not a DICOM file")
    return dataset, assumed


def _check_inflated(path: Path, size: int) -> None:
    """Refuse a deflated file that would fill the memory."""
    import zlib

    with path.open("rb") as file:
        data = file.read()
    marker = data.find(DEFLATED.encode())
    for begin in range(marker, min(marker + 2048, size)):  # the data set follows the meta information
        inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            out = inflate.decompress(data[begin:], MAX_INFLATED + 1)
        except zlib.error:
            continue
        if len(out) > MAX_INFLATED:
            raise BadFile("is deflated and would become larger than 256 MiB")
        if inflate.eof:
            return


def _rows(header: Dataset, path: Path, size: int, names: Names) -> list[dict[str, Any]]:
    kind = text_of(header, "SOPClassUID") or str(header.file_meta.get("MediaStorageSOPClassUID", ""))
    modality = text_of(header, "Modality")
    if kind not in (CT, ENHANCED_CT, LEGACY_CT):
        raise _not_ct(kind, modality)
    if modality not in ("", "CT"):
        raise NotASlice("calls itself a CT image but its modality is not CT")
    kinds = [word.upper() for word in words_of(header, "ImageType")]
    if "LOCALIZER" in kinds or "SCOUT" in kinds or "TOPOGRAM" in kinds:
        raise NotASlice("is a localiser")
    problems: list[str] = []
    for tag in ("StudyInstanceUID", "SeriesInstanceUID"):
        if not text_of(header, tag):
            problems.append(f"{tag} is missing")
    rows, columns = whole_of(header, "Rows", problems), whole_of(header, "Columns", problems)
    frames = int(number_of(header, "NumberOfFrames") or 1)
    if rows and columns:
        if min(rows, columns) < MIN_SIDE:
            problems.append(f"it is {columns} x {rows} pixels, at least {MIN_SIDE} are needed")
        if max(rows, columns) > MAX_SIDE:
            problems.append(f"it declares {columns} x {rows} pixels, more than {MAX_SIDE} on a side")
    if not 1 <= frames <= MAX_FRAMES:
        problems.append(f"it declares {frames} frames, allowed: 1 to {MAX_FRAMES}")
    problems += _pixel_problems(header)
    problems += _syntax_problems(header, rows, columns, frames, size)
    common = {
        "study": names.of("ct", text_of(header, "StudyInstanceUID")),
        "series": names.of("se", text_of(header, "SeriesInstanceUID")),
        "instance": names.of("in", text_of(header, "SOPInstanceUID") or path.name),
        "group": _group(header, names),
        "accession": names.of("ac", text_of(header, "AccessionNumber")) if text_of(header, "AccessionNumber") else None,
        "rows": rows or 0,
        "columns": columns or 0,
        "original": bool(kinds[:1] == ["ORIGINAL"] and kinds[1:2] != ["SECONDARY"]),
        "kernel": _kernel(header),
        "maker": _maker(text_of(header, "Manufacturer")),
        "elsewhere": _elsewhere(text_of(header, "BodyPartExamined")),
        "bone": "bone" in text_of(header, "SeriesDescription").lower(),
        "contrast": bool(text_of(header, "ContrastBolusAgent")),
        "compressed": _compressed(header),
        "acquisition": int(number_of(header, "AcquisitionNumber") or 0),
        "time": seconds_of(header),
        "tilt": float(number_of(header, "GantryDetectorTilt") or 0.0),
        "age": _age(text_of(header, "PatientAge")),
        "sex": {"F": "F", "M": "M"}.get(text_of(header, "PatientSex").upper()),
    }
    places = _places(header, path, size, frames, kind, problems)
    if problems:
        raise BadFile("; ".join(dict.fromkeys(problems)))
    number = int(number_of(header, "InstanceNumber") or 0)
    return [common | {"frame": i, "number": number} | place for i, place in enumerate(places)]


def _not_ct(kind: str, modality: str) -> BadFile:
    from pydicom.uid import UID

    if not kind:
        if modality == "CT":
            return BadFile("SOPClassUID is missing")
        return NotASlice("is DICOM but says neither its SOP class nor that it is CT")
    name = UID(kind).name
    return NotASlice(f"is {name if name != kind else 'of an unknown SOP class'}, not a CT image")


def _places(
    header: Dataset, path: Path, size: int, frames: int, kind: str, problems: list[str]
) -> list[dict[str, Any]]:
    """Geometry and rescale of each frame; adds to `problems` what is missing."""
    if kind == CT:
        if frames > 1:
            problems.append(f"it holds {frames} frames, but a CT image of this class holds one")
        return [_place(header, header, header, header, header, problems)]
    whole, _ = _header(path, size, None)  # functional groups are nested: all tags are needed
    shared = (whole.get("SharedFunctionalGroupsSequence") or [{}])[0]
    per_frame = whole.get("PerFrameFunctionalGroupsSequence") or []
    if len(per_frame) != frames:
        problems.append(f"it declares {frames} frames but describes {len(per_frame)}")
        return []
    places = []
    for number, own in enumerate(per_frame, start=1):
        frame_problems: list[str] = []

        def part(name: str, own: Any = own) -> Any:
            return (own.get(name) or shared.get(name) or [{}])[0]

        places.append(
            _place(
                part("PlanePositionSequence"), part("PlaneOrientationSequence"), part("PixelMeasuresSequence"),
                part("PixelValueTransformationSequence"), part("CTAcquisitionDetailsSequence"), frame_problems,
            )
            | _acquisition(part("FrameContentSequence"))
        )  # fmt: skip
        problems += [f"frame {number}: {p}" for p in frame_problems]
        if len(problems) > 5:
            break
    return places


def _place(
    position: Any, orientation: Any, measures: Any, rescale: Any, details: Any, problems: list[str]
) -> dict[str, Any]:
    where = numbers_of(position, "ImagePositionPatient", 3, problems)
    axes = numbers_of(orientation, "ImageOrientationPatient", 6, problems)
    spacing = numbers_of(measures, "PixelSpacing", 2, problems)
    if axes:
        row, column = np.array(axes[:3]), np.array(axes[3:])
        if abs(np.linalg.norm(row) - 1) > 0.02 or abs(np.linalg.norm(column) - 1) > 0.02 or abs(row @ column) > 0.02:
            problems.append("ImageOrientationPatient is not two perpendicular unit vectors")
    if spacing and not all(0.02 <= s <= 20 for s in spacing):
        problems.append(f"PixelSpacing {spacing[0]:g} x {spacing[1]:g} mm cannot be, allowed: 0.02 to 20 mm")
    if where and max(map(abs, where)) > 1e5:
        problems.append("ImagePositionPatient is further than 100 m from the origin")
    for tag in ("RescaleSlope", "RescaleIntercept"):
        numbers_of(rescale, tag, 1, problems)
    slope = number_of(rescale, "RescaleSlope")
    if slope is not None and (slope == 0 or abs(slope) > 1000):
        problems.append(f"RescaleSlope {slope:g} cannot be")
    thickness = number_of(measures, "SliceThickness")
    tilt = number_of(details, "GantryDetectorTilt")
    place: dict[str, Any] = {"position": where, "orientation": axes, "spacing": spacing}
    place["thickness"] = thickness if thickness is not None and 0 < thickness <= 100 else None
    return place | ({"tilt": tilt} if tilt is not None else {})


def _acquisition(content: Any) -> dict[str, Any]:
    """When a frame of an enhanced file was acquired, as far as it says so itself."""
    number, time = number_of(content, "FrameAcquisitionNumber"), seconds_of(content)
    return ({} if number is None else {"acquisition": int(number)}) | ({} if time is None else {"time": time})


def _pixel_problems(header: Dataset) -> list[str]:
    problems = []
    samples = int(number_of(header, "SamplesPerPixel") or 1)
    photometric = text_of(header, "PhotometricInterpretation")
    if samples != 1 or photometric not in ("MONOCHROME1", "MONOCHROME2"):
        if not photometric:
            problems.append("PhotometricInterpretation is missing")
        else:
            problems.append("its pixels are not grey (MONOCHROME1 or MONOCHROME2, one sample)")
    allocated, stored = number_of(header, "BitsAllocated"), number_of(header, "BitsStored")
    high, signed = number_of(header, "HighBit"), number_of(header, "PixelRepresentation")
    if allocated not in (8, 16, 32):
        problems.append("BitsAllocated must be 8, 16 or 32")
    elif stored is None or not 1 <= stored <= allocated:
        problems.append("BitsStored is missing or larger than BitsAllocated")
    elif high is not None and not stored - 1 <= high < allocated:
        problems.append("HighBit contradicts BitsStored")
    if signed not in (0, 1):
        problems.append("PixelRepresentation (signed or not) is missing")
    return problems


def _syntax_problems(header: Dataset, rows: int | None, columns: int | None, frames: int, size: int) -> list[str]:
    from pydicom.uid import AllTransferSyntaxes

    syntax = header.file_meta.TransferSyntaxUID
    if syntax not in AllTransferSyntaxes:
        return ["its transfer syntax is unknown"]
    allocated = number_of(header, "BitsAllocated") or 0
    if not syntax.is_compressed and not syntax.is_deflated and rows and columns:
        needed = rows * columns * frames * int(allocated) // 8
        if size < needed:
            return [f"it is truncated: {needed:,} bytes of pixels are declared, the whole file has {size:,}"]
    return []


def _compressed(header: Dataset) -> bool:
    syntax = header.file_meta.TransferSyntaxUID
    return bool(syntax.is_transfer_syntax and syntax.is_compressed)


def _group(header: Dataset, names: Names) -> str:
    patient = text_of(header, "PatientID")
    return names.of("pt", patient) if patient else names.of("pt", "study " + text_of(header, "StudyInstanceUID"))


def _kernel(header: Dataset) -> str:
    """The convolution kernel's name, its letters, digits and signs only (free text could say anything)."""
    word = text_of(header, "ConvolutionKernel")
    return "".join(c for c in word if c.isalnum() or c in "+-_/ ")[:16].strip()


def _elsewhere(part: str) -> bool:
    """Whether BodyPartExamined names a part of the body that is not the head."""
    words = ("HEAD", "BRAIN", "SKULL", "CRAN", "NECK", "FACE", "SINUS", "ORBIT", "WHOLE")
    return bool(part) and not any(word in part.upper() for word in words)


MAKERS = ["GE", "Siemens", "Philips", "Toshiba", "Canon", "Hitachi", "Neusoft", "United Imaging", "Phantom"]


def _maker(text: str) -> str:
    """One of the known makers, or "other": the tag is free text."""
    return next((m for m in MAKERS if text.lower().startswith(m.lower())), "other" if text else "unknown")


def _age(text: str) -> float | None:
    """Whole years, from DICOM's 045Y; months, weeks and days count as part of a year."""
    with suppress(ValueError, KeyError):
        return float(int(int(text[:3]) * {"Y": 1, "M": 1 / 12, "W": 1 / 52, "D": 1 / 365}[text[3:4].upper()]))
    return None
