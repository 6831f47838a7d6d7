"""Features of heatmaps, known by construction."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from pipelines.camelyon.slide_features import FEATURES, THRESHOLDS, baseline, slide_features

CELL = 50.0  # microns


@pytest.fixture
def heatmap():
    values = np.full((40, 50), np.nan)
    tissue = np.zeros(values.shape, bool)
    tissue[:30] = True
    values[tissue] = 0.1
    values[5:9, 10:20] = 0.95  # 4 x 10 cells
    values[5, 10] = 0.55
    values[20:23, 30:33] = 0.75  # 3 x 3 cells
    values[28, 40] = 0.65
    return values, tissue


def test_features_are_what_was_drawn(heatmap):
    found = slide_features(*heatmap, CELL)
    assert list(found) == FEATURES
    assert 28 <= len(FEATURES) <= 31
    cells = 30 * 50
    assert [found[f"tumour_ratio_{t:g}"] * cells for t in THRESHOLDS] == pytest.approx([50, 49, 48, 39, 39])
    assert found["weighted_ratio_0.9"] * cells == pytest.approx(39 * 0.95)
    assert found["weighted_ratio_0.5"] * cells == pytest.approx(39 * 0.95 + 0.55 + 9 * 0.75 + 0.65)
    assert found["region1_area"] == pytest.approx(40 * 0.05**2)
    assert found["region1_bounding_box"] == found["region1_area"]
    assert found["region1_extent"] == 1
    assert found["region1_solidity"] == 1
    # The ellipse with the moments of a row of n cells has the axis 4 sqrt((n^2 - 1) / 12).
    major, minor = (4 * np.sqrt((n**2 - 1) / 12) for n in (10, 4))
    assert found["region1_major_axis"] == pytest.approx(major * CELL)
    assert found["region1_aspect"] == pytest.approx(major / minor)
    assert found["region1_eccentricity"] == pytest.approx(np.sqrt(1 - (minor / major) ** 2))
    assert found["region1_min_intensity"] == 0.55
    assert found["region1_mean_intensity"] == pytest.approx((39 * 0.95 + 0.55) / 40)
    assert found["region1_max_intensity"] == 0.95
    assert found["region2_area"] == pytest.approx(9 * 0.05**2)
    assert found["region2_aspect"] == pytest.approx(1)
    assert found["maximum"] == 0.95


def test_what_is_not_there_is_zero():
    nothing = slide_features(np.full((5, 5), np.nan), np.zeros((5, 5), bool), CELL)
    assert set(nothing.values()) == {0.0}
    one = np.zeros((5, 5))
    one[2, 2] = 0.8
    found = slide_features(one, np.ones((5, 5), bool), CELL)
    assert np.isfinite(list(found.values())).all()
    assert found["region1_aspect"] == 1
    assert found["region2_area"] == 0
    line = np.zeros((5, 9))
    line[2] = 0.8
    assert slide_features(line, np.ones((5, 9), bool), CELL)["region1_aspect"] > 5
    with pytest.raises(ValueError, match="different shape"):
        slide_features(np.zeros((4, 5)), np.zeros((5, 4), bool), CELL)


def test_features_do_not_depend_on_the_size_of_the_cells(heatmap):
    values, tissue = heatmap
    fine = slide_features(*(np.repeat(np.repeat(a, 4, 0), 4, 1) for a in (values, tissue)), CELL / 4)
    coarse = slide_features(values, tissue, CELL)
    for name in FEATURES:
        assert fine[name] == pytest.approx(coarse[name], rel=0.15), name


def test_the_baseline_is_the_maximum():
    np.testing.assert_array_equal(baseline(pd.DataFrame({"maximum": [0.25, 1.0]})), [0.25, 1.0])
