"""Which slices of a series become one volume: alike within a tolerance, and of one pass over the head."""

from __future__ import annotations

import random
from itertools import chain

import numpy as np
import pytest

from pipelines.head_ct.series import Kernels, choose
from pipelines.head_ct.stacks import ANGLE, SPACING, stacks_of

HEIGHTS = np.arange(-70, 71, 5.0)
KERNELS = Kernels(["H3.*"], [])


def slices(heights=HEIGHTS, first=0, **changes):
    """Rows as `read_rows` gives them; a change is a value, or a function of the slice's place."""
    rows = []
    for i, height in enumerate(heights):
        row = {
            "study": "ct-1", "series": "se-1", "group": "pt-1", "instance": f"in-{first + i}", "accession": None,
            "rows": 64, "columns": 64, "original": True, "kernel": "H31s", "maker": "GE", "elsewhere": False,
            "bone": False, "contrast": False, "compressed": False, "acquisition": 1, "time": None, "tilt": 0.0,
            "age": 60.0, "sex": "F", "frame": 0, "number": 1, "position": [-100.0, -100.0, float(height)],
            "orientation": [1.0, 0, 0, 0, 1.0, 0], "spacing": [4.0, 4.0], "thickness": 5.0, "syntax_assumed": False,
            "file": f"f{first + i:03d}",
        }  # fmt: skip
        rows.append(row | {k: v(i) if callable(v) else v for k, v in changes.items()})
    return rows


def used(rows):
    """Files of the stack that is chosen, and what is said of it."""
    (study,), left = choose(rows, [], KERNELS, 5.0)
    assert {f.file for f in left} | set(study.stack.files) == {r["file"] for r in rows}, "every file has its reason"
    return set(study.stack.files), study.warnings


def files(rows):
    return {r["file"] for r in rows}


# --- alike within a tolerance ---


@pytest.mark.parametrize("size", [1e-7, 1e-6, 1e-4, 5e-3])
@pytest.mark.parametrize("cosine", [0.985, 0.9849999, 0.995, 1.0])
def test_jitter_of_the_orientation_parts_nothing(cosine, size):
    def turned(i):
        angle = np.arccos(cosine) + (size if i % 2 else -size) / 2
        return [1, 0, 0, 0, np.cos(angle), -np.sin(angle)]

    (stack,) = stacks_of(slices(orientation=turned))
    assert len(stack.files) == 29
    assert not any("mixes" in w for w in stack.warnings)


@pytest.mark.parametrize(("low", "high"), [(1.87549, 1.87551), (0.4885, 0.48851), (0.4995, 0.5)])
def test_spacings_that_are_nearly_the_same_are_the_same(low, high):
    (stack,) = stacks_of(slices(spacing=lambda i: [high if i % 2 else low] * 2))
    assert len(stack.files) == 29
    assert low <= stack.spacing[0] <= high


def test_jitter_of_thickness_and_position_parts_nothing_and_decides_nothing():
    noise = np.random.default_rng(0).uniform(-1e-3, 1e-3, (29, 3))
    thick = slices(thickness=lambda i: 5 + noise[i, 0], position=lambda i: [-100 + noise[i, 1], -100, HEIGHTS[i]])
    assert used(thick) == (files(thick), [])
    # A series of a hundredth less than the wished thickness that covers more of the head is as good.
    short = slices(HEIGHTS[:20], first=50, series="se-2", thickness=5.0)
    more = slices(thickness=4.99)
    assert used([*short, *more])[0] == files(more)


def test_real_differences_still_part():
    turned = [1, 0, 0, 0, np.cos(3 * ANGLE), -np.sin(3 * ANGLE)]
    tilted = slices(orientation=lambda i: turned if i > 13 else [1, 0, 0, 0, 1, 0])
    wide = slices(spacing=lambda i: [4 * (1 + 3 * SPACING)] * 2 if i > 13 else [4, 4])
    for rows in (tilted, wide):
        stacks = stacks_of(rows)
        assert [len(s.files) for s in stacks] == [14, 15]
        assert any("mixes" in w for w in used(rows)[1])


# --- passes ---


def two(heights=HEIGHTS + 2.3, a=None, b=None, both=None):
    """Two passes in one series, the first 29 slices and the others."""
    both = both or {}
    first = slices(**both, **(a or {}))
    return first, slices(heights, first=100, **both, **(b or {}))


