"""Cut points for kappa: the very best by brute force, and what happens where grades or differences are missing."""

from __future__ import annotations

from itertools import combinations_with_replacement

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.shared.errors import StatisticsError
from pipelines.shared.stats.confusion import cohen_kappa, confusion_matrix
from pipelines.shared.stats.cut_points import best_cut_points


def kappa_at(score, truth, cuts, lowest=0):
    predicted = lowest + np.searchsorted(cuts, score, side="right")
    return float(cohen_kappa(confusion_matrix(truth, predicted, range(5))))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(6, 14), grades=st.integers(2, 4), decimals=st.integers(0, 2))
def test_no_other_cut_points_are_better(seed, n, grades, decimals):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, grades, n)
    truth[:2] = 0, 1
    score = np.round(truth + rng.normal(0, 0.8, n), decimals)
    cuts = best_cut_points(score, truth, range(grades))
    assert (np.diff(cuts) >= 0).all()
    values = np.unique(score)
    places = np.concatenate([[values[0] - 1], (values[1:] + values[:-1]) / 2, [values[-1] + 1]])
    best = max(kappa_at(score, truth, c) for c in combinations_with_replacement(places, grades - 1))
    assert kappa_at(score, truth, cuts) == pytest.approx(best, abs=1e-12)


def test_the_true_cut_points_are_found_on_many_records():
    rng = np.random.default_rng(0)
    score = rng.uniform(0, 4, 4000)
    true = np.array([0.4, 1.7, 2.2, 3.5])
    cuts = best_cut_points(score, np.searchsorted(true, score), range(5))
    assert cuts == pytest.approx(true, abs=0.01)


def test_scores_that_shrink_to_the_middle_gain():
    """A regression's scores lie nearer to the mean than the grades: rounding them loses what cut points win back."""
    rng = np.random.default_rng(1)
    truth = rng.choice(5, 1000, p=[0.5, 0.1, 0.25, 0.08, 0.07])
    score = 0.5 * (truth + rng.normal(0, 0.5, 1000)) + 0.6
    assert (
        kappa_at(score, truth, best_cut_points(score, truth, range(5)))
        > kappa_at(score, truth, [0.5, 1.5, 2.5, 3.5]) + 0.1
    )


def test_a_grade_that_does_not_occur_is_not_given_there():
    score, truth = np.array([0.1, 0.2, 3.0, 3.1]), np.array([0, 0, 3, 3])
    cuts = best_cut_points(score, truth, range(5))
    assert np.searchsorted(cuts, score, side="right").tolist() == [0, 0, 3, 3]
    assert cuts[3] == pytest.approx((3.1 + 4.5) / 2)
    assert cuts[0] == pytest.approx(1.6)


def test_grades_that_cannot_be_predicted_count_as_distance():
    """The grades from 1 to 3 alone: what is truly 0 or 4 is nearest to the ends."""
    score, truth = np.array([1.1, 1.2, 2.0, 2.9, 3.0]), np.array([0, 1, 2, 3, 4])
    cuts = best_cut_points(score, truth, [1, 2, 3])
    assert (1 + np.searchsorted(cuts, score, side="right")).tolist() == [1, 1, 2, 3, 3]


def test_neighbouring_numbers_are_told_apart():
    low = 1.0
    score, truth = np.array([low, np.nextafter(low, 2)]), np.array([0, 1])
    cuts = best_cut_points(score, truth, [0, 1])
    assert np.searchsorted(cuts, score, side="right").tolist() == [0, 1]


@pytest.mark.parametrize(
    ("score", "truth", "message"),
    [([1.0, 2.0], [1, 1], "two grades"), ([1.0, np.nan], [0, 1], "finite"), ([1.0], [0, 1], "length|rows")],
)
def test_what_has_no_cut_points_is_refused(score, truth, message):
    with pytest.raises(StatisticsError, match=message):
        best_cut_points(score, truth, range(5))
