"""Outlines of metastases drawn in ASAP: read and checked.

Points are (x, y) in level-0 pixels. The challenge's README: groups `_0`, `_1` (in newer files `Tumor`) are tumour, `_2`
(`Exclusion`) is what was cut out of it again. What other groups mean is said in the configuration, never guessed.

A file is read element by element, without a tree: how deep it is nested and what it declares cost nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.parsers import expat

import numpy as np

from pipelines.shared.errors import DataError, listed

TUMOUR_GROUPS = ("Tumor", "_0", "_1")
OTHER_GROUPS = ("_2", "Exclusion", "None")  # not tumour, also where they lie inside of it
MEANING = {"tumor": "Tumor", "other": "Exclusion"}  # words of data.annotation_groups -> the group that they stand for
AREAS = ("Polygon", "Spline", "Rectangle")  # types that surround something; others are points and lines

MPP = 0.243  # microns per level-0 pixel, for all slides of the challenge

OUTSIDE = 256  # level-0 pixels by which a hand may draw beyond the slide's border
# What no slide and no hand does, where the slide's size is not known:
LARGEST_SIDE = 500_000  # level-0 pixels
GLASS = (52.0, 76.0)  # mm: short and long side of the largest glass
GAP = 30.0  # mm between neighbouring outlines: two sections on one glass are nearer to each other
SPIKE = (2.0, 8.0)  # mm, and times the median distance: how far one corner may lie from the middle of its outline

BEYOND_REASON = 1e9  # level-0 pixels, whatever the slide
LARGEST_FILE = 2**28  # bytes
DEEPEST = 100  # elements within each other; ASAP's are four
PAIRS = 30_000_000  # pairs of sides that are compared in the search for crossings


@dataclass(frozen=True)
class Polygon:
    """A closed outline. `points`: (n, 2) float64, x and y in level-0 pixels; the last is joined to the first.

    `group` is the file's, or what `data.annotation_groups` says that it stands for.
    """

    name: str
    group: str
    points: np.ndarray

    @property
    def tumour(self) -> bool:
        """Whether it surrounds tumour, or something that is none."""
        return self.group in TUMOUR_GROUPS


@dataclass(frozen=True)
class Annotation:
    """The outlines of one slide, and what was noticed while they were read.

    `notes` name the outline and its place; `kinds` say the same without numbers, so that they can be counted.
    """

    file: Path
    polygons: list[Polygon]
    notes: list[str] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)

    @property
    def tumour(self) -> list[Polygon]:
        """The outlines of tumour."""
        return [p for p in self.polygons if p.tumour]


def read_annotation(
    file: Path,
    size: tuple[int, int] | None = None,
    strict: bool = True,
    mpp: float = MPP,
    groups: Mapping[str, str] | None = None,
) -> Annotation:
    """Read an ASAP XML file. An annotation without any point (a click without a drawing) is passed over with a note.

    Args:
        file: the XML file.
        size: width and height of its slide in level-0 pixels; None: not known, and then outlines that are larger than
            any slide, lie far from all others, or have one corner far from all others, are problems.
        strict: refuse outlines that cross themselves, have fewer than three points or leave the slide by more than
            a hand's slip, and points and lines instead of outlines. Otherwise these become notes, and outlines are
            filled as they run. The official annotations have outlines that cross themselves.
        mpp: microns per level-0 pixel.
        groups: what groups of other names stand for: `tumor` or `other` (`data.annotation_groups`).

    Raises:
        DataError: all problems of the file at once: no XML, no ASAP file, no annotation, unknown groups, coordinates
            that are no numbers, outlines outside the slide, and what `strict` refuses.
    """
    annotation, problems = check_annotation(file, size, strict, mpp, groups)
    if problems or annotation is None:
        raise DataError(f"{file}: {len(problems)} problems.\n{listed(problems)}", REMEDY)
    return annotation


REMEDY = "Correct the file in ASAP, or give the XML file that belongs to this slide."


def check_annotation(
    file: Path,
    size: tuple[int, int] | None = None,
    strict: bool = True,
    mpp: float = MPP,
    groups: Mapping[str, str] | None = None,
) -> tuple[Annotation | None, list[str]]:
    """`read_annotation`, but problems are returned, so that those of many files can be told at once."""
    annotation, problems, doubts = _parsed(file, groups)
    if annotation is None:
        return None, problems
    for polygon in annotation.polygons:
        fatal, odd = _doubts(polygon.points, size, mpp)
        problems += [f"{polygon.name}: {text}" for text in fatal]
        doubts += [(polygon.name, kind, text) for kind, text in odd]
    if size is None:
        problems += _strays(annotation.polygons, mpp)
    for name, kind, text in doubts:
        if strict and kind != EMPTY:
            problems.append(f"{name}: {text}")
        else:
            annotation.notes.append(f"{file.name}, {name}: {text}")
            annotation.kinds.append(kind)
    return annotation, problems


def outlines_of(file: Path, groups: Mapping[str, str] | None = None) -> Annotation:
    """The outlines of a file that was checked before."""
    annotation, problems, _ = _parsed(file, groups)
    if annotation is None:
        raise DataError(f"{file} {'; '.join(problems)}.", REMEDY)
    return annotation


# --- the file ---

EMPTY = "An annotation without any point was passed over."
NO_AREA = "A point, a line or an outline of fewer than three points was passed over."
CROSSING = "An outline crosses itself; it was filled as it runs."
UNSEARCHED = "An outline has too many corners to look for crossings."
BEYOND = "An outline reaches far outside its slide."
SPIKED = "One corner of an outline lies far from all others."


class _Refused(Exception):
    """Why a file is not read on."""


class _Reader:
    """Collects the annotations of a file, each with its attributes and its coordinates (Order, X, Y), as text."""

    def __init__(self) -> None:
        self.root = ""
        self.annotations: list[tuple[dict[str, str], list[tuple[str | None, ...]]]] = []
        self._depth = 0
        self._inside = False

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._depth == 1:
            self.root = tag
            if tag != "ASAP_Annotations":
                raise _Refused(f"is no ASAP annotation: its root is <{_short(tag)}>, expected <ASAP_Annotations>")
        elif self._depth > DEEPEST:
            raise _Refused(f"nests more than {DEEPEST} elements within each other, which ASAP never does")
        elif tag == "Annotation":
            self._inside = True
            self.annotations.append((attributes, []))
        elif tag == "Coordinate" and self._inside:
            self.annotations[-1][1].append((attributes.get("Order"), attributes.get("X"), attributes.get("Y")))

    def end(self, tag: str) -> None:
        self._depth -= 1
        if tag == "Annotation":
            self._inside = False

    def entity(self, name: str, *_: Any) -> None:
        raise _Refused(f"declares an entity ({_short(name)}), which ASAP never does")


def _parsed(
    file: Path, groups: Mapping[str, str] | None
) -> tuple[Annotation | None, list[str], list[tuple[str, str, str]]]:
    """The outlines of a file, its problems, and its doubts (name, kind, text)."""
    reader = _Reader()
    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = reader.start, reader.end
    parser.EntityDeclHandler = reader.entity
    try:
        size = file.stat().st_size
        if size > LARGEST_FILE:
            return None, [f"is larger than {LARGEST_FILE >> 20} MiB, which no annotation is"], []
        with file.open("rb") as content:
            parser.ParseFile(content)
    except OSError as failure:
        return None, [f"cannot be read: {failure.strerror}"], []
    except _Refused as reason:
        return None, [str(reason)], []
    except (expat.ExpatError, ValueError, LookupError) as failure:
        return None, ["is empty" if size == 0 else _no_xml(file, failure)], []
    if not reader.annotations:
        return None, ["holds no annotation"], []
    known = {name: name for name in TUMOUR_GROUPS + OTHER_GROUPS}
    known |= {name: MEANING[word] for name, word in (groups or {}).items()}
    polygons: list[Polygon] = []
    problems: list[str] = []
    doubts: list[tuple[str, str, str]] = []
    for number, (attributes, coordinates) in enumerate(reader.annotations, start=1):
        name = _short(attributes.get("Name", "")) or f"annotation {number}"
        group = attributes.get("PartOfGroup", "").strip() or "None"
        kind = attributes.get("Type", "").strip() or "Polygon"
        if not coordinates:
            doubts.append((name, EMPTY, "has no point at all: it was passed over"))
            continue
        points, wrong = _points(coordinates)
        if group not in known:
            word = _short(group)
            wrong.append(
                f"unknown group '{word}', allowed: {', '.join(known)}; say what it is with "
                f"'data.annotation_groups={{{word}: tumor}}' (or other)"
            )
        problems += [f"{name}: {w}" for w in wrong]
        if wrong:
            continue
        if kind not in AREAS:
            doubts.append((name, NO_AREA, f"is a {_short(kind)}, which surrounds nothing"))
        elif len(points) < 3:
            doubts.append((name, NO_AREA, f"has {len(points)} points, an outline needs three"))
        else:
            polygons.append(Polygon(name, known[group], points))
    return Annotation(file, polygons), problems, doubts


def _no_xml(file: Path, failure: Exception) -> str:
    """Why a file cannot be parsed; most often it is in an encoding that it does not name."""
    if not isinstance(failure, expat.ExpatError):
        return f"is no XML that can be read: {failure}; save it as UTF-8"
    try:
        file.read_bytes().decode("utf-8")
    except UnicodeDecodeError as wrong:
        return f"is no XML: {failure}; it is not UTF-8 either (byte {wrong.start}), save it so"
    return f"is no XML: {failure}"


def _short(text: str) -> str:
    """One line of a few words, whatever a file holds."""
    text = " ".join(text.split())
    return text if len(text) <= 60 else text[:57] + "..."


def _points(coordinates: Sequence[tuple[str | None, ...]]) -> tuple[np.ndarray, list[str]]:
    """(n, 2) in the order of their numbers; coordinates without a number stand where they are."""
    try:
        order = [float(i) if c[0] is None else _number(c[0]) for i, c in enumerate(coordinates)]
        values = [(_number(x), _number(y)) for _, x, y in coordinates]
    except ValueError as failure:
        return np.empty((0, 2)), [f"a coordinate is missing or no number ({failure})"]
    points = np.array(values, dtype=np.float64)
    if not (np.isfinite(points).all() and np.isfinite(order).all()):
        return points, ["a coordinate is not finite"]
    if np.abs(points).max() > BEYOND_REASON:
        return points, [f"a coordinate is beyond reason ({np.abs(points).max():.3g})"]
    return points[np.argsort(order, kind="stable")], []


def _number(text: str | None) -> float:
    """ASAP writes numbers as the computer's language does: 10.5 or 10,5."""
    try:
        if text is None or "_" in text:  # Python would read 1_0 as 10
            raise ValueError
        return float(text.replace(",", "."))
    except ValueError:
        raise ValueError("missing" if text is None else f"'{_short(text)}'") from None


