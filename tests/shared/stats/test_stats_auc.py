import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from pipelines.shared.errors import StatisticsError
from pipelines.shared.stats.auc import (
    auroc,
    auroc_difference,
    auroc_estimate,
    auroc_statistic,
    average_precision,
    average_precision_estimate,
    average_precision_statistic,
    bootstrap_p_value,
    precision_recall_curve,
    roc_curve,
)
from pipelines.shared.stats.bootstrap import Bootstrap, cluster_counts

pytestmark = pytest.mark.filterwarnings("error")


def weighted_auroc(y, score, weights):
    return auroc_statistic(y, score)(weights)


def brute_auroc(y, score):
    pairs = [(p > q) + 0.5 * (p == q) for p in score[y == 1] for q in score[y == 0]]
    return sum(pairs) / len(pairs)


def make(n=200, patients=80, levels=None, seed=0, prevalence=0.3):
    """Labels, scores (tied if `levels`) and string patient ids, both correlated within patients."""
    rng = np.random.default_rng(seed)
    code = rng.integers(0, patients, n)
    patient = rng.normal(size=patients)[code]
    y = (patient + rng.normal(size=n) > np.quantile(patient, 1 - prevalence)).astype(int)
    score = y + patient + rng.normal(size=n)
    if levels:
        score = np.round(score * levels) / levels
    return y, score, np.array([f"p{c:03d}" for c in code])


@st.composite
def tied_data(draw):
    """Small cases full of ties, with both classes."""
    y = draw(st.lists(st.integers(0, 1), min_size=2, max_size=25).filter(lambda y: 0 < sum(y) < len(y)))
    score = draw(st.lists(st.integers(-3, 3), min_size=len(y), max_size=len(y)))
    return np.array(y), np.array(score, dtype=float)


@given(tied_data())
def test_auroc_equals_counting_pairs(data):
    y, score = data
    assert auroc(y, score) == pytest.approx(brute_auroc(y, score), abs=1e-14)
    assert auroc(y, -score) == pytest.approx(1 - auroc(y, score), abs=1e-14)
    assert auroc(1 - y, score) == pytest.approx(1 - auroc(y, score), abs=1e-14)
    assert auroc(y, np.exp(score)) == auroc(y, score)


@pytest.mark.parametrize("levels", [None, 2])
def test_auroc_and_average_precision_equal_sklearn(levels):
    y, score, _ = make(levels=levels)
    assert auroc(y, score) == pytest.approx(roc_auc_score(y, score), abs=1e-14)
    assert average_precision(y, score) == pytest.approx(average_precision_score(y, score), abs=1e-14)


def test_hand_computed():
    # positives 3 and 1, negatives 2 and 1: wins 1 + 1 + 0 + tie 0.5
    assert auroc([1, 1, 0, 0], [3, 1, 2, 1]) == 0.625
    # recall 1/2 at precision 1, then 2/2 at 2/4
    assert average_precision([1, 1, 0, 0], [3, 1, 2, 1]) == 0.75
    assert auroc([True, False], [1.0, 0.0]) == 1.0


@given(tied_data(), st.integers(0, 2**32 - 1))
def test_weighted_auroc_equals_repeating_rows(data, seed):
    y, score = data
    weights = np.random.default_rng(seed).integers(0, 4, (6, len(y))).astype(np.uint8)
    values = weighted_auroc(y, score, weights)
    for value, row in zip(values, weights, strict=True):
        repeated = np.repeat(np.arange(len(y)), row)
        if len(set(y[repeated])) < 2:
            assert np.isnan(value)
        else:
            assert value == pytest.approx(brute_auroc(y[repeated], score[repeated]), abs=1e-14)


@pytest.mark.parametrize("levels", [None, 2])
def test_weights_need_not_be_counts(levels):
    y, score, _ = make(levels=levels)
    weights = np.random.default_rng(0).random((3, len(y)))
    expected_auroc = [roc_auc_score(y, score, sample_weight=w) for w in weights]
    expected_precision = [average_precision_score(y, score, sample_weight=w) for w in weights]
    np.testing.assert_allclose(weighted_auroc(y, score, weights), expected_auroc, atol=1e-12)
    np.testing.assert_allclose(average_precision_statistic(y, score)(weights), expected_precision, atol=1e-12)


def test_uint8_counts_do_not_overflow():
    y = np.repeat([0, 1], 400)
    score = np.tile([0.0, 1.0], 400)
    weights = np.full((1, 800), 255, dtype=np.uint8)
    assert weighted_auroc(y, score, weights)[0] == 0.5
    assert average_precision_statistic(y, score)(weights)[0] == 0.5


