"""What of a study is compared with the training set: slices, their distance, pixels, Hounsfield units of the head."""

from __future__ import annotations

import numpy as np

from pipelines.head_ct.stacks import Stack
from pipelines.head_ct.volumes import BODY


def volume_measures(volume: np.ndarray, stack: Stack | None) -> dict[str, float]:
    """Measures of a study by name and unit.

    Args:
        volume: int16 HU (slices, size, size) on the grid.
        stack: the series that it was made from; None for a picture, which has no geometry.
    """
    head = volume[volume > BODY]
    found = {"mean of the head (HU)": float(head.mean())} if head.size else {}
    if stack is None:
        return found
    found |= {"slices": float(len(stack.files)), "pixel (mm)": float(stack.spacing[0])}
    if len(stack.along) > 1:
        found["between slices (mm)"] = float(np.median(np.diff(stack.along)))
    return found
