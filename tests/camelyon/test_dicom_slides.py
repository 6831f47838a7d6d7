"""DICOM whole-slide images: read as other slides are, one row for each, and other DICOM refused in words."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
from conftest import REPOSITORY
from dicom_slide import write_slide

from pipelines.camelyon.predicting import slides_of
from pipelines.camelyon.slides import Slide
from pipelines.camelyon.study import STUDY
from pipelines.shared.errors import BadFile

sys.path.append(str(REPOSITORY / "tests" / "head_ct"))


def picture(height: int = 400, width: int = 480) -> np.ndarray:
    """Coloured squares of 40 pixels."""
    cells = np.random.default_rng(0).integers(60, 250, (height // 40, width // 40, 3))
    return np.kron(cells, np.ones((40, 40, 1))).astype(np.uint8)


@pytest.mark.parametrize("jpeg", [True, False], ids=["jpeg", "uncompressed"])
def test_a_slide_is_read_with_its_scale_from_any_of_its_levels(tmp_path, jpeg):
    there = picture()
    for file in write_slide(tmp_path, there, 0.5, jpeg=jpeg):
        slide = Slide(file)
        try:
            slide.check()
            properties = slide.properties
            assert (properties.width, properties.height, properties.mpp) == (480, 400, (0.5, 0.5))
            assert (properties.downsamples, properties.vendor) == ((1.0, 2.0), "dicom")
            difference = np.abs(slide.read(40, 80, 200, 160, 0.5).astype(int) - there[80:240, 40:240])
            assert difference.mean() < (3 if jpeg else 0.01)
            half = slide.read(0, 0, 240, 200, 1.0).astype(int) - there[::2, ::2]
            assert np.abs(half).mean() < (4 if jpeg else 0.01)
        finally:
            slide.close()


def test_a_slide_is_one_row_whatever_its_files_are(tmp_path):
    first = write_slide(tmp_path / "a", picture(), 0.5, levels=3, series="1.2.1")
    second = write_slide(tmp_path / "a", picture(), 0.5, series="1.2.2")
    label = pydicom.dcmread(second[0])
    label.ImageType, label.TotalPixelMatrixColumns = ["ORIGINAL", "PRIMARY", "LABEL", "NONE"], 100_000
    label.save_as(tmp_path / "a" / "label.dcm")
    bare = first[0].rename(tmp_path / "a" / "without_suffix")
    (tmp_path / "b.tif").write_bytes(b"II*\0")
    (tmp_path / "broken.dcm").write_bytes(b"no DICOM")
    inputs, parts = slides_of(tmp_path)
    expected = {bare.relative_to(tmp_path), second[0].relative_to(tmp_path), Path("b.tif"), Path("broken.dcm")}
    assert {Path(f) for f in inputs.files} == expected
    assert parts == 4
    assert ".dcm" in STUDY.suffixes
    one, parts = slides_of(first[1])
    assert (one.files, parts) == ([first[1].name], 0), "OpenSlide finds the others"


def checked(file: Path) -> None:
    slide = Slide(file)
    try:
        slide.check()
    finally:
        slide.close()


def test_other_dicom_is_refused_in_words(tmp_path):
    from test_head_ct_dicom import HEADER, head

    from pipelines.head_ct.writing import write_slices

    hu, positions, _ = head(n=2, size=32, spacing=5.0, step=10.0)
    write_slices(tmp_path / "ct", HEADER, list(hu), list(positions), ["a.dcm", "b.dcm"])
    with pytest.raises(BadFile, match=r"^is DICOM, but no whole-slide image: CT Image Storage$"):
        Slide(tmp_path / "ct" / "a.dcm")
    assert len(slides_of(tmp_path / "ct")[0].files) == 2, "each has its reason in a row"
    (tmp_path / "c.dcm").write_bytes(b"nothing of the kind")
    with pytest.raises(BadFile, match="is no slide that OpenSlide can open"):
        Slide(tmp_path / "c.dcm")
    file = write_slide(tmp_path / "wsi", picture(), 0.5, levels=1)[0]
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(BadFile):
        checked(file)


def test_a_slide_that_does_not_say_its_scale_is_refused(tmp_path):
    file = write_slide(tmp_path, picture(), 0.5, levels=1)[0]
    ds = pydicom.dcmread(file)
    del ds.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence
    ds.save_as(file)
    with pytest.raises(BadFile, match=r"does not say its microns per pixel; give them with data\.mpp"):
        Slide(file)
    assert Slide(file, 0.25).properties.mpp == (0.25, 0.25)
