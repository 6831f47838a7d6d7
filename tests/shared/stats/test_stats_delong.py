import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from pipelines.shared.errors import StatisticsError
from pipelines.shared.stats.auc import auroc
from pipelines.shared.stats.delong import (
    clustered_delong_covariance,
    clustered_delong_test,
    compare_aurocs,
    delong_covariance,
    delong_test,
    structural_components,
)

pytestmark = pytest.mark.filterwarnings("error")


def psi(x, y):
    return 1.0 if x > y else 0.5 if x == y else 0.0


def brute_delong(y, scores):
    """DeLong et al. 1988, eq. 4-6, pair by pair."""
    m = len(scores)
    positives, negatives = np.flatnonzero(y == 1), np.flatnonzero(y == 0)
    v10 = [[np.mean([psi(s[i], s[j]) for j in negatives]) for i in positives] for s in scores]
    v01 = [[np.mean([psi(s[i], s[j]) for i in positives]) for j in negatives] for s in scores]
    theta = [np.mean(v) for v in v10]
    covariance = np.empty((m, m))
    for r in range(m):
        for s in range(m):
            s10 = sum((a - theta[r]) * (b - theta[s]) for a, b in zip(v10[r], v10[s], strict=True))
            s01 = sum((a - theta[r]) * (b - theta[s]) for a, b in zip(v01[r], v01[s], strict=True))
            covariance[r, s] = s10 / (len(positives) - 1) / len(positives)
            covariance[r, s] += s01 / (len(negatives) - 1) / len(negatives)
    return np.array(theta), covariance


def brute_obuchowski(y, scores, group):
    """Obuchowski 1997, sec. 2, cluster by cluster: S10, S01, S11 from the summed structural components."""
    m, clusters = len(scores), sorted(set(group))
    positives, negatives = np.flatnonzero(y == 1), np.flatnonzero(y == 0)
    big_m, big_n, big_i = len(positives), len(negatives), len(clusters)
    i10 = sum(any(y[k] == 1 for k in np.flatnonzero(group == c)) for c in clusters)
    i01 = sum(any(y[k] == 0 for k in np.flatnonzero(group == c)) for c in clusters)
    theta = [np.mean([psi(s[i], s[j]) for i in positives for j in negatives]) for s in scores]

    def dot(r, c, positive):
        """V10(X_c.) - m_c theta, or V01(Y_c.) - n_c theta, of model r."""
        own = [k for k in np.flatnonzero(group == c) if y[k] == int(positive)]
        s = scores[r]
        if positive:
            return sum(sum(psi(s[k], s[j]) for j in negatives) / big_n for k in own) - len(own) * theta[r]
        return sum(sum(psi(s[i], s[k]) for i in positives) / big_m for k in own) - len(own) * theta[r]

    covariance = np.empty((m, m))
    for r in range(m):
        for s in range(m):
            s10 = i10 / ((i10 - 1) * big_m) * sum(dot(r, c, True) * dot(s, c, True) for c in clusters)
            s01 = i01 / ((i01 - 1) * big_n) * sum(dot(r, c, False) * dot(s, c, False) for c in clusters)
            s11_rs = big_i / (big_i - 1) * sum(dot(r, c, True) * dot(s, c, False) for c in clusters)
            s11_sr = big_i / (big_i - 1) * sum(dot(s, c, True) * dot(r, c, False) for c in clusters)
            covariance[r, s] = s10 / big_m + s01 / big_n + (s11_rs + s11_sr) / (big_m * big_n)
    return np.array(theta), covariance


def make(seed, n=40, models=3, patients=15, levels=None):
    rng = np.random.default_rng(seed)
    code = rng.integers(0, patients, n)
    patient = rng.normal(size=patients)[code]
    y = (patient + rng.normal(size=n) > 0.3).astype(int)
    scores = y + patient + rng.normal(size=(models, n))
    if levels:
        scores = np.round(scores * levels) / levels
    return y, scores, np.array([f"p{c}" for c in code])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("levels", [None, 1])
