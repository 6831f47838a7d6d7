"""Figures of a report, one function each: data and a path in, a PNG file out.

One style for all of them: 6.4 inches wide, large letters (a phone shows the page at 360 pixels), colours that
colour-blind readers tell apart (after Okabe and Ito, 2008; the light ones darkened, as lines are thin) and, for print
in grey, a line style or marker of its own for everything that has a colour of its own. The same input gives the same
bytes. Without data there is still a figure, and it says so. `note` is a small line under a figure, such as
'synthetic data'.

A metric is anything with `value`, `low`, `high` and `reason` (`stats.estimate.Estimate`); one whose value is None is
left out of curves and named with its reason in tables.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from pipelines.shared.report import EstimateLike, estimate_text

if TYPE_CHECKING:
    import pandas as pd

WIDTH = 6.4  # inches
LEGEND_CHARACTERS = 62  # that fit into one line of a legend
INK, GREY = "#1c2228", "#66717c"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#A3477F", "#8A6A00", "#333333")
LINES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)))
MARKERS = ("o", "s", "D", "^", "v", "P")
STYLE: dict[str, Any] = {
    "font.size": 12,
    "axes.titlesize": 12,
    "axes.labelsize": 12,
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
    "legend.fontsize": 11,
    "figure.dpi": 150,
    "figure.constrained_layout.use": True,
    "text.color": INK,
    "text.parse_math": False,  # a dollar sign in a class name is a dollar sign
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6eaee",
    "grid.linewidth": 0.8,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "lines.linewidth": 2.0,
    "legend.frameon": False,
    "legend.handlelength": 2.4,
    "legend.borderpad": 0.1,
    "legend.borderaxespad": 0.1,
}

_styled = matplotlib.style.context(["default", STYLE])  # whatever the user's own matplotlibrc says


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


@dataclass(frozen=True)
class Subgroup:
    """A row of a forest plot; consecutive rows of one `group` stand under its heading."""

    label: str
    estimate: EstimateLike | None
    n: int
    group: str = ""


@dataclass(frozen=True)
class Tile:
    """An image of a gallery, (H, W, 3) uint8, and what is drawn over its copy.

    `overlay` is a saliency map (float, any shape, stretched over the image; negative values count as zero), `mask` the
    outline of a lesion (bool or 0/1, any shape).
    """

    image: np.ndarray
    title: str
    subtitle: str = ""
    overlay: np.ndarray | None = None
    mask: np.ndarray | None = None


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


# ---- discrimination ----


@_styled
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
    figure = Figure((WIDTH, 5.6 + _legend_height(labels)))
    axes = figure.subplots()
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xlabel="1 − specificity", ylabel="Sensitivity")
    axes.set_box_aspect(1)
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=(0, (2, 3)))
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
        _say(axes, "no curve to show")
    _legend(figure, handles)
    return _save(figure, path, note)


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
        low, high = _arms(point.specificity)
        axes.errorbar(
            [place[0]],
            [place[1]],
            xerr=[[high], [low]],  # the axis is 1 − specificity, so the arms change sides
            yerr=np.reshape(_arms(point.sensitivity), (2, 1)),
            fmt="none",
            ecolor=INK,
            elinewidth=1.3,
            zorder=5,
        )
        handles += axes.plot([place[0]], [place[1]], label=point.label, zorder=6, **_marker(i))
    return handles


def _place(point: Point) -> tuple[float, float] | None:
    """Where a point lies on an ROC plot; nowhere if it had no positive or no negative cases."""
    sensitivity, specificity = _number(point.sensitivity), _number(point.specificity)
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


@_styled
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
    figure = Figure((WIDTH, 5.2 + _legend_height(labels)))
    axes = figure.subplots()
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xlabel="Recall (sensitivity)", ylabel="Precision (PPV)")
    axes.set_box_aspect(0.9)
    handles = [_line(axes, curve, i, steps=True) for i, curve in enumerate(curves)]
    if prevalence is not None:
        label = f"chance: prevalence {prevalence:.3f}"
        handles.append(axes.axhline(prevalence, color=GREY, linewidth=1, linestyle=(0, (2, 3)), label=label))
    if not curves:
        _say(axes, "no curve to show")
    _legend(figure, handles)
    return _save(figure, path, note)


def _line(axes: Axes, curve: Curve, index: int, steps: bool = False) -> Line2D:
    """One curve with its band. As steps, a point's precision holds from the next lower recall up to its own."""
    order = slice(None)
    x = np.asarray(curve.x, dtype=float)
    if steps and x.size and x[0] > x[-1]:
        order = slice(None, None, -1)
    colour, style = COLOURS[index % len(COLOURS)], LINES[index % len(LINES)]
    if curve.low is not None and curve.high is not None:
        low, high = np.asarray(curve.low, dtype=float)[order], np.asarray(curve.high, dtype=float)[order]
        axes.fill_between(x[order], low, high, color=colour, alpha=0.15, linewidth=0, step="pre" if steps else None)
    (line,) = axes.plot(
        x[order],
        np.asarray(curve.y, dtype=float)[order],
        color=colour,
        linestyle=style,
        label=curve.label,
        drawstyle="steps-pre" if steps else "default",
        marker="." if x.size == 1 else "",
    )
    return line


