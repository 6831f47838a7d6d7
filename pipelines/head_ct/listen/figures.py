"""The queue, and the figures that the trial of Titano et al. (2018, Fig. 4) reports, of the studies read so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.head_ct.listen.journal import Entry, Reading
from pipelines.head_ct.triage_statistics import rank_sum


def queue(waiting: Sequence[Entry]) -> list[Entry]:
    """The studies that wait to be read, in the order to read them.

    A study without a score keeps the place that it has by arrival; the others share the places that are left, the
    highest score first, among equal ones that which came first.

    Args:
        waiting: in order of arrival.
    """
    by_score = iter(sorted((e for e in waiting if _score(e) is not None), key=lambda e: -(_score(e) or 0.0)))
    return [e if _score(e) is None else next(by_score) for e in waiting]


def _score(entry: Entry) -> float | None:
    return None if entry.outcome is None else entry.outcome.score


@dataclass(frozen=True)
class Figures:
    """The trial so far. None: not enough was read to tell.

    Attributes:
        critical: critical studies that were read.
        others: other studies that were read.
        critical_wait: their mean time from arrival to having been read, s.
        others_wait: that of the others.
        p_wait: two-sided rank-sum test of these times.
        critical_place: mean place of critical studies in the order in which studies were read.
        others_place: that of the others.
        p_place: rank-sum test of these places.
        critical_arrival: mean place of critical studies in the order of arrival.
        others_arrival: that of the others.
        p_arrival: rank-sum test of these places.
    """

    critical: int
    others: int
    critical_wait: float | None = None
    others_wait: float | None = None
    p_wait: float | None = None
    critical_place: float | None = None
    others_place: float | None = None
    p_place: float | None = None
    critical_arrival: float | None = None
    others_arrival: float | None = None
    p_arrival: float | None = None


def figures(readings: Sequence[Reading]) -> Figures:
    """The figures of the studies that were read.

    Args:
        readings: in order of arrival.
    """
    if not readings:
        return Figures(0, 0)
    truth = np.array([r.critical for r in readings], bool)
    ends = np.array([r.read for r in readings], float)
    waits = ends - np.array([r.arrived for r in readings])
    place = np.empty(len(readings), int)
    place[np.argsort(ends, kind="stable")] = np.arange(1, len(readings) + 1)
    arrival = np.arange(1, len(readings) + 1)
    wait, read_place, arrived = (_compared(v, truth) for v in (waits, place, arrival))
    return Figures(int(truth.sum()), int((~truth).sum()), *wait, *read_place, *arrived)


def _compared(values: np.ndarray, truth: np.ndarray) -> tuple[float | None, float | None, float | None]:
    """Means of critical and of other studies, and the p-value."""
    means = [float(values[part].mean()) if part.any() else None for part in (truth, ~truth)]
    return means[0], means[1], rank_sum(values, truth)
