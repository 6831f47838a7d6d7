"""GeoJSON as QuPath reads it."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from pipelines.camelyon.annotations import Polygon
from pipelines.camelyon.geojson import write_geojson
from pipelines.camelyon.lesions import outlines, probabilities_of

SQUARE = np.array([[100, 100], [900, 100], [900, 900], [100, 900]], float)


def check_feature(feature):
    """What QuPath 0.4 and later reads as an annotation with a class, a colour and measurements."""
    assert set(feature) == {"type", "geometry", "properties"}
    assert feature["type"] == "Feature"
    properties = feature["properties"]
    assert set(properties) == {"objectType", "name", "classification", "measurements"}
    assert properties["objectType"] == "annotation"
    assert isinstance(properties["name"], str)
    assert set(properties["classification"]) == {"name", "color"}
    colour = properties["classification"]["color"]
    assert len(colour) == 3
    assert all(isinstance(c, int) and 0 <= c <= 255 for c in colour)
    assert isinstance(properties["measurements"], dict), "a map; the list of pairs is the older form"
    assert all(isinstance(v, float) for v in properties["measurements"].values())
    geometry = feature["geometry"]
    assert set(geometry) == {"type", "coordinates"}
    if geometry["type"] == "Point":
        assert len(geometry["coordinates"]) == 2
        return
    assert geometry["type"] == "Polygon"
    for ring in geometry["coordinates"]:
        assert len(ring) >= 4
        assert ring[0] == ring[-1]
        assert all(len(point) == 2 for point in ring)


def test_each_region_has_its_own_probabilities():
    values = np.zeros((6, 8))
    values[1:3, 1:3], values[2, 2] = 0.6, 1.0
    values[4, 5:8] = [0.7, 0.8, 0.9]
    mask = values >= 0.5
    regions, measured = outlines(mask, (0.0, 0.0), 10.0), probabilities_of(values, mask)
    assert [m["Highest probability"] for m in measured] == pytest.approx([1.0, 0.9])
    assert [m["Mean probability"] for m in measured] == pytest.approx([0.7, 0.8])
    assert [rings[0].mean(axis=0)[1] < 35 for rings in regions] == [True, False], "the same order"
    assert probabilities_of(values, np.zeros((6, 8), bool)) == []


def test_geojson_holds_closed_rings_points_and_classes(tmp_path):
    detections = pd.DataFrame({"probability": [0.9], "x": [10], "y": [20]})
    regions = [[SQUARE, SQUARE / 2 + 250]]
    measured = [{"Highest probability": 0.99, "Mean probability": 0.7}]
    write_geojson(tmp_path / "a.geojson", [Polygon("A 1", "Tumor", SQUARE)], regions, measured, detections)
    content = json.loads((tmp_path / "a.geojson").read_text())
    assert content["type"] == "FeatureCollection"
    kinds = [f["geometry"]["type"] for f in content["features"]]
    assert kinds == ["Polygon", "Polygon", "Point"]
    for feature in content["features"]:
        check_feature(feature)
        assert feature["properties"]["classification"]["name"] in ("Tumor", "Detection")
    for ring in content["features"][1]["geometry"]["coordinates"]:
        assert ring[0] == ring[-1]
        assert len(ring) == 5
    assert content["features"][1]["properties"]["measurements"] == measured[0]
    assert content["features"][2]["geometry"]["coordinates"] == [10, 20]
    assert content["features"][2]["properties"]["measurements"] == {"Probability": 0.9}
    write_geojson(tmp_path / "b.geojson")
    assert json.loads((tmp_path / "b.geojson").read_text())["features"] == []