@_styled
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
    labels = [f"{label}: threshold {value:.3g}" for label, value in chosen]
    figure = Figure((WIDTH, 3.7 + _legend_height(["Sensitivity", "Specificity", *labels])))
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
        _say(axes, "no threshold to show")
    handles += _threshold_lines(axes, dict(zip(labels, [value for _, value in chosen], strict=True)))
    _legend(figure, handles)
    return _save(figure, path, note)


@_styled
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
    lines = {f"{name}: threshold {value:.3g}": value for name, value in (thresholds or {}).items()}
    rows = max(1, len(values))
    figure = Figure((WIDTH, 0.7 + 1.15 * rows + _legend_height(list(lines))))
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
            _say(axes, "no cases")
        axes.set_title(f"{name} (n = {value.size:,})")
        axes.yaxis.set_major_locator(MaxNLocator(3))
        axes.set_ylim(bottom=0)
        handles = _threshold_lines(axes, lines)
    if not values:
        _say(panels[0], "no scores to show")
    panels[-1].set_xlim(left, right)
    panels[-1].set_xlabel(xlabel)
    figure.supylabel("% of the class", fontsize=12)
    _legend(figure, handles)
    return _save(figure, path, note)


def _threshold_lines(axes: Axes, thresholds: Mapping[str, float]) -> list[Line2D]:
    """A vertical line per threshold, told apart by line style."""
    return [
        axes.axvline(value, color=INK, linewidth=1.4, linestyle=LINES[(i + 1) % len(LINES)], label=label)
        for i, (label, value) in enumerate(thresholds.items())
        if math.isfinite(value)
    ]


@_styled
def confusion(
    path: Path,
    matrix: ArrayLike,
    classes: Sequence[str],
    *,
    row_label: str = "Reference",
    column_label: str = "Model",
    note: str = "",
) -> Path:
    """A confusion matrix, (K, K) counts, reference in rows: the percentage of the row, and the count below it."""
    counts = np.asarray(matrix, dtype=float)
    if counts.shape != (len(classes), len(classes)):
        raise ValueError(f"A confusion matrix of {len(classes)} classes is square with that side, not {counts.shape}.")
    totals = counts.sum(axis=1)
    share = counts / np.maximum(totals, 1)[:, None]
    k = max(1, len(classes))
    below = [_wrap(str(c), 16) for c in classes]
    longest = max((len(line) for label in below for line in label.split("\n")), default=0)
    figure = Figure((WIDTH, 5.2 if k > 2 else 4.4))
    axes = figure.subplots()
    axes.imshow(share.reshape(k, k) if len(classes) else np.zeros((1, 1)), cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.grid(False)
    axes.spines[:].set_visible(False)
    size = 11 if k <= 5 else 9 if k <= 8 else 6.5  # points
    axes.set_xticks(range(len(classes)), below)
    names = [f"{_wrap(str(c), 16)}\n(n = {int(total):,})" for c, total in zip(classes, totals, strict=True)]
    axes.set_yticks(range(len(classes)), names if k <= 8 else [str(c) for c in classes])
    axes.tick_params(length=0, labelsize=10 if k <= 8 else 8)
    if longest > 52 / k:  # too long to stand side by side
        axes.tick_params(axis="x", labelrotation=35)
        for label in axes.get_xticklabels():
            label.set(horizontalalignment="right", rotation_mode="anchor")
    axes.set(xlabel=column_label if k <= 8 else f"{column_label} (numbers: % of the row)", ylabel=row_label)
    for (i, j), value in np.ndenumerate(counts):
        percent = f"{100 * share[i, j]:.0f}"
        text = f"{percent} %\n{int(value):,}" if k <= 8 else percent
        if value:
            axes.text(j, i, text, ha="center", va="center", fontsize=size, color="white" if share[i, j] > 0.55 else INK)
        else:
            axes.text(j, i, "0", ha="center", va="center", fontsize=size, color=GREY)
    if not len(classes):
        _say(axes, "no classes to show")
    return _save(figure, path, note)


# ---- calibration ----


@_styled
def reliability(path: Path, bins: ReliabilityBins, title: str = "", *, note: str = "") -> Path:
    """Reliability curve: observed against predicted probability with intervals, and the number of cases below it."""
    count = np.asarray(bins.count, dtype=float)
    filled = count > 0
    x, y, low, high = (
        np.asarray(values, dtype=float)[filled] for values in (bins.predicted, bins.observed, bins.low, bins.high)
    )
    figure = Figure((WIDTH, 6.2))
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(4.2, 1))
    top.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=(0, (2, 3)), label="perfect calibration")
    top.legend(loc="lower right")
    arms = np.clip([y - low, high - y], 0, None)
    top.errorbar(x, y, yerr=arms, color=COLOURS[0], marker="o", markersize=6, elinewidth=1.3, capsize=3)
    top.set(ylim=(-0.02, 1.02), ylabel="Observed proportion", title=_wrap(title, 60))
    if not filled.any():
        _say(top, "no cases")
    bottom.vlines(x, 0, count[filled], color=COLOURS[0], linewidth=6)
    bottom.set(xlim=(-0.02, 1.02), xlabel="Predicted probability", ylabel="Cases")
    bottom.set_ylim(bottom=0)
    bottom.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    bottom.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    return _save(figure, path, note)


