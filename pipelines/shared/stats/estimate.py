"""What every statistic returns: a value, its interval, and what both rest on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Estimate:
    """A value with its interval; what is undefined is None and `reason` says why, never NaN.

    Attributes:
        value: the point estimate.
        low: lower end of the interval.
        high: upper end of the interval.
        method: how the interval was made.
        n: rows that the value rests on (of a proportion: its denominator).
        groups: distinct groups among them.
        positives: positive rows among them (of a proportion: its numerator).
        reason: why the value, or only its interval, is undefined.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    method: str | None = None
    n: int | None = None
    groups: int | None = None
    positives: int | None = None
    reason: str | None = None

    def __post_init__(self) -> None:
        """Numpy scalars become plain numbers, what is not finite becomes None."""
        value, low, high = (_finite(x) for x in (self.value, self.low, self.high))
        reason = self.reason
        if value is None:
            reason = reason or "the value is not finite"
        if value is None or low is None or high is None:
            low = high = None
        plain = {"value": value, "low": low, "high": high, "reason": reason}
        for name in ("n", "groups", "positives"):
            count = getattr(self, name)
            plain[name] = None if count is None else int(count)
        for name, x in plain.items():
            object.__setattr__(self, name, x)

    def to_dict(self) -> dict[str, Any]:
        """The eight fields as plain Python numbers, strings and None, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Estimate:
        """The inverse of `to_dict`."""
        return cls(**fields)

    def format(self, digits: int = 3) -> str:
        """'0.912 (0.884 to 0.936)', or what is missing and why."""
        if self.value is None:
            return f"undefined: {self.reason}"
        # "z" turns -0.000 into 0.000
        value = f"{self.value:z.{digits}f}"
        if self.low is not None and self.high is not None:
            return f"{value} ({self.low:z.{digits}f} to {self.high:z.{digits}f})"
        return f"{value} (no interval: {self.reason})" if self.reason else value

    def __str__(self) -> str:
        return self.format()


@dataclass(frozen=True)
class Comparison:
    """A difference (first minus second model) with its two-sided p-value and, where the test has one, its z."""

    difference: Estimate
    p_value: float | None = None
    z: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """The fields of the difference, then `p_value` and `z`; plain numbers or None."""
        return {**self.difference.to_dict(), "p_value": _finite(self.p_value), "z": _finite(self.z)}


def _finite(x: float | None) -> float | None:
    return float(x) if x is not None and math.isfinite(x) else None
