"""The model at its frozen points against readers: calls, cases that were not read, what the section says."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from pipelines.shared.errors import StatisticsError
from pipelines.shared.judging.readers import against_readers, against_readers_section, p_text
from pipelines.shared.judging.report import Table, Text
from pipelines.shared.judging.tasks import BinaryTask
from pipelines.shared.stats.mrmc import model_beside_readers

TASK = BinaryTask("ill", "Ill", "ill", "p_ill")
POINTS = [{"name": "high_specificity", "task": "ill", "score": "p_ill", "threshold": 0.6}]
EVIDENCE = SimpleNamespace(readers=None, config=SimpleNamespace(statistics=SimpleNamespace(level=0.95)))


def case_table(n=80, skill=0.25):
    rng = np.random.default_rng(0)
    ill = (np.arange(n) % 2).astype(float)
    score = np.clip(0.5 + skill * (2 * ill - 1) + rng.normal(0, 0.2, n), 0, 1)
    return pd.DataFrame({"id": [f"c{i}" for i in range(n)], "group": np.arange(n) // 2, "ill": ill, "p_ill": score})


def readings_of(table, readers=4, right=0.75, share=0.7):
    rng = np.random.default_rng(1)
    rows = [
        (case, f"r{r}", ill if rng.random() < right else 1 - ill)
        for r in range(readers)
        for case, ill in zip(table["id"], table["ill"], strict=True)
        if rng.random() < share
    ]
    return pd.DataFrame(rows, columns=["id", "reader", "call"]).sample(frac=1, random_state=0)


def texts(section):
    return " ".join(block.text for block in section.blocks if isinstance(block, Text))


def test_each_reader_meets_the_model_on_the_cases_that_both_answered():
    table = case_table()
    table.loc[3, "ill"] = np.nan  # not known: no case
    readings = readings_of(case_table())
    readings.loc[readings.index[:5], "call"] = np.nan  # not decided
    compared = against_readers(EVIDENCE, table, TASK, POINTS, "call", readings)
    (beside,) = compared.by_point.values()
    known = table[table["ill"].notna()].set_index("id")
    for i, name in enumerate(compared.names):
        own = readings[(readings["reader"] == name) & readings["call"].notna() & readings["id"].isin(known.index)]
        truth, call = known.loc[own["id"], "ill"].to_numpy(), own["call"].to_numpy()
        model = (known.loc[own["id"], "p_ill"] >= 0.6).to_numpy()
        for values, answers in ((beside.readers, call), (beside.model, model)):
            assert values[i] == pytest.approx((answers[truth == 1].mean() + (1 - answers[truth == 0]).mean()) / 2)
        assert beside.cases[i] == len(own)
    estimate = compared.metrics["test.ill.balanced_accuracy_minus_readers@high_specificity"]
    assert estimate.value == pytest.approx((beside.model - beside.readers).mean())
    (section,) = against_readers_section(compared, "graders", "They know the history.")
    rows = [row for block in section.blocks if isinstance(block, Table) for row in block.rows]
    assert [row[0] for row in rows] == [*compared.names, "Mean of 4", "Model, high specificity"]
    assert rows[4][2] == pytest.approx(beside.readers.mean())
    assert "They know the history." in texts(section)


@pytest.mark.parametrize(
    ("right", "said"),
    [(0.5, "higher than that of the 4 readers"), (1.0, "lower than that of the 4"), (0.8, "no difference from the 4")],
)
def test_the_sentence_says_what_the_interval_says(right, said):
    table = case_table(skill=0.15)
    compared = against_readers(EVIDENCE, table, TASK, POINTS, "call", readings_of(table, right=right, share=1.1))
    assert said in texts(against_readers_section(compared)[0])


def test_readers_of_too_little_are_named():
    table = case_table()
    readings = readings_of(table)
    positive = table.loc[table["ill"] == 1, "id"]
    readings = readings[~((readings["reader"] == "r2") & readings["id"].isin(positive))]
    compared = against_readers(EVIDENCE, table, TASK, POINTS, "call", readings)
    (section,) = against_readers_section(compared)
    assert "fewer than two groups: r2." in texts(section)
    (one,) = against_readers_section(
        against_readers(EVIDENCE, table, TASK, POINTS, "call", readings[readings["reader"] == "r1"])
    )
    assert "cannot be compared with the readers: 1 readers have read enough" in texts(one)
    with pytest.raises(StatisticsError, match="more than once"):
        against_readers(EVIDENCE, table, TASK, POINTS, "call", pd.concat([readings, readings.tail(1)]))


def test_without_readers_or_points_there_is_none():
    table, readings = case_table(), readings_of(case_table())
    assert against_readers(EVIDENCE, table, TASK, POINTS, "call") is None
    assert against_readers(EVIDENCE, table, TASK, POINTS, "other", readings) is None
    assert against_readers(EVIDENCE, table, TASK, [], "call", readings) is None
    assert against_readers(EVIDENCE, table, TASK, POINTS, "call", readings.assign(id="elsewhere")) is None
    assert against_readers_section(None) == []


def test_thresholds_of_folds_are_each_record_s_own():
    table = case_table().assign(fold=np.arange(80) % 2)
    readings = readings_of(table, share=1.1)
    points = [POINTS[0] | {"thresholds": {"0": 0.4, "1": 0.9}}]
    (beside,) = against_readers(EVIDENCE, table, TASK, points, "call", readings).by_point.values()
    answers = readings.pivot(index="reader", columns="id", values="call")[table["id"]].to_numpy()
    model = table["p_ill"] >= np.where(table["fold"] == 0, 0.4, 0.9)
    expected = model_beside_readers(table["ill"], model, answers, table["group"])
    assert beside.difference.estimate == expected.difference.estimate


def test_p_values_for_a_table():
    assert [p_text(p) for p in (None, 0.00001, 0.0317)] == ["–", "< 0.001", "0.032"]
