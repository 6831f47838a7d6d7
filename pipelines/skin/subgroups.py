"""Does the network tell malignant from benign equally well in all? No torch."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from pipelines.shared.judging.evaluator import age_bands
from pipelines.shared.judging.figures import Subgroup
from pipelines.shared.stats.auc import auroc_estimate, auroc_statistic
from pipelines.shared.stats.bootstrap import Bootstrap, bootstrap_estimate
from pipelines.shared.stats.estimate import Estimate
from pipelines.shared.study import Evidence
from pipelines.skin.metrics import answered

TASK = "malignant"
SMALLEST = 20  # records of a subgroup that may be part of the largest gap


@dataclass(frozen=True)
class Gap:
    """The largest difference in AUROC between two subgroups of one column."""

    column: str
    better: str
    worse: str
    estimate: Estimate


def subgroup_estimates(evidence: Evidence, test: pd.DataFrame, bootstrap: Bootstrap) -> list[Subgroup]:
    """AUROC of malignancy for every value of the configured columns that the source has."""
    if not answered(test, TASK):
        return []
    found = []
    for column, values in _columns(evidence, test):
        for value in sorted(values.dropna().unique(), key=str):
            rows = test[(values == value).to_numpy()]
            estimate = auroc_estimate(
                rows[TASK].to_numpy(), rows[f"p_{TASK}"].to_numpy(), rows["group"].to_numpy(), bootstrap=bootstrap
            )
            found.append(Subgroup(_shown(value), estimate, len(rows), column))
    return found


def largest_gaps(evidence: Evidence, test: pd.DataFrame, subgroups: list[Subgroup], bootstrap: Bootstrap) -> list[Gap]:
    """For every column the largest difference between two of its subgroups of at least 20 records.

    The pair is chosen because it differs most, so the interval (clustered bootstrap of the chosen pair's difference) is
    too optimistic about there being one: a gap is a question, not a finding.
    """
    gaps = []
    for column, values in _columns(evidence, test):
        known = {s.label: s.estimate.value for s in subgroups if s.group == column and s.n >= SMALLEST and s.estimate}
        pairs = [
            (a - b, first, second) if a >= b else (b - a, second, first)
            for (first, a), (second, b) in combinations([(k, v) for k, v in known.items() if v is not None], 2)
        ]
        if not pairs:
            continue
        difference, better, worse = max(pairs)
        parts = [test[(values.map(_shown) == name).to_numpy()] for name in (better, worse)]
        sizes = [len(part) for part in parts]
        statistics = [auroc_statistic(part[TASK].to_numpy(), part[f"p_{TASK}"].to_numpy()) for part in parts]

        def statistic(counts: np.ndarray, statistics: Any = statistics, first: int = sizes[0]) -> np.ndarray:
            return np.asarray(statistics[0](counts[:, :first]) - statistics[1](counts[:, first:]))

        group = np.concatenate([part["group"].to_numpy() for part in parts])
        estimate = bootstrap_estimate(
            difference, statistic, group, n=sum(sizes), undefined="with one class", bootstrap=bootstrap
        )
        gaps.append(Gap(column, better, worse, estimate))
    return gaps


def _columns(evidence: Evidence, test: pd.DataFrame) -> list[tuple[str, pd.Series]]:
    """The columns that divide test, ages as decades, in the order of the rows of test."""
    records = evidence.records.set_index("id").reindex(test["id"])
    found = []
    for column in evidence.config.subgroups:
        if column in records and records[column].notna().any():
            values = age_bands(records[column]) if column == "age" else records[column]
            found.append((column, values.reset_index(drop=True)))
    return found


def _shown(value: Any) -> str:
    """A skin type is 3, not 3.0."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
