"""DICOM is known by its content and read without what the standard puts before the data set."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pydicom
import pytest
from bare_dicom import bare

from pipelines.shared.data.dicom_files import looks_like_dicom, read_dicom
from pipelines.shared.errors import BadFile

SAMPLES = Path(pydicom.__file__).parent / "data" / "test_files"


@pytest.mark.parametrize("implicit", [True, False])
def test_a_data_set_alone_is_read_in_the_default_encoding(tmp_path, implicit):
    whole = pydicom.dcmread(SAMPLES / "CT_small.dcm")
    data = bare(whole, implicit)
    assert looks_like_dicom(data[:200])
    (tmp_path / "IM0001").write_bytes(data)
    dataset, assumed = read_dicom(tmp_path / "IM0001")
    assert assumed
    assert np.array_equal(dataset.pixel_array, whole.pixel_array)
    header, assumed = read_dicom(io.BytesIO(data), stop_before_pixels=True, specific_tags=["Rows"])
    assert assumed
    assert header.Rows == whole.Rows
    assert "PixelData" not in header


def test_a_file_that_names_its_encoding_is_read_by_it(tmp_path):
    file = SAMPLES / "CT_small.dcm"
    _, assumed = read_dicom(file)
    assert not assumed
    (tmp_path / "a").write_bytes(file.read_bytes()[132:])  # file meta information, without what comes before it
    dataset, assumed = read_dicom(tmp_path / "a")
    assert not assumed
    assert dataset.pixel_array.shape == (128, 128)


@pytest.mark.parametrize("stop", [True, False])
def test_compressed_pixels_need_a_transfer_syntax(stop):
    dataset = pydicom.dcmread(SAMPLES / "CT_small.dcm")
    dataset.compress(pydicom.uid.RLELossless)
    with pytest.raises(BadFile, match="compressed, but it names no transfer syntax"):
        read_dicom(io.BytesIO(bare(dataset, implicit=False)), stop_before_pixels=stop)


def test_other_files_are_no_dicom():
    pictures = [b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"BM", b"II*\0", b"PK\x03\x04"]
    texts = [b"", b"file,grade\n" * 20, b"\x08\x00", b"\x08\x00" + b"\xff" * 300, b"\x02\x00" + b"\0" * 300]
    for start in pictures + texts:
        assert not looks_like_dicom(start), start[:8]


def test_what_pydicom_knows_as_dicom_is_known():
    missed = []
    for file in sorted(SAMPLES.glob("*.dcm")):
        with file.open("rb") as opened:
            start = opened.read(200)
        if not looks_like_dicom(start) and file.name != "no_meta.dcm":  # which lacks some of its zero bytes
            missed.append(file.name)
    assert missed == []
