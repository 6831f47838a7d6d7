import math

import numpy as np
import pytest
from scipy.stats import norm

from pipelines.shared.errors import StatisticsError
from pipelines.shared.stats.mrmc import (
    balanced_accuracies,
    jackknife_covariance,
    mean_over_readers,
    model_beside_readers,
)

pytestmark = pytest.mark.filterwarnings("error")

# Van Dyke et al. (1993), spin-echo against cine MRI for aortic dissection: 5 readers, 114 patients, 45 of them ill.
# Empirical AUROCs, jackknife covariances and results as printed in the documentation of MRMCaov (Smith & Hillis, SPIE
# 11316:113160K, 2020) and in Chakraborty's online book on RJafroc (dataset02, Obuchowski-Rockette), which agree.
SPIN_ECHO = [0.91964573, 0.85877617, 0.90386473, 0.97310789, 0.82979066]
CINE = [0.94782609, 0.90531401, 0.92173913, 0.99935588, 0.92995169]
VARIANCE, COV1, COV2, COV3 = 0.0008022883, 0.0003466137, 0.0003440748, 0.0002390284


def compound(diagonal, rest, readers=5):
    return np.full((readers, readers), rest) + np.eye(readers) * (diagonal - rest)


def test_van_dyke_two_modalities():
    """F = 4.456319 on 1 and 15.25967 degrees of freedom, p = 0.05166569."""
    covariance = compound(2 * (VARIANCE - COV1), 2 * (COV2 - COV3))  # of the readers' differences
    found = mean_over_readers(np.subtract(SPIN_ECHO, CINE), covariance)
    assert found.estimate.value == pytest.approx(-0.043800322, abs=1e-8)
    assert found.standard_error == pytest.approx(0.020748618, abs=1e-7)
    assert found.t**2 == pytest.approx(4.4563187, abs=1e-4)
    assert found.t == pytest.approx(-2.1109995, abs=1e-5)
    assert found.df == pytest.approx(15.259675, abs=1e-4)
    assert found.p_value == pytest.approx(0.051665686, abs=1e-6)
    assert (found.estimate.low, found.estimate.high) == pytest.approx((-0.087959499, 0.00035885444), abs=1e-6)


@pytest.mark.parametrize(
    ("values", "variance", "cov2", "mean", "error", "df", "low", "high"),
    [
        (SPIN_ECHO, 0.0010141028, 0.00048396180, 0.89703704, 0.033173597, 12.744648, 0.82522360, 0.96885048),
        (CINE, 0.0005904738, 0.00020418785, 0.94083736, 0.021566368, 12.710190, 0.89413783, 0.98753689),
    ],
)
def test_van_dyke_single_modality(values, variance, cov2, mean, error, df, low, high):
    found = mean_over_readers(values, compound(variance, cov2))
    assert found.estimate.value == pytest.approx(mean, abs=1e-7)
    assert (found.standard_error, found.df) == (pytest.approx(error, abs=1e-7), pytest.approx(df, abs=1e-4))
    assert (found.estimate.low, found.estimate.high) == pytest.approx((low, high), abs=1e-6)


def read(rng, patients=40, readers=4, skill=1.0):
    """Truth, answers of a model and of readers who share what makes a case hard, and patients of one to three cases."""
    group = np.repeat(np.arange(patients), rng.integers(1, 4, patients))
    truth = np.repeat(np.arange(patients) % 2, np.bincount(group))
    hard = rng.normal(0, 0.7, patients)[group]
    own = rng.normal(0, 0.3, readers + 1)[:, None]
    own[0] = 0  # the model's
    signal = skill * (2 * truth - 1) * 0.8 + hard + own + rng.normal(0, 0.8, (readers + 1, len(group)))
    return truth, (signal > 0).astype(int), group


def value(truth, answers, keep):
    """Balanced accuracy, the long way."""
    keep = keep & ~np.isnan(answers)
    t, a = truth[keep], answers[keep]
    return (a[t == 1].mean() + (1 - a[t == 0]).mean()) / 2


def partly(rng, answers, share=0.6):
    """Readers who have read a part of the cases."""
    return np.where(rng.random(answers.shape) < share, answers, np.nan)


@pytest.mark.parametrize("share", [1.1, 0.6])
def test_it_is_the_long_way_of_leaving_out_group_after_group(share):
    rng = np.random.default_rng(0)
    truth, answers, group = read(rng)
    readers = partly(rng, answers[1:].astype(float), share)
    found = model_beside_readers(truth, answers[0], readers, group)
    on_same = np.where(np.isnan(readers), np.nan, answers[0])
    everything = np.ones(len(truth), bool)
    assert found.readers == pytest.approx([value(truth, row, everything) for row in readers])
    assert found.model == pytest.approx([value(truth, row, everything) for row in on_same])
    assert found.cases.tolist() == (~np.isnan(readers)).sum(axis=1).tolist()
    without = np.array(
        [
            [value(truth, a, group != g) - value(truth, b, group != g) for a, b in zip(on_same, readers, strict=True)]
            for g in range(40)
        ]
    )
    expected = mean_over_readers(found.model - found.readers, np.cov(without.T, ddof=1) * 39 * 39 / 40)
    assert found.difference.standard_error == pytest.approx(expected.standard_error)
    assert found.difference.df == pytest.approx(expected.df)
    assert found.difference.estimate.low == pytest.approx(expected.estimate.low)
    assert found.difference.estimate.groups == 40