@pytest.mark.parametrize("levels", [None, 2])
def test_interval_equals_the_loop_over_the_same_resamples(levels):
    y, score, group = make(levels=levels)
    resamples = 300
    counts = cluster_counts(group, resamples, seed=7)
    drawn = [np.repeat(np.arange(len(y)), row) for row in counts]
    for plain, estimate in [(auroc, auroc_estimate), (average_precision, average_precision_estimate)]:
        looped = np.array([plain(y[rows], score[rows]) for rows in drawn])
        result = estimate(y, score, group, bootstrap=Bootstrap(resamples, 7))
        expected = np.quantile(looped, [0.025, 0.975])
        assert result.value == plain(y, score)
        np.testing.assert_allclose([result.low, result.high], expected, rtol=0, atol=1e-12)
        assert (result.n, result.groups, result.positives) == (len(y), len(set(group)), y.sum())
    np.testing.assert_allclose(
        weighted_auroc(y, score, counts), [auroc(y[rows], score[rows]) for rows in drawn], rtol=0, atol=1e-12
    )


def test_estimate_is_the_same_for_any_order_of_rows():
    y, score, group = make(levels=3)
    order = np.random.default_rng(1).permutation(len(y))
    first = auroc_estimate(y, score, group, bootstrap=Bootstrap(resamples=100))
    assert auroc_estimate(y[order], score[order], group[order], bootstrap=Bootstrap(resamples=100)) == first
    assert auroc_estimate(y, score, list(group), bootstrap=Bootstrap(resamples=100)) == first
    assert auroc_estimate(y, score, group, bootstrap=Bootstrap(resamples=100, seed=1)) != first
    wider = auroc_estimate(y, score, group, bootstrap=Bootstrap(resamples=100, level=0.99))
    assert wider.low <= first.low < first.high <= wider.high


def test_resamples_with_one_class_are_reported():
    y = np.array([1, 1, 1, 1] + [0] * 16)
    score = np.random.default_rng(0).normal(size=20) + y
    result = auroc_estimate(y, score, np.arange(20), bootstrap=Bootstrap(resamples=1000))
    undefined = int((cluster_counts(np.arange(20), 1000, 0)[:, :4].sum(axis=1) == 0).sum())
    assert undefined > 0
    assert f"{undefined} of 1000 resamples with one class, left out" in result.method


@given(tied_data())
def test_roc_curve_counts_at_every_threshold(data):
    y, score = data
    curve = roc_curve(y, score)
    assert curve.threshold.tolist() == [np.nextafter(score.max(), np.inf), *sorted(set(score), reverse=True)]
    for t, sensitivity, specificity in zip(curve.threshold, curve.sensitivity, curve.specificity, strict=True):
        assert sensitivity == (score[y == 1] >= t).mean()
        assert specificity == (score[y == 0] < t).mean()
    area = np.trapezoid(curve.sensitivity, 1 - curve.specificity)
    assert area == pytest.approx(auroc(y, score), abs=1e-12)


def test_empty_point_of_float32_scores_lies_above_them():
    score = np.array([0.1, 0.9], dtype=np.float32)
    assert not (score >= roc_curve([0, 1], score).threshold[0]).any()
    assert roc_curve([0, 1], score).threshold.dtype == np.float64


@given(tied_data())
def test_precision_recall_curve_counts_at_every_threshold(data):
    y, score = data
    curve = precision_recall_curve(y, score)
    for t, precision, recall in zip(curve.threshold, curve.precision, curve.recall, strict=True):
        assert precision == y[score >= t].mean()
        assert recall == (score[y == 1] >= t).mean()
    gained = np.diff(curve.recall, prepend=0)
    assert (gained * curve.precision).sum() == pytest.approx(average_precision(y, score), abs=1e-12)


def test_difference_uses_the_same_resamples_for_both():
    y, a, group = make(levels=3)
    b = np.round(a + np.random.default_rng(4).normal(size=len(y)), 1)
    result = auroc_difference(y, a, b, group, bootstrap=Bootstrap(resamples=300, seed=5))
    counts = cluster_counts(group, 300, seed=5)
    drawn = [np.repeat(np.arange(len(y)), row) for row in counts]
    looped = np.array([auroc(y[i], a[i]) - auroc(y[i], b[i]) for i in drawn])
    expected = np.quantile(looped, [0.025, 0.975])
    np.testing.assert_allclose([result.difference.low, result.difference.high], expected, rtol=0, atol=1e-12)
    assert result.difference.value == auroc(y, a) - auroc(y, b)
    assert result.p_value == min(1, 2 * (min((looped <= 0).sum(), (looped >= 0).sum()) + 1) / 301)
    swapped = auroc_difference(y, b, a, group, bootstrap=Bootstrap(resamples=300, seed=5))
    assert swapped.difference.low == pytest.approx(-result.difference.high, abs=1e-15)
    assert swapped.p_value == result.p_value