# ---- training ----


@_styled
def history(
    path: Path,
    history: pd.DataFrame,
    monitor: str,
    *,
    higher_is_better: bool = True,
    monitor_label: str = "",
    note: str = "",
) -> Path:
    """Loss, the monitored metric and the learning rate over the epochs, one thin line per network.

    `history` has one row per network and epoch: network, epoch, train_loss, val_loss, <monitor>, learning_rate. The
    best epoch of each network by `monitor` (the first, where several are) is marked.

    Raises:
        ValueError: a column is missing.
    """
    needed = ["network", "epoch", "train_loss", "val_loss", monitor, "learning_rate"]
    missing = [name for name in needed if name not in history.columns]
    if missing:
        raise ValueError(
            f"The training history lacks {', '.join(missing)}; it has {', '.join(map(str, history.columns))}."
        )
    networks = [rows.sort_values("epoch") for _, rows in history.groupby("network", sort=True)]
    several = len(networks) > 1
    figure = Figure((WIDTH, 6.6))
    loss, metric, rate = figure.subplots(3, 1, sharex=True, height_ratios=(2, 2, 0.9))
    thin: dict[str, Any] = {"linewidth": 1.1, "alpha": 0.75} if several else {}
    panels = [(loss, "train_loss", 1), (loss, "val_loss", 0), (metric, monitor, 0)]
    for rows in networks:
        marker = "." if len(rows) == 1 else ""
        for axes, column, i in panels:
            axes.plot(rows["epoch"], rows[column], color=COLOURS[i], linestyle=LINES[i], marker=marker, **thin)
        rate.plot(rows["epoch"], rows["learning_rate"], color=GREY, marker=marker, **thin)
        values = rows[monitor].to_numpy(dtype=float)
        if np.isfinite(values).any():
            best = int(np.nanargmax(values) if higher_is_better else np.nanargmin(values))
            row = rows.iloc[best]
            metric.plot([row["epoch"]], [row[monitor]], **_marker(1, size=7))
            loss.plot([row["epoch"]], [row["val_loss"]], **_marker(1, size=7))
    if not networks:
        _say(metric, "no epochs to show")
    loss.set(ylabel="Loss")
    metric.set(ylabel=_wrap(monitor_label or monitor, 22))
    rate.set(ylabel="Learning\nrate", xlabel="Epoch")
    rate.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    if networks:
        rate.set_xlim(history["epoch"].min() - 0.5, history["epoch"].max() + 0.5)
    highest = float(np.nan_to_num(history["learning_rate"].max()))
    if highest > 0:
        rate.set_ylim(0, 1.1 * highest)
        rate.set_yticks([0, highest], ["0", f"{highest:.2g}"])
    figure.align_ylabels()
    handles: list[Any] = [
        Line2D([], [], color=COLOURS[1], linestyle=LINES[1], label="training"),
        Line2D([], [], color=COLOURS[0], linestyle=LINES[0], label="validation"),
        Line2D([], [], label=f"best epoch{' of each network' if several else ''}", **_marker(1, size=7)),
    ]
    _legend(figure, handles, columns=3)
    return _save(figure, path, note)


