"""Pictures: every kind that `read_picture` knows, then what the picture studies make of them."""

from __future__ import annotations

import functools
import io
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from bare_dicom import bare
from fuzzing import Format
from PIL import Image

from pipelines.covid_flannel import data as covid
from pipelines.retinopathy import data as retinopathy
from pipelines.shared.data.images import read_picture
from pipelines.shared.errors import UnusableRecord
from pipelines.skin import data as skin

SIDE = 48


def fundus() -> np.ndarray:
    """A bright disc with spots on black, uint8 (48, 64, 3)."""
    y, x = np.mgrid[:SIDE, : SIDE + 16]
    disc = np.hypot(y - 24, x - 32) < 22
    rng = np.random.default_rng(0)
    colour = np.stack([180 + 0 * x, 60 + x, 20 + y], axis=2) + rng.integers(0, 12, (SIDE, SIDE + 16, 1))
    return np.where(disc[..., None], colour, 3).clip(0, 255).astype(np.uint8)


PHOTO = Image.fromarray(fundus())
GREY = PHOTO.convert("L")
DEEP = (np.asarray(GREY, np.uint16) * 257).astype(np.uint16)


def _encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def _exif() -> Any:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def _tiff(values: np.ndarray, **options: Any) -> bytes:
    out = io.BytesIO()
    tifffile.imwrite(out, values, **options)
    return out.getvalue()


def _png() -> dict[str, bytes]:
    clear = PHOTO.convert("RGBA")
    clear.putalpha(GREY)
    return {
        "colour.png": _encoded(PHOTO, "PNG"), "grey.png": _encoded(GREY, "PNG"), "alpha.png": _encoded(clear, "PNG"),
        "deep.png": _encoded(Image.fromarray(DEEP), "PNG"), "palette.png": _encoded(PHOTO.quantize(32), "PNG"),
        "bilevel.png": _encoded(GREY.convert("1"), "PNG"), "turned.png": _encoded(PHOTO, "PNG", exif=_exif()),
    }  # fmt: skip


def _jpeg() -> dict[str, bytes]:
    return {
        "baseline.jpg": _encoded(PHOTO, "JPEG"), "progressive.jpg": _encoded(PHOTO, "JPEG", progressive=True),
        "turned.jpg": _encoded(PHOTO, "JPEG", exif=_exif()), "cmyk.jpg": _encoded(PHOTO.convert("CMYK"), "JPEG"),
        "grey.jpg": _encoded(GREY, "JPEG", optimize=True),
    }  # fmt: skip


def _tif() -> dict[str, bytes]:
    rgb = np.asarray(PHOTO)
    return {
        "plain.tif": _tiff(rgb), "lzw.tif": _encoded(PHOTO, "TIFF", compression="tiff_lzw"),
        "deflate.tif": _tiff(rgb, compression="zlib", predictor=True), "tiled.tif": _tiff(rgb, tile=(16, 16)),
        "jpeg.tif": _encoded(PHOTO, "TIFF", compression="jpeg"), "deep.tif": _tiff(DEEP), "big.tif": _tiff(rgb,
        bigtiff=True), "float.tif": _tiff((np.asarray(GREY) / 255).astype(np.float32)),
        "endian.tif": _tiff(DEEP, byteorder=">"), "fax.tif": _encoded(GREY.convert("1"), "TIFF", compression="group4"),
    }  # fmt: skip


def _others() -> dict[str, bytes]:
    return {
        "a.gif": _encoded(PHOTO, "GIF"), "a.jp2": _encoded(PHOTO, "JPEG2000"), "a.bmp": _encoded(PHOTO, "BMP"),
        "a.webp": _encoded(PHOTO, "WEBP"), "b.webp": _encoded(PHOTO, "WEBP", lossless=True),
        "a.avif": _encoded(PHOTO, "AVIF"), "a.ppm": _encoded(PHOTO, "PPM"), "a.pgm": _encoded(GREY, "PPM"),
        "ascii.pgm": b"P2\n# grey\n48 48\n255\n" + b" ".join(b"%d" % (i % 256) for i in range(48 * 48)) + b"\n",
    }  # fmt: skip


