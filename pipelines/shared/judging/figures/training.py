"""Training curves, and what more training data would bring."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from pipelines.shared.judging.figures.style import (
    BARS,
    COLOURS,
    GREY,
    LINES,
    WIDTH,
    arms_of,
    legend,
    number_of,
    point_look,
    save,
    say,
    styled,
    wrap,
)
from pipelines.shared.judging.report import EstimateLike

if TYPE_CHECKING:
    import pandas as pd


@styled
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
    best epoch of each network by `monitor` (the first, where several are) is marked. Where a head was fitted with one
    penalty after the other there is a column `penalty`, which takes the learning rate's place.

    Raises:
        ValueError: a column is missing.
    """
    needed = ["network", "epoch", "train_loss", "val_loss", monitor, "learning_rate"]
    missing = [name for name in needed if name not in history.columns]
    if missing:
        raise ValueError(
            f"The training history lacks {', '.join(missing)}; it has {', '.join(map(str, history.columns))}."
        )
    head_only = "penalty" in history
    networks = [rows.sort_values("epoch") for _, rows in history.groupby("network", sort=True)]
    several = len(networks) > 1
    figure = Figure((WIDTH, 6.6))
    loss, metric, rate = figure.subplots(3, 1, sharex=True, height_ratios=(2, 2, 0.9))
    thin: dict[str, Any] = {"linewidth": 1.1, "alpha": 0.75} if several else {}
    best_look = point_look(1, size=7)
    panels = [(loss, "train_loss", 1), (loss, "val_loss", 0), (metric, monitor, 0)]
    for rows in networks:
        dot = "." if len(rows) == 1 else ""
        for axes, column, i in panels:
            axes.plot(rows["epoch"], rows[column], color=COLOURS[i], linestyle=LINES[i], marker=dot, **thin)
        rate.plot(rows["epoch"], rows["penalty" if head_only else "learning_rate"], color=GREY, marker=dot, **thin)
        values = rows[monitor].to_numpy(dtype=float)
        if np.isfinite(values).any():
            row = rows.iloc[int(np.nanargmax(values) if higher_is_better else np.nanargmin(values))]
            metric.plot([row["epoch"]], [row[monitor]], **best_look)
            loss.plot([row["epoch"]], [row["val_loss"]], **best_look)
    if not networks:
        say(metric, "no epochs to show")
    loss.set(ylabel="Loss")
    metric.set(ylabel=wrap(monitor_label or monitor, 22))
    rate.set(ylabel="Learning\nrate", xlabel="Epoch")
    if head_only:
        rate.set(ylabel="Penalty", xlabel="Penalties, from the strongest to the weakest", yscale="log")
        ends = [history["penalty"].min(), history["penalty"].max()]
        rate.set_yticks(ends, [f"{end:.2g}" for end in ends])
        rate.minorticks_off()
    rate.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    if networks:
        rate.set_xlim(history["epoch"].min() - 0.5, history["epoch"].max() + 0.5)
    highest = float(np.nan_to_num(history["learning_rate"].max()))
    if highest > 0 and not head_only:
        rate.set_ylim(0, 1.1 * highest)
        rate.set_yticks([0, highest], ["0", f"{highest:.2g}"])
    figure.align_ylabels()
    best = f"best {'penalty' if head_only else 'epoch'}{' of each network' if several else ''}"
    handles: list[Any] = [
        Line2D([], [], color=COLOURS[1], linestyle=LINES[1], label="training"),
        Line2D([], [], color=COLOURS[0], linestyle=LINES[0], label="validation"),
        Line2D([], [], label=best, **best_look),
    ]
    legend(figure, handles, columns=3)
    return save(figure, path, note)


@styled
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
    rows = [(float(a), e) for a, e in zip(x, estimates, strict=True) if number_of(e) is not None and a > 0]
    figure = Figure((WIDTH, 3.9))
    axes = figure.subplots()
    axes.set(xlabel=xlabel, ylabel=ylabel)
    if rows:
        sizes = np.array([a for a, _ in rows])
        values = np.array([number_of(e) for _, e in rows], dtype=float)
        arms = np.array([arms_of(e) for _, e in rows]).T
        axes.errorbar(sizes, values, yerr=arms, fmt="o", color=COLOURS[0], markersize=5.5, **BARS)
        distinct = np.unique(sizes)
        axes.plot(distinct, [values[sizes == a].mean() for a in distinct], color=COLOURS[0], linewidth=1.3)
        axes.set_xscale("log")
        apart = [a for i, a in enumerate(distinct) if i == 0 or a > 1.25 * distinct[i - 1]]  # ticks that do not collide
        axes.xaxis.set_major_locator(FixedLocator(apart))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.set_xlim(distinct[0] / 1.3, distinct[-1] * 1.3)
    else:
        say(axes, "no estimate to show")
    return save(figure, path, note)
