"""Does the network tell malignant from benign equally well in all subgroups? No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd

from pipelines.shared.judging.subgroups import SubgroupEstimate, subgroup_columns
from pipelines.shared.stats.auc import auroc_statistic
from pipelines.shared.stats.bootstrap import bootstrap_estimate
from pipelines.shared.stats.estimate import Estimate
from pipelines.shared.study import Evidence
from pipelines.skin.config import SkinConfig
from pipelines.skin.metrics import MALIGNANT

SMALLEST = 20  # records of a subgroup that may be part of the largest gap


@dataclass(frozen=True)
class Gap:
    """The largest difference in AUROC between two subgroups of one column."""

    column: str
    better: str
    worse: str
    estimate: Estimate


def largest_gaps(
    evidence: Evidence[SkinConfig], test: pd.DataFrame, subgroups: Sequence[SubgroupEstimate]
) -> list[Gap]:
    """For every column the largest difference between two of its subgroups of at least 20 records.

    The pair is chosen because it differs most, so the interval (clustered bootstrap of the chosen pair's difference) is
    too optimistic about there being one: a gap is a question, not a finding.
    """
    gaps = []
    for column, values in subgroup_columns(evidence, test):
        aurocs = {
            s.value: s.estimate.value
            for s in subgroups
            if s.column == column and s.n >= SMALLEST and s.estimate.value is not None
        }
        pairs = [
            (a - b, first, second) if a >= b else (b - a, second, first)
            for (first, a), (second, b) in combinations(aurocs.items(), 2)
        ]
        if pairs:
            difference, better, worse = max(pairs)
            parts = [test[values == value] for value in (better, worse)]
            gaps.append(Gap(column, better, worse, _difference(difference, parts, evidence)))
    return gaps


def _difference(value: float, parts: Sequence[pd.DataFrame], evidence: Evidence[SkinConfig]) -> Estimate:
    """The AUROC on some records minus that on others, with its interval: both parts are resampled together."""
    first, second = (auroc_statistic(*MALIGNANT.arrays(part)[:2]) for part in parts)
    group = np.concatenate([part["group"].to_numpy() for part in parts])
    size = len(parts[0])

    def statistic(counts: np.ndarray) -> np.ndarray:
        return np.asarray(first(counts[:, :size]) - second(counts[:, size:]))

    return bootstrap_estimate(
        value, statistic, group, n=len(group), undefined="with one class", bootstrap=evidence.bootstrap
    )