@_styled
def subsample_curve(
    path: Path,
    x: Sequence[float],
    estimates: Sequence[EstimateLike | None],
    *,
    xlabel: str = "Patients in the training set",
    ylabel: str = "AUROC",
    note: str = "",
) -> Path:
    """A metric with its intervals against the amount of training data (logarithmic); the line joins the means."""
    rows = [(float(a), e) for a, e in zip(x, estimates, strict=True) if _number(e) is not None and a > 0]
    figure = Figure((WIDTH, 3.9))
    axes = figure.subplots()
    axes.set(xlabel=xlabel, ylabel=ylabel)
    if rows:
        sizes = np.array([a for a, _ in rows])
        values = np.array([_number(e) for _, e in rows], dtype=float)
        arms = np.array([_arms(e) for _, e in rows]).T
        axes.errorbar(sizes, values, yerr=arms, fmt="o", color=COLOURS[0], markersize=5.5, elinewidth=1.3, capsize=3)
        distinct = np.unique(sizes)
        axes.plot(distinct, [values[sizes == a].mean() for a in distinct], color=COLOURS[0], linewidth=1.3)
        axes.set_xscale("log")
        apart = [a for i, a in enumerate(distinct) if i == 0 or a > 1.25 * distinct[i - 1]]  # ticks that do not collide
        axes.xaxis.set_major_locator(FixedLocator(apart))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.set_xlim(distinct[0] / 1.3, distinct[-1] * 1.3)
    else:
        _say(axes, "no estimate to show")
    return _save(figure, path, note)


# ---- subgroups ----


@_styled
def forest(
    path: Path,
    rows: Sequence[Subgroup],
    overall: Subgroup | None = None,
    *,
    metric: str = "AUROC",
    note: str = "",
) -> Path:
    """Forest plot of subgroups: label, estimate with interval, number of cases; dashed is the overall value."""
    lines: list[tuple[float, str, Subgroup | None]] = []  # height in text lines, label, row (None: a heading)
    group = ""
    for subgroup in rows:
        if subgroup.group and subgroup.group != group:
            lines.append((1.35, subgroup.group, None))
        group = subgroup.group
        label = textwrap.indent(_wrap(subgroup.label, 22), "   " if group else "")
        reason = _wrap(_reason(subgroup.estimate), 24)
        lines.append((1.0 + 0.75 * max(label.count("\n"), reason.count("\n")), label, subgroup))
    if overall is not None:
        lines.append((1.5, overall.label, overall))

    height = sum(size for size, _, _ in lines) or 2.0
    figure = Figure((WIDTH, 0.95 + 0.28 * height))
    longest = max((len(part) for _, label, _ in lines for part in label.split("\n")), default=0)
    name_width = min(2.0, 0.2 + 0.078 * longest)
    names, axes, numbers = figure.subplots(1, 3, width_ratios=(name_width, 3.85 - name_width, 2.55), sharey=True)
    axes.set_ylim(height, 0)
    names.axis("off")
    numbers.axis("off")
    axes.tick_params(left=False, labelleft=False)
    axes.spines["left"].set_visible(False)
    axes.grid(False, axis="y")
    head: dict[str, Any] = {"fontsize": 10.5, "color": GREY, "va": "bottom"}
    numbers.text(0.15, -0.15, "n", ha="right", **head)
    numbers.text(0.215, -0.15, f"{metric} (95 % interval)", **head)

    values = [v for _, _, row in lines if row for v in _extent(row.estimate)]
    if values:
        axes.set_xlim(*_margin(min(values), max(values)))
    axes.xaxis.set_major_locator(MaxNLocator(3))
    axes.set_xlabel(metric)
    if overall is not None and (value := _number(overall.estimate)) is not None:
        axes.axvline(value, color=GREY, linewidth=1.2, linestyle="--", zorder=1)
    most = max((row.n for row in rows), default=1) or 1
    y = 0.0
    for tall, label, row in lines:
        middle = y + tall / 2
        bold = "bold" if row is None or row is overall else "normal"
        names.text(0, middle, label, ha="left", va="center", fontsize=10.5, fontweight=bold, linespacing=1.05)
        y += tall
        if row is None:
            continue
        numbers.text(0.15, middle, f"{row.n:,}", ha="right", va="center", fontsize=10.5, fontweight=bold)
        value = _number(row.estimate)
        if value is None:
            _say(axes, _wrap(_reason(row.estimate), 24), middle / height, fontsize=9.5)
        else:
            arms = np.reshape(_arms(row.estimate), (2, 1))
            marker, size = ("D", 8.0) if row is overall else ("s", 3 + 5 * math.sqrt(row.n / most))
            axes.errorbar(
                [value], [middle], xerr=arms, color=COLOURS[0], elinewidth=1.5, marker=marker, markersize=size
            )
        numbers.text(0.215, middle, estimate_text(row.estimate), va="center", fontsize=10.5, fontweight=bold)
    if not lines:
        _say(axes, "no subgroups")
    return _save(figure, path, note)


