import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.shared.errors import StatisticsError
from pipelines.shared.stats.conformal import class_thresholds, group_weights, groups_needed, prediction_sets

pytestmark = pytest.mark.filterwarnings("error")


def reference(p, truth, group, level):
    """One class after the other, one candidate after the other: the largest threshold that covers enough."""
    thresholds = []
    for k in range(p.shape[1]):
        own = {g: p[(truth == k) & (group == g), k] for g in set(group[truth == k])}
        good = [
            t
            for t in np.unique(p[truth == k, k])
            if sum(np.mean(v >= t) for v in own.values()) >= level * (len(own) + 1) - 1e-7
        ]
        thresholds.append(max(good, default=0.0))
    return thresholds


@given(st.integers(0, 10_000), st.sampled_from([0.5, 0.6, 0.75, 0.8, 0.9]))
def test_thresholds_are_those_of_a_brute_force_search(seed, level):
    rng = np.random.default_rng(seed)
    n, k = int(rng.integers(1, 60)), int(rng.integers(2, 4))
    p = rng.integers(0, 8, (n, k)) / 8  # with ties
    truth, group = rng.integers(0, k, n), rng.integers(0, 20, n)
    thresholds, counts = class_thresholds(p, truth, group, level)
    assert thresholds.tolist() == reference(p, truth, group, level)
    assert counts.tolist() == [len(set(group[truth == c])) for c in range(k)]
    order = rng.permutation(n)
    assert np.array_equal(class_thresholds(p[order], truth[order], group[order], level)[0], thresholds)


def test_a_classical_case_by_hand():
    """Nineteen patients with one record each at 0.9: of 20 with the new one, 18 must be covered, the 18th of 19."""
    p = np.arange(1, 20)[:, None] / 20
    thresholds, counts = class_thresholds(p, np.zeros(19, int), np.arange(19), 0.9)
    assert (thresholds[0], counts[0]) == (2 / 20, 19)


def test_a_group_counts_once():
    """A patient with a hundred records weighs as much as one with a single record."""
    p = np.array([*[0.01] * 100, *np.linspace(0.5, 0.9, 30)])[:, None]
    group = [*["many"] * 100, *range(30)]
    thresholds, counts = class_thresholds(p, np.zeros(130, int), group, 0.9)
    assert counts[0] == 31
    assert thresholds[0] > 0.4
    assert class_thresholds(p, np.zeros(130, int), range(130), 0.9)[0][0] == 0.01  # rows as groups
    assert group_weights(group, np.zeros(130)).sum() == pytest.approx(31)


@pytest.mark.parametrize(("level", "needed"), [(0.5, 1), (0.8, 4), (0.9, 9), (0.95, 19), (0.99, 99)])
def test_a_class_with_too_few_groups_is_in_every_set(level, needed):
    assert groups_needed(level) == needed
    for groups, always in ((needed, False), (needed - 1, True)):
        p = np.full((max(groups, 1), 2), 0.5)
        truth = np.zeros(len(p), int) if groups else np.ones(1, int)
        thresholds, _ = class_thresholds(p, truth, np.arange(len(p)), level)
        assert (thresholds[0] == 0) == always
        assert prediction_sets(np.array([[0.0, 1.0]]), thresholds)[0, 0] == always


def drawn(rng, groups, k, skill, frequent):
    """Patients with 1 to 12 records, each patient with classes and a difficulty of their own; p of a bad softmax."""
    sizes = rng.integers(1, 13, groups)
    group = np.repeat(np.arange(groups), sizes)
    hard = rng.normal(0, 1.5, groups)[group]
    main = rng.choice(k, groups, p=frequent)[group]
    truth = np.where(rng.random(len(group)) < 0.8, main, rng.choice(k, len(group), p=frequent))
    logits = rng.normal(0, 1, (len(group), k))
    logits[np.arange(len(group)), truth] += skill + hard
    e = np.exp(3 * logits)  # three times too sure of itself
    return e / e.sum(axis=1, keepdims=True), truth, group


@pytest.mark.parametrize(("skill", "level"), [(2.0, 0.8), (0.0, 0.8), (0.5, 0.9)])
def test_new_groups_are_covered_class_by_class(skill, level):
    """Over 150 times 60 patients, well and badly answered: at least the level, and not much more."""
    rng = np.random.default_rng(1)
    frequent, covered, alike = [0.6, 0.4], [[], []], []
    for _ in range(150):
        p, truth, group = drawn(rng, 60, 2, skill, frequent)
        thresholds, _ = class_thresholds(p, truth, group, level)
        p, truth, group = drawn(rng, 100, 2, skill, frequent)
        hit = p[np.arange(len(p)), truth] >= thresholds[truth]
        inside = prediction_sets(p, thresholds)[np.arange(len(p)), truth]
        assert (inside >= hit).all()
        weights = group_weights(group, truth)
        for k in range(2):
            rows = truth == k
            covered[k].append(np.average(hit[rows], weights=weights[rows]))
        alike.append(np.average(inside, weights=weights))
    for values in covered:
        error = np.std(values) / np.sqrt(len(values))
        assert level - 3 * error <= np.mean(values) <= level + 2 / 40 + 3 * error
    assert np.mean(alike) >= level - 0.01


@given(st.integers(0, 10_000))
def test_sets_are_never_empty_and_grow_with_the_level(seed):
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.ones(4), 40)
    truth, group = rng.integers(0, 4, 40), rng.integers(0, 30, 40)
    low, high = (prediction_sets(p, class_thresholds(p, truth, group, level)[0]) for level in (0.5, 0.8))
    assert low.any(axis=1).all()
    assert (high >= low).all()
    assert low[np.arange(40), p.argmax(axis=1)].all()


def test_what_was_never_taught_rules_nothing_out():
    p = np.column_stack([np.linspace(0.1, 1, 20), np.full(20, np.nan)])
    thresholds, counts = class_thresholds(p, [0] * 10 + [1] * 10, range(20), 0.8)
    assert thresholds[1] == 0
    assert counts.tolist() == [10, 10]
    sets = prediction_sets(np.vstack([p, [[np.nan, np.nan]]]), thresholds)
    assert sets[:20, 1].all()
    assert not sets[20].any()


def test_rows_may_have_thresholds_of_their_own():
    p = np.array([[0.6, 0.4], [0.6, 0.4]])
    one_fold_lacks_it = np.array([[0.7, 0.3, np.nan]])  # its threshold comes from the others
    assert prediction_sets(one_fold_lacks_it, np.array([0.2, 0.4, 0.5])).tolist() == [[True, False, True]]
    assert prediction_sets(p, np.array([[0.5, 0.5], [0.5, 0.3]])).tolist() == [[True, False], [True, True]]


@pytest.mark.parametrize(
    ("truth", "group", "reason"),
    [([0, 2], [1, 2], "codes are 0 to 1"), ([0], [1, 2], "lengths differ"), ([0, 1], [1, None], "keys are missing")],
)
def test_bad_input_is_named(truth, group, reason):
    with pytest.raises(StatisticsError, match=reason):
        class_thresholds(np.full((2, 2), 0.5), truth, group, 0.9)
