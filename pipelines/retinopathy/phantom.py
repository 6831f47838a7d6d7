"""A synthetic set of fundus photographs with several graders, whose truth is known.

What is drawn follows the international clinical scale (Wilkinson et al., Ophthalmology 2003): microaneurysms only in
mild, also haemorrhages, exudates and cotton-wool spots in moderate, beading and IRMA in severe, new vessels and
preretinal haemorrhage in proliferative retinopathy; their number grows with a continuous latent severity. Graders see
that severity through a bias and a noise of their own. Positions on the retina are in units of the radius of a 45-degree
field, about 6.5 mm: the optic disc's radius is 0.14, and the fovea lies 2.5 disc diameters from it.

    images/<image_id>.jpg             8-bit colour; image_id is p0001_left, p0001_right, …
    grades.csv                        image_id, grader, grade (0-4), dme (0/1), gradable (0/1); one row per image and
                                      grader; grade and dme are empty where that grader called it ungradable
    metadata.csv                      image_id, patient_id, eye, camera, age, sex
    truth/truth.csv                   image_id, severity, grade, dme_severity, dme, gradable, center_x, center_y, radius
    truth/masks/<image_id>.png        lesions, 0/255, for the images that show any (venous beading is not in them)
    SYNTHETIC.txt                     says that all is synthetic, and by which settings it was made

Nothing in truth/ may serve as a feature.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import NormalDist
from typing import Any

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from pipelines.shared.screen import parallel_map

Floats = NDArray[np.float64]
Image = NDArray[np.float32]
Bytes = NDArray[np.uint8]

PHANTOM_VERSION = 1  # raise it whenever the same settings give other files
EYES = ("left", "right")
FINE = 3  # vessels and lesions are drawn this many times finer than the picture
DISC_RADIUS = 0.14  # of the optic disc
OPTIC_DISC = np.array([0.70, -0.06])  # its centre, 2.5 disc diameters from the fovea, which is the origin
BLOOD = np.array([0.30, 1.0, 0.85])  # absorption of red, green and blue light


@dataclass(frozen=True)
class PhantomSettings:
    """What is made. All fractions are of images.

    Attributes:
        patients: Each has two eyes, one picture of each.
        size: Longest side of the pictures, px (one camera's are smaller).
        seed: Everything is a function of the settings, this included.
        graders_min: Fewest graders per image.
        graders_max: Most graders per image.
        panel: Graders in all.
        grader_noise: Standard deviation of a grader's reading of the severity (itself a standard normal), on average.
        grader_bias: Standard deviation of the graders' constant errors.
        mild: Fraction of eyes with mild retinopathy; the rest have none.
        moderate: Fraction with moderate retinopathy.
        severe: Fraction with severe retinopathy.
        proliferative: Fraction with proliferative retinopathy.
        dme: Fraction with macular oedema (a little less comes out: eyes without retinopathy have none).
        ungradable: Fraction of pictures that are truly ungradable.
        eye_correlation: Correlation of severity between the two eyes of a patient.
        lesion_contrast: Multiplies the lesions' contrast against the retina.
        lesion_size: Multiplies the lesions' diameters.
        lesion_count: Multiplies the lesions' mean numbers.
        distractors: Multiplies the number of harmless findings (drusen, pigment spots, reflections).
        image_noise: Multiplies every camera's noise.
    """

    patients: int = 600
    size: int = 256
    seed: int = 0
    graders_min: int = 3
    graders_max: int = 7
    panel: int = 12
    grader_noise: float = 0.4
    grader_bias: float = 0.15
    mild: float = 0.12
    moderate: float = 0.22
    severe: float = 0.09
    proliferative: float = 0.07
    dme: float = 0.16
    ungradable: float = 0.06
    eye_correlation: float = 0.8
    lesion_contrast: float = 1.0
    lesion_size: float = 1.0
    lesion_count: float = 1.0
    distractors: float = 1.0
    image_noise: float = 1.0

    def __post_init__(self) -> None:
        grades = (self.mild, self.moderate, self.severe, self.proliferative)
        scales = (self.grader_noise, self.grader_bias, self.lesion_contrast, self.lesion_size, self.lesion_count)
        checks = {
            "patients must be at least 1": self.patients >= 1,
            "size must be at least 64": self.size >= 64,
            "seed must not be negative": self.seed >= 0,
            "1 <= graders_min <= graders_max <= panel must hold": (
                1 <= self.graders_min <= self.graders_max <= self.panel
            ),
            "mild, moderate, severe and proliferative must be positive, their sum below 1": (
                min(grades) > 0 and sum(grades) < 1
            ),
            "dme must lie between 0 and 1": 0 < self.dme < 1,
            "ungradable must lie in [0, 1)": 0 <= self.ungradable < 1,
            "eye_correlation must lie in [0, 1]": 0 <= self.eye_correlation <= 1,
            "grader_noise, grader_bias, lesion_contrast, lesion_size, lesion_count, distractors and image_noise "
            "must not be negative": min(*scales, self.distractors, self.image_noise) >= 0,
        }
        for rule, holds in checks.items():
            if not holds:
                raise ValueError(f"phantom: {rule}")

    @property
    def borders(self) -> list[float]:
        """Severities at which mild, moderate, severe and proliferative begin."""
        tails = np.cumsum([self.proliferative, self.severe, self.moderate, self.mild])[::-1]
        return [NormalDist().inv_cdf(1 - float(tail)) for tail in tails]

    @property
    def dme_border(self) -> float:
        """DME severity at which macular oedema begins."""
        return NormalDist().inv_cdf(1 - self.dme)


# Separate random streams, so that changing (say) the lesions' contrast changes neither the grades nor the vessels.
STREAMS = {"person": 1, "state": 2, "camera": 3, "retina": 4, "lesions": 5, "grades": 6, "panel": 7}


def _rng(settings: PhantomSettings, stream: str, number: int, eye: int = 0) -> Generator:
    """The generator for one stream and one patient (or grader) and eye."""
    return np.random.default_rng([settings.seed, STREAMS[stream], number, eye])


@dataclass(frozen=True)
class Camera:
    """What a fundus camera does to the picture. Lengths are fractions of the picture's width."""

    name: str
    scale: float  # of the longest side, relative to the settings' size
    aspect: float  # height / width
    radius: float  # of the fundus disc
    cut: float  # half height of the visible field, in disc radii: below 1 the disc is cut straight at top and bottom
    gains: tuple[float, float, float]
    gamma: float
    vignette: float
    blur: float
    noise: float
    haze: float  # stray light
    background: tuple[int, int, int]
    jpeg_quality: int
    notch: bool = False
    dust: bool = False


CAMERAS = (
    Camera("A", 1.0, 0.667, 0.46, 2.0, (1.00, 1.00, 1.00), 1.00, 0.35, 0.0012, 0.010, 0.00, (0, 0, 0), 93, notch=True),
    Camera("B", 1.0, 0.750, 0.345, 2.0, (0.95, 1.10, 0.80), 0.90, 0.45, 0.0018, 0.020, 0.01, (4, 3, 3), 82),
    Camera("C", 0.9, 1.000, 0.485, 2.0, (0.88, 0.92, 0.75), 1.15, 0.55, 0.0022, 0.014, 0.00, (0, 0, 0), 88, dust=True),
    Camera(
        "D", 0.8, 0.800, 0.455, 0.84, (1.05, 0.92, 1.10), 0.95, 0.30, 0.0025, 0.016, 0.03, (2, 2, 6), 72, notch=True
    ),
    Camera("E", 1.0, 0.750, 0.330, 2.0, (1.08, 1.05, 0.95), 0.85, 0.50, 0.0028, 0.026, 0.06, (38, 30, 28), 78),
)


@dataclass(frozen=True)
class Person:
    """What both eyes of a patient share."""

    severity: float  # standard normal
    age: int
    sex: str
    pigment: float  # 0 fair to 1 dark
    tortuosity: float
    drusen: float  # tendency
    camera: Camera


@dataclass(frozen=True)
class View:
    """Where the retina lies in the picture. Retinal positions: fovea at 0, 0, x towards the nose, y downwards."""

    width: int
    height: int
    x: float  # centre and radius of the fundus disc, px of the picture
    y: float
    radius: float
    mirrored: bool  # in left eyes the nose is to the left
    turn: float  # torsion, radians
    gaze: tuple[float, float]  # retinal position at the centre of the disc
    cut: float

    def pixels(self, points: Floats) -> Floats:
        """(..., 2) retinal positions -> (..., 2) x, y in px of the picture."""
        flip = np.array([-1.0 if self.mirrored else 1.0, 1.0])
        return _rotated(points - np.array(self.gaze), self.turn) * flip * self.radius + np.array([self.x, self.y])

    def grid(self) -> tuple[Image, Image, Image]:
        """Retinal x, retinal y and squared distance from the field's centre, (height, width) each."""
        column = (np.arange(self.width, dtype=np.float32) - self.x) / self.radius
        row = (np.arange(self.height, dtype=np.float32)[:, None] - self.y) / self.radius
        across = -column if self.mirrored else column
        cosine, sine = np.float32(np.cos(self.turn)), np.float32(np.sin(self.turn))
        x = across * cosine + row * sine + np.float32(self.gaze[0])
        y = -across * sine + row * cosine + np.float32(self.gaze[1])
        return x.astype(np.float32), y.astype(np.float32), (column**2 + row**2).astype(np.float32)

    def random_points(self, rng: Generator, count: int, reach: float = 0.9) -> Floats:
        """(count, 2) retinal positions, uniform over the visible part of the field."""
        found = np.empty((0, 2))
        limit = min(reach * self.cut, 0.9 * self.height / 2 / self.radius)
        while len(found) < count:
            points = rng.uniform(-reach, reach, (4 * count + 8, 2))
            visible = (np.hypot(points[:, 0], points[:, 1]) < reach) & (np.abs(points[:, 1]) < limit)
            points = _rotated(points[visible], -self.turn) + np.array(self.gaze)
            found = np.concatenate([found, points[np.hypot(*(points - OPTIC_DISC).T) > 1.2 * DISC_RADIUS]])
        return found[:count]


def _rotated(points: Floats, angle: float) -> Floats:
    """Points (..., 2) turned about the origin."""
    cosine, sine = np.cos(angle), np.sin(angle)
    return points @ np.array([[cosine, sine], [-sine, cosine]])


def _blurred(image: Image, sigma: float) -> Image:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.float32)


