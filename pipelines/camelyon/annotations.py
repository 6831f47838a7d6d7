"""Outlines of metastases drawn in ASAP: read, checked, and turned into lesions, masks and GeoJSON.

Points are (x, y) in level-0 pixels. The challenge's README: groups `_0`, `_1` (in newer files `Tumor`) are tumour, `_2`
(`Exclusion`) is what was cut out of it again.

**From polygons to pixels.** The official masks are drawn at full resolution and every further level keeps every second
pixel, so that pixel (X, Y) of level 5 is pixel (32 X, 32 Y) of level 0. Here it is asked at once whether the level-0
point (32 X, 32 Y) lies inside: no mask larger than level 5 is ever made. Inside is what an outline runs around
(winding number other than 0); all tumour groups are drawn first, then all others cut out. A full-resolution fill that
rounds its vertices differs only at level-5 pixels whose point lies within a level-0 pixel of an outline.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd

from pipelines.shared.errors import DataError, listed
from pipelines.shared.run_folder import write_atomically

TUMOUR_GROUPS = ("Tumor", "_0", "_1")
OTHER_GROUPS = ("_2", "Exclusion", "None")  # not tumour, also where they lie inside of it

LEVEL = 5  # of the evaluation
STEP = 2**LEVEL  # level-0 pixels
MPP = 0.243  # microns per level-0 pixel, for all slides of the challenge
GROWTH = 75 / 2  # microns by which tumour grows on each side: five tumour cells are 75 microns
ITC_LENGTH = 275  # microns: shorter components are isolated tumour cells

OUTSIDE = 256  # level-0 pixels by which a hand may draw beyond the slide's border


@dataclass(frozen=True)
class Polygon:
    """A closed outline. `points`: (n, 2) float64, x and y in level-0 pixels; the last is joined to the first."""

    name: str
    group: str
    points: np.ndarray

    @property
    def tumour(self) -> bool:
        """Whether it surrounds tumour, or something that is none."""
        return self.group in TUMOUR_GROUPS


@dataclass(frozen=True)
class Annotation:
    """The polygons of one slide, and what was noticed while they were read."""

    file: Path
    polygons: list[Polygon]
    notes: list[str] = field(default_factory=list)

    @property
    def tumour(self) -> list[Polygon]:
        """The outlines of tumour."""
        return [p for p in self.polygons if p.tumour]


# --- reading ---


def read_annotation(file: Path, size: tuple[int, int] | None = None, strict: bool = True) -> Annotation:
    """Read an ASAP XML file.

    Args:
        file: the XML file.
        size: width and height of its slide in level-0 pixels; None: not known, only negative coordinates are outside.
        strict: refuse outlines that cross themselves, have fewer than three points or leave the slide by more than
            a hand's slip. Otherwise these become notes, and they are filled by the rule above (fewer than three points
            surround nothing). The official annotations have outlines that cross themselves.

    Raises:
        DataError: all problems of the file at once: no XML, no ASAP file, no annotation, unknown groups, coordinates
            that are no numbers, polygons outside the slide, and what `strict` refuses.
    """
    annotation, problems = check_annotation(file, size, strict)
    if problems or annotation is None:
        raise DataError(f"{file}: {len(problems)} problems.\n{listed(problems)}", REMEDY)
    return annotation


REMEDY = "Correct the file in ASAP, or give the XML file that belongs to this slide."


def check_annotation(
    file: Path, size: tuple[int, int] | None = None, strict: bool = True
) -> tuple[Annotation | None, list[str]]:
    """`read_annotation`, but problems are returned, so that those of many files can be told at once."""
    try:
        root = ElementTree.parse(file).getroot()
    except OSError as failure:
        return None, [f"cannot be read: {failure.strerror}"]
    except (ElementTree.ParseError, ValueError, LookupError) as failure:  # not well-formed, or an unknown encoding
        return None, ["is empty" if file.stat().st_size == 0 else f"is no XML: {failure}"]
    if root.tag != "ASAP_Annotations":
        return None, [f"is no ASAP annotation: its root is <{root.tag}>, expected <ASAP_Annotations>"]
    found = list(root.iter("Annotation"))
    if not found:
        return None, ["holds no annotation"]
    polygons: list[Polygon] = []
    problems: list[str] = []
    notes: list[str] = []
    for number, element in enumerate(found, start=1):
        name = element.get("Name") or f"annotation {number}"
        group = element.get("PartOfGroup", "None")
        points, wrong = _points(element)
        if group not in TUMOUR_GROUPS + OTHER_GROUPS:
            wrong.append(f"unknown group '{group}', allowed: {', '.join(TUMOUR_GROUPS + OTHER_GROUPS)}")
        problems += [f"{name}: {w}" for w in wrong]
        if wrong:
            continue
        fatal, doubtful = _doubts(points, size)
        problems += [f"{name}: {d}" for d in fatal + (doubtful if strict else [])]
        notes += [] if strict else [f"{file.name}, {name}: {d}" for d in doubtful]
        polygons.append(Polygon(name, group, points))
    return Annotation(file, polygons, notes), problems


def _points(element: ElementTree.Element) -> tuple[np.ndarray, list[str]]:
    """Coordinates in the order of their numbers."""
    found = list(element.iter("Coordinate"))
    try:
        order = [int(float(c.get("Order", i))) for i, c in enumerate(found)]
        # ASAP writes numbers as the computer's language does: 10.5 or 10,5.
        values = [[float(c.attrib[k].replace(",", ".")) for k in ("X", "Y")] for c in found]
    except (KeyError, ValueError) as failure:
        return np.empty((0, 2)), [f"a coordinate is missing or no number ({failure})"]
    points = np.array(values, dtype=np.float64).reshape(-1, 2)[np.argsort(order, kind="stable")]
    return points, [] if np.isfinite(points).all() else ["a coordinate is not finite"]


def _doubts(points: np.ndarray, size: tuple[int, int] | None) -> tuple[list[str], list[str]]:
    """What cannot be of this slide; and what may be a slip of the hand."""
    if len(points) < 3:
        return [], [f"has {len(points)} points, an outline needs three"]
    low, high = points.min(axis=0), points.max(axis=0)
    end = np.array([np.inf, np.inf]) if size is None else np.array(size, dtype=float)
    slide = "the slide" if size is None else f"the slide of {size[0]} x {size[1]} pixels"
    where = f"x {low[0]:.0f} to {high[0]:.0f}, y {low[1]:.0f} to {high[1]:.0f}"
    if (high < 0).any() or (low >= end).any():
        return [f"lies outside {slide} ({where}): it is of another slide"], []
    doubts = []
    if (low < -OUTSIDE).any() or (high > end + OUTSIDE).any():
        doubts.append(f"reaches far outside {slide} ({where}): perhaps it is of another slide")
    crossing = first_crossing(points)
    if crossing is not None:
        doubts.append(f"crosses itself near x {crossing[0]:.0f}, y {crossing[1]:.0f}")
    return [], doubts


def first_crossing(points: np.ndarray) -> np.ndarray | None:
    """Where two sides of a polygon cross (the end of one of them), or None. Sides that only touch don't cross.

    Sides are sorted by their left ends and each is compared with those that begin before it ends.
    """
    a, b = points, np.roll(points, -1, axis=0)
    left, right = np.minimum(a[:, 0], b[:, 0]), np.maximum(a[:, 0], b[:, 0])
    order = np.argsort(left, kind="stable")
    a, b, left, right = a[order], b[order], left[order], right[order]
    active = np.arange(len(points) - 1)
    for distance in range(1, len(points)):
        active = active[active + distance < len(points)]
        active = active[left[active + distance] <= right[active]]
        if len(active) == 0:
            return None
        i, j = active, active + distance
        cross = (_side(a[i], b[i], a[j]) * _side(a[i], b[i], b[j]) < 0) & (
            _side(a[j], b[j], a[i]) * _side(a[j], b[j], b[i]) < 0
        )
        if cross.any():
            where: np.ndarray = a[i[cross][0]]
            return where
    return None


def _side(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """On which side of the lines a-b the points c lie: -1, 0, 1."""
    return np.sign((b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0]))


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
    side = np.repeat(np.arange(len(points)), count)
    row = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + first[side]
    crossing = x[side] + (row - y[side]) * (x_next[side] - x[side]) / (y_next[side] - y[side])
    column = np.clip(np.ceil(crossing), 0, columns).astype(np.int64)
    # What lies right of a side is once more (or once less) surrounded.
    change = np.zeros((rows, columns + 1), np.int32)
    np.add.at(change, (row, column), np.where(y_next[side] > y[side], 1, -1).astype(np.int32))
    return np.cumsum(change[:, :columns], axis=1, dtype=np.int32)


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
    """Only the polygon's own box of the mask is touched."""
    low = np.floor((polygon.points.min(axis=0) - origin) / step)
    high = np.ceil((polygon.points.max(axis=0) - origin) / step) + 1
    rows, columns = mask.shape
    (left, top), (right, bottom) = (np.clip(v, 0, (columns, rows)).astype(int) for v in (low, high))
    if left >= right or top >= bottom:
        return
    corner = (origin[0] + left * step, origin[1] + top * step)
    inside = windings(polygon.points, (bottom - top, right - left), step, corner) != 0
    mask[top:bottom, left:right][inside] = value


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
        column, row = (np.floor_divide(np.asarray(v, np.float64), STEP).astype(np.int64) for v in (x, y))
        found = np.zeros(len(row), np.int32)
        for top, left, labels in self.tiles:
            r, c = row - top, column - left
            inside = (r >= 0) & (r < labels.shape[0]) & (c >= 0) & (c < labels.shape[1])
            here = labels[r[inside], c[inside]]
            found[inside] = np.where(here > 0, here, found[inside])
        return found

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
    from scipy import ndimage
    from skimage import measure

    reach = GROWTH / (mpp * STEP)  # pixels
    end = [np.iinfo(np.int32).max if side is None else -(-side // STEP) for side in (width, height)]
    tiles: list[tuple[int, int, np.ndarray]] = []
    rows: list[tuple[Any, ...]] = []
    for left, top, right, bottom in _boxes(annotation.tumour, int(np.ceil(reach)) + 1, (end[0], end[1])):
        shape = (bottom - top, right - left)
        mask = _draw(annotation.polygons, shape, STEP, (left * STEP, top * STEP))
        if not mask.any():  # smaller than a pixel, or all cut out
            continue
        grown = ndimage.distance_transform_edt(~mask) < reach
        labels = measure.label(ndimage.binary_fill_holes(grown), connectivity=2).astype(np.int32)
        for region in measure.regionprops(labels):
            length = float(region.axis_major_length)
            y, x = region.centroid
            rows.append(
                (
                    len(rows) + 1,
                    length < ITC_LENGTH / (mpp * STEP),
                    length * mpp * STEP,
                    float(region.area) * (mpp * STEP / 1000) ** 2,
                    (left + x) * STEP,
                    (top + y) * STEP,
                )
            )
        labels[labels > 0] += len(rows) - labels.max()
        tiles.append((top, left, labels))
    table = pd.DataFrame(rows, columns=LESION_COLUMNS).astype({"label": int, "itc": bool})
    return LesionMap(tiles, table)


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


# --- GeoJSON ---


def write_geojson(
    file: Path,
    polygons: Iterable[Polygon] = (),
    regions: Iterable[Sequence[np.ndarray]] = (),
    detections: pd.DataFrame | None = None,
) -> None:
    """A file that QuPath opens (drag it onto the slide): annotations with names and classes.

    Args:
        file: where to write.
        polygons: outlines by people.
        regions: regions of a heatmap, each its outer ring and the rings of its holes, (n, 2) level-0 pixels, as
            `lesions.outlines` gives them.
        detections: `probability`, `x`, `y` (level-0 pixels): points with their probability as a measurement.
    """
    features = [
        _feature("Polygon", [_ring(p.points)], p.name, "Tumor" if p.tumour else "Other", {})
        for p in polygons
        if len(p.points) >= 3
    ]
    features += [
        _feature("Polygon", [_ring(ring) for ring in rings], f"Region {i}", "Tumor", {})
        for i, rings in enumerate(regions, start=1)
    ]
    if detections is not None:
        values = detections[["probability", "x", "y"]].to_numpy(float).tolist()
        features += [
            _feature("Point", [x, y], f"Detection {i}", "Detection", {"Probability": p})
            for i, (p, x, y) in enumerate(values, start=1)
        ]
    text = json.dumps({"type": "FeatureCollection", "features": features}, allow_nan=False)
    write_atomically(file, lambda aside: aside.write_text(text, encoding="utf-8"))


COLOURS = {"Tumor": [200, 0, 0], "Other": [0, 130, 60], "Detection": [0, 90, 200]}


def _ring(points: np.ndarray) -> list[list[float]]:
    """A closed ring, as GeoJSON wants it: the first point once more at the end."""
    ring = np.asarray(points, float).round(2).tolist()
    return [*ring, ring[0]] if ring[0] != ring[-1] else ring


def _feature(kind: str, coordinates: Any, name: str, of_class: str, measurements: dict[str, float]) -> dict[str, Any]:
    return {
        "type": "Feature",
        "geometry": {"type": kind, "coordinates": coordinates},
        "properties": {
            "objectType": "annotation",
            "name": name,
            "classification": {"name": of_class, "color": COLOURS[of_class]},
            "measurements": measurements,
        },
    }