def test_p_value():
    y, a, group = make()
    noise = np.random.default_rng(9).normal(size=len(y))
    assert auroc_difference(y, a, a, group, bootstrap=Bootstrap(resamples=200)).p_value == 1.0
    assert auroc_difference(y, a, noise, group, bootstrap=Bootstrap(resamples=199)).p_value == 2 / 200
    assert bootstrap_p_value(np.array([-1.0, 0.0, 1.0, 2.0])) == pytest.approx(1.0)
    assert bootstrap_p_value(np.array([1.0] * 8 + [-1.0])) == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("y", "score", "reason"),
    [
        ([1, 1], [0.1, 0.2], "one class only: no negatives"),
        ([0, 0], [0.1, 0.2], "one class only: no positives"),
        ([0, 1], [0.1, np.nan], "score: 1 of 2 values are NaN or infinite"),
        ([0, 1], [0.1, np.inf], "score: 1 of 2 values are NaN or infinite"),
        ([0, np.nan], [0.1, 0.2], "y: 1 of 2 values are NaN or infinite"),
        ([0, 2], [0.1, 0.2], "y: values are 0 or 1, found 2"),
        ([], [], "no rows"),
        ([0, 1, 1], [0.1, 0.2], "lengths differ: y 3, score 2"),
        ([0, 1], ["0.1", "0.2"], "score: not numbers"),
        ([[0, 1]], [0.1, 0.2], "y: 2 dimensions instead of one"),
    ],
)
def test_undefined_input_is_named(y, score, reason):
    for function in (auroc, average_precision, roc_curve, precision_recall_curve):
        with pytest.raises(StatisticsError, match=reason):
            function(y, score)
    group = np.arange(np.size(y))
    for estimate in (auroc_estimate(y, score, group), average_precision_estimate(y, score, group)):
        assert estimate.value is None
        assert reason in estimate.reason
    comparison = auroc_difference(y, score, score, group)
    assert comparison.p_value is None
    assert reason in comparison.difference.reason


def test_one_group_leaves_the_value_without_interval():
    estimate = auroc_estimate([0, 1, 1], [0.1, 0.2, 0.3], ["a", "a", "a"])
    assert (estimate.value, estimate.low) == (1.0, None)
    assert "one group only" in estimate.reason
    comparison = auroc_difference([0, 1], [0.1, 0.2], [0.2, 0.1], ["a", "a"])
    assert (comparison.difference.value, comparison.p_value) == (1.0, None)


@settings(max_examples=20)
@given(st.integers(0, 10**6))
def test_interval_lies_in_the_unit_interval(seed):
    y, score, group = make(n=60, patients=20, levels=1, seed=seed)
    result = auroc_estimate(y, score, group, bootstrap=Bootstrap(resamples=50))
    if result.low is not None:
        assert 0 <= result.low <= result.high <= 1


@pytest.mark.slow
def test_two_thousand_resamples_of_ten_thousand_rows_take_about_a_second():
    rng = np.random.default_rng(0)
    group = np.repeat([f"patient {i}" for i in range(5000)], 2)
    y = rng.integers(0, 2, 10_000)
    score = y + rng.normal(size=10_000)
    start = time.process_time()
    auroc_estimate(y, score, group)
    assert time.process_time() - start < 1.0  # measured: 0.2 s


@pytest.mark.slow
def test_clustered_interval_covers_where_the_row_interval_does_not():
    """Scores of a patient's four rows are nearly equal, labels are the patient's."""
    rng = np.random.default_rng(11)
    trials, patients = 400, 60
    truth = 0.7602  # P(N(1, 1) > N(0, 1)) = Phi(1 / sqrt 2); the small noise hardly changes it
    group = np.repeat(np.arange(patients), 4)
    covered = {"clustered": 0, "rows": 0}
    for trial in range(trials):
        label = rng.permutation(np.arange(patients) < patients // 2)
        y = np.repeat(label, 4)
        score = np.repeat(label + rng.normal(size=patients), 4) + 0.01 * rng.normal(size=len(group))
        for name, keys in [("clustered", group), ("rows", np.arange(len(group)))]:
            result = auroc_estimate(y, score, keys, bootstrap=Bootstrap(resamples=400, seed=trial))
            covered[name] += result.low <= truth <= result.high
    assert 0.91 < covered["clustered"] / trials < 0.98
    assert covered["rows"] / trials < 0.75
