"""Draws a synthetic head in Hounsfield units at any points of space, so that slices may lie as they like.

Coordinates are mm from the head's centre: x to the left side, y to the back, z to the crown. Everything is a formula of
the point: a tilted or uneven stack of slices cuts the same head.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.random import Generator

AIR, SCALP, BONE, GREY, WHITE, CSF, BLOOD = -1000.0, 30.0, 950.0, 37.0, 29.0, 7.0, 66.0
SKULL, SKIN = 6.0, 5.0  # mm
CRITICAL = [
    "epidural", "subdural", "subarachnoid", "intraparenchymal", "intraventricular", "infarct", "mass", "fracture",
    "hydrocephalus",
]  # fmt: skip
INCIDENTAL = ["atrophy", "small_vessel_disease", "calcification", "lacune", "scalp_swelling", "sinus_disease"]
SHIFTS = {"epidural": 7.0, "subdural": 11.0, "intraparenchymal": 8.0, "mass": 7.0, "infarct": 5.0}  # mm at severity 1


@dataclass(frozen=True)
class Finding:
    """Something in the head. `severity` from 0 (hardly there) to 1; `side` -1 right, 1 left."""

    kind: str
    severity: float
    side: int
    place: tuple[float, float, float]  # direction of its centre, or position, by kind


@dataclass(frozen=True)
class Head:
    """A head: inner half axes of the skull (mm), ventricles and sulci relative to normal, findings."""

    axes: tuple[float, float, float]
    ventricles: float
    sulci: float
    folds: tuple[float, float, float, float]
    findings: list[Finding] = field(default_factory=list)

    @property
    def shift(self) -> float:
        """Midline shift in mm, positive to the left side."""
        return -sum(f.side * SHIFTS.get(f.kind, 0.0) * max(0.0, f.severity - 0.35) / 0.65 for f in self.findings)


def draw_head(rng: Generator, findings: list[Finding]) -> Head:
    """A head of ordinary proportions around given findings."""
    kinds = {f.kind: f for f in findings}
    atrophy = kinds["atrophy"].severity if "atrophy" in kinds else 0.0
    water = kinds["hydrocephalus"].severity if "hydrocephalus" in kinds else 0.0
    scale = float(rng.normal(1.0, 0.04))
    return Head(
        axes=(68 * scale, 85 * scale * float(rng.normal(1, 0.02)), 72 * scale),
        ventricles=float(rng.normal(1.0, 0.08)) + 0.35 * atrophy + (0.35 + 1.0 * water if water else 0.0),
        sulci=float(rng.normal(1.0, 0.15)) + 0.8 * atrophy - 0.5 * water,
        folds=tuple(float(v) for v in rng.uniform(0, 2 * np.pi, 4)),  # type: ignore[arg-type]
        findings=findings,
    )


def draw_finding(rng: Generator, kind: str, severity: float) -> Finding:
    """A finding at a place where its kind occurs."""
    side = int(rng.choice([-1, 1]))
    if kind in ("epidural", "subdural", "fracture", "scalp_swelling"):
        angle, height = rng.uniform(-1.0, 1.2), rng.uniform(0.0, 0.6)  # on the convexity
        place = (side * np.cos(angle) * np.cos(height), np.sin(angle) * np.cos(height), np.sin(height))
    elif kind in ("intraparenchymal", "mass", "lacune"):
        place = (side * rng.uniform(22, 42), rng.uniform(-45, 45), rng.uniform(-8, 38))
    else:
        place = (float(side), rng.uniform(-0.8, 0.9), rng.uniform(0.0, 0.5))
    return Finding(kind, severity, side, tuple(float(v) for v in place))  # type: ignore[arg-type]


def hounsfield(head: Head, x: np.ndarray, y: np.ndarray, z: np.ndarray, contrast: float) -> tuple[Any, Any]:
    """HU (float32) and the mask of critical findings (bool) at points of one shape. `contrast` scales lesions."""
    a, b, c = head.axes
    r = np.sqrt((x / a) ** 2 + (y / b) ** 2 + (z / c) ** 2)
    depth = (1 - r) * (a + b + c) / 3  # mm below the inner table, negative outside
    inside = depth > 0
    xs = x - head.shift * np.exp(-((x / 40) ** 2)) * inside  # the brain pushed to one side
    hu = np.full(x.shape, AIR, np.float32)
    mask = np.zeros(x.shape, bool)
    hu[(depth > -SKULL - SKIN) & (depth <= -SKULL)] = SCALP
    skull = (depth > -SKULL) & ~inside
    hu[skull] = BONE - 350 * (np.abs(depth[skull] + SKULL / 2) < 1.2)
    fluid = _fluid(head, xs, y, z, depth) & inside
    ventricle = _ventricles(head, xs, y, z) & inside
    grey = (depth < 5) | (((np.abs(xs) - 24) / 11) ** 2 + ((y + 2) / 20) ** 2 + ((z - 4) / 14) ** 2 < 1)
    hu[inside] = np.where(grey, GREY, WHITE)[inside]
    hu[fluid | ventricle] = CSF
    falx = (np.abs(xs) < 1.0) & inside & (z > 2) & (depth < 32)
    hu[falx] = 52
    for finding in head.findings:
        _DRAW.get(finding.kind, _nothing)(head, finding, hu, mask, (xs, y, z, depth, fluid, ventricle), contrast)
    return hu, mask


def _fluid(head: Head, x: Any, y: Any, z: Any, depth: Any) -> Any:
    """Sulci and basal cisterns."""
    f = head.folds
    angle = np.arctan2(y, x)
    wave = np.sin(13 * angle + f[0] + z / 9) + np.sin(z / 5.5 + f[1] + 3 * np.sin(4 * angle + f[2]))
    sulci = (depth < 13) & (wave > 1.45 - 0.45 * head.sulci)
    rim = depth < 1.2 * head.sulci
    cistern = (((x / 15) ** 2 + ((y + 8) / 12) ** 2 + ((z + 24) / 7) ** 2) < 1) & (
        np.abs(np.sin(3 * angle + f[3])) > 0.5
    )
    return sulci | rim | cistern


def _ventricles(head: Head, x: Any, y: Any, z: Any) -> Any:
    v = head.ventricles
    lateral = ((np.abs(x) - 9 - y / 14) / (5.0 * v)) ** 2 + ((y - 2) / (31 * v**0.4)) ** 2 + ((z - 13) / (9 * v)) ** 2
    third = (x / (2.0 * v)) ** 2 + ((y - 2) / 13) ** 2 + ((z + 4) / 9) ** 2
    return (lateral < 1) | (third < 1)


def _surface(head: Head, finding: Finding, p: Any) -> tuple[Any, Any]:
    """Distance (mm) along the inner table from the finding's centre, and depth below it."""
    direction = np.array(finding.place) / np.linalg.norm(finding.place)
    x, y, z, depth = p[:4]
    a, b, c = head.axes
    length = np.sqrt((x / a) ** 2 + (y / b) ** 2 + (z / c) ** 2) + 1e-6
    cosine = (x / a * direction[0] + y / b * direction[1] + z / c * direction[2]) / length
    return np.arccos(np.clip(cosine, -1, 1)) * (a + b + c) / 3, depth


