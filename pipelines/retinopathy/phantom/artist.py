"""Draws one synthetic fundus photograph: the retina, its vessels and lesions, harmless findings, and the camera.

Positions on the retina are in units of the radius of a 45-degree field, about 6.5 mm, with the fovea at 0, 0, x towards
the nose and y downwards. The optic disc's radius is 0.14, and the fovea lies 2.5 disc diameters from its centre.

`aim` says where the retina lies in the picture, `draw_eye` paints it, `photograph` makes the picture that a camera
would take of it.
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
BLOOD = np.array([0.30, 1.0, 0.85])  # absorption of red, green and blue light
TRUNK_STEPS, BRANCH_STEPS = 40, 18  # straight pieces of which a vessel consists
DEFECTS = ("blur", "dark", "bright", "lid", "off field")  # what makes a picture ungradable


@dataclass(frozen=True)
class Eye:
    """What is to be drawn of one eye.

    Attributes:
        age: Years; young retinas reflect more light.
        pigment: 0 fair to 1 dark.
        tortuosity: Of the vessels, about 1.
        drusen: Tendency to drusen, from 0.
        level: Severity of retinopathy on the scale of the grades, with fractions: 0-1 none, 1-2 mild, … 4-5
            proliferative.
        dme_excess: DME severity above the border of macular oedema, which is drawn if this is positive.
    """

    age: int
    pigment: float
    tortuosity: float
    drusen: float
    level: float
    dme_excess: float


@dataclass(frozen=True)
class Difficulty:
    """How hard the lesions are to see: each factor multiplies what it names, 1 is usual."""

    lesion_contrast: float = 1.0
    lesion_size: float = 1.0
    lesion_count: float = 1.0
    distractors: float = 1.0


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


# --- where things lie ---


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
        return _rotated(points - np.array(self.gaze), self.turn) * flip * self.radius + np.array([self.x, self.y])

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
        found = np.empty((0, 2))
        limit = min(reach * self.cut, 0.9 * self.height / 2 / self.radius)
        while len(found) < count:
            points = rng.uniform(-reach, reach, (4 * count + 8, 2))
            visible = (np.hypot(points[:, 0], points[:, 1]) < reach) & (np.abs(points[:, 1]) < limit)
            points = _rotated(points[visible], -self.turn) + np.array(self.gaze)
            found = np.concatenate([found, points[np.hypot(*(points - OPTIC_DISC).T) > 1.2 * DISC_RADIUS]])
        return found[:count]


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


# --- tools ---


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
            self.area(_rotated(outline, tilt) + centre, value)

    def area(self, outline: Floats, value: float = 1.0) -> None:
        """Fill an outline (N, 2)."""
        self.empty = False
        cv2.fillPoly(self.canvas, [self._points(outline)], round(255 * value), cv2.LINE_AA, 4)

    def flat(self, blur: float = 0.0) -> Image:
        """(height, width) at the picture's resolution, 0 to 1; `blur` in retinal units."""
        size = (self.view.width, self.view.height)
        small = cv2.resize(self.canvas, size, interpolation=cv2.INTER_AREA).astype(np.float32) / np.float32(255)
        sigma = blur * self.view.radius
        return _blurred(small, sigma) if sigma > 0.3 and not self.empty else small


def _rotated(points: Floats, angle: float) -> Floats:
    """Points (..., 2) turned about the origin."""
    cosine, sine = np.cos(angle), np.sin(angle)
    return points @ np.array([[cosine, sine], [-sine, cosine]])


def _unit(angle: Floats | float) -> Floats:
    """Angles (...) -> unit vectors (..., 2)."""
    return np.stack([np.cos(angle), np.sin(angle)], axis=-1)


def _blurred(image: Image, sigma: float) -> Image:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.float32)


def _noise(rng: Generator, view: View, cell: float) -> Image:
    """(height, width) smooth noise: standard normal numbers `cell` apart, in retinal units, and smooth between them."""
    step = max(1.5, cell * view.radius)
    coarse = rng.standard_normal((int(view.height / step) + 3, int(view.width / step) + 3)).astype(np.float32)
    return np.asarray(cv2.resize(coarse, (view.width, view.height), interpolation=cv2.INTER_CUBIC), np.float32)


