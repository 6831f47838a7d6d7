"""Paints one synthetic retina with its vessels and lesions, layer by layer.

`camera.aim` says where the retina lies in the picture, `draw_eye` paints it, and `camera.photograph` makes the picture
that a camera would take of it.
"""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from pipelines.retinopathy.phantom.canvas import Bytes, Image, Layer, View, mix
from pipelines.retinopathy.phantom.lesions import Difficulty, draw_lesions
from pipelines.retinopathy.phantom.retina import Eye, draw_background, draw_distractors
from pipelines.retinopathy.phantom.vessels import beaded, vessel_tree

BLOOD = np.array([0.30, 1.0, 0.85])  # absorption of red, green and blue light


def draw_eye(
    retina_rng: Generator, lesion_rng: Generator, view: View, eye: Eye, difficulty: Difficulty
) -> tuple[Image, Bytes]:
    """Paint the retina with all that lies on it.

    Two generators, so that the retina stays the same when its lesions change.

    Returns:
        The picture (height, width, 3), red, green, blue, about 0 to 1; and the mask of its visible lesions
        (height, width), 0 or 255, without venous beading.
    """
    picture = draw_background(retina_rng, view, eye)
    arteries = vessel_tree(retina_rng, eye.tortuosity, 0.017)
    veins = vessel_tree(retina_rng, eye.tortuosity, 0.023)
    drusen, pigment, reflex = draw_distractors(retina_rng, view, eye, difficulty.distractors)
    lesions = draw_lesions(lesion_rng, view, eye, difficulty, veins[-1])
    if eye.level > 2.9:  # a sign of severe retinopathy that announces itself a little earlier
        veins[-1] = beaded(lesion_rng, veins[-1], eye.level)

    # From the deepest layer to the one next to the eye's front: what comes later covers what came before.
    contrast = difficulty.lesion_contrast
    picture = mix(picture, drusen.flat(0.004), (0.98, 0.82, 0.48))
    picture *= 1 - 0.6 * pigment.flat(0.006)[..., None] * np.array([0.7, 0.95, 0.9], np.float32)
    exudate = lesions.exudate.flat()
    picture = mix(picture, np.minimum(1, 0.65 * contrast * exudate), (1.0, 0.92, 0.52))

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
    picture = mix(picture, np.minimum(1, 0.50 * contrast * cotton), (0.97, 0.90, 0.74))
    preretinal = lesions.preretinal.flat(0.004)
    picture = mix(picture, np.minimum(1, 0.90 * contrast * preretinal), (0.36, 0.05, 0.04))
    picture = mix(picture, reflex.flat(0.012), (0.95, 0.92, 0.80))

    strongest = np.maximum(np.maximum(blood, exudate), np.maximum(cotton, preretinal))
    column, row = view.field()
    seen = (column**2 + row**2 < 0.97**2) & (np.abs(row) < view.cut)
    return picture, np.where((strongest > 0.2) & seen, np.uint8(255), np.uint8(0))
