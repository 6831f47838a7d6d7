"""The slices of one series as stacks: of one orientation, size, spacing and pass, sorted along their normal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from pipelines.head_ct.passes import passes_of
from pipelines.shared.data.dicom_files import ASSUMED
from pipelines.shared.errors import counted

ANGLE = 0.01  # difference of a direction's cosines up to which slices are parallel: 1 mm over 100 mm
SPACING = 0.005  # relative difference of the pixel spacing up to which it is the same: 1 mm over 200 mm
SAME_PLACE = 0.05  # mm along the normal, within which two slices are at the same place
UNEVEN = 0.05  # relative change of the spacing that is called uneven
MISSING = 1.6  # times the expected spacing: a slice is missing
WIDTH = 120.0  # mm of a field of view that may hold a head


@dataclass(frozen=True)
class Fault:
    """Why a file is not used. `faulty`: something in it is wrong; else it is in order but of no use here."""

    file: str
    reason: str
    faulty: bool
    study: str | None = None


@dataclass(frozen=True)
class Stack:
    """Parallel slices of one series, sorted from the lowest to the highest along their normal.

    Attributes:
        study: hashed study; so are series, group (patient) and accession.
        files: (n,) file of each slice, relative to the root.
        frames: (n,) frame within the file.
        along: (n,) mm along the normal, ascending; the normal points to the head.
        right: (n,) mm of each first pixel's centre along the row direction.
        down: (n,) mm of each first pixel's centre along the column direction.
        orientation: row and column direction, six numbers.
        spacing: mm between rows, and between columns.
        thickness: (n,) mm; None where the header does not say.
        kind: number of the slices that are alike within their series; several passes are of one kind.
        faults: files of the series that are left out.
        warnings: what a reader should know, as "kind" or "kind: details".
    """

    study: str
    series: str
    group: str
    accession: str | None
    files: list[str]
    frames: list[int]
    along: list[float]
    right: list[float]
    down: list[float]
    orientation: list[float]
    spacing: list[float]
    thickness: list[float | None]
    shape: list[int]
    tilt: float
    original: bool
    kernel: str
    maker: str
    bone: bool
    contrast: bool
    compressed: bool
    age: float | None
    sex: str | None
    kind: int = 0
    faults: list[Fault] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def usual_thickness(self) -> float:
        """Median thickness in mm; the median spacing where no header says it; 0 for a single slice without."""
        known = [t for t in self.thickness if t]
        if known:
            return float(np.median(known))
        return float(np.median(np.diff(self.along))) if len(self.along) > 1 else 0.0

    @property
    def extent(self) -> float:
        """Mm from the lower face of the lowest slice to the upper face of the highest."""
        return self.along[-1] - self.along[0] + self.usual_thickness

    def to_json(self) -> dict[str, Any]:
        """For the index."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Stack:
        """The inverse of `to_json`."""
        return cls(**(content | {"faults": [Fault(**f) for f in content["faults"]]}))


def kind_of(warning: str) -> str:
    """A warning without its details."""
    return warning.split(":")[0]


# --- from slices to stacks ---


def stacks_of(slices: Sequence[dict[str, Any]]) -> list[Stack]:
    """The stacks of one series: slices that are alike, of one pass, each sorted and without doubles."""
    stacks = []
    for kind, rows in enumerate(_alike(slices)):
        rows, copies = _without_copies(rows)
        orientation = np.median([r["orientation"] for r in rows], axis=0)
        row, column = (v / np.linalg.norm(v) for v in (orientation[:3], orientation[3:]))
        normal = np.cross(row, column)
        if normal[np.argmax(np.abs(normal))] < 0:  # towards the head, the back or the left
            normal = -normal
        places = np.array([r["position"] for r in rows]) @ np.stack([normal, row, column], axis=1)
        passes = passes_of(rows, places)
        for number, members in enumerate(passes):
            stack = _stack([rows[i] for i in members], places[members], [*row.tolist(), *column.tolist()], kind)
            if number == 0:
                stack.faults.extend(copies)
                if copies:
                    stack.warnings.append(f"files that are copies of others, left out: {len(copies)}")
            if len(passes) > 1:
                stack.warnings.append(f"several passes over the head in one series, one is used: of {len(passes)}")
            stacks.append(stack)
    return stacks


