"""What the phantom's lymph nodes look like: a map of regions, nuclei by region, stains, artefacts.

Everything is drawn in amounts of haematoxylin and eosin (uint8 maps) at half of the slide's resolution; colour comes
last, by the Lambert-Beer law with the stain vectors of a centre (after Ruifrok and Johnston, Anal Quant Cytol Histol
2001;23:291-299), so that two centres may stain the same tissue differently.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.random import Generator

COARSE = 8  # drawing pixels per pixel of the region map, on a side
GLASS, FAT, STROMA, CORTEX, MANTLE, FOLLICLE, SINUS, TUMOR = range(8)

# nuclei of a region: spacing and radius (um), narrowest ratio of axes, haematoxylin, share of places that hold one
NUCLEI: dict[int, tuple[float, float, float, int, float]] = {
    STROMA: (24.0, 3.4, 0.35, 150, 0.8),
    CORTEX: (8.6, 3.0, 0.85, 165, 0.93),
    MANTLE: (7.6, 2.9, 0.85, 175, 0.97),
    SINUS: (14.0, 4.4, 0.6, 112, 0.75),
}
# Cells of germinal centres at rest and the worst of tumour: spacing and radius (um), spread of the radius, narrowest
# ratio of axes, haematoxylin, share of nuclei with a nucleolus. Every follicle and metastasis lies between the two.
BENIGN, MALIGNANT = (10.8, 4.3, 0.11, 0.75, 118, 0.35), (13.0, 6.0, 0.23, 0.50, 106, 0.9)
# haematoxylin between the nuclei, eosin
GROUND: dict[int, tuple[int, int]] = {
    GLASS: (0, 0), FAT: (0, 4), STROMA: (14, 95), CORTEX: (34, 52), MANTLE: (42, 50), FOLLICLE: (26, 62),
    SINUS: (12, 66), TUMOR: (20, 74),
}  # fmt: skip


@dataclass(frozen=True)
class Lesion:
    """One metastasis: centre (drawing pixels), radius (um), and how far its cells differ from normal (0 to 1)."""

    x: float
    y: float
    radius: float
    atypia: float


@dataclass(frozen=True)
class Stain:
    """How a centre stains: optical density of red, green and blue per unit of haematoxylin and of eosin."""

    haematoxylin: tuple[float, float, float]
    eosin: tuple[float, float, float]


CENTRES = {
    "A": Stain((0.65, 0.70, 0.29), (0.07, 0.99, 0.11)),
    "B": Stain((0.55, 0.76, 0.34), (0.13, 0.92, 0.26)),
}


def blob(rng: Generator, shape: tuple[int, int], x: float, y: float, radius: float, rough: float) -> np.ndarray:
    """A filled irregular outline (bool, of `shape`) around a centre; all in pixels of the map."""
    angles = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    waves = sum(rng.normal(0, rough / (k**0.8)) * np.cos(k * angles + rng.uniform(0, 2 * np.pi)) for k in range(2, 9))
    r = radius * np.clip(1 + waves, 0.35, 1.8)
    points = np.stack([x + r * np.cos(angles), y + r * np.sin(angles)], axis=1)
    mask = np.zeros(shape, np.uint8)
    cv2.fillPoly(mask, [np.round(points * 16).astype(np.int32)], 1, shift=4)
    return mask.astype(bool)


def draw_regions(rng: Generator, height: int, width: int, mpp: float, follicles: float) -> np.ndarray:
    """The region of every coarse pixel (uint8): one or two nodes in fat, with follicles and sinuses.

    Args:
        rng: draws everything.
        height, width: of the map, coarse pixels.
        mpp: microns per coarse pixel.
        follicles: multiplies the number of germinal centres.
    """
    regions = np.zeros((height, width), np.uint8)
    shape, side = (height, width), min(height, width)
    two = rng.random() < 0.35
    centres = [(0.32, 0.36), (0.68, 0.66)] if two else [(0.5 + rng.uniform(-0.04, 0.04), 0.5)]
    for cx, cy in centres:
        radius = side * (0.235 if two else rng.uniform(0.33, 0.40))
        seat = int(rng.integers(2**31))
        outer = blob(np.random.default_rng(seat), shape, cx * width, cy * height, radius * 1.28, 0.11)
        node = blob(np.random.default_rng(seat), shape, cx * width, cy * height, radius, 0.11)
        if rng.random() < 0.75:
            regions[outer & (regions == GLASS)] = FAT
        regions[node] = CORTEX
        distance = cv2.distanceTransform(node.astype(np.uint8), cv2.DIST_L2, 3)
        regions[node & (distance * mpp < rng.uniform(14, 30))] = STROMA  # capsule
        depth = max(float(distance.max()), 1.0)
        for _ in range(int(rng.poisson(2.2))):  # sinuses
            angle, reach = rng.uniform(0, 2 * np.pi), radius * rng.uniform(0.1, 0.6)
            spot = (cx * width + reach * np.cos(angle), cy * height + reach * np.sin(angle))
            regions[blob(rng, shape, *spot, rng.uniform(40, 110) / mpp, 0.25) & (distance > 0.08 * depth)] = SINUS
        count = rng.poisson(follicles * 1.1e-5 * float(node.sum()) * mpp**2)
        places = np.argwhere((distance > 0.15 * depth) & (distance < 0.75 * depth))
        for i in rng.choice(len(places), min(len(places), count), replace=False) if len(places) else []:
            py, px = places[i]
            r = rng.uniform(45, 125) / mpp
            inside = distance > 0
            regions[blob(rng, shape, px, py, r * 1.28, 0.05) & inside] = MANTLE
            regions[blob(rng, shape, px, py, r, 0.07) & inside] = FOLLICLE
    return regions


def draw_lesion(rng: Generator, regions: np.ndarray, lesion: Lesion, mpp: float) -> np.ndarray:
    """Put a metastasis into the region map; returns where it is (bool)."""
    shape = (regions.shape[0], regions.shape[1])
    rough = 0.10 if lesion.radius < 60 else 0.2
    mask = blob(rng, shape, lesion.x / COARSE, lesion.y / COARSE, max(lesion.radius / mpp, 1.5), rough)
    mask &= (regions != GLASS) & (regions != FAT)
    regions[mask] = TUMOR
    return mask


def _grid(rng: Generator, where: np.ndarray, spacing: float, share: float) -> np.ndarray:
    """Jittered places (n, 2: x, y in drawing pixels) at a spacing (drawing pixels) within a coarse mask."""
    ys, xs = np.nonzero(where)
    if len(ys) == 0:
        return np.zeros((0, 2))
    left, top = xs.min() * COARSE, ys.min() * COARSE
    nx, ny = int(np.ptp(xs) + 1) * COARSE / spacing, int(np.ptp(ys) + 1) * COARSE / spacing
    gx, gy = np.meshgrid(np.arange(int(nx) + 1), np.arange(int(ny) + 1))
    places = np.stack([gx + 0.5 * (gy % 2), gy], axis=-1).reshape(-1, 2).astype(float)
    places += rng.uniform(-0.36, 0.36, places.shape)
    places = places * spacing + [left, top]
    cx, cy = (places / COARSE).astype(int).T
    inside = (cx >= 0) & (cy >= 0) & (cy < where.shape[0]) & (cx < where.shape[1])
    places, cx, cy = places[inside], cx[inside], cy[inside]
    chosen: np.ndarray = places[where[cy, cx] & (rng.random(len(places)) < share)]
    return chosen


def _ellipses(
    rng: Generator, canvas: np.ndarray, places: np.ndarray, radius: np.ndarray, narrow: float, amount: np.ndarray
) -> None:
    ratio = rng.uniform(narrow, 1.0, len(places))
    axes = np.round(np.stack([radius / np.sqrt(ratio), radius * np.sqrt(ratio)], axis=1) * 16).astype(int)
    angles = rng.uniform(0, 180, len(places))
    centres = np.round(places * 16).astype(int)
    values = np.clip(amount, 0, 255).astype(int)
    ellipses = zip(centres.tolist(), axes.tolist(), angles.tolist(), values.tolist(), strict=True)
    for (x, y), (a, b), angle, value in ellipses:
        cv2.ellipse(canvas, (x, y), (a, b), angle, 0, 360, value, -1, cv2.LINE_8, 4)


def draw_tissue(
    rng: Generator, regions: np.ndarray, lesions: list[tuple[Lesion, np.ndarray]], mpp: float, activity: float
) -> tuple[np.ndarray, np.ndarray]:
    """Haematoxylin and eosin (uint8) in drawing pixels of `mpp` microns, of a region map.

    `activity` says how large and uneven the cells of germinal centres are, on the scale of `Lesion.atypia`.
    """
    height, width = regions.shape[0] * COARSE, regions.shape[1] * COARSE
    ground = np.array([GROUND[r] for r in range(8)], np.float32)[regions]
    large_cells = [(Lesion(0, 0, 0, activity), regions == FOLLICLE), *lesions]
    for lesion, mask in large_cells:
        ground[mask] = _between(GROUND[FOLLICLE], GROUND[TUMOR], lesion.atypia)
    soft = cv2.GaussianBlur(ground, (0, 0), 0.7)
    soft *= 1 + 0.16 * smooth_noise(rng, regions.shape, 5)[..., None]
    large = cv2.resize(np.clip(soft, 0, 255).astype(np.uint8), (width, height), interpolation=cv2.INTER_LINEAR)
    haematoxylin, eosin = np.ascontiguousarray(large[..., 0]), np.ascontiguousarray(large[..., 1])
    _adipocytes(rng, regions, eosin, mpp)
    for region, (spacing, radius, narrow, amount, share) in NUCLEI.items():
        places = _grid(rng, regions == region, spacing / mpp, share)
        sizes = radius / mpp * rng.normal(1, 0.11, len(places)).clip(0.6, 1.5)
        _ellipses(rng, haematoxylin, places, sizes, narrow, rng.normal(amount, 14, len(places)))
    for lesion, mask in large_cells:
        a = lesion.atypia
        spacing, radius, spread, narrow, amount, share = _between(BENIGN, MALIGNANT, a)
        places = _grid(rng, mask, spacing / mpp, 0.93)
        sizes = radius / mpp * rng.normal(1, spread, len(places)).clip(0.6, 1.7)
        _ellipses(rng, haematoxylin, places, sizes, narrow, rng.normal(amount, 14 + 6 * a, len(places)))
        _nucleoli(rng, haematoxylin, places, sizes, share)
    return haematoxylin, eosin


def _between(low: Sequence[float], high: Sequence[float], share: float) -> np.ndarray:
    between: np.ndarray = np.asarray(low, float) + share * (np.asarray(high, float) - np.asarray(low, float))
    return between


def _nucleoli(rng: Generator, canvas: np.ndarray, places: np.ndarray, sizes: np.ndarray, share: float) -> None:
    chosen = rng.random(len(places)) < share
    spots = places[chosen] + rng.normal(0, 1, (int(chosen.sum()), 2)) * sizes[chosen, None] * 0.25
    _ellipses(rng, canvas, spots, np.maximum(sizes[chosen] * 0.24, 0.9), 0.8, np.full(len(spots), 185))


def _adipocytes(rng: Generator, regions: np.ndarray, eosin: np.ndarray, mpp: float) -> None:
    """Rings of membrane around empty cells."""
    places = _grid(rng, regions == FAT, 52 / mpp, 1.0)
    for x, y in np.round(places).astype(int).tolist():
        r = int(rng.uniform(20, 29) / mpp)
        cv2.ellipse(eosin, (x, y), (r, int(r * rng.uniform(0.8, 1))), rng.uniform(0, 180), 0, 360, 75, 3)


def smooth_noise(rng: Generator, shape: tuple[int, ...], scale: int) -> np.ndarray:
    """Noise of unit variance and a correlation length of about `scale` pixels, float32 of `shape`."""
    small = rng.standard_normal((shape[0] // scale + 2, shape[1] // scale + 2)).astype(np.float32)
    return cv2.resize(small, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)


def stained(
    rng: Generator, haematoxylin: np.ndarray, eosin: np.ndarray, centre: str, variation: float, grain: float
) -> np.ndarray:
    """Colour (height, width, 3) uint8 of amounts of stain, with the centre's vectors and a slide's own strength."""
    stain = CENTRES[centre]
    strength = np.exp(rng.normal(0, 0.16 * variation, 2)) * (1.0 if centre == "A" else 0.86)
    tint = np.exp(rng.normal(0, 0.06 * variation, (2, 3)))
    tile = rng.normal(0, 1, (512, 512, 2)).astype(np.float32)
    reps = (haematoxylin.shape[0] // 512 + 1, haematoxylin.shape[1] // 512 + 1)
    amounts = []
    for channel, plane in enumerate((haematoxylin, eosin)):
        noise = np.tile((tile[..., channel] * 11 * grain).round().astype(np.int8), reps)
        noise = noise[: plane.shape[0], : plane.shape[1]]
        rough = cv2.add(plane, noise, dtype=cv2.CV_8U, mask=(plane > 8).astype(np.uint8))
        amounts.append(cv2.GaussianBlur(rough, (3, 3), 0))
    white = rng.normal(243, 2, 3)
    levels = np.arange(256) / 255 * 2.1
    colour = []
    for c in range(3):
        h = 255 * np.exp(-levels * strength[0] * stain.haematoxylin[c] * tint[0, c])
        e = white[c] * np.exp(-levels * strength[1] * stain.eosin[c] * tint[1, c])
        first, second = (cv2.LUT(a, t.astype(np.uint8)) for a, t in zip(amounts, (h, e), strict=True))
        colour.append(cv2.multiply(first, second, scale=1 / 255))
    return cv2.merge(colour)


def add_artefacts(rng: Generator, picture: np.ndarray, regions: np.ndarray, mpp: float) -> list[str]:
    """Folds, bubbles, blur and pen marks, each on some slides, drawn into the picture; returns their names."""
    artefacts: list[str] = []
    height, width = picture.shape[:2]
    tissue = np.argwhere(regions > FAT)
    if len(tissue) == 0:
        return artefacts

    def place() -> tuple[int, int]:
        y, x = tissue[rng.integers(len(tissue))]
        return int(x * COARSE), int(y * COARSE)

    if rng.random() < 0.3:
        artefacts.append("fold")
        (x, y), angle = place(), rng.uniform(0, np.pi)
        steps = np.linspace(-1, 1, 9) * rng.uniform(120, 320) / mpp
        bend = np.cumsum(rng.normal(0, 5 / mpp, 9))
        line = np.stack(
            [x + steps * np.cos(angle) - bend * np.sin(angle), y + steps * np.sin(angle) + bend * np.cos(angle)], 1
        )
        mask = np.zeros((height, width), np.uint8)
        cv2.polylines(mask, [np.round(line).astype(np.int32)], False, 255, int(rng.uniform(10, 22) / mpp))
        _shade(picture, mask, 0.55)
    if rng.random() < 0.25:
        artefacts.append("blur")
        (x, y), r = place(), int(rng.uniform(120, 260) / mpp)
        top, left = max(0, y - r), max(0, x - r)
        part = picture[top : y + r, left : x + r]
        part[:] = cv2.GaussianBlur(part, (0, 0), rng.uniform(1.6, 3.0) / mpp)
    if rng.random() < 0.25:
        artefacts.append("bubble")
        (x, y), r = place(), int(rng.uniform(60, 150) / mpp)
        mask = np.zeros((height, width), np.uint8)
        cv2.circle(mask, (x, y), r, 255, max(2, int(5 / mpp)))
        _shade(picture, mask, 0.5)
    if rng.random() < 0.25:
        artefacts.append("pen")
        colour: Any = [(40, 70, 150), (30, 110, 60), (45, 40, 45)][int(rng.integers(3))]
        side = int(rng.integers(4))
        start = np.array([[0.03, 0.1], [0.97, 0.1], [0.1, 0.03], [0.1, 0.97]][side]) * [width, height]
        run = np.array([[0, 0.7], [0, 0.7], [0.7, 0], [0.7, 0]][side]) * [width, height]
        t = np.linspace(0, 1, 12)[:, None]
        line = start + run * t + rng.normal(0, 12 / mpp, (12, 2))
        cv2.polylines(
            picture, [np.round(line).astype(np.int32)], False, colour, int(rng.uniform(18, 34) / mpp), cv2.LINE_AA
        )
    return artefacts


def _shade(picture: np.ndarray, mask: np.ndarray, strength: float) -> None:
    """Darken where a mask is."""
    ys, xs = np.nonzero(mask)
    if len(ys) == 0:
        return
    box = np.s_[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
    weight = cv2.GaussianBlur(mask[box], (0, 0), 2).astype(np.float32)[..., None] / 255
    picture[box] = (picture[box] * (1 - strength * weight)).astype(np.uint8)