class Layer:
    """A drawing in retinal coordinates, `FINE` times finer than the picture; brighter is more of what is drawn."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.pixels = np.zeros((view.height * FINE, view.width * FINE), np.uint8)
        self.empty = True

    def _points(self, points: Floats) -> NDArray[np.int32]:
        """Retinal positions -> fixed-point coordinates (4 fractional bits) as OpenCV draws them."""
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
            cv2.polylines(self.pixels, list(pieces[chosen]), False, round(255 * strength), int(pen), cv2.LINE_AA, 4)

    def blobs(self, rng: Generator, centres: Floats, radii: Floats, ragged: float = 0.15, value: float = 1.0) -> None:
        """Draw filled roundish shapes: centres (B, 2), radii (B,) in retinal units; `ragged` is 0 for circles."""
        angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        waves = np.arange(2, 6)[:, None]
        phase = rng.uniform(0, 2 * np.pi, (len(centres), 4, 1))
        height = rng.normal(0, ragged, (len(centres), 4, 1)) / np.sqrt(waves - 1)
        noise = (height * np.sin(waves * angle + phase)).sum(axis=1)
        stretch = np.exp(rng.normal(0, ragged, (len(centres), 1)))
        length = radii[:, None] * np.clip(1 + noise, 0.4, 1.8)
        ray = np.stack([np.cos(angle) * length * stretch, np.sin(angle) * length / stretch], axis=2)
        tilt = rng.uniform(0, np.pi, len(centres))
        for shape, centre, angle in zip(ray, centres, tilt, strict=True):
            self.area(_rotated(shape, angle) + centre, value)

    def area(self, outline: Floats, value: float = 1.0) -> None:
        """Fill an outline (N, 2)."""
        self.empty = False
        cv2.fillPoly(self.pixels, [self._points(outline)], round(255 * value), cv2.LINE_AA, 4)

    def flat(self, blur: float = 0.0) -> Image:
        """(height, width) at the picture's resolution, 0 to 1; `blur` in retinal units."""
        size = (self.view.width, self.view.height)
        small = cv2.resize(self.pixels, size, interpolation=cv2.INTER_AREA).astype(np.float32) / np.float32(255)
        sigma = blur * self.view.radius
        return _blurred(small, sigma) if sigma > 0.3 and not self.empty else small


