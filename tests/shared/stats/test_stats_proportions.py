import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from pipelines.shared.errors import StatisticsError
from pipelines.shared.stats.bootstrap import Bootstrap, cluster_counts
from pipelines.shared.stats.proportions import (
    both_estimates,
    clopper_pearson,
    clustered_proportion_estimate,
    proportion_estimate,
    weighted_ratio_estimate,
)

pytestmark = pytest.mark.filterwarnings("error")


@given(st.integers(1, 500), st.data(), st.sampled_from([0.8, 0.95, 0.99]))
def test_clopper_pearson_equals_scipy(trials, data, level):
    successes = data.draw(st.integers(0, trials))
    expected = binomtest(successes, trials).proportion_ci(level, method="exact")
    assert clopper_pearson(successes, trials, level) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_clopper_pearson_golden():
    # the ends for none of n have the closed form 1 - 0.025^(1/n)
    assert clopper_pearson(0, 20) == pytest.approx((0, 1 - 0.025 ** (1 / 20)), abs=1e-12)
    assert clopper_pearson(20, 20) == pytest.approx((0.025 ** (1 / 20), 1), abs=1e-12)
    # Newcombe, Stat Med 17:857 (1998), table I: 81 of 263
    assert clopper_pearson(81, 263) == pytest.approx((0.2527, 0.3676), abs=5e-5)


@pytest.mark.parametrize(("successes", "trials"), [(0, 0), (3, 2), (-1, 2)])
def test_clopper_pearson_needs_trials(successes, trials):
    with pytest.raises(StatisticsError):
        clopper_pearson(successes, trials)


def test_level_is_a_fraction():
    with pytest.raises(ValueError, match="level"):
        clopper_pearson(1, 2, 95)
    with pytest.raises(ValueError, match="level"):
        clustered_proportion_estimate([0, 1], [1, 2], bootstrap=Bootstrap(level=95))


def test_proportion_estimate():
    estimate = proportion_estimate([1, 0, 1, 1], ["a", "a", "b", "c"])
    assert estimate.value == 0.75
    assert (estimate.low, estimate.high) == clopper_pearson(3, 4)
    assert (estimate.n, estimate.groups, estimate.positives) == (4, 3, 3)
    assert estimate.method == "Clopper-Pearson exact binomial, 95 %, rows as independent"
    assert proportion_estimate([True, False]).groups is None


def test_clustered_interval_equals_the_loop_over_the_same_resamples():
    rng = np.random.default_rng(0)
    group = rng.integers(0, 25, 80)
    outcome = rng.integers(0, 2, 80)
    estimate = clustered_proportion_estimate(outcome, group, bootstrap=Bootstrap(resamples=300, seed=2))
    looped = [outcome[np.repeat(np.arange(80), row)].mean() for row in cluster_counts(group, 300, 2)]
    assert (estimate.low, estimate.high) == pytest.approx(tuple(np.quantile(looped, [0.025, 0.975])), abs=1e-12)
    assert (estimate.value, estimate.n, estimate.positives) == (outcome.mean(), 80, outcome.sum())


def test_repeated_rows_narrow_the_exact_interval_but_not_the_clustered_one():
    outcome = np.random.default_rng(1).integers(0, 2, 60)
    once = both_estimates(outcome, np.arange(60))
    thrice = both_estimates(np.repeat(outcome, 3), np.repeat(np.arange(60), 3))
    assert (thrice.clustered.low, thrice.clustered.high) == (once.clustered.low, once.clustered.high)
    assert thrice.exact.high - thrice.exact.low < 0.65 * (once.exact.high - once.exact.low)


def test_weighted_ratio():
    rng = np.random.default_rng(0)
    group, lesions = rng.integers(0, 20, 60), rng.integers(0, 4, 60)
    hits = rng.binomial(lesions, 0.6)
    estimate = weighted_ratio_estimate(hits, lesions, group, bootstrap=Bootstrap(resamples=200, seed=1))
    drawn = [np.repeat(np.arange(60), row) for row in cluster_counts(group, 200, 1)]
    looped = [hits[rows].sum() / lesions[rows].sum() for rows in drawn]
    assert estimate.value == pytest.approx(hits.sum() / lesions.sum())
    assert (estimate.low, estimate.high) == pytest.approx(tuple(np.quantile(looped, [0.025, 0.975])), abs=1e-12)


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [([], "no rows"), ([0, np.nan], "NaN"), ([0, 0.5], "values are 0 or 1, found 0.5"), (["a"], "not numbers")],
)
def test_undefined_input_is_null(outcome, reason):
    group = np.arange(len(outcome))
    for estimate in (proportion_estimate(outcome, group), clustered_proportion_estimate(outcome, group)):
        assert estimate.value is None
        assert reason in estimate.reason


def test_other_degenerate_input():
    assert "lengths differ" in proportion_estimate([0, 1], ["a"]).reason
    one = both_estimates([0, 1], ["a", "a"])
    assert (one.exact.value, one.clustered.value, one.clustered.low) == (0.5, 0.5, None)
    assert one.exact.low is not None
    assert "one group only" in one.clustered.reason
    assert both_estimates([], [], no_rows="no positives").clustered.reason == "no positives"
    assert "denominator" in weighted_ratio_estimate([1, 1], [0, 0], [1, 2]).reason
    assert "denominator" in weighted_ratio_estimate([1, 1], [2, -1], [1, 2]).reason
    assert "NaN" in weighted_ratio_estimate([1, np.nan], [1, 1], [1, 2]).reason
    assert "lengths differ" in weighted_ratio_estimate([1], [1, 1], [1, 2]).reason