def _extent(estimate: EstimateLike | None) -> list[float]:
    """What an estimate needs of an axis."""
    value = _number(estimate)
    low, high = _arms(estimate)
    return [] if value is None else [value - low, value + high]


def _reason(estimate: EstimateLike | None) -> str:
    """Why there is no number, or nothing where there is one."""
    if _number(estimate) is not None:
        return ""
    return (estimate.reason if estimate is not None else None) or "not estimated"


# ---- pictures and counts ----


@_styled
def gallery(path: Path, tiles: Sequence[Tile], columns: int = 2, *, note: str = "") -> Path:
    """Images, and beside each a grey copy with the saliency map (bright is high) and the outline of its lesions."""
    for tile in tiles:
        if tile.image.ndim != 3 or tile.image.shape[2] != 3 or tile.image.dtype != np.uint8:
            found = f"{tile.image.shape} {tile.image.dtype}"
            raise ValueError(f"Gallery: the image of '{tile.title}' is {found}, allowed is (height, width, 3) uint8.")
    pairs = any(tile.overlay is not None or tile.mask is not None for tile in tiles)
    columns = max(1, min(columns, len(tiles)))
    gap, line = 0.07, 0.185  # inches: between two images, height of a line of text
    width = (WIDTH - 3 * gap * (columns - 1)) / columns  # of a tile
    side = (width - gap) / 2 if pairs else width  # of an image
    characters = int(width * 72 / (10 * 0.54))
    titles = [_wrap(tile.title, characters - 3) for tile in tiles]  # bold letters are wider
    subtitles = [_wrap(tile.subtitle, characters) for tile in tiles]

    tops: list[tuple[float, float, float]] = []  # per row of tiles: top of title, of images, of subtitle
    y = 0.03
    for start in range(0, len(tiles), columns):
        row = slice(start, start + columns)
        images = y + line * max(text.count("\n") + 1 for text in titles[row]) + 0.05
        below = images + side * min(1.6, max(tile.image.shape[0] / tile.image.shape[1] for tile in tiles[row])) + 0.05
        tops.append((y, images, below))
        y = below + line * max(text.count("\n") + 1 for text in subtitles[row]) + 0.16
    height = max(y, 0.9)

    figure = Figure((WIDTH, height))
    figure.set_layout_engine("none")
    for i, tile in enumerate(tiles):
        x = (i % columns) * (width + 3 * gap)
        title, images, below = tops[i // columns]
        text: dict[str, Any] = {"va": "top", "fontsize": 10, "linespacing": 1.15}
        figure.text(x / WIDTH, 1 - title / height, titles[i], fontweight="bold", **text)
        figure.text(x / WIDTH, 1 - below / height, subtitles[i], **text)
        for k in range(2 if pairs else 1):
            box = (x + k * (side + gap), images, side, below - 0.05 - images)
            axes = figure.add_axes((box[0] / WIDTH, 1 - (box[1] + box[3]) / height, side / WIDTH, box[3] / height))
            axes.axis("off")
            axes.set_anchor("NW")
            if k == 0:
                axes.imshow(tile.image)
            elif tile.overlay is not None or tile.mask is not None:
                _draw_overlay(axes, tile)
    if not tiles:
        axes = figure.add_axes((0, 0, 1, 1))
        axes.axis("off")
        _say(axes, "no images to show")
    return _save(figure, path, note)


def _draw_overlay(axes: Axes, tile: Tile) -> None:
    height, width = tile.image.shape[:2]
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    axes.imshow(tile.image.mean(axis=2), cmap="gray", vmin=0, vmax=255, extent=extent)
    if tile.overlay is not None:
        heat = np.clip(np.asarray(tile.overlay, dtype=float), 0, None)
        heat = heat / heat.max() if heat.size and heat.max() > 0 else heat
        axes.imshow(heat, cmap="inferno", vmin=0, vmax=1, alpha=0.85 * np.sqrt(heat), extent=extent)
    if tile.mask is not None:
        mask = np.asarray(tile.mask, dtype=float)
        if mask.min() < 0.5 < mask.max():  # a contour needs an inside and an outside
            rows = (np.arange(mask.shape[0]) + 0.5) * height / mask.shape[0] - 0.5
            columns = (np.arange(mask.shape[1]) + 0.5) * width / mask.shape[1] - 0.5
            axes.contour(columns, rows, mask, levels=[0.5], colors="#00e5ff", linewidths=1.0)


@_styled
def flow(
    path: Path,
    steps: Sequence[tuple[str, str]],
    exclusions: Sequence[tuple[int, str, str]] = (),
    splits: Sequence[tuple[str, str]] = (),
    *,
    note: str = "",
) -> Path:
    """Flow of counts from what was found to what was used, after the diagrams of CONSORT and STARD.

    `steps` are boxes from top to bottom (label, count), `exclusions` boxes to the right of the arrow that leaves step
    `after_index` (after_index, label, count), `splits` boxes side by side at the end (label, count).
    """
    outside = [after for after, _, _ in exclusions if not 0 <= after < len(steps)]
    if outside:
        raise ValueError(f"Flow: exclusions after steps {outside}, but there are {len(steps)} steps (the first is 0).")
    left, main, aside, gap = 0.04, 3.6, 2.35, 0.3  # inches: margin, widths of the two columns, length of an arrow
    middle, right = left + main / 2, WIDTH - left - aside
    boxes: list[tuple[float, float, float, float, str, str, str]] = []  # x, y, width, height, label, count, colour
    arrows: list[tuple[float, float, float, float, str]] = []  # from x, y to x, y, style
    y = left
    for i, (label, count) in enumerate(steps):
        label, height = _fit(label, count, main)
        boxes.append((left, y, main, height, label, count, "#e9f1f6"))
        y += height
        start = y
        for _, reason, lost in (e for e in exclusions if e[0] == i):
            reason, height = _fit(reason, lost, aside)
            y += 0.12
            boxes.append((right, y, aside, height, reason, lost, "#f7f7f5"))
            arrows.append((middle, y + height / 2, right, y + height / 2, "-|>"))
            y += height
        if i + 1 < len(steps) or splits:
            y += gap if y == start else 0.16
            arrows.append((middle, start, middle, y, "-|>" if i + 1 < len(steps) else "-"))
    if splits:
        width = (WIDTH - 2 * left - 0.12 * (len(splits) - 1)) / len(splits)
        fitted = [_fit(label, count, width) for label, count in splits]
        centres = [left + width / 2 + i * (width + 0.12) for i in range(len(splits))]
        tallest = max(size for _, size in fitted)
        if steps:  # a bar from which an arrow goes to each of them
            y += gap
            bar = (min(*centres, middle), max(*centres, middle))
            arrows.append((bar[0], y - gap, bar[1], y - gap, "-"))
        for x, (label, _), (_, count) in zip(centres, fitted, splits, strict=True):
            boxes.append((x - width / 2, y, width, tallest, label, count, "#e9f1f6"))
            if steps:
                arrows.append((x, y - gap, x, y, "-|>"))
        y += tallest
    height = max(y + left, 0.9)

    figure = Figure((WIDTH, height))
    figure.set_layout_engine("none")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, WIDTH), ylim=(height, 0))  # in inches from the upper left corner
    axes.axis("off")
    for x0, y0, x1, y1, style in arrows:
        look = {"arrowstyle": style, "color": GREY, "linewidth": 1.2, "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", (x1, y1), (x0, y0), arrowprops=look)
    for x, y, width, tall, label, count, colour in boxes:
        shape = "round,pad=0,rounding_size=0.05"
        axes.add_patch(FancyBboxPatch((x, y), width, tall, shape, facecolor=colour, edgecolor=GREY, linewidth=0.9))
        text: dict[str, Any] = {"ha": "center", "fontsize": 10.5, "linespacing": 1.15}
        axes.text(x + width / 2, y + 0.08, label, va="top", **text)
        axes.text(x + width / 2, y + tall - 0.08, count, va="bottom", fontweight="bold", **text)
    if not boxes:
        _say(axes, "no counts to show")
    return _save(figure, path, note)


