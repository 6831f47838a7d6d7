"""The lesions of diabetic retinopathy, by the severity of the eye."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from pipelines.retinopathy.phantom.canvas import OPTIC_DISC, Floats, Layer, View, unit
from pipelines.retinopathy.phantom.retina import Eye
from pipelines.retinopathy.phantom.vessels import Vessels


@dataclass(frozen=True)
class Difficulty:
    """How hard the lesions are to see: each factor multiplies what it names, 1 is usual."""

    lesion_contrast: float = 1.0
    lesion_size: float = 1.0
    lesion_count: float = 1.0
    distractors: float = 1.0


@dataclass(frozen=True)
class Lesions:
    """What retinopathy puts on the retina, by the way it looks."""

    blood: Layer  # microaneurysms, haemorrhages, IRMA, new vessels
    exudate: Layer  # sharp, yellow
    cotton: Layer  # soft, white: cotton-wool spots, fibrous tissue
    preretinal: Layer  # blood that hides everything


def draw_lesions(rng: Generator, view: View, eye: Eye, difficulty: Difficulty, veins: Vessels) -> Lesions:
    """All lesions of an eye: those of its grade and of every grade below."""
    lesions = Lesions(Layer(view), Layer(view), Layer(view), Layer(view))
    blood, level, big = lesions.blood, eye.level, difficulty.lesion_size
    activity = float(np.exp(rng.normal(0, 0.5) - 0.12))  # eyes of the same level differ in how much they show

    def number(mean: float) -> int:
        return int(rng.poisson(max(0.0, mean) * difficulty.lesion_count * activity))

    if level >= 1:  # mild: microaneurysms
        spots = view.random_points(rng, 1 + number(1 + 5 * (level - 1)))
        blood.blobs(rng, spots, big * rng.uniform(0.006, 0.011, len(spots)), 0.05, 0.9)
    if level >= 2:  # moderate: dot and flame haemorrhages, hard exudates outside the macula, cotton-wool spots
        spots = view.random_points(rng, 1 + number(1 + 4 * (level - 2) + 5 * max(0.0, level - 3)))
        blood.blobs(rng, spots, big * rng.lognormal(np.log(0.0145), 0.4, len(spots)), 0.22, 0.95)
        for start in view.random_points(rng, number(0.4 + 1.6 * (level - 2)), 0.8):
            _flame(rng, blood, start, big)
        for start in view.random_points(rng, number(0.35 + 0.35 * (level - 2)), 0.8):
            if np.hypot(*start) > 0.42:
                _exudates(rng, lesions.exudate, start, big)
        for start in view.random_points(rng, number(0.25 + 0.7 * (level - 2)), 0.75):
            spots = start + rng.normal(0, 0.022, (4, 2))
            lesions.cotton.blobs(rng, spots, big * rng.uniform(0.018, 0.034, 4), 0.25, 0.8)
    if level >= 3:  # severe: intraretinal microvascular abnormalities (IRMA)
        for start in view.random_points(rng, number(1 + 2 * (level - 3)), 0.8):
            _tangle(rng, blood, start, 4, 0.04 * big, 0.55)
    if level >= 4:  # proliferative: new vessels, preretinal blood, fibrous tissue
        for _ in range(1 + number(0.6 + 1.2 * (level - 4))):
            at_disc = rng.random() < 0.45
            vessel, step = rng.integers(len(veins.paths), size=1), rng.integers(4, 30, size=1)
            start = OPTIC_DISC + rng.normal(0, 0.05, 2) if at_disc else veins.at(vessel, step)[0][0]
            _tangle(rng, blood, start, int(rng.integers(14, 26)), (0.10 + 0.07 * (level - 4)) * big, 0.75)
        if rng.random() < 0.2 + 0.4 * (level - 4):
            _boat(rng, lesions.preretinal, view.random_points(rng, 1, 0.6)[0], big * rng.uniform(0.09, 0.22))
        if rng.random() < 0.5 * (level - 4):
            strands = _wandering(rng, OPTIC_DISC + rng.normal(0, 0.1, 2), 3, 0.5, 0.15)
            lesions.cotton.lines(strands, np.full(strands.shape[:2], 0.03 * big), 0.5)
    if eye.dme_excess > 0:
        _macular_exudates(rng, lesions.exudate, eye.dme_excess, big)
    return lesions


def _flame(rng: Generator, layer: Layer, start: Floats, big: float) -> None:
    """A haemorrhage within the nerve fibres: feathered streaks along their direction, away from the disc."""
    outward = start - OPTIC_DISC
    along = unit(np.arctan2(outward[1], outward[0]) + rng.normal(0, 0.15))
    across = np.array([-along[1], along[0]])
    streaks = int(rng.integers(5, 10))
    offset = rng.normal(0, 0.011 * big, (streaks, 1))
    middle = start + offset * across + rng.normal(0, 0.012 * big, (streaks, 1)) * along
    half = (big * rng.uniform(0.018, 0.045) * rng.uniform(0.5, 1.2, (streaks, 1)))[:, None]
    t = np.linspace(-1, 1, 7)[:, None]
    paths = middle[:, None] + half * t * along
    widths = 0.013 * big * np.sqrt(1.02 - t[:, 0] ** 2) * np.ones((streaks, 1))
    layer.lines(paths, widths, 0.85)


def _exudates(rng: Generator, layer: Layer, centre: Floats, big: float) -> None:
    """A cluster of hard exudates."""
    count = 4 + int(rng.poisson(7))
    spots = centre + rng.normal(0, 0.042, (count, 2)) * rng.uniform(0.4, 1.0, 2)
    layer.blobs(rng, spots, big * rng.lognormal(np.log(0.010), 0.4, count), 0.3)


def _macular_exudates(rng: Generator, layer: Layer, excess: float, big: float) -> None:
    """Macular oedema, which shows by hard exudates within a disc diameter of the fovea, more with more `excess`."""
    count = 7 + int(rng.poisson(14 * excess + 3))
    angle = rng.uniform(0, 2 * np.pi)
    if rng.random() < 0.5:  # a ring around a leaking spot, else a cluster beside the fovea
        around = angle + rng.uniform(0, 1.5 * np.pi, count)
        distance = rng.uniform(0.08, 0.13) + rng.normal(0, 0.012, count)
        spots = 0.12 * unit(angle) + distance[:, None] * unit(around)
    else:
        spots = 0.13 * unit(angle) + rng.normal(0, 0.05, (count, 2))
    layer.blobs(rng, spots, big * rng.lognormal(np.log(0.011), 0.4, count), 0.3)


def _wandering(rng: Generator, start: Floats, count: int, length: float, wander: float) -> Floats:
    """(count, 25, 2) random walks from one point in all directions, each curling to one side or the other."""
    angle = rng.uniform(0, 2 * np.pi, (count, 1)) + np.cumsum(rng.normal(0, wander, (count, 24)), axis=1)
    angle = angle + np.arange(1, 25) * rng.normal(0, wander / 2, (count, 1))
    stride = length / 24 * rng.uniform(0.6, 1.2, (count, 1, 1))
    return np.concatenate(
        [np.broadcast_to(start, (count, 1, 2)), start + np.cumsum(unit(angle) * stride, axis=1)], axis=1
    )


def _tangle(rng: Generator, layer: Layer, start: Floats, count: int, length: float, value: float) -> None:
    """Fine tortuous vessels from one point: IRMA when few, a frond of new vessels when many."""
    paths = _wandering(rng, start, count, 2.2 * length, 0.42)
    layer.lines(paths, np.full(paths.shape[:2], 0.006), value)


def _boat(rng: Generator, layer: Layer, centre: Floats, size: float) -> None:
    """A boat-shaped preretinal haemorrhage: blood that has settled, level on top and round below."""
    angle = np.linspace(0, np.pi, 20)
    outline = centre + size * np.stack([np.cos(angle), 0.62 * np.sin(angle)], axis=1) * rng.uniform(0.9, 1.1, 2)
    layer.area(outline)
