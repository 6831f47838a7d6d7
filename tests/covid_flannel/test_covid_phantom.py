"""The phantom: layouts, truth, and the shortcut that is in it or not; the tests that look for it."""

from __future__ import annotations

import cv2
import numpy as np
import pandas as pd
import pytest
from conftest import compose, phantom_settings

from pipelines.covid_flannel import data
from pipelines.covid_flannel.config import CLASSES
from pipelines.covid_flannel.phantom.dataset import CCX, KCX, make_phantom, plan
from pipelines.covid_flannel.protocol import divide
from pipelines.covid_flannel.public_sets import read_ccx, read_kcx
from pipelines.covid_flannel.rules import read_rules
from pipelines.covid_flannel.shortcuts import features, out_of_fold, shortcut_scores
from pipelines.shared.data.copies import Copy
from pipelines.shared.stats.auc import auroc_estimate
from pipelines.shared.stats.bootstrap import Bootstrap

SMALL = phantom_settings("covid_flannel", patients=60, size=64)


def test_the_phantom_has_both_layouts_and_every_class_everywhere(tmp_path):
    root = tmp_path / "p"
    root.mkdir()
    make_phantom(root, SMALL, workers=1)
    source = read_ccx(Copy(root / CCX, "ccx"), read_rules("default"), "error")
    ccx, kcx = source.records, read_kcx(Copy(root / KCX, "kcx"), read_rules("default"), True, "error").records
    assert set(ccx["label"]) == set(kcx["label"]) == set(CLASSES)
    assert set(ccx["hospital"]) == {"north", "south"}
    assert source.excluded["View L"]
    truth = pd.read_csv(root / "truth" / "truth.csv").set_index("path")["disease"]
    assert set(truth.index) == {f"{CCX}/{p}" for p in ccx["path"]} | {f"{KCX}/{p}" for p in kcx["path"]}
    assert kcx["split"].notna().any()
    assert "synthetic" in (root / "SYNTHETIC.txt").read_text()


@pytest.mark.slow
def test_the_same_settings_give_the_same_files(tmp_path):
    pictures = []
    for name, settings in (("a", SMALL), ("b", SMALL), ("c", SMALL.model_copy(update={"seed": 1}))):
        (tmp_path / name).mkdir()
        make_phantom(tmp_path / name, settings, workers=1)
        pictures.append({p.relative_to(tmp_path / name): p.read_bytes() for p in (tmp_path / name).rglob("*.png")})
    assert pictures[0] == pictures[1]
    assert pictures[0] != pictures[2]


def test_without_the_shortcut_hospitals_have_the_same_proportions():
    for shortcut, least, most in ((True, 0.3, 1.0), (False, 0.0, 0.1)):
        table = pd.DataFrame(
            plan(phantom_settings("covid_flannel", shortcut=shortcut)), columns=["hospital", "disease"]
        )
        share = table.assign(covid=table["disease"] == "covid19").groupby("hospital")["covid"].mean()
        assert least <= share.max() - share.min() < most


def scores(tmp_path, shortcut: bool, level: float) -> dict:
    config = compose("covid_flannel", f"data.phantom.shortcut={str(shortcut).lower()}", "data.phantom.patients=200",
                     f"cache.dir={tmp_path}")  # fmt: skip
    source = data.phantom(config)
    settings = data.prepare_settings(config)
    rows = source.records.to_dict("records")
    pictures = np.stack([data.prepare(row, source.root, settings)[0][..., 0] for row in rows])
    table = shortcut_scores(pictures, divide(source.records, config), config)
    return {
        str(name): auroc_estimate(
            t["truth"].to_numpy(),
            t["score"].to_numpy(),
            t["group"].to_numpy(),
            bootstrap=Bootstrap(resamples=500, level=level),
        )
        for name, t in table.groupby("test")
    }


@pytest.mark.slow
def test_the_shortcut_is_found_where_it_is_and_only_there(tmp_path):
    # Five intervals must include chance at once: 99 % each, so that all do with 95 %.
    found, clean = scores(tmp_path, True, 0.95), scores(tmp_path, False, 0.99)
    for name in ("border[covid19]", "source[covid19]", "source[bacterial]", "source[normal]", "blurred[covid19]"):
        assert found[name].low > 0.6, (name, found[name])
    for name in ("border[covid19]", "blurred[covid19]", "source[covid19]", "source[bacterial]", "source[normal]"):
        assert clean[name].low <= 0.5 <= clean[name].high, (name, clean[name])


def test_the_border_test_does_not_see_the_centre():
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 255, (4, 64, 64)).astype(np.uint8)
    other = pictures.copy()
    other[:, 10:54, 10:54] = 0
    assert (features(pictures, "border", 0.12, 6) == features(other, "border", 0.12, 6)).all()
    assert features(pictures, "blurred", 0.12, 6).shape == (4, 36)
    sharp = np.stack([cv2.GaussianBlur(p, (0, 0), 1) for p in pictures])
    assert np.abs(features(pictures, "blurred", 0.12, 6) - features(sharp, "blurred", 0.12, 6)).max() < 2


def test_no_picture_is_scored_by_a_regression_that_saw_its_fold():
    rng = np.random.default_rng(0)
    values, truth, fold = rng.normal(size=(90, 5)), rng.integers(0, 2, 90), np.arange(90) % 3
    plain = out_of_fold(values, truth, fold)
    turned = np.where(fold == 1, 1 - truth, truth)
    again = out_of_fold(values, turned, fold)
    assert (plain[fold == 1] == again[fold == 1]).all()
    assert (plain[fold != 1] != again[fold != 1]).any()
