"""The sections that several studies show, on a small hand-made run."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    f1_score,
    precision_score,
    recall_score,
    roc_auc_score,
)

from pipelines.shared.judging.cohort import Cohort
from pipelines.shared.judging.published import Published, published_table
from pipelines.shared.judging.report import Picture, Table, Text
from pipelines.shared.judging.sections import (
    auroc_table,
    calibration_section,
    crossed_note,
    multiclass_section,
    operating_points_section,
    reader_rates,
    roc_blocks,
)
from pipelines.shared.judging.subgroups import (
    age_bands,
    subgroup_columns,
    subgroup_estimates,
    subgroup_metrics,
    subgroup_section,
)
from pipelines.shared.judging.tasks import BinaryTask, MulticlassTask
from pipelines.shared.stats.bootstrap import Bootstrap
from pipelines.shared.stats.estimate import Estimate
from pipelines.shared.stats.operating_points import point_estimates

TASK = BinaryTask("ill", "Ill or not", target="ill", score="p_ill")
ABSENT = BinaryTask("rare", "Rare or not", target="rare", score="p_ill")
BOOTSTRAP = Bootstrap(50, 0, 0.95)


@pytest.fixture
def evidence(tmp_path):
    """Forty records of twenty patients, the first half of which are ill; one has no label and one no score."""
    rng = np.random.default_rng(0)
    ill = np.repeat([1.0, 0.0], 20)
    records = pd.DataFrame(
        {
            "id": [f"r{i}" for i in range(40)],
            "group": [f"g{i // 2}" for i in range(40)],
            "split": "test",
            "age": [35, 35, *[40 + i // 2 for i in range(38)]],
            "sex": ["F", "F", *["male"] * 38],
            "type": [3.0, np.nan] * 20,
            "ward": np.nan,
            "ill": ill,
            "truth_ill": ill + rng.normal(size=40) / 10,
        }
    )
    test = records[["id", "group", "ill"]].assign(p_ill=0.3 * ill + 0.7 * rng.random(40), rare=np.nan)
    test.loc[0, "ill"] = test.loc[39, "p_ill"] = np.nan
    readers = pd.DataFrame({"id": records["id"], "reader": "a", "ill": ill})
    readers.loc[:9, "ill"] = 0
    (tmp_path / "figures").mkdir()
    return SimpleNamespace(
        folder=SimpleNamespace(path=tmp_path, figures=tmp_path / "figures"),
        config=SimpleNamespace(
            subgroups=["age", "sex", "type", "ward", "none"], statistics=SimpleNamespace(level=0.95)
        ),
        records=records,
        predictions={"test": test},
        readers=readers,
        flow={"synthetic": True},
        note="synthetic data",
    )


def kinds(blocks):
    return [type(block) for block in blocks]


def test_a_task_is_about_the_rows_with_reference_and_score(evidence):
    test = evidence.predictions["test"]
    metrics = TASK.metrics(test, "test", BOOTSTRAP, average_precision=True, calibration=True)
    assert {"test.ill.auroc", "test.ill.average_precision", "test.ill.brier"} <= set(metrics)
    assert metrics["test.ill.auroc"].n == 38
    never = TASK.metrics(test, "test", BOOTSTRAP, untaught="nothing taught it")
    assert [(e.value, e.reason) for e in never.values()] == [(None, "nothing taught it")]
    assert not TASK.has_both_classes(test[test["ill"] == 1])
    assert TASK.roc(test[test["ill"] == 1]) is None
    assert TASK.oracle(test, evidence.records, "truth_ill", BOOTSTRAP).value == 1
    assert TASK.oracle(test, evidence.records, "truth_other", BOOTSTRAP) is None


def test_a_task_that_the_network_does_not_answer_has_no_curve(evidence):
    test = evidence.predictions["test"].drop(columns="p_ill")
    metrics = {"test.ill.auroc": Estimate(None, reason="it was not asked")}
    assert not TASK.has_both_classes(test)
    (block,) = roc_blocks(evidence, test, [TASK], metrics, "Test.")
    assert isinstance(block, Text)
    assert "no curve, it was not asked" in block.text


def test_cohort_counts_people_once_and_leaves_out_what_is_not_recorded(evidence):
    records = evidence.records.assign(split=["train"] * 2 + ["test"] * 38)
    cohort = Cohort(records)
    cohort.counts("Images", "Patients")
    cohort.people()
    cohort.share("Ill", "ill")
    cohort.share("In a ward", "ward")
    cohort.median("Type, median", "type")
    table = cohort.table("The cohort.")
    assert table.columns == ["Characteristic", "train", "test"]
    assert {row[0]: row[1:] for row in table.rows} == {
        "Images": [2, 38],
        "Patients": [1, 19],
        "Age, years: mean (SD)": ["35.0", "49.0 (5.6)"],
        "Female": ["1 (100.0 %)", "0 (0.0 %)"],
        "Ill": ["2 (100.0 %)", "18 (47.4 %)"],
        "Type, median": ["3", "3"],
    }


def test_roc_shows_curve_points_and_readers_or_says_why_not(evidence):
    test = evidence.predictions["test"]
    metrics = TASK.metrics(test, "test", BOOTSTRAP) | ABSENT.metrics(test, "test", BOOTSTRAP)
    (reader,) = reader_rates(evidence, test, TASK, "ill")
    assert (reader.sensitivity.value, reader.specificity.value) == (10 / 19, 1.0)  # r0 has no label
    blocks = roc_blocks(evidence, test, [TASK], metrics, "ROC.", readers=[reader], who="doctors", about_readers="So.")
    assert kinds(blocks) == [Picture, Text]
    assert "of 1 doctors" in blocks[1].text
    assert blocks[1].text.endswith("So.")
    assert (evidence.folder.path / "figures" / "roc.png").exists()
    (note,) = roc_blocks(evidence, test, [ABSENT], metrics, "ROC.", file="none")
    assert "no curve" in note.text
    assert [row[0] for row in auroc_table([TASK, ABSENT], metrics).rows] == ["Ill or not"]


def test_operating_points_and_calibration(evidence):
    test = evidence.predictions["test"]
    point = {"name": "high_sensitivity", "task": "ill", "score": "p_ill", "target": {"sensitivity": 0.9}}
    points, _ = point_estimates(test[test["p_ill"].notna()], [point | {"threshold": 0.4}], BOOTSTRAP)
    section = operating_points_section(evidence, test, TASK, points)
    assert kinds(section.blocks) == [Text, Table, Picture, Picture]
    assert [row[0] for row in section.blocks[1].rows] == [
        f"{rate}, high sensitivity" for rate in ("Sensitivity", "Specificity", "PPV", "NPV")
    ]
    assert section.blocks[1].rows[0][1:3] == ["sensitivity 0.9", "0.400"]
    assert kinds(operating_points_section(evidence, test, TASK, []).blocks) == [Text, Text]
    specific = points[0] | {"name": "high_specificity", "target": {"specificity": 0.9}}
    assert crossed_note([*points, specific | {"threshold": 0.5}]) == []
    (note,) = crossed_note([*points, specific | {"threshold": 0.3}], "the stacking parts")
    assert "on the stacking parts the scores separate the classes" in note.text
    metrics = TASK.metrics(test, "test", BOOTSTRAP, calibration=True)
    section = calibration_section(evidence, test, [TASK, ABSENT], metrics)
    assert kinds(section.blocks) == [Picture, Table]
    table = section.blocks[1]
    assert (table.columns, len(table.rows)) == (["Measure", "Test"], 6)


def test_one_of_several_classes(evidence):
    """A table of three classes, of which nothing taught the third; one record has no label."""
    task = MulticlassTask("tissue", "tissue", ["fat", "skin", "bone"], titles={"fat": "Fat"})
    rng = np.random.default_rng(1)
    truth = np.array(["fat", "skin", "skin", "bone"] * 10, dtype=object)
    scores = rng.random((40, 2)) + 0.8 * np.stack([truth == "fat", truth == "skin"], axis=1)
    table = evidence.records[["id", "group"]].assign(
        tissue=truth, p_fat=scores[:, 0], p_skin=scores[:, 1], p_bone=np.nan
    )
    table.loc[0, "tissue"] = None
    answers = np.where(scores[:, 0] >= scores[:, 1], "fat", "skin")
    assert task.answers(table).tolist() == answers.tolist()
    metrics = task.metrics(table, "test", BOOTSTRAP, untaught={"bone": "no training record has it"})
    known, said = truth[1:].astype(str), answers[1:]
    for name, value in {
        "accuracy": accuracy_score(known, said),
        "balanced_accuracy": balanced_accuracy_score(known, said),
        "macro_f1": f1_score(known, said, average="macro", zero_division=0),
        "sensitivity[skin]": recall_score(known, said, labels=["skin"], average="macro"),
        "precision[skin]": precision_score(known, said, labels=["skin"], average="macro"),
        "f1[fat]": f1_score(known, said, labels=["fat"], average="macro"),
        "auroc[fat]": roc_auc_score(known == "fat", scores[1:, 0]),
    }.items():
        estimate = metrics[f"test.tissue.{name}"]
        assert (estimate.value, estimate.n) == (pytest.approx(value), 39), name
        assert estimate.low <= estimate.value <= estimate.high
    for rate in ("sensitivity", "precision", "f1", "auroc"):
        assert metrics[f"test.tissue.{rate}[bone]"].reason == "no training record has it"
    latent = evidence.records.assign(truth_tissue=truth)
    assert task.oracle(table, latent, "truth_tissue", BOOTSTRAP).value == 1
    assert task.oracle(table, latent, "truth_other", BOOTSTRAP) is None
    section = multiclass_section(evidence, table, task, metrics)
    assert kinds(section.blocks) == [Picture, Picture, Table]
    assert [row[:2] for row in section.blocks[2].rows] == [["Fat", 9], ["skin", 20], ["bone", 10]]
    assert kinds(multiclass_section(evidence, table.assign(tissue=None), task, metrics).blocks) == [Text]


def test_subgroups_are_text_counted_by_record(evidence):
    test = TASK.known(evidence.predictions["test"])
    columns = dict(subgroup_columns(evidence, test))
    assert list(columns) == ["age", "sex", "type"]
    assert set(columns["type"]) == {"3", None}
    subgroups = subgroup_estimates(evidence, test, partial(TASK.auroc, bootstrap=BOOTSTRAP))
    metrics = subgroup_metrics("test.ill.auroc", subgroups)
    assert {"test.ill.auroc[age=30-39]", "test.ill.auroc[sex=male]", "test.ill.auroc[type=3]"} <= set(metrics)
    twice = subgroup_estimates(evidence, pd.concat([test, test]), partial(TASK.auroc, bootstrap=BOOTSTRAP))
    assert [s.n for s in twice] == [s.n for s in subgroups], "a record of several rows is one record"
    few = subgroup_estimates(evidence, test, partial(TASK.auroc, bootstrap=BOOTSTRAP), most=2)
    assert {s.column for s in few} == {"sex", "type"}
    (section,) = subgroup_section(evidence, subgroups, TASK.auroc(test, BOOTSTRAP), n=len(test))
    assert section.blocks[1].columns == ["Subgroup", "Images", "Positive", "AUROC"]
    assert subgroup_section(evidence, [], TASK.auroc(test, BOOTSTRAP), n=len(test)) == []


def test_age_bands():
    assert age_bands(pd.Series([49, 50, None, "61"])).tolist() == ["40-49", "50-59", None, "60-69"]


def test_published_numbers_keep_their_interval_and_source():
    numbers = [
        Published("AUC", 0.991, 0.988, 0.993, source="A 2016"),
        Published.over_folds("F1", 0.8, 0.01, source="B 2020"),
    ]
    assert published_table(numbers, "The paper's.").rows == [
        ["AUC", "0.991 (0.988 to 0.993)", "A 2016"],
        ["F1 (standard deviation over folds 0.01)", "0.8", "B 2020"],
    ]
    assert list(asdict(numbers[1])) == ["what", "value", "low", "high", "source"]
