"""From files in any folders to one series per study: scan, group, sort, choose. Everything left out has its reason.

The rule, in this order: axial slices only; original before derived pictures; a stack that covers the head (80 mm or
more) before one that does not; soft kernel before unknown before sharp; without contrast agent before with; thickness
nearest to the preferred one; more slices.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.head_ct.dicom import READER_VERSION, Names, NotASlice, find_files, read_rows
from pipelines.shared.errors import BadFile
from pipelines.shared.run_folder import write_json
from pipelines.shared.screen import cpu_count, parallel_map

AXIAL = 0.7  # cosine between the slices' normal and the body's long axis; gantries tilt by up to 30 degrees
SAME_PLACE = 0.05  # mm along the normal, within which two slices are at the same place
UNEVEN = 0.05  # relative change of the spacing that is called uneven
MISSING = 1.6  # times the expected spacing: a slice is missing
WIDTH = 120.0  # mm of a field of view that may hold a head
COVERS = 80.0  # mm along the normal that make a head
FEW = 1024  # files up to which further processes are not worth their start


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
        faults: files of the series that are left out.
        warnings: what a reader should know.
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


@dataclass(frozen=True)
class Kernels:
    """Regular expressions (whole name, any case) of kernels that are soft, or sharp."""

    soft: Sequence[str]
    sharp: Sequence[str]

    def rank(self, stack: Stack) -> int:
        """0 soft, 1 unknown, 2 sharp."""
        if stack.bone or any(re.fullmatch(p, stack.kernel, re.IGNORECASE) for p in self.sharp):
            return 2
        return 0 if any(re.fullmatch(p, stack.kernel, re.IGNORECASE) for p in self.soft) else 1


@dataclass(frozen=True)
class Study:
    """The chosen stack of one study (None: there is none, and `reason` says why), and how it was chosen."""

    study: str
    group: str
    stack: Stack | None
    rule: str
    reason: str | None
    faults: list[Fault]
    warnings: list[str]


# --- scanning ---


def scan(root: Path, names: Names, cache: Path | None = None) -> tuple[list[dict[str, Any]], list[Fault]]:
    """The slices below a folder (one row each, see `dicom.read_rows`, with `file`) and the files that are none.

    With `cache`, what was read of the same files (same sizes and times) is taken from there.
    """
    files = find_files(root)
    base = root.parent if root.is_file() else root
    keeper = None
    if cache is not None:
        stamps = [[f, *_stamp(base / f)] for f in files]
        content = json.dumps([READER_VERSION, names.salt, str(base.resolve()), stamps])
        keeper = cache / f"scan-{hashlib.sha256(content.encode()).hexdigest()[:20]}.json"
        if keeper.is_file():
            known = json.loads(keeper.read_text(encoding="utf-8"))
            return known["slices"], [Fault(**f) for f in known["faults"]]
    read = partial(read_file, base=base, names=names)
    workers = 1 if len(files) <= FEW else cpu_count()
    slices, faults = [], []
    for file, found in zip(files, parallel_map(read, files, "Reading headers", workers), strict=True):
        if isinstance(found, Fault):
            faults.append(found)
        else:
            slices += [row | {"file": file} for row in found]
    if keeper is not None:
        write_json(keeper, {"slices": slices, "faults": [asdict(f) for f in faults]})
    return slices, faults


def _stamp(file: Path) -> list[int]:
    try:
        status = file.stat()
    except OSError:
        return [0, 0]
    return [status.st_size, status.st_mtime_ns]


def read_file(file: str, base: Path, names: Names) -> list[dict[str, Any]] | Fault:
    """A file's rows (`dicom.read_rows`), or why it has none."""
    try:
        return read_rows(base / file, names)
    except NotASlice as reason:
        return Fault(file, str(reason), False)
    except BadFile as reason:
        return Fault(file, str(reason), True)


# --- from slices to stacks ---


