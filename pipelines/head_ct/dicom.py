"""DICOM files as slices: every file is a CT slice with known geometry, or has a reason why not.

The only module that reads DICOM. Nothing is guessed: a slice needs its position, orientation, spacing and rescale in its
own header (or in the functional groups of an enhanced multi-frame file), and its pixels must decode whole.

What identifies people stays here: patient, study, series, accession and file names leave this module as salted hashes
(`Names`), reasons quote no text from a header but numbers and the names of DICOM's own classes.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import os
import secrets
import stat
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.shared.errors import BadFile

if TYPE_CHECKING:
    from pydicom import Dataset

READER_VERSION = 1  # raise it whenever the same file gives another row
CT, ENHANCED_CT, LEGACY_CT = (
    "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2",
)  # fmt: skip
DEFLATED, RLE = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.5"
JPEG_FAMILY = "1.2.840.10008.1.2.4."  # JPEG, JPEG-LS, JPEG 2000: all end with the marker FFD9
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
    "ConvolutionKernel", "Manufacturer", "InstanceNumber", "AcquisitionNumber", "ContrastBolusAgent",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "SeriesDescription",
    "PatientAge", "PatientSex", "BodyPartExamined",
]  # fmt: skip


class NotASlice(BadFile):
    """A file that is in order but no CT slice: a report, a localiser, another modality, no DICOM at all."""


# --- names that identify nobody ---


@dataclass(frozen=True)
class Names:
    """Keyed hashes in place of identifiers: the same identifier gives the same name under the same salt."""

    salt: str

    def of(self, kind: str, value: object) -> str:
        """`<kind>-<12 hex digits>`."""
        message = f"{kind}\0{str(value).strip()}".encode()
        return f"{kind}-{hmac.new(self.salt.encode(), message, hashlib.sha256).hexdigest()[:12]}"


def salt_of(file: Path) -> str:
    """The salt in a file, made at random if there is none. Whoever has it can test a guessed identifier."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        with suppress(FileExistsError):  # another process was faster
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as text:
                text.write(secrets.token_hex(16))
    return file.read_text().strip()


# --- finding files ---


def find_files(root: Path) -> list[str]:
    """All regular files below a folder (or the one file), relative to it, sorted; links are followed, once each."""
    if root.is_file():
        return [root.name]
    found, seen = [], set()
    for folder, inside, files in os.walk(root, followlinks=True):
        mark = Path(folder).stat()
        if (mark.st_dev, mark.st_ino) in seen:
            inside.clear()
            continue
        seen.add((mark.st_dev, mark.st_ino))
        inside.sort()
        for name in files:
            path = Path(folder, name)
            with suppress(OSError):
                if stat.S_ISREG(path.stat().st_mode):  # no pipes, which would wait for ever
                    found.append(os.path.relpath(path, root))
                    continue
            if not path.exists():
                found.append(os.path.relpath(path, root))  # a broken link: its reason comes when it is read
    return sorted(found)


# --- one file's header ---


def read_rows(path: Path, names: Names) -> list[dict[str, Any]]:
    """The slices of a file, one row per frame, with geometry and hashed identifiers.

    Raises:
        NotASlice: the file is in order but holds no CT slice.
        BadFile: it should hold CT slices but something in it is missing or wrong.
    """
    size = _checked_size(path)
    try:
        header = _header(path, size)
        return _rows(header, path, size, names)
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


