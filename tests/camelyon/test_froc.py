"""The FROC against a literal reference on full masks, its traps, and its bootstrap."""

from __future__ import annotations

import numpy as np
import official
import pandas as pd
import pytest
from asap import random_polygons
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.camelyon import froc
from pipelines.camelyon.annotations import Annotation, Polygon
from pipelines.camelyon.froc import (
    NAMES,
    Scored,
    by_size,
    froc_curve,
    froc_estimates,
    froc_score,
    score_detections,
    unused_lowest,
)
from pipelines.camelyon.masks import LesionMap, lesion_map
from pipelines.shared.stats.bootstrap import Bootstrap

WIDTH, HEIGHT = 5000, 3700  # level-0 pixels


def table(rows):
    return pd.DataFrame(rows, columns=["slide", "probability", "x", "y"]).astype({"probability": float})


def random_test(seed, slides=6, size=(WIDTH, HEIGHT)):
    """Slides with and without metastases, and detections: on lesions, beside them, tied, none, beyond the slide."""
    rng = np.random.default_rng(seed)
    names = [f"slide_{i}" for i in range(slides)]
    polygons = {n: random_polygons(rng, *size) if rng.random() < 0.6 else None for n in names}
    rows = []
    for name in names:
        points = []
        for polygon in polygons[name] or []:
            points += (polygon.points.mean(axis=0) + rng.normal(0, 60, (int(rng.integers(0, 4)), 2))).tolist()
        points += rng.uniform(0, 1.15, (int(rng.integers(0, 5)), 2)).tolist()
        for x, y in points:
            x, y = (x * size[0], y * size[1]) if x < 1.15 and y < 1.15 else (x, y)
            probability = rng.choice([0.0, 0.2, 0.5, 0.5, 0.9, 1.0, rng.random()])
            rows.append((name, float(probability), float(max(0, int(x))), float(max(0, int(y)))))
    return names, polygons, table(rows)


