"""The camera: where it points, and the photograph that it takes of a painted retina, defects included."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from pipelines.retinopathy.phantom.canvas import Bytes, Image, View, blurred, smooth_noise, soft_step

DEFECTS = ("blur", "dark", "bright", "lid", "off field")  # what makes a picture ungradable


@dataclass(frozen=True)
class Camera:
    """What a fundus camera does to the picture. Lengths are fractions of the picture's width."""

    name: str
    scale: float  # of the longest side, relative to the largest pictures
    aspect: float  # height / width
    radius: float  # of the fundus disc
    cut: float  # half height of the visible field, in disc radii: below 1 the disc is cut straight at top and bottom
    gains: tuple[float, float, float]  # of red, green and blue
    gamma: float
    vignette: float
    blur: float
    noise: float
    haze: float  # stray light
    background: tuple[int, int, int]
    jpeg_quality: int
    notch: bool = False  # in the disc's edge, as on many cameras to tell a picture from its mirror image
    dust: bool = False  # on the lens


CAMERAS = (
    # scale, aspect, radius, cut, gains, gamma, vignette, blur, noise, haze, background, jpeg_quality
    Camera("A", 1.0, 0.667, 0.46, 2.0, (1.00, 1.00, 1.00), 1.00, 0.35, 0.0012, 0.010, 0.00, (0, 0, 0), 93, notch=True),
    Camera("B", 1.0, 0.750, 0.345, 2.0, (0.95, 1.10, 0.80), 0.90, 0.45, 0.0018, 0.020, 0.01, (4, 3, 3), 82),
    Camera("C", 0.9, 1.000, 0.485, 2.0, (0.88, 0.92, 0.75), 1.15, 0.55, 0.0022, 0.014, 0.00, (0, 0, 0), 88, dust=True),
    Camera(
        "D", 0.8, 0.800, 0.455, 0.84, (1.05, 0.92, 1.10), 0.95, 0.30, 0.0025, 0.016, 0.03, (2, 2, 6), 72, notch=True
    ),
    Camera("E", 1.0, 0.750, 0.330, 2.0, (1.08, 1.05, 0.95), 0.85, 0.50, 0.0028, 0.026, 0.06, (38, 30, 28), 78),
)


def aim(rng: Generator, camera: Camera, size: int, left: bool) -> View:
    """Point a camera at an eye, between macula and optic disc as in a 45-degree photograph, with a little chance.

    `size` is the longest side of the largest pictures, px.
    """
    longest = size * camera.scale
    width = round(longest / max(1.0, camera.aspect))
    height = round(width * camera.aspect)
    return View(
        width=width,
        height=height,
        x=(width - 1) / 2 + float(rng.normal(0, 0.006)) * width,
        y=(height - 1) / 2 + float(rng.normal(0, 0.006)) * width,
        radius=camera.radius * width * float(rng.uniform(0.985, 1.015)),
        mirrored=left,
        turn=float(rng.normal(0, 0.07)),
        gaze=(float(rng.normal(0.17, 0.10)), float(rng.normal(0.0, 0.06))),
        cut=camera.cut,
    )


def photograph(rng: Generator, picture: Image, view: View, camera: Camera, noise: float, defect: str | None) -> Bytes:
    """Illuminate, blur, frame and digitise the retina.

    Args:
        rng: Draws this photograph's illumination, exposure, colour, blur and noise.
        picture: (height, width, 3), as `draw_eye` gives it.
        view: Where the retina lies in it.
        camera: What takes the photograph.
        noise: Multiplies the camera's noise.
        defect: One of `DEFECTS`, or None for a gradable photograph.

    Returns:
        (height, width, 3) uint8, red, green, blue.
    """
    light, exposure, blur, haze = _conditions(rng, view, camera, defect)
    picture = picture * light[..., None] * np.float32(exposure)
    picture = picture * np.array(camera.gains, np.float32) * np.exp(rng.normal(0, 0.04, 3)).astype(np.float32)
    picture = picture * np.float32(1 - haze) + np.float32(haze) * np.array([0.75, 0.62, 0.50], np.float32)
    picture = np.clip(picture, 0, 1.2) ** np.float32(camera.gamma)
    if blur > 0.25:
        picture = blurred(picture, blur)
    column, row = view.field()
    if camera.dust:  # on this camera's lens, at the same places in every picture
        specks = np.random.default_rng(20160101).uniform(-0.85, 0.85, (5, 2))
        for speck_x, speck_y in specks:
            picture *= 1 - 0.14 * np.exp(-((column - speck_x) ** 2 + (row - speck_y) ** 2) / 0.0008)[..., None]

    inside = _frame(view, camera)[..., None]
    background = np.array(camera.background, np.float32) / np.float32(255)
    picture = picture * inside + background * (1 - inside)
    grain = rng.standard_normal(picture.shape, dtype=np.float32)
    picture += np.float32(noise * camera.noise) * grain * (0.35 + 0.65 * inside)
    return np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)


def _conditions(rng: Generator, view: View, camera: Camera, defect: str | None) -> tuple[Image, float, float, float]:
    """Illumination (height, width), exposure (1 is right), blur (sigma, px) and haze (0 to 1) of one photograph."""
    column, row = view.field()
    direction = rng.uniform(0, 2 * np.pi)
    tilt = rng.uniform(0, 0.18) * (column * np.cos(direction) + row * np.sin(direction))
    light = (1 + tilt) * (1 - camera.vignette * rng.uniform(0.7, 1.2) * (column**2 + row**2) ** 1.5 * 0.6)
    light *= 1 + 0.05 * smooth_noise(rng, view, 0.8)
    exposure = float(np.exp(rng.normal(0, 0.10)))
    blur = camera.blur * rng.uniform(0.7, 1.6) * view.width
    haze = camera.haze + 0.02 * rng.random()
    if defect == "blur":
        blur = view.width * rng.uniform(0.018, 0.035)
        haze += rng.uniform(0.0, 0.15)
    elif defect == "dark":
        exposure = rng.uniform(0.06, 0.16)
    elif defect == "bright":
        exposure = rng.uniform(3.5, 6.0)
        haze += rng.uniform(0.2, 0.4)
    elif defect == "lid":  # the upper lid and its lashes hide the upper part
        border = rng.uniform(-0.2, 0.35) + 0.25 * column**2 + 0.03 * smooth_noise(rng, view, 0.06)
        light *= 0.04 + 0.96 * soft_step((row - border) * 14)
    elif defect == "off field":  # the pupil's edge hides all but a part at the rim
        angle, away = rng.uniform(0, 2 * np.pi), rng.uniform(0.9, 1.2)
        distance = np.hypot(column - away * np.cos(angle), row - away * np.sin(angle))
        light *= 0.03 + 0.97 * soft_step((rng.uniform(0.6, 0.8) - distance) * 12)
        haze += 0.04
    return light.astype(np.float32), exposure, blur, haze


def _frame(view: View, camera: Camera) -> Image:
    """(height, width): 1 where the retina is seen, 0 outside the fundus disc."""
    column, row = view.field()
    distance = np.sqrt(column**2 + row**2)
    edge = 1.4 / view.radius  # the disc's edge is so soft
    inside = np.clip((1 - distance) / edge + 0.5, 0, 1) * np.clip((view.cut - np.abs(row)) / edge + 0.5, 0, 1)
    if camera.notch:
        inside = np.maximum(inside, (np.abs(distance - 1.0) < 0.045) & (np.hypot(column - 0.72, row + 0.70) < 0.07))
    frame: Image = inside.astype(np.float32)
    return frame