# --- vessels -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Vessels:
    """Paths (B, N, 2) and widths (B, N) of one generation of vessels."""

    paths: Floats
    widths: Floats

    def at(self, vessel: NDArray[np.int64], step: NDArray[np.int64]) -> tuple[Floats, Floats, Floats]:
        """Positions (K, 2), headings (K,) and widths (K,) at a step of some vessels."""
        ahead = self.paths[vessel, step + 1] - self.paths[vessel, step]
        return self.paths[vessel, step], np.arctan2(ahead[:, 1], ahead[:, 0]), self.widths[vessel, step]


def _trunks(rng: Generator, tortuosity: float, width: float) -> Vessels:
    """The vessels that leave the optic disc: two arcades around the macula, two nasal, and small ones."""
    ends = [  # a Bezier curve's middle points and end, and the relative width
        ((0.58, -0.50), (0.05, -0.72), (-0.95, -0.38), 1.0),
        ((0.58, 0.42), (0.05, 0.68), (-0.95, 0.36), 1.0),
        ((0.78, -0.40), (1.05, -0.60), (1.45, -0.85), 0.75),
        ((0.78, 0.30), (1.05, 0.50), (1.45, 0.75), 0.75),
        ((0.85, -0.16), (1.15, -0.20), (1.50, -0.15), 0.45),
        ((0.55, -0.12), (0.35, -0.20), (0.16, -0.10), 0.28),
        ((0.55, 0.02), (0.35, 0.12), (0.16, 0.08), 0.28),
    ]
    control = np.array([points[:3] for points in ends]) + rng.normal(0, 0.045, (len(ends), 3, 2))
    start = OPTIC_DISC + rng.normal(0, 0.025, (len(ends), 1, 2))
    control = np.concatenate([start, control], axis=1)
    t = np.linspace(0, 1, 41)[:, None]
    basis = np.concatenate([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3], axis=1)
    paths = np.einsum("tk,bkx->btx", basis, control)
    wander = np.cumsum(rng.normal(0, 0.007 * tortuosity, paths.shape), axis=1)
    waves = np.sin(np.linspace(0, 1, 41) * rng.uniform(12, 26, (len(ends), 1)) + rng.uniform(0, 6, (len(ends), 1)))
    waves *= 0.010 * tortuosity * np.linspace(0, 1, 41)
    paths = paths + wander + waves[..., None] * [0.4, 1.0]
    relative = np.array([points[3] for points in ends])[:, None]
    return Vessels(paths, width * relative * (1 - 0.62 * t[:, 0]))


def _branches(rng: Generator, parents: Vessels, each: int, reach: float, thinner: float, tortuosity: float) -> Vessels:
    """`each` branches from every parent, at about regular distances on alternating sides."""
    count, steps = parents.paths.shape[0], parents.paths.shape[1] - 1
    vessel = np.repeat(np.arange(count), each)
    place = 0.12 + 0.86 * (np.arange(each) + rng.uniform(0.1, 0.9, (count, each))) / each
    step = np.clip((place * steps).astype(int), 1, steps - 1).reshape(-1)
    side = np.where((np.arange(each) + rng.integers(0, 2, (count, 1))) % 2, 1.0, -1.0).reshape(-1)
    start, heading, width = parents.at(vessel, step)
    number = len(vessel)
    heading = heading + side * rng.uniform(0.5, 1.0, number)
    length = reach * rng.uniform(0.45, 1.15, number) * np.sqrt(width / parents.widths.max())
    turns = rng.normal(0, 0.10 * tortuosity, (number, 18))
    turns = turns + np.roll(turns, 1, axis=1) - (side * rng.uniform(-0.01, 0.05, number))[:, None]
    angle = heading[:, None] + np.cumsum(turns, axis=1)
    strides = np.stack([np.cos(angle), np.sin(angle)], axis=2) * (length / 18)[:, None, None]
    paths = np.concatenate([start[:, None], start[:, None] + np.cumsum(strides, axis=1)], axis=1)
    # The fovea has no vessels: a branch ends where it would enter.
    entered = np.maximum.accumulate(np.hypot(paths[..., 0], paths[..., 1]) < 0.10, axis=1)
    last = np.where(entered, 0, np.arange(19)).max(axis=1)
    paths = np.take_along_axis(paths, np.minimum(np.arange(19), last[:, None])[..., None], axis=1)
    widths = (thinner * width)[:, None] * np.linspace(1, 0.35, 19)
    return Vessels(paths, widths)


