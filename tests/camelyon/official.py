"""The challenge's evaluation, slow and literal, written from its rules: full masks, lists, one threshold at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.path import Path as Outline
from scipy import ndimage
from skimage import measure

from pipelines.camelyon.annotations import Polygon

MPP = 0.243
RATES = [0.25, 0.5, 1, 2, 4, 8]


def full_mask(polygons: Sequence[Polygon], rows: int, columns: int, step: float = 32, offset: float = 0) -> np.ndarray:
    """Every pixel asked whether its level-0 point lies inside: first tumour, then what is cut out."""
    y, x = np.mgrid[:rows, :columns]
    points = np.column_stack([x.ravel(), y.ravel()]) * step + offset
    mask = np.zeros(rows * columns, bool)
    for group_is_tumour in (True, False):
        for p in polygons:
            if (p.group in ("Tumor", "_0", "_1")) == group_is_tumour and len(p.points) >= 3:
                mask[Outline(p.points).contains_points(points)] = group_is_tumour
    return mask.reshape(rows, columns)


def evaluation_mask(tumour: np.ndarray) -> np.ndarray:
    """Labelled lesions of a full mask of level 5."""
    if not tumour.any():
        return np.zeros(tumour.shape, int)
    distance = ndimage.distance_transform_edt(255 - 255 * tumour.astype(int))
    return measure.label(ndimage.binary_fill_holes(distance < 75 / (MPP * 2**5 * 2)), connectivity=2)


def isolated_tumour_cells(labels: np.ndarray) -> list[int]:
    return [r.label for r in measure.regionprops(labels) if r.axis_major_length < 275 / (MPP * 2**5)]


Detection = tuple[float, float, float]


def one_slide(
    detections: Sequence[Detection], labels: np.ndarray | None
) -> tuple[list[float], list[float], list[float], int]:
    """False positives, highest probability of every component (ITC keep 0), of every lesion, number of lesions."""
    if labels is None:
        return [p for p, _, _ in detections], [], [], 0
    itc = isolated_tumour_cells(labels)
    false: list[float] = []
    highest = [0.0] * int(labels.max())
    for p, x, y in detections:
        row, column = int(y // 32), int(x // 32)
        inside = row < labels.shape[0] and column < labels.shape[1]
        hit = int(labels[row, column]) if inside else 0
        if hit == 0:
            false.append(p)
        elif hit not in itc:
            highest[hit - 1] = max(highest[hit - 1], p)
    lesions = [h for k, h in enumerate(highest, start=1) if k not in itc]
    return false, highest, lesions, len(lesions)


def froc(slides: Sequence[tuple[list[float], list[float], list[float], int]]) -> tuple[list[float], list[float]]:
    """False positives per slide and sensitivity at every threshold, from the lowest up; the empty point last."""
    false = [p for s in slides for p in s[0]]
    true = [p for s in slides for p in s[1]]
    total = sum(s[3] for s in slides)
    x, y = [], []
    for threshold in sorted(set(false + true))[1:]:
        x.append(sum(p >= threshold for p in false) / len(slides))
        y.append(sum(p >= threshold for p in true) / total)
    return [*x, 0.0], [*y, 0.0]


def sensitivities(x: Sequence[float], y: Sequence[float]) -> list[float]:
    return [float(v) for v in np.interp(RATES, x[::-1], y[::-1])]