def _step(x: NDArray[Any]) -> Image:
    """A soft step from 0 to 1 (the logistic function, written so that it cannot overflow)."""
    return np.asarray(0.5 + 0.5 * np.tanh(0.5 * x), np.float32)


def _mix(picture: Image, alpha: Image, colour: tuple[float, float, float]) -> Image:
    """Lay a colour over the picture (height, width, 3), as thickly as `alpha` (height, width) says: 0 to 1."""
    alpha = alpha[..., None]
    return np.asarray(picture * (1 - alpha) + np.array(colour, np.float32) * alpha, np.float32)


# --- the healthy retina ---


def _draw_background(rng: Generator, view: View, eye: Eye) -> Image:
    """The retina without vessels: (height, width, 3) reflectance of red, green, blue, about 0 to 1."""
    x, y = view.grid()
    fair, dark = np.array([0.86, 0.46, 0.24]), np.array([0.60, 0.28, 0.15])
    colour = fair + (dark - fair) * eye.pigment
    colour = colour * np.exp(rng.normal(0, 0.05, 3))
    blotches = 0.035 * _noise(rng, view, 0.35) + 0.02 * _noise(rng, view, 0.09)
    # Choroidal vessels shine through a fair fundus as a pale and dark marbling.
    marbling = (0.5 - np.abs(_noise(rng, view, 0.10))) * (0.09 * (1 - eye.pigment) ** 2)
    from_fovea = x**2 + y**2  # squared distance; the macula is darker, the fovea darkest
    shade = 0.34 * np.exp(-from_fovea / 0.045) + 0.20 * np.exp(-from_fovea / 0.006) + blotches + marbling
    absorption = np.array([0.55, 1.0, 1.1], np.float32) * (0.75 + 0.5 * eye.pigment)
    retina = colour.astype(np.float32) * np.exp(-shade[..., None] * absorption)
    # The nerve fibres' sheen, above and below the disc, strongest in the young.
    sheen = max(0.0, (60 - eye.age) / 60) * 0.10 + 0.03
    to_disc = (x - OPTIC_DISC[0]) ** 2 / 0.25 + (np.abs(y - OPTIC_DISC[1]) - 0.22) ** 2 / 0.05
    fibres = sheen * np.exp(-to_disc) * (1 + 0.25 * _noise(rng, view, 0.05))
    retina += fibres[..., None] * np.array([0.6, 1.0, 0.8], np.float32)
    if eye.age < 45:  # the foveal reflex and the ring around the macula
        ring = np.exp(-((np.sqrt(from_fovea) - 0.21) ** 2) / 0.0012) * np.clip(_noise(rng, view, 0.3), 0, 1)
        retina += (0.07 * ring + 0.16 * np.exp(-from_fovea / 0.00035))[..., None]
    return _draw_optic_disc(rng, x, y, retina)


def _draw_optic_disc(rng: Generator, x: Image, y: Image, retina: Image) -> Image:
    """The retina with the optic disc on it: an orange rim, a pale cup, sometimes a crescent of atrophy beside it."""
    wide, high = DISC_RADIUS * rng.uniform(0.85, 1.0), DISC_RADIUS * rng.uniform(0.98, 1.12)
    dx, dy = x - np.float32(OPTIC_DISC[0]), y - np.float32(OPTIC_DISC[1])
    edge = np.sqrt((dx / wide) ** 2 + (dy / high) ** 2)  # 1 on the disc's edge
    cup_size = rng.uniform(0.3, 0.6)
    cup = np.sqrt(((dx + 0.15 * wide) / wide) ** 2 + (dy / high) ** 2) / cup_size  # 1 on the cup's edge
    crescent = np.exp(-((edge - 1.08) ** 2) / 0.012) * (dx < 0) * rng.uniform(0, 0.35)  # on the temporal side
    rim = np.array([0.98, 0.70, 0.42], np.float32) * np.float32(rng.uniform(0.88, 1.03))
    pale = np.array([1.02, 0.90, 0.68], np.float32)
    inner = rim + (pale - rim) * _step((1 - cup) * 6)[..., None]
    inner = inner * (1 - 0.10 * np.clip(dx / wide, -1, 1))[..., None]  # the nasal rim is thicker and redder
    alpha = 0.93 * _step((1 - edge) * 18)[..., None]
    around = retina + 0.5 * crescent[..., None] * (pale - retina)
    return np.asarray(around * (1 - alpha) + inner * alpha, np.float32)