def stacks_of(slices: Sequence[dict[str, Any]]) -> list[Stack]:
    """The stacks of one series: slices of the same orientation, size and spacing, each sorted and without doubles."""
    kinds: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for row in slices:
        key = (
            tuple(np.round(row["orientation"], 2) + 0.0), row["rows"], row["columns"],
            tuple(np.round(row["spacing"], 3)), row["original"], row["kernel"],
        )  # fmt: skip
        kinds[key].append(row)
    return [_stack(rows) for rows in kinds.values()]


def _stack(rows: list[dict[str, Any]]) -> Stack:
    first = rows[0]
    row, column = np.array(first["orientation"][:3]), np.array(first["orientation"][3:])
    row, column = row / np.linalg.norm(row), column / np.linalg.norm(column)
    normal = np.cross(row, column)
    if normal[np.argmax(np.abs(normal))] < 0:  # towards the head, the back or the left
        normal = -normal
    places = np.array([r["position"] for r in rows])
    along = places @ normal
    per_acquisition: dict[int, int] = defaultdict(int)
    for r in rows:
        per_acquisition[r["acquisition"]] += 1
    # Of slices at the same place the one of the larger acquisition stays, then the one with the lower number.
    order = sorted(
        range(len(rows)),
        key=lambda i: (-per_acquisition[rows[i]["acquisition"]], rows[i]["acquisition"], rows[i]["number"],
                       rows[i]["file"], rows[i]["frame"]),
    )  # fmt: skip
    kept: list[int] = []
    taken: list[float] = []
    faults, instances, doubles = [], set(), 0
    for i in order:
        mark = (rows[i]["instance"], rows[i]["frame"])
        if mark in instances:
            faults.append(Fault(rows[i]["file"], "is a copy of another file (same SOPInstanceUID)", False))
            continue
        at = int(np.searchsorted(taken, along[i]))
        near = [taken[k] for k in (at - 1, at) if 0 <= k < len(taken)]
        if any(abs(along[i] - a) < SAME_PLACE for a in near):
            doubles += 1
            faults.append(Fault(rows[i]["file"], "is a second slice at the same place", False))
            continue
        instances.add(mark)
        kept.append(i)
        taken.insert(at, float(along[i]))
    kept.sort(key=lambda i: along[i])
    warnings = []
    if doubles:
        warnings.append(f"{doubles} slices lie at places that others hold already; they are left out")
    if faults and doubles < len(faults):
        warnings.append(f"{len(faults) - doubles} files are copies of others")
    stack = Stack(
        study=first["study"], series=first["series"], group=first["group"], accession=first["accession"],
        files=[rows[i]["file"] for i in kept], frames=[rows[i]["frame"] for i in kept],
        along=[float(along[i]) for i in kept], right=[float(places[i] @ row) for i in kept],
        down=[float(places[i] @ column) for i in kept], orientation=[*row.tolist(), *column.tolist()],
        spacing=list(first["spacing"]), thickness=[rows[i]["thickness"] for i in kept],
        shape=[first["rows"], first["columns"]], tilt=first["tilt"], original=first["original"],
        kernel=first["kernel"], maker=first["maker"], bone=first["bone"], contrast=first["contrast"],
        compressed=any(rows[i]["compressed"] for i in kept),
        age=first["age"], sex=first["sex"], faults=faults, warnings=warnings,
    )  # fmt: skip
    if first["elsewhere"]:
        warnings.append("the header names another part of the body than the head")
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
    found = np.zeros(len(steps), bool)
    for i, step in enumerate(steps):
        around = [steps[k] for k in (i - 2, i - 1, i + 1, i + 2) if 0 <= k < len(steps)]
        expected = max([thick[i], thick[i + 1], float(np.median(around)) if around else 0.0])
        if not around and not expected:  # two slices of unknown thickness: nothing says how far apart they belong
            expected = step
        found[i] = step > MISSING * expected
    return found


