"""The page of a long recording: burdens by brute force, a picture of its hours, times that add up."""

from __future__ import annotations

import re

import numpy as np
import pytest
from PIL import Image

from pipelines.ecg.config import CLASSES
from pipelines.ecg.holter import burdens, clock, hours_picture, write_summary
from pipelines.ecg.labels import MASKED, RATE, STEP
from pipelines.ecg.plots import Strip, strips
from pipelines.shared.stats.bootstrap import Bootstrap

AN_HOUR = int(np.ceil(3600 * RATE / STEP))
DAY = ["SINUS"] * AN_HOUR + ["AF"] * 700 + [MASKED] * 300 + ["SINUS"] * (2 * AN_HOUR) + ["AF"] * 200
FEW = Bootstrap(400, 0, 0.95)


def test_burden_is_the_share_of_the_readable_time():
    found = burdens(DAY, CLASSES, FEW)
    assert list(found) == ["SINUS", "AF"]
    assert found["AF"].value == pytest.approx(900 / (3 * AN_HOUR + 900))
    assert found["SINUS"].value == pytest.approx(1 - found["AF"].value)


def test_its_interval_resamples_hours():
    days = 6 * DAY
    found = burdens(days, CLASSES, Bootstrap(4000, 0, 0.95))["AF"]
    hour = np.array([k * STEP // (RATE * 3600) for k in range(len(days))])
    af, read = ([np.sum([name in names for name in np.array(days)[hour == h]]) for h in range(hour[-1] + 1)]
                for names in (("AF",), ("AF", "SINUS")))  # fmt: skip
    rng = np.random.default_rng(1)
    drawn = rng.integers(len(af), size=(4000, len(af)))
    shares = np.array(af)[drawn].sum(axis=1) / np.array(read)[drawn].sum(axis=1)
    assert (found.low, found.high) == pytest.approx(np.quantile(shares, [0.025, 0.975]), abs=0.01)
    within = burdens(["AF"] * 100 + ["SINUS"] * 100, CLASSES, FEW)["AF"]
    assert (within.value, within.low) == (0.5, None)


def test_hours_are_rows(tmp_path):
    short, long = (
        Image.open(hours_picture(tmp_path / f"{n}.png", ["SINUS"] * n, CLASSES)).size for n in (AN_HOUR, 9 * AN_HOUR)
    )
    assert short[0] == long[0]
    assert short[1] < long[1]


def test_the_page_tells_what_the_labels_hold(tmp_path):
    picture = strips(tmp_path / "strips.png", [Strip("", np.zeros(7 * STEP), 0.0, ["AF"] * 7)])
    page = write_summary(tmp_path / "page", "night.hea", DAY, CLASSES, picture, FEW)
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page.read_text()))
    assert f"{clock(len(DAY) * STEP)} of ECG, 4 episodes of 2 rhythms." in text
    assert "Not for medical use" in text
    longest = f"{clock(2 * AN_HOUR * STEP)} {clock((AN_HOUR + 1000) * STEP)}"
    assert (
        f"{clock(3 * AN_HOUR * STEP)} 2 {longest}" in text
    )  # of sinus: in all, episodes, the longest and its beginning
    assert page.read_text().count("data:image/png") == 2


def test_a_recording_that_cannot_be_read_at_its_end_has_its_gap_counted(tmp_path):
    picture = strips(tmp_path / "strips.png", [])
    page = write_summary(tmp_path, "a", ["AF"] * 3000 + [MASKED] * 100, CLASSES, picture, FEW)
    assert f">{clock(100 * STEP)}<" in page.read_text()