def _fit(label: str, count: str, width: float) -> tuple[str, float]:
    """A label wrapped to a box of this width, and the height of the box with the count below it (inches)."""
    wrapped = _wrap(label, int(width * 72 / (10.5 * 0.58)) - 2)
    return wrapped, 0.178 * (wrapped.count("\n") + count.count("\n") + 2) + 0.16


# ---- common parts ----


def _number(value: float | EstimateLike | None) -> float | None:
    """The number in a number or an estimate; None where it is undefined."""
    number: Any = getattr(value, "value", value)
    return None if number is None or math.isnan(number) else float(number)


def _arms(value: float | EstimateLike | None) -> tuple[float, float]:
    """How far the interval of an estimate reaches below and above its value; zero where it has none."""
    number, low, high = _number(value), getattr(value, "low", None), getattr(value, "high", None)
    if number is None or low is None or high is None:
        return 0.0, 0.0
    return max(0.0, number - low), max(0.0, high - number)


def _marker(index: int, size: float = 8) -> dict[str, Any]:
    """The look of a marked point; line style and marker are both of this index, so that a legend can show it."""
    return {
        "linestyle": "none",
        "marker": MARKERS[index % len(MARKERS)],
        "markersize": size,
        "markerfacecolor": COLOURS[(index + 1) % len(COLOURS)],
        "markeredgecolor": INK,
        "markeredgewidth": 1.0,
    }


