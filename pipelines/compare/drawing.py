"""The figure of a learning curve."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from pipelines.shared.judging.figures.style import BARS, COLOURS, GREY, WIDTH, arms_of, legend, save, styled

if TYPE_CHECKING:
    from pipelines.compare.curves import Curve


@styled
def learning_curve(path: Path, curve: Curve, note: str = "") -> Path:
    """Points with intervals, every seed's own, the law with its band, and its continuation to twice the data."""
    figure = Figure((WIDTH, 4.6))
    axes = figure.subplots()
    axes.set(xlabel=f"{curve.unit[0].upper()}{curve.unit[1:]}", ylabel=curve.metric.removeprefix("test."))
    first, last = curve.sizes[0], curve.sizes[-1]
    x = np.geomspace(first, 2 * last, 80)
    laws = np.stack([curve.drawn.at(v) for v in x])
    low, high = np.quantile(laws, [0.025, 0.975], axis=1)
    axes.fill_between(x, low, high, color=COLOURS[0], alpha=0.15, linewidth=0, label="95 % of the refitted laws")
    middle = np.array([curve.law.at(v)[0] for v in x])
    inside = x <= last * 1.0001
    axes.plot(x[inside], middle[inside], color=COLOURS[0], label="power law")
    axes.plot(x[~inside], middle[~inside], color=COLOURS[0], linestyle="--", label="beyond the data")
    if len(curve.seeds) > 1:
        for i, size in enumerate(curve.sizes):
            label = "single seeds" if i == 0 else None
            axes.plot([size] * len(curve.seeds), curve.single[i], "x", color=GREY, markersize=5, label=label)
    values = np.array([p.value for p in curve.points], dtype=float)
    arms = np.array([arms_of(p) for p in curve.points]).T
    axes.errorbar(curve.sizes, values, yerr=arms, fmt="o", color=COLOURS[1], markersize=6, label="mean", **BARS)
    axes.set_xscale("log")
    ticks = [*curve.sizes, 2 * last]
    axes.xaxis.set_major_locator(FixedLocator([t for i, t in enumerate(ticks) if i == 0 or t > 1.25 * ticks[i - 1]]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter("{x:,.4g}")
    axes.set_xlim(first / 1.15, 2 * last * 1.1)
    legend(figure, axes.get_legend_handles_labels()[0])
    return save(figure, path, note)
