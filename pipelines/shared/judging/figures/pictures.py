"""Gallery of images with saliency maps and outlines of lesions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipelines.shared.judging.figures.style import WIDTH, save, say, styled, wrap


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


@styled
def gallery(path: Path, tiles: Sequence[Tile], columns: int = 2, *, note: str = "") -> Path:
    """Images, and beside each a grey copy with the saliency map (bright is high) and the outline of its lesions."""
    for tile in tiles:
        if tile.image.ndim != 3 or tile.image.shape[2] != 3 or tile.image.dtype != np.uint8:
            actual = f"{tile.image.shape} {tile.image.dtype}"
            raise ValueError(f"Gallery: the image of '{tile.title}' is {actual}, allowed is (height, width, 3) uint8.")
    pairs = any(tile.overlay is not None or tile.mask is not None for tile in tiles)
    columns = max(1, min(columns, len(tiles)))
    gap, line = 0.07, 0.185  # inches: between two images, height of a line of text
    width = (WIDTH - 3 * gap * (columns - 1)) / columns  # of a tile
    side = (width - gap) / 2 if pairs else width  # of an image
    characters = int(width * 72 / (10 * 0.54))
    titles = [wrap(tile.title, characters - 3) for tile in tiles]  # bold letters are wider
    subtitles = [wrap(tile.subtitle, characters) for tile in tiles]

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
        say(axes, "no images to show")
    return save(figure, path, note)


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
