"""Figures of the ECG report that no other study has: rhythm strips with coloured episodes, and panels of curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipelines.ecg.config import CLASSES
from pipelines.ecg.labels import RATE, STEP
from pipelines.shared.judging.figures.style import COLOURS, GREY, INK, REFERENCE_LINE, WIDTH, save, say, styled

# Of each class: light enough to read a signal on; the name stands beside it, for those who do not see colours.
TINTS = dict(
    zip(
        CLASSES,
        ["#f6b48f", "#9fd0ea", "#c9e29a", "#f3d36b", "#b5a6e0", "#8fd6c1", "#d3d3d3", "#eef2f5", "#f2a0b5",
         "#dfeeb0", "#e08a6a", "#a8b8f0"],
        strict=True,
    )
)  # fmt: skip
SHORT = {"JUNCTIONAL": "JUNCT", "BIGEMINY": "BIGEM", "TRIGEMINY": "TRIGEM", "WENCKEBACH": "WENCK"}


@dataclass(frozen=True)
class Strip:
    """A stretch of signal with the rhythm of each of its steps.

    Attributes:
        title: above it.
        signal: (steps * 256,) at 200 Hz, any unit; NaN where there is none.
        start: seconds from the beginning of the recording.
        model: the model's rhythm of each step, None where there is none.
        reference: the reference's, likewise; or no entries.
    """

    title: str
    signal: np.ndarray
    start: float
    model: Sequence[str | None]
    reference: Sequence[str | None] = ()


@styled
def strips(path: Path, rows: Sequence[Strip], *, note: str = "") -> Path:
    """Rhythm strips one below the other: the background is the model's answer, the bar below it the reference."""
    figure = Figure((WIDTH, 0.35 + 1.22 * max(1, len(rows))))
    axes: list[Axes] = np.atleast_1d(figure.subplots(max(1, len(rows)), 1)).ravel().tolist()
    for place, row in zip(axes, rows, strict=False):
        _strip(place, row)
    if not rows:
        say(axes[0], "no strips to show")
    axes[-1].set_xlabel("seconds", fontsize=9)
    return save(figure, path, note)


def _strip(axes: Axes, row: Strip) -> None:
    time = row.start + np.arange(len(row.signal)) / RATE
    known = row.signal[~np.isnan(row.signal)]
    low, high = (float(v) for v in np.quantile(known, [0.002, 0.998])) if len(known) else (-1.0, 1.0)
    room = max(high - low, 1e-6)
    bottom, top = low - 0.45 * room, high + 0.4 * room
    for labels, base, height, name_at in (
        (row.model, bottom + 0.22 * (top - bottom) * bool(row.reference), top, 0.93),
        (row.reference, bottom, bottom + 0.2 * (top - bottom), 0.1),
    ):
        for begin, end, name in _runs(labels):
            left, right = row.start + begin * STEP / RATE, row.start + end * STEP / RATE
            axes.fill_between([left, right], base, height, color=TINTS.get(name, "white"), linewidth=0)
            text = f"committee {SHORT.get(name, name)}" if labels is row.reference else name
            if end - begin == 1:
                text = SHORT.get(name, name)[:6]
            axes.text(
                left + 0.06, bottom + name_at * (top - bottom), text, fontsize=7, color=INK,
                va="center" if name_at < 0.5 else "top", clip_on=True,
            )  # fmt: skip
    axes.plot(time, row.signal, color=INK, linewidth=0.7)
    axes.set_xlim(time[0], time[-1])
    axes.set_ylim(bottom, top)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.grid(True, axis="x", color="white", linewidth=0.6)
    axes.tick_params(labelsize=8, length=2)
    axes.set_title(row.title, fontsize=8.5, pad=2, color=GREY)


def _runs(labels: Sequence[str | None]) -> list[tuple[int, int, str]]:
    """(first step, last + 1, rhythm) of each run of one rhythm; steps without one are left out."""
    runs, step = [], 0
    for name, run in groupby(labels):
        length = len(list(run))
        if name is not None:
            runs.append((step, step + length, name))
        step += length
    return runs


@dataclass(frozen=True)
class Panel:
    """One class: a curve, and the readers' points on it. Arrays of equal length each."""

    title: str
    x: np.ndarray
    y: np.ndarray
    readers_x: Sequence[float] = ()
    readers_y: Sequence[float] = ()
    pooled: tuple[float, float] | None = None
    level: float | None = None  # of chance, for precision-recall


@styled
def panels(path: Path, rows: Sequence[Panel], xlabel: str, ylabel: str, *, steps: bool = False, note: str = "") -> Path:
    """A small panel per class; crosses are single cardiologists, the diamond all of them pooled."""
    across = 3
    down = max(1, -(-len(rows) // across))
    figure = Figure((WIDTH, 0.4 + 1.95 * down))
    axes: list[Axes] = np.atleast_1d(figure.subplots(down, across, sharex=True, sharey=True)).ravel().tolist()
    for place, row in zip(axes, rows, strict=False):
        look: dict[str, Any] = {"drawstyle": "steps-pre"} if steps else {}
        if row.level is not None:
            place.axhline(row.level, **REFERENCE_LINE)
        elif not steps:
            place.plot([0, 1], [0, 1], **REFERENCE_LINE)
        order = np.argsort(row.x, kind="stable") if steps else slice(None)
        place.plot(np.asarray(row.x)[order], np.asarray(row.y)[order], color=COLOURS[0], linewidth=1.4, **look)
        place.plot(row.readers_x, row.readers_y, "x", color=INK, markersize=4.5, markeredgewidth=1.0)
        if row.pooled is not None:
            place.plot(*row.pooled, "D", color=COLOURS[1], markeredgecolor=INK, markersize=5.5)
        place.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        place.set_title(row.title, fontsize=9.5, pad=3)
        place.tick_params(labelsize=8)
        place.set_xticks([0, 0.5, 1])
        place.set_yticks([0, 0.5, 1])
    for place in axes[len(rows) :]:
        place.axis("off")
    if not rows:
        say(axes[0], "no curve to show")
    figure.supxlabel(xlabel, fontsize=10)
    figure.supylabel(ylabel, fontsize=10)
    return save(figure, path, note)
