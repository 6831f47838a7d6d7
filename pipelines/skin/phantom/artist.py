"""Draws synthetic skin lesions: a lesion once, then as often as it is photographed.

Colour is absorption: a pigment of density d lets exp(-d k) of the light pass, k differing by colour, so the same lesion
is fainter on darker skin. Pictures are floats in 0..1, (height, width, 3) RGB, until they are photographed.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from pipelines.skin.diseases import Looks

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

# Absorption of red, green and blue light by what skin holds.
MELANIN = np.array([0.55, 0.85, 1.15], np.float32)
HAEM = np.array([0.10, 0.85, 0.70], np.float32)
BLUE = np.array([1.00, 0.75, 0.45], np.float32)
# Skin without a lesion, Fitzpatrick types I to VI.
SKIN = np.array(
    [[0.94, 0.79, 0.73], [0.91, 0.74, 0.64], [0.85, 0.66, 0.53], [0.72, 0.53, 0.39], [0.54, 0.37, 0.26],
     [0.37, 0.25, 0.18]], np.float32,
)  # fmt: skip
FRAME = 1.25  # side of a lesion's canvas over that of the shorter side of a picture


@dataclass(frozen=True)
class Lesion:
    """A drawn lesion on a square canvas: absorption (s, s, 3), white (s, s) and body mask (s, s), all float32."""

    absorption: Floats
    white: Floats
    mask: Floats


def _noise(rng: Generator, side: int, grain: float) -> Floats:
    """Smooth noise (side, side), mean 0, standard deviation 1; `grain` is its wavelength over the side."""
    cells = max(3, round(2 / grain))
    field = cv2.resize(
        rng.standard_normal((cells, cells)).astype(np.float32), (side, side), interpolation=cv2.INTER_CUBIC
    )
    return np.asarray((field - field.mean()) / max(float(field.std()), 1e-6), np.float32)


def draw_lesion(rng: Generator, looks: Looks, side: int) -> Lesion:
    """Draw a lesion on a canvas of `side` pixels, `FRAME` times the shorter side of its pictures."""
    axis = np.linspace(-FRAME, FRAME, side, dtype=np.float32)  # 1 is half of the picture's shorter side
    x, y = np.meshgrid(axis, axis)
    depth, radius, angle = _outline(rng, looks, x, y)
    body = 1 / (1 + np.exp(-np.clip(depth / (0.25 * looks.soft + 0.01), -30, 30)))
    if looks.papules > 2:
        body = _papules(rng, looks, side, body)
    if looks.ring > 0.3:
        wall = np.exp(-(((depth - 0.12) / 0.09) ** 2))
        body = body * (1 - min(looks.ring, 1)) + min(looks.ring, 1) * np.maximum(wall, 0.25 * body)
    uneven = np.exp(looks.variegation * (0.9 * _noise(rng, side, 0.35) + 0.5 * _noise(rng, side, 0.12)))
    where = rng.uniform(0, 2 * np.pi)
    patch = np.exp(
        -(((x - 0.45 * radius * np.cos(where)) ** 2 + (y - 0.45 * radius * np.sin(where)) ** 2) / (0.35 * radius) ** 2)
    )
    melanin = looks.melanin * body * uneven * (1 + 1.2 * looks.variegation * patch)
    if looks.network > 0.05:
        melanin *= 1 + looks.network * (_network(rng, x, y, side) - 0.35)
    melanin += 0.8 * body * _spots(rng, looks.globules, side, 0.015, 0.03, radius) * (0.3 + looks.melanin)
    melanin += 0.9 * _spots(rng, looks.openings, side, 0.02, 0.045, radius) * body
    if looks.streaks > 1:
        melanin += 0.5 * looks.melanin * _streaks(rng, looks, depth, angle)
    blue = looks.blue * body * np.clip(0.6 + 0.6 * _noise(rng, side, 0.5), 0, None)
    haem = looks.haem * body * np.exp(0.3 * _noise(rng, side, 0.2))
    haem += 0.9 * _spots(rng, looks.lacunae, side, 0.05, 0.10, radius) * body
    haem += 0.7 * _spots(rng, looks.dots, side, 0.008, 0.014, radius) * body
    haem += 0.8 * _vessels(rng, looks.vessels, side, radius) * body
    if looks.ulcer > 0.1:
        crater = _spots(rng, 1 + looks.ulcer * 2, side, 0.06, 0.13, 0.7 * radius) * body
        haem += 0.8 * min(looks.ulcer * 2, 1) * crater
        melanin += 0.3 * min(looks.ulcer * 2, 1) * crater
    white = 0.7 * _spots(rng, looks.cysts, side, 0.012, 0.025, radius) * body
    if looks.scale > 0.05:
        flakes = np.clip(_noise(rng, side, 0.05) * 0.7 + _noise(rng, side, 0.15) * 0.6 - 0.5, 0, 1)
        white += 0.8 * min(looks.scale, 1.2) * flakes * body
    if looks.scar > 0.1:
        middle = np.exp(-((np.hypot(x, y) / (0.35 * radius)) ** 2))
        white += 0.5 * min(looks.scar, 1.2) * middle
        melanin *= 1 - 0.6 * min(looks.scar, 1) * middle
    absorption = melanin[..., None] * MELANIN + haem[..., None] * HAEM + blue[..., None] * BLUE
    return Lesion(
        absorption.astype(np.float32), np.clip(white, 0, 0.9).astype(np.float32), (body > 0.5).astype(np.float32)
    )


def _outline(rng: Generator, looks: Looks, x: Floats, y: Floats) -> tuple[Floats, float, Floats]:
    """How far inside the border each pixel lies, the mean radius, and each pixel's angle."""
    stretch = 1 + 0.25 * rng.random()
    u, v = x * stretch**0.5, y / stretch**0.5
    angle = np.arctan2(v, u)
    border = np.ones_like(angle)
    for k in range(2, 9):
        border += looks.irregular * rng.normal(0, 1.1 / k) * np.cos(k * angle + rng.uniform(0, 2 * np.pi))
    radius = float(np.clip(looks.size, 0.2, 0.95))
    depth = radius * np.clip(border, 0.4, 1.8) - np.hypot(u, v)
    return np.asarray(depth, np.float32), radius, angle


