"""ROC and precision-recall curves, over all thresholds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike

from pipelines.shared.judging.figures.style import (
    COLOURS,
    GREY,
    INK,
    LINES,
    REFERENCE_LINE,
    WIDTH,
    arms_of,
    legend,
    legend_height,
    number_of,
    point_look,
    save,
    say,
    styled,
)
from pipelines.shared.judging.report import EstimateLike


@dataclass(frozen=True)
class Curve:
    """A line through `x` and `y`, float arrays of one length, with an optional band from `low` to `high`.

    ROC: x is the false positive rate, y the sensitivity. Precision-recall: x is recall, y is precision.
    """

    label: str
    x: ArrayLike
    y: ArrayLike
    low: ArrayLike | None = None
    high: ArrayLike | None = None


@dataclass(frozen=True)
class Point:
    """An operating point or a reader. Both coordinates are numbers, or estimates, whose intervals become a cross."""

    label: str
    sensitivity: float | EstimateLike | None
    specificity: float | EstimateLike | None


@styled
def roc(
    path: Path,
    curves: Sequence[Curve],
    points: Sequence[Point] = (),
    readers: Sequence[Point] = (),
    *,
    readers_label: str = "readers",
    note: str = "",
) -> Path:
    """ROC curves with operating points and readers; good curves get an enlarged upper left corner."""
    labels = [c.label for c in curves] + [p.label for p in points] + [readers_label] * bool(readers)
    figure = Figure((WIDTH, 5.6 + legend_height(labels)))
    axes = figure.subplots()
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xlabel="1 − specificity", ylabel="Sensitivity")
    axes.set_box_aspect(1)
    axes.plot([0, 1], [0, 1], **REFERENCE_LINE)
    handles = _draw_roc(axes, curves, points, readers, readers_label)
    zoom = _zoom(curves, points)
    if zoom:
        inset = axes.inset_axes((0.44, 0.09, 0.53, 0.53))
        inset.set(xlim=(0, zoom), ylim=(1 - zoom, 1))
        inset.set_xticks([0, zoom / 2, zoom])
        inset.set_yticks([1 - zoom, 1 - zoom / 2, 1])
        inset.tick_params(labelsize=10)
        for side in ("top", "right"):
            inset.spines[side].set_visible(True)
        _draw_roc(inset, curves, points, readers, readers_label)
        axes.indicate_inset_zoom(inset, edgecolor=GREY, alpha=0.6)
    if not curves and not points and not readers:
        say(axes, "no curve to show")
    legend(figure, handles)
    return save(figure, path, note)


def _draw_roc(
    axes: Axes, curves: Sequence[Curve], points: Sequence[Point], readers: Sequence[Point], readers_label: str
) -> list[Any]:
    """Draw everything that belongs to an ROC plot and return what its legend needs."""
    handles: list[Any] = []
    for i, curve in enumerate(curves):
        handles.append(_line(axes, curve, i))
    seen = [place for place in map(_place, readers) if place is not None]
    if seen:
        x, y = zip(*seen, strict=True)
        label = f"{readers_label} (n = {len(seen)})"
        look: dict[str, Any] = {"linestyle": "none", "marker": "x", "markersize": 6, "markeredgewidth": 1.4}
        handles += axes.plot(x, y, color=INK, label=label, zorder=4, **look)
    for i, point in enumerate(points):
        place = _place(point)
        if place is None:
            continue
        low, high = arms_of(point.specificity)
        axes.errorbar(
            [place[0]],
            [place[1]],
            xerr=[[high], [low]],  # the axis is 1 − specificity, so the arms change sides
            yerr=np.reshape(arms_of(point.sensitivity), (2, 1)),
            fmt="none",
            ecolor=INK,
            elinewidth=1.3,
            zorder=5,
        )
        handles += axes.plot([place[0]], [place[1]], label=point.label, zorder=6, **point_look(i))
    return handles


def _place(point: Point) -> tuple[float, float] | None:
    """Where a point lies on an ROC plot; nowhere if it had no positive or no negative cases."""
    sensitivity, specificity = number_of(point.sensitivity), number_of(point.specificity)
    return None if sensitivity is None or specificity is None else (1 - specificity, sensitivity)


def _zoom(curves: Sequence[Curve], points: Sequence[Point]) -> float | None:
    """Side of the corner worth enlarging: all curves must be high there, and it should hold the points."""
    sides = [
        side
        for side in (0.1, 0.2, 0.3)
        if curves
        and all(np.interp(side, np.asarray(c.x), np.asarray(c.y)) > 1 - side / 2 for c in curves if np.size(c.x))
    ]
    placed = [place for place in map(_place, points) if place is not None]
    lowest = min((min(y, 1 - x) for x, y in placed), default=1.0)
    return next((side for side in sides if lowest >= 1 - side), sides[-1] if sides else None)


@styled
def precision_recall(
    path: Path,
    curves: Sequence[Curve],
    prevalence: float | None = None,
    *,
    note: str = "",
) -> Path:
    """Precision-recall curves as steps (between two thresholds there is no line: Davis and Goadrich, ICML 2006).

    `prevalence` is the precision of chance, drawn as a horizontal line.
    """
    labels = [c.label for c in curves] + ["chance"] * (prevalence is not None)
    figure = Figure((WIDTH, 5.2 + legend_height(labels)))
    axes = figure.subplots()
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xlabel="Recall (sensitivity)", ylabel="Precision (PPV)")
    axes.set_box_aspect(0.9)
    handles = [_line(axes, curve, i, steps=True) for i, curve in enumerate(curves)]
    if prevalence is not None:
        label = f"chance: prevalence {prevalence:.3f}"
        handles.append(axes.axhline(prevalence, **REFERENCE_LINE, label=label))
    if not curves:
        say(axes, "no curve to show")
    legend(figure, handles)
    return save(figure, path, note)


def _line(axes: Axes, curve: Curve, index: int, steps: bool = False) -> Line2D:
    """One curve with its band. As steps, a point's precision holds from the next lower recall up to its own."""
    x, y = np.asarray(curve.x, dtype=float), np.asarray(curve.y, dtype=float)
    order = slice(None, None, -1 if steps and x.size and x[0] > x[-1] else 1)
    colour, style = COLOURS[index % len(COLOURS)], LINES[index % len(LINES)]
    if curve.low is not None and curve.high is not None:
        low, high = np.asarray(curve.low, dtype=float)[order], np.asarray(curve.high, dtype=float)[order]
        axes.fill_between(x[order], low, high, color=colour, alpha=0.15, linewidth=0, step="pre" if steps else None)
    (line,) = axes.plot(
        x[order],
        y[order],
        color=colour,
        linestyle=style,
        label=curve.label,
        drawstyle="steps-pre" if steps else "default",
        marker="." if x.size == 1 else "",
    )
    return line
