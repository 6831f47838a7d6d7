"""A page that sums up a long recording as a Holter monitor's report does: its hours, the burden of each rhythm, strips.

Burden is the share of the readable time that a rhythm lasts (Chen et al., Circulation 137:e623, 2018, for atrial
fibrillation).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from pipelines import __version__
from pipelines.ecg.labels import MASKED, RATE, STEP, Episode, episodes
from pipelines.ecg.plots import TINTS
from pipelines.shared.errors import counted
from pipelines.shared.judging.figures.style import WIDTH, legend, legend_height, save, styled
from pipelines.shared.judging.report import (
    Cell,
    Headline,
    HeadlineFigure,
    Picture,
    Report,
    Section,
    Table,
    Text,
    left_then_right,
    render,
)
from pipelines.shared.stats.bootstrap import STANDARD, Bootstrap, bootstrap_estimates, divide
from pipelines.shared.stats.estimate import Estimate

LONG = 3600  # seconds; a shorter recording is one picture of strips
HOUR = 3600
SECONDS_A_PIXEL = 2
OTHER = "#c8b8a8"  # sums of several classes
UNREADABLE = "#5c6470"
HOW_TO_READ = (
    "A network named the rhythm of every 1.28 seconds; nobody has looked at it. Beats are not counted, so there is no "
    "heart rate, and a single premature beat has no name here. How often the network is right is in the report and the "
    "model card of its run. All episodes are in episodes.csv, and beside the signal in any viewer of WFDB files "
    "(annotations/)."
)


def burdens(labels: Sequence[str], names: Sequence[str], bootstrap: Bootstrap = STANDARD) -> dict[str, Estimate]:
    """The burden of each rhythm that occurs, the largest first.

    The interval resamples the hours of the recording: it says how much the burden varies within it, not how often the
    network is wrong. It is undefined within the first hour.

    Args:
        labels: the rhythm of every step; `MASKED` where the signal cannot be read.
        names: of the rhythms.
        bootstrap: resamples, seed and level.
    """
    present = [name for name in names if name in labels]
    hour = np.arange(len(labels)) * STEP // (RATE * HOUR)
    rhythm = np.asarray(labels, object)
    hours = int(hour[-1]) + 1
    readable = np.bincount(hour, rhythm != MASKED, hours)
    steps = np.stack([np.bincount(hour, rhythm == name, hours) for name in present], axis=1)  # (hours, rhythms)
    found = bootstrap_estimates(
        list(steps.sum(axis=0) / readable.sum()),
        lambda counts: divide(counts @ steps, (counts @ readable)[:, None]),
        np.arange(hours),
        n=hours,
        bootstrap=bootstrap,
        undefined="without a readable step",
    )
    order = np.argsort(-steps.sum(axis=0), kind="stable")
    return {present[i]: found[i] for i in order}


@styled
def hours_picture(path: Path, labels: Sequence[str], names: Sequence[str]) -> Path:
    """One row for each hour of a recording, coloured by rhythm; white where it is over."""
    tints = {name: TINTS.get(name, OTHER) for name in names if name in labels}
    if MASKED in labels:
        tints["not readable"] = UNREADABLE
    hours = -(-len(labels) * STEP // (RATE * HOUR))
    colours = np.array([matplotlib.colors.to_rgb(tint) for tint in (*tints.values(), "white")])
    codes = {name: i for i, name in enumerate(tints)}
    code = np.array([codes["not readable" if name == MASKED else name] for name in labels])
    seconds = (np.arange(hours * HOUR // SECONDS_A_PIXEL) + 0.5) * SECONDS_A_PIXEL
    step = (seconds * RATE / STEP).astype(int)
    shown = np.where(step < len(labels), code[step.clip(max=len(labels) - 1)], len(tints))
    figure = Figure((WIDTH, 0.75 + 0.22 * hours + legend_height(list(tints))))
    axes = figure.subplots()
    axes.imshow(
        colours[shown].reshape(hours, -1, 3), aspect="auto", interpolation="nearest", extent=(0, 60, hours + 0.5, 0.5)
    )
    axes.hlines(np.arange(1, hours) + 0.5, 0, 60, color="white", linewidth=1.5)
    axes.set_yticks([h for h in range(1, hours + 1) if hours <= 12 or h % 4 == 1])
    axes.set_xticks(range(0, 61, 10))
    axes.set(xlabel="minutes", ylabel="hour of the recording")
    axes.grid(False)
    legend(figure, [Patch(facecolor=tint, label=name) for name, tint in tints.items()], columns=4)
    return save(figure, path, "")


def write_summary(
    folder: Path, name: str, labels: Sequence[str], names: Sequence[str], strips: Path, bootstrap: Bootstrap
) -> Path:
    """`report.html` in a folder of the recording's own.

    Args:
        folder: where the page and its picture go.
        name: of the recording, as it is shown.
        labels: the rhythm of every step.
        names: of the rhythms.
        strips: the picture of the longest episode of each rhythm.
        bootstrap: resamples, seed and level.
    """
    runs = [episode for episode in episodes(labels) if episode.rhythm != MASKED]
    share = burdens(labels, names, bootstrap)
    hours_picture(folder / "hours.png", labels, names)
    total, unread = len(labels) * STEP, sum(name == MASKED for name in labels) * STEP
    of_readable = "share of the readable time"
    first = next(iter(share))
    figures = [
        HeadlineFigure("Recorded", clock(total), "hours, minutes, seconds"),
        HeadlineFigure("Not readable", clock(unread), "flat line or gap"),
        HeadlineFigure(f"Burden of {first}", share[first], of_readable),
    ]
    if "AF" in share and first != "AF":
        figures.append(HeadlineFigure("Burden of AF", share["AF"], of_readable))
    hours = Picture(
        "hours.png",
        "Each row is an hour of the recording, coloured by rhythm.",
        "Rows of colours, one for each hour; the table below has their shares.",
    )
    longest = Picture(
        strips.resolve(),
        "The longest episode of each rhythm around its middle.",
        "Strips of signal with the network's rhythm behind each step.",
    )
    sections = [
        Section("Hours", [hours]),
        Section("Rhythms", [_table(share, runs, bootstrap.level)]),
        Section("Strips", [longest]),
        Section("How to read it", [Text(HOW_TO_READ, "note")]),
    ]
    sentence = f"{clock(total)} of ECG, {counted(len(runs), 'episode')} of {counted(len(share), 'rhythm')}."
    headline = Headline(sentence, figures, ["Not for medical use."])
    return render(Report(f"Rhythms of {name}", "ecg", False, headline, sections, footer=__version__), folder)


def _table(share: dict[str, Estimate], runs: Sequence[Episode], level: float) -> Table:
    rows: list[list[Cell]] = []
    for rhythm, estimate in share.items():
        own = [e for e in runs if e.rhythm == rhythm]
        longest = max(own, key=lambda e: e.end - e.start)
        total = sum(e.end - e.start for e in own)
        length = longest.end - longest.start
        rows.append([rhythm, estimate, clock(total), len(own), clock(length), clock(longest.start)])
    columns = ["Rhythm", "Burden", "In all", "Episodes", "Longest", "Longest begins at"]
    return Table(
        columns,
        rows,
        f"Burden is the share of the readable time, with a {100 * level:g} % interval from resampling the hours of the "
        "recording: how much it varies within this recording, not how often the network is wrong. Times are hours, "
        "minutes and seconds from the beginning.",
        left_then_right(columns),
    )


def clock(sample: int) -> str:
    """Samples as hours:minutes:seconds."""
    seconds = sample // RATE
    return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