def _nothing(*_: Any) -> None:
    """Of findings that are drawn with the head itself."""


def _paint(hu: Any, mask: Any, where: Any, value: float, critical: bool = True) -> None:
    hu[where] = value
    if critical:
        mask |= where


def _epidural(head: Head, f: Finding, hu: Any, mask: Any, p: Any, contrast: float) -> None:
    along, depth = _surface(head, f, p)
    thick, wide = 6 + 18 * f.severity, 18 + 18 * f.severity
    where = (depth > 0) & ((depth / thick) ** 2 + (along / wide) ** 2 < 1)
    _paint(hu, mask, where, GREY + (BLOOD - GREY) * contrast)


def _subdural(head: Head, f: Finding, hu: Any, mask: Any, p: Any, contrast: float) -> None:
    along, depth = _surface(head, f, p)
    thick, wide = 4 + 13 * f.severity, 45 + 45 * f.severity
    same = p[0] * f.side > 3
    where = (depth > 0) & (depth < thick * (1 - (along / wide) ** 2)) & (along < wide) & same
    _paint(hu, mask, where, GREY + (BLOOD - 6 - GREY) * contrast)


def _subarachnoid(head: Head, f: Finding, hu: Any, mask: Any, p: Any, contrast: float) -> None:
    x, y, z, depth, fluid, ventricle = p
    centre = np.array(f.place)
    a, b, _ = head.axes
    near = (
        np.sqrt((x - centre[0] * a * 0.6) ** 2 + (y - centre[1] * b * 0.6) ** 2 + (z + 8) ** 2) < 28 + 52 * f.severity
    )
    where = fluid & ~ventricle & near & (depth > 0)
    _paint(hu, mask, where, CSF + (BLOOD - CSF) * (0.55 + 0.4 * f.severity) * contrast)


def _ball(f: Finding, p: Any, radius: float) -> Any:
    x, y, z = p[:3]
    cx, cy, cz = f.place
    wobble = 1 + 0.18 * np.sin(3 * np.arctan2(y - cy, x - cx) + cx) + 0.12 * np.sin((z - cz) / 4)
    return np.sqrt((x - cx) ** 2 + (y - cy) ** 2 + 1.2 * (z - cz) ** 2) / (radius * wobble)


def _intraparenchymal(head: Head, f: Finding, hu: Any, mask: Any, p: Any, contrast: float) -> None:
    radius = 6 + 18 * f.severity
    ball = _ball(f, p, radius)
    tissue = (p[3] > 1) & (p[3] < 60)
    hu[(ball < 1.35) & tissue & (hu > CSF + 5)] -= 9 * contrast
    _paint(hu, mask, (ball < 1) & tissue, GREY + (BLOOD - GREY) * contrast)