SCANS = {
    "by number": ({"acquisition": 1}, {"acquisition": 2}),
    "by time": ({"time": 36000.0}, {"time": 36120.0}),
    "by the time of each slice": ({"time": lambda i: 36000.0 + i}, {"time": lambda i: 36120.0 + i}),
    "by the number of each slice": ({"acquisition": lambda i: 1 + i}, {"acquisition": lambda i: 30 + i}),
    "there and back": ({"acquisition": lambda i: 1 + i}, {"acquisition": lambda i: 60 - i}),
    "in steps of four slices": ({"acquisition": lambda i: 1 + i // 4}, {"acquisition": lambda i: 20 + i // 4}),
    "by instance number": ({"number": lambda i: 1 + i}, {"number": lambda i: 30 + i}),
    "by nothing but where they lie": ({}, {}),
}


@pytest.mark.parametrize("scan", SCANS)
@pytest.mark.parametrize("shift", [0.02, 1.0, 2.3, 4.2])
def test_of_two_passes_one_is_used_and_both_are_told(scan, shift):
    a, b = two(HEIGHTS + shift, *SCANS[scan])
    rows = [*a, *b]
    random.Random(0).shuffle(rows)
    found, warnings = used(rows)
    # Where a scan turns back, its next slice may be the last one's neighbour on the way there.
    assert found in (files(a), files(b), files(a) | {"f128"})
    if scan != "by nothing but where they lie":
        assert files(a) <= found
    if shift > 0.05 or scan != "by nothing but where they lie":
        assert "several passes over the head in one series, one is used: of 2" in warnings
    assert found > files(a) or not any("uneven" in w for w in warnings)


def test_passes_at_two_places_of_the_table():
    """Nothing but the position in the plane tells them apart; the gantry is tilted, so slices move in it anyway."""
    first = slices(position=lambda i: [-100, -100 + 0.3 * HEIGHTS[i], HEIGHTS[i]])
    for height in (0.0, 2.3):
        moved = slices(first=100, position=lambda i, h=height: [-100, -88 + 0.3 * HEIGHTS[i], HEIGHTS[i] + h])
        rows = [r for pair in zip(first, moved, strict=True) for r in pair]
        found, warnings = used(rows)
        assert found == files(first)
        assert "several passes over the head in one series, one is used: of 2" in warnings
    parts = [*slices(HEIGHTS[:15]), *slices(HEIGHTS[15:], first=50, position=lambda i: [-100, -88, HEIGHTS[15 + i]])]
    assert used(parts)[0] == files(parts)


def test_of_passes_midway_between_each_other_one_is_used():
    for scan in ("by number", "by the time of each slice", "by instance number"):
        a, b = two(HEIGHTS + 2.5, *SCANS[scan])
        assert used([*a, *b])[0] == files(a), scan


@pytest.mark.parametrize("count", [3, 4, 6])
def test_more_than_two_passes(count):
    step = 5 / count
    passes = [slices(HEIGHTS + k * step * 0.9, first=100 * k, acquisition=1 + k) for k in range(count)]
    found, warnings = used(list(chain(*passes)))
    assert found == files(passes[0])
    assert f"several passes over the head in one series, one is used: of {count}" in warnings
    timeless = [slices(HEIGHTS + k * step * 0.9, first=100 * k) for k in range(min(count, 4))]
    assert used(list(chain(*timeless)))[0] in [files(p) for p in timeless]


def test_the_pass_that_covers_the_head_is_used():
    broken_off = slices(HEIGHTS[:6], acquisition=1)
    whole = slices(HEIGHTS + 1.7, first=100, acquisition=2)
    assert used([*broken_off, *whole])[0] == files(whole)
    longer = slices(np.arange(-70, 91, 5.0) + 1.7, first=100, acquisition=2)
    assert used([*slices(acquisition=1), *longer])[0] == files(longer)


def test_frames_of_one_file_are_passes_too():
    rows = slices([*HEIGHTS, *(HEIGHTS + 2.3)], file="e.dcm", instance="in-1", frame=lambda i: i)
    for i, row in enumerate(rows):
        row["acquisition"] = 1 + i // 29
    (study,), left = choose(rows, [], KERNELS, 5.0)
    assert study.stack.frames == list(range(29))
    assert left == []
    assert any(w.startswith("several passes") for w in study.warnings)


# --- one pass, though it looks like several ---


def test_a_scan_in_steps_stays_together():
    mixed = list(range(29))
    random.Random(1).shuffle(mixed)
    orders = {
        "upwards": lambda i: i,
        "downwards": lambda i: -i,
        "in fours": lambda i: i // 4,
        "downwards in twos": lambda i: -(i // 2),
        "in any order": lambda i: mixed[i],
        "fours in any order": lambda i: mixed[i // 4],
        "twos in any order": lambda i: mixed[i // 2],
    }
    for name, order in orders.items():
        for key in ("acquisition", "number", "time"):
            for thickness in (5.0, 7.0, None):
                rows = slices(thickness=thickness, **{key: order})
                assert used(rows) == (files(rows), []), (name, key, thickness)


def test_a_scan_in_two_parts_of_different_thickness_stays_together():
    base, vertex = np.arange(-70, -20, 2.5), np.arange(-22, 70, 7.0)
    a = slices(base, thickness=2.5, acquisition=lambda i: i // 4)
    b = slices(vertex, first=50, thickness=7.0, acquisition=lambda i: 20 + i)
    found, warnings = used([*a, *b])
    assert found == files([*a, *b])
    assert not any("passes" in w for w in warnings)


def test_overlapping_slices_of_one_scan_stay_together():
    heights = np.arange(-70, 71, 2.5)  # 5 mm thick
    for order in ({}, {"number": lambda i: i}, {"time": lambda i: 36000 + i * 0.2}, {"time": lambda i: 36000 - i // 3}):
        rows = slices(heights, **order)
        assert used(rows)[0] == files(rows)


def test_every_second_slice_on_the_way_back_is_one_scan():
    way = [*range(0, 29, 2), *range(27, 0, -2)]
    rows = slices(acquisition=lambda i: way.index(i))
    assert used(rows) == (files(rows), [])


def test_times_that_are_wrong_in_places_part_nothing():
    times = [36000.0 + i for i in range(29)]
    times[5], times[6], times[15], times[16] = times[6], times[5], times[16], times[15]
    rows = slices(np.arange(-70, 71, 5.0), thickness=6.0, time=lambda i: times[i])
    assert used(rows)[0] == files(rows)


def test_copies_are_no_second_pass():
    a = slices(number=lambda i: i)
    copies = [r | {"file": "again/" + r["file"]} for r in a]
    found, warnings = used([*a, *copies])
    assert len(found) == 29
    assert warnings == ["files that are copies of others, left out: 29"]


def test_a_series_for_every_slice_is_told():
    rows = slices(series=lambda i: f"se-{i}")
    found, warnings = used(rows)
    assert len(found) == 1
    assert "every slice has a series of its own, one of them is used" in warnings
    assert "one slice only" in warnings
