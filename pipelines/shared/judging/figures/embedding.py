"""A map of records in two dimensions, coloured by group."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from pipelines.shared.judging.figures.style import COLOURS, MARKERS, WIDTH, legend, legend_height, save, say, styled


@styled
def embedding(path: Path, points: ArrayLike, groups: Sequence[str], order: Sequence[str], *, note: str = "") -> Path:
    """Points (n, 2) of a map such as t-SNE, each with the colour and marker of its group.

    `order` names the groups for the legend. There are more groups than colours: the marker changes with every group,
    the colour repeats with another marker.
    """
    places = np.asarray(points, dtype=float).reshape(-1, 2)
    names = np.asarray(groups, dtype=object)
    labels = [f"{name} (n = {int((names == name).sum()):,})" for name in order]
    figure = Figure((WIDTH, 5.6 + legend_height(labels)))
    axes = figure.subplots()
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.grid(False)
    handles = []
    for i, (name, label) in enumerate(zip(order, labels, strict=True)):
        marker = MARKERS[(i + i // len(COLOURS)) % len(MARKERS)]
        own_places = places[names == name]
        look: dict[str, Any] = {"linestyle": "none", "markersize": 5, "alpha": 0.8, "markeredgewidth": 0.0}
        handles += axes.plot(
            own_places[:, 0], own_places[:, 1], marker=marker, color=COLOURS[i % len(COLOURS)], label=label, **look
        )
    if not len(places):
        say(axes, "no records to show")
    legend(figure, handles)
    return save(figure, path, note)
