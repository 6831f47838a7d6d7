"""What of a slide is compared with the training set: microns per pixel, and the colour of its tissue."""

from __future__ import annotations

import cv2
import numpy as np

from pipelines.shared.data.ranges import picture_measures


def slide_measures(overview: np.ndarray, mpp: float | None, saturated: int) -> dict[str, float]:
    """Measures of a slide, or of a patch, by name and unit.

    Args:
        overview: uint8 (height, width, 3).
        mpp: microns per pixel; None for a patch.
        saturated: pixels of more than this saturation count as tissue (`tissue.min_saturation`).
    """
    tissue = overview[cv2.cvtColor(overview, cv2.COLOR_RGB2HSV)[..., 1] > saturated]
    colours = picture_measures(tissue[None], {}) if len(tissue) else {}
    return {f"tissue, {name}": value for name, value in colours.items()} | ({} if mpp is None else {"mpp": mpp})
