"""Open DICOM files, also those that begin with the data set itself.

The standard puts 128 bytes, "DICM" and the file meta information before the data set (PS3.10, 7.1). Old scanners,
network nodes and some archives store the data set alone, and every viewer opens it: in the standard's default
encoding, implicit little endian, or, where the first element says so, explicit.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from pipelines.shared.errors import BadFile
from pipelines.shared.extras import Extra

if TYPE_CHECKING:
    from pydicom import Dataset

# Decoders of compressed pixels; what is stored plainly, as RLE or as baseline JPEG is read without.
DICOM = Extra(
    "dicom",
    {
        "gdcm": "python-gdcm",
        "pylibjpeg": "pylibjpeg",
        "openjpeg": "pylibjpeg-openjpeg",
        "rle": "pylibjpeg-rle",
        "jpeg_ls": "pyjpegls",
        "imagecodecs": "imagecodecs",
    },
)
ASSUMED = "DICOM without file meta information, read in the standard's default encoding"
LONGEST = 1024  # bytes that the first element of a data set may hold
UNDEFINED = b"\xff\xff\xff\xff"  # the length of pixel data that are compressed


def looks_like_dicom(start: bytes) -> bool:
    """Whether a file that begins with these bytes (at least 132) is DICOM, whatever its name.

    With "DICM" after 128 bytes, or with an element of group 0002 or 0008, with which every data set begins.
    """
    if start[128:132] == b"DICM":
        return True
    if start[:2] in (b"\x02\x00", b"\x08\x00"):
        explicit = re.fullmatch(rb"[A-Z]{2}", start[4:6])
        return bool(explicit) or 0 <= int.from_bytes(start[4:8], "little") - 1 < LONGEST
    return start[:2] in (b"\x00\x02", b"\x00\x08") and bool(re.fullmatch(rb"[A-Z]{2}", start[4:6]))  # big endian


def decoder_missing(failure: BaseException) -> str | None:
    """Why pydicom did not decode pixels, if that may be for want of a package; None for any other failure."""
    of_decoders = any(words in str(failure) for words in ("missing dependencies", "all available plugins"))
    if not of_decoders or not DICOM.missing:
        return None
    return f"its pixels are not decoded; decoders that are not installed: {', '.join(DICOM.missing)}. {DICOM.remedy}"


def read_dicom(
    file: Path | BinaryIO, *, stop_before_pixels: bool = False, specific_tags: Sequence[str] | None = None
) -> tuple[Dataset, bool]:
    """A file's data set, which always names its transfer syntax, and whether that had to be assumed (see `ASSUMED`).

    Args:
        file: path, or an open file at its beginning.
        stop_before_pixels: leave out the pixel data.
        specific_tags: keywords of the elements that are wanted; None: all.

    Raises:
        BadFile: its pixels are compressed and nothing says how.
        Exception: whatever pydicom raises on a file that is none, or damaged.
    """
    from pydicom import dcmread
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    if isinstance(file, Path):
        with file.open("rb") as content:
            return read_dicom(content, stop_before_pixels=stop_before_pixels, specific_tags=specific_tags)
    tags = None if specific_tags is None else list(specific_tags)
    opened: Any = _Bounded(file)
    dataset = dcmread(opened, force=True, stop_before_pixels=stop_before_pixels, specific_tags=tags)
    meta = getattr(dataset, "file_meta", None) or FileMetaDataset()
    if meta.get("TransferSyntaxUID"):
        return dataset, False
    if stop_before_pixels:  # the file now stands at the pixel data: tag, kind and length
        compressed = UNDEFINED in file.read(12)[4:]
    else:
        compressed = "PixelData" in dataset and dataset["PixelData"].is_undefined_length
    if compressed:
        raise BadFile("its pixels are compressed, but it names no transfer syntax: how is not known")
    implicit, little = dataset.original_encoding
    explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
    dataset.file_meta = meta
    return dataset, True


class _Bounded:
    """An open file that reserves no memory for more than it holds: a damaged element may claim to have 4 GB."""

    def __init__(self, file: BinaryIO) -> None:
        begin = file.tell()
        self.file, self.size = file, file.seek(0, 2)
        self.seek, self.tell = file.seek, file.tell
        file.seek(begin)

    def read(self, size: int = -1) -> bytes:
        left = max(0, self.size - self.file.tell())
        return self.file.read(left if size < 0 else min(size, left))
