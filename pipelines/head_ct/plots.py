"""The study's own figures: queues, waiting times, errors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from pipelines.head_ct.triage_statistics import QueueOrder, RoomResult
from pipelines.shared.judging.figures.style import COLOURS, GREY, INK, LINES, WIDTH, legend, save, say, styled, wrap

NAMES = {"first_come": "first come, first served", "triage": "highest score first", "alarm": "alarms first"}


@styled
def queue(path: Path, order: QueueOrder, truth: np.ndarray, note: str = "") -> Path:
    """Both queues: where critical and other studies stand, at random and by score."""
    figure = Figure((WIDTH, 3.4))
    axes = figure.subplots()
    rng = np.random.default_rng(0)
    labels, row = [], 0
    for name, position in (("random order", order.random), ("by score", order.by_score)):
        for kind, what in ((1, "critical"), (0, "others")):
            positions = position[truth == kind]
            y = row + rng.uniform(-0.26, 0.26, len(positions))
            axes.plot(positions, y, "o" if kind else "x", color=COLOURS[kind], markersize=3.5, alpha=0.75)
            if len(positions):
                axes.plot([np.median(positions)] * 2, [row - 0.36, row + 0.36], color=INK, linewidth=2.2)
            labels.append(f"{what}, {name}")
            row += 1
    axes.set_yticks(range(4), labels)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("Position in the queue (line: median)")
    return save(figure, path, note)


@styled
def waiting(path: Path, result: RoomResult, note: str = "") -> Path:
    """How long critical studies wait until they are read: cumulative shares under each policy."""
    figure = Figure((WIDTH, 3.9))
    axes = figure.subplots()
    longest = max(float(np.percentile(t, 99)) for t in result.times.values()) / 60
    lines = []
    for i, (policy, times) in enumerate(result.times.items()):
        ordered = np.sort(times) / 60
        share = np.arange(1, len(ordered) + 1) / len(ordered)
        lines += axes.plot(ordered, share, color=COLOURS[i], linestyle=LINES[i], label=NAMES[policy])
    axes.set_xlim(0, longest)
    axes.set_ylim(0, 1)
    axes.set_xlabel("Minutes from arrival to the end of reading")
    axes.set_ylabel("Share of critical studies")
    legend(figure, lines, columns=1)
    return save(figure, path, note)


@styled
def strips(path: Path, pictures: Sequence[np.ndarray], titles: Sequence[str], note: str = "") -> Path:
    """Rows of key slices with a line of text above each."""
    if not pictures:
        figure = Figure((WIDTH, 1))
        axes = figure.subplots()
        axes.axis("off")
        say(axes, "no errors to show")
        return save(figure, path, note)
    height = WIDTH / 3.6 + 0.5
    figure = Figure((WIDTH, height * len(pictures)))
    for axes, picture, title in zip(np.atleast_1d(figure.subplots(len(pictures), 1)), pictures, titles, strict=True):
        axes.imshow(picture, cmap="gray", vmin=0, vmax=255)
        axes.set_title(wrap(title, 78), fontsize=10, color=GREY)
        axes.axis("off")
    return save(figure, path, note)