def _place(rng: Generator, side: int, radius: float) -> tuple[int, int]:
    """A random pixel within a radius of the canvas' middle."""
    r, a = radius * np.sqrt(rng.random()), rng.uniform(0, 2 * np.pi)
    scale = side / (2 * FRAME)
    return round(side / 2 + scale * r * np.cos(a)), round(side / 2 + scale * r * np.sin(a))


def _spots(rng: Generator, mean: float, side: int, small: float, large: float, radius: float) -> Floats:
    """Poisson many discs, their radius between `small` and `large` (over half the picture's shorter side), blurred."""
    canvas = np.zeros((side, side), np.float32)
    for _ in range(int(rng.poisson(mean))):
        size = max(1, round(rng.uniform(small, large) * side / (2 * FRAME)))
        cv2.circle(canvas, _place(rng, side, 0.85 * radius), size, float(rng.uniform(0.6, 1.0)), -1, cv2.LINE_AA)
    return np.asarray(cv2.GaussianBlur(canvas, (0, 0), 0.6), np.float32)


def _papules(rng: Generator, looks: Looks, side: int, body: Floats) -> Floats:
    """Bumps scattered over the body, which itself is hardly seen."""
    bumps = _spots(rng, looks.papules, side, 0.05, 0.11, float(np.clip(looks.size, 0.2, 0.95)))
    share = min(1.0, (looks.papules - 2) / 6)
    return np.asarray((1 - share) * body + share * np.clip(bumps + 0.15 * body, 0, 1), np.float32)


def _network(rng: Generator, x: Floats, y: Floats, side: int) -> Floats:
    """Reticular lines: a warped mesh, 1 on its lines."""
    warp = 0.05 * _noise(rng, side, 0.3), 0.05 * _noise(rng, side, 0.3)
    pitch = rng.uniform(22, 30)
    lines = [np.exp(-((np.sin(pitch * (axis + w)) / 0.4) ** 2)) for axis, w in ((x + y, warp[0]), (x - y, warp[1]))]
    return np.maximum(*lines).astype(np.float32)


def _streaks(rng: Generator, looks: Looks, depth: Floats, angle: Floats) -> Floats:
    """Radial lines across part of the border."""
    count = max(1, int(rng.poisson(looks.streaks)))
    streaks = np.zeros_like(depth)
    for _ in range(count):
        turn = np.angle(np.exp(1j * (angle - rng.uniform(0, 2 * np.pi))))
        streaks += np.exp(-((turn / 0.05) ** 2)) * np.exp(-((depth / 0.10) ** 2))
    return np.clip(streaks, 0, 1.5).astype(np.float32)


def _vessels(rng: Generator, mean: float, side: int, radius: float) -> Floats:
    """Branching lines that get thinner."""
    canvas = np.zeros((side, side), np.float32)
    for _ in range(int(rng.poisson(mean))):
        x, y = _place(rng, side, radius)
        heading = rng.uniform(0, 2 * np.pi)
        stack = [(float(x), float(y), heading, 2)]
        while stack:
            px, py, heading, order = stack.pop()
            for _ in range(4):
                heading += rng.normal(0, 0.35)
                step = 0.07 * side / (2 * FRAME)
                qx, qy = px + step * np.cos(heading), py + step * np.sin(heading)
                cv2.line(canvas, (round(px), round(py)), (round(qx), round(qy)), 0.5 + 0.25 * order, 1, cv2.LINE_AA)
                px, py = qx, qy
            if order:
                stack += [(px, py, heading + turn, order - 1) for turn in (-0.6, 0.6)]
    return canvas


# --- the photograph ---


