"""Flow diagram of counts, from what was found to what was used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from pipelines.shared.judging.figures.style import GREY, WIDTH, save, say, styled, wrap


@dataclass(frozen=True)
class _Box:
    """A box of the diagram, in inches from its upper left corner."""

    x: float
    y: float
    width: float
    height: float
    label: str
    count: str
    colour: str = "#e9f1f6"


@styled
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
    boxes: list[_Box] = []
    arrows: list[tuple[float, float, float, float, str]] = []  # from x, y to x, y, style
    y = left
    for i, (label, count) in enumerate(steps):
        label, height = _fit(label, count, main)
        boxes.append(_Box(left, y, main, height, label, count))
        y += height
        start = y
        for _, reason, lost in (e for e in exclusions if e[0] == i):
            reason, height = _fit(reason, lost, aside)
            y += 0.12
            boxes.append(_Box(right, y, aside, height, reason, lost, colour="#f7f7f5"))
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
            boxes.append(_Box(x - width / 2, y, width, tallest, label, count))
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
        arrow = {"arrowstyle": style, "color": GREY, "linewidth": 1.2, "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", (x1, y1), (x0, y0), arrowprops=arrow)
    for box in boxes:
        look: dict[str, Any] = {"boxstyle": "round,pad=0,rounding_size=0.05", "edgecolor": GREY, "linewidth": 0.9}
        axes.add_patch(FancyBboxPatch((box.x, box.y), box.width, box.height, facecolor=box.colour, **look))
        text: dict[str, Any] = {"ha": "center", "fontsize": 10.5, "linespacing": 1.15}
        centre, bottom = box.x + box.width / 2, box.y + box.height
        axes.text(centre, box.y + 0.08, box.label, va="top", **text)
        axes.text(centre, bottom - 0.08, box.count, va="bottom", fontweight="bold", **text)
    if not boxes:
        say(axes, "no counts to show")
    return save(figure, path, note)


def _fit(label: str, count: str, width: float) -> tuple[str, float]:
    """A label wrapped to a box of this width, and the height of the box with the count below it (inches)."""
    wrapped = wrap(label, int(width * 72 / (10.5 * 0.58)) - 2)
    return wrapped, 0.178 * (wrapped.count("\n") + count.count("\n") + 2) + 0.16
