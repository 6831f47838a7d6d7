"""Is the model equally good in all subgroups? Estimates by column of the record table, forest plot, table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from pipelines.shared.judging import figures
from pipelines.shared.judging.figures import Subgroup
from pipelines.shared.judging.report import Block, Cell, Picture, Section, Table, words
from pipelines.shared.stats.estimate import Estimate
from pipelines.shared.study import Evidence


@dataclass(frozen=True)
class SubgroupEstimate:
    """A metric on the records that have one value in one column."""

    column: str
    value: str
    n: int
    estimate: Estimate


def age_bands(column: pd.Series) -> pd.Series:
    """Ages as decades ("40-49"), None where unknown."""
    decade = (pd.to_numeric(column, errors="coerce") // 10 * 10).to_numpy(float)
    labels = [None if np.isnan(d) else f"{int(d)}-{int(d) + 9}" for d in decade]
    return pd.Series(labels, index=column.index, dtype=object)


def subgroup_columns(
    evidence: Evidence[Any], table: pd.DataFrame, most: int | None = None
) -> Iterator[tuple[str, pd.Series]]:
    """The columns of `subgroups` in the configuration that the source has, ages as decades.

    Args:
        evidence: of the run.
        table: predictions, one or several rows per record.
        most: a column with more distinct values than this is left out.

    Yields:
        The column and its values as text, one per row of `table`, None where unknown.
    """
    records = evidence.records.set_index("id").reindex(table["id"])
    for column in evidence.config.subgroups:
        if column not in records or records[column].isna().all():
            continue
        values = age_bands(records[column]) if column == "age" else records[column]
        if most is None or values.nunique() <= most:
            texts = [None if pd.isna(value) else _text(value) for value in values]
            yield column, pd.Series(texts, index=table.index, dtype=object)


def subgroup_estimates(
    evidence: Evidence[Any], table: pd.DataFrame, metric: Callable[[pd.DataFrame], Estimate], most: int | None = None
) -> list[SubgroupEstimate]:
    """A metric in every subgroup.

    Args:
        evidence: of the run.
        table: predictions that the metric is about.
        metric: from some of its rows to an estimate.
        most: see `subgroup_columns`.
    """
    estimates = []
    for column, values in subgroup_columns(evidence, table, most):
        for value in sorted(values.dropna().unique()):
            rows = table[values == value]
            estimates.append(SubgroupEstimate(column, value, rows["id"].nunique(), metric(rows)))
    return estimates


def subgroup_metrics(metric: str, subgroups: Sequence[SubgroupEstimate]) -> dict[str, Estimate]:
    """`<metric>[<column>=<value>]` -> estimate."""
    return {f"{metric}[{s.column}={s.value}]": s.estimate for s in subgroups}


def subgroup_section(
    evidence: Evidence[Any],
    subgroups: Sequence[SubgroupEstimate],
    overall: Estimate,
    *,
    n: int,
    metric: str = "AUROC",
    records: str = "Images",
    positives: bool = True,
    about: str = "",
    more: Sequence[Block] = (),
) -> list[Section]:
    """Forest plot and table, or nothing where there are no subgroups.

    Args:
        evidence: of the run.
        subgroups: of `subgroup_estimates`.
        overall: the metric on all records.
        n: how many these are.
        metric: its name.
        records: what a record is.
        positives: whether the table says how many records are positive.
        about: what the metric is about, for the caption.
        more: what stands below the table.
    """
    if not subgroups:
        return []
    rows = [Subgroup(s.value, s.estimate, s.n, words(s.column)) for s in subgroups]
    figures.forest(
        evidence.folder.figures / "subgroups.png", rows, Subgroup("All", overall, n), metric=metric, note=evidence.note
    )
    caption = f"{metric} by subgroup, test{about and f': {about}'}."
    picture = Picture("figures/subgroups.png", caption, "Forest plot of subgroups.")
    table = subgroup_table(
        subgroups, metric, records, "Intervals are wide where a subgroup is small.", positives=positives
    )
    return [Section("Subgroups", [picture, table, *more])]


def subgroup_table(
    subgroups: Sequence[SubgroupEstimate], metric: str, records: str, caption: str, *, positives: bool = True
) -> Table:
    """A row per subgroup."""
    columns = ["Subgroup", records, *(["Positive"] if positives else []), metric]
    rows: list[list[Cell]] = [
        [f"{words(s.column)}: {s.value}", s.n, *([s.estimate.positives] if positives else []), s.estimate]
        for s in subgroups
    ]
    return Table(columns, rows, caption)


def _text(value: Any) -> str:
    """A skin type is 3, not 3.0."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
