import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from pipelines.shared.errors import StatisticsError
from pipelines.shared.stats import confusion as cm
from pipelines.shared.stats.agreement import (
    agreement_estimates,
    confusion_estimates,
    fleiss_kappa,
)
from pipelines.shared.stats.bootstrap import Bootstrap, cluster_counts
from pipelines.shared.stats.confusion import cohen_kappa, confusion_matrix

pytestmark = pytest.mark.filterwarnings("error")

CLASSES = [0, 1, 2, 3, 4]

# Fleiss 1971, table 1: 30 patients, 6 raters each; depression, personality disorder, schizophrenia, neurosis, other
FLEISS_1971 = """
00060 03003 01401 00006 03030 20400 00402 20310 20040 00006 10050 11040 03300 10050 02031
00501 30012 51000 02040 10203 00006 01050 02013 20040 10041 05010 40002 02040 10500 00006
"""


def weighted_kappa(truth, predicted, classes, weights="quadratic"):
    return float(cohen_kappa(confusion_matrix(truth, predicted, classes), weights))


def make(n=150, patients=60, seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 5, n)
    predicted = np.clip(truth + rng.integers(-1, 2, n), 0, 4)
    return truth, predicted, np.array([f"p{i}" for i in rng.integers(0, patients, n)])


gradings = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40)


def test_confusion_matrix():
    matrix = confusion_matrix(["b", "a", "b"], ["b", "b", "a"], ["a", "b", "c"])
    assert matrix.tolist() == [[0, 1, 0], [1, 1, 0], [0, 0, 0]]
    truth, predicted, _ = make()
    np.testing.assert_array_equal(
        confusion_matrix(truth, predicted, CLASSES), metrics.confusion_matrix(truth, predicted, labels=CLASSES)
    )


@pytest.mark.slow
@given(gradings)
def test_measures_equal_sklearn(pairs):
    truth, predicted = np.array(pairs).T
    matrix = confusion_matrix(truth, predicted, range(4))
    present = sorted(set(truth))
    assert cm.accuracy(matrix) == pytest.approx(metrics.accuracy_score(truth, predicted))
    recall = metrics.recall_score(truth, predicted, labels=present, average=None)
    np.testing.assert_allclose(cm.class_sensitivity(matrix)[present], recall)
    assert np.isnan(np.delete(cm.class_sensitivity(matrix), present)).all()
    assert cm.balanced_accuracy(matrix) == pytest.approx(recall.mean())
    occurring = sorted(set(truth) | set(predicted))
    f1 = metrics.f1_score(truth, predicted, labels=occurring, average=None)
    np.testing.assert_allclose(cm.class_f1(matrix)[occurring], f1)
    assert cm.macro_f1(matrix) == pytest.approx(f1.mean())
    for weights in ("quadratic", "linear", "none"):
        if len(occurring) == 1:
            assert np.isnan(weighted_kappa(truth, predicted, range(4), weights))
        else:
            name = None if weights == "none" else weights
            expected = metrics.cohen_kappa_score(truth, predicted, labels=range(4), weights=name)
            assert weighted_kappa(truth, predicted, range(4), weights) == pytest.approx(expected, abs=1e-12)


def test_kappa_by_hand():
    # 50 gradings, 20 + 15 agreed; expected 0.5 * 0.6 + 0.5 * 0.4 = 0.5, observed 0.7
    truth = [1] * 25 + [0] * 25
    predicted = [1] * 20 + [0] * 5 + [1] * 10 + [0] * 15
    assert weighted_kappa(truth, predicted, [0, 1], "none") == pytest.approx(0.4)
    assert weighted_kappa([0, 1, 2], [2, 1, 0], [0, 1, 2]) == pytest.approx(-1)
    with pytest.raises(ValueError, match="weights"):
        weighted_kappa([0, 1], [0, 1], [0, 1], "cubic")


def test_measures_take_many_matrices():
    matrices = np.random.default_rng(0).integers(0, 5, (6, 3, 3))
    for measure in (cm.accuracy, cm.balanced_accuracy, cm.macro_f1, cm.cohen_kappa, cm.class_f1, cm.class_sensitivity):
        np.testing.assert_array_equal(measure(matrices), [measure(m) for m in matrices])