def _start(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(4096)
    except OSError as failure:
        raise BadFile(f"cannot be opened: {failure.strerror or 'input/output error'}") from None


def _quiet() -> None:
    """Keep pydicom from logging what it finds odd: it quotes values, and these may be names."""
    import logging

    from pydicom import config

    config.settings.reading_validation_mode = config.IGNORE
    logger = logging.getLogger("pydicom")
    logger.setLevel(logging.CRITICAL + 1)
    logger.propagate = False


def _header(path: Path, size: int, tags: Sequence[str] | None = TAGS) -> Dataset:
    from pydicom import dcmread

    _quiet()

    start = _start(path)
    # Without the preamble a data set begins with group 0002 or 0008, in either byte order.
    bare = start[:2] in (b"\x02\x00", b"\x08\x00", b"\x00\x02", b"\x00\x08") and start[128:132] != b"DICM"
    if start[128:132] != b"DICM" and not bare:
        raise NotASlice("is not a DICOM file")
    if DEFLATED.encode() in start:
        _check_inflated(path, size)
    dataset = dcmread(path, stop_before_pixels=True, force=bare, specific_tags=None if tags is None else list(tags))
    if bare and "SOPClassUID" not in dataset and "Modality" not in dataset:
        raise NotASlice("is not a DICOM file")
    return dataset


def _check_inflated(path: Path, size: int) -> None:
    """Refuse a deflated file that would fill the memory."""
    import zlib

    with path.open("rb") as file:
        data = file.read()
    at = data.find(DEFLATED.encode())
    for begin in range(at, min(at + 2048, size)):  # the data set follows the meta information, wherever that ends
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
    from pydicom.dataset import FileMetaDataset

    kind = _text(header, "SOPClassUID") or str(getattr(header, "file_meta", {}).get("MediaStorageSOPClassUID", ""))
    modality = _text(header, "Modality")
    if kind not in (CT, ENHANCED_CT, LEGACY_CT):
        raise _not_ct(kind, modality)
    if modality not in ("", "CT"):
        raise NotASlice("calls itself a CT image but its modality is not CT")
    kinds = [word.upper() for word in _words(header, "ImageType")]
    if "LOCALIZER" in kinds or "SCOUT" in kinds or "TOPOGRAM" in kinds:
        raise NotASlice("is a localiser")
    problems: list[str] = []
    header.file_meta = getattr(header, "file_meta", None) or FileMetaDataset()
    for tag in ("StudyInstanceUID", "SeriesInstanceUID"):
        if not _text(header, tag):
            problems.append(f"{tag} is missing")
    rows, columns = _whole(header, "Rows", problems), _whole(header, "Columns", problems)
    frames = int(_number(header, "NumberOfFrames") or 1)
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
        "study": names.of("ct", _text(header, "StudyInstanceUID")),
        "series": names.of("se", _text(header, "SeriesInstanceUID")),
        "instance": names.of("in", _text(header, "SOPInstanceUID") or path.name),
        "group": _group(header, names),
        "accession": names.of("ac", _text(header, "AccessionNumber")) if _text(header, "AccessionNumber") else None,
        "rows": rows or 0,
        "columns": columns or 0,
        "original": bool(kinds[:1] == ["ORIGINAL"] and kinds[1:2] != ["SECONDARY"]),
        "kernel": _kernel(header),
        "maker": _maker(_text(header, "Manufacturer")),
        "elsewhere": _elsewhere(_text(header, "BodyPartExamined")),
        "bone": "bone" in _text(header, "SeriesDescription").lower(),
        "contrast": bool(_text(header, "ContrastBolusAgent")),
        "compressed": _compressed(header),
        "acquisition": int(_number(header, "AcquisitionNumber") or 0),
        "tilt": float(_number(header, "GantryDetectorTilt") or 0.0),
        "age": _age(_text(header, "PatientAge")),
        "sex": {"F": "F", "M": "M"}.get(_text(header, "PatientSex").upper()),
    }
    places = _places(header, path, size, frames, kind, problems)
    if problems:
        raise BadFile("; ".join(dict.fromkeys(problems)))
    number = int(_number(header, "InstanceNumber") or 0)
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
    whole = _header(path, size, None)  # functional groups are nested: all tags are needed
    shared = (whole.get("SharedFunctionalGroupsSequence") or [{}])[0]
    per_frame = whole.get("PerFrameFunctionalGroupsSequence") or []
    if len(per_frame) != frames:
        problems.append(f"it declares {frames} frames but describes {len(per_frame)}")
        return []
    if any("LOCALIZER" in [str(w).upper() for w in _words(whole, "ImageType")] for _ in [0]):
        raise NotASlice("is a localiser")
    found = []
    for number, own in enumerate(per_frame, start=1):
        mine: list[str] = []

        def part(name: str, own: Any = own) -> Any:
            return (own.get(name) or shared.get(name) or [{}])[0]

        found.append(
            _place(
                part("PlanePositionSequence"), part("PlaneOrientationSequence"), part("PixelMeasuresSequence"),
                part("PixelValueTransformationSequence"), part("CTAcquisitionDetailsSequence"), mine,
            )
        )  # fmt: skip
        problems += [f"frame {number}: {p}" for p in mine]
        if len(problems) > 5:
            break
    return found


