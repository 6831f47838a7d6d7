"""Table 6.3, the paired difference, thresholds by fold."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from conftest import compose
from sklearn.metrics import f1_score, precision_score, recall_score

from pipelines.covid_flannel.config import CLASSES, COVID
from pipelines.covid_flannel.metrics import (
    answers_of,
    auroc_metrics,
    chance_of,
    choose_points,
    comparisons,
    confusion_difference,
    point_metrics,
    prediction_columns,
    table_metrics,
)
from pipelines.covid_flannel.published import NUMBERS
from pipelines.covid_flannel.sections import answered, highest, verdict
from pipelines.shared.stats.bootstrap import Bootstrap
from pipelines.shared.stats.confusion import macro_f1
from pipelines.shared.untaught import NO_RECORD, undefined_classes

BOOT = Bootstrap(200, 0, 0.95)


def predictions(rows: int = 200) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 4, rows)
    names = ["a", "b"]
    methods = {}
    for i, name in enumerate([*names, "average", "voting", "constant", "flannel"]):
        p = rng.dirichlet(np.ones(4), rows) + (0.2 + 0.15 * i) * np.eye(4)[truth]
        methods[name] = p / p.sum(axis=1, keepdims=True)
    about = pd.DataFrame({"id": range(rows), "group": np.arange(rows) // 2, "fold": np.arange(rows) // 2 % 5})
    about["best_base"] = np.where(about["fold"] < 3, "b", "a")
    about["label"] = [CLASSES[i] for i in truth]
    return pd.concat([about, prediction_columns(methods, np.ones((rows, 2)), names)], axis=1)


def test_the_table_agrees_with_scikit_learn():
    test = predictions()
    found = table_metrics(test, "test", BOOT)
    for method in ("a", "voting", "flannel"):
        said = answers_of(test, method)
        macro = f1_score(test["label"], said, labels=CLASSES, average="macro")
        assert found[f"test.{method}.macro_f1"].value == pytest.approx(macro)
        each = f1_score(test["label"], said, labels=CLASSES, average=None)
        for name, value in zip(CLASSES, each, strict=True):
            assert found[f"test.{method}.f1[{name}]"].value == pytest.approx(value)
        only = {"labels": ["covid19"], "average": None}
        assert found[f"test.{method}.precision[covid19]"].value == pytest.approx(
            precision_score(test["label"], said, **only)[0]
        )
        recall = recall_score(test["label"], said, **only)[0]
        assert found[f"test.{method}.recall[covid19]"].value == pytest.approx(recall)
        folds = [
            f1_score(part["label"], answers_of(part, method), labels=CLASSES, average="macro")
            for _, part in test.groupby("fold")
        ]
        assert [found[f"test.{method}.macro_f1@fold_{k}"].value for k in range(5)] == pytest.approx(folds)
        assert found[f"test.{method}.macro_f1@mean"].value == pytest.approx(np.mean(folds))
        assert found[f"test.{method}.macro_f1@sd"].value == pytest.approx(np.std(folds, ddof=1))


def test_the_best_base_learner_is_each_folds_own():
    test = predictions()
    said = answers_of(test, "best_base")
    for name in ("a", "b"):
        mine = (test["best_base"] == name).to_numpy()
        assert (said[mine] == answers_of(test, name)[mine]).all()


@pytest.mark.slow
def test_the_paired_difference_is_that_of_both_and_resamples_groups():
    test = predictions()
    truth, group = test["label"].to_numpy(), test["group"].to_numpy()
    a, b = answers_of(test, "flannel"), answers_of(test, "a")
    found = confusion_difference(macro_f1, truth, a, b, CLASSES, group, bootstrap=BOOT)
    scores = [f1_score(truth, said, labels=CLASSES, average="macro") for said in (a, b)]
    assert found.difference.value == pytest.approx(scores[0] - scores[1])
    assert found.difference.low > 0
    assert found.p_value < 0.05
    from pipelines.shared.stats.bootstrap import cluster_counts

    drawn = []
    for counts in cluster_counts(group, 200, 0):
        rows = np.repeat(np.arange(len(truth)), counts)
        pair = [f1_score(truth[rows], s[rows], labels=CLASSES, average="macro") for s in (a, b)]
        drawn.append(pair[0] - pair[1])
    assert [found.difference.low, found.difference.high] == pytest.approx(np.quantile(drawn, [0.025, 0.975]).tolist())
    same = confusion_difference(macro_f1, truth, a, a, CLASSES, group, bootstrap=BOOT)
    assert (same.difference.value, same.difference.low, same.p_value) == (0, 0, 1)
    assert set(comparisons(test, BOOT)) == {"best_base", "a", "b", "average", "voting", "constant"}
    assert "beats" in verdict(found.difference)
    assert "not shown" in verdict(same.difference)


def test_every_picture_is_called_by_its_own_folds_threshold():
    test = predictions()
    score = test["p_covid19"].to_numpy()
    thresholds = {str(k): 0.1 + 0.15 * k for k in range(5)}
    point = {"name": "x", "task": "covid19", "score": "p_covid19", "target": {"sensitivity": 0.9}, "threshold": 0.4,
             "thresholds": thresholds, "chosen_on": "val"}  # fmt: skip
    filled, _ = point_metrics(test, [point], BOOT)
    called = score >= np.array([thresholds[str(k)] for k in test["fold"]])
    truth = (test["label"] == "covid19").to_numpy()
    assert filled[0]["sensitivity"]["value"] == pytest.approx(called[truth].mean())
    assert filled[0]["specificity"]["value"] == pytest.approx((~called[~truth]).mean())
    elsewhere = test.assign(fold=pd.array([None] * len(test), dtype="Int64"))
    filled, _ = point_metrics(elsewhere, [point], BOOT)
    assert filled[0]["sensitivity"]["value"] == pytest.approx((score >= 0.4)[truth].mean())


def test_a_class_that_training_lacks_is_null_never_the_answer_and_missed():
    table = predictions()
    for column in [c for c in table if c.endswith(f".{COVID}") or c == f"p_{COVID}"]:
        table[column] = np.nan
    assert COVID not in answers_of(table, "flannel")
    why = {COVID: NO_RECORD}
    found = undefined_classes(table_metrics(table, "test", BOOT), why) | undefined_classes(
        auroc_metrics(table, BOOT), why
    )
    for key, estimate in found.items():
        if f"[{COVID}]" in key:
            assert (estimate.value, estimate.reason) == (None, NO_RECORD), key
        else:
            assert estimate.value is not None, key
    others = [found[f"test.flannel.f1[{c}]"].value for c in CLASSES if c != COVID]
    assert found["test.flannel.macro_f1"].value == pytest.approx(sum(others) / 4), "its pictures count as missed"
    assert choose_points(table, compose("covid_flannel")) == []
    assert answered(table) == 3
    assert highest(table) == table[[f"p_{c}" for c in CLASSES if c != COVID]].max(axis=None)


@pytest.mark.slow
def test_chance_is_what_drawn_answers_reach():
    test = predictions(400)
    rng = np.random.default_rng(1)
    shares = test["label"].value_counts(normalize=True)
    drawn = [
        f1_score(test["label"], rng.choice(shares.index, len(test), p=shares), labels=CLASSES, average="macro")
        for _ in range(200)
    ]
    assert chance_of(test) == pytest.approx(np.mean(drawn), abs=0.01)


def test_both_printed_and_recomputed_cells_are_there():
    values = {n.what: n.value for n in NUMBERS}
    assert values["ResNeXt101, macro-F1 as printed"] == 0.7140
    assert values["ResNeXt101, macro-F1"] == 0.7131
    assert values["ResNet152, macro-F1 as printed"] == 0.7110
    assert values["ResNet152, macro-F1"] == 0.7118