def _vessel_tree(rng: Generator, tortuosity: float, width: float) -> list[Vessels]:
    trunks = _trunks(rng, tortuosity, width)
    first = _branches(rng, trunks, 5, 0.70, 0.60, tortuosity)
    second = _branches(rng, first, 3, 0.60, 0.60, tortuosity)
    return [second, first, trunks]


# --- one eye -------------------------------------------------------------------------------------------------------


def _person(settings: PhantomSettings, patient: int) -> Person:
    rng = _rng(settings, "person", patient)
    severity = float(rng.standard_normal())
    age = int(np.clip(round(57 + 11 * (0.25 * severity + 0.97 * rng.standard_normal())), 20, 90))
    return Person(
        severity=severity,
        age=age,
        sex=str(rng.choice(["female", "male"])),
        pigment=float(rng.beta(1.6, 1.6)),
        tortuosity=float(rng.uniform(0.6, 1.6)),
        drusen=float(rng.gamma(0.5, 1.0) * max(0, age - 35) / 20),
        camera=CAMERAS[int(rng.integers(len(CAMERAS)))],
    )


@dataclass(frozen=True)
class State:
    """The truth about one eye and its picture."""

    severity: float  # standard normal over eyes
    grade: int
    dme_severity: float  # likewise, but lowered in eyes without retinopathy
    dme: bool
    defect: str | None  # what makes the picture ungradable


DEFECTS = ("blur", "dark", "bright", "lid", "off field")


def _state(settings: PhantomSettings, person: Person, patient: int, eye: int) -> State:
    rng = _rng(settings, "state", patient, eye)
    shared = settings.eye_correlation
    severity = float(np.sqrt(shared) * person.severity + np.sqrt(1 - shared) * rng.standard_normal())
    dme_severity = float(0.75 * severity + np.sqrt(1 - 0.75**2) * rng.standard_normal())
    grade = int(np.searchsorted(settings.borders, severity, side="right"))
    if grade == 0:  # no macular oedema without retinopathy
        dme_severity = min(dme_severity, settings.dme_border - 1)
    defect = str(rng.choice(DEFECTS)) if rng.random() < settings.ungradable else None
    return State(severity, grade, dme_severity, dme_severity > settings.dme_border, defect)


def _level(severity: float, settings: PhantomSettings) -> float:
    """Severity on the scale of the grades, with fractions: 0-1 none, 1-2 mild, … 4-5 proliferative."""
    low, high = settings.borders[0], settings.borders[-1]
    return float(np.interp(severity, [low - 1.5, *settings.borders, high + 1.2], [0, 1, 2, 3, 4, 5]))


def _view(rng: Generator, settings: PhantomSettings, camera: Camera, left: bool) -> View:
    longest = settings.size * camera.scale
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


def _noise(rng: Generator, view: View, cell: float) -> Image:
    """(height, width) smooth noise of unit variance at the grid's points; `cell` in retinal units."""
    step = max(1.5, cell * view.radius)
    coarse = rng.standard_normal((int(view.height / step) + 3, int(view.width / step) + 3)).astype(np.float32)
    return np.asarray(cv2.resize(coarse, (view.width, view.height), interpolation=cv2.INTER_CUBIC), np.float32)


def _step(x: NDArray[Any]) -> Image:
    """A soft step from 0 to 1 (the logistic function, written so that it cannot overflow)."""
    return np.asarray(0.5 + 0.5 * np.tanh(0.5 * x), np.float32)


@dataclass
class Lesions:
    """What retinopathy puts on the retina, by the way it looks."""

    blood: Layer  # microaneurysms, haemorrhages, IRMA, new vessels
    exudate: Layer  # sharp, yellow
    cotton: Layer  # soft, white: cotton-wool spots, fibrous tissue
    preretinal: Layer  # blood that hides everything


