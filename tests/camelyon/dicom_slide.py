"""A small DICOM whole-slide image, written as a scanner writes it: a file for each level, TILED_FULL."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit

from pipelines.camelyon.dicom_slides import WHOLE_SLIDE


def write_slide(
    folder: Path, picture: np.ndarray, mpp: float, *, tile: int = 128, levels: int = 2, jpeg: bool = True,
    series: str = "1.2.3.4",
) -> list[Path]:  # fmt: skip
    """Levels of uint8 (height, width, 3), each half as large as the one before; the files, the largest level first."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for k in range(levels):
        level = np.asarray(Image.fromarray(picture).reduce(2**k))
        file = folder / f"{series}-{levels - k}.dcm"  # the largest is not the first by name
        _level(level, mpp * 2**k, tile, jpeg, series, k).save_as(file, enforce_file_format=True)
        files.append(file)
    return files


def _level(picture: np.ndarray, mpp: float, tile: int, jpeg: bool, series: str, k: int) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = WHOLE_SLIDE, f"{series}.9.{k}"
    meta.TransferSyntaxUID = JPEGBaseline8Bit if jpeg else ExplicitVRLittleEndian
    ds = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    ds.SOPClassUID, ds.SOPInstanceUID, ds.Modality = WHOLE_SLIDE, f"{series}.9.{k}", "SM"
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = "1.2.3", series, f"{series}.8"
    ds.PatientName, ds.PatientID = "Doe^Jane", "MRN"
    ds.ImageType = (
        ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"] if k == 0 else ["DERIVED", "PRIMARY", "VOLUME", "RESAMPLED"]
    )
    height, width = picture.shape[:2]
    tiles = [_tile(picture, y, x, tile) for y in range(0, height, tile) for x in range(0, width, tile)]
    ds.Rows = ds.Columns = tile
    ds.NumberOfFrames, ds.InstanceNumber = len(tiles), k + 1
    ds.TotalPixelMatrixColumns, ds.TotalPixelMatrixRows, ds.TotalPixelMatrixFocalPlanes = width, height, 1
    ds.NumberOfOpticalPaths, ds.DimensionOrganizationType = 1, "TILED_FULL"
    ds.SamplesPerPixel, ds.PlanarConfiguration, ds.PixelRepresentation = 3, 0, 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8, 8, 7
    ds.PhotometricInterpretation = "YBR_FULL_422" if jpeg else "RGB"
    ds.ImagedVolumeWidth, ds.ImagedVolumeHeight, ds.ImagedVolumeDepth = width * mpp / 1e3, height * mpp / 1e3, 1.0
    measures, shared, path = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [mpp / 1e3, mpp / 1e3], 0.001
    shared.PixelMeasuresSequence = Sequence([measures])
    ds.SharedFunctionalGroupsSequence = Sequence([shared])
    path.OpticalPathIdentifier, path.ObjectiveLensPower = "1", 20
    ds.OpticalPathSequence = Sequence([path])
    if jpeg:
        ds.PixelData = encapsulate([_jpeg(t) for t in tiles])
        ds["PixelData"].VR = "OB"
        ds["PixelData"].is_undefined_length = True
        ds.LossyImageCompression = "01"
    else:
        ds.PixelData = b"".join(t.tobytes() for t in tiles)
        ds["PixelData"].VR = "OB"
    return ds


def _tile(picture: np.ndarray, y: int, x: int, size: int) -> np.ndarray:
    whole = np.full((size, size, 3), 255, np.uint8)
    part = picture[y : y + size, x : x + size]
    whole[: part.shape[0], : part.shape[1]] = part
    return whole


def _jpeg(tile: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(tile).save(stream, "JPEG", quality=92, subsampling="4:2:2")
    return stream.getvalue()
