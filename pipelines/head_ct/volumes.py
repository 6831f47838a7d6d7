"""A stack of slices as a volume in Hounsfield units, and on the network's grid.

The grid lies along the stack's own axes: its slices are parallel to those of the scanner, moved in their plane so that
what lies above each other in the body lies above each other in the grid (which undoes the shear of a tilted gantry).
It hangs from the top of the head and is centred on it; in every slice x grows to the left side, y to the back.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pipelines.head_ct.pixels import read_hu
from pipelines.head_ct.stacks import MISSING, Fault, Stack, gaps
from pipelines.shared.errors import BadFile

NO_DATA = -32768  # in a prepared volume: no slice, padding, or outside the field of view
AIR, DENSEST = -1024.0, 3071.0  # HU that a grid keeps apart; beyond is clipped
BODY = -300.0  # HU from which a voxel counts as body
WORST = 0.34  # share of the slices without pixels from which a study is refused


@dataclass(frozen=True)
class Grid:
    """The network's grid: `slices` of `thickness` mm, each `size` x `size` pixels over `field` mm."""

    slices: int
    thickness: float
    size: int
    field: float

    @property
    def pixel(self) -> float:
        """Mm."""
        return self.field / self.size


@dataclass(frozen=True)
class Volume:
    """A series at its own resolution.

    Attributes:
        hu: float32 (slices, rows, columns), NaN where padded or unreadable.
        along: (slices,) mm along the normal, ascending.
        right: (slices,) mm of the first pixel's centre along the rows.
        down: (slices,) mm of the first pixel's centre along the columns.
        spacing: mm between rows, and between columns.
        faults: slices that could not be read.
    """

    hu: np.ndarray
    along: np.ndarray
    right: np.ndarray
    down: np.ndarray
    spacing: tuple[float, float]
    faults: list[Fault]


def load(stack: Stack, root: Path) -> Volume:
    """All slices of a stack at their own resolution.

    Raises:
        BadFile: more than a third of them cannot be read.
    """
    hu = np.full((len(stack.files), *stack.shape), np.nan, np.float32)
    faults = []
    for position, pixels in _slices(stack, root):
        if isinstance(pixels, Fault):
            faults.append(pixels)
        else:
            hu[position] = pixels
    _check_faults(stack, faults)
    along, right, down = (np.array(v) for v in (stack.along, stack.right, stack.down))
    return Volume(hu, along, right, down, (stack.spacing[0], stack.spacing[1]), faults)


def _slices(stack: Stack, root: Path) -> Any:
    """(position, HU or Fault) of each slice, file by file."""
    places: dict[str, list[int]] = defaultdict(list)
    for position, file in enumerate(stack.files):
        places[file].append(position)
    for file, positions in places.items():
        done = 0
        try:
            for _, picture in read_hu(root / file, [stack.frames[p] for p in positions]):
                yield positions[done], picture
                done += 1
        except BadFile as reason:
            for position in positions[done:]:
                yield position, Fault(file, str(reason), True, stack.study)


def _check_faults(stack: Stack, faults: list[Fault]) -> None:
    if len(faults) > WORST * len(stack.files):
        reasons = sorted({f.reason for f in faults})
        raise BadFile(f"{len(faults)} of {len(stack.files)} slices cannot be read: {'; '.join(reasons[:3])}")


# --- the grid ---


def onto_grid(stack: Stack, root: Path, grid: Grid) -> tuple[np.ndarray, dict[str, Any]]:
    """A stack on the grid: int16 HU (slices, size, size), from the top down, `NO_DATA` where nothing is known.

    One slice at a time is at full resolution; of the others there is what they average to at the grid's.

    Returns:
        The volume, and metadata: `fingerprint` (of the HU read), `faults`, `warnings`, `coverage` (share of the grid's
        slices that hold data), `lowest` (HU, 1st percentile).

    Raises:
        BadFile: more than a third of the slices cannot be read, or there is nothing of a body in them.
    """
    reduced: list[_Reduced | None] = [None] * len(stack.files)
    faults, mark = [], hashlib.sha256()
    digests: dict[int, bytes] = {}
    for position, pixels in _slices(stack, root):
        if isinstance(pixels, Fault):
            faults.append(pixels)
            continue
        digests[position] = hashlib.sha256(pixels.tobytes()).digest()
        reduced[position] = _reduce(pixels, stack, position, grid)
    _check_faults(stack, faults)
    for position in sorted(digests):
        mark.update(digests[position])
    body = [r for r in reduced if r is not None and r.body[2] > 0]
    if not body:
        raise BadFile(f"no body in its {len(stack.files)} slices: nothing is denser than {BODY:g} HU")
    x, y = (float(np.median([r.body[k] for r in body])) for k in (0, 1))
    planes = [None if r is None else _resample(r, x, y, grid) for r in reduced]
    largest = max(r.body[2] for r in body)
    top = max(p for p, r in enumerate(reduced) if r is not None and r.body[2] > 0.1 * largest)
    lower, upper = _extents(stack)
    volume = _stack_planes(planes, lower, upper, upper[top], grid)
    known = volume != NO_DATA
    metadata: dict[str, Any] = {
        "fingerprint": mark.hexdigest(),
        "faults": faults,
        "coverage": float(known.any(axis=(1, 2)).mean()),
    }
    warnings = []
    if faults:
        reasons = sorted({f.reason for f in faults})
        warnings.append(f"slices cannot be read: {len(faults)} ({'; '.join(reasons[:2])})")
    lowest = float(np.percentile(volume[known], 1)) if known.any() else 0.0
    if known.any() and lowest > -500 and grid.field > 180:
        warnings.append(f"no air around the head, is the rescale intercept right?: lowest values at {lowest:.0f} HU")
    return volume, metadata | {"warnings": warnings, "lowest": lowest}


