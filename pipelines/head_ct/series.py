"""From files in any folders to one series per study: scan, group, sort, choose. Everything left out has its reason.

The rule, in this order: axial slices only; original before derived pictures; a stack that covers the head (80 mm or
more) before one that does not; soft kernel before unknown before sharp; without contrast agent before with; thickness
nearest to the preferred one; more slices; the pass that was acquired first.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pipelines.head_ct.dicom import READER_VERSION, NotASlice, read_rows
from pipelines.head_ct.pseudonyms import Names
from pipelines.head_ct.stacks import Fault, Stack, axial_cosine, stacks_of
from pipelines.shared.data.kept import keep, kept
from pipelines.shared.errors import reason_of
from pipelines.shared.files import walk
from pipelines.shared.screen import cpu_count, parallel_map

AXIAL = 0.7  # cosine between the slices' normal and the body's long axis; gantries tilt by up to 30 degrees
COVERS = 80.0  # mm along the normal that make a head
NEARLY = 0.1  # mm that make no difference between two series
FEW = 1024  # files up to which further processes are not worth their start


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
    files = [root.name] if root.is_file() else [str(f) for f in walk(root) if not _waits(root / f)]
    base = root.parent if root.is_file() else root
    keeper = None
    if cache is not None:
        stamps = [[f, *_stamp(base / f)] for f in files]
        content = json.dumps([READER_VERSION, names.salt, str(base.resolve()), stamps])
        keeper = cache / f"scan-{hashlib.sha256(content.encode()).hexdigest()[:20]}.json"
        known = kept(keeper)
        if known is not None:
            return known["slices"], [Fault(**f) for f in known["faults"]]
    read = partial(read_file, base=base, names=names)
    workers = 1 if len(files) <= FEW else cpu_count()
    slices, faults = [], []
    for file, outcome in zip(files, parallel_map(read, files, "Reading headers", workers), strict=True):
        if isinstance(outcome, Fault):
            faults.append(outcome)
        else:
            slices += [row | {"file": file} for row in outcome]
    if keeper is not None:
        keep(keeper, {"slices": slices, "faults": [asdict(f) for f in faults]})
    return slices, faults


def _waits(file: Path) -> bool:
    """Whether this is a pipe or a device, which would be waited for. A broken link has its reason when it is read."""
    return file.exists() and not file.is_file()


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
    except Exception as failure:  # whatever one file does, the others are read
        return Fault(file, reason_of(failure), True)


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
    group = min(s.group for s in stacks)
    warnings = []
    if len({s.group for s in stacks}) > 1:
        warnings.append("its files name several patients")
    if not axial:
        files = sorted({f for s in stacks for f in [*s.files, *(fault.file for fault in s.faults)]})
        faults = [Fault(f, "is a coronal or sagittal slice", False, study) for f in files]
        return Study(study, group, None, "", "no axial slices", faults, warnings)
    best = _best(axial, kernels, thickness)
    used = set(best.files)  # a file of many frames may be in other stacks too
    faults = [Fault(f.file, f.reason, f.faulty, study) for s in stacks for f in s.faults if f.file not in used]
    for stack in stacks:
        if stack is not best:
            why = _why_not(stack, best)
            faults += [Fault(f, why, False, study) for f in sorted(set(stack.files) - used)]
    if any(s.series == best.series and s.kind != best.kind for s in stacks):
        warnings.append("the series mixes orientations, sizes or kernels, its best stack is used")
    kind = {0: "soft", 1: "unknown", 2: "sharp"}[kernels.rank(best)]
    rule = (
        f"axial, {'original' if best.original else 'derived'}, {kind} kernel{' ' * bool(best.kernel)}{best.kernel}, "
        f"{best.usual_thickness:g} mm, {len(best.files)} slices over {best.extent:.0f} mm"
    )
    series = len({s.series for s in axial})
    if series > 1:
        rule += f"; chosen out of {series} series"
    if kind == "sharp":
        warnings.append("only sharp kernels were found")
    if best.contrast:
        warnings.append("with contrast agent")
    if best.extent < COVERS - NEARLY:
        warnings.append(f"covers part of the head only: {best.extent:.0f} mm")
    if series > 2 and all(len(s.files) == 1 for s in axial):
        warnings.append("every slice has a series of its own, one of them is used")
    return Study(study, group, best, rule, None, faults, [*warnings, *best.warnings])


def _best(stacks: Sequence[Stack], kernels: Kernels, thickness: float) -> Stack:
    """The stack to use, by the rule at the top: one question after the other, each leaves those that answer it best."""
    questions: list[tuple[Callable[[Stack], float], float]] = [  # the least is best, and how much more is as good
        (lambda s: not s.original, 0),
        (lambda s: s.extent < COVERS - NEARLY, 0),
        (kernels.rank, 0),
        (lambda s: s.contrast, 0),
        (lambda s: abs(s.usual_thickness - thickness), NEARLY),
        (lambda s: -len(s.files), 0),
    ]
    left = sorted(stacks, key=lambda s: s.series)  # within a series they stay as acquired
    for question, tolerance in questions:
        least = min(map(question, left))
        left = [s for s in left if question(s) <= least + tolerance]
    return left[0]


def _why_not(stack: Stack, best: Stack) -> str:
    if axial_cosine(stack) < AXIAL:
        return "is a coronal or sagittal slice"
    if stack.series != best.series:
        return "belongs to another series than the one chosen"
    if stack.kind == best.kind:
        return "belongs to another pass over the head than the one chosen"
    return "has another orientation, size, spacing or kernel than most of its series"
