"""Slides through OpenSlide: read by microns per pixel, not by level; refused where the scale is not known.

The only module that knows OpenSlide. Positions are level-0 pixels, x to the right and y downwards.
"""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pipelines.shared.errors import BadFile

SUFFIXES = (".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".svslide", ".czi")
MIB = 2**20
OPEN_SLIDES = 12  # handles that one process keeps open
NO_MPP = "does not say its microns per pixel; give them with data.mpp=<microns>"


@dataclass(frozen=True)
class SlideFacts:
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
        facts: size, microns per pixel, levels.
    """

    def __init__(self, path: Path, mpp: float | None = None) -> None:
        """Open a slide.

        Args:
            path: the file.
            mpp: microns per level-0 pixel where the slide does not say it; what the slide says counts more.

        Raises:
            BadFile: missing, empty, no slide, or without a scale; the reason, without the file's name.
        """
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
            raise BadFile("is no slide that OpenSlide can open") from None
        except (openslide.OpenSlideError, OSError) as failure:
            raise BadFile(f"cannot be opened: {_short(failure)}") from None
        properties = self._slide.properties
        found = [_number(properties.get(f"openslide.mpp-{axis}")) for axis in "xy"]
        x, y = (value if value is not None else mpp for value in found)
        if x is None or y is None:
            raise BadFile(NO_MPP)
        if abs(x / y - 1) > 0.02:
            raise BadFile(f"has pixels that are not square ({x:g} x {y:g} microns), which is not supported")
        width, height = self._slide.dimensions
        downsamples = tuple(float(d) for d in self._slide.level_downsamples)
        vendor = str(properties.get("openslide.vendor", "unknown"))
        self.facts = SlideFacts(int(width), int(height), (x, y), downsamples, vendor)

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
        facts = self.facts
        step = mpp / facts.mpp[0], mpp / facts.mpp[1]  # level-0 pixels per pixel of the result
        finest = min(step)
        # A level that is at most 3 % coarser than wanted is as good.
        levels = [i for i, d in enumerate(facts.downsamples) if d <= finest * 1.03]
        level = max(levels, key=lambda i: facts.downsamples[i], default=0)
        d = facts.downsamples[level]
        size = max(1, round(width * step[0] / d)), max(1, round(height * step[1] / d))
        picture = self._region(round(x), round(y), level, size)
        if size == (width, height):
            return picture
        reducing = size[0] >= width and size[1] >= height
        return cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA if reducing else cv2.INTER_LINEAR)

    def _region(self, x: int, y: int, level: int, size: tuple[int, int]) -> np.ndarray:
        import openslide

        try:
            found = np.asarray(self._slide.read_region((x, y), level, size))
        except openslide.OpenSlideError as failure:
            raise BadFile(f"cannot be read at x {x}, y {y}, level {level}: {_short(failure)}") from None
        alpha = found[..., 3]
        if alpha.min() == 255:
            return np.ascontiguousarray(found[..., :3])
        share = alpha[..., None].astype(np.float32) / 255
        return (found[..., :3] * share + 255 * (1 - share)).round().astype(np.uint8)

    def overview(self, side: int) -> np.ndarray:
        """The whole slide, centred in a white square: uint8 (side, side, 3)."""
        facts = self.facts
        reach = max(facts.width * facts.mpp[0], facts.height * facts.mpp[1])  # microns
        mpp = reach / side
        x = facts.width / 2 - reach / facts.mpp[0] / 2
        y = facts.height / 2 - reach / facts.mpp[1] / 2
        return self.read(x, y, side, side, mpp)

    def at(self, mpp: float) -> tuple[int, int]:
        """Width and height of the whole slide in pixels of `mpp`."""
        facts = self.facts
        return max(1, round(facts.width * facts.mpp[0] / mpp)), max(1, round(facts.height * facts.mpp[1] / mpp))

    def check(self) -> None:
        """Decode a corner of every level: a file that was cut short fails here.

        Raises:
            BadFile: with the level that cannot be read.
        """
        facts = self.facts
        for level, d in enumerate(facts.downsamples):
            for x, y in ((0, 0), (facts.width - 8 * d, facts.height - 8 * d)):
                self._region(int(max(0, x)), int(max(0, y)), level, (8, 8))

    def close(self) -> None:
        """Give the file back."""
        self._slide.close()


def _number(text: str | None) -> float | None:
    try:
        value = float(text) if text else None
    except ValueError:
        return None
    return value if value is not None and 0 < value < 1000 else None


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
