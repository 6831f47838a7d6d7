"""What no training record taught is null with its reason: the rule, and its arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import STUDIES, compose, study_of

from pipelines.shared.stats.estimate import Estimate
from pipelines.shared.untaught import (
    EVERY_RECORD,
    NO_LABEL,
    NO_RECORD,
    find_untaught,
    most_probable,
    undefined,
    untaught_lines,
    untaught_of,
)


def test_an_output_is_taught_by_records_of_both_kinds():
    targets = np.array([[0, 1, 0, np.nan], [1, 1, np.nan, np.nan], [np.nan, 1, 0, np.nan]])
    assert find_untaught(list("abcd"), targets) == {"b": EVERY_RECORD, "c": NO_RECORD, "d": NO_LABEL}
    assert find_untaught(list("abc"), np.array([0.0, 2, np.nan, 0])) == {"b": NO_RECORD}
    assert find_untaught(list("ab"), np.array([0.0, 1])) == {}


def test_every_network_counts_and_one_sentence_tells():
    models = [{"untaught": {"a": NO_LABEL}}, {"untaught": {}}, {"untaught": {"b": NO_RECORD, "c": NO_LABEL}}, {}]
    untaught = untaught_of(models)
    assert untaught == {"a": NO_LABEL, "b": NO_RECORD, "c": NO_LABEL}
    (line,) = untaught_lines(untaught)
    assert f"a, c ({NO_LABEL}); b ({NO_RECORD})" in line
    assert untaught_lines({}) == []


def test_a_metric_without_value_keeps_its_counts():
    known = {"m": Estimate(0.7, 0.6, 0.8, "bootstrap", n=9, groups=3, positives=2)}
    assert undefined(known, None) == known
    assert undefined(known, NO_LABEL) == {"m": Estimate(None, n=9, groups=3, positives=2, reason=NO_LABEL)}


def test_the_answer_is_never_a_class_that_is_null():
    assert most_probable(np.array([[np.nan, 0.1, 0.2], [0.0, 0.0, np.nan]])).tolist() == [2, 0]


# What an ECG network was taught also depends on labels of whole recordings: ecg/taught.py, tests/ecg.
@pytest.mark.parametrize("study", [s for s in STUDIES if s != "ecg"])
def test_an_untaught_output_is_null_in_every_study(study):
    """In every column of the prediction table that rests on it; the others are as without it."""

    config = compose(study)
    kind = study_of(study).method(config).learner
    classes = getattr(kind, "classes", ["benign/nevus/x", "malignant/melanoma/y", "malignant/carcinoma/z"])
    model = {"classes": classes, "untaught": {classes[-1]: NO_RECORD}}
    learner = kind.from_model(config, model)
    outputs = np.random.default_rng(0).normal(size=(6, len(classes)))
    p = learner.probabilities(outputs.astype(np.float32))
    if study == "skin":  # its classes are those of the training part: there is none to be untaught
        assert learner.untaught == {}
        assert not np.isnan(p).any()
        return
    assert learner.untaught == {classes[-1]: NO_RECORD}
    assert np.isnan(p[..., -1]).all()
    assert not np.isnan(p[..., :-1]).any()
    if learner.activation(np.zeros((1, 3))).sum() == pytest.approx(1):  # a softmax: the others share all of it
        assert p[..., :-1] == pytest.approx(learner.activation(outputs[..., :-1]))
    table = learner.columns(p)
    assert table[f"p_{classes[-1]}"].isna().all()
    others = [f"p_{name}" for name in classes[:-1]]
    assert table[others].notna().all(axis=None)