def scored_both_ways(names, polygons, detections, size=(WIDTH, HEIGHT)):
    maps = {n: lesion_map(Annotation(None, p), *size) for n, p in polygons.items() if p is not None}
    scored, marked = score_detections(names, detections, maps)
    rows, columns = -(-size[1] // 32), -(-size[0] // 32)
    literal = []
    for name in names:
        mine = detections[detections["slide"] == name]
        labels = None
        if polygons[name] is not None:
            labels = official.evaluation_mask(official.full_mask(polygons[name], rows, columns))
        literal.append(official.one_slide(mine[["probability", "x", "y"]].to_numpy().tolist(), labels))
    return scored, marked, literal


@pytest.mark.parametrize("seed", range(25))
def test_it_agrees_with_a_literal_count_on_full_masks(seed):
    scored, marked, literal = scored_both_ways(*random_test(seed))
    for i, (false, _, lesions, count) in enumerate(literal):
        assert sorted(scored.false_score[scored.false_slide == i]) == sorted(false)
        assert sorted(scored.lesion_score[scored.lesion_slide == i]) == sorted(lesions)
        assert (scored.lesion_slide == i).sum() == count
        assert scored.itc[i] == len(literal[i][1]) - count
    assert (marked["outcome"] == "true_positive").sum() == (scored.lesion_score > 0).sum()
    assert (marked["outcome"] == "false_positive").sum() == len(scored.false_score)
    if sum(s[3] for s in literal):
        x, y = official.froc(literal)
        curve = froc_curve(scored)
        np.testing.assert_allclose(curve.false_positives, x, rtol=1e-12)
        np.testing.assert_allclose(curve.sensitivity, y, rtol=1e-12)
        np.testing.assert_allclose(curve.at(), official.sensitivities(x, y), rtol=1e-12)
        assert froc_score(scored) == pytest.approx(np.mean(official.sensitivities(x, y)), rel=1e-12)


@pytest.mark.slow
def test_the_random_cases_hold_what_they_should():
    """Otherwise the agreement above would say little."""
    seen = {"itc": 0, "repeated": 0, "true_positive": 0, "false_positive": 0, "missed": 0, "beyond": 0, "empty": 0}
    for seed in range(25):
        names, polygons, detections = random_test(seed)
        scored, marked, _ = scored_both_ways(names, polygons, detections)
        for outcome, count in marked["outcome"].value_counts().items():
            seen[outcome] += count
        seen["missed"] += (scored.lesion_score == 0).sum()
        seen["beyond"] += ((detections["x"] >= WIDTH) | (detections["y"] >= HEIGHT)).sum()
        seen["empty"] += len(set(names) - set(detections["slide"]))
    assert min(seen.values()) >= 10, seen


# --- scored slides without geometry, so that many more cases can be tried ---

PROBABILITIES = st.sampled_from([0.0, 0.1, 0.3, 0.3, 0.5, 0.7, 0.9, 1.0])


@st.composite
def scored_slides(draw):
    """What some slides' detections were: per slide false positives, lesions' highest probabilities, ITC."""
    slides = draw(st.lists(st.tuples(
        st.lists(PROBABILITIES, max_size=6), st.lists(PROBABILITIES, max_size=4), st.integers(0, 2),
    ), min_size=2, max_size=7))  # fmt: skip
    if not any(lesions for _, lesions, _ in slides):
        slides.append(([], [draw(PROBABILITIES)], 0))
    return slides


def as_scored(slides):
    index = range(len(slides))
    return Scored(
        slides=[str(i) for i in index],
        tumour=np.array([bool(s[1]) or s[2] > 0 for s in slides]),
        lesion_slide=np.array([i for i in index for _ in slides[i][1]], int),
        lesion_score=np.array([p for s in slides for p in s[1]], float),
        lesion_length=np.array([1000.0 + 500 * k for s in slides for k in range(len(s[1]))]),
        false_slide=np.array([i for i in index for _ in slides[i][0]], int),
        false_score=np.array([p for s in slides for p in s[0]], float),
        itc=np.array([s[2] for s in slides]),
    )


def literal_form(slides):
    return [(list(f), list(t) + [0.0] * itc, list(t), len(t)) for f, t, itc in slides]


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(scored_slides())
def test_the_curve_is_the_literal_one(slides):
    x, y = official.froc(literal_form(slides))
    curve = froc_curve(as_scored(slides))
    np.testing.assert_allclose(curve.false_positives, x, rtol=1e-12)
    np.testing.assert_allclose(curve.sensitivity, y, rtol=1e-12)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(scored_slides(), st.integers(0, 2**32 - 1))
def test_every_resample_is_scored_as_a_submission_of_its_own(slides, seed):
    rng = np.random.default_rng(seed)
    counts = np.stack(
        [np.bincount(rng.integers(len(slides), size=len(slides)), minlength=len(slides)) for _ in range(5)]
    )
    found = froc._Resampling(as_scored(slides))(counts.astype(np.uint8))
    for row, drawn in zip(found, counts, strict=True):
        resample = [s for s, times in zip(literal_form(slides), drawn, strict=True) for _ in range(times)]
        if sum(s[3] for s in resample) == 0:
            assert np.isnan(row).all()
            continue
        expected = official.sensitivities(*official.froc(resample))
        np.testing.assert_allclose(row, [np.mean(expected), *expected], rtol=1e-12, atol=1e-12)


def test_large_resamples_do_not_depend_on_the_size_of_the_blocks(monkeypatch):
    rng = np.random.default_rng(0)
    slides = [(rng.random(40).round(2).tolist(), rng.random(3).round(2).tolist(), 1) for _ in range(30)]
    bootstrap = Bootstrap(200, 3, 0.95)
    whole = froc_estimates(as_scored(slides), bootstrap=bootstrap)
    monkeypatch.setattr(froc, "BLOCK", 1000)
    assert froc_estimates(as_scored(slides), bootstrap=bootstrap) == whole
    assert list(whole) == ["froc", *NAMES]
    assert whole["froc"].low < whole["froc"].value < whole["froc"].high
    assert whole["froc"].groups == 30
    assert whole["froc"].n == 90


# --- by hand ---


def test_the_beginning_of_a_curve_gives_what_the_whole_gives():
    """Many false positives: most resamples need the first events only, and get the same numbers to the last bit."""
    rng = np.random.default_rng(3)
    shortened = 0
    for n in (2, 5, 12):
        scored = Scored(
            slides=[str(i) for i in range(n)], tumour=np.ones(n, bool), lesion_slide=rng.integers(0, n, 9),
            lesion_score=np.round(rng.random(9), 2), lesion_length=np.ones(9), false_slide=rng.integers(0, n, 60 * n),
            false_score=np.round(rng.random(60 * n), 3), itc=rng.integers(0, 2, n),
        )  # fmt: skip
        counts = rng.multinomial(n, [1 / n] * n, size=40)
        short, whole = froc._Resampling(scored), froc._Resampling(scored)
        shortened += short.enough < len(short.slide)
        whole.enough = len(whole.slide)
        np.testing.assert_array_equal(short(counts), whole(counts))
    assert shortened == 3


def test_a_hand_worked_example():
    """Two slides, three lesions (0.9, 0.6, missed), false positives 0.8 and 0.7.

    Thresholds without the lowest (0): 0.6, 0.7, 0.8, 0.9. False positives per slide 1, 1, .5, 0; found 2, 1, 1, 1 of 3.
    """
    scored = as_scored([([0.8], [0.9, 0.6, 0.0], 0), ([0.7], [], 0)])
    curve = froc_curve(scored)
    assert curve.thresholds.tolist() == [0.6, 0.7, 0.8, 0.9, np.inf]
    assert curve.false_positives.tolist() == [1, 1, 0.5, 0, 0]
    np.testing.assert_allclose(curve.sensitivity, [2 / 3, 1 / 3, 1 / 3, 1 / 3, 0])
    np.testing.assert_allclose(curve.at(), [1 / 3, 1 / 3, 2 / 3, 2 / 3, 2 / 3, 2 / 3])


def test_the_lowest_value_is_no_threshold_even_if_it_is_a_detection():
    """All lesions found: there is no 0 in the list, and the lowest detection falls out, as in the official count."""
    scored = as_scored([([], [0.9, 0.6], 0)])
    assert froc_curve(scored).sensitivity.tolist() == [0.5, 0.0]
    # An ITC puts a 0 into the list, and the lowest detection counts again.
    assert froc_curve(as_scored([([], [0.9, 0.6], 1)])).sensitivity.tolist() == [1.0, 0.5, 0.0]


def test_equal_probabilities_are_one_threshold():
    """0.9 as float32 and as float64 differ; the official script keeps one of them in float32."""
    scored = as_scored([([0.9], [0.9], 0), ([0.9], [0.0], 0)])
    assert froc_curve(scored).thresholds.tolist() == [0.9, np.inf]


def test_slides_without_detections_stay_in_the_denominator():
    few = as_scored([([0.9, 0.8], [0.7, 0.0], 0)])
    many = as_scored([([0.9, 0.8], [0.7, 0.0], 0), *[([], [], 0)] * 9])
    assert froc_curve(few).false_positives[0] == 2.0
    assert froc_curve(many).false_positives[0] == 0.2


def test_without_lesions_the_score_is_undefined_and_says_why():
    bootstrap = Bootstrap(100, 0, 0.95)
    none = froc_estimates(as_scored([([0.5], [], 0), ([], [], 0)]), bootstrap=bootstrap)
    assert none["froc"].value is None
    assert none["froc"].reason == "there is no lesion"
    cells = froc_estimates(as_scored([([0.5], [], 2), ([], [], 0)]), bootstrap=bootstrap)
    assert cells["sensitivity_at_1"].reason == "there is no lesion but isolated tumour cells"
    one = froc_estimates(as_scored([([0.5], [0.7, 0.0], 0)]), bootstrap=bootstrap)
    assert one["froc"].value is not None
    assert one["froc"].low is None


def test_a_submission_without_any_detection_scores_zero():
    scored, marked = score_detections(["a", "b"], table([]), {"a": lesion_map(Annotation(None, [square(3000)]))})
    assert froc_score(scored) == 0
    assert marked.empty
    assert froc_estimates(scored, bootstrap=Bootstrap(100))["froc"].value == 0


def square(side, left=1000, top=1000, group="Tumor"):
    points = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], float) * side + (left, top)
    return Polygon("square", group, points)


