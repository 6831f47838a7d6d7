"""Outlines of metastases drawn in ASAP: read and checked.

Points are (x, y) in level-0 pixels. The challenge's README: groups `_0`, `_1` (in newer files `Tumor`) are tumour, `_2`
(`Exclusion`) is what was cut out of it again. What other groups mean is said in the configuration, never guessed.

A file is read element by element, without a tree: how deep it is nested and what it declares cost nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.parsers import expat

import numpy as np

from pipelines.camelyon.outlines import doubts_about, strays
from pipelines.shared.errors import DataError

TUMOUR_GROUPS = ("Tumor", "_0", "_1")
OTHER_GROUPS = ("_2", "Exclusion", "None")  # not tumour, also where they lie inside of it
MEANING = {"tumor": "Tumor", "other": "Exclusion"}  # words of data.annotation_groups -> the group that they stand for
AREAS = ("Polygon", "Spline", "Rectangle")  # types that surround something; others are points and lines

MPP = 0.243  # microns per level-0 pixel, for all slides of the challenge

BEYOND_REASON = 1e9  # level-0 pixels, whatever the slide
LARGEST_FILE = 2**28  # bytes
DEEPEST = 100  # elements within each other; ASAP's are four


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

    `notes` name the outline and its place; `kinds` say the same without names and numbers, so that they can be counted.
    """

    file: Path
    polygons: list[Polygon]
    notes: list[str] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)

    @property
    def tumour(self) -> list[Polygon]:
        """The outlines of tumour."""
        return [p for p in self.polygons if p.tumour]


REMEDY = "Correct the file in ASAP, or give the XML file that belongs to this slide."


def check_annotation(
    file: Path,
    size: tuple[int, int] | None = None,
    strict: bool = True,
    mpp: float = MPP,
    groups: Mapping[str, str] | None = None,
) -> tuple[Annotation | None, list[str]]:
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

    Returns:
        The annotation, None where the file is none, and all problems, so that those of many files can be told at once:
        no XML, no ASAP file, no annotation, unknown groups, coordinates that are no numbers, outlines outside the
        slide, and what `strict` refuses.
    """
    annotation, problems, doubts = _parsed(file, groups)
    if annotation is None:
        return None, problems
    for polygon in annotation.polygons:
        fatal, odd = doubts_about(polygon.points, size, mpp)
        problems += [f"{polygon.name}: {text}" for text in fatal]
        doubts += [(polygon.name, kind, text) for kind, text in odd]
    if size is None:
        problems += strays([(p.name, p.points) for p in annotation.polygons], mpp)
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

# Kinds of doubts, counted over all slides.
EMPTY = "an annotation without any point was passed over"
NO_AREA = "a point, a line or an outline of fewer than three points was passed over"


Texts = list[str | None]


class _Refused(Exception):
    """Why a file is not read on."""


class _Reader:
    """Collects the annotations of a file, each with its attributes and its coordinates, as text: Order, X and Y."""

    def __init__(self) -> None:
        self.root = ""
        self.annotations: list[tuple[dict[str, str], Texts, Texts, Texts]] = []
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
            self.annotations.append((attributes, [], [], []))
        elif tag == "Coordinate" and self._inside:
            _, order, x, y = self.annotations[-1]
            order.append(attributes.get("Order", str(len(order))))  # without a number it stands where it is
            x.append(attributes.get("X"))
            y.append(attributes.get("Y"))

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
    for number, (attributes, *coordinates) in enumerate(reader.annotations, start=1):
        name = _short(attributes.get("Name", "")) or f"annotation {number}"
        group = attributes.get("PartOfGroup", "").strip() or "None"
        kind = attributes.get("Type", "").strip() or "Polygon"
        if not coordinates[0]:
            doubts.append((name, EMPTY, "has no point at all: it was passed over"))
            continue
        points, wrong = _points(*coordinates)
        if group not in known:
            wrong.append(
                f"unknown group '{_short(group)}', allowed: {', '.join(known)}; say what it is with "
                f"{_as_key(_short(group))} (or other)"
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


def _as_key(group: str) -> str:
    """The configuration that gives a group its meaning, as it is typed."""
    if re.fullmatch(r"[A-Za-z0-9_ .-]+", group):
        return f"'data.annotation_groups={{{group}: tumor}}'"
    name = json.dumps(group, ensure_ascii=False).replace('"', '\\"').replace("'", r"\u0027")
    return f"""'data.annotation_groups="{{{name}: tumor}}"'"""


def _short(text: str) -> str:
    """One line of a few words, whatever a file holds."""
    text = " ".join(text.split())
    return text if len(text) <= 60 else text[:57] + "..."


def _points(orders: Texts, x: Texts, y: Texts) -> tuple[np.ndarray, list[str]]:
    """(n, 2) in the order of their numbers."""
    try:
        order = _numbers(orders)
        points = np.column_stack([_numbers(x), _numbers(y)])
    except ValueError as failure:
        return np.empty((0, 2)), [f"a coordinate is missing or no number ({failure})"]
    if not np.isfinite(order).all():
        return points, ["the Order of a coordinate is not finite"]
    if not np.isfinite(points).all():
        return points, ["a coordinate is not finite"]
    if np.abs(points).max() > BEYOND_REASON:
        return points, [f"a coordinate is beyond reason ({np.abs(points).max():.3g})"]
    return points[np.argsort(order, kind="stable")], []


def _numbers(texts: Texts) -> np.ndarray:
    """ASAP writes numbers as the computer's language does: 10.5 or 10,5."""
    if None in texts:
        raise ValueError("missing")
    try:
        if "_" in "".join(texts):  # type: ignore[arg-type]  # Python would read 1_0 as 10
            raise ValueError
        return np.fromiter(map(float, texts), np.float64, len(texts))  # type: ignore[arg-type]
    except ValueError:
        return np.array([_number(str(text)) for text in texts])


def _number(text: str) -> float:
    try:
        if "_" in text:
            raise ValueError
        return float(text.replace(",", "."))
    except ValueError:
        raise ValueError(f"'{_short(text)}'") from None