def _draw_lesions(
    rng: Generator, view: View, settings: PhantomSettings, level: float, dme_excess: float, veins: Vessels
) -> Lesions:
    """Lesions for a severity level (see `_level`); `dme_excess` is the DME severity above its border."""
    lesions = Lesions(Layer(view), Layer(view), Layer(view), Layer(view))
    big = settings.lesion_size

    def number(mean: float) -> int:
        return int(rng.poisson(max(0.0, mean) * settings.lesion_count * activity))

    activity = float(np.exp(rng.normal(0, 0.5) - 0.12))
    if level >= 1:
        spots = view.random_points(rng, 1 + number(1 + 5 * (level - 1)))
        lesions.blood.blobs(rng, spots, big * rng.uniform(0.006, 0.011, len(spots)), 0.05, 0.9)
    if level >= 2:
        spots = view.random_points(rng, 1 + number(1 + 4 * (level - 2) + 5 * max(0.0, level - 3)))
        lesions.blood.blobs(rng, spots, big * rng.lognormal(np.log(0.0145), 0.4, len(spots)), 0.22, 0.95)
        for start in view.random_points(rng, number(0.4 + 1.6 * (level - 2)), 0.8):
            _flame(rng, lesions.blood, start, big)
        for start in view.random_points(rng, number(0.35 + 0.35 * (level - 2)), 0.8):
            if np.hypot(*start) > 0.42:
                _exudates(rng, lesions.exudate, start, 4 + int(rng.poisson(7)), 0.07, big)
        for start in view.random_points(rng, number(0.25 + 0.7 * (level - 2)), 0.75):
            spread = rng.normal(0, 0.022, (4, 2))
            lesions.cotton.blobs(rng, start + spread, big * rng.uniform(0.018, 0.034, 4), 0.25, 0.8)
    if level >= 3:
        for start in view.random_points(rng, number(1 + 2 * (level - 3)), 0.8):
            _tangle(rng, lesions.blood, start, 4, 0.04 * big, 0.006, 0.55)
    if level >= 4:
        for _ in range(1 + number(0.6 + 1.2 * (level - 4))):
            at_disc = rng.random() < 0.45
            vessel, step = rng.integers(len(veins.paths), size=1), rng.integers(4, 30, size=1)
            start = OPTIC_DISC + rng.normal(0, 0.05, 2) if at_disc else veins.at(vessel, step)[0][0]
            _tangle(
                rng, lesions.blood, start, int(rng.integers(14, 26)), (0.10 + 0.07 * (level - 4)) * big, 0.006, 0.75
            )
        if rng.random() < 0.2 + 0.4 * (level - 4):
            _boat(rng, lesions.preretinal, view.random_points(rng, 1, 0.6)[0], big * rng.uniform(0.09, 0.22))
        if rng.random() < 0.5 * (level - 4):
            curve = _wandering(rng, OPTIC_DISC + rng.normal(0, 0.1, 2), 3, 0.5, 0.15)
            lesions.cotton.lines(curve, np.full(curve.shape[:2], 0.03 * big), 0.5)
    if dme_excess > 0:
        count = 7 + int(rng.poisson(14 * dme_excess + 3))
        angle = rng.uniform(0, 2 * np.pi)
        if rng.random() < 0.5:  # a ring around a leaking spot, else a cluster beside the fovea
            centre = 0.12 * np.array([np.cos(angle), np.sin(angle)])
            around = angle + rng.uniform(0, 1.5 * np.pi, count)
            distance = rng.uniform(0.08, 0.13) + rng.normal(0, 0.012, count)
            spots = centre + distance[:, None] * np.stack([np.cos(around), np.sin(around)], 1)
        else:
            spots = 0.13 * np.array([np.cos(angle), np.sin(angle)]) + rng.normal(0, 0.05, (count, 2))
        lesions.exudate.blobs(rng, spots, big * rng.lognormal(np.log(0.011), 0.4, count), 0.3)
    return lesions


def _flame(rng: Generator, layer: Layer, start: Floats, big: float) -> None:
    """A haemorrhage within the nerve fibres: feathered streaks along their direction, away from the disc."""
    outward = start - OPTIC_DISC
    direction = np.arctan2(outward[1], outward[0]) + rng.normal(0, 0.15)
    along = np.array([np.cos(direction), np.sin(direction)])
    across = np.array([-along[1], along[0]])
    streaks = int(rng.integers(5, 10))
    offset = rng.normal(0, 0.011 * big, (streaks, 1))
    middle = start + offset * across + rng.normal(0, 0.012 * big, (streaks, 1)) * along
    half = (big * rng.uniform(0.018, 0.045) * rng.uniform(0.5, 1.2, (streaks, 1)))[:, None]
    t = np.linspace(-1, 1, 7)[:, None]
    paths = middle[:, None] + half * t * along
    widths = 0.013 * big * np.sqrt(1.02 - t[:, 0] ** 2) * np.ones((streaks, 1))
    layer.lines(paths, widths, 0.85)


def _exudates(rng: Generator, layer: Layer, centre: Floats, count: int, spread: float, big: float) -> None:
    """A cluster of hard exudates."""
    spots = centre + rng.normal(0, spread * 0.6, (count, 2)) * rng.uniform(0.4, 1.0, 2)
    layer.blobs(rng, spots, big * rng.lognormal(np.log(0.010), 0.4, count), 0.3)


def _wandering(rng: Generator, start: Floats, count: int, length: float, wander: float) -> Floats:
    """(count, 25, 2) random walks from one point in all directions."""
    angle = rng.uniform(0, 2 * np.pi, (count, 1)) + np.cumsum(rng.normal(0, wander, (count, 24)), axis=1)
    angle = angle + np.arange(1, 25) * rng.normal(0, wander / 2, (count, 1))
    stride = length / 24 * rng.uniform(0.6, 1.2, (count, 1, 1))
    steps = np.stack([np.cos(angle), np.sin(angle)], axis=2) * stride
    return np.concatenate([np.broadcast_to(start, (count, 1, 2)), start + np.cumsum(steps, axis=1)], axis=1)


def _tangle(
    rng: Generator, layer: Layer, start: Floats, count: int, length: float, width: float, strength: float
) -> None:
    """Fine tortuous vessels from one point: IRMA when few, a frond of new vessels when many."""
    paths = _wandering(rng, start, count, 2.2 * length, 0.42)
    layer.lines(paths, np.full(paths.shape[:2], width), strength)


def _boat(rng: Generator, layer: Layer, centre: Floats, size: float) -> None:
    """Preretinal haemorrhage: blood that has settled, level on top and round below."""
    angle = np.linspace(0, np.pi, 20)
    outline = centre + size * np.stack([np.cos(angle), 0.62 * np.sin(angle)], axis=1) * rng.uniform(0.9, 1.1, 2)
    layer.area(outline)


