"""Outlines, regions and detections as GeoJSON (RFC 7946), as QuPath 0.4 and later reads and writes it.

Its objects are features whose properties hold `objectType`, `name`, `classification` (name, and colour as three numbers
0 to 255) and `measurements`, a map from name to number (QuPath 0.3 wrote a list of pairs).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipelines.camelyon.annotations import Polygon
from pipelines.shared.run_folder import write_atomically


def write_geojson(
    file: Path,
    polygons: Iterable[Polygon] = (),
    regions: Sequence[Sequence[np.ndarray]] = (),
    measured: Sequence[dict[str, float]] | None = None,
    detections: pd.DataFrame | None = None,
) -> None:
    """A file that QuPath opens (drag it onto the slide): annotations with names and classes.

    Args:
        file: where to write.
        polygons: outlines by people.
        regions: regions of a heatmap, each its outer ring and the rings of its holes, (n, 2) level-0 pixels, as
            `lesions.outlines` gives them.
        measured: what is measured of each region, by name.
        detections: `probability`, `x`, `y` (level-0 pixels): points with their probability as a measurement.
    """
    features = [
        _feature("Polygon", [_ring(p.points)], p.name, "Tumor" if p.tumour else "Other", {})
        for p in polygons
        if len(p.points) >= 3
    ]
    features += [
        _feature("Polygon", [_ring(ring) for ring in rings], f"Region {i}", "Tumor", values)
        for i, (rings, values) in enumerate(zip(regions, measured or [{}] * len(regions), strict=True), start=1)
    ]
    if detections is not None:
        places = detections[["probability", "x", "y"]].to_numpy(float).tolist()
        features += [
            _feature("Point", [x, y], f"Detection {i}", "Detection", {"Probability": p})
            for i, (p, x, y) in enumerate(places, start=1)
        ]
    text = json.dumps({"type": "FeatureCollection", "features": features}, allow_nan=False)
    write_atomically(file, lambda aside: aside.write_text(text, encoding="utf-8"))


COLOURS = {"Tumor": [200, 0, 0], "Other": [0, 130, 60], "Detection": [0, 90, 200]}


def _ring(points: np.ndarray) -> list[list[float]]:
    """A closed ring, as GeoJSON wants it: the first point once more at the end."""
    ring = np.asarray(points, float).round(2).tolist()
    return [*ring, ring[0]] if ring[0] != ring[-1] else ring


def _feature(kind: str, coordinates: Any, name: str, of_class: str, measurements: dict[str, float]) -> dict[str, Any]:
    return {
        "type": "Feature",
        "geometry": {"type": kind, "coordinates": coordinates},
        "properties": {
            "objectType": "annotation",
            "name": name,
            "classification": {"name": of_class, "color": COLOURS[of_class]},
            "measurements": measurements,
        },
    }