def test_a_detection_counts_for_what_it_lies_on():
    found = lesion_map(Annotation(None, [square(3000), square(100, left=9000)]))
    assert found.lesions["itc"].tolist() == [False, True]
    rows = [
        ("a", 0.4, 2000, 2000),  # on the lesion
        ("a", 0.8, 1500, 1500),  # on it too, and higher
        ("a", 0.8, 1600, 1600),  # as high, later
        ("a", 0.99, 9050, 1050),  # on isolated tumour cells
        ("a", 0.7, 7000, 500),  # beside them
        ("a", 0.6, 10**7, 10**7),  # beyond the slide
        ("b", 0.5, 2000, 2000),  # on a normal slide
    ]
    scored, marked = score_detections(["a", "b", "c"], table(rows), {"a": found})
    expected = ["repeated", "true_positive", "repeated", "itc", "false_positive", "false_positive", "false_positive"]
    assert marked["outcome"].tolist() == expected
    assert scored.lesion_score.tolist() == [0.8]
    assert scored.itc.tolist() == [1, 0, 0]
    assert scored.tumour.tolist() == [True, False, False]
    assert len(scored.slides) == 3


def test_sizes_share_all_false_positives():
    slides = as_scored([([0.8], [0.9, 0.6, 0.0], 0), ([0.7], [0.5], 0)])  # 1,000, 1,500, 2,000 and 1,000 microns
    sizes = by_size(slides).set_index("size")
    assert sizes.loc["micrometastases", "lesions"] == 4
    assert np.isnan(sizes.loc["macrometastases", "froc"])
    large = as_scored([([0.8], [0.9, 0.6, 0.3, 0.2], 0), ([0.7], [], 1)])  # the last is of 2,500 microns
    sizes = by_size(large).set_index("size")
    assert sizes["lesions"].tolist() == [3, 1]
    assert sizes["found"].tolist() == [3, 1]
    assert sizes.loc["macrometastases", "sensitivity_at_1/2"] == 0
    assert sizes.loc["macrometastases", "sensitivity_at_1"] == 1