def _draw_retina(rng: Generator, view: View, person: Person) -> Image:
    """The retina without vessels: (height, width, 3) reflectance, red, green, blue, about 0 to 1."""
    x, y, _ = view.grid()
    fair, dark = np.array([0.86, 0.46, 0.24]), np.array([0.60, 0.28, 0.15])
    colour = fair + (dark - fair) * person.pigment
    colour = colour * np.exp(rng.normal(0, 0.05, 3))
    blotches = 0.035 * _noise(rng, view, 0.35) + 0.02 * _noise(rng, view, 0.09)
    # Choroidal vessels shine through a fair fundus as a pale and dark marbling.
    marbling = (0.5 - np.abs(_noise(rng, view, 0.10))) * (0.09 * (1 - person.pigment) ** 2)
    fovea = x**2 + y**2
    shade = 0.34 * np.exp(-fovea / 0.045) + 0.20 * np.exp(-fovea / 0.006) + blotches + marbling
    absorption = np.array([0.55, 1.0, 1.1], np.float32) * (0.75 + 0.5 * person.pigment)
    retina = colour.astype(np.float32) * np.exp(-shade[..., None] * absorption)
    # The nerve fibres' sheen, above and below the disc, strongest in the young.
    sheen = max(0.0, (60 - person.age) / 60) * 0.10 + 0.03
    to_disc = (x - OPTIC_DISC[0]) ** 2 / 0.25 + (np.abs(y - OPTIC_DISC[1]) - 0.22) ** 2 / 0.05
    retina += (sheen * np.exp(-to_disc) * (1 + 0.25 * _noise(rng, view, 0.05)))[..., None] * np.array(
        [0.6, 1.0, 0.8], np.float32
    )
    if person.age < 45:  # the foveal reflex and the ring around the macula
        ring = np.exp(-((np.sqrt(fovea) - 0.21) ** 2) / 0.0012) * np.clip(_noise(rng, view, 0.3), 0, 1)
        retina += (0.07 * ring + 0.16 * np.exp(-fovea / 0.00035))[..., None]
    return _draw_optic_disc(rng, x, y, retina)


def _draw_optic_disc(rng: Generator, x: Image, y: Image, retina: Image) -> Image:
    wide, high = DISC_RADIUS * rng.uniform(0.85, 1.0), DISC_RADIUS * rng.uniform(0.98, 1.12)
    dx, dy = x - np.float32(OPTIC_DISC[0]), y - np.float32(OPTIC_DISC[1])
    edge = np.sqrt((dx / wide) ** 2 + (dy / high) ** 2)
    cup_size = rng.uniform(0.3, 0.6)
    cup = np.sqrt(((dx + 0.15 * wide) / wide) ** 2 + (dy / high) ** 2) / cup_size
    crescent = np.exp(-((edge - 1.08) ** 2) / 0.012) * (dx < 0) * rng.uniform(0, 0.35)  # atrophy on the temporal side
    rim = np.array([0.98, 0.70, 0.42], np.float32) * np.float32(rng.uniform(0.88, 1.03))
    pale = np.array([1.02, 0.90, 0.68], np.float32)
    inner = rim + (pale - rim) * _step((1 - cup) * 6)[..., None]
    inner = inner * (1 - 0.10 * np.clip(dx / wide, -1, 1))[..., None]  # the nasal rim is thicker and redder
    alpha = 0.93 * _step((1 - edge) * 18)[..., None]
    around = retina + 0.5 * crescent[..., None] * (pale - retina)
    return np.asarray(around * (1 - alpha) + inner * alpha, np.float32)


def _draw_distractors(rng: Generator, view: View, person: Person, amount: float) -> tuple[Layer, Layer, Layer]:
    """Harmless findings: drusen (pale, soft), pigment (dark, brown) and reflections (bright, greyish)."""
    drusen, pigment, reflex = Layer(view), Layer(view), Layer(view)
    count = int(rng.poisson(min(60.0, (2 + 6 * person.drusen) * amount)))
    spots = rng.normal(0, 0.24, (count, 2))
    drusen.blobs(rng, spots, rng.lognormal(np.log(0.011), 0.45, count), 0.15, 0.55)
    count = int(rng.poisson(3 * amount))
    spots = view.random_points(rng, count)
    pigment.blobs(rng, spots, rng.lognormal(np.log(0.014), 0.5, count), 0.3, float(rng.uniform(0.5, 1)))
    if rng.random() < 0.06 * amount:
        pigment.blobs(rng, view.random_points(rng, 1), np.array([rng.uniform(0.07, 0.16)]), 0.1, 0.5)  # a naevus
    count = int(rng.poisson(0.5 * amount * (2 if person.age < 45 else 1)))
    spots = view.random_points(rng, count)
    reflex.blobs(rng, spots, rng.uniform(0.01, 0.035, count), 0.3, 0.5)
    return drusen, pigment, reflex


def _mix(picture: Image, alpha: Image, colour: tuple[float, float, float]) -> Image:
    alpha = alpha[..., None]
    return np.asarray(picture * (1 - alpha) + np.array(colour, np.float32) * alpha, np.float32)


