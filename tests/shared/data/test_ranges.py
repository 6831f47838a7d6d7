"""Measures of records, their ranges over a training set, and the words on what lies beyond them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.shared.data.ranges import (
    KEY,
    SAMPLE,
    are_ranges,
    beyond,
    picture_measures,
    ranges_of,
    sampled,
    training_ranges,
    warned,
)
from pipelines.shared.run_folder import plain

FACTS = {"width": 640, "height": 480}


def picture(seed: int) -> np.ndarray:
    """Skin: red above green above blue, a little noise."""
    rng = np.random.default_rng(seed)
    base = np.array([190, 130, 110]) + rng.integers(-15, 16)
    return np.clip(base + rng.normal(0, 12, (32, 32, 3)), 0, 255).astype(np.uint8)


RANGES = ranges_of(picture_measures(picture(seed), FACTS) for seed in range(40))


def test_measures_are_what_they_are_called():
    array = np.zeros((4, 6, 3), np.uint8)
    array[..., 0], array[:2, :, 1] = 7, 100
    assert picture_measures(array, FACTS) == {
        "mean red": 7, "mean green": 50, "mean blue": 0, "contrast (standard deviation)": pytest.approx(50 / 3),
        "width (px)": 640, "height (px)": 480,
    }  # fmt: skip
    assert set(picture_measures(array[..., :1], {})) == {"mean grey", "contrast (standard deviation)"}
    assert picture_measures(array.astype(np.float32), FACTS) == picture_measures(array[0], FACTS) == {}


@pytest.mark.parametrize("seed", range(100, 110))
def test_a_picture_like_those_of_training_has_no_warning(seed):
    assert warned(None, picture_measures(picture(seed), FACTS), RANGES) is None
    assert warned("narrow", picture_measures(picture(seed), FACTS), RANGES) == "narrow"


@pytest.mark.parametrize(
    ("array", "facts", "named"),
    [
        (255 - picture(0), FACTS, ["mean red "]),
        (np.full((32, 32, 3), 255, np.uint8), FACTS, ["mean red 255", "contrast (standard deviation) 0"]),
        (np.zeros((32, 32, 3), np.uint8), FACTS, ["mean green 0"]),
        (picture(0), {"width": 640, "height": 1}, ["height (px) 1 (480 to 480 there)"]),
        (picture(0), {"width": 6400, "height": 480}, ["width (px) 6400 (640 to 640 there)"]),
    ],
    ids=["negative", "white", "black", "a pixel high", "wide"],
)
def test_what_is_unlike_the_training_set_is_named(array, facts, named):
    said = warned("narrow", picture_measures(array, facts), RANGES)
    assert said.startswith("narrow; unlike the training set: ")
    assert all(name in said for name in named), said


def test_a_little_beyond_is_not_worth_a_word():
    ranges = {"a": (10.0, 20.0), "constant": (500.0, 500.0)}
    assert beyond({"a": 9.1, "constant": 545.0}, ranges) is None
    assert beyond({"a": 22.1}, ranges) == "unlike the training set: a 22.1 (10 to 20 there)"
    assert beyond({"constant": 551.0, "unknown": 1e9, "a": float("nan")}, ranges) == (
        "unlike the training set: constant 551 (500 to 500 there)"
    )


@given(st.lists(st.floats(-1e9, 1e9), min_size=1))
def test_no_training_record_is_beyond_its_own_ranges(values):
    ranges = ranges_of({"x": value} for value in values)
    assert all(beyond({"x": value}, ranges) is None for value in values)


def test_a_sample_is_always_the_same():
    many = np.arange(0, 50_000, 7)
    chosen = sampled(many)
    assert len(chosen) == len(set(chosen)) == SAMPLE
    assert set(chosen) <= set(many)
    assert (np.diff(chosen) > 0).all()
    assert chosen.tolist() == sampled(many).tolist()
    assert sampled(many[:SAMPLE]).tolist() == many[:SAMPLE].tolist()


def test_what_networks_say_is_read_together_and_checked():
    said = [json.loads(json.dumps(plain({"records": 9, "measured": 9, "measures": r})))
            for r in ({"a": (1.0, 2.0)}, {"a": (0.0, 1.5), "b": (3.0, 4.0)})]  # fmt: skip
    assert all(are_ranges(value) for value in said)
    assert training_ranges([{KEY: value} for value in said] + [{}]) == {"a": (0, 2), "b": (3, 4)}
    assert training_ranges([{}, {KEY: None}]) == {}
    for damaged in (None, [], {}, {"measures": {}}, said[0] | {"measured": "9"}, said[0] | {"measures": {"a": [1]}},
                    said[0] | {"measures": {"a": [1, None]}}, said[0] | {"measures": []}):  # fmt: skip
        assert not are_ranges(damaged)