def _geometry_warnings(stack: Stack) -> list[str]:
    warnings = []
    steps = np.diff(stack.along)
    if len(steps) and steps.max() > steps.min() * (1 + UNEVEN) + 0.01:
        warnings.append(f"spacing uneven: {steps.min():.2f} to {steps.max():.2f} mm")
    missing = int(gaps(stack).sum()) if len(steps) else 0
    if missing:
        warnings.append(f"slices are missing in {missing} place{'s' if missing > 1 else ''}")
    shift = np.hypot(np.ptp(stack.right), np.ptp(stack.down))
    if len(steps) and shift > 1.0:
        warnings.append(f"slices shifted in their plane by up to {shift:.1f} mm (gantry tilt): corrected")
    elif len(steps) and abs(stack.tilt) > 0.5 and abs(axial_cosine(stack) - 1) < 1e-3:
        warnings.append(f"the header says gantry tilt {stack.tilt:g} degrees, the positions do not: not corrected")
    if len(stack.files) == 1:
        warnings.append("one slice only")
    field = max(stack.shape[0] * stack.spacing[0], stack.shape[1] * stack.spacing[1])
    if field < WIDTH:
        warnings.append(f"field of view of {field:.0f} mm, smaller than a head")
    return warnings


# --- one stack per study ---


def choose(
    slices: Sequence[dict[str, Any]], faults: Sequence[Fault], kernels: Kernels, thickness: float
) -> tuple[list[Study], list[Fault]]:
    """The stack of every study by the rule at the top.

    Args:
        slices: of `scan`.
        faults: of `scan`.
        kernels: which are soft, which sharp.
        thickness: the preferred one, mm.

    Returns:
        The studies, and the fault or reason of every file that is not used.
    """
    by_series: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in slices:
        by_series[row["study"], row["series"]].append(row)
    by_study: dict[str, list[Stack]] = defaultdict(list)
    for (study, _), rows in by_series.items():
        by_study[study] += stacks_of(rows)
    studies, left = [], list(faults)
    for study, stacks in sorted(by_study.items()):
        chosen = _study(study, stacks, kernels, thickness)
        studies.append(chosen)
        left += chosen.faults
    return studies, left


def _study(study: str, stacks: list[Stack], kernels: Kernels, thickness: float) -> Study:
    axial = [s for s in stacks if axial_cosine(s) >= AXIAL]
    faults = [
        Fault(f, "is a coronal or sagittal slice", False, study) for s in stacks if s not in axial for f in set(s.files)
    ]
    group = min(s.group for s in stacks)
    warnings = []
    if len({s.group for s in stacks}) > 1:
        warnings.append("its files name several patients")
    if not axial:
        return Study(study, group, None, "", "no axial slices", faults, warnings)

    def rank(stack: Stack) -> tuple[Any, ...]:
        return (
            not stack.original, stack.extent < COVERS, kernels.rank(stack), stack.contrast,
            abs(stack.usual_thickness - thickness), -len(stack.files), stack.series, stack.files[0],
        )  # fmt: skip

    axial.sort(key=rank)
    best = axial[0]
    others = [s for s in axial[1:] if s.series != best.series]
    for stack in axial[1:]:
        why = "belongs to another series than the one chosen"
        if stack.series == best.series:
            why = "has another orientation, size, spacing or kernel than most of its series"
        faults += [Fault(f, why, False, study) for f in sorted(set(stack.files))]
    if any(s.series == best.series for s in stacks if s is not best):
        warnings.append("the series mixes orientations, sizes or kernels; its best stack is used")
    kind = {0: "soft", 1: "unknown", 2: "sharp"}[kernels.rank(best)]
    rule = (
        f"axial, {'original' if best.original else 'derived'}, {kind} kernel{' ' * bool(best.kernel)}{best.kernel}, "
        f"{best.usual_thickness:g} mm, {len(best.files)} slices over {best.extent:.0f} mm"
    )
    if others:
        rule += f"; chosen out of {len({s.series for s in others}) + 1} series"
    if kind == "sharp":
        warnings.append("only sharp kernels were found")
    if best.contrast:
        warnings.append("with contrast agent")
    if best.extent < COVERS:
        warnings.append(f"covers {best.extent:.0f} mm only")
    faults += [Fault(f.file, f.reason, f.faulty, study) for f in best.faults]
    return Study(study, group, best, rule, None, faults, [*warnings, *best.warnings])
