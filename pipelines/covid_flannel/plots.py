"""Table 6.3 as a figure: every method's F1 in every fold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from pipelines.shared.judging.figures.style import COLOURS, GREY, INK, WIDTH, save, say, styled


@styled
def fold_table(
    path: Path,
    methods: Sequence[str],
    panels: Sequence[tuple[str, np.ndarray]],
    first_combination: int,
    *,
    note: str = "",
) -> Path:
    """One row per method, one panel per measure: a grey dot per fold, their mean, and one standard deviation to either
    side.

    Args:
        path: of the PNG.
        methods: row labels, base learners first.
        panels: title, and values (methods, folds) with NaN where undefined.
        first_combination: number of the first row that is no base learner; a line stands above it.
        note: below the figure.
    """
    figure = Figure((WIDTH, 1.2 + 0.34 * len(methods)))
    axes = np.atleast_1d(figure.subplots(1, max(1, len(panels)), sharey=True))
    rows = np.arange(len(methods))
    for one, (title, values) in zip(axes, panels, strict=False):
        table = np.asarray(values, float)
        for row, of_method in zip(rows, table, strict=True):
            known = of_method[~np.isnan(of_method)]
            colour = COLOURS[0] if row < first_combination else COLOURS[1]
            one.plot(known, np.full(len(known), row), linestyle="none", marker="o", markersize=4, color=GREY, alpha=0.7)
            if len(known):
                spread = known.std(ddof=1) if len(known) > 1 else 0.0
                one.errorbar(
                    [known.mean()],
                    [row],
                    xerr=[spread],
                    color=colour,
                    marker="D",
                    markersize=7,
                    elinewidth=2,
                    capsize=3,
                    markeredgecolor=INK,
                )
        one.axhline(first_combination - 0.5, color=GREY, linewidth=1)
        one.set(title=title, xlabel="F1")
        one.grid(False, axis="y")
    axes[0].set_yticks(rows, list(methods))
    axes[0].set_ylim(len(methods) - 0.5, -0.5)
    if not len(panels):
        say(axes[0], "no folds to show")
    return save(figure, path, note)
