"""Where things lie on the retina and in the picture, and the tools to draw them with.

Positions on the retina are in units of the radius of a 45-degree field, about 6.5 mm, with the fovea at 0, 0, x towards
the nose and y downwards. The optic disc's radius is 0.14, and the fovea lies 2.5 disc diameters from its centre.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Image = NDArray[np.float32]
Bytes = NDArray[np.uint8]

FINE = 3  # vessels and lesions are drawn this many times finer than the picture
DISC_RADIUS = 0.14  # of the optic disc
OPTIC_DISC = np.array([0.70, -0.06])  # its centre


@dataclass(frozen=True)
class View:
    """Where the retina lies in the picture."""

    width: int
    height: int
    x: float  # centre and radius of the fundus disc, px of the picture
    y: float
    radius: float
    mirrored: bool  # in left eyes the nose is to the left
    turn: float  # torsion, radians
    gaze: tuple[float, float]  # retinal position at the centre of the fundus disc
    cut: float

    def pixels(self, points: Floats) -> Floats:
        """(..., 2) retinal positions -> (..., 2) x, y in px of the picture."""
        flip = np.array([-1.0 if self.mirrored else 1.0, 1.0])
        turned = rotated(points - np.array(self.gaze), self.turn)
        pixels: Floats = turned * flip * self.radius + np.array([self.x, self.y])
        return pixels

    def field(self) -> tuple[Image, Image]:
        """Columns (width,) and rows (height, 1) of the picture in radii of the fundus disc, from its centre."""
        column = (np.arange(self.width, dtype=np.float32) - self.x) / self.radius
        row = (np.arange(self.height, dtype=np.float32)[:, None] - self.y) / self.radius
        return column, row

    def grid(self) -> tuple[Image, Image]:
        """Retinal x and y of every pixel, (height, width) each; the inverse of `pixels`."""
        column, row = self.field()
        across = -column if self.mirrored else column
        cosine, sine = np.float32(np.cos(self.turn)), np.float32(np.sin(self.turn))
        x = across * cosine + row * sine + np.float32(self.gaze[0])
        y = -across * sine + row * cosine + np.float32(self.gaze[1])
        return x, y

    def random_points(self, rng: Generator, count: int, reach: float = 0.9) -> Floats:
        """(count, 2) retinal positions, uniform over the visible part of the field but for the optic disc."""
        accepted = np.empty((0, 2))
        limit = min(reach * self.cut, 0.9 * self.height / 2 / self.radius)
        while len(accepted) < count:
            points = rng.uniform(-reach, reach, (4 * count + 8, 2))
            visible = (np.hypot(points[:, 0], points[:, 1]) < reach) & (np.abs(points[:, 1]) < limit)
            points = rotated(points[visible], -self.turn) + np.array(self.gaze)
            accepted = np.concatenate([accepted, points[np.hypot(*(points - OPTIC_DISC).T) > 1.2 * DISC_RADIUS]])
        return accepted[:count]


class Layer:
    """A drawing in retinal positions, `FINE` times finer than the picture; brighter is more of what is drawn."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.canvas = np.zeros((view.height * FINE, view.width * FINE), np.uint8)
        self.empty = True

    def _points(self, points: Floats) -> NDArray[np.int32]:
        """Retinal positions -> positions on the canvas, in the fixed-point form (4 fractional bits) of OpenCV."""
        fine = (self.view.pixels(points) + 0.5) * FINE - 0.5
        return np.rint(np.clip(fine, -4000, 60000) * 16).astype(np.int32)

    def lines(self, paths: Floats, widths: Floats, value: float = 1.0) -> None:
        """Draw paths (B, N, 2) whose widths (B, N), in retinal units, may change along them."""
        if len(paths) == 0:
            return
        self.empty = False
        points = self._points(paths)
        pieces = np.stack([points[:, :-1], points[:, 1:]], axis=2).reshape(-1, 2, 2)
        thickness = (widths[:, :-1] * self.view.radius * FINE).reshape(-1)
        whole = np.maximum(1, np.rint(thickness)).astype(int)
        for pen in np.unique(whole):  # thin lines first, so that thick ones lie on top
            chosen = whole == pen
            # A line thinner than one fine pixel is drawn fainter instead.
            strength = value * float(np.clip(thickness[chosen].mean(), 0.25, 1.0)) if pen == 1 else value
            cv2.polylines(self.canvas, list(pieces[chosen]), False, round(255 * strength), int(pen), cv2.LINE_AA, 4)

    def blobs(self, rng: Generator, centres: Floats, radii: Floats, ragged: float = 0.15, value: float = 1.0) -> None:
        """Draw filled roundish shapes: centres (B, 2), radii (B,) in retinal units; `ragged` is 0 for circles.

        A shape's outline is a circle with four random waves on it, stretched along a random direction.
        """
        angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        waves = np.arange(2, 6)[:, None]
        phase = rng.uniform(0, 2 * np.pi, (len(centres), 4, 1))
        height = rng.normal(0, ragged, (len(centres), 4, 1)) / np.sqrt(waves - 1)
        bumps = (height * np.sin(waves * angle + phase)).sum(axis=1)
        stretch = np.exp(rng.normal(0, ragged, (len(centres), 1)))
        length = radii[:, None] * np.clip(1 + bumps, 0.4, 1.8)
        outlines = np.stack([np.cos(angle) * length * stretch, np.sin(angle) * length / stretch], axis=2)
        tilts = rng.uniform(0, np.pi, len(centres))
        for outline, centre, tilt in zip(outlines, centres, tilts, strict=True):
            self.area(rotated(outline, tilt) + centre, value)

    def area(self, outline: Floats, value: float = 1.0) -> None:
        """Fill an outline (N, 2)."""
        self.empty = False
        cv2.fillPoly(self.canvas, [self._points(outline)], round(255 * value), cv2.LINE_AA, 4)

    def flat(self, blur: float = 0.0) -> Image:
        """(height, width) at the picture's resolution, 0 to 1; `blur` in retinal units."""
        size = (self.view.width, self.view.height)
        small = cv2.resize(self.canvas, size, interpolation=cv2.INTER_AREA).astype(np.float32) / np.float32(255)
        sigma = blur * self.view.radius
        return blurred(small, sigma) if sigma > 0.3 and not self.empty else small


