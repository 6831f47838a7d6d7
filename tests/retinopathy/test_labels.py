"""The reference standard, by hand and against brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd

from pipelines.retinopathy.config import LabelRules
from pipelines.retinopathy.labels import (
    add_grade_targets,
    either,
    few_graders,
    majority,
    own_referable,
    reference,
)

NAN = float("nan")


def rules(ties="lower", referable="binary_majority") -> LabelRules:
    return LabelRules(ties=ties, referable=referable)


def readings(*rows) -> pd.DataFrame:
    """Rows of (grade, dme, gradable) of one image."""
    table = pd.DataFrame(rows, columns=["grade", "dme", "gradable"], dtype=float)
    return table.assign(id="a", reader=[f"g{i}" for i in range(len(rows))])


def test_majority_is_more_than_half():
    assert majority(np.array([1, 1, 0]), "lower") == 1
    assert majority(np.array([1, 0, NAN]), "lower") == 0
    assert majority(np.array([1, 0]), "higher") == 1
    assert np.isnan(majority(np.array([1, 0]), "drop"))
    assert np.isnan(majority(np.array([NAN, NAN]), "higher"))


def test_grade_is_the_median_of_an_odd_panel():
    for panel in itertools.product(range(5), repeat=3):
        table = readings(*[(g, 0, 1) for g in panel])
        assert reference(table, rules())["grade"].item() == np.median(panel), panel


def test_ties_follow_the_rule():
    table = readings((1, 0, 1), (3, 0, 1))
    assert reference(table, rules("lower"))["grade"].item() == 1
    assert reference(table, rules("higher"))["grade"].item() == 3
    assert np.isnan(reference(table, rules("drop"))["grade"].item())


def test_the_two_derivations_of_referable_differ():
    """Two graders call it referable, for different reasons: none of the two findings has a majority of its own."""
    table = readings((2, 0, 1), (1, 1, 1), (0, 0, 1))
    assert reference(table, rules())["referable"].item() == 1
    assert reference(table, rules(referable="majority_grade"))["referable"].item() == 0


def test_an_ungradable_image_has_no_grade_and_is_not_negative():
    table = readings((NAN, NAN, 0), (NAN, NAN, 0), (3, 1, 1))
    found = reference(table, rules()).iloc[0]
    assert found["gradable"] == 0
    assert found[["grade", "dme", "referable"]].isna().all()


def test_one_grade_is_the_case_of_one_grader():
    found = reference(readings((4, 0, 1)), rules("drop")).iloc[0]
    assert found["grade"] == 4
    assert found["referable"] == 1


def test_unknown_is_neither_yes_nor_no():
    a, b = np.array([1, 1, 0, 0, NAN, NAN]), np.array([NAN, 0, NAN, 0, 1, 0])
    assert np.array_equal(either(a, b), [1, 1, NAN, 0, 1, NAN], equal_nan=True)
    assert np.array_equal(
        own_referable(readings((2, NAN, 1), (0, NAN, 1), (NAN, NAN, 0))), [1, NAN, NAN], equal_nan=True
    )


def test_few_graders_are_nested_and_seeded():
    table = pd.concat(
        [readings(*[(g, 0, 1) for g in range(5)]).assign(id=name) for name in "abcdefgh"], ignore_index=True
    )
    one, three = few_graders(table, 1, 0), few_graders(table, 3, 0)
    assert (one.groupby("id").size() == 1).all()
    assert (three.groupby("id").size() == 3).all()
    pairs = lambda t: set(zip(t["id"], t["reader"], strict=True))  # noqa: E731
    assert pairs(one) < pairs(three)
    assert pairs(one) != pairs(few_graders(table, 1, 1))
    assert len(set(one["reader"])) > 1, "the same grader everywhere is no draw"
    assert pairs(few_graders(table.sample(frac=1, random_state=1), 3, 0)) == pairs(three)
    assert len(few_graders(table, 99, 0)) == len(table)


def test_the_four_ordered_targets():
    found = add_grade_targets(pd.DataFrame({"grade": [0, 2, 4, NAN]}))
    assert found[["mild_or_worse", "moderate_or_worse", "severe_or_worse", "proliferative"]].iloc[1].tolist() == [
        1,
        1,
        0,
        0,
    ]
    assert found["proliferative"].tolist()[2] == 1
    assert found["moderate_or_worse"].isna().tolist() == [False, False, False, True]


def test_a_grader_who_found_it_ungradable_decides_nothing_else():
    table = readings((3, 1, 0), (1, 0, 1), (1, 0, 1), (1, 0, 1))
    found = reference(table, rules()).iloc[0]
    assert found["grade"] == 1
    assert found["dme"] == 0
    tied = reference(readings((4, 0, 0), (0, 0, 1), (4, 0, 1)), rules("drop")).iloc[0]
    assert np.isnan(tied["grade"]), "the two who graded it are tied; the third has no vote"
