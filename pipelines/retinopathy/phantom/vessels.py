"""The vessels of a retina: arteries or veins, as paths with widths."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from pipelines.retinopathy.phantom.canvas import OPTIC_DISC, Floats, unit

TRUNK_STEPS, BRANCH_STEPS = 40, 18  # straight pieces of which a vessel consists


@dataclass(frozen=True)
class Vessels:
    """Paths (B, N, 2) and widths (B, N) of one generation of vessels."""

    paths: Floats
    widths: Floats

    def at(self, vessel: NDArray[np.int64], step: NDArray[np.int64]) -> tuple[Floats, Floats, Floats]:
        """Positions (K, 2), headings (K,) and widths (K,) at a step of some vessels."""
        ahead = self.paths[vessel, step + 1] - self.paths[vessel, step]
        return self.paths[vessel, step], np.arctan2(ahead[:, 1], ahead[:, 0]), self.widths[vessel, step]


def vessel_tree(rng: Generator, tortuosity: float, width: float) -> list[Vessels]:
    """Three generations of vessels, the finest first; the trunks of the last are `width` wide at the optic disc."""
    trunks = _trunks(rng, tortuosity, width)
    first = _branches(rng, trunks, 5, 0.70, tortuosity)
    second = _branches(rng, first, 3, 0.60, tortuosity)
    return [second, first, trunks]


def _trunks(rng: Generator, tortuosity: float, width: float) -> Vessels:
    """The vessels that leave the optic disc: two arcades around the macula, three nasal, and two small ones."""
    courses = [  # a Bezier curve's middle points and end, and the relative width
        ((0.58, -0.50), (0.05, -0.72), (-0.95, -0.38), 1.0),
        ((0.58, 0.42), (0.05, 0.68), (-0.95, 0.36), 1.0),
        ((0.78, -0.40), (1.05, -0.60), (1.45, -0.85), 0.75),
        ((0.78, 0.30), (1.05, 0.50), (1.45, 0.75), 0.75),
        ((0.85, -0.16), (1.15, -0.20), (1.50, -0.15), 0.45),
        ((0.55, -0.12), (0.35, -0.20), (0.16, -0.10), 0.28),
        ((0.55, 0.02), (0.35, 0.12), (0.16, 0.08), 0.28),
    ]
    count = len(courses)
    control = np.array([course[:3] for course in courses]) + rng.normal(0, 0.045, (count, 3, 2))
    start = OPTIC_DISC + rng.normal(0, 0.025, (count, 1, 2))
    control = np.concatenate([start, control], axis=1)
    t = np.linspace(0, 1, TRUNK_STEPS + 1)
    basis = np.stack([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3], axis=1)
    paths = np.einsum("tk,bkx->btx", basis, control)
    wander = np.cumsum(rng.normal(0, 0.007 * tortuosity, paths.shape), axis=1)
    waves = np.sin(t * rng.uniform(12, 26, (count, 1)) + rng.uniform(0, 6, (count, 1)))
    waves *= 0.010 * tortuosity * t
    paths = paths + wander + waves[..., None] * [0.4, 1.0]
    relative = np.array([course[3] for course in courses])[:, None]
    return Vessels(paths, width * relative * (1 - 0.62 * t))


def _branches(rng: Generator, parents: Vessels, each: int, reach: float, tortuosity: float) -> Vessels:
    """`each` branches from every parent, at about regular distances on alternating sides, up to about `reach` long."""
    count, steps = parents.paths.shape[0], parents.paths.shape[1] - 1
    vessel = np.repeat(np.arange(count), each)
    place = 0.12 + 0.86 * (np.arange(each) + rng.uniform(0.1, 0.9, (count, each))) / each
    step = np.clip((place * steps).astype(int), 1, steps - 1).reshape(-1)
    side = np.where((np.arange(each) + rng.integers(0, 2, (count, 1))) % 2, 1.0, -1.0).reshape(-1)
    start, heading, width = parents.at(vessel, step)
    number = len(vessel)
    heading = heading + side * rng.uniform(0.5, 1.0, number)
    length = reach * rng.uniform(0.45, 1.15, number) * np.sqrt(width / parents.widths.max())
    turns = rng.normal(0, 0.10 * tortuosity, (number, BRANCH_STEPS))
    turns = turns + np.roll(turns, 1, axis=1) - (side * rng.uniform(-0.01, 0.05, number))[:, None]
    angle = heading[:, None] + np.cumsum(turns, axis=1)
    strides = unit(angle) * (length / BRANCH_STEPS)[:, None, None]
    paths = np.concatenate([start[:, None], start[:, None] + np.cumsum(strides, axis=1)], axis=1)
    # The fovea has no vessels: a branch ends where it would enter.
    steps_taken = np.arange(BRANCH_STEPS + 1)
    entered = np.maximum.accumulate(np.hypot(paths[..., 0], paths[..., 1]) < 0.10, axis=1)
    last = np.where(entered, 0, steps_taken).max(axis=1)
    paths = np.take_along_axis(paths, np.minimum(steps_taken, last[:, None])[..., None], axis=1)
    widths = (0.60 * width)[:, None] * np.linspace(1, 0.35, BRANCH_STEPS + 1)
    return Vessels(paths, widths)


def beaded(rng: Generator, veins: Vessels, level: float) -> Vessels:
    """Veins of uneven width, the more so the higher the level."""
    count, points = veins.widths.shape
    beads = np.sin(np.arange(points) * 1.9 + rng.uniform(0, 6, (count, 1))) * rng.uniform(0.6, 1, (1, points))
    return Vessels(veins.paths, veins.widths * (1 + min(0.55, 0.4 * (level - 2.7)) * beads))
