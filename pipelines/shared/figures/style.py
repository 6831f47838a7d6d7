"""What all figures share: palette and style, the numbers in an estimate, legend, and the PNG file."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pipelines.shared.report import EstimateLike
from pipelines.shared.run_folder import write_png

WIDTH = 6.4  # inches
LEGEND_CHARACTERS = 62  # that fit into one line of a legend
INK, GREY = "#1c2228", "#66717c"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#A3477F", "#8A6A00", "#333333")
LINES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)))
MARKERS = ("o", "s", "D", "^", "v", "P")
# chance, or perfect calibration
REFERENCE_LINE: dict[str, Any] = {"color": GREY, "linewidth": 1, "linestyle": (0, (2, 3))}
BARS: dict[str, Any] = {"elinewidth": 1.3, "capsize": 3}  # intervals as error bars
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

styled = matplotlib.style.context(["default", STYLE])  # whatever the user's own matplotlibrc says


def number_of(value: float | EstimateLike | None) -> float | None:
    """The number in a number or an estimate; None where it is undefined."""
    number: Any = getattr(value, "value", value)
    return None if number is None or math.isnan(number) else float(number)


def arms_of(value: float | EstimateLike | None) -> tuple[float, float]:
    """How far the interval of an estimate reaches below and above its value; zero where it has none."""
    number, low, high = number_of(value), getattr(value, "low", None), getattr(value, "high", None)
    if number is None or low is None or high is None:
        return 0.0, 0.0
    return max(0.0, number - low), max(0.0, high - number)


def point_look(index: int, size: float = 8) -> dict[str, Any]:
    """The look of a marked point; line style and marker are both of this index, so that a legend can show it."""
    return {
        "linestyle": "none",
        "marker": MARKERS[index % len(MARKERS)],
        "markersize": size,
        "markerfacecolor": COLOURS[(index + 1) % len(COLOURS)],
        "markeredgecolor": INK,
        "markeredgewidth": 1.0,
    }


def margin(low: float, high: float) -> tuple[float, float]:
    """A range with 5 % of room on either side, and some room where it is a single value."""
    room = 0.05 * (high - low) or 0.05 * abs(high) or 0.05
    return low - room, high + room


def wrap(text: str, characters: int) -> str:
    """Text in lines of at most this many characters, or six where that is less."""
    return textwrap.fill(text, max(6, characters))


def say(axes: Axes, text: str, depth: float = 0.5, fontsize: float = 12) -> None:
    """In place of data: why there is none, `depth` (0 to 1) from the top of the axes."""
    look: dict[str, Any] = {"ha": "center", "va": "center", "color": GREY, "style": "italic", "fontsize": fontsize}
    clear = {"facecolor": "white", "edgecolor": "none", "pad": 1}
    axes.text(0.5, 1 - depth, text, transform=axes.transAxes, bbox=clear, **look)


def legend(figure: Figure, handles: Sequence[Any], columns: int | None = None) -> None:
    """A legend below the axes, where it can hide nothing; labels may be long."""
    if handles:
        labels = [wrap(str(handle.get_label()), LEGEND_CHARACTERS) for handle in handles]
        figure.legend(handles, labels, loc="outside lower center", ncols=columns or _legend_columns(labels))


def _legend_columns(labels: Sequence[str]) -> int:
    return 2 if max((len(label) for label in labels), default=0) <= LEGEND_CHARACTERS / 2 - 4 else 1


def legend_height(labels: Sequence[str]) -> float:
    """Height in inches that a legend with these labels takes."""
    lines = sum(wrap(label, LEGEND_CHARACTERS).count("\n") + 1 for label in labels)
    return 0.215 * math.ceil(lines / _legend_columns(labels))


def save(figure: Figure, path: Path, note: str) -> Path:
    """Write the PNG without date and version, so that the same figure has the same bytes."""
    pixels = _pixels(figure)
    if note:  # on a strip of its own below the figure, so that it covers nothing
        strip = Figure((WIDTH, 0.2))
        strip.text(0.995, 0.3, note, ha="right", fontsize=9, color=GREY)
        pixels = np.vstack([pixels, _pixels(strip)])
    path = Path(path)
    write_png(path, pixels, dpi=(150, 150))
    return path


def _pixels(figure: Figure) -> NDArray[np.uint8]:
    """The drawn figure, (H, W, 3)."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:, :, :3]
