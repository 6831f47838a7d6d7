"""Confusion matrix of two or more classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from pipelines.shared.judging.figures.style import GREY, INK, WIDTH, save, say, styled, wrap


@styled
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
    below = [wrap(str(c), 16) if k <= 12 else str(c) for c in classes]
    longest = max((len(line) for label in below for line in label.split("\n")), default=0)
    figure = Figure((WIDTH, 6.4 if k > 12 else 5.2 if k > 2 else 4.4))
    axes = figure.subplots()
    axes.imshow(share.reshape(k, k) if len(classes) else np.zeros((1, 1)), cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.grid(False)
    axes.spines[:].set_visible(False)
    size = 11 if k <= 5 else 9 if k <= 8 else 6.5  # points
    axes.set_xticks(range(len(classes)), below)
    names = [f"{wrap(str(c), 16)}\n(n = {int(total):,})" for c, total in zip(classes, totals, strict=True)]
    axes.set_yticks(range(len(classes)), names if k <= 8 else [str(c) for c in classes])
    axes.tick_params(length=0, labelsize=10 if k <= 8 else 8)
    if longest > 52 / k:  # too long to stand side by side
        axes.tick_params(axis="x", labelrotation=35 if k <= 12 else 90)
        for label in axes.get_xticklabels():
            label.set(horizontalalignment="right", rotation_mode="anchor")
            if k > 12:
                label.set_verticalalignment("center")
    axes.set(xlabel=column_label if k <= 8 else f"{column_label} (numbers: % of the row)", ylabel=row_label)
    for (i, j), value in np.ndenumerate(counts):
        percent = f"{100 * share[i, j]:.0f}"
        text = f"{percent} %\n{int(value):,}" if k <= 8 else percent
        if value:
            axes.text(j, i, text, ha="center", va="center", fontsize=size, color="white" if share[i, j] > 0.55 else INK)
        else:
            axes.text(j, i, "0", ha="center", va="center", fontsize=size, color=GREY)
    if not len(classes):
        say(axes, "no classes to show")
    return save(figure, path, note)
