"""Prediction sets from val to columns, metrics and the report's section; old runs; folds; damaged files."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from pipelines.covid_flannel.study import STUDY as COVID
from pipelines.retinopathy.metrics import GRADE
from pipelines.retinopathy.metrics import predict_columns as grade_columns
from pipelines.shared.errors import RunError
from pipelines.shared.judging.coverage import with_prediction_sets
from pipelines.shared.judging.prediction_sets import (
    SetTask,
    choose_sets,
    freeze_sets,
    frozen_sets,
    members,
    pooled_sets,
    with_set_columns,
)
from pipelines.shared.judging.report import Table, Text
from pipelines.shared.run_folder import RunFolder
from pipelines.shared.stats.bootstrap import Bootstrap
from pipelines.shared.stats.conformal import class_thresholds
from pipelines.shared.study import Results
from pipelines.skin.metrics import predict_columns, set_tasks

NAMES = ["apple", "pear", "plum"]
TASK = SetTask("fruit", "Fruit", {name: f"p_{name}" for name in NAMES}, lambda table: table["label"])


def fruits(seed, groups=60, each=2, rare=0):
    """A table of some skill; the first `rare` groups are plums, no others are."""
    rng = np.random.default_rng(seed)
    label = np.repeat(rng.integers(0, 2, groups), each)
    label[: rare * each] = 2
    logits = rng.normal(size=(len(label), 3)) + 1.5 * (label[:, None] == np.arange(3))
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    about = {"id": [f"{seed}-{i}" for i in range(len(label))], "group": np.repeat(np.arange(groups), each)}
    return pd.DataFrame(about | {"label": np.array(NAMES, dtype=object)[label]} | dict(zip(TASK.scores.values(), p.T)))  # noqa: B905


def judged(test, sets, task=TASK):
    """The results and the texts of the section."""
    evidence = SimpleNamespace(
        predictions={"test": test},
        bootstrap=Bootstrap(200),
        networks=[{"classes": NAMES}],
        config=None,
        prediction_sets=sets,
    )
    bare = Results({}, "test.x", "", 0.0, None, [], [], [], [])
    return with_prediction_sets(SimpleNamespace(set_tasks=lambda model, config: [task]), evidence, bare)


def test_from_val_to_the_column_and_the_metrics():
    val, test = fruits(0, rare=3), fruits(1, rare=3)
    (sets,) = choose_sets([TASK], val, 0.9)
    codes = val["label"].map(NAMES.index)
    thresholds, groups = class_thresholds(val[list(TASK.scores.values())].to_numpy(), codes, val["group"], 0.9)
    assert (sets["name"], sets["thresholds"], sets["groups"]) == ("set_90", thresholds.tolist(), groups.tolist())
    assert sets["thresholds"][2] == 0
    column = with_set_columns(test, [sets])["fruit@set_90"]
    inside = members(test, sets)
    for text, row, top in zip(column, inside, test[sets["scores"]].to_numpy().argmax(axis=1), strict=True):
        assert text.split("|") == [name for name, there in zip(NAMES, row, strict=True) if there]
        assert "plum" in text
        assert NAMES[top] in text
    results = judged(test, [sets])
    hit = inside[np.arange(len(test)), test["label"].map(NAMES.index)]
    assert results.metrics["test.fruit.coverage@set_90"].value == pytest.approx(hit.mean())  # groups are alike in size
    apples = (test["label"] == "apple").to_numpy()
    assert results.metrics["test.fruit.coverage[apple]@set_90"].value == pytest.approx(hit[apples].mean())
    assert results.metrics["test.fruit.set_size@set_90"].value == pytest.approx(inside.sum(axis=1).mean())
    assert results.metrics["test.fruit.single@set_90"].value == pytest.approx((inside[:, :2].sum(axis=1) == 1).mean())
    (section,) = results.sections
    texts = " ".join(block.text for block in section.blocks if isinstance(block, Text))
    assert "Too few groups in val for a threshold at 90 %, which takes 9: plum (3)." in texts
    rows = {row[0]: row for block in section.blocks if isinstance(block, Table) for row in block.rows}
    assert rows["plum"][2] == "always in"
    assert "Sets of one class, besides those in every set" in rows


def test_a_group_counts_once_for_each_of_its_classes():
    test = fruits(1, groups=20, each=1)
    (sets,) = choose_sets([TASK], fruits(0), 0.8)
    many = pd.concat([test, *[test.iloc[:1]] * 50], ignore_index=True)
    keys = [f"test.fruit.{key}@set_80" for key in ("coverage", "set_size", "single")]
    once, often = judged(test, [sets]).metrics, judged(many, [sets]).metrics
    assert [often[key].value for key in keys] == pytest.approx([once[key].value for key in keys])


def test_without_sets_results_are_what_they_were():
    bare = judged(fruits(1), [])
    assert (bare.metrics, bare.sections) == ({}, [])
    assert choose_sets([TASK], fruits(0), None) == []
    assert choose_sets([TASK], fruits(0).assign(label=None), 0.9) == []
    assert list(with_set_columns(fruits(0), [])) == list(fruits(0))


def test_what_is_unknown_is_counted_and_what_has_no_answer_has_no_set():
    sets = choose_sets([TASK], fruits(0), 0.8)
    test = fruits(1)
    test.loc[:1, "label"] = [None, "quince"]
    test.loc[2, sets[0]["scores"]] = np.nan
    results = judged(test, sets)
    assert results.metrics["test.fruit.coverage@set_80"].n == len(test) - 3
    assert any(
        "2 test records have no known class" in b.text for b in results.sections[0].blocks if isinstance(b, Text)
    )
    assert with_set_columns(test, sets)["fruit@set_80"].isna().tolist() == [False, False, True, *[False] * 117]
    none = judged(test.assign(label=None), sets).metrics
    assert none["test.fruit.coverage@set_80"].reason == "no test record has a known class"


def test_shortfall_is_said():
    (sets,) = choose_sets([TASK], fruits(0), 0.8)
    worse = fruits(1, groups=200)
    worse["label"] = np.roll(worse["label"], 3)
    text = " ".join(b.text for b in judged(worse, [sets]).sections[0].blocks if isinstance(b, Text))
    assert "On test clearly less than 80 % were covered of: apple, pear." in text


def test_folds_have_their_own_thresholds_and_others_the_median():
    folds = {k: choose_sets([TASK], fruits(k), 0.8) for k in range(3)}
    (pooled,) = pooled_sets(folds)
    assert pooled["thresholds"] == np.median([folds[k][0]["thresholds"] for k in range(3)], axis=0).tolist()
    test = fruits(9, groups=4).assign(fold=pd.array([0, 0, 1, 1, 2, 2, None, None], dtype="Int64"))
    inside = members(test, pooled)
    for k in range(3):
        rows = (test["fold"] == k).fillna(False).to_numpy(bool)
        assert np.array_equal(inside[rows], members(test[rows].drop(columns="fold"), folds[k][0]))
    (half,) = pooled_sets({0: folds[0], 1: []})  # nobody of fold 1's val has a label
    assert half["fold_thresholds"] == {"0": folds[0][0]["thresholds"], "1": [0.0] * 3}
    column = with_set_columns(test, [half])["fruit@set_80"]
    assert set(column[test["fold"] == 1]) == {"apple|pear|plum"}
    assert any("Cross-validated" in b.text for b in judged(test, [pooled]).sections[0].blocks if isinstance(b, Text))


def test_frozen_and_read_again(tmp_path):
    folder = RunFolder(tmp_path)
    assert frozen_sets(folder) == []
    sets = choose_sets([TASK], fruits(0), 0.9)
    freeze_sets(folder, sets)
    assert frozen_sets(folder) == [{"chosen_on": "val", **sets[0]}]
    freeze_sets(folder, [])
    assert not folder.prediction_sets.exists()


@pytest.mark.parametrize(
    "change",
    [{"thresholds": [0.1]}, {"scores": None}, {"level": "high"}, {"classes": 3}, {"fold_thresholds": {"0": [1, 2]}}],
)
def test_a_damaged_file_is_named(tmp_path, change):
    folder = RunFolder(tmp_path)
    entry = choose_sets([TASK], fruits(0), 0.9)[0] | change
    folder.prediction_sets.write_text(json.dumps([entry]))
    with pytest.raises(RunError, match=r"prediction_sets.json does not hold the thresholds"):
        frozen_sets(folder)


def test_a_score_that_is_not_there_is_named():
    (sets,) = choose_sets([TASK], fruits(0), 0.9)
    with pytest.raises(RunError, match="asks for the score 'p_plum'"):
        with_set_columns(fruits(1).drop(columns="p_plum"), [sets])


# --- the studies' tasks ---


def test_skin_answers_its_training_classes_by_their_last_node():
    classes = ["benign/naevus/blue", "malignant/melanoma"]
    (task,) = set_tasks(classes)
    table = predict_columns(np.array([[0.7, 0.3]] * 3), classes).assign(
        lineage=["benign/naevus/blue", "malignant/melanoma/lentigo", "benign/other"]
    )
    assert task.scores == {"blue": "p_blue", "melanoma": "p_melanoma"}
    assert [None if pd.isna(name) else name for name in task.truth(table)] == ["blue", "melanoma", None]
    assert set(task.scores.values()) <= set(table)


def test_retinopathy_and_covid_name_their_classes():
    table = grade_columns(np.full((3, 6), 0.5)).assign(grade=[0.0, 4.0, np.nan])
    assert set(GRADE.scores.values()) <= set(table)
    assert [None if pd.isna(name) else name for name in GRADE.truth(table)] == ["none", "proliferative", None]
    (task,) = COVID.set_tasks({}, None)
    assert list(task.scores) == ["covid19", "viral", "bacterial", "normal"]


def test_a_class_that_training_lacked_is_in_every_set():
    val = fruits(0, rare=12).assign(p_plum=np.nan)
    (sets,) = choose_sets([TASK], val, 0.8)
    assert sets["thresholds"][2] == 0
    assert with_set_columns(val, [sets])["fruit@set_80"].str.contains("plum").all()
    assert replace(judged(val, [sets])).metrics["test.fruit.coverage[plum]@set_80"].value == 1