def _dicom() -> dict[str, bytes]:
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import UID

    def dataset(pixels: np.ndarray, photometric: str = "MONOCHROME2", bits: int = 8, **more: Any) -> Dataset:
        ds = Dataset()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = UID("1.2.840.10008.5.1.4.1.1.1.1")
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = UID("1.2.3.4")
        ds.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.1")
        ds.Modality, ds.PatientID, ds.PatientName = "DX", "P1", "Doe^Jane"
        ds.Rows, ds.Columns = pixels.shape[:2]
        ds.SamplesPerPixel, ds.PhotometricInterpretation = (pixels.shape[2] if pixels.ndim == 3 else 1), photometric
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = pixels.itemsize * 8, bits, bits - 1
        ds.PixelRepresentation = 0
        if pixels.ndim == 3:
            ds.PlanarConfiguration = 0
        ds.PixelData = pixels.tobytes()
        ds["PixelData"].VR = "OW" if bits > 8 else "OB"
        for name, value in more.items():
            setattr(ds, name, value)
        return ds

    def saved(ds: Dataset) -> bytes:
        out = io.BytesIO()
        ds.save_as(out, enforce_file_format=True)
        return out.getvalue()

    grey, rgb = np.asarray(GREY), np.asarray(PHOTO)
    twelve = (DEEP >> 4).astype(np.uint16)
    shown = {"WindowCenter": 2048, "WindowWidth": 4096, "RescaleSlope": 1, "RescaleIntercept": -1024}
    found = {
        "grey.dcm": saved(dataset(grey)), "negative.dcm": saved(dataset(twelve, "MONOCHROME1", 12, **shown)),
        "colour.dcm": saved(dataset(rgb, "RGB")), "bare.dcm": bare(dataset(twelve, bits=12)),
    }  # fmt: skip
    lut = Dataset()
    lut.LUTDescriptor, lut.LUTData = [4096, 0, 12], np.arange(4096, dtype="<u2").tobytes()
    found["lut.dcm"] = saved(dataset(twelve, bits=12, VOILUTSequence=[lut]))
    for name, syntax, plugin in (
        ("rle", "1.2.840.10008.1.2.5", "pylibjpeg"), ("jpeg2000", "1.2.840.10008.1.2.4.90", "pylibjpeg"),
        ("jpegls", "1.2.840.10008.1.2.4.80", "pyjpegls"),
    ):  # fmt: skip
        ds = dataset(twelve, bits=12)
        ds.compress(syntax, encoding_plugin=plugin, generate_instance_uid=False)
        found[f"{name}.dcm"] = saved(ds)
    return found


def _write(folder: Path, contents: dict[str, bytes]) -> None:
    for name, content in contents.items():
        (folder / name).mkdir()
        (folder / name / name).write_bytes(content)


def make(kind: str, folder: Path) -> None:
    """The samples of a kind of picture."""
    _write(folder, {"png": _png, "jpeg": _jpeg, "tiff": _tif, "pictures": _others, "dicom": _dicom}[kind]())


SETTINGS: dict[Any, dict[str, Any]] = {
    retinopathy: {"size": 64, "local_average": True},
    skin: {"size": 64},
    covid: {"size": 64, "pa_to_ap": False},
}


def read(folder: Path) -> None:
    """A picture, and what three studies make of it."""
    (file,) = [f for f in folder.iterdir() if f.is_file()]
    pixels, notes = read_picture(file)
    assert pixels.dtype == np.uint8, pixels.dtype
    assert pixels.ndim == 3, pixels.shape
    assert pixels.shape[2] == 3, pixels.shape
    assert min(pixels.shape[:2]) >= 16, pixels.shape
    assert all(isinstance(note, str) for note in notes)
    if pixels.shape[0] * pixels.shape[1] > 10_000_000:
        return
    for study, settings in SETTINGS.items():
        try:
            array, facts = study.prepare({"path": file.name}, folder, settings)
        except UnusableRecord:
            continue
        assert array.dtype == np.uint8, array.dtype
        assert array.shape[:2] == (64, 64), array.shape
        assert facts["fingerprint"]


FORMATS = [Format(kind, functools.partial(make, kind), read) for kind in ("png", "jpeg", "tiff", "pictures", "dicom")]
