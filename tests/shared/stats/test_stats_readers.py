import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.shared.errors import StatisticsError
from pipelines.shared.stats.auc import RocCurve, roc_curve
from pipelines.shared.stats.estimate import Estimate
from pipelines.shared.stats.proportions import clopper_pearson
from pipelines.shared.stats.readers import Reader, reader_estimates, readers_below_curve, sensitivity_at

pytestmark = pytest.mark.filterwarnings("error")


def reader(sensitivity, specificity):
    return Reader("r", Estimate(sensitivity, reason="none"), Estimate(specificity, reason="none"))


def test_rates_of_each_reader():
    rng = np.random.default_rng(0)
    truth_of_case = rng.integers(0, 2, 50)
    case, name = np.repeat(np.arange(50), 4), np.tile(["d", "b", "c", "a"], 50)
    keep = rng.random(200) < 0.7
    case, name = case[keep], name[keep]
    truth = truth_of_case[case]
    reading = np.where(rng.random(len(case)) < 0.8, truth, 1 - truth)
    readers = reader_estimates(case, name, reading, truth, level=0.9)
    assert [r.reader for r in readers] == ["a", "b", "c", "d"]
    for r in readers:
        positive, negative = (name == r.reader) & (truth == 1), (name == r.reader) & (truth == 0)
        hits, passes = int(reading[positive].sum()), int((1 - reading[negative]).sum())
        assert (r.sensitivity.value, r.sensitivity.n) == (hits / positive.sum(), positive.sum())
        assert (r.sensitivity.low, r.sensitivity.high) == clopper_pearson(hits, int(positive.sum()), 0.9)
        assert (r.specificity.value, r.specificity.positives) == (passes / negative.sum(), passes)
        assert (r.specificity.low, r.specificity.high) == clopper_pearson(passes, int(negative.sum()), 0.9)


def test_a_reader_without_positives_has_no_sensitivity():
    (r,) = reader_estimates(["x", "y"], [7, 7], [0, 1], [0, 0])
    assert r.reader == 7
    assert (r.sensitivity.value, r.sensitivity.reason) == (None, "no positive case was read")
    assert r.specificity.value == 0.5


@pytest.mark.parametrize(
    ("case", "name", "reading", "truth", "reason"),
    [
        ([1, 1], ["a", "a"], [0, 1], [0, 0], "1 readings repeat the same case and reader"),
        ([1, 1], ["a", "b"], [0, 1], [0, 1], "1 of 1 cases have both truths"),
        ([1, 2], ["a", "b"], [0, 2], [0, 1], "reading: values are 0 or 1, found 2"),
        ([1, 2], ["a", "b"], [0, 1], [0, np.nan], "truth: 1 of 2 values are NaN"),
        ([1, 2], ["a", None], [0, 1], [0, 1], "1 of 2 keys are missing"),
        ([1], ["a", "b"], [0, 1], [0, 1], "lengths differ"),
        ([], [], [], [], "no rows"),
    ],
)
def test_bad_readings_are_named(case, name, reading, truth, reason):
    with pytest.raises(StatisticsError, match=reason):
        reader_estimates(case, name, reading, truth)


# specificity 1, 1, 0.5, 0.5, 0 with sensitivity 0, 0.4, 0.4, 0.8, 1
STEPS = RocCurve(np.arange(5.0)[::-1], np.array([0, 0.4, 0.4, 0.8, 1]), np.array([1, 1, 0.5, 0.5, 0]))


@pytest.mark.parametrize(
    ("specificity", "sensitivity"), [(1, 0.4), (0.75, 0.4), (0.5, 0.8), (0.25, 0.9), (0.1, 0.96), (0, 1)]
)
def test_sensitivity_at(specificity, sensitivity):
    assert sensitivity_at(STEPS, specificity) == pytest.approx(sensitivity, abs=1e-12)


def test_sensitivity_at_an_impossible_specificity():
    with pytest.raises(StatisticsError):
        sensitivity_at(STEPS, 1.2)


def test_below_means_strictly_under_the_curve():
    below, on, above = reader(0.39, 0.75), reader(0.4, 0.75), reader(0.41, 0.75)
    assert readers_below_curve([below, on, above], STEPS) == (1, 3)
    # on a vertical step only its upper end is on the curve: more sensitivity is to be had at that specificity
    assert readers_below_curve([reader(0.6, 0.5), reader(0.8, 0.5)], STEPS) == (1, 2)
    assert readers_below_curve([reader(0.96, 0.1), reader(1.0, 0.0), reader(0.4, 1.0)], STEPS) == (0, 3)
    assert readers_below_curve([reader(None, 0.5), reader(0.5, None)], STEPS) == (0, 0)
    assert readers_below_curve([], STEPS) == (0, 0)


def test_rounding_does_not_put_a_reader_below():
    line = RocCurve(np.array([2.0, 1.0, 0.0]), np.array([0, 0.1, 0.7]), np.array([1, 1, 0]))
    on = [reader((1 + k * 0.6) / 10, 1 - k / 10) for k in range(11)]
    assert any(r.sensitivity.value < sensitivity_at(line, r.specificity.value) for r in on)
    assert readers_below_curve(on, line) == (0, 11)


@given(st.integers(0, 10**6))
def test_operating_points_of_the_curve_itself_are_not_below_it(seed):
    rng = np.random.default_rng(seed)
    y = np.arange(30) % 3 == 0
    curve = roc_curve(y, rng.integers(0, 8, 30) + y)
    upper = [reader(max(curve.sensitivity[curve.specificity == s]), s) for s in np.unique(curve.specificity)]
    assert readers_below_curve(upper, curve)[0] == 0
    for r in upper:
        assert sensitivity_at(curve, r.specificity.value) == r.sensitivity.value
    lower = [reader(r.sensitivity.value - 0.01, r.specificity.value) for r in upper]
    assert readers_below_curve(lower, curve) == (len(lower), len(lower))
