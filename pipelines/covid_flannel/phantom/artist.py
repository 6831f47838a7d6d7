"""Synthetic chest X-rays: anatomy by age, signs by class, looks by hospital."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Floats = NDArray[np.float32]
# Of the side: signs have no structure coarser than this, as after a scanner's local contrast correction, so that the
# mean brightness of a region says nothing about disease.
COARSE = 0.05


@dataclass(frozen=True)
class Hospital:
    """How a hospital's pictures look: black frame (share of the side), letter and its corner, contrast, brightness."""

    name: str
    frame: float
    marker: str
    corner: tuple[float, float]
    contrast: float
    brightness: float


@dataclass(frozen=True)
class Anatomy:
    """A chest, the same in all pictures of a patient; lengths are shares of the picture's side."""

    child: bool
    width: float
    height: float
    heart: float
    tilt: float
    ribs: float
    phase: float
    slope: float
    tissue: int  # seed of the soft tissue's texture and of the vessels, which tell one patient from another


def draw_anatomy(rng: Generator, child: bool) -> Anatomy:
    """A child's chest is rounder and its heart larger for it; an adult's has longer lungs."""
    return Anatomy(
        child,
        width=float(rng.normal(0.40 if child else 0.385, 0.015)),
        height=float(rng.normal(0.30 if child else 0.37, 0.015)),
        heart=float(rng.normal(0.17 if child else 0.145, 0.012)),
        tilt=float(rng.normal(0, 2.5)),
        ribs=float(rng.uniform(7, 11)),
        phase=float(rng.uniform(0, 1)),
        slope=float(rng.uniform(-0.4, 0.1)),
        tissue=int(rng.integers(2**31)),
    )


def draw_picture(
    rng: Generator, anatomy: Anatomy, disease: str, contrast: float, hospital: Hospital, side: int
) -> NDArray[np.uint8]:
    """One picture (side, side) uint8. `contrast` is that of the signs of disease; 1 as drawn."""
    y, x = (np.mgrid[0:side, 0:side].astype(np.float32) + 0.5) / side
    x = x - 0.5 + np.float32(rng.normal(0, 0.01))
    y = y - 0.5 + np.float32(rng.normal(0, 0.01))
    own = np.random.default_rng(anatomy.tissue)
    turn = np.deg2rad(anatomy.tilt + rng.normal(0, 1))
    x, y = np.cos(turn) * x + np.sin(turn) * y, np.cos(turn) * y - np.sin(turn) * x
    lungs = [_lung(x, y, anatomy, left) for left in (-1, 1)]
    lung = np.maximum(*lungs)
    body = _soft(1 - (x / 0.49) ** 2 - (y / 0.62) ** 2, 0.08)
    picture = 0.62 * body - 0.42 * lung
    picture += 0.10 * _ribs(x, y, anatomy) * body
    heart = _soft(1 - ((x - 0.05) / anatomy.heart) ** 2 - ((y - 0.13) / (1.15 * anatomy.heart)) ** 2, 0.15)
    spine = np.exp(-((x / 0.045) ** 2))
    picture += 0.30 * heart * (0.4 + 0.6 * lung) + 0.16 * spine * body
    picture += 0.16 * _vessels(own, x, y) * lung
    picture += (0.035 * _noise(own, side, 0.03) + 0.02 * _noise(own, side, 0.015)) * body
    signs = 0.55 * contrast * _signs(rng, disease, x, y, side) * lung * (1 - 0.5 * heart)
    for _ in range(2):
        signs = signs - cv2.GaussianBlur(signs, (0, 0), COARSE * side)
    picture += signs
    shade = rng.normal(0, 0.07, 3).astype(np.float32)
    picture += shade[0] * x + shade[1] * y + shade[2] * 4 * x * y
    picture = 0.5 + hospital.contrast * float(rng.normal(1, 0.06)) * (picture - 0.4)
    picture += hospital.brightness + float(rng.normal(0, 0.03))
    picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), float(rng.uniform(0.5, 0.9)) * side / 160), np.float32)
    picture += rng.normal(0, 0.02, picture.shape)
    return _stamp(np.clip(picture, 0, 1), hospital)


def _soft(inside: Floats, width: float) -> Floats:
    """0 outside, 1 inside, with a soft edge; `inside` is positive inside."""
    return np.asarray(1 / (1 + np.exp(-np.clip(inside / width, -30, 30))), np.float32)