def _place(position: Any, orientation: Any, measures: Any, rescale: Any, details: Any, problems: list[str]) -> dict:
    where = _numbers(position, "ImagePositionPatient", 3, problems)
    axes = _numbers(orientation, "ImageOrientationPatient", 6, problems)
    spacing = _numbers(measures, "PixelSpacing", 2, problems)
    if axes:
        row, column = np.array(axes[:3]), np.array(axes[3:])
        if abs(np.linalg.norm(row) - 1) > 0.02 or abs(np.linalg.norm(column) - 1) > 0.02 or abs(row @ column) > 0.02:
            problems.append("ImageOrientationPatient is not two perpendicular unit vectors")
    if spacing and not all(0.02 <= s <= 20 for s in spacing):
        problems.append(f"PixelSpacing {spacing[0]:g} x {spacing[1]:g} mm cannot be, allowed: 0.02 to 20 mm")
    if where and max(map(abs, where)) > 1e5:
        problems.append("ImagePositionPatient is further than 100 m from the origin")
    for tag in ("RescaleSlope", "RescaleIntercept"):
        _numbers(rescale, tag, 1, problems)
    slope = _number(rescale, "RescaleSlope")
    if slope is not None and (slope == 0 or abs(slope) > 1000):
        problems.append(f"RescaleSlope {slope:g} cannot be")
    thickness = _number(measures, "SliceThickness")
    tilt = _number(details, "GantryDetectorTilt")
    place = {"position": where, "orientation": axes, "spacing": spacing}
    place["thickness"] = thickness if thickness is not None and 0 < thickness <= 100 else None
    return place | ({"tilt": tilt} if tilt is not None else {})


def _pixel_problems(header: Dataset) -> list[str]:
    problems = []
    samples = int(_number(header, "SamplesPerPixel") or 1)
    photometric = _text(header, "PhotometricInterpretation")
    if samples != 1 or photometric not in ("MONOCHROME1", "MONOCHROME2"):
        if not photometric:
            problems.append("PhotometricInterpretation is missing")
        else:
            problems.append("its pixels are not grey (MONOCHROME1 or MONOCHROME2, one sample)")
    allocated, stored = _number(header, "BitsAllocated"), _number(header, "BitsStored")
    high, signed = _number(header, "HighBit"), _number(header, "PixelRepresentation")
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

    meta = getattr(header, "file_meta", None)
    syntax = meta.get("TransferSyntaxUID") if meta is not None else None
    if syntax is None:
        return ["it names no transfer syntax, so how its pixels are stored is not known"]
    if syntax not in AllTransferSyntaxes:
        return ["its transfer syntax is unknown"]
    allocated = _number(header, "BitsAllocated") or 0
    if not syntax.is_compressed and not syntax.is_deflated and rows and columns:
        needed = rows * columns * frames * int(allocated) // 8
        if size < needed:
            return [f"it is truncated: {needed:,} bytes of pixels are declared, the whole file has {size:,}"]
    return []