def test_delong_equals_its_definition(seed, levels):
    y, scores, _ = make(seed, levels=levels)
    aurocs, covariance = delong_covariance(y, scores)
    expected_aurocs, expected = brute_delong(y, scores)
    np.testing.assert_allclose(aurocs, expected_aurocs, atol=1e-14)
    np.testing.assert_allclose(covariance, expected, atol=1e-14)
    np.testing.assert_allclose(aurocs, [auroc(y, s) for s in scores], atol=1e-14)


def delong_variance(y, score):
    """Of one AUROC."""
    return float(delong_covariance(y, score)[1][0, 0])


def test_components_by_hand():
    of_positives, of_negatives = structural_components([1, 0, 1, 0], [3, 2, 1, 1])
    np.testing.assert_allclose(of_positives, [[1.0, 0.25]])
    np.testing.assert_allclose(of_negatives, [[0.5, 0.75]])
    # variances 0.28125 and 0.03125, two of each
    assert delong_variance([1, 0, 1, 0], [3, 2, 1, 1]) == pytest.approx(0.15625, abs=1e-15)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("levels", [None, 1])
def test_clustered_equals_obuchowskis_formulas(seed, levels):
    y, scores, group = make(seed, levels=levels)
    aurocs, covariance = clustered_delong_covariance(y, scores, group)
    expected_aurocs, expected = brute_obuchowski(y, scores, group)
    np.testing.assert_allclose(aurocs, expected_aurocs, atol=1e-14)
    np.testing.assert_allclose(covariance, expected, atol=1e-14)
    assert np.linalg.eigvalsh(covariance).min() > -1e-15


@pytest.mark.parametrize("seed", range(3))
def test_one_row_per_group_is_plain_delong(seed):
    y, scores, _ = make(seed, levels=1)
    for found, expected in zip(
        clustered_delong_covariance(y, scores, np.arange(len(y))), delong_covariance(y, scores), strict=True
    ):
        np.testing.assert_allclose(found, expected, atol=1e-15)
    a = clustered_delong_test(y, scores[0], scores[1], np.arange(len(y)))
    b = delong_test(y, scores[0], scores[1])
    assert (a.z, a.p_value) == pytest.approx((b.z, b.p_value), abs=1e-12)


def test_repeating_every_row_within_its_group_adds_no_information():
    y, scores, _ = make(1)
    clustered = clustered_delong_covariance(np.tile(y, 3), np.tile(scores, 3), np.tile(np.arange(len(y)), 3))[1]
    np.testing.assert_allclose(clustered, delong_covariance(y, scores)[1], atol=1e-15)
    assert delong_variance(np.tile(y, 3), np.tile(scores[0], 3)) < 0.5 * clustered[0, 0]


@pytest.mark.parametrize("clustered", [False, True])
def test_paired_test(clustered):
    y, (a, b, _), group = make(5, n=120, patients=50)
    if clustered:
        aurocs, covariance = brute_obuchowski(y, [a, b], group)
        result = clustered_delong_test(y, a, b, group, level=0.9)
    else:
        aurocs, covariance = brute_delong(y, [a, b])
        result = delong_test(y, a, b, level=0.9)
    error = math.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    difference = aurocs[0] - aurocs[1]
    assert result.difference.value == pytest.approx(difference, abs=1e-14)
    assert result.difference.low == pytest.approx(difference - 1.6448536 * error, abs=1e-7)
    assert result.difference.high == pytest.approx(difference + 1.6448536 * error, abs=1e-7)
    assert result.z == pytest.approx(difference / error, abs=1e-10)
    assert result.p_value == pytest.approx(2 * (1 - norm.cdf(abs(difference) / error)), abs=1e-12)
    groups = len(set(group)) if clustered else len(y)
    assert (result.difference.n, result.difference.groups, result.difference.positives) == (120, groups, y.sum())


