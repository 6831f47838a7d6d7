"""Scores and the thresholds on them: rates by threshold, histograms by class."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from pipelines.shared.judging.figures.style import (
    COLOURS,
    INK,
    LINES,
    WIDTH,
    legend,
    legend_height,
    margin,
    save,
    say,
    styled,
)


@styled
def operating_curve(
    path: Path,
    thresholds: ArrayLike,
    sensitivity: ArrayLike,
    specificity: ArrayLike,
    chosen: Sequence[tuple[str, float]] = (),
    *,
    note: str = "",
) -> Path:
    """Sensitivity and specificity against the threshold, with the chosen thresholds as vertical lines."""
    x = np.asarray(thresholds, dtype=float)
    finite = np.isfinite(x)  # a threshold above every score is infinite
    lines = _labelled(chosen)
    figure = Figure((WIDTH, 3.7 + legend_height(["Sensitivity", "Specificity", *lines])))
    axes = figure.subplots()
    axes.set(ylim=(-0.02, 1.02), xlabel="Threshold on the score", ylabel="Proportion")
    handles: list[Any] = []
    for i, (name, values) in enumerate({"Sensitivity": sensitivity, "Specificity": specificity}.items()):
        y = np.asarray(values, dtype=float)[finite]
        marker = "." if y.size == 1 else ""
        handles += axes.plot(x[finite], y, color=COLOURS[i], linestyle=LINES[i], label=name, marker=marker)
    if finite.any():
        axes.set_xlim(*_range(x[finite]))
    else:
        say(axes, "no threshold to show")
    handles += _threshold_lines(axes, lines)
    legend(figure, handles)
    return save(figure, path, note)


@styled
def score_distribution(
    path: Path,
    scores: Mapping[str, ArrayLike],
    thresholds: Mapping[str, float] | None = None,
    *,
    xlabel: str = "Score",
    note: str = "",
) -> Path:
    """Histograms of the score, one row per true class on a common axis, with the thresholds across all rows."""
    values = {name: np.asarray(value, dtype=float).ravel() for name, value in scores.items()}
    lines = _labelled((thresholds or {}).items())
    rows = max(1, len(values))
    figure = Figure((WIDTH, 0.7 + 1.15 * rows + legend_height(list(lines))))
    panels = figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0]
    left, right = _range(np.concatenate([*values.values(), np.empty(0)]))
    edges = np.linspace(left, right, 41)
    handles: list[Any] = []
    for i, (axes, (name, value)) in enumerate(zip(panels, values.items(), strict=False)):
        if value.size:
            percent = 100 * np.histogram(value, edges)[0] / value.size
            axes.stairs(percent, edges, fill=True, color=COLOURS[i % len(COLOURS)], alpha=0.35)
            axes.stairs(percent, edges, color=COLOURS[i % len(COLOURS)], linewidth=1.2)
        else:
            say(axes, "no cases")
        axes.set_title(f"{name} (n = {value.size:,})")
        axes.yaxis.set_major_locator(MaxNLocator(3))
        axes.set_ylim(bottom=0)
        handles = _threshold_lines(axes, lines)
    if not values:
        say(panels[0], "no scores to show")
    panels[-1].set_xlim(left, right)
    panels[-1].set_xlabel(xlabel)
    figure.supylabel("% of the class", fontsize=12)
    legend(figure, handles)
    return save(figure, path, note)


def _labelled(thresholds: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Thresholds by the label that they have in a legend."""
    return {f"{name}: threshold {value:.3g}": value for name, value in thresholds}


def _threshold_lines(axes: Axes, thresholds: Mapping[str, float]) -> list[Line2D]:
    """A vertical line per threshold, told apart by line style."""
    return [
        axes.axvline(value, color=INK, linewidth=1.4, linestyle=LINES[(i + 1) % len(LINES)], label=label)
        for i, (label, value) in enumerate(thresholds.items())
        if math.isfinite(value)
    ]


def _range(values: NDArray[np.floating]) -> tuple[float, float]:
    """Limits of a score axis: 0 to 1 for probabilities, else the range of the values."""
    if not values.size or (values.min() >= 0 and values.max() <= 1):
        return 0.0, 1.0
    return margin(float(values.min()), float(values.max()))