def _mass(head: Head, f: Finding, hu: Any, mask: Any, p: Any, contrast: float) -> None:
    radius = 8 + 17 * f.severity
    ball = _ball(f, p, radius)
    tissue = p[3] > 1
    hu[(ball < 1.7) & tissue & (hu > CSF + 5)] -= 11 * contrast
    _paint(hu, mask, (ball < 1) & tissue, GREY + 11 * contrast)
    hu[(ball < 0.45) & tissue] = 20


def _intraventricular(head: Head, f: Finding, hu: Any, mask: Any, p: Any, contrast: float) -> None:
    y, ventricle = p[1], p[5]
    where = ventricle & (y > 26 - 40 * f.severity)  # blood sinks to the back
    _paint(hu, mask, where, CSF + (BLOOD - 4 - CSF) * contrast)


def _infarct(head: Head, f: Finding, hu: Any, mask: Any, p: Any, contrast: float) -> None:
    x, y, z, depth = p[:4]
    centre = 1.3 * f.place[1]
    angle = np.arctan2(y, np.abs(x) + 1e-6)
    wedge = (np.abs(angle - centre) < 0.25 + 0.5 * f.severity) & (x * f.side > 8)
    where = wedge & (np.abs(z - 60 * f.place[2]) < 12 + 22 * f.severity) & (depth > 0) & (depth < 48) & (hu > CSF + 5)
    hu[where] -= (7 + 8 * f.severity) * contrast
    mask |= where


def _fracture(head: Head, f: Finding, hu: Any, mask: Any, p: Any, contrast: float) -> None:
    x, y, depth = p[0], p[1], p[3]
    along, _ = _surface(head, f, p)
    line = np.abs(np.arctan2(y, x) - np.arctan2(f.place[1], f.place[0])) * 75 < 1.6 + 2.2 * f.severity
    where = line & (along < 22 + 30 * f.severity) & (depth > -SKULL) & (depth <= 0)
    _paint(hu, mask, where, 60)
    swollen = (along < 34) & (depth > -SKULL - SKIN - 5 - 7 * f.severity) & (depth <= -SKULL - SKIN)
    hu[swollen] = 45
    air = (along < 6 + 10 * f.severity) & (depth > 0) & (depth < 2 + 5 * f.severity)
    if f.severity > 0.3:
        _paint(hu, mask, air, -700)


def _hydrocephalus(head: Head, f: Finding, hu: Any, mask: Any, p: Any, contrast: float) -> None:
    mask |= p[5]


def _small_vessels(head: Head, f: Finding, hu: Any, mask: Any, p: Any, contrast: float) -> None:
    x, y, z, depth = p[:4]
    around = ((np.abs(x) - 16) / 14) ** 2 + ((y - 2) / 46) ** 2 + ((z - 18) / 14) ** 2 < 1
    hu[around & (hu > CSF + 5) & (hu < 50) & (depth > 8)] -= 3 + 6 * f.severity


def _lacune(head: Head, f: Finding, hu: Any, mask: Any, p: Any, contrast: float) -> None:
    hu[_ball(f, p, 3.5 + 3 * f.severity) < 1] = 12


def _calcification(head: Head, f: Finding, hu: Any, mask: Any, p: Any, contrast: float) -> None:
    x, y, z = p[:3]
    radius = 2.5 + 2.5 * f.severity
    hu[x**2 + (y - 22) ** 2 + (z - 4) ** 2 < radius**2] = 140
    hu[(np.abs(x) - 18) ** 2 + (y - 32) ** 2 + (z - 10) ** 2 < radius**2] = 120


def _scalp(head: Head, f: Finding, hu: Any, mask: Any, p: Any, contrast: float) -> None:
    along, depth = _surface(head, f, p)
    hu[(along < 32) & (depth > -SKULL - SKIN - 4 - 8 * f.severity) & (depth <= -SKULL - SKIN)] = 45


def _sinus(head: Head, f: Finding, hu: Any, mask: Any, p: Any, contrast: float) -> None:
    x, y, z = p[:3]
    hu[(np.abs(x) < 14) & (np.abs(y + head.axes[1] - 2) < 5) & (np.abs(z + 30) < 12)] = 30


_DRAW = {
    "epidural": _epidural, "subdural": _subdural, "subarachnoid": _subarachnoid, "mass": _mass,
    "intraparenchymal": _intraparenchymal, "intraventricular": _intraventricular, "infarct": _infarct,
    "fracture": _fracture, "hydrocephalus": _hydrocephalus, "small_vessel_disease": _small_vessels,
    "lacune": _lacune, "calcification": _calcification, "scalp_swelling": _scalp, "sinus_disease": _sinus,
}  # fmt: skip
