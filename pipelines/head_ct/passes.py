"""Several passes of the scanner over the head that lie in one series, as of a restless patient who is scanned again.

A scan moves along the body, slice after slice or in steps, so its slices taken in the order of their acquisition go one
way. Where they come back over what was scanned before, a further pass begins. The order is that of acquisition numbers
and times; where these are all the same, that of the instance numbers; where these tell nothing either, two passes still
lie beside each other in their plane (the table was moved), or are two rows of even steps along the body.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, pairwise
from typing import Any

import numpy as np

EVEN = 0.05  # relative difference between steps that are called the same
OVERLAP = 0.5  # share of a sweep's slices within another one, from which they are two passes
APART = 0.25  # share of a step by which the next slice may be too near
ENDLESS = 4  # slices per sweep below which an order along the body is none
TABLE = 1.0  # mm in the slices' plane from which two tables differ
FEW = 4  # slices that make a pass where only their places tell passes apart


def passes_of(rows: Sequence[dict[str, Any]], places: np.ndarray) -> list[list[int]]:
    """Divide slices of one orientation and size into passes, in the order in which these were acquired.

    Args:
        rows: of `dicom.read_rows`.
        places: (n, 3) mm of each first pixel along their normal, the rows and the columns.

    Returns:
        Positions in `rows`; most series are one pass.
    """
    along = places[:, 0]
    timed = all(r["time"] is not None for r in rows)
    acquired = [(r["acquisition"], r["time"] if timed else 0.0) for r in rows]
    numbered = [(r["number"], r["frame"]) for r in rows]
    thick = [r["thickness"] for r in rows if r["thickness"]]
    thickness = float(np.median(thick)) if thick else 0.0
    even = _even(along)
    if even and thickness <= (1 + EVEN) * _step(along):  # no slice over another, in whatever order they were taken
        return [list(range(len(rows)))]
    for order in (acquired, numbered):
        passes = _by_order(order, along)
        if len(passes) > 1:
            return passes
    if even:
        return [list(range(len(rows)))]
    return _by_table(along, places[:, 1:]) or _by_rows(along, thickness)


def _step(along: np.ndarray) -> float:
    """The usual step between slices, mm; 0 for a single slice."""
    return float(np.median(np.diff(np.sort(along)))) if len(along) > 1 else 0.0


def _even(along: np.ndarray) -> bool:
    """Whether most steps are alike, so that the slices look like one scan."""
    steps, usual = np.diff(np.sort(along)), _step(along)
    return len(along) < 3 or (usual > 0 and bool(np.mean(np.abs(steps - usual) <= EVEN * usual + 0.01) >= 0.8))


def _by_order(keys: Sequence[tuple[Any, ...]], along: np.ndarray) -> list[list[int]]:
    """Passes, if slices in the order of these keys go along the body and come back."""
    blocks: dict[tuple[Any, ...], list[int]] = {}
    for i in sorted(range(len(keys)), key=lambda i: keys[i]):
        blocks.setdefault(keys[i], []).append(i)
    sweeps = _sweeps(list(blocks.values()), along)
    if len(keys) < ENDLESS * len(sweeps):
        return [list(range(len(keys)))]
    passes: list[list[list[int]]] = []
    for sweep in sweeps:
        if passes and not any(_overlap(along[sweep], along[other]) for other in passes[-1]):
            passes[-1].append(sweep)  # another part of the head
        else:
            passes.append([sweep])
    return [list(chain.from_iterable(sweeps)) for sweeps in passes]


def _sweeps(blocks: Sequence[list[int]], along: np.ndarray) -> list[list[int]]:
    """Blocks (slices acquired at once), one after the other, joined as long as they go the same way."""
    sweeps: list[list[int]] = []
    way = 0
    for block in blocks:
        places, before = along[block], along[sweeps[-1]] if sweeps else np.zeros(0)
        turn = 1 if len(before) and places.mean() > before.mean() else -1
        if len(before) and way in (0, turn) and _goes_on(places * turn, before * turn):
            sweeps[-1] += block
            way = turn
        else:
            sweeps.append(list(block))
            way = 0
    return sweeps


def _goes_on(places: np.ndarray, before: np.ndarray) -> bool:
    """Whether slices lie beyond those before them, by about a step at least, as far as there are steps yet."""
    beyond = places > before.max() + (1 - APART) * _step(before)
    return bool(beyond.mean() > 1 - OVERLAP) and not _overlap(places, before)


def _overlap(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether most slices of one sweep, and two at least, lie between or beside slices of the other."""
    for places, other in ((a, b), (b, a)):
        away = np.abs(places[:, None] - other).min(axis=1)
        inside = away <= (0.5 + EVEN) * _step(other)
        if inside.sum() >= 2 and inside.mean() > OVERLAP:
            return True
    return False


def _by_table(along: np.ndarray, across: np.ndarray) -> list[list[int]] | None:
    """Passes, if slices lie beside each other in their plane, at several places of the table; None if they do not."""
    line = np.stack([along, np.ones_like(along)], axis=1)
    for axis in (0, 1):
        # Under a tilted gantry slices move along a line; those of another table lie on another one beside it.
        off = across[:, axis] - line @ np.linalg.lstsq(line, across[:, axis], rcond=None)[0]
        order = np.argsort(off, kind="stable")
        passes = np.split(order, np.flatnonzero(np.diff(off[order]) > TABLE) + 1)
        tables = len(passes) > 1 and all(len(f) >= FEW and np.ptp(off[f]) < TABLE for f in passes)
        if tables and all(_overlap(along[a], along[b]) for a, b in pairwise(passes)):
            return sorted((sorted(f.tolist()) for f in passes), key=lambda f: f[0])
    return None


def _by_rows(along: np.ndarray, thickness: float) -> list[list[int]]:
    """Passes, if the slices are two to four rows of even steps, each of which leaves nothing between its slices."""
    places = np.sort(along)
    for count in (2, 3, 4):
        if len(places) < FEW * count:
            break
        step = float(np.median(places[count:] - places[:-count]))
        if step <= 0 or thickness < 0.8 * step:
            continue
        phase = (along - places[0]) / step % 1  # where within a step: alike for all slices of a row
        order = np.argsort(phase, kind="stable")
        cuts = np.flatnonzero(np.diff(phase[order], append=phase[order[0]] + 1) > EVEN)
        if len(cuts) != count:
            continue
        rows = np.split(np.roll(order, -int(cuts[-1]) - 1), len(along) + cuts[:-1] - cuts[-1])
        if all(len(r) >= FEW and _even(along[r]) for r in rows):
            return sorted((sorted(map(int, r)) for r in rows), key=lambda r: r[0])
    return [list(range(len(along)))]