def _draw_distractors(rng: Generator, view: View, eye: Eye, amount: float) -> tuple[Layer, Layer, Layer]:
    """Harmless findings: drusen (pale, soft), pigment (dark, brown) and reflections (bright, greyish)."""
    drusen, pigment, reflex = Layer(view), Layer(view), Layer(view)
    count = int(rng.poisson(min(60.0, (2 + 6 * eye.drusen) * amount)))
    spots = rng.normal(0, 0.24, (count, 2))
    drusen.blobs(rng, spots, rng.lognormal(np.log(0.011), 0.45, count), 0.15, 0.55)
    count = int(rng.poisson(3 * amount))
    spots = view.random_points(rng, count)
    pigment.blobs(rng, spots, rng.lognormal(np.log(0.014), 0.5, count), 0.3, float(rng.uniform(0.5, 1)))
    if rng.random() < 0.06 * amount:
        pigment.blobs(rng, view.random_points(rng, 1), np.array([rng.uniform(0.07, 0.16)]), 0.1, 0.5)  # a naevus
    count = int(rng.poisson(0.5 * amount * (2 if eye.age < 45 else 1)))
    spots = view.random_points(rng, count)
    reflex.blobs(rng, spots, rng.uniform(0.01, 0.035, count), 0.3, 0.5)
    return drusen, pigment, reflex


# --- vessels ---


@dataclass(frozen=True)
class Vessels:
    """Paths (B, N, 2) and widths (B, N) of one generation of vessels."""

    paths: Floats
    widths: Floats

    def at(self, vessel: NDArray[np.int64], step: NDArray[np.int64]) -> tuple[Floats, Floats, Floats]:
        """Positions (K, 2), headings (K,) and widths (K,) at a step of some vessels."""
        ahead = self.paths[vessel, step + 1] - self.paths[vessel, step]
        return self.paths[vessel, step], np.arctan2(ahead[:, 1], ahead[:, 0]), self.widths[vessel, step]


def _vessel_tree(rng: Generator, tortuosity: float, width: float) -> list[Vessels]:
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
    strides = _unit(angle) * (length / BRANCH_STEPS)[:, None, None]
    paths = np.concatenate([start[:, None], start[:, None] + np.cumsum(strides, axis=1)], axis=1)
    # The fovea has no vessels: a branch ends where it would enter.
    steps_taken = np.arange(BRANCH_STEPS + 1)
    entered = np.maximum.accumulate(np.hypot(paths[..., 0], paths[..., 1]) < 0.10, axis=1)
    last = np.where(entered, 0, steps_taken).max(axis=1)
    paths = np.take_along_axis(paths, np.minimum(steps_taken, last[:, None])[..., None], axis=1)
    widths = (0.60 * width)[:, None] * np.linspace(1, 0.35, BRANCH_STEPS + 1)
    return Vessels(paths, widths)


def _beaded(rng: Generator, veins: Vessels, level: float) -> Vessels:
    """Veins of uneven width, the more so the higher the level."""
    count, points = veins.widths.shape
    beads = np.sin(np.arange(points) * 1.9 + rng.uniform(0, 6, (count, 1))) * rng.uniform(0.6, 1, (1, points))
    return Vessels(veins.paths, veins.widths * (1 + min(0.55, 0.4 * (level - 2.7)) * beads))


# --- lesions ---


@dataclass(frozen=True)
class Lesions:
    """What retinopathy puts on the retina, by the way it looks."""

    blood: Layer  # microaneurysms, haemorrhages, IRMA, new vessels
    exudate: Layer  # sharp, yellow
    cotton: Layer  # soft, white: cotton-wool spots, fibrous tissue
    preretinal: Layer  # blood that hides everything