def test_with_one_case_a_patient_the_variance_is_nearly_the_binomial_one():
    rng = np.random.default_rng(1)
    truth, answers = np.repeat([True, False], 300), (rng.random((1, 600)) < 0.7).astype(float)
    sensitivity, specificity = answers[0, :300].mean(), 1 - answers[0, 300:].mean()
    expected = (sensitivity * (1 - sensitivity) + specificity * (1 - specificity)) / 300 / 4
    covariance = jackknife_covariance(lambda w: balanced_accuracies(truth, answers, w), np.arange(600))
    assert covariance[0, 0] == pytest.approx(expected, rel=0.01)


def test_balanced_accuracy_by_hand():
    truth, answers = np.array([True, True, False, False]), np.array([[1, 0, 0, 0], [1, 1, 1, 1], [1, np.nan, 0, 1.0]])
    assert balanced_accuracies(truth, answers, np.ones((1, 4))).tolist() == [[0.75, 0.5, 0.75]]


@pytest.mark.parametrize("share", [1.1, 0.6])
def test_new_readers_and_new_cases_are_covered(share):
    """Model and readers of equal skill: the interval of 90 % holds 0 in about nine studies of ten."""
    rng, inside = np.random.default_rng(2), []
    for _ in range(120):
        truth, answers, group = read(rng)
        readers = partly(rng, answers[1:].astype(float), share)
        found = model_beside_readers(truth, answers[0], readers, group, level=0.9).difference.estimate
        inside.append(found.low <= 0 <= found.high)
    assert 0.84 <= np.mean(inside) <= 0.97


def test_a_clear_difference_is_found_and_its_sign_is_the_model_s():
    rng = np.random.default_rng(3)
    truth, readers, group = read(rng, patients=100, skill=0.5)
    better = np.where(rng.random(len(truth)) < 0.97, truth, 1 - truth)
    found = model_beside_readers(truth, better, readers, group).difference
    assert found.estimate.low > 0
    assert found.p_value < 0.001
    assert found.estimate.groups == 100
    assert model_beside_readers(truth, 1 - better, readers, group).difference.estimate.high < 0


def test_alike_readers_leave_the_cases_to_chance():
    truth, answers, group = read(np.random.default_rng(4))
    found = model_beside_readers(truth, answers[0], answers[[1, 1, 1]], group, level=0.9).difference
    assert found.df == math.inf
    half = (found.estimate.high - found.estimate.low) / 2
    assert half == pytest.approx(norm.ppf(0.95) * found.standard_error)
    same = model_beside_readers(truth, answers[0], answers[[0, 0]], group).difference
    assert (same.estimate.value, same.p_value) == (0, None)
    assert same.estimate.reason == "no variation between readers or cases"


def test_readers_of_too_little_are_left_out_by_name():
    truth, answers, group = read(np.random.default_rng(5))
    readers = answers[1:].astype(float)
    readers[1, truth == 1] = np.nan
    readers[2, group != 0] = np.nan
    found = model_beside_readers(truth, answers[0], readers, group)
    assert found.left_out.tolist() == [1, 2]
    assert len(found.readers) == 2
    assert found.difference.estimate.low is not None


@pytest.mark.parametrize(
    ("truth", "readers", "group", "reason"),
    [
        ([1, 1], [[1, 1], [0, 1]], [1, 2], "0 readers have read enough"),
        ([1, 0, 0], [[1, 1, 0], [0, 1, 0]], [1, 2, 3], "0 readers have read enough"),
        ([1, 1, 0, 0], [[1, 1, 0, 0]], [1, 2, 3, 4], "1 readers have read enough"),
    ],
)
def test_what_is_undefined_has_its_reason(truth, readers, group, reason):
    found = model_beside_readers(truth, truth, readers, group).difference
    assert found.estimate.value is None
    assert reason in found.estimate.reason


@pytest.mark.parametrize(
    ("readers", "group", "reason"),
    [([[1, 2], [0, 1]], [1, 2], "values are 0 or 1"), ([[1, 0]], [1], "lengths differ"), ([[1, 0]], [1, None], "keys")],
)
def test_bad_readings_are_named(readers, group, reason):
    with pytest.raises(StatisticsError, match=reason):
        model_beside_readers([1, 0], [1, 0], readers, group)


def test_one_reader_is_no_sample():
    with pytest.raises(StatisticsError, match="one reader"):
        mean_over_readers([0.8], np.eye(1))
