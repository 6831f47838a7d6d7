"""Writes CT slices as DICOM files: one file per slice, or one enhanced multi-frame file. For the phantom and tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.head_ct.dicom import CT

SYNTAXES = {
    "explicit": "1.2.840.10008.1.2.1", "implicit": "1.2.840.10008.1.2", "big_endian": "1.2.840.10008.1.2.2",
    "rle": "1.2.840.10008.1.2.5", "jpeg2000": "1.2.840.10008.1.2.4.90", "jpegls": "1.2.840.10008.1.2.4.80",
}  # fmt: skip
ROOT = "1.2.826.0.1.3680043.8.498."  # pydicom's own root for generated UIDs


@dataclass(frozen=True)
class Header:
    """What the files of a series have in common."""

    patient_id: str
    patient_name: str
    accession: str
    study_uid: str
    series_uid: str
    spacing: tuple[float, float]
    orientation: Sequence[float] = (1, 0, 0, 0, 1, 0)
    thickness: float | None = 5.0
    slope: float = 1.0
    intercept: float = -1024.0
    signed: bool = False
    padding: int | None = None
    photometric: str = "MONOCHROME2"
    maker: str = "Phantom A"
    kernel: str = "H31s"
    tilt: float = 0.0
    age: int = 60
    sex: str = "F"
    image_type: tuple[str, ...] = ("ORIGINAL", "PRIMARY", "AXIAL")
    syntax: str = "explicit"


def uid_of(*parts: object) -> str:
    """A UID that is a function of what it is for."""
    from pipelines.shared.seeds import seed_of

    return f"{ROOT}{seed_of(*parts)}"


def dataset_of(header: Header, kind: str, instance: str, number: int) -> Any:
    """A data set without geometry and pixels."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import UID

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(kind)
    meta.MediaStorageSOPInstanceUID = UID(instance)
    meta.TransferSyntaxUID = UID(
        SYNTAXES["explicit" if header.syntax in ("rle", "jpeg2000", "jpegls") else header.syntax]
    )
    ds = Dataset()
    ds.file_meta = meta
    ds.SOPClassUID, ds.SOPInstanceUID, ds.Modality = kind, instance, "CT"
    ds.PatientID, ds.PatientName, ds.AccessionNumber = header.patient_id, header.patient_name, header.accession
    ds.PatientAge, ds.PatientSex = f"{header.age:03d}Y", header.sex
    ds.StudyInstanceUID, ds.SeriesInstanceUID = header.study_uid, header.series_uid
    ds.FrameOfReferenceUID = header.study_uid + ".1"
    ds.ImageType = list(header.image_type)
    ds.Manufacturer, ds.ConvolutionKernel = header.maker, header.kernel
    ds.GantryDetectorTilt = header.tilt
    ds.InstanceNumber, ds.AcquisitionNumber, ds.SeriesNumber = number, 1, 2
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, header.photometric
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 16, 15
    ds.PixelRepresentation = int(header.signed)
    if header.padding is not None:
        ds.add_new("PixelPaddingValue", "SS" if header.signed else "US", header.padding)
    return ds


def stored_values(header: Header, hu: np.ndarray) -> np.ndarray:
    """HU as stored integers; NaN becomes the padding value."""
    kind = np.int16 if header.signed else np.uint16
    info = np.iinfo(kind)
    values = np.round((np.nan_to_num(hu) - header.intercept) / header.slope)
    values = np.clip(values, info.min, info.max)
    if header.padding is not None:
        values = np.where(np.isnan(hu), header.padding, values)
    stored: np.ndarray = values.astype(kind)
    return stored


def write_slices(
    folder: Path, header: Header, hu: Sequence[np.ndarray], positions: Sequence[Sequence[float]], names: Sequence[str]
) -> None:
    """One file per slice: hu (rows, columns) each, positions in mm of each first pixel."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (picture, position, name) in enumerate(zip(hu, positions, names, strict=True), start=1):
        ds = dataset_of(header, CT, uid_of(header.series_uid, number), number)
        ds.Rows, ds.Columns = picture.shape
        ds.PixelSpacing = [float(s) for s in header.spacing]
        ds.ImagePositionPatient = [round(float(p), 5) for p in position]
        ds.ImageOrientationPatient = [round(float(o), 7) for o in header.orientation]
        if header.thickness is not None:
            ds.SliceThickness = header.thickness
        ds.RescaleSlope, ds.RescaleIntercept = header.slope, header.intercept
        add_pixels(ds, stored_values(header, picture), header)
        save(ds, folder / name)


def add_pixels(ds: Any, stored: np.ndarray, header: Header) -> None:
    """Put stored values (rows, columns), or several frames of them, into a dataset, compressed as the header says."""
    kind = stored.dtype.newbyteorder(">" if header.syntax == "big_endian" else "<")
    ds.PixelData = stored.astype(kind).tobytes()
    ds["PixelData"].VR = "OW"
    if header.syntax in ("rle", "jpeg2000", "jpegls"):
        plugins = {"rle": "pylibjpeg", "jpeg2000": "pylibjpeg", "jpegls": "pyjpegls"}
        ds.compress(SYNTAXES[header.syntax], encoding_plugin=plugins[header.syntax], generate_instance_uid=False)


def save(ds: Any, file: Path) -> None:
    """Write a data set as a DICOM file."""
    ds.save_as(file, enforce_file_format=True)