def _draw_eye(
    settings: PhantomSettings, person: Person, state: State, patient: int, eye: int, view: View
) -> tuple[Image, Bytes]:
    """The retina with all that lies on it, (height, width, 3) about 0 to 1, and the mask of its lesions, 0/255."""
    rng = _rng(settings, "retina", patient, eye)
    picture = _draw_retina(rng, view, person)
    arteries = _vessel_tree(rng, person.tortuosity, 0.017)
    veins = _vessel_tree(rng, person.tortuosity, 0.023)
    drusen, pigment, reflex = _draw_distractors(rng, view, person, settings.distractors)

    rng = _rng(settings, "lesions", patient, eye)
    level = _level(state.severity, settings)
    lesions = _draw_lesions(rng, view, settings, level, state.dme_severity - settings.dme_border, veins[-1])
    if level > 2.9:  # beading: veins of uneven width
        trunks = veins[-1]
        beads = np.sin(np.arange(41) * 1.9 + rng.uniform(0, 6, (len(trunks.paths), 1))) * rng.uniform(0.6, 1, (1, 41))
        veins[-1] = Vessels(trunks.paths, trunks.widths * (1 + min(0.55, 0.4 * (level - 2.7)) * beads))

    contrast = settings.lesion_contrast
    picture = _mix(picture, drusen.flat(0.004), (0.98, 0.82, 0.48))
    picture *= 1 - 0.6 * pigment.flat(0.006)[..., None] * np.array([0.7, 0.95, 0.9], np.float32)
    exudate = lesions.exudate.flat()
    picture = _mix(picture, np.minimum(1, 0.65 * contrast * exudate), (1.0, 0.92, 0.52))
    red, dark = Layer(view), Layer(view)
    for generation in arteries:
        red.lines(generation.paths, generation.widths)
    for generation in veins:
        dark.lines(generation.paths, generation.widths)
    red.lines(arteries[-1].paths, 0.3 * arteries[-1].widths, 0.45)  # light reflex along the middle
    blood = lesions.blood.flat(0.003)
    vessels = np.maximum(0.50 * red.flat(0.004), 0.75 * dark.flat(0.004))
    density = np.maximum(vessels, 0.75 * contrast * blood) + 0.35 * np.minimum(vessels, contrast * blood)
    picture = picture * np.exp(-density[..., None] * BLOOD.astype(np.float32))
    cotton = lesions.cotton.flat(0.014)
    picture = _mix(picture, np.minimum(1, 0.50 * contrast * cotton), (0.97, 0.90, 0.74))
    preretinal = lesions.preretinal.flat(0.004)
    picture = _mix(picture, np.minimum(1, 0.90 * contrast * preretinal), (0.36, 0.05, 0.04))
    picture = _mix(picture, reflex.flat(0.012), (0.95, 0.92, 0.80))
    strongest = np.maximum(np.maximum(blood, exudate), np.maximum(cotton, preretinal))
    _, _, squared = view.grid()
    row = (np.arange(view.height)[:, None] - view.y) / view.radius
    seen = (squared < 0.97**2) & (np.abs(row) < view.cut)
    return picture, np.where((strongest > 0.2) & seen, np.uint8(255), np.uint8(0))


# --- the camera ----------------------------------------------------------------------------------------------------


def _photograph(rng: Generator, picture: Image, view: View, camera: Camera, noise: float, defect: str | None) -> Bytes:
    """Illuminate, blur, frame and digitise the retina: (height, width, 3) uint8, red, green, blue."""
    _, _, squared = view.grid()
    column = (np.arange(view.width, dtype=np.float32) - np.float32(view.x)) / np.float32(view.radius)
    row = (np.arange(view.height, dtype=np.float32)[:, None] - np.float32(view.y)) / np.float32(view.radius)
    direction = rng.uniform(0, 2 * np.pi)
    tilt = rng.uniform(0, 0.18) * (column * np.cos(direction) + row * np.sin(direction))
    light = (1 + tilt) * (1 - camera.vignette * rng.uniform(0.7, 1.2) * squared**1.5 * 0.6)
    light *= 1 + 0.05 * _noise(rng, view, 0.8)
    exposure = float(np.exp(rng.normal(0, 0.10)))
    blur = camera.blur * rng.uniform(0.7, 1.6) * view.width
    haze = camera.haze + 0.02 * rng.random()
    if defect == "blur":
        blur = view.width * rng.uniform(0.018, 0.035)
        haze += rng.uniform(0.0, 0.15)
    elif defect == "dark":
        exposure = rng.uniform(0.06, 0.16)
    elif defect == "bright":
        exposure, haze = rng.uniform(3.5, 6.0), haze + rng.uniform(0.2, 0.4)
    elif defect == "lid":  # the lid and lashes hide the upper or lower part
        border = rng.uniform(-0.2, 0.35) + 0.25 * column**2 + 0.03 * _noise(rng, view, 0.06)
        light *= 0.04 + 0.96 * _step((row - border) * 14)
    elif defect == "off field":  # the pupil's edge hides all but a crescent
        angle, away = rng.uniform(0, 2 * np.pi), rng.uniform(0.9, 1.2)
        distance = np.hypot(column - away * np.cos(angle), row - away * np.sin(angle))
        light *= 0.03 + 0.97 * _step((rng.uniform(0.6, 0.8) - distance) * 12)
        haze += 0.04
    picture = picture * light[..., None].astype(np.float32) * np.float32(exposure)
    picture = picture * np.array(camera.gains, np.float32) * np.exp(rng.normal(0, 0.04, 3)).astype(np.float32)
    picture = picture * np.float32(1 - haze) + np.float32(haze) * np.array([0.75, 0.62, 0.50], np.float32)
    picture = np.clip(picture, 0, 1.2) ** np.float32(camera.gamma)
    if blur > 0.25:
        picture = _blurred(picture, blur)
    if camera.dust:  # on this camera's lens, at the same places in every picture
        specks = np.random.default_rng(20160101).uniform(-0.85, 0.85, (5, 2))
        for speck_x, speck_y in specks:
            picture *= 1 - 0.14 * np.exp(-((column - speck_x) ** 2 + (row - speck_y) ** 2) / 0.0008)[..., None]

    distance = np.sqrt(squared)
    edge = 1.4 / view.radius
    inside = np.clip((1 - distance) / edge + 0.5, 0, 1) * np.clip((view.cut - np.abs(row)) / edge + 0.5, 0, 1)
    if camera.notch:
        inside = np.maximum(inside, (np.abs(distance - 1.0) < 0.045) & (np.hypot(column - 0.72, row + 0.70) < 0.07))
    frame = np.array(camera.background, np.float32) / np.float32(255)
    picture = picture * inside[..., None] + frame * (1 - inside[..., None])
    grain = rng.standard_normal(picture.shape, dtype=np.float32)
    picture += np.float32(noise * camera.noise) * grain * (0.35 + 0.65 * inside)[..., None].astype(np.float32)
    return np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)


