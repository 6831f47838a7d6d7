from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.shared.errors import StatisticsError
from pipelines.shared.stats.bootstrap import Bootstrap, cluster_counts
from pipelines.shared.stats.operating_points import choose_threshold, is_positive, rate_estimates
from pipelines.shared.stats.proportions import clopper_pearson

pytestmark = pytest.mark.filterwarnings("error")


def confusion_at(y, score, threshold):
    """Counts of tp, fp, tn and fn, by a loop."""
    return Counter(
        ("t" if truth == called else "f") + ("p" if called else "n")
        for truth, called in zip(y, is_positive(score, threshold), strict=True)
    )


@st.composite
def tied_data(draw):
    y = draw(st.lists(st.integers(0, 1), min_size=2, max_size=25).filter(lambda y: 0 < sum(y) < len(y)))
    score = draw(st.lists(st.integers(0, 5), min_size=len(y), max_size=len(y)))
    return np.array(y), np.array(score) / 5


@given(tied_data(), st.floats(0.01, 1))
def test_thresholds_equal_trying_all(data, target):
    y, score = data
    candidates = [*sorted(set(score)), np.nextafter(score.max(), 2)]
    enough = [t for t in candidates if (score[y == 0] < t).mean() >= target]
    assert choose_threshold(y, score, specificity=target) == min(enough)
    enough = [t for t in candidates if (score[y == 1] >= t).mean() >= target]
    assert choose_threshold(y, score, sensitivity=target) == max(enough)


@pytest.mark.parametrize("n", [3, 7, 10, 49, 50, 100])
def test_targets_that_are_exact_fractions_are_reached_exactly(n):
    """90 % of ten negatives is nine of them: rounding (as in 1 - false positive rate) must not ask for the tenth."""
    y = np.array([1] * n + [0] * n)
    score = np.concatenate([np.arange(n) + 0.5, np.arange(n)])
    for k in range(1, n + 1):
        t = choose_threshold(y, score, specificity=k / n)
        assert confusion_at(y, score, t)["tn"] == k
        t = choose_threshold(y, score, sensitivity=k / n)
        assert confusion_at(y, score, t)["tp"] == k


def test_specificity_reached_only_by_calling_nothing_positive():
    y, score = [0, 1, 1], [0.9, 0.9, 0.1]
    threshold = choose_threshold(y, score, specificity=0.5)
    assert threshold == np.nextafter(0.9, 1)
    assert confusion_at(y, score, threshold) == {"tn": 1, "fn": 2}


def test_float32_scores_are_compared_without_rounding_the_threshold():
    score = np.array([0.1, 0.7, 0.7], dtype=np.float32)
    y = [0, 0, 1]
    threshold = choose_threshold(y, score, specificity=1.0)
    assert confusion_at(y, score, threshold)["fp"] == 0
    assert not (score >= threshold).any()
    assert choose_threshold(y, score, sensitivity=1.0) == float(np.float32(0.7))
    # 0.7 as a double lies above 0.7 as a float32
    assert is_positive(score, 0.7).tolist() == [False, False, False]
    assert is_positive(score, 0.69).tolist() == [False, True, True]


def test_rates_have_exact_and_clustered_intervals():
    rng = np.random.default_rng(0)
    group = np.array([f"p{i}" for i in rng.integers(0, 40, 150)])
    y = rng.integers(0, 2, 150)
    score = y + rng.normal(size=150)
    rates = rate_estimates(y, score, 0.6, group, bootstrap=Bootstrap(resamples=300, seed=1))
    c = confusion_at(y, score, 0.6)
    called = score >= 0.6
    expected = {
        "sensitivity": (c["tp"], c["tp"] + c["fn"], y == 1, called),
        "specificity": (c["tn"], c["tn"] + c["fp"], y == 0, ~called),
        "ppv": (c["tp"], c["tp"] + c["fp"], called, y == 1),
        "npv": (c["tn"], c["tn"] + c["fn"], ~called, y == 0),
    }
    assert list(rates) == list(expected)
    for name, (hits, n, rows, hit) in expected.items():
        exact, clustered = rates[name]
        assert (exact.value, exact.n, exact.positives) == (hits / n, n, hits)
        assert (exact.low, exact.high) == clopper_pearson(hits, n)
        outcome = hit[rows]
        drawn = [outcome[np.repeat(np.arange(n), row)].mean() for row in cluster_counts(group[rows], 300, 1)]
        assert (clustered.low, clustered.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=1e-12)
        assert clustered.groups == exact.groups == len(set(group[rows]))


def test_rates_without_rows_are_null_with_their_reason():
    rates = rate_estimates([0, 0, 0], [0.1, 0.2, 0.3], 0.9, [1, 2, 3], bootstrap=Bootstrap(resamples=50))
    assert rates["sensitivity"].exact.reason == rates["sensitivity"].clustered.reason == "no positives"
    assert rates["ppv"].exact.reason == "nothing was called positive"
    assert rates["specificity"].clustered.value == rates["npv"].exact.value == 1.0
    rates = rate_estimates([1, 1], [0.1, 0.2], 0.0, [1, 2], bootstrap=Bootstrap(resamples=50))
    assert rates["specificity"].exact.reason == "no negatives"
    assert rates["npv"].exact.reason == "nothing was called negative"


def test_bad_input():
    with pytest.raises(StatisticsError, match="one class only"):
        choose_threshold([0, 0], [0.1, 0.2], specificity=0.9)
    for options in ({}, {"sensitivity": 0.9, "specificity": 0.9}):
        with pytest.raises(ValueError, match="either"):
            choose_threshold([0, 1], [0.1, 0.2], **options)
    for target in (0, 1.1, np.nan, 95):
        with pytest.raises(ValueError, match="target"):
            choose_threshold([0, 1], [0.1, 0.2], sensitivity=target)
    for y, score, group, reason in [
        ([0, 1], [0.1, np.nan], [1, 2], "NaN"),
        ([0, 1], [0.1, 0.2], [1], "lengths differ"),
        ([], [], [], "no rows"),
    ]:
        for rate in rate_estimates(y, score, 0.5, group).values():
            assert rate.exact.value is None
            assert reason in rate.clustered.reason
    assert "threshold" in rate_estimates([0, 1], [0.1, 0.2], np.nan, [0, 1])["sensitivity"].exact.reason
