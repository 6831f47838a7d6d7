"""From several graders' readings of one photograph to one reference (Gulshan 2016, Methods, "Grading")."""

from __future__ import annotations

import numpy as np
import pandas as pd

from pipelines.retinopathy.config import LabelRules
from pipelines.shared.seeds import seed_of

GRADES = ["none", "mild", "moderate", "severe", "proliferative"]
GRADE_TARGETS = ["mild_or_worse", "moderate_or_worse", "severe_or_worse", "proliferative"]


def majority(votes: np.ndarray, ties: str) -> float:
    """Decision of more than half of the votes that were given.

    Args:
        votes: (graders,) 0/1, NaN for a grader who did not decide.
        ties: `lower` or `higher` decides an equal division as 0 or 1, `drop` leaves it unknown.

    Returns:
        0, 1, or NaN where nobody decided or a tie is dropped.
    """
    given = votes[~np.isnan(votes)]
    if len(given) == 0:
        return np.nan
    share = given.mean()
    if share == 0.5:
        return {"lower": 0.0, "higher": 1.0, "drop": np.nan}[ties]
    return float(share > 0.5)


def reference(readings: pd.DataFrame, rules: LabelRules) -> pd.DataFrame:
    """The reference of every image from its graders' readings.

    The grade is the highest one that more than half of the graders reached ("at least moderate", and so on): with an
    odd number of graders their median. A grader who found the image ungradable decides nothing else. An image that the
    majority found ungradable has no grade, no DME and is not referable or otherwise: unknown.

    Args:
        readings: one row per image and grader: id, grade (0-4), dme (0/1), gradable (0/1); NaN where not given.
        rules: what ties and referability mean.

    Returns:
        One row per image, indexed by id: grade, dme, gradable, referable; NaN where unknown.
    """
    rows = {}
    ungradable = readings["gradable"] == 0
    readings = readings.assign(grade=readings["grade"].mask(ungradable), dme=readings["dme"].mask(ungradable))
    own = own_referable(readings)
    for name, part in readings.assign(referable=own).groupby("id", sort=False):
        gradable = majority(part["gradable"].to_numpy(float), rules.ties)
        grade = dme = referable = np.nan
        if gradable != 0:
            grades = part["grade"].to_numpy(float)
            reached = [majority(np.where(np.isnan(grades), np.nan, grades >= k), rules.ties) for k in range(1, 5)]
            grade = float(np.sum(reached))  # NaN if any of the four is
            dme = majority(part["dme"].to_numpy(float), rules.ties)
            if rules.referable == "binary_majority":
                referable = majority(part["referable"].to_numpy(float), rules.ties)
            else:
                referable = float(either(np.array([grade >= 2 if grade == grade else np.nan]), np.array([dme]))[0])
        rows[name] = (grade, dme, gradable, referable)
    return pd.DataFrame.from_dict(rows, orient="index", columns=["grade", "dme", "gradable", "referable"], dtype=float)


def own_referable(readings: pd.DataFrame) -> np.ndarray:
    """Each reading's own binary decision: moderate or worse and/or macular oedema."""
    grade = readings["grade"].to_numpy(float)
    moderate = np.where(np.isnan(grade), np.nan, grade >= 2)
    return either(moderate, readings["dme"].to_numpy(float))


def either(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Logical or of 0/1 arrays where NaN is unknown: 1 if one is 1, 0 if both are 0, else unknown."""
    known_no = (a == 0) & (b == 0)
    return np.where((a == 1) | (b == 1), 1.0, np.where(known_no, 0.0, np.nan))


def few_graders(readings: pd.DataFrame, count: int, seed: int) -> pd.DataFrame:
    """At most `count` graders of every image, the same first ones for every larger count.

    Graders who found the image ungradable take part in the draw like all others.
    """
    rank = [seed_of(seed, "graders", i, g) for i, g in zip(readings["id"], readings["reader"], strict=True)]
    order = readings.assign(_rank=rank).sort_values("_rank", kind="stable")
    return readings[order.groupby("id").cumcount().reindex(readings.index) < count]


def add_grade_targets(records: pd.DataFrame) -> pd.DataFrame:
    """Add the four ordered targets that a grade stands for; NaN where there is no grade."""
    grade = records["grade"].to_numpy(float)
    columns = {
        name: np.where(np.isnan(grade), np.nan, (grade >= k).astype(float)) for k, name in enumerate(GRADE_TARGETS, 1)
    }
    return records.assign(**columns)