@dataclass(frozen=True)
class _Reduced:
    """A slice averaged to about the grid's resolution.

    `hu` and `weight` (share of known pixels) have one shape; `x0`, `y0` are mm of the first pixel's centre, `dx`, `dy`
    mm per pixel; the axes are turned so that x grows to the left side of the body and y to its back. `body` is the
    centre of what is denser than air, mm, and its area, mm2.
    """

    hu: np.ndarray
    weight: np.ndarray
    x0: float
    y0: float
    dx: float
    dy: float
    body: tuple[float, float, float]


def _reduce(hu: np.ndarray, stack: Stack, position: int, grid: Grid) -> _Reduced:
    row, column = np.array(stack.orientation[:3]), np.array(stack.orientation[3:])
    along_columns, along_rows = stack.spacing[1], stack.spacing[0]  # PixelSpacing is (between rows, between columns)
    right, down = stack.right[position], stack.down[position]
    if abs(row[0]) < abs(row[1]):  # the picture lies on its side
        hu, row, column = hu.T, column, row
        right, down, along_columns, along_rows = down, right, along_rows, along_columns
    if row[0] < 0:
        hu, right = hu[:, ::-1], -(right + (hu.shape[1] - 1) * along_columns)
    if column[1] < 0:
        hu, down = hu[::-1], -(down + (hu.shape[0] - 1) * along_rows)
    known = np.isfinite(hu)
    filled = np.where(known, np.clip(hu, AIR, DENSEST), 0).astype(np.float32)
    weight = known.astype(np.float32)
    kx, ky = max(1, int(grid.pixel / along_columns)), max(1, int(grid.pixel / along_rows))
    height, width = hu.shape[0] // ky * ky, hu.shape[1] // kx * kx
    size = (width // kx, height // ky)
    total = cv2.resize(filled[:height, :width], size, interpolation=cv2.INTER_AREA)
    share = cv2.resize(weight[:height, :width], size, interpolation=cv2.INTER_AREA)
    mean = np.divide(total, share, out=np.full_like(total, AIR), where=share > 0)
    x0, y0 = right + (kx - 1) / 2 * along_columns, down + (ky - 1) / 2 * along_rows
    dx, dy = kx * along_columns, ky * along_rows
    inside = (mean > BODY) & (share > 0.5)
    area = float(inside.sum()) * dx * dy
    centre = (0.0, 0.0)
    if area:
        rows, columns = np.nonzero(inside)
        centre = (x0 + float(np.median(columns)) * dx, y0 + float(np.median(rows)) * dy)
    return _Reduced(mean, share, x0, y0, dx, dy, (*centre, area))


def _resample(slice_: _Reduced, x: float, y: float, grid: Grid) -> np.ndarray:
    """Float32 (size, size) around the point x, y (mm), NaN where nothing is known; bilinear."""
    first = (grid.size - 1) / 2 * grid.pixel
    matrix = np.array(
        [
            [grid.pixel / slice_.dx, 0, (x - first - slice_.x0) / slice_.dx],
            [0, grid.pixel / slice_.dy, (y - first - slice_.y0) / slice_.dy],
        ]
    )
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    size = (grid.size, grid.size)
    share = cv2.warpAffine(slice_.weight, matrix, size, flags=flags, borderMode=cv2.BORDER_CONSTANT, borderValue=0)
    total = cv2.warpAffine(slice_.hu * slice_.weight, matrix, size, flags=flags, borderMode=cv2.BORDER_CONSTANT)
    return np.where(share > 0.5, total / np.maximum(share, 1e-6), np.nan).astype(np.float32)


def _extents(stack: Stack) -> tuple[np.ndarray, np.ndarray]:
    """What each slice stands for along the normal, mm: halfway to its neighbours, but not across a gap."""
    along = np.array(stack.along)
    thick = np.array([t or 0.0 for t in stack.thickness])
    usual = stack.usual_thickness or 5.0  # a single slice that does not say: what it stands for is not used further
    if len(along) == 1:
        half = np.array([max(usual, thick[0]) / 2])
        return along - half, along + half
    steps, missing = np.diff(along), gaps(stack)
    expected = np.array([max(thick[i], usual) for i in range(len(along))])
    ordinary = float(np.median(steps[~missing])) if (~missing).any() else usual
    reach = np.maximum(expected, ordinary) * MISSING / 2
    below = np.concatenate([[np.inf], np.where(missing, np.inf, steps / 2)])
    above = np.concatenate([np.where(missing, np.inf, steps / 2), [np.inf]])
    free = np.maximum(expected, np.minimum(ordinary, reach)) / 2  # beside a gap, and at the ends
    lower = along - np.where(np.isinf(below), free, below)
    upper = along + np.where(np.isinf(above), free, above)
    return lower, upper


def _stack_planes(
    planes: list[np.ndarray | None], lower: np.ndarray, upper: np.ndarray, top: float, grid: Grid
) -> np.ndarray:
    """Average the planes over each slice of the grid, by how much of it they stand for."""
    volume = np.full((grid.slices, grid.size, grid.size), NO_DATA, np.int16)
    for k in range(grid.slices):
        high, low = top - k * grid.thickness, top - (k + 1) * grid.thickness
        share = np.minimum(upper, high) - np.maximum(lower, low)
        total, weight = (np.zeros((grid.size, grid.size), np.float32) for _ in range(2))
        for i in np.flatnonzero(share > 1e-6):
            plane = planes[i]
            if plane is not None:
                known = np.isfinite(plane)
                total += np.where(known, plane, 0) * share[i]
                weight += known * np.float32(share[i])
        enough = weight > 0.25 * min(grid.thickness, max(float(share.max()), 1e-6) * 4)
        np.copyto(volume[k], np.round(total / np.maximum(weight, 1e-6)).astype(np.int16), where=enough)
    return volume


# --- what a person looks at ---


def windowed(hu: np.ndarray, level: float, width: float) -> np.ndarray:
    """HU as grey, uint8: black at level - width/2 and below, white at level + width/2 and above; no data is black."""
    values = (hu.astype(np.float32) - (level - width / 2)) / width
    return np.where(hu == NO_DATA, 0, np.clip(values * 255, 0, 255)).astype(np.uint8)


def picture_onto_grid(
    grey: np.ndarray, window: tuple[float, float], field: float, grid: Grid
) -> tuple[np.ndarray, dict[str, Any]]:
    """A single slice that is a picture, as a volume of one slice on the grid.

    Args:
        grey: uint8 (rows, columns); black is air, the rest the window's grey.
        window: level and width in HU that black and white mean.
        field: mm that the longer side spans.
        grid: the grid.

    Raises:
        BadFile: the picture is black.
    """
    hu = window[0] + (grey.astype(np.float32) / 255 - 0.5) * window[1]
    hu[grey == 0] = -1000
    pixel = field / max(grey.shape)
    stack = Stack(
        study="", series="", group="", accession=None, files=[""], frames=[0], along=[0.0], right=[0.0], down=[0.0],
        orientation=[1, 0, 0, 0, 1, 0], spacing=[pixel, pixel], thickness=[grid.thickness], shape=list(grey.shape),
        tilt=0.0, original=True, kernel="", maker="unknown", bone=False, contrast=False, compressed=False,
        age=None, sex=None,
    )  # fmt: skip
    reduced = _reduce(hu, stack, 0, grid)
    if reduced.body[2] == 0:
        raise BadFile("the picture is black")
    plane = _resample(reduced, reduced.body[0], reduced.body[1], grid)
    lower, upper = _extents(stack)
    volume = _stack_planes([plane], lower, upper, upper[0], grid)
    metadata: dict[str, Any] = {"fingerprint": hashlib.sha256(grey.tobytes()).hexdigest(), "faults": [], "warnings": []}
    return volume, metadata | {"coverage": 1 / grid.slices, "lowest": float(hu.min())}