def test_compare_chooses_by_groups():
    y, (a, b, _), group = make(2)
    assert compare_aurocs(y, a, b, group) == clustered_delong_test(y, a, b, group)
    assert compare_aurocs(y, a, b, np.arange(len(y))) == delong_test(y, a, b)
    null = compare_aurocs(np.ones(3), [1, 2, 3], [1, 2, 3], [1, 2, 3])
    assert (null.difference.value, null.p_value) == (None, None)
    assert "one class only" in null.difference.reason


def test_models_that_order_alike_do_not_differ():
    y, (a, _, _), group = make(3)
    for result in (delong_test(y, a, np.exp(a)), clustered_delong_test(y, a, 2 * a, group)):
        assert (result.difference.value, result.difference.low, result.difference.high) == (0, 0, 0)
        assert (result.p_value, result.z) == (1.0, None)


def test_a_difference_without_variance_has_no_test():
    result = delong_test([0, 0, 1, 1], [1, 2, 3, 4], [4, 3, 2, 1])
    assert (result.difference.value, result.difference.low, result.p_value) == (1.0, None, None)
    assert result.difference.reason == "the variance of the difference is zero"


def test_undefined_input_is_named():
    with pytest.raises(StatisticsError, match="one class only"):
        delong_variance([1, 1], [1, 2])
    with pytest.raises(StatisticsError, match="1 positives and 2 negatives"):
        delong_variance([1, 0, 0], [1, 2, 3])
    with pytest.raises(StatisticsError, match="NaN"):
        delong_test([1, 0, 1, 0], [1, 2, 3, np.nan], [1, 2, 3, 4])
    with pytest.raises(StatisticsError, match="lengths differ"):
        delong_test([1, 0, 1, 0], [1, 2, 3, 4], [1, 2, 3])
    with pytest.raises(StatisticsError, match="lengths differ"):
        clustered_delong_test([1, 0, 1, 0], [1, 2, 3, 4], [1, 2, 3, 5], [1, 2, 3])
    with pytest.raises(StatisticsError, match="1 groups with positives and 2 with negatives"):
        clustered_delong_covariance([1, 1, 0, 0], [1, 2, 3, 4], ["a", "a", "a", "b"])


@given(st.integers(0, 10**6))
def test_clustered_variance_is_never_negative(seed):
    y, scores, group = make(seed, n=14, models=1, patients=5, levels=1)
    try:
        variance = clustered_delong_covariance(y, scores, group)[1][0, 0]
    except StatisticsError:
        return
    assert variance > -1e-15


@pytest.mark.slow
def test_clustered_standard_error_matches_the_spread_of_repeated_studies():
    """Patients' eyes share a random effect in label and in both scores; plain DeLong is then too small."""
    rng = np.random.default_rng(3)
    aurocs, variances, naive, z = [], [], [], []
    group = np.repeat(np.arange(60), 4)
    for _ in range(600):
        severity = np.repeat(rng.normal(size=60), 4)
        y = (severity + 0.5 * rng.normal(size=240) > 0.5).astype(int)
        shared = np.repeat(rng.normal(size=(2, 60)), 4, axis=1)
        scores = severity + shared + 0.5 * rng.normal(size=(2, 240))
        values, covariance = clustered_delong_covariance(y, scores, group)
        aurocs.append(values[0])
        variances.append(covariance[0, 0])
        naive.append(delong_variance(y, scores[0]))
        z.append(clustered_delong_test(y, scores[0], scores[1], group).z)
    # a standard deviation from 600 studies has a standard error of 2.9 %
    assert math.sqrt(np.mean(variances)) == pytest.approx(np.std(aurocs), rel=0.1)
    assert math.sqrt(np.mean(naive)) < 0.75 * np.std(aurocs)
    # under "no difference" z is standard normal
    assert np.std(z) == pytest.approx(1, abs=0.1)
    assert 0.02 < np.mean(np.abs(z) > 1.96) < 0.085
