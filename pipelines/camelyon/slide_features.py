"""From a heatmap to its features, which make a slide's score (Wang et al. 2016, slide-based classification; JAMA 2017,
supplement); the forest that takes them is in forest.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)
REGION_THRESHOLD = 0.5
REGIONS = 2
SHAPES = (
    "area", "eccentricity", "extent", "solidity", "bounding_box", "major_axis", "aspect",
    "max_intensity", "mean_intensity", "min_intensity",
)  # fmt: skip

# 31: area and weighted area at five thresholds, ten properties of each of the two largest regions, the maximum.
FEATURES = [
    *(f"tumour_ratio_{t:g}" for t in THRESHOLDS),
    *(f"weighted_ratio_{t:g}" for t in THRESHOLDS),
    *(f"region{k}_{shape}" for k in range(1, REGIONS + 1) for shape in SHAPES),
    "maximum",
]


def slide_features(heatmap: np.ndarray, tissue: np.ndarray, cell: float) -> dict[str, float]:
    """The features of one slide.

    Args:
        heatmap: (rows, columns) tumour probabilities, NaN where not scored.
        tissue: (rows, columns) bool, the tissue at the same cells.
        cell: side of a cell in microns, so that slides of different resolution have the same features.

    Returns:
        `FEATURES` -> value. Areas in mm2, axes in microns. A ratio is the area at or above a threshold to that of all
        tissue; weighted, each cell counts by its probability. Regions are 8-connected at 0.5; of one that is not there
        all properties are 0.

    Raises:
        ValueError: heatmap and tissue are of different shape.
    """
    from skimage import measure

    if heatmap.shape != tissue.shape:
        raise ValueError(f"heatmap {heatmap.shape} and tissue {tissue.shape} are of different shape")
    values = np.nan_to_num(np.asarray(heatmap, np.float64), nan=0.0)
    cells = max(int(np.count_nonzero(tissue)), 1)
    features = {}
    for t in THRESHOLDS:
        above = values[values >= t]
        features[f"tumour_ratio_{t:g}"] = len(above) / cells
        features[f"weighted_ratio_{t:g}"] = float(above.sum()) / cells
    labels = measure.label(values >= REGION_THRESHOLD, connectivity=2)
    regions = sorted(measure.regionprops(labels, values), key=lambda r: (-r.area, r.label))
    for k in range(1, REGIONS + 1):
        shapes = _shapes(regions[k - 1], cell) if k <= len(regions) else dict.fromkeys(SHAPES, 0.0)
        features |= {f"region{k}_{name}": float(value) for name, value in shapes.items()}
    features["maximum"] = float(values.max(initial=0.0))
    return {name: features[name] for name in FEATURES}


def _shapes(region: Any, cell: float) -> dict[str, float]:
    """`SHAPES` of one of skimage's regions."""
    mm2 = (cell / 1000) ** 2
    major, minor = region.axis_major_length, region.axis_minor_length
    return {
        "area": region.area * mm2,
        "eccentricity": region.eccentricity,
        "extent": region.extent,
        "solidity": region.solidity,
        "bounding_box": region.area_bbox * mm2,
        "major_axis": major * cell,
        "aspect": max(major, 1.0) / max(minor, 1.0),  # a line of cells is one cell wide
        "max_intensity": region.intensity_max,
        "mean_intensity": region.intensity_mean,
        "min_intensity": region.intensity_min,
    }


def baseline(features: pd.DataFrame) -> np.ndarray:
    """(slides,) the plain alternative: the heatmap's maximum."""
    return features["maximum"].to_numpy(np.float64)
