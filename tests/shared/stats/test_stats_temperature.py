"""Temperature: it finds the one that outputs were sharpened by, and says where there is none."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.shared.errors import StatisticsError
from pipelines.shared.stats.probabilities import softmax
from pipelines.shared.stats.temperature import best_temperature, tempered


def drawn(count=4000, classes=4, seed=0):
    """Outputs whose softmax is what the classes were drawn with."""
    rng = np.random.default_rng(seed)
    outputs = 2 * rng.normal(size=(count, classes))
    truth = np.array([rng.choice(classes, p=p) for p in softmax(outputs)])
    return outputs, truth


def loss(outputs, truth):
    return -np.log(softmax(outputs)[np.arange(len(truth)), truth]).mean()


@pytest.mark.parametrize("sharpened", [0.5, 1.0, 3.0])
def test_what_outputs_were_multiplied_by_is_found(sharpened):
    outputs, truth = drawn()
    found = best_temperature(sharpened * outputs, truth)
    assert found == pytest.approx(sharpened, rel=0.1)
    around = [loss(sharpened * outputs / (found * f), truth) for f in (0.98, 1.0, 1.02)]
    assert around[1] < min(around[0], around[2])


def test_logarithms_of_probabilities_are_outputs_too():
    outputs, truth = drawn(500)
    assert best_temperature(np.log(softmax(outputs)), truth) == pytest.approx(best_temperature(outputs, truth))


def test_classes_that_cannot_be_and_records_without_one_do_not_count():
    outputs, truth = drawn(500)
    expected = best_temperature(outputs, truth)
    wider = np.column_stack([outputs, np.full(500, -np.inf)])
    wider, known = np.vstack([wider, wider[:50]]), np.concatenate([truth, np.full(25, np.nan), np.full(25, 4)])
    assert best_temperature(wider, known) == pytest.approx(expected)


def test_where_there_is_no_best_temperature_it_is_said():
    outputs, truth = drawn(50)
    right = outputs.copy()
    right[np.arange(50), truth] += 100
    for values, known, reason in (
        (right, truth, "answered rightly"),
        (outputs, np.zeros(50), "two classes"),
        (outputs, np.full(50, np.nan), "two classes"),
        (np.where(outputs > 1, np.nan, outputs), truth, "numbers"),
    ):
        with pytest.raises(StatisticsError, match=reason):
            best_temperature(values, known)


def test_tempered_probabilities_are_those_of_divided_outputs():
    outputs, _ = drawn(20)
    np.testing.assert_allclose(tempered(softmax(outputs), 2.5), softmax(outputs / 2.5))
    untaught = softmax(outputs[:, :3])
    found = tempered(np.column_stack([untaught, np.full(20, np.nan)]), 0.5)
    np.testing.assert_allclose(found[:, :3], softmax(2 * outputs[:, :3]))
    assert np.isnan(found[:, 3]).all()
    assert tempered([[0.0, 1.0]], 20.0).tolist() == [[0.0, 1.0]]
