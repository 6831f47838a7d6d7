"""Reliability curve: do the predicted probabilities hold?"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from pipelines.shared.judging.figures.style import BARS, COLOURS, REFERENCE_LINE, WIDTH, save, say, styled, wrap


class ReliabilityBins(Protocol):
    """Arrays of one length, one entry per bin of predicted probability."""

    @property
    def predicted(self) -> ArrayLike: ...  # noqa: D102
    @property
    def observed(self) -> ArrayLike: ...  # noqa: D102
    @property
    def low(self) -> ArrayLike: ...  # noqa: D102
    @property
    def high(self) -> ArrayLike: ...  # noqa: D102
    @property
    def count(self) -> ArrayLike: ...  # noqa: D102


@styled
def reliability(path: Path, bins: ReliabilityBins, title: str = "", *, note: str = "") -> Path:
    """Reliability curve: observed against predicted probability with intervals, and the number of cases below it."""
    count = np.asarray(bins.count, dtype=float)
    filled = count > 0
    x, y, low, high = (
        np.asarray(values, dtype=float)[filled] for values in (bins.predicted, bins.observed, bins.low, bins.high)
    )
    figure = Figure((WIDTH, 6.2))
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(4.2, 1))
    top.plot([0, 1], [0, 1], **REFERENCE_LINE, label="perfect calibration")
    top.legend(loc="lower right")
    arms = np.clip([y - low, high - y], 0, None)
    top.errorbar(x, y, yerr=arms, color=COLOURS[0], marker="o", markersize=6, **BARS)
    top.set(ylim=(-0.02, 1.02), ylabel="Observed proportion", title=wrap(title, 60))
    if not filled.any():
        say(top, "no cases")
    bottom.vlines(x, 0, count[filled], color=COLOURS[0], linewidth=6)
    bottom.set(xlim=(-0.02, 1.02), xlabel="Predicted probability", ylabel="Cases")
    bottom.set_ylim(bottom=0)
    bottom.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    bottom.yaxis.set_major_formatter("{x:,.0f}")
    return save(figure, path, note)