# --- doubts ---


def _doubts(points: np.ndarray, size: tuple[int, int] | None, mpp: float) -> tuple[list[str], list[tuple[str, str]]]:
    """What cannot be of this slide; and (kind, text) of what may be a slip of the hand."""
    low, high = points.min(axis=0), points.max(axis=0)
    end = np.array([np.inf, np.inf]) if size is None else np.array(size, dtype=float)
    slide = "the slide" if size is None else f"the slide of {size[0]} x {size[1]} pixels"
    where = f"x {low[0]:.0f} to {high[0]:.0f}, y {low[1]:.0f} to {high[1]:.0f}"
    if (high < 0).any() or (low >= end).any():
        return [f"lies outside {slide} ({where}): it is of another slide"], []
    beyond = (points < -OUTSIDE).any(axis=1) | (points > end + OUTSIDE).any(axis=1)
    fatal, doubts = [], []
    far = _spike(points, mpp)
    if far is not None:
        x, y = points[far]
        text = f"its corner number {far} (x {x:.0f}, y {y:.0f}) lies far from all others: a digit too many?"
        if size is None or beyond[far]:
            fatal.append(text)
        else:
            doubts.append((SPIKED, text))
    elif size is None and not _on_glass(high, mpp):
        fatal.append(
            f"reaches further than any slide ({where}, at {mpp:g} microns per pixel {high[0] * mpp / 1000:.0f} x "
            f"{high[1] * mpp / 1000:.0f} mm)"
        )
    if beyond.any() and not fatal:
        doubts.append((BEYOND, f"reaches far outside {slide} ({where}): perhaps it is of another slide"))
    if fatal:
        return fatal, doubts
    try:
        crossing = first_crossing(points)
    except OverflowError:
        return fatal, [*doubts, (UNSEARCHED, f"has {len(points):,} corners, too many to look for crossings")]
    if crossing is not None:
        doubts.append((CROSSING, f"crosses itself near x {crossing[0]:.0f}, y {crossing[1]:.0f}"))
    return fatal, doubts