@pytest.mark.slow
def test_intervals_equal_the_loop_over_the_same_resamples():
    truth, predicted, group = make()
    estimates = agreement_estimates(truth, predicted, CLASSES, group, bootstrap=Bootstrap(resamples=200, seed=2))
    drawn = [np.repeat(np.arange(len(truth)), row) for row in cluster_counts(group, 200, 2)]
    plain = {
        "accuracy": metrics.accuracy_score,
        "balanced_accuracy": metrics.balanced_accuracy_score,
        "macro_f1": lambda t, p: metrics.f1_score(t, p, average="macro"),
        "kappa": lambda t, p: metrics.cohen_kappa_score(t, p, weights="quadratic", labels=CLASSES),
    }
    assert list(estimates) == list(plain)
    for name, function in plain.items():
        expected = np.quantile([function(truth[i], predicted[i]) for i in drawn], [0.025, 0.975])
        assert estimates[name].value == pytest.approx(function(truth, predicted), abs=1e-12)
        assert (estimates[name].low, estimates[name].high) == pytest.approx(tuple(expected), abs=1e-12)
        assert (estimates[name].n, estimates[name].groups) == (150, len(set(group)))
    linear = agreement_estimates(
        truth, predicted, CLASSES, group, weights="linear", bootstrap=Bootstrap(resamples=200, seed=2)
    )["kappa"]
    assert linear.value == weighted_kappa(truth, predicted, CLASSES, "linear")


def test_classes_that_do_not_occur_are_said():
    truth, predicted, group = [0, 0, 1, 1], [0, 1, 1, 1], [1, 2, 3, 4]
    overall = agreement_estimates(truth, predicted, [0, 1, 2], group, bootstrap=Bootstrap(resamples=50))
    assert overall["balanced_accuracy"].value == 0.75
    assert "2 of 3 classes occur in the truth" in overall["accuracy"].method


@pytest.mark.parametrize(
    ("truth", "predicted", "reason"),
    [
        ([0, 7], [0, 1], "truth: 7 is not one of the classes"),
        ([0, 1], [0, 7], "predicted: 7 is not one of the classes"),
        ([0, 1], [0, np.nan], "predicted: nan is not one of the classes"),
        ([], [], "no rows"),
        ([0, 1], [0], "lengths differ"),
    ],
)
def test_undefined_input_is_named(truth, predicted, reason):
    with pytest.raises(StatisticsError, match=reason):
        confusion_matrix(truth, predicted, CLASSES)
    group = np.arange(len(truth))
    nulls = [
        *agreement_estimates(truth, predicted, CLASSES, group).values(),
    ]
    for estimate in nulls:
        assert estimate.value is None
        assert reason in estimate.reason


def test_other_degenerate_input():
    same = agreement_estimates([1, 1], [1, 1], CLASSES, [1, 2], bootstrap=Bootstrap(resamples=20))
    assert same["accuracy"].value == 1.0
    assert same["kappa"].value is None
    assert "1 of 5 classes" in same["kappa"].reason
    one_group = agreement_estimates([0, 1], [0, 1], CLASSES, ["a", "a"])["kappa"]
    assert (one_group.value, one_group.low) == (1.0, None)
    assert "one group only" in one_group.reason
    with pytest.raises(ValueError, match="twice"):
        confusion_matrix([0], [0], [0, 0])


def test_own_measures():
    truth, predicted, group = make()

    def off_by_more_than_one(confusion):
        far = np.abs(np.subtract.outer(np.arange(5), np.arange(5))) > 1
        return (confusion * far).sum(axis=(-2, -1)) / confusion.sum(axis=(-2, -1))

    estimates = confusion_estimates(
        {"far": off_by_more_than_one}, truth, predicted, CLASSES, group, bootstrap=Bootstrap(resamples=20)
    )
    assert estimates["far"].value == 0


def test_fleiss_kappa_on_the_papers_example():
    counts = np.array([[int(c) for c in row] for row in FLEISS_1971.split()])
    assert (counts.sum(axis=1) == 6).all()
    # the paper's shares per class and its kappa
    np.testing.assert_allclose(counts.mean(axis=0) / 6, [0.144, 0.144, 0.167, 0.306, 0.239], atol=5e-4)
    assert fleiss_kappa(counts) == pytest.approx(0.430, abs=5e-4)


def test_fleiss_kappa_with_varying_raters():
    counts = np.array([[2, 0], [1, 2], [0, 4], [1, 0], [0, 0]])
    # the last two have fewer than two ratings; agreement 1, 1/3, 1; shares 3/9 and 6/9
    expected = 1 / 9 + 4 / 9
    assert fleiss_kappa(counts) == pytest.approx(((7 / 3) / 3 - expected) / (1 - expected))


@pytest.mark.parametrize("counts", [[[1, 0]], [[3, 0], [2, 0]], [[-1, 3]], [1, 2], [[np.nan, 2]], np.zeros((0, 3))])
def test_fleiss_kappa_undefined(counts):
    with pytest.raises(StatisticsError):
        fleiss_kappa(counts)