def _compressed(header: Dataset) -> bool:
    syntax = getattr(header, "file_meta", {}).get("TransferSyntaxUID")
    return bool(syntax is not None and syntax.is_transfer_syntax and syntax.is_compressed)


def _text(header: Any, tag: str) -> str:
    value = header.get(tag)
    if value is None:
        return ""
    if not isinstance(value, str) and isinstance(value, Sequence):
        value = value[0] if len(value) else ""
    return str(value).strip().strip("\0")


def _words(header: Any, tag: str) -> list[str]:
    value = header.get(tag)
    if value is None:
        return []
    return [value] if isinstance(value, str) else [str(v) for v in value]


def _number(header: Any, tag: str) -> float | None:
    value = header.get(tag)
    if value is None or value == "":
        return None
    if not isinstance(value, (str, int, float)):
        try:
            value = value[0]
        except (TypeError, IndexError, KeyError):
            pass
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _numbers(header: Any, tag: str, count: int, problems: list[str]) -> list[float] | None:
    value = header.get(tag)
    if value is None or value == "" or (hasattr(value, "__len__") and not isinstance(value, str) and len(value) == 0):
        problems.append(f"{tag} is missing")
        return None
    values = [value] if isinstance(value, (str, int, float)) or not hasattr(value, "__len__") else list(value)
    try:
        numbers = [float(v) for v in values]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        problems.append(f"{tag} is not {count} number{'s' if count > 1 else ''}")
        return None
    return numbers


def _whole(header: Dataset, tag: str, problems: list[str]) -> int | None:
    value = _number(header, tag)
    if value is None or value < 1:
        problems.append(f"{tag} is missing")
        return None
    return int(value)


def _group(header: Dataset, names: Names) -> str:
    patient = _text(header, "PatientID")
    return names.of("pt", patient) if patient else names.of("pt", "study " + _text(header, "StudyInstanceUID"))


def _kernel(header: Dataset) -> str:
    """The convolution kernel's name, its letters, digits and signs only (free text could say anything)."""
    word = _text(header, "ConvolutionKernel")
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


# --- pixels ---


