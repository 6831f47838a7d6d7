import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression

from pipelines.shared.errors import StatisticsError
from pipelines.shared.stats.bootstrap import Bootstrap, cluster_counts
from pipelines.shared.stats.recalibration import CLIP, _checked, _fit_all, recalibration_estimates

pytestmark = pytest.mark.filterwarnings("error")


def slope_and_intercept(y, p):
    """The fit of all rows, without intervals."""
    intercept, slope = _fit_all(*_checked(y, p), fixed_slope=False)
    return slope, intercept


def in_the_large(y, p):
    """The intercept with the slope fixed to 1."""
    return _fit_all(*_checked(y, p), fixed_slope=True)[0]


def make(n=250, seed=0, slope=0.7, intercept=0.3):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n) * 1.5 - 0.5
    y = (rng.random(n) < expit(intercept + slope * x)).astype(int)
    return y, expit(x), rng.integers(0, n // 2, n)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of sklearn
@pytest.mark.parametrize("seed", range(3))
def test_slope_and_intercept_equal_sklearns_logistic_regression(seed):
    y, p, _ = make(seed=seed)
    model = LogisticRegression(C=np.inf, tol=1e-12, max_iter=1000).fit(logit(p)[:, None], y)
    slope, intercept = slope_and_intercept(y, p)
    assert slope == pytest.approx(model.coef_[0, 0], abs=1e-6)
    assert intercept == pytest.approx(model.intercept_[0], abs=1e-6)


def test_two_points_by_hand():
    """Two distinct probabilities: the fit reproduces both observed shares."""
    y = [1, 0, 0, 0, 1, 1, 1, 0]
    p = [0.2] * 4 + [0.6] * 4
    slope, intercept = slope_and_intercept(y, p)
    assert expit(intercept + slope * logit(0.2)) == pytest.approx(0.25, abs=1e-9)
    assert expit(intercept + slope * logit(0.6)) == pytest.approx(0.75, abs=1e-9)


def test_in_the_large_makes_the_mean_right():
    y, p, _ = make()
    shift = in_the_large(y, p)
    assert expit(logit(p) + shift).mean() == pytest.approx(y.mean(), abs=1e-9)
    assert shift == pytest.approx(brentq(lambda b: expit(logit(p) + b).mean() - y.mean(), -9, 9), abs=1e-8)


def test_large_data_give_the_slope_back():
    y, p, _ = make(n=200_000, slope=0.6, intercept=-0.4)
    assert slope_and_intercept(y, p) == pytest.approx((0.6, -0.4), abs=0.02)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.1, 1, 5, 20]), st.floats(-12, 12))
def test_the_maximum_is_found_however_far_off_the_probabilities_are(seed, spread, shift):
    rng = np.random.default_rng(seed)
    y = np.arange(30) % 2
    x = np.clip(rng.normal(size=30) * spread + shift, logit(CLIP), -logit(CLIP))
    try:
        slope, intercept = slope_and_intercept(y, expit(x))
    except StatisticsError as error:
        assert "separate" in str(error) or "equal" in str(error)  # noqa: PT017
    else:
        residual = y - expit(intercept + slope * x)
        assert np.abs([residual.sum(), residual @ x]).max() < 1e-4
    shifted = expit(x + in_the_large(y, expit(x)))
    assert shifted.sum() == pytest.approx(15, abs=1e-6)


def test_probabilities_of_exactly_zero_and_one_are_clipped():
    y, p, _ = make()
    p[:20] = np.repeat([0.0, 1.0], 10)
    clipped = np.clip(p, CLIP, 1 - CLIP)
    assert slope_and_intercept(y, p) == slope_and_intercept(y, clipped)
    assert np.isfinite(in_the_large(y, p.astype(np.float32)))


@pytest.mark.parametrize(
    ("y", "p", "reason"),
    [
        ([0, 0, 1, 1], [0.1, 0.2, 0.3, 0.4], "separate"),
        ([1, 1, 0, 0], [0.1, 0.2, 0.3, 0.4], "separate"),
        ([0, 0, 1, 1], [0.1, 0.3, 0.3, 0.4], "separate"),  # touching is enough
        ([0, 1, 0, 1], [0.3, 0.3, 0.3, 0.3], "all probabilities are equal"),
        ([0, 0, 0], [0.1, 0.2, 0.3], "one class only"),
        ([0, 1], [0.1, np.nan], "NaN"),
        ([0, 1], [0.1, 1.5], "found 1.5"),
    ],
)
def test_where_there_is_no_slope(y, p, reason):
    with pytest.raises(StatisticsError, match=reason):
        slope_and_intercept(y, p)
    estimates = recalibration_estimates(y, p, np.arange(len(y)), bootstrap=Bootstrap(resamples=50))
    for name in ("slope", "intercept"):
        assert estimates[name].value is None
        assert reason in estimates[name].reason


def test_in_the_large_needs_no_spread():
    estimates = recalibration_estimates(
        [0, 0, 0, 1] * 10, [0.5] * 40, np.arange(40), bootstrap=Bootstrap(resamples=100)
    )
    assert estimates["slope"].value is None
    assert estimates["in_the_large"].value == pytest.approx(logit(0.25), abs=1e-9)
    assert estimates["in_the_large"].low < logit(0.25) < estimates["in_the_large"].high


def test_intervals_equal_the_loop_over_the_same_resamples():
    y, p, group = make()
    estimates = recalibration_estimates(y, p, group, bootstrap=Bootstrap(resamples=150, seed=4))
    drawn = [np.repeat(np.arange(len(y)), row) for row in cluster_counts(group, 150, 4)]
    fits = np.array([slope_and_intercept(y[rows], p[rows]) for rows in drawn])
    shifts = [in_the_large(y[rows], p[rows]) for rows in drawn]
    for name, values in [("slope", fits[:, 0]), ("intercept", fits[:, 1]), ("in_the_large", shifts)]:
        expected = np.quantile(values, [0.025, 0.975])
        assert (estimates[name].low, estimates[name].high) == pytest.approx(tuple(expected), abs=1e-7)
    assert (estimates["slope"].value, estimates["intercept"].value) == slope_and_intercept(y, p)


def test_separated_resamples_are_counted():
    # only row 3 keeps the classes from being separated
    y = np.array([0, 0, 0, 1, 0, 0, 1, 1, 1, 1] * 2)
    p = np.linspace(0.1, 0.9, 20)
    p = np.concatenate([np.sort(p[:10]), np.sort(p[:10])])
    group = np.tile(np.arange(10), 2)
    counts = cluster_counts(group, 500, 0)
    x = np.broadcast_to(p, counts.shape)
    ends = {}
    for label in (0, 1):
        present = np.where((counts > 0) & (y == label), x, np.nan)
        present[np.isnan(present).all(axis=1)] = 0
        ends[label] = np.nanmin(present, axis=1), np.nanmax(present, axis=1)
    separated = int(((ends[0][1] <= ends[1][0]) | (ends[1][1] <= ends[0][0])).sum())
    estimate = recalibration_estimates(y, p, group, bootstrap=Bootstrap(resamples=500))["slope"]
    assert separated > 50
    assert f"{separated} of 500 resamples with separated classes, too many" in estimate.reason


@pytest.mark.slow
def test_slope_interval_covers():
    covered, trials = 0, 200
    for trial in range(trials):
        y, p, _ = make(n=300, seed=trial)
        e = recalibration_estimates(y, p, np.arange(300), bootstrap=Bootstrap(resamples=300, seed=trial))["slope"]
        covered += e.low <= 0.7 <= e.high
    assert 0.9 <= covered / trials <= 0.99
