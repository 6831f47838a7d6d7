"""The label rule: onsets to the nearest step, windows that cover every step once, strata."""

from __future__ import annotations

import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.ecg.config import CLASSES
from pipelines.ecg.labels import (
    ABSENT,
    CODES,
    MASKED,
    STEP,
    episodes,
    nearest_step,
    pack,
    step_codes,
    step_labels,
    strata,
    unpack,
    window_labels,
    windows,
)

names = st.sampled_from([*CLASSES, MASKED])


def test_an_onset_goes_to_the_nearest_boundary_and_half_way_to_the_later():
    assert [nearest_step(s) for s in (0, 127, 128, 255, 256, 383, 384, 6000)] == [0, 0, 1, 1, 1, 1, 2, 23]


@given(st.lists(st.integers(0, 6000), min_size=1, max_size=8, unique=True), st.integers(1, 23), st.data())
@settings(max_examples=60, deadline=None)
def test_labels_are_those_of_the_last_episode_that_has_begun(onsets, steps, data):
    onsets = sorted(onsets)
    rhythms = data.draw(st.lists(names, min_size=len(onsets), max_size=len(onsets)))
    labels = step_labels(onsets, rhythms, steps)
    for k in range(steps):
        # A step is k * 256 samples in; an episode holds it if its rounded onset is not later.
        begun = [r for o, r in zip(onsets, rhythms, strict=True) if (o // STEP + (o % STEP >= STEP / 2)) <= k]
        assert labels[k] == (begun[-1] if begun else MASKED)


@given(st.lists(names, max_size=60))
def test_packing_loses_nothing(labels):
    assert unpack(pack(labels)) == labels
    assert [e.rhythm for e in episodes(labels) for _ in range((e.end - e.start) // STEP)] == labels


@given(st.integers(1, 300), st.integers(1, 40))
@settings(deadline=None)
def test_windows_hold_every_step_once(steps, size):
    labels = [f"{k}" for k in range(steps)]
    seen = []
    for start, counted in windows(steps, size):
        assert start >= 0
        assert start + size <= max(steps, size)
        mine = unpack(window_labels(labels, start, counted, size))
        seen += [name for name in mine if name != ABSENT]
    assert seen == labels


def test_codes_tell_padding_masked_and_classes_apart():
    codes = step_codes(["AF:2 ?:1 -:1", f"{ABSENT}:3 SINUS:2"], 6)
    assert codes[0].tolist() == [0, 0, -1, -2, -3, -3]
    assert codes[1].tolist() == [-3, -3, -3, CODES["SINUS"], CODES["SINUS"], -3]


def test_strata_are_by_the_rarest_rhythm_that_can_be_divided():
    rows = [(f"s{i}", "SINUS:23") for i in range(9)] + [(f"a{i}", "SINUS:20 AF:3") for i in range(4)]
    rows += [("v0", "AF:20 VT:3"), ("e0", "?:23")]
    table = pd.DataFrame(rows, columns=["group", "rhythms"]).assign(record_label=None)
    found = strata(table)
    assert found[:9].nunique() == 1
    assert found[9:13].nunique() == 1
    assert found[9] > found[0]
    assert found[13] == found[9], "one patient with VT cannot be in three parts: it goes by its next rarest rhythm"
    assert pd.isna(found[14])
