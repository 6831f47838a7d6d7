"""Pixels of DICOM files in Hounsfield units: whole and correct, or refused with the reason."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.head_ct.dicom import first_bytes
from pipelines.head_ct.elements import number_of
from pipelines.shared.data.dicom_files import decoder_missing, read_dicom
from pipelines.shared.data.images import keep_pydicom_quiet
from pipelines.shared.errors import BadFile

if TYPE_CHECKING:
    from pydicom import Dataset

RLE = "1.2.840.10008.1.2.5"
JPEG_FAMILY = "1.2.840.10008.1.2.4."  # JPEG, JPEG-LS, JPEG 2000: all end with the marker FFD9


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
    keep_pydicom_quiet()
    first_bytes(path)
    try:
        dataset, _ = read_dicom(path)
        total = int(number_of(dataset, "NumberOfFrames") or 1)
        wanted = range(total) if frames is None else frames
        if "PixelData" not in dataset:
            raise BadFile("it has no pixel data, or they are truncated")
        for frame in wanted:
            _check_frame(dataset, frame, total)
            yield frame, _hounsfield(dataset, frame, total)
    except (BadFile, MemoryError, GeneratorExit, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as failure:  # decoders raise almost anything on broken pixels; those in Rust no Exception
        raise BadFile(decoder_missing(failure) or f"its pixels cannot be decoded: {_decoder_words(failure)}") from None


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
    value = number_of(dataset, "PixelPaddingValue")
    if value is None:
        return np.zeros(stored.shape, bool)
    limit = number_of(dataset, "PixelPaddingRangeLimit")
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
    shift = int(number_of(dataset, "HighBit") or bits - 1) - bits + 1
    if bits == allocated or dataset.file_meta.TransferSyntaxUID.is_compressed:
        return stored
    wide: np.ndarray = (stored.astype(np.int64) >> shift) & (2**bits - 1)
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
    slope, intercept = number_of(place, "RescaleSlope"), number_of(place, "RescaleIntercept")
    if slope is None or intercept is None:
        raise BadFile("RescaleSlope or RescaleIntercept is missing")
    return slope, intercept