def _grades(settings: PhantomSettings, state: State, patient: int, eye: int) -> list[dict[str, Any]]:
    """What some graders of the panel say about one image. Each has a bias, and a noise of 0.6 to 1.4 times the mean."""
    rng = _rng(settings, "grades", patient, eye)
    count = int(rng.integers(settings.graders_min, settings.graders_max + 1))
    gradable = state.defect is None
    rows = []
    for grader in sorted(rng.choice(settings.panel, count, replace=False).tolist()):
        habit = _rng(settings, "panel", grader)
        bias = habit.normal(0, settings.grader_bias, 2)
        noise = settings.grader_noise * habit.uniform(0.6, 1.4) * (1 if gradable else 2)
        seen = np.array([state.severity, state.dme_severity]) + bias + noise * rng.standard_normal(2)
        refused = rng.random() < (0.015 if gradable else 0.85)
        rows.append(
            {
                "grader": f"g{grader + 1:02d}",
                "grade": "" if refused else int(np.searchsorted(settings.borders, seen[0], side="right")),
                "dme": "" if refused else int(seen[1] > settings.dme_border),
                "gradable": int(not refused),
            }
        )
    return rows


# --- the folder ----------------------------------------------------------------------------------------------------


def _make_image(item: tuple[int, int], root: Path, settings: PhantomSettings) -> dict[str, Any]:
    """Draw and write one image with its mask; returns its rows of the tables."""
    patient, eye = item
    person = _person(settings, patient)
    camera = person.camera
    state = _state(settings, person, patient, eye)
    rng = _rng(settings, "camera", patient, eye)
    view = _view(rng, settings, camera, EYES[eye] == "left")
    picture, mask = _draw_eye(settings, person, state, patient, eye, view)
    image = _photograph(rng, picture, view, camera, settings.image_noise, state.defect)
    patient_id = f"p{patient + 1:04d}"
    image_id = f"{patient_id}_{EYES[eye]}"
    flags = [cv2.IMWRITE_JPEG_QUALITY, camera.jpeg_quality]
    _write(root / "images" / f"{image_id}.jpg", cv2.imencode(".jpg", image[..., ::-1], flags)[1])
    if mask.any():
        _write(root / "truth" / "masks" / f"{image_id}.png", cv2.imencode(".png", mask)[1])
    return {
        "grades": [{"image_id": image_id, **row} for row in _grades(settings, state, patient, eye)],
        "metadata": {
            "image_id": image_id,
            "patient_id": patient_id,
            "eye": EYES[eye],
            "camera": camera.name,
            "age": person.age,
            "sex": person.sex,
        },
        "truth": {
            "image_id": image_id,
            "severity": round(state.severity, 6),
            "grade": state.grade,
            "dme_severity": round(state.dme_severity, 6),
            "dme": int(state.dme),
            "gradable": int(state.defect is None),
            "center_x": round(view.x, 3),
            "center_y": round(view.y, 3),
            "radius": round(view.radius, 3),
        },
    }


def _write(path: Path, encoded: Bytes) -> None:
    path.write_bytes(encoded.tobytes())


def make_phantom(root: Path, settings: PhantomSettings, workers: int | None = None) -> None:
    """Write the data set that `settings` describe to the folder `root`, which must not exist.

    Every image is a function of settings, patient and eye alone, whatever the number of `workers` (None: one per
    processor). All is written to a folder beside `root` and renamed at the end: `root` is complete or absent.

    Raises:
        FileExistsError: `root` exists.
    """
    if root.exists():
        raise FileExistsError(f"{root} exists; a phantom is made once, in a new folder")
    root.parent.mkdir(parents=True, exist_ok=True)
    partial_root = root.with_name(f".{root.name}.{os.getpid()}.{os.urandom(4).hex()}")
    try:
        for folder in ("images", "truth/masks"):
            (partial_root / folder).mkdir(parents=True)
        items = [(patient, eye) for patient in range(settings.patients) for eye in range(len(EYES))]
        make = partial(_make_image, root=partial_root, settings=settings)
        made = parallel_map(make, items, "Drawing synthetic fundus photographs", workers)
        _write_table(partial_root / "grades.csv", [row for image in made for row in image["grades"]])
        _write_table(partial_root / "metadata.csv", [image["metadata"] for image in made])
        _write_table(partial_root / "truth" / "truth.csv", [image["truth"] for image in made])
        lines = [f"{name} = {value}" for name, value in asdict(settings).items()]
        (partial_root / "SYNTHETIC.txt").write_text(
            "Everything in this folder is synthetic: no picture shows a person's eye, no patient or grader exists.\n"
            "Retinopathy is more frequent here than in screening. truth/ holds what the pictures were drawn from; it\n"
            f"is for scoring, never a feature. Made by pipelines.retinopathy.phantom, version {PHANTOM_VERSION}:\n\n"
            + "\n".join(lines)
            + "\n"
        )
        partial_root.rename(root)
    finally:
        shutil.rmtree(partial_root, ignore_errors=True)


def _write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def phantom_folder(cache_dir: Path, settings: PhantomSettings) -> Path:
    """Where in the cache the phantom of these settings lies, or will lie."""
    key = json.dumps([PHANTOM_VERSION, asdict(settings)], sort_keys=True)
    return cache_dir / f"phantom-retinopathy-{hashlib.sha256(key.encode()).hexdigest()[:12]}"


def ensure_phantom(cache_dir: Path, settings: PhantomSettings, workers: int | None = None) -> Path:
    """The folder of the phantom of these settings, made if it is not there.

    When two processes make the same one at once, the first to finish wins; both are the same.
    """
    folder = phantom_folder(cache_dir, settings)
    if not folder.exists():
        try:
            make_phantom(folder, settings, workers)
        except OSError:
            if not folder.exists():
                raise
    return folder
