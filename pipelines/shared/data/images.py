"""Read one image file of any common kind into 8-bit RGB, or say why not.

JPEG, JPEG 2000, PNG, TIFF, BMP, GIF, WebP, AVIF and PNM through Pillow, single-frame DICOM through pydicom. The kind is
told by the file's content, not by its name. A file is read whole and correctly or refused: never a half-grey picture,
never a guessed scale. The rules, so that nobody has to look for them:

- 16-bit grey is divided by what the file declares as its full range (65535, 4095 in a 12-bit TIFF, a TIFF's
  MaxSampleValue), not by what the pixels happen to reach: 12-bit data stored as 16 bit come out dark. That is a
  warning of the file (`NARROW`), not a guess. Of 16-bit colour the high byte is kept.
- Float TIFF must lie in 0..1; 32-bit and signed integers are refused, as nothing says what white is.
- Transparent pixels are laid on black; an opaque alpha channel changes nothing; all transparent is refused.
- The EXIF orientation is applied. ICC profiles are ignored.
- Several frames or pages (TIFF, animated PNG, GIF or WebP, DICOM) are refused: which one was meant cannot be known.
  A JPEG that carries further pictures behind the first (MPO, preview, gain map) is read as that first one.
- DICOM: modality LUT or rescale, then the first VOI LUT or window; without either, the range that BitsStored
  declares. MONOCHROME1 is inverted, YBR and palette become RGB. A file that begins with the data set itself is read
  in the standard's default encoding, with a warning.
- Memory stays within about ten bytes a pixel: values are scaled by a table, or a band of rows at a time.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from pipelines.shared.data.dicom_files import ASSUMED, decoder_missing, looks_like_dicom, read_dicom
from pipelines.shared.errors import BadFile

if TYPE_CHECKING:
    from pydicom import Dataset

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float64]

# What these libraries find odd is either harmless here (metadata) or raised as an error below. One filter at import,
# because warnings.catch_warnings around each call is not safe with threads.
warnings.filterwarnings("ignore", module=r"(PIL|pydicom)\.")

ORIENTATION = 0x0112  # EXIF tag: how the camera was held
TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
BITS_PER_SAMPLE, PHOTOMETRIC, WHITE_IS_ZERO = 258, 262, 0  # TIFF tags and the value that means a negative
MAX_SAMPLE_VALUE = 281  # TIFF tag
END_OF_IMAGE = b"\xff\xd9"  # JPEG marker
BAND = 1 << 22  # pixels that are converted at a time where a table does not serve

# What `mode=predict` takes from a folder; content decides what a file is.
SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".j2k", ".jpx", ".tif", ".tiff", ".bmp", ".dib", ".gif", ".webp",
    ".avif", ".pgm", ".ppm", ".pnm", ".dcm", ".dicom",
)  # fmt: skip
FEW_LEVELS = 16  # of 256 that are left of a picture with more bits: it was stored in a wider range than it uses
NARROW = (
    "its values use at most a sixteenth of the range that the file declares (12 bits in 16, or no window), so at most "
    "16 grey levels are left and it looks black: store it with its real range"
)


def read_image(path: Path, *, min_side: int = 16, max_pixels: int = 200_000_000) -> Bytes:
    """Read an image file as (H, W, 3) uint8 RGB, upright; see `read_picture`."""
    return read_picture(path, min_side=min_side, max_pixels=max_pixels)[0]


def read_picture(path: Path, *, min_side: int = 16, max_pixels: int = 200_000_000) -> tuple[Bytes, list[str]]:
    """Read an image file as (H, W, 3) uint8 RGB, upright, and what a reader should know about it.

    Safe to call from threads and processes: no setting of a library is changed.

    Args:
        path: The file.
        min_side: Smallest height and width that counts as a picture, px.
        max_pixels: Largest height x width, checked against the declared size before anything is decoded.

    Raises:
        BadFile: With the reason, without the path.
    """
    try:
        if path.is_dir():
            raise BadFile("is a folder, not an image file")
        with path.open("rb") as file:
            start = file.read(132)
            if not start:
                raise BadFile("is empty (0 bytes)")
            file.seek(0)
            notes: list[str] = []
            named_dicom = path.suffix.lower() in (".dcm", ".dicom")
            return _read(file, start, named_dicom, min_side, max_pixels, notes), notes
    except FileNotFoundError:
        raise BadFile("does not exist") from None
    except MemoryError:  # a small file too, if its damaged tables send the decoder far beyond its end
        raise BadFile("needs more memory than there is") from None
    except OSError as failure:
        raise BadFile(f"cannot be opened: {failure.strerror or 'input/output error'}") from None


def _read(file: BinaryIO, start: bytes, named_dicom: bool, min_side: int, max_pixels: int, notes: list[str]) -> Bytes:
    plugin = _plugin(start)
    is_dicom = start[128:132] == b"DICM"
    if plugin is None and not looks_like_dicom(start) and not named_dicom:
        raise BadFile("is not a JPEG, PNG, TIFF, BMP, GIF, WebP, AVIF, PNM or DICOM file, whatever its name says")
    if is_dicom:  # also where the 128 bytes before are a TIFF's header, which the standard allows
        plugin = None
    try:
        if plugin is None:
            return _read_dicom(file, min_side, max_pixels, notes)
        return _read_with_pillow(file, plugin, min_side, max_pixels, notes)
    except (BadFile, MemoryError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as failure:  # broken files make decoders raise almost anything; those in Rust no Exception
        kind = plugin.format if plugin else "DICOM"
        reason = " ".join(str(failure).split())[:200] or type(failure).__name__
        raise BadFile(decoder_missing(failure) or f"cannot be decoded as {kind}: {reason}") from failure


def _plugin(start: bytes) -> type[ImageFile] | None:
    """The Pillow class for a file that begins like this.

    Not `Image.open`, whose limit on the number of pixels is one global for the whole process.
    """
    if start.startswith(b"\xff\xd8\xff"):
        return JpegImageFile
    if start.startswith(b"\x89PNG\r\n\x1a\n"):
        return PngImageFile
    if start.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return TiffImageFile
    if start.startswith(b"BM"):
        return BmpImageFile
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return WebPImageFile
    if start.startswith((b"GIF87a", b"GIF89a")):
        return GifImageFile
    if start.startswith((b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51")):
        return Jpeg2KImageFile
    if start[4:12] in (b"ftypavif", b"ftypavis"):
        return AvifImageFile
    if start[:1] == b"P" and start[1:2] in b"123456" and start[2:3].isspace():
        return PpmImageFile
    return None


def _check_size(width: int, height: int, min_side: int, max_pixels: int) -> None:
    if min(width, height) < min_side:
        raise BadFile(f"is {width} x {height} px; at least {min_side} px on each side are needed")
    if width * height > max_pixels:
        raise BadFile(f"declares {width} x {height} px, more than the limit of {max_pixels:,} pixels")


# --- Pillow ---


def _read_with_pillow(
    file: BinaryIO, plugin: type[ImageFile], min_side: int, max_pixels: int, notes: list[str]
) -> Bytes:
    image = plugin(file)
    _check_size(*image.size, min_side, max_pixels)
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        raise BadFile(f"holds {frames} frames or pages; one is expected")
    if isinstance(image, JpegImageFile):
        # A decoder may fill up what is missing. The scan's own bytes never contain this marker.
        if END_OF_IMAGE not in file.read():
            raise BadFile("is truncated: a JPEG without its end marker")
    elif isinstance(image, PngImageFile):
        image.verify()  # checksums, up to the last chunk; the object is used up
    file.seek(0)
    image = plugin(file)
    return _upright(image, _rgb(image, notes))


def _rgb(image: ImageFile, notes: list[str]) -> Bytes:
    """Decode to (H, W, 3)."""
    deep = any(";16" in str(tile[3]) for tile in image.tile)  # 16 bits a colour, of which Pillow keeps the high byte
    image.load()
    tags: Any = image.tag_v2 if isinstance(image, TiffImageFile) else {}
    inverted = tags.get(PHOTOMETRIC) == WHITE_IS_ZERO
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        values = np.asarray(image)
        full = 2 ** int(tags[BITS_PER_SAMPLE][0]) - 1 if tags else 65535
        declared = _first(tags.get(MAX_SAMPLE_VALUE, full))
        if values.max() <= declared < full:
            full = int(declared)
        return _rgb_of(_grey(np.arange(65536) / full, inverted)[values], notes)
    if image.mode == "F":
        values = np.asarray(image)
        low, high = float(values.min()), float(values.max())
        if not (low >= 0 and high <= 1):  # also where there is NaN
            raise BadFile(f"has float pixels from {low:g} to {high:g}; only 0 to 1 has a known meaning")
        grey = np.empty(values.shape, np.uint8)
        for rows in _bands(*values.shape):
            grey[rows] = _grey(values[rows].astype(np.float64), inverted)
        return _rgb_of(grey, notes)
    if image.mode == "I":
        raise BadFile("has 32-bit or signed integer pixels without a known range; save it as 8 or 16 bit unsigned")
    if not image.has_transparency_data:
        pixels = np.array(image.convert("RGB"))
        if deep:
            _note_few_levels(pixels, notes)
        return pixels
    whole = image.convert("RGBA")
    pixels, seen = np.empty((whole.height, whole.width, 3), np.uint8), False
    for rows in _bands(whole.height, whole.width):
        rgba = np.asarray(whole.crop((0, rows.start, whole.width, rows.stop)))
        alpha = rgba[..., 3:].astype(np.uint16)
        seen = seen or bool(alpha.any())
        pixels[rows] = (rgba[..., :3] * alpha + 127) // 255
    if not seen:
        raise BadFile("is transparent everywhere")
    if deep:
        _note_few_levels(pixels, notes)
    return pixels


def _bands(height: int, width: int) -> list[slice]:
    """Bands of rows of about `BAND` pixels."""
    rows = max(1, BAND // width)
    return [slice(top, min(top + rows, height)) for top in range(0, height, rows)]


def _grey(unit: Floats, inverted: bool) -> Bytes:
    """Grey values in 0..1 -> 0..255, rounded; what lies beyond 1 is white."""
    grey: Bytes = np.rint(np.minimum(1 - unit if inverted else unit, 1) * 255).clip(0).astype(np.uint8)
    return grey


def _rgb_of(grey: Bytes, notes: list[str]) -> Bytes:
    """(H, W) -> (H, W, 3); few grey levels that are left of more bits are worth a word."""
    _note_few_levels(grey, notes)
    return np.repeat(grey[..., None], 3, axis=2)


def _note_few_levels(pixels: Bytes, notes: list[str]) -> None:
    """Whatever a burnt-in letter or a hot pixel reaches: what counts is the range of 98 in 100 values."""
    bands = [pixels[rows] for rows in _bands(*pixels.shape[:2])]
    counts = np.sum([np.bincount(band.ravel(), minlength=256) for band in bands], axis=0)
    low, high = np.searchsorted(counts.cumsum() / pixels.size, [0.01, 0.99])
    if high - low <= FEW_LEVELS:
        notes.append(NARROW)


def _upright(image: ImageFile, pixels: Bytes) -> Bytes:
    try:
        orientation = image.getexif().get(ORIENTATION)
    except Exception:  # unreadable EXIF is common and no reason to refuse sound pixels
        orientation = None
    if orientation not in TRANSPOSES:
        return pixels
    return np.array(Image.fromarray(pixels).transpose(TRANSPOSES[orientation]))


# --- DICOM ---


def keep_pydicom_quiet() -> None:
    """Keep pydicom from logging what it finds odd in a header: it quotes values, and these may be names."""
    import logging

    from pydicom import config

    config.settings.reading_validation_mode = config.IGNORE
    logger = logging.getLogger("pydicom")
    if logger.level <= logging.CRITICAL:  # setting it empties what all loggers have cached: too slow for every slice
        logger.setLevel(logging.CRITICAL + 1)
    logger.propagate = False


def _read_dicom(file: BinaryIO, min_side: int, max_pixels: int, notes: list[str]) -> Bytes:
    from pydicom.pixels import apply_color_lut, pixel_array

    keep_pydicom_quiet()
    dataset, assumed = read_dicom(file)
    if assumed:
        notes.append(ASSUMED)
    if "PixelData" not in dataset:
        floats = "FloatPixelData" in dataset or "DoubleFloatPixelData" in dataset
        raise BadFile("has float pixels" if floats else "is no DICOM image, or is cut off: it has no pixel data")
    _check_size(int(dataset.Columns), int(dataset.Rows), min_side, max_pixels)
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames > 1:
        raise BadFile(f"holds {frames} frames; one is expected")
    photometric = str(dataset.PhotometricInterpretation)
    stored = pixel_array(dataset)
    if photometric in ("MONOCHROME1", "MONOCHROME2"):
        return _rgb_of(_grey(_displayed(stored, dataset), photometric == "MONOCHROME1"), notes)
    if photometric == "PALETTE COLOR":
        colours = apply_color_lut(stored, dataset)
        return np.rint(colours / np.iinfo(colours.dtype).max * 255).astype(np.uint8)
    if photometric == "RGB" or photometric.startswith("YBR"):  # pydicom has made RGB of the latter
        eight_bit: Bytes = np.rint(stored / (2 ** int(dataset.BitsStored) - 1) * 255).astype(np.uint8)
        return eight_bit
    raise BadFile(f"has the photometric interpretation {photometric}, which is not supported")


def _displayed(stored: NDArray[Any], dataset: Dataset) -> Floats:
    """Stored values -> 0..1 as the file says they are to be shown (DICOM PS3.3 C.11.1, C.11.2)."""
    from pydicom.pixels import apply_modality_lut, apply_voi

    values = apply_modality_lut(stored, dataset)
    if dataset.get("VOILUTSequence"):
        bits = int(dataset.VOILUTSequence[0].LUTDescriptor[2])
        shown: Floats = apply_voi(values, dataset) / (2**bits - 1)
        return shown
    if dataset.get("WindowCenter") is not None and dataset.get("WindowWidth") is not None:
        function = str(dataset.get("VOILUTFunction") or "LINEAR").upper()
        return _window(values, _first(dataset.WindowCenter), _first(dataset.WindowWidth), function)
    if dataset.get("ModalityLUTSequence"):
        low, high = 0.0, 2.0 ** int(dataset.ModalityLUTSequence[0].LUTDescriptor[2]) - 1
    else:
        bits, signed = int(dataset.BitsStored), int(dataset.PixelRepresentation) == 1
        ends = np.array([-(2 ** (bits - 1)), 2 ** (bits - 1) - 1] if signed else [0, 2**bits - 1])
        low, high = np.sort(apply_modality_lut(ends, dataset)).astype(float)
    if high <= low:
        raise BadFile("has a rescale slope of 0")
    return np.clip((values - low) / (high - low), 0, 1)


def _window(values: NDArray[Any], centre: float, width: float, function: str) -> Floats:
    """Window centre and width to 0..1 (PS3.3 C.11.2.1.2 and C.11.2.1.3)."""
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        raise BadFile(f"has the VOI LUT function {function}, which is not supported")
    if width < 1 if function == "LINEAR" else width <= 0:
        raise BadFile(f"has a window width of {width:g}")
    if function == "SIGMOID":
        return 1 / (1 + np.exp(-4 * (values - centre) / width))
    if function == "LINEAR":
        centre, width = centre - 0.5, width - 1
    if width == 0:
        return (values > centre).astype(float)
    return np.clip((values - centre) / width + 0.5, 0, 1)


def _first(value: Any) -> float:
    return float(value[0] if isinstance(value, Sequence) else value)
