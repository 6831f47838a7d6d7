"""Numbers that a paper printed, as `<study>/published.py` lists them and report and metrics.json show them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pipelines.shared.judging.report import Table


@dataclass(frozen=True)
class Published:
    """One number of a paper.

    Attributes:
        what: the measure, and of whom or on which data.
        value: as printed.
        low: lower end of the printed interval, if there is one.
        high: its upper end.
        source: paper and dataset.
    """

    what: str
    value: float
    low: float | None = None
    high: float | None = None
    source: str = field(kw_only=True)

    @classmethod
    def over_folds(cls, what: str, value: float, deviation: float, *, source: str) -> Published:
        """A mean over folds; its standard deviation is no interval, so it stands in words."""
        return cls(f"{what} (standard deviation over folds {deviation:g})", value, source=source)

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.value:g}"
        return f"{self.value:g} ({self.low:g} to {self.high:g})"


def published_table(numbers: Sequence[Published], caption: str) -> Table:
    """The numbers with their intervals and sources."""
    rows = [[number.what, str(number), number.source] for number in numbers]
    return Table(["What", "Published", "Where"], rows, caption, ["left", "right", "left"])