def read_hu(path: Path, frames: Sequence[int] | None = None) -> Iterator[tuple[int, np.ndarray]]:
    """Frames of a file in Hounsfield units, float32 (rows, columns), NaN where padded; one after the other.

    HU = stored value x RescaleSlope + RescaleIntercept (PS3.3, C.11.1.1.2). MONOCHROME1 says how a picture is shown,
    not what its values mean: HU are the same.

    Args:
        path: a file that `read_rows` accepted.
        frames: which, from 0; None: all.

    Raises:
        BadFile: pixels that are missing, truncated or cannot be decoded.
    """
    from pydicom import dcmread

    _quiet()
    try:
        start = _start(path)
        dataset = dcmread(path, force=start[128:132] != b"DICM")
        total = int(_number(dataset, "NumberOfFrames") or 1)
        wanted = range(total) if frames is None else frames
        if "PixelData" not in dataset:
            raise BadFile("it has no pixel data, or they are truncated")
        for frame in wanted:
            _check_frame(dataset, frame, total)
            yield frame, _hounsfield(dataset, frame, total)
    except (BadFile, MemoryError, GeneratorExit, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as failure:  # decoders raise almost anything on broken pixels; those in Rust no Exception
        raise BadFile(f"its pixels cannot be decoded: {_decoder_words(failure)}") from None


def _decoder_words(failure: BaseException) -> str:
    """What a decoder said, in words of ours: its own text may quote the header."""
    text = str(failure).lower()
    if "unable to decompress" in text or "no decoder" in text or "missing dependencies" in text:
        return "no decoder for its transfer syntax reads them"
    if "length" in text or "truncated" in text or "bytes" in text or "insufficient" in text:
        return "truncated, or not as long as the header says"
    return f"{type(failure).__name__} in the decoder"


def _check_frame(dataset: Dataset, frame: int, total: int) -> None:
    """Refuse a compressed frame without its end marker: decoders fill up what is missing without a word."""
    from pydicom.encaps import get_frame

    syntax = str(dataset.file_meta.TransferSyntaxUID)
    if not syntax.startswith(JPEG_FAMILY):
        return
    try:
        data = get_frame(dataset.PixelData, frame, number_of_frames=total)
    except Exception:
        raise BadFile("its compressed pixels are truncated: a frame is missing") from None
    if b"\xff\xd9" not in data[-64:].rstrip(b"\0") + b"":
        raise BadFile("its compressed pixels are truncated: no end marker")


def _hounsfield(dataset: Dataset, frame: int, total: int) -> np.ndarray:
    from pydicom.pixels import pixel_array

    from pipelines.head_ct import jpeg12

    jpeg12.register()
    # For RLE pydicom's own decoder: the faster one panics on damaged segments.
    plugin = "pydicom" if dataset.file_meta.TransferSyntaxUID == RLE else ""
    stored = pixel_array(dataset, index=frame, raw=True, decoding_plugin=plugin)
    if stored.ndim != 2 or stored.shape != (int(dataset.Rows), int(dataset.Columns)):
        raise BadFile(f"its pixels have the shape {stored.shape}, not that of the header")
    padded = _padding(dataset, stored)
    slope, intercept = _rescale(dataset, frame)
    values = _used_bits(dataset, stored).astype(np.float64) * slope + intercept
    values = values.astype(np.float32)
    values[padded] = np.nan
    return values


def _padding(dataset: Dataset, stored: np.ndarray) -> np.ndarray:
    """Where pixels are padding: PixelPaddingValue, up to PixelPaddingRangeLimit (PS3.3, C.7.5.1.1.2)."""
    value = _number(dataset, "PixelPaddingValue")
    if value is None:
        return np.zeros(stored.shape, bool)
    limit = _number(dataset, "PixelPaddingRangeLimit")
    ends = []
    for end in (value, value if limit is None else limit):
        whole, bits = int(end), int(dataset.BitsAllocated)
        if int(dataset.PixelRepresentation) == 1 and whole >= 2 ** (bits - 1):  # written unsigned, as many do
            whole -= 2**bits
        elif int(dataset.PixelRepresentation) == 0 and whole < 0:
            whole += 2**bits
        ends.append(whole)
    return (stored >= min(ends)) & (stored <= max(ends))


def _used_bits(dataset: Dataset, stored: np.ndarray) -> np.ndarray:
    """Stored values without what lies outside BitsStored, such as old overlays (PS3.5, 8.1.1)."""
    bits, allocated = int(dataset.BitsStored), int(dataset.BitsAllocated)
    shift = int(_number(dataset, "HighBit") or bits - 1) - bits + 1
    if bits == allocated or dataset.file_meta.TransferSyntaxUID.is_compressed:
        return stored
    wide = (stored.astype(np.int64) >> shift) & (2**bits - 1)
    if int(dataset.PixelRepresentation) == 1:
        wide = np.where(wide >= 2 ** (bits - 1), wide - 2**bits, wide)
    return wide


def _rescale(dataset: Dataset, frame: int) -> tuple[float, float]:
    place: Any = dataset
    if "PerFrameFunctionalGroupsSequence" in dataset:
        name = "PixelValueTransformationSequence"
        own = dataset.PerFrameFunctionalGroupsSequence[frame].get(name)
        shared = (dataset.get("SharedFunctionalGroupsSequence") or [{}])[0].get(name)
        place = (own or shared or [{}])[0]
    slope, intercept = _number(place, "RescaleSlope"), _number(place, "RescaleIntercept")
    if slope is None or intercept is None:
        raise BadFile("RescaleSlope or RescaleIntercept is missing")
    return slope, intercept