def _spike(points: np.ndarray, mpp: float) -> int | None:
    """The corner that lies furthest from the middle of its outline, if no hand drew it there."""
    distance = np.hypot(*(points - np.median(points, axis=0)).T)
    furthest = int(distance.argmax())
    far = distance[furthest] * mpp / 1000 > SPIKE[0] and distance[furthest] > SPIKE[1] * np.median(distance)
    return furthest if far else None


def _on_glass(corner: np.ndarray, mpp: float) -> bool:
    """Whether a slide may reach to a point (2,)."""
    millimetres = np.sort(corner) * mpp / 1000
    return bool((millimetres <= GLASS).all() and corner.max() <= LARGEST_SIDE)


def _strays(polygons: Sequence[Polygon], mpp: float) -> list[str]:
    """Outlines that a wide gap divides from all others, along x or y; of the two sides the one with fewer."""
    if len(polygons) < 2:
        return []
    low = np.array([p.points.min(axis=0) for p in polygons])
    high = np.array([p.points.max(axis=0) for p in polygons])
    problems = {}
    for axis, name in enumerate("xy"):
        order = np.argsort(low[:, axis], kind="stable")
        reach = np.maximum.accumulate(high[order, axis])[:-1]
        gap = (low[order[1:], axis] - reach) * mpp / 1000
        for i in np.flatnonzero(gap > GAP):
            few = order[: i + 1] if i + 1 < len(order) - i - 1 else order[i + 1 :]
            for k in few:
                problems[int(k)] = (
                    f"{polygons[k].name}: lies far from all others ({gap[i]:.0f} mm along {name}, at {mpp:g} microns "
                    "per pixel): a digit too many, or an outline of another slide?"
                )
    return [problems[k] for k in sorted(problems)]


def first_crossing(points: np.ndarray) -> np.ndarray | None:
    """Where two sides of a polygon cross (the end of one of them), or None. Sides that only touch don't cross.

    Sides are sorted by their left ends and each is compared with those that begin before it ends.

    Raises:
        OverflowError: more than `PAIRS` pairs would have to be compared.
    """
    a, b = points, np.roll(points, -1, axis=0)
    left, right = np.minimum(a[:, 0], b[:, 0]), np.maximum(a[:, 0], b[:, 0])
    order = np.argsort(left, kind="stable")
    a, b, left, right = a[order], b[order], left[order], right[order]
    active = np.arange(len(points) - 1)
    pairs = 0
    for distance in range(1, len(points)):
        active = active[active + distance < len(points)]
        active = active[left[active + distance] <= right[active]]
        if len(active) == 0:
            return None
        pairs += len(active)
        if pairs > PAIRS:
            raise OverflowError
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