def rotated(points: Floats, angle: float) -> Floats:
    """Points (..., 2) turned about the origin."""
    cosine, sine = np.cos(angle), np.sin(angle)
    turned: Floats = points @ np.array([[cosine, sine], [-sine, cosine]])
    return turned


def unit(angle: Floats | float) -> Floats:
    """Angles (...) -> unit vectors (..., 2)."""
    return np.stack([np.cos(angle), np.sin(angle)], axis=-1)


def blurred(image: Image, sigma: float) -> Image:
    """Blurred by a Gaussian; `sigma` in px."""
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.float32)


def smooth_noise(rng: Generator, view: View, cell: float) -> Image:
    """(height, width) smooth noise: standard normal numbers `cell` apart, in retinal units, and smooth between them."""
    step = max(1.5, cell * view.radius)
    coarse = rng.standard_normal((int(view.height / step) + 3, int(view.width / step) + 3)).astype(np.float32)
    return np.asarray(cv2.resize(coarse, (view.width, view.height), interpolation=cv2.INTER_CUBIC), np.float32)


def soft_step(x: NDArray[Any]) -> Image:
    """A soft step from 0 to 1 (the logistic function, written so that it cannot overflow)."""
    return np.asarray(0.5 + 0.5 * np.tanh(0.5 * x), np.float32)


def mix(picture: Image, alpha: Image, colour: tuple[float, float, float]) -> Image:
    """Lay a colour over the picture (height, width, 3), as thickly as `alpha` (height, width) says: 0 to 1."""
    alpha = alpha[..., None]
    return np.asarray(picture * (1 - alpha) + np.array(colour, np.float32) * alpha, np.float32)
