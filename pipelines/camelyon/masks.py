"""Outlines as pixels: masks for sampling and pictures, and the lesions that the challenge counts.

**From polygons to pixels.** The official masks are drawn at full resolution and every further level keeps every second
pixel, so that pixel (X, Y) of level 5 is pixel (32 X, 32 Y) of level 0. Here it is asked at once whether the level-0
point (32 X, 32 Y) lies inside: no mask larger than level 5 is ever made. Inside is what an outline runs around
(winding number other than 0); all tumour groups are drawn first, then all others cut out. A full-resolution fill that
rounds its vertices differs only at level-5 pixels whose point lies within a level-0 pixel of an outline.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import pandas as pd

from pipelines.camelyon.annotations import MPP, Annotation, Polygon

LEVEL = 5  # of the evaluation
STEP = 2**LEVEL  # level-0 pixels
GROWTH = 75 / 2  # microns by which tumour grows on each side: five tumour cells are 75 microns
ITC_LENGTH = 275  # microns: shorter components are isolated tumour cells

# What is held at a time, so that memory is bounded whatever is drawn:
CROSSINGS = 2**22  # of sides and rows
STRIP = 2**24  # points of a grid


# --- masks ---


def windings(
    points: np.ndarray, shape: tuple[int, int], step: float, origin: tuple[float, float] = (0.0, 0.0)
) -> np.ndarray:
    """How often a polygon runs around each point of a grid: (rows, columns) int32, 0 outside.

    Point (row, column) is x = origin[0] + column * step, y = origin[1] + row * step, in level-0 pixels. Of points
    exactly on an outline, those on its left and upper sides count as inside.
    """
    rows, columns = shape
    x, y = ((points - np.asarray(origin)) / step).T
    x_next, y_next = np.roll(x, -1), np.roll(y, -1)
    # The rows that each side crosses, clipped to the grid.
    first = np.clip(np.ceil(np.minimum(y, y_next)), 0, rows).astype(np.int64)
    last = np.clip(np.ceil(np.maximum(y, y_next)), 0, rows).astype(np.int64)
    count = last - first
    total = np.cumsum(count)
    # What lies right of a side is once more (or once less) surrounded.
    change = np.zeros(rows * (columns + 1), np.int32)
    for begin in range(0, int(total[-1]), CROSSINGS):
        crossing = np.arange(begin, min(begin + CROSSINGS, int(total[-1])))
        side = np.searchsorted(total, crossing, side="right")
        row = crossing - (total[side] - count[side]) + first[side]
        x_crossed = x[side] + (row - y[side]) * (x_next[side] - x[side]) / (y_next[side] - y[side])
        column = np.clip(np.ceil(x_crossed), 0, columns).astype(np.int64)
        np.add.at(change, row * (columns + 1) + column, np.where(y_next[side] > y[side], 1, -1).astype(np.int32))
    numbers = change.reshape(rows, columns + 1)
    np.cumsum(numbers, axis=1, out=numbers)
    return numbers[:, :columns]


def _draw(
    polygons: Sequence[Polygon], shape: tuple[int, int], step: float, origin: tuple[float, float] = (0.0, 0.0)
) -> np.ndarray:
    """Tumour polygons, and then all others cut out: (rows, columns) bool."""
    mask = np.zeros(shape, bool)
    for value in (True, False):
        for polygon in polygons:
            if polygon.tumour == value:
                _draw_one(mask, polygon, value, step, origin)
    return mask


def _draw_one(mask: np.ndarray, polygon: Polygon, value: bool, step: float, origin: tuple[float, float]) -> None:
    """Only the polygon's own box of the mask is touched, some rows at a time."""
    low = np.floor((polygon.points.min(axis=0) - origin) / step)
    high = np.ceil((polygon.points.max(axis=0) - origin) / step) + 1
    rows, columns = mask.shape
    (left, top), (right, bottom) = (np.clip(v, 0, (columns, rows)).astype(int) for v in (low, high))
    if left >= right or top >= bottom:
        return
    count = max(1, STRIP // (right - left))
    for first in range(top, bottom, count):
        last = min(first + count, bottom)
        corner = (origin[0] + left * step, origin[1] + first * step)
        inside = windings(polygon.points, (last - first, right - left), step, corner) != 0
        mask[first:last, left:right][inside] = value


def tumour_mask(annotation: Annotation, downsample: float, width: int, height: int) -> np.ndarray:
    """Which cells of a slide are tumour, for sampling patches and for overlays.

    Args:
        annotation: its polygons.
        downsample: side of a cell in level-0 pixels.
        width, height: of the slide in level-0 pixels.

    Returns:
        (ceil(height / downsample), ceil(width / downsample)) bool: whether the centre of each cell lies in tumour.
    """
    shape = (int(np.ceil(height / downsample)), int(np.ceil(width / downsample)))
    return _draw(annotation.polygons, shape, downsample, (downsample / 2, downsample / 2))


# --- lesions ---


@dataclass(frozen=True)
class LesionMap:
    """The lesions of a slide as the challenge counts them, at level 5, kept only where there are any.

    Attributes:
        tiles: (first row, first column, labels (rows, columns) int32); outside of all tiles there is no lesion.
        lesions: one row per component: label (from 1), itc, length (major axis, microns), area (mm2), x, y (centroid,
            level-0 pixels).
    """

    tiles: list[tuple[int, int, np.ndarray]]
    lesions: pd.DataFrame

    def at(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """The component at each level-0 position: (n,) int32, 0 where there is none."""
        end = np.iinfo(np.int32).max
        column, row = (np.clip(np.asarray(v, np.float64) // STEP, -1, end).astype(np.int64) for v in (x, y))
        numbers = np.zeros(len(row), np.int32)
        for top, left, labels in self.tiles:
            r, c = row - top, column - left
            inside = (r >= 0) & (r < labels.shape[0]) & (c >= 0) & (c < labels.shape[1])
            here = labels[r[inside], c[inside]]
            numbers[inside] = np.where(here > 0, here, numbers[inside])
        return numbers

    def whole(self, rows: int, columns: int) -> np.ndarray:
        """All labels as one (rows, columns) int32 array."""
        whole = np.zeros((rows, columns), np.int32)
        for top, left, labels in self.tiles:
            part = whole[top : top + labels.shape[0], left : left + labels.shape[1]]
            part += labels[: part.shape[0], : part.shape[1]]
        return whole


LESION_COLUMNS = ["label", "itc", "length", "area", "x", "y"]


def lesion_map(
    annotation: Annotation, width: int | None = None, height: int | None = None, mpp: float = MPP
) -> LesionMap:
    """The lesions of a slide, exactly as the challenge's evaluator finds them in the full mask of level 5.

    Tumour grows by 37.5 microns (distance to the nearest tumour pixel < 75 / (mpp x 32 x 2) pixels), holes are filled,
    8-connected components are the lesions. A component whose major axis (of the ellipse with the same second moments)
    is below 275 / (mpp x 32) pixels is a group of isolated tumour cells (ITC).

    Polygons so far apart that their growth cannot meet are treated apart, so that neither time nor memory depends on
    the slide's size. Without `width` and `height` the map reaches as far as the lesions grow: the result is the same,
    but for a lesion that is cut by the right or lower border of its slide, whose length then counts growth beyond it.

    Args:
        annotation: its polygons.
        width: of the slide, level-0 pixels.
        height: of the slide, level-0 pixels.
        mpp: microns per level-0 pixel; the challenge uses 0.243 for all slides.
    """
    reach = GROWTH / (mpp * STEP)  # pixels
    end = [np.iinfo(np.int32).max if side is None else -(-side // STEP) for side in (width, height)]
    tiles: list[tuple[int, int, np.ndarray]] = []
    tables: list[pd.DataFrame] = []
    known = 0
    for left, top, right, bottom in _boxes(annotation.tumour, int(np.ceil(reach)) + 1, (end[0], end[1])):
        mask = _draw(annotation.polygons, (bottom - top, right - left), STEP, (left * STEP, top * STEP))
        if not mask.any():  # smaller than a pixel, or all cut out
            continue
        labels, table = _components(_filled(_grown(mask, reach)), mpp, (left, top))
        tables.append(table.assign(label=table["label"] + known))
        np.add(labels, known, out=labels, where=labels > 0)
        known += len(table)
        tiles.append((top, left, labels))
    empty = pd.DataFrame(columns=LESION_COLUMNS)
    table = pd.concat(tables, ignore_index=True) if tables else empty
    return LesionMap(tiles, table.astype({"label": int, "itc": bool}))


def _grown(mask: np.ndarray, reach: float) -> np.ndarray:
    """Everything nearer than `reach` pixels to a mask: uint8. Growing by a disc is the same as a map of distances."""
    span = int(np.ceil(reach))
    y, x = np.mgrid[-span : span + 1, -span : span + 1]
    disc = (np.sqrt(y**2 + x**2) < reach).astype(np.uint8)
    disc[span, span] = 1
    return cv2.dilate(mask.astype(np.uint8), disc, borderType=cv2.BORDER_CONSTANT, borderValue=0)


def _filled(mask: np.ndarray) -> np.ndarray:
    """A uint8 mask without its holes: what cannot be reached from outside by steps to the four sides."""
    outside = np.pad(mask, 1)
    cv2.floodFill(outside, None, (0, 0), 2, flags=4)
    filled: np.ndarray = (outside[1:-1, 1:-1] != 2).astype(np.uint8)
    return filled


def _components(mask: np.ndarray, mpp: float, corner: tuple[int, int]) -> tuple[np.ndarray, pd.DataFrame]:
    """8-connected components of a uint8 mask, numbered from 1, and their table.

    Length: the major axis of the ellipse with the same second moments. `corner`: (x, y) of the mask at level 5.
    """
    count, labels, boxes, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    rows = []
    for k in range(1, count):
        x, y, width, height, _ = boxes[k]
        moments = cv2.moments((labels[y : y + height, x : x + width] == k).astype(np.uint8), binaryImage=True)
        area = moments["m00"]
        xx, yy, xy = (moments[name] / area for name in ("mu20", "mu02", "mu11"))
        length = 4 * np.sqrt((xx + yy) / 2 + np.hypot((xx - yy) / 2, xy))
        rows.append(
            {
                "label": k,
                "itc": length < ITC_LENGTH / (mpp * STEP),
                "length": length * mpp * STEP,
                "area": area * (mpp * STEP / 1000) ** 2,
                "x": (corner[0] + x + moments["m10"] / area) * STEP,
                "y": (corner[1] + y + moments["m01"] / area) * STEP,
            }
        )
    return labels, pd.DataFrame(rows, columns=LESION_COLUMNS)


def _boxes(polygons: Sequence[Polygon], room: int, end: tuple[int, int]) -> list[tuple[int, int, int, int]]:
    """Boxes (left, top, right, bottom; level-5 pixels) around polygons with room to grow; no two of them meet."""
    boxes: list[tuple[int, int, int, int]] = []
    for polygon in polygons:
        if len(polygon.points) == 0:
            continue
        low, high = polygon.points.min(axis=0) / STEP, polygon.points.max(axis=0) / STEP
        left, top = (max(0, int(np.floor(v)) - room) for v in low)
        right, bottom = (min(e, int(np.ceil(v)) + 1 + room) for v, e in zip(high, end, strict=True))
        if left >= right or top >= bottom:
            continue
        box = (left, top, right, bottom)
        while True:  # a box that swallows another may meet a third one
            apart = [b for b in boxes if b[2] < box[0] or box[2] < b[0] or b[3] < box[1] or box[3] < b[1]]
            if len(apart) == len(boxes):
                break
            for b in boxes:
                if b not in apart:
                    box = (min(b[0], box[0]), min(b[1], box[1]), max(b[2], box[2]), max(b[3], box[3]))
            boxes = apart
        boxes.append(box)
    return sorted(boxes, key=lambda b: (b[1], b[0]))
