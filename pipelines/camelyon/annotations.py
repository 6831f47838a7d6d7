"""Outlines of metastases drawn in ASAP: read and checked.

Points are (x, y) in level-0 pixels. The challenge's README: groups `_0`, `_1` (in newer files `Tumor`) are tumour, `_2`
(`Exclusion`) is what was cut out of it again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from pipelines.shared.errors import DataError, listed

TUMOUR_GROUPS = ("Tumor", "_0", "_1")
OTHER_GROUPS = ("_2", "Exclusion", "None")  # not tumour, also where they lie inside of it

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
