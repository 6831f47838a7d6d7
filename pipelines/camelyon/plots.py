"""Pictures of the report that only this study has."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from pipelines.shared.judging.figures.style import WIDTH, save, styled


@styled
def rows_of_slides(
    path: Path, rows: Sequence[tuple[str, Sequence[np.ndarray]]], heads: Sequence[str], *, note: str = ""
) -> Path:
    """Slides one below the other, each with its pictures side by side (uint8 (H, W, 3)) and a title."""
    count, columns = max(1, len(rows)), len(heads)
    side = WIDTH / columns
    line = 0.24
    figure = Figure((WIDTH, count * (side + line) + 0.26))
    figure.set_layout_engine("none")
    height = figure.get_figheight()
    for c, head in enumerate(heads):
        figure.text((c + 0.5) / columns, 1 - 0.16 / height, head, ha="center", fontsize=11, fontweight="bold")
    for r, (title, pictures) in enumerate(rows):
        top = 0.26 + r * (side + line)
        figure.text(0.01, 1 - (top + line * 0.75) / height, title, fontsize=9.5)
        for c, picture in enumerate(pictures):
            box = (
                c / columns + 0.005,
                1 - (top + line + side - 0.04) / height,
                1 / columns - 0.01,
                (side - 0.06) / height,
            )
            axes = figure.add_axes(box)
            axes.imshow(picture)
            axes.set_axis_off()
    return save(figure, path, note)


@styled
def mask_sheet(path: Path, pictures: Sequence[tuple[str, np.ndarray]], columns: int = 5, *, note: str = "") -> Path:
    """Small pictures with their names below, in rows."""
    rows = max(1, -(-len(pictures) // columns))
    side, line = WIDTH / columns, 0.17
    figure = Figure((WIDTH, rows * (side + line) + 0.05))
    figure.set_layout_engine("none")
    height = figure.get_figheight()
    for i, (name, picture) in enumerate(pictures):
        r, c = divmod(i, columns)
        bottom = 1 - ((r + 1) * (side + line)) / height
        axes = figure.add_axes(
            (c / columns + 0.005, bottom + line / height, 1 / columns - 0.01, (side - 0.06) / height)
        )
        axes.imshow(picture)
        axes.set_axis_off()
        figure.text((c + 0.5) / columns, bottom + 0.05 / height, name, ha="center", fontsize=8)
    return save(figure, path, note)
