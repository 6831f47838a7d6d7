"""DICOM as an old scanner leaves it: the data set alone, without preamble and file meta information."""

from __future__ import annotations

import io
from typing import Any


def bare(dataset: Any, implicit: bool = True) -> bytes:
    """The bytes of a data set, in the default encoding or as explicit little endian."""
    from pydicom.filebase import DicomFileLike
    from pydicom.filewriter import write_dataset

    stream = io.BytesIO()
    file: Any = DicomFileLike(stream)
    file.is_implicit_VR, file.is_little_endian = implicit, True
    write_dataset(file, dataset)
    return stream.getvalue()
