"""Slides through OpenSlide: read by microns per pixel, not by level; refused where the scale is not known.

The only module that knows OpenSlide. Positions are level-0 pixels, x to the right and y downwards.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pipelines.camelyon.config import PLAUSIBLE_MPP
from pipelines.camelyon.dicom_slides import why_no_slide
from pipelines.shared.errors import BadFile
from pipelines.shared.extras import Extra

WSI = Extra(
    "wsi",
    {
        "openslide": "openslide-python",
        "openslide_bin": "openslide-bin",
        "tifffile": "tifffile",
        "imagecodecs": "imagecodecs",
        "skimage": "scikit-image",
    },
)
SUFFIXES = (".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".svslide", ".czi")
MIB = 2**20
OPEN_SLIDES = 12  # handles that one process keeps open
NO_MPP = "does not say its microns per pixel; give them with data.mpp=<microns>"
OTHER_MPP = "data.mpp counts, not the scale that the file states"
COARSE = "it is enlarged, because its pixels are coarser than the network's"
LONGEST = 210  # mm, a little more than the longest glass that is scanned (6 x 8 inches)
AT_ONCE = 2**24  # pixels of a level that are held in memory at once, 64 MiB; larger regions are read in strips
LARGEST_TILE = 2**26  # pixels; OpenSlide decodes whole tiles


@dataclass(frozen=True)
class SlideProperties:
    """What a slide says of itself: level-0 size, microns per pixel (x, y), and the downsampling of each level."""

    width: int
    height: int
    mpp: tuple[float, float]
    downsamples: tuple[float, ...]
    vendor: str


class Slide:
    """An open slide.

    Attributes:
        path: the file.
        properties: size, microns per pixel, levels.
        warnings: what the user should know about how it was read.
    """

    def __init__(self, path: Path, mpp: float | None = None) -> None:
        """Open a slide.

        Args:
            path: the file.
            mpp: microns per level-0 pixel; counts more than what the slide says of itself. None: it must say it.

        Raises:
            BadFile: missing, empty, no slide, or without a scale that can be; the reason, without the file's name.
        """
        WSI.require("A whole slide")
        import openslide

        self.path = path
        try:
            if path.stat().st_size == 0:
                raise BadFile("is empty (0 bytes)")
        except FileNotFoundError:
            raise BadFile("does not exist") from None
        try:
            self._slide: Any = openslide.OpenSlide(path)
        except openslide.OpenSlideUnsupportedFormatError:
            raise BadFile(why_no_slide(path)) from None
        except (openslide.OpenSlideError, OSError) as failure:
            raise BadFile(f"cannot be opened: {_short(failure)}") from None
        try:
            self.warnings: list[str] = []
            self.properties = self._read_properties(mpp)
        except BaseException:
            self.close()
            raise

    def _read_properties(self, given: float | None) -> SlideProperties:
        """Size and scale, found plausible: a false scale would ask for regions of any size."""
        properties = self._slide.properties
        stated = [_number(properties.get(f"openslide.mpp-{axis}")) for axis in "xy"]
        x, y = stated if given is None else (given, given)
        if x is None or y is None:
            raise BadFile(NO_MPP)
        if any(s is not None and abs(s / m - 1) > 0.02 for s, m in zip(stated, (x, y), strict=True)):
            self.warnings.append(OTHER_MPP)
        low, high = PLAUSIBLE_MPP
        for value in (x, y):
            if not low <= value <= high:
                raise BadFile(
                    f"says {value:.4g} microns per pixel, which cannot be a slide's scale ({low:g} to {high:g}); give "
                    "the right one with data.mpp=<microns>"
                )
        if abs(x / y - 1) > 0.02:
            raise BadFile(f"has pixels that are not square ({x:g} x {y:g} microns), which is not supported")
        width, height = (int(side) for side in self._slide.dimensions)
        longest = max(width * x, height * y) / 1000
        if longest > LONGEST:
            raise BadFile(
                f"would be {longest:.0f} mm long with {x:.4g} microns per pixel, and no slide is longer than {LONGEST} "
                "mm; give the right scale with data.mpp=<microns>"
            )
        downsamples = tuple(float(d) for d in self._slide.level_downsamples)
        for level in range(len(downsamples)):
            tile = [_number(properties.get(f"openslide.level[{level}].tile-{side}")) for side in ("width", "height")]
            if tile[0] and tile[1] and tile[0] * tile[1] > LARGEST_TILE:
                raise BadFile(
                    f"is stored in tiles of {tile[0]:.0f} x {tile[1]:.0f} pixels, too large to be read in parts; "
                    "convert it to a tiled pyramid"
                )
        return SlideProperties(width, height, (x, y), downsamples, str(properties.get("openslide.vendor", "unknown")))

    def warned(self, mpp: float) -> list[str]:
        """What the user should know of a slide that is looked at with so many microns per pixel."""
        return [*self.warnings, *([COARSE] if self.properties.mpp[0] > 1.5 * mpp else [])]

    def read(self, x: float, y: float, width: int, height: int, mpp: float) -> np.ndarray:
        """A region at a wanted scale, from the level next finer, reduced by area.

        Args:
            x, y: its upper left corner, level-0 pixels; may lie outside the slide.
            width, height: in pixels of the result.
            mpp: microns per pixel of the result.

        Returns:
            uint8 (height, width, 3), white where there is no slide.

        Raises:
            BadFile: the region cannot be decoded.
        """
        properties = self.properties
        step = mpp / properties.mpp[0], mpp / properties.mpp[1]  # level-0 pixels per pixel of the result
        finest = min(step)
        # A level that is at most 3 % coarser than wanted is as good.
        levels = [i for i, d in enumerate(properties.downsamples) if d <= finest * 1.03]
        level = max(levels, key=lambda i: properties.downsamples[i], default=0)
        d = properties.downsamples[level]
        size = max(1, round(width * step[0] / d)), max(1, round(height * step[1] / d))
        reducing = size[0] >= width and size[1] >= height
        if reducing and size[0] * size[1] > AT_ONCE:
            return self._in_strips(x, y, level, size, width, height)
        picture = self._region(round(x), round(y), level, size)
        if size == (width, height):
            return picture
        return cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA if reducing else cv2.INTER_LINEAR)

    def _in_strips(self, x: float, y: float, level: int, size: tuple[int, int], width: int, height: int) -> np.ndarray:
        """A region of `size` pixels of a level, reduced by area as `read` does, in memory that is bounded."""
        picture = np.empty((height, width, 3), np.uint8)
        step = size[1] / height  # rows of the level per row of the result
        count = max(1, min(256, int(AT_ONCE / 2 / size[0] / step)))
        for first in range(0, height, count):
            last = min(first + count, height)
            top, bottom = int(first * step), min(size[1], math.ceil(last * step))
            strip = self._region(
                round(x), round(y + top * self.properties.downsamples[level]), level, (size[0], bottom - top)
            )
            narrow = cv2.resize(strip.astype(np.float32), (width, bottom - top), interpolation=cv2.INTER_AREA)
            # What of each row of the strip lies in each row of the result.
            row, source = np.arange(first, last)[:, None], np.arange(top, bottom)
            share = np.minimum((row + 1) * step, source + 1) - np.maximum(row * step, source)
            share = (share.clip(0) / step).astype(np.float32)
            reduced = share @ narrow.reshape(bottom - top, -1)
            picture[first:last] = reduced.round().clip(0, 255).reshape(last - first, width, 3)
        return picture

    def _region(self, x: int, y: int, level: int, size: tuple[int, int]) -> np.ndarray:
        import openslide

        try:
            rgba = np.asarray(self._slide.read_region((x, y), level, size))
        except openslide.OpenSlideError as failure:
            raise BadFile(f"cannot be read at x {x}, y {y}, level {level}: {_short(failure)}") from None
        picture = cv2.cvtColor(rgba, cv2.COLOR_RGBA2RGB)
        clear = rgba[..., 3] < 255
        if clear.any():
            share = rgba[clear, 3:].astype(np.float32) / 255
            picture[clear] = (picture[clear] * share + 255 * (1 - share)).round()
        return picture

    def overview(self, side: int) -> np.ndarray:
        """The whole slide, centred in a white square: uint8 (side, side, 3)."""
        properties = self.properties
        reach = max(properties.width * properties.mpp[0], properties.height * properties.mpp[1])  # microns
        mpp = reach / side
        x = properties.width / 2 - reach / properties.mpp[0] / 2
        y = properties.height / 2 - reach / properties.mpp[1] / 2
        return self.read(x, y, side, side, mpp)

    def at(self, mpp: float) -> tuple[int, int]:
        """Width and height of the whole slide in pixels of `mpp`."""
        size = self.properties
        return max(1, round(size.width * size.mpp[0] / mpp)), max(1, round(size.height * size.mpp[1] / mpp))

    def check(self) -> None:
        """Decode a corner of every level: a file that was cut short fails here.

        Raises:
            BadFile: with the level that cannot be read.
        """
        self._check_tiles()
        properties = self.properties
        for level, d in enumerate(properties.downsamples):
            for x, y in ((0, 0), (properties.width - 8 * d, properties.height - 8 * d)):
                self._region(int(max(0, x)), int(max(0, y)), level, (8, 8))

    def _check_tiles(self) -> None:
        """No tile of a TIFF may claim more bytes than the file has: OpenSlide asks for them before it looks, and a
        process that cannot have them ends.
        """
        from tifffile import TiffFile

        size = self.path.stat().st_size
        try:
            with TiffFile(self.path) as tiff:
                largest = max((max(page.databytecounts, default=0) for page in tiff.pages), default=0)
        except Exception:  # no TIFF, or damaged in one of many ways: OpenSlide finds that out
            return
        if largest > size:
            raise BadFile(f"is damaged: a tile of {largest:,} bytes in a file of {size:,}; copy it again")

    def close(self) -> None:
        """Give the file back."""
        self._slide.close()


def _number(text: str | None) -> float | None:
    """A property as a number; None where there is none, or no number."""
    try:
        value = float(text) if text else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _short(failure: Exception) -> str:
    return " ".join(str(failure).split())[:160] or type(failure).__name__


def fingerprint(path: Path) -> str:
    """SHA-256 of a slide's size and its first and last MiB: whole slides would take minutes each."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        digest.update(file.read(MIB))
        file.seek(max(0, size - MIB))
        digest.update(file.read(MIB))
    return digest.hexdigest()


_open: OrderedDict[tuple[int, str, float | None], Slide] = OrderedDict()


def opened(path: Path, mpp: float | None = None) -> Slide:
    """A slide that stays open in this process, for reading many small regions.

    Raises:
        BadFile: as `Slide`.
    """
    key = (os.getpid(), str(path), mpp)  # a handle must not be shared with a forked process
    if key not in _open:
        _open[key] = Slide(path, mpp)
        if len(_open) > OPEN_SLIDES:
            _, oldest = _open.popitem(last=False)
            oldest.close()
    _open.move_to_end(key)
    return _open[key]