def test_a_map_answers_outside_of_its_tiles():
    found = LesionMap([(5, 7, np.array([[1, 0], [0, 2]], np.int32))], pd.DataFrame())
    x = np.array([7 * 32, 8 * 32 + 31.9, 9 * 32, 0, 1e9])
    y = np.array([5 * 32, 6 * 32, 6 * 32, 0, 1e9])
    assert found.at(x, y).tolist() == [1, 2, 0, 0, 0]


def found_at(lesions, false=(), itc=0):
    """Two slides, one with lesions."""
    n, k = len(lesions), len(false)
    return Scored(
        ["a", "b"], np.array([True, False]), np.zeros(n, int), np.array(lesions, float), np.full(n, 500.0),
        np.ones(k, int), np.array(false, float), np.array([itc, 0]),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("scored", "said"),
    [
        (found_at([0.9, 0.9], [0.9]), "All detections share one probability (0.9)"),
        (found_at([0.9, 0.5], [0.7]), "1 of 2 lesions are found at the lowest probability of all (0.5) only"),
        (found_at([0.9, 0.9], [0.2]), None),
        (found_at([0.9, 0.9], itc=1), None),  # a 0 is the lowest
        (found_at([0.9, 0.0]), None),
        (found_at([]), None),
    ],
)
def test_a_score_that_the_lowest_probability_spoils_says_why(scored, said):
    found = unused_lowest(scored)
    assert (found is None) == (said is None)
    if said is not None:
        assert said in found
        estimate = froc_estimates(scored, bootstrap=Bootstrap(100))["froc"]
        assert found in estimate.reason
        assert estimate.value == froc_score(scored) < 1