def _range(values: NDArray[np.floating]) -> tuple[float, float]:
    """Limits of a score axis: 0 to 1 for probabilities, else the range of the values."""
    if not values.size or (values.min() >= 0 and values.max() <= 1):
        return 0.0, 1.0
    return _margin(float(values.min()), float(values.max()))


def _margin(low: float, high: float) -> tuple[float, float]:
    """A range with 5 % of room on either side, and some room where it is a single value."""
    room = 0.05 * (high - low) or 0.05 * abs(high) or 0.05
    return low - room, high + room


def _wrap(text: str, characters: int) -> str:
    return textwrap.fill(text, max(6, characters))


def _say(axes: Axes, text: str, depth: float = 0.5, fontsize: float = 12) -> None:
    """In place of data: why there is none, `depth` (0 to 1) from the top of the axes."""
    look: dict[str, Any] = {"ha": "center", "va": "center", "color": GREY, "style": "italic", "fontsize": fontsize}
    clear = {"facecolor": "white", "edgecolor": "none", "pad": 1}
    axes.text(0.5, 1 - depth, text, transform=axes.transAxes, bbox=clear, **look)


def _legend(figure: Figure, handles: Sequence[Any], columns: int | None = None) -> None:
    """A legend below the axes, where it can hide nothing; labels may be long."""
    if handles:
        labels = [_wrap(str(handle.get_label()), LEGEND_CHARACTERS) for handle in handles]
        figure.legend(handles, labels, loc="outside lower center", ncols=columns or _legend_columns(labels))


def _legend_columns(labels: Sequence[str]) -> int:
    return 2 if max((len(label) for label in labels), default=0) <= LEGEND_CHARACTERS / 2 - 4 else 1


def _legend_height(labels: Sequence[str]) -> float:
    """Height in inches that a legend with these labels takes."""
    lines = sum(_wrap(label, LEGEND_CHARACTERS).count("\n") + 1 for label in labels)
    return 0.215 * math.ceil(lines / _legend_columns(labels))


def _save(figure: Figure, path: Path, note: str) -> Path:
    """Write the PNG without date and version, so that the same figure has the same bytes."""
    pixels = _pixels(figure)
    if note:  # on a strip of its own below the figure, so that it covers nothing
        strip = Figure((WIDTH, 0.2))
        strip.text(0.995, 0.3, note, ha="right", fontsize=9, color=GREY)
        pixels = np.vstack([pixels, _pixels(strip)])
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, format="PNG", dpi=(150, 150))
    return path


def _pixels(figure: Figure) -> NDArray[np.uint8]:
    """The drawn figure, (H, W, 3)."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:, :, :3]
