"""What is on a healthy retina: its colours, the optic disc, and harmless findings that look like lesions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from pipelines.retinopathy.phantom.canvas import DISC_RADIUS, OPTIC_DISC, Image, Layer, View, smooth_noise, soft_step


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


def draw_background(rng: Generator, view: View, eye: Eye) -> Image:
    """The retina without vessels: (height, width, 3) reflectance of red, green, blue, about 0 to 1."""
    x, y = view.grid()
    fair, dark = np.array([0.86, 0.46, 0.24]), np.array([0.60, 0.28, 0.15])
    colour = fair + (dark - fair) * eye.pigment
    colour = colour * np.exp(rng.normal(0, 0.05, 3))
    blotches = 0.035 * smooth_noise(rng, view, 0.35) + 0.02 * smooth_noise(rng, view, 0.09)
    # Choroidal vessels shine through a fair fundus as a pale and dark marbling.
    marbling = (0.5 - np.abs(smooth_noise(rng, view, 0.10))) * (0.09 * (1 - eye.pigment) ** 2)
    from_fovea = x**2 + y**2  # squared distance; the macula is darker, the fovea darkest
    shade = 0.34 * np.exp(-from_fovea / 0.045) + 0.20 * np.exp(-from_fovea / 0.006) + blotches + marbling
    absorption = np.array([0.55, 1.0, 1.1], np.float32) * (0.75 + 0.5 * eye.pigment)
    retina = colour.astype(np.float32) * np.exp(-shade[..., None] * absorption)
    # The nerve fibres' sheen, above and below the disc, strongest in the young.
    sheen = max(0.0, (60 - eye.age) / 60) * 0.10 + 0.03
    to_disc = (x - OPTIC_DISC[0]) ** 2 / 0.25 + (np.abs(y - OPTIC_DISC[1]) - 0.22) ** 2 / 0.05
    fibres = sheen * np.exp(-to_disc) * (1 + 0.25 * smooth_noise(rng, view, 0.05))
    retina += fibres[..., None] * np.array([0.6, 1.0, 0.8], np.float32)
    if eye.age < 45:  # the foveal reflex and the ring around the macula
        ring = np.exp(-((np.sqrt(from_fovea) - 0.21) ** 2) / 0.0012) * np.clip(smooth_noise(rng, view, 0.3), 0, 1)
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
    inner = rim + (pale - rim) * soft_step((1 - cup) * 6)[..., None]
    inner = inner * (1 - 0.10 * np.clip(dx / wide, -1, 1))[..., None]  # the nasal rim is thicker and redder
    alpha = 0.93 * soft_step((1 - edge) * 18)[..., None]
    around = retina + 0.5 * crescent[..., None] * (pale - retina)
    return np.asarray(around * (1 - alpha) + inner * alpha, np.float32)


def draw_distractors(rng: Generator, view: View, eye: Eye, amount: float) -> tuple[Layer, Layer, Layer]:
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