def _lung(x: Floats, y: Floats, anatomy: Anatomy, left: int) -> Floats:
    """One lung, with the dome of the diaphragm below it."""
    centre = 0.5 * anatomy.width * left
    oval = 1 - ((x - centre) / (0.46 * anatomy.width)) ** 2 - ((y + 0.02) / anatomy.height) ** 2
    dome = anatomy.height * (0.62 - 1.6 * (x - centre) ** 2 / anatomy.width**2) - y + 0.02 * (left > 0)
    return _soft(np.minimum(oval, 6 * dome), 0.09)


def _ribs(x: Floats, y: Floats, anatomy: Anatomy) -> Floats:
    bent = y + 0.55 * np.abs(x) ** 1.6 + anatomy.slope * np.abs(x)
    wave = np.cos(2 * np.pi * (anatomy.ribs * bent + anatomy.phase))
    return np.asarray(np.clip(wave - 0.25, 0, 1) * (np.abs(x) > 0.05), np.float32)


def _vessels(rng: Generator, x: Floats, y: Floats) -> Floats:
    """Branches that leave the hila."""
    brightness = np.zeros_like(x)
    for left in (-1, 1):
        px, py = x - 0.07 * left, y
        angle, radius = np.arctan2(py, px * left), np.hypot(px, py)
        for _ in range(7):
            heading = rng.uniform(-1.4, 1.4)
            bend = rng.normal(0, 1.5)
            away = (angle - heading - bend * radius) * radius
            brightness += np.exp(-((away / 0.006) ** 2) - radius / 0.12) * (px * left > 0)
    return np.clip(brightness, 0, 1)


def _signs(rng: Generator, disease: str, x: Floats, y: Floats, side: int) -> Floats:
    """What a disease adds to the lungs: lobar consolidation, streaks, bilateral peripheral ground glass."""
    opacity = np.zeros_like(x)
    amount = float(np.exp(rng.normal(-0.3, 0.45)))
    if disease == "bacterial":
        left = int(rng.choice([-1, 1]))
        cx, cy = left * rng.uniform(0.14, 0.22), rng.uniform(-0.12, 0.12)
        edge = 1 - ((x - cx) / rng.uniform(0.09, 0.13)) ** 2 - ((y - cy) / rng.uniform(0.08, 0.13)) ** 2
        air = 1 - 0.35 * _noise(rng, side, 0.012)
        opacity = 1.1 * _soft(edge, 0.12) * air
    elif disease == "viral":
        for _ in range(int(rng.integers(36, 60))):
            cx, cy, heading = rng.uniform(-0.32, 0.32), rng.uniform(-0.28, 0.25), rng.uniform(0, np.pi)
            along = (x - cx) * np.cos(heading) + (y - cy) * np.sin(heading)
            across = (y - cy) * np.cos(heading) - (x - cx) * np.sin(heading)
            opacity += 0.8 * np.exp(-((along / 0.055) ** 2) - (across / 0.006) ** 2)
    elif disease == "covid19":
        for left in (-1, 1):
            for _ in range(int(rng.integers(3, 6))):
                cx, cy = left * rng.uniform(0.20, 0.30), rng.uniform(-0.2, 0.22)
                radius = rng.uniform(0.03, 0.055)
                blob = np.exp(-(((x - cx) / radius) ** 2) - ((y - cy) / (1.2 * radius)) ** 2)
                opacity += 0.75 * blob * (0.8 + 0.35 * _noise(rng, side, 0.02))
    return np.asarray(amount * np.clip(opacity, 0, 1.4), np.float32)


def _noise(rng: Generator, side: int, scale: float) -> Floats:
    """Smooth noise of unit variance; `scale` is a share of the side."""
    field = cv2.GaussianBlur(rng.normal(size=(side, side)).astype(np.float32), (0, 0), scale * side)
    return np.asarray(field / max(float(field.std()), 1e-6), np.float32)


def _stamp(picture: Floats, hospital: Hospital) -> NDArray[np.uint8]:
    """The hospital's letter and frame, as they come out of its scanner."""
    grey = np.rint(picture * 255).astype(np.uint8)
    side = grey.shape[0]
    if hospital.marker:
        place = (round(hospital.corner[0] * side), round(hospital.corner[1] * side))
        thick = max(1, round(side / 90))
        cv2.putText(grey, hospital.marker, place, cv2.FONT_HERSHEY_SIMPLEX, side / 260, 250, thick, cv2.LINE_AA)
    frame = round(hospital.frame * side)
    if frame:
        for edge in (np.s_[:frame], np.s_[-frame:], np.s_[:, :frame], np.s_[:, -frame:]):
            grey[edge] = 4
    return grey