def _alike(slices: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Slices of the same orientation, size, spacing and kernel together: each joins the first that it is like.

    Directions and spacings are compared, not rounded: there is no value at which a tiny change would part two slices.
    """
    kinds: list[list[dict[str, Any]]] = []
    firsts: dict[tuple[Any, ...], tuple[np.ndarray, list[int]]] = {}
    for row in slices:
        key = (row["rows"], row["columns"], row["original"], row["kernel"])
        geometry = np.array([*row["orientation"], *row["spacing"]])
        known, where = firsts.get(key, (np.zeros((0, 8)), []))
        turned = np.abs(known[:, :6] - geometry[:6]).max(axis=1) > ANGLE
        scaled = (np.abs(known[:, 6:] - geometry[6:]) > SPACING * geometry[6:]).any(axis=1)
        fits = np.flatnonzero(~turned & ~scaled)
        if len(fits):
            kinds[where[fits[0]]].append(row)
            continue
        firsts[key] = (np.vstack([known, geometry]), [*where, len(kinds)])
        kinds.append([row])
    return kinds


def _without_copies(rows: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[Fault]]:
    kept: dict[tuple[str, int], dict[str, Any]] = {}
    copies = []
    for row in sorted(rows, key=lambda r: (r["file"], r["frame"])):
        if kept.setdefault((row["instance"], row["frame"]), row) is not row:
            copies.append(Fault(row["file"], "is a copy of another file (same SOPInstanceUID)", False))
    return list(kept.values()), copies


def _stack(rows: list[dict[str, Any]], places: np.ndarray, orientation: list[float], kind: int) -> Stack:
    """One pass, sorted; `places` are mm (n, 3) along the normal, the rows and the columns."""
    first = rows[0]
    along = places[:, 0]
    per_acquisition = Counter(r["acquisition"] for r in rows)
    # Of slices at the same place the one of the larger acquisition stays, then the one with the lower number.
    order = sorted(
        range(len(rows)),
        key=lambda i: (-per_acquisition[rows[i]["acquisition"]], rows[i]["acquisition"], rows[i]["number"],
                       rows[i]["file"], rows[i]["frame"]),
    )  # fmt: skip
    kept: list[int] = []
    taken: list[float] = []
    faults = []
    for i in order:
        rank = int(np.searchsorted(taken, along[i]))
        near = [taken[k] for k in (rank - 1, rank) if 0 <= k < len(taken)]
        if any(abs(along[i] - a) < SAME_PLACE for a in near):
            faults.append(Fault(rows[i]["file"], "is a second slice at the same place", False))
            continue
        kept.append(i)
        taken.insert(rank, float(along[i]))
    kept.sort(key=lambda i: along[i])
    warnings = []
    if faults:
        warnings.append(f"slices at places that others hold already, left out: {len(faults)}")
    if first["elsewhere"]:
        warnings.append("the header names another part of the body than the head")
    if any(rows[i]["syntax_assumed"] for i in kept):
        warnings.append(ASSUMED)
    stack = Stack(
        study=first["study"], series=first["series"], group=first["group"], accession=first["accession"],
        files=[rows[i]["file"] for i in kept], frames=[rows[i]["frame"] for i in kept],
        along=along[kept].tolist(), right=places[kept, 1].tolist(), down=places[kept, 2].tolist(),
        orientation=orientation, spacing=np.median([r["spacing"] for r in rows], axis=0).tolist(),
        thickness=[rows[i]["thickness"] for i in kept], shape=[first["rows"], first["columns"]], tilt=first["tilt"],
        original=first["original"], kernel=first["kernel"], maker=first["maker"], bone=first["bone"],
        contrast=any(r["contrast"] for r in rows), compressed=any(rows[i]["compressed"] for i in kept),
        age=first["age"], sex=first["sex"], kind=kind, faults=faults, warnings=warnings,
    )  # fmt: skip
    stack.warnings.extend(_geometry_warnings(stack))
    return stack


def axial_cosine(stack: Stack) -> float:
    """How much the slices' normal points along the body, 0 to 1."""
    row, column = np.array(stack.orientation[:3]), np.array(stack.orientation[3:])
    return float(abs(np.cross(row, column)[2]))


def gaps(stack: Stack) -> np.ndarray:
    """(n - 1,) bool: whether slices are missing between a slice and the next.

    A step counts as a gap if it is larger than 1.6 times what is expected there: the slices' thickness or the median of
    the four steps around it, whichever is larger. So slices that are thicker or further apart in one part of the
    head are no gap.
    """
    steps = np.diff(stack.along)
    thick = [t or 0.0 for t in stack.thickness]
    missing = np.zeros(len(steps), bool)
    for i, step in enumerate(steps):
        around = [steps[k] for k in (i - 2, i - 1, i + 1, i + 2) if 0 <= k < len(steps)]
        expected = max([thick[i], thick[i + 1], float(np.median(around)) if around else 0.0])
        if not around and not expected:  # two slices of unknown thickness: nothing says how far apart they belong
            expected = step
        missing[i] = step > MISSING * expected
    return missing


def _geometry_warnings(stack: Stack) -> list[str]:
    warnings = []
    steps = np.diff(stack.along)
    if len(steps) and steps.max() > steps.min() * (1 + UNEVEN) + 0.01:
        warnings.append(f"spacing uneven: {steps.min():.2f} to {steps.max():.2f} mm")
    missing = int(gaps(stack).sum()) if len(steps) else 0
    if missing:
        warnings.append(f"slices are missing: {counted(missing, 'gap')}")
    shift = np.hypot(np.ptp(stack.right), np.ptp(stack.down))
    if len(steps) and shift > 1.0:
        warnings.append(f"slices shifted in their plane (gantry tilt), corrected: by up to {shift:.1f} mm")
    elif len(steps) and abs(stack.tilt) > 0.5 and abs(axial_cosine(stack) - 1) < 1e-3:
        warnings.append(f"gantry tilt in the header, not in the positions, so not corrected: {stack.tilt:g} degrees")
    if len(stack.files) == 1:
        warnings.append("one slice only")
    field = max(stack.shape[0] * stack.spacing[0], stack.shape[1] * stack.spacing[1])
    if field < WIDTH:
        warnings.append(f"field of view smaller than a head: {field:.0f} mm")
    return warnings
