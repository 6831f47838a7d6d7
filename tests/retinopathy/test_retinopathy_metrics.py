"""Columns, operating points and headline of the study's judgement."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from conftest import compose

from pipelines.retinopathy.labels import add_grade_targets
from pipelines.retinopathy.learner import RetinopathyLearner
from pipelines.retinopathy.metrics import (
    HEADS,
    TASKS,
    choose_points,
    grade_metrics,
    headline_task,
    predict_columns,
    untaught_tasks,
)
from pipelines.shared.judging.calls import calls
from pipelines.shared.learning.learner import Learner
from pipelines.shared.stats.bootstrap import Bootstrap
from pipelines.shared.stats.operating_points import point_estimates
from pipelines.shared.stats.probabilities import sigmoid
from pipelines.shared.study import Data
from pipelines.shared.untaught import NO_LABEL

BOOTSTRAP = Bootstrap(200, 0, 0.95)


def predictions(n: int = 400, dme: bool = True, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    severity = rng.normal(size=n)
    logits = np.stack([3 * severity - k for k in range(4)] + [2 * severity - 2, np.full(n, 3.0)], axis=1)
    logits += rng.normal(size=logits.shape)
    grade = np.digitize(severity, [0, 0.5, 1.2, 1.8])
    table = pd.DataFrame(
        {"id": [str(i) for i in range(n)], "group": [str(i // 2) for i in range(n)], "grade": grade * 1.0}
    )
    for k, name in enumerate(HEADS[:4], 1):
        table[name] = (grade >= k) * 1.0
    table["dme"] = (severity + rng.normal(size=n) > 1.5) * 1.0 if dme else np.nan
    table["gradable"] = 1.0
    table["referable"] = np.maximum(table["moderate_or_worse"], table["dme"]) if dme else np.nan
    return pd.concat([table, predict_columns(sigmoid(logits))], axis=1)


def test_columns_follow_the_formulas():
    p = np.array([[0.9, 0.6, 0.7, 0.1, 0.5, 0.99], [0.2, 0.1, 0.05, 0.01, 0.0, 0.5]])
    table = predict_columns(p)
    assert table["p_referable"].tolist() == pytest.approx([1 - 0.4 * 0.5, 0.1])
    assert table["grade_predicted"].tolist() == [3, 0]
    grades = table[[f"p_grade_{k}" for k in range(5)]].to_numpy()
    assert grades.sum(axis=1).tolist() == pytest.approx([1, 1])
    assert (grades >= 0).all(), "heads out of order must not give negative probabilities"
    assert grades[0].tolist() == pytest.approx([0.1, 0.3, 0.0, 0.5, 0.1])


def test_balanced_sampling_goes_by_grade():
    nan = np.nan
    heads = [[0, 0, 0, 0, 0, 1], [1, 1, 0, 0, 1, 1], [1, 1, 0, 0, nan, nan], [nan, 1, nan, nan, 1, 1], [nan] * 6]
    records = pd.DataFrame(heads, columns=HEADS)
    learner = RetinopathyLearner(compose("retinopathy"))
    assert learner.strata(records).tolist() == [0, 2, 2, 1, -1]
    everywhere = Learner.strata(learner, records)
    assert len(set(everywhere)) == 5, "without a rule of its own: by all targets, unknown ones too"


def test_sigmoid_does_not_overflow():
    assert sigmoid(np.array([-1000.0, 0.0, 1000.0])).tolist() == [0.0, 0.5, 1.0]


def test_the_headline_is_referable_only_where_dme_is_known():
    assert headline_task(predictions()).name == "referable"
    assert headline_task(predictions(dme=False)).name == "moderate_or_worse"


def test_points_reach_their_targets_on_the_set_they_are_chosen_on():
    table, config = predictions(), compose("retinopathy")
    points = choose_points(table, config)
    assert [(p["task"], p["name"]) for p in points] == [
        (t, n) for t in ("referable", "moderate_or_worse") for n in ("high_specificity", "high_sensitivity")
    ]
    filled, metrics = point_estimates(table, points, BOOTSTRAP)
    assert filled[0]["specificity"]["value"] >= 0.95
    assert filled[1]["sensitivity"]["value"] >= 0.95
    called = calls(table, points)
    negatives = table["referable"] == 0
    assert 1 - called.loc[negatives, "referable@high_specificity"].mean() == pytest.approx(
        filled[0]["specificity"]["value"]
    )
    assert "test.referable.ppv@high_specificity" in metrics
    assert [p["task"] for p in choose_points(predictions(dme=False), config)] == ["moderate_or_worse"] * 2


def test_one_class_gives_reasons_not_numbers():
    table = predictions(dme=False)
    found = TASKS["dme"].auroc(table, BOOTSTRAP)
    assert found.value is None
    assert found.reason
    gradable = TASKS["gradable"].auroc(table, BOOTSTRAP)
    assert gradable.value is None
    assert gradable.reason


def test_better_than_chance_and_kappa():
    table = predictions()
    auroc = TASKS["referable"].auroc(table, BOOTSTRAP)
    assert auroc.low is not None
    assert 0.5 < auroc.low < auroc.value < 1
    assert auroc.groups == 200
    kappa = grade_metrics(table, "test", BOOTSTRAP)["test.grade.quadratic_kappa"]
    assert 0.5 < kappa.value < 1


# --- what no training record taught ---


def untaught_predictions(*heads: str, n: int = 400) -> pd.DataFrame:
    """`predictions` of a network that was never taught some heads."""
    table = predictions(n)
    p = table[[f"p_{head}" for head in HEADS]].to_numpy().copy()
    p[:, [HEADS.index(head) for head in heads]] = np.nan
    columns = predict_columns(p)
    return table.assign(**{name: columns[name] for name in columns})


@pytest.mark.slow
def test_without_dme_labels_in_training_nothing_is_said_of_dme_or_what_needs_it():
    config = compose("retinopathy")
    records = add_grade_targets(
        pd.DataFrame({"grade": [0.0, 1, 2, 3, 4, 4], "dme": np.nan, "gradable": np.nan, "split": "train"})
    )
    records.loc[5, ["split", "dme"]] = ["val", 1]  # what is not trained on teaches nothing
    learner = RetinopathyLearner.from_data(config, Data(None, records, None, {}))  # type: ignore[arg-type]
    assert learner.untaught == {"dme": NO_LABEL, "gradable": NO_LABEL}
    said = learner.columns(learner.probabilities(np.zeros((3, 6), np.float32)))
    null = ["p_dme", "p_gradable", "p_referable"]
    assert said[null].isna().all(axis=None)
    assert said.drop(columns=null).notna().all(axis=None)

    table = untaught_predictions("dme", "gradable")
    assert headline_task(table).name == "moderate_or_worse", "the records have DME labels, the network has no answer"
    points = choose_points(table, config)
    assert {p["task"] for p in points} == {"moderate_or_worse"}
    why = untaught_tasks(learner.untaught)
    assert why == {"dme": NO_LABEL, "gradable": NO_LABEL, "referable": f"dme: {NO_LABEL}"}
    for task, reason in why.items():
        for estimate in TASKS[task].metrics(table, "test", BOOTSTRAP, untaught=reason).values():
            assert (estimate.value, estimate.reason) == (None, reason)
    frozen = choose_points(predictions(), config)
    called = calls(table, frozen)
    assert called[[c for c in called if c.startswith("referable")]].isna().all(axis=None)
    assert called[[c for c in called if c.startswith("moderate")]].notna().all(axis=None)


def test_grades_that_training_lacks_are_never_given_and_the_others_are_told_apart():
    p = np.array([[np.nan, 0.8, 0.3, np.nan, 0.1, 0.9], [np.nan, 0.2, 0.4, np.nan, 0.1, 0.9]])
    said = predict_columns(p)
    assert said["grade_predicted"].tolist() == [2, 1]
    assert said[["p_grade_0", "p_grade_4"]].isna().all(axis=None)
    assert said[["p_grade_1", "p_grade_2", "p_grade_3"]].to_numpy() == pytest.approx(
        np.array([[0.2, 0.5, 0.3], [0.8, 0.0, 0.2]])
    )
    table = untaught_predictions("proliferative")
    assert grade_metrics(table, "test", BOOTSTRAP)["test.grade.quadratic_kappa"].value > 0.5
    nothing = untaught_predictions(*HEADS[:4])
    assert nothing["grade_predicted"].isna().all()
    why = untaught_tasks(dict.fromkeys(HEADS[:4], NO_LABEL))["grade"]
    assert all(e.reason == why for e in grade_metrics(nothing, "test", BOOTSTRAP, why).values())
