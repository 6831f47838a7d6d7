"""Synthetic pictures in the layout of `data=folder`, with their truth aside.

<class>/<patient>_<number>.png   32 x 32 grey noise; patients of the class `nodule` have a bright disc in it
truth/truth.csv                  patient, contrast: how bright the disc is, 0 without one
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from pipelines.nodules.config import PhantomSettings
from pipelines.shared.data.phantoms import ensure_folder, write_notice, write_table

PHANTOM_VERSION = 1  # raise it whenever the same settings give other files
SIDE = 32


def ensure_phantom(cache_dir: Path, keys: PhantomSettings) -> Path:
    """The folder of the phantom of these settings, made if it is not there."""
    return ensure_folder(cache_dir, "nodules", PHANTOM_VERSION, keys.model_dump(), partial(_make, keys=keys))


def _make(root: Path, keys: PhantomSettings) -> None:
    for folder in ("clear", "nodule", "truth"):
        (root / folder).mkdir()
    truth = []
    for patient in range(keys.patients):
        rng = np.random.default_rng([keys.seed, patient])
        contrast = rng.uniform(30, 110) if patient % 2 else 0.0
        filed = (contrast > 0) != (rng.random() < keys.label_noise)
        for number in range(int(rng.integers(1, 4))):
            path = root / ("nodule" if filed else "clear") / f"P{patient:03d}_{number}.png"
            Image.fromarray(_picture(rng, contrast)).save(path)
        truth.append({"patient": f"P{patient:03d}", "contrast": round(contrast, 3)})
    write_table(root / "truth" / "truth.csv", truth)
    write_notice(root, "no picture shows a person.", f"{__name__}, version {PHANTOM_VERSION}", keys.model_dump())


def _picture(rng: np.random.Generator, contrast: float) -> np.ndarray:
    """uint8 (SIDE, SIDE)."""
    y, x = np.ogrid[:SIDE, :SIDE]
    centre, radius = rng.uniform(8, SIDE - 8, 2), rng.uniform(2.5, 4.5)
    disc = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2
    return (rng.normal(100, 25, (SIDE, SIDE)) + contrast * disc).clip(0, 255).astype(np.uint8)