def _draw_lesions(rng: Generator, view: View, eye: Eye, difficulty: Difficulty, veins: Vessels) -> Lesions:
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
    along = _unit(np.arctan2(outward[1], outward[0]) + rng.normal(0, 0.15))
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
        spots = 0.12 * _unit(angle) + distance[:, None] * _unit(around)
    else:
        spots = 0.13 * _unit(angle) + rng.normal(0, 0.05, (count, 2))
    layer.blobs(rng, spots, big * rng.lognormal(np.log(0.011), 0.4, count), 0.3)


def _wandering(rng: Generator, start: Floats, count: int, length: float, wander: float) -> Floats:
    """(count, 25, 2) random walks from one point in all directions, each curling to one side or the other."""
    angle = rng.uniform(0, 2 * np.pi, (count, 1)) + np.cumsum(rng.normal(0, wander, (count, 24)), axis=1)
    angle = angle + np.arange(1, 25) * rng.normal(0, wander / 2, (count, 1))
    stride = length / 24 * rng.uniform(0.6, 1.2, (count, 1, 1))
    return np.concatenate(
        [np.broadcast_to(start, (count, 1, 2)), start + np.cumsum(_unit(angle) * stride, axis=1)], axis=1
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


# --- the whole eye ---


def draw_eye(
    retina_rng: Generator, lesion_rng: Generator, view: View, eye: Eye, difficulty: Difficulty
) -> tuple[Image, Bytes]:
    """Paint the retina with all that lies on it.

    Two generators, so that the retina stays the same when its lesions change.

    Returns:
        The picture (height, width, 3), red, green, blue, about 0 to 1; and the mask of its visible lesions
        (height, width), 0 or 255, without venous beading.
    """
    picture = _draw_background(retina_rng, view, eye)
    arteries = _vessel_tree(retina_rng, eye.tortuosity, 0.017)
    veins = _vessel_tree(retina_rng, eye.tortuosity, 0.023)
    drusen, pigment, reflex = _draw_distractors(retina_rng, view, eye, difficulty.distractors)
    lesions = _draw_lesions(lesion_rng, view, eye, difficulty, veins[-1])
    if eye.level > 2.9:  # a sign of severe retinopathy that announces itself a little earlier
        veins[-1] = _beaded(lesion_rng, veins[-1], eye.level)

    # From the deepest layer to the one next to the eye's front: what comes later covers what came before.
    contrast = difficulty.lesion_contrast
    picture = _mix(picture, drusen.flat(0.004), (0.98, 0.82, 0.48))
    picture *= 1 - 0.6 * pigment.flat(0.006)[..., None] * np.array([0.7, 0.95, 0.9], np.float32)
    exudate = lesions.exudate.flat()
    picture = _mix(picture, np.minimum(1, 0.65 * contrast * exudate), (1.0, 0.92, 0.52))

    red, dark = Layer(view), Layer(view)  # arteries and veins
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
    column, row = view.field()
    seen = (column**2 + row**2 < 0.97**2) & (np.abs(row) < view.cut)
    return picture, np.where((strongest > 0.2) & seen, np.uint8(255), np.uint8(0))


# --- the camera ---


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
        picture = _blurred(picture, blur)
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
        exposure = rng.uniform(3.5, 6.0)
        haze += rng.uniform(0.2, 0.4)
    elif defect == "lid":  # the upper lid and its lashes hide the upper part
        border = rng.uniform(-0.2, 0.35) + 0.25 * column**2 + 0.03 * _noise(rng, view, 0.06)
        light *= 0.04 + 0.96 * _step((row - border) * 14)
    elif defect == "off field":  # the pupil's edge hides all but a part at the rim
        angle, away = rng.uniform(0, 2 * np.pi), rng.uniform(0.9, 1.2)
        distance = np.hypot(column - away * np.cos(angle), row - away * np.sin(angle))
        light *= 0.03 + 0.97 * _step((rng.uniform(0.6, 0.8) - distance) * 12)
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
    return inside.astype(np.float32)