def photograph(rng: Generator, lesion: Lesion, skin_type: int, height: int, width: int) -> tuple[Bytes, Bytes]:
    """One picture of a lesion: uint8 (height, width, 3), and the mask of its body as it is seen, 0/255.

    Each picture has its own distance, angle, light and camera, and by chance hairs, a ruler, gel bubbles, a dark frame.
    """
    absorption, white, mask = _turn(rng, lesion, height, width)
    skin = SKIN[skin_type - 1] * (1 + 0.03 * rng.normal(size=3).astype(np.float32))
    side = max(height, width)
    texture = 0.035 * _noise(rng, side, 0.03) + 0.03 * _noise(rng, side, 0.4)
    picture = skin * (1 + texture[:height, :width, None])
    picture = picture * np.exp(-absorption)
    picture += white[..., None] * (np.array([0.93, 0.90, 0.86], np.float32) * (0.5 + 0.5 * skin) - picture)
    if rng.random() < 0.35:
        picture = _hairs(rng, picture)
    if rng.random() < 0.12:
        picture = _ruler(rng, picture)
    if rng.random() < 0.20:
        picture = _bubbles(rng, picture)
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    slope = rng.normal(0, 0.06, 2)
    light = rng.normal(1, 0.08) * (1 + slope[0] * x + slope[1] * y) * (1 - rng.uniform(0, 0.15) * (x**2 + y**2))
    picture = picture * light[..., None] * (1 + rng.normal(0, 0.035, 3))
    if rng.random() < 0.2:  # the rim of a dermatoscope
        rim = np.hypot(x * width / height, y) - rng.uniform(1.1, 1.45)
        picture = picture / (1 + np.exp(np.clip(rim / 0.02, -30, 30)))[..., None]
    picture = cv2.GaussianBlur(picture.astype(np.float32), (0, 0), rng.uniform(0.4, 1.1))
    picture += rng.normal(0, rng.uniform(0.006, 0.02), picture.shape)
    return np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8), (255 * (mask > 0.5)).astype(np.uint8)


def _turn(rng: Generator, lesion: Lesion, height: int, width: int) -> tuple[Floats, Floats, Floats]:
    """The lesion as this picture's camera sees it: turned, nearer or farther, off the middle, perhaps mirrored."""
    side = lesion.mask.shape[0]
    shorter = min(height, width)
    zoom = FRAME * shorter / side * rng.uniform(0.85, 1.2)
    matrix = cv2.getRotationMatrix2D((side / 2, side / 2), rng.uniform(0, 360), zoom)
    matrix[:, 2] += np.array([width, height]) / 2 - side / 2 + rng.normal(0, 0.04 * shorter, 2)

    def warped(canvas: Floats) -> Floats:
        return np.asarray(cv2.warpAffine(canvas, matrix, (width, height), flags=cv2.INTER_LINEAR), np.float32)

    return warped(lesion.absorption), warped(lesion.white), warped(lesion.mask)


def _hairs(rng: Generator, picture: Floats) -> Floats:
    height, width = picture.shape[:2]
    canvas = np.zeros((height, width), np.float32)
    for _ in range(int(rng.integers(3, 14))):
        start = rng.uniform(0, 1, 2) * (width, height)
        end = start + rng.normal(0, 0.5, 2) * width
        bend = (start + end) / 2 + rng.normal(0, 0.08, 2) * width
        t = np.linspace(0, 1, 20)[:, None]
        curve = (1 - t) ** 2 * start + 2 * t * (1 - t) * bend + t**2 * end
        cv2.polylines(canvas, [np.rint(curve).astype(np.int32)], False, float(rng.uniform(0.5, 0.95)), 1, cv2.LINE_AA)
    colour = np.array([0.18, 0.12, 0.09], np.float32) * rng.uniform(0.5, 2.5)
    return picture + canvas[..., None] * (colour - picture)


def _ruler(rng: Generator, picture: Floats) -> Floats:
    height, width = picture.shape[:2]
    canvas = np.zeros((height, width), np.float32)
    pitch, top = width / rng.uniform(14, 26), rng.random() < 0.5
    for k in range(int(width / pitch) + 1):
        long = 0.10 if k % 5 == 0 else 0.05
        x = round(k * pitch)
        ends = (0, round(long * height)) if top else (height - 1, height - 1 - round(long * height))
        cv2.line(canvas, (x, ends[0]), (x, ends[1]), 0.8, 1, cv2.LINE_AA)
    return picture * (1 - canvas[..., None])


def _bubbles(rng: Generator, picture: Floats) -> Floats:
    height, width = picture.shape[:2]
    canvas = np.zeros((height, width), np.float32)
    for _ in range(int(rng.integers(2, 9))):
        centre = (int(rng.integers(width)), int(rng.integers(height)))
        cv2.circle(canvas, centre, int(rng.integers(3, max(4, width // 20))), 0.55, 1, cv2.LINE_AA)
    return picture + canvas[..., None] * (1 - picture)
