"""GeoJSON as QuPath reads it."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd

from pipelines.camelyon.annotations import Polygon
from pipelines.camelyon.geojson import write_geojson

SQUARE = np.array([[100, 100], [900, 100], [900, 900], [100, 900]], float)


def test_geojson_holds_closed_rings_points_and_classes(tmp_path):
    detections = pd.DataFrame({"probability": [0.9], "x": [10], "y": [20]})
    regions = [[SQUARE, SQUARE / 2 + 250]]
    write_geojson(tmp_path / "a.geojson", [Polygon("A 1", "Tumor", SQUARE)], regions, detections)
    content = json.loads((tmp_path / "a.geojson").read_text())
    assert content["type"] == "FeatureCollection"
    kinds = [f["geometry"]["type"] for f in content["features"]]
    assert kinds == ["Polygon", "Polygon", "Point"]
    for feature in content["features"]:
        assert feature["type"] == "Feature"
        assert feature["properties"]["objectType"] == "annotation"
        assert feature["properties"]["classification"]["name"] in ("Tumor", "Detection")
    for ring in content["features"][1]["geometry"]["coordinates"]:
        assert ring[0] == ring[-1]
        assert len(ring) == 5
    assert content["features"][2]["geometry"]["coordinates"] == [10, 20]
    assert content["features"][2]["properties"]["measurements"] == {"Probability": 0.9}
    write_geojson(tmp_path / "b.geojson")
    assert json.loads((tmp_path / "b.geojson").read_text())["features"] == []
