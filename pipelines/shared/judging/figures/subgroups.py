"""Forest plot of subgroups."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pipelines.shared.judging.figures.style import (
    COLOURS,
    GREY,
    WIDTH,
    arms_of,
    margin,
    number_of,
    save,
    say,
    styled,
    wrap,
)
from pipelines.shared.judging.report import EstimateLike, estimate_text


@dataclass(frozen=True)
class Subgroup:
    """A row of a forest plot; consecutive rows of one `group` stand under its heading."""

    label: str
    estimate: EstimateLike | None
    n: int
    group: str = ""


@styled
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
        label = textwrap.indent(wrap(subgroup.label, 22), "   " if group else "")
        reason = wrap(_reason(subgroup.estimate), 24)
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
        axes.set_xlim(*margin(min(values), max(values)))
    axes.xaxis.set_major_locator(MaxNLocator(3))
    axes.set_xlabel(metric)
    if overall is not None and (value := number_of(overall.estimate)) is not None:
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
        value = number_of(row.estimate)
        if value is None:
            say(axes, wrap(_reason(row.estimate), 24), middle / height, fontsize=9.5)
        else:
            arms = np.reshape(arms_of(row.estimate), (2, 1))
            marker, size = ("D", 8.0) if row is overall else ("s", 3 + 5 * math.sqrt(row.n / most))
            axes.errorbar(
                [value], [middle], xerr=arms, color=COLOURS[0], elinewidth=1.5, marker=marker, markersize=size
            )
        numbers.text(0.215, middle, estimate_text(row.estimate), va="center", fontsize=10.5, fontweight=bold)
    if not lines:
        say(axes, "no subgroups")
    return save(figure, path, note)


def _extent(estimate: EstimateLike | None) -> list[float]:
    """What an estimate needs of an axis."""
    value = number_of(estimate)
    low, high = arms_of(estimate)
    return [] if value is None else [value - low, value + high]


def _reason(estimate: EstimateLike | None) -> str:
    """Why there is no number, or nothing where there is one."""
    if number_of(estimate) is not None:
        return ""
    return (estimate.reason if estimate is not None else None) or "not estimated"
