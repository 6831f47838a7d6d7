"""The table on the screen, and the page with the plot of error against cost."""

from __future__ import annotations

import math
import platform
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator
from rich.console import Console
from rich.table import Table as ScreenTable

import pipelines
from pipelines.networks.published import ONE_PROTOCOL
from pipelines.shared.judging.figures.style import COLOURS, GREY, INK, WIDTH, legend, save, say, styled
from pipelines.shared.judging.report import (
    Headline,
    HeadlineFigure,
    Picture,
    Report,
    Section,
    Table,
    Text,
    render,
)
from pipelines.shared.screen import cpu_count

COLUMNS = {
    "label": "network",
    "year": "year",
    "size": "px",
    "parameters_m": "M parameters",
    "quoted_parameters_m": "as quoted",
    "multiply_adds_g": "G multiply-adds",
    "inference_per_s": "pictures/s",
    "training_per_s": "training/s",
    "inference_mb": "MB",
    "training_mb": "training MB",
    "published_top5_error": "top-5 error %",
}


def print_table(table: pd.DataFrame) -> None:
    """The main columns, aligned, on standard output."""
    screen = ScreenTable(*COLUMNS.values(), box=None, header_style="bold", pad_edge=False)
    for row in table.to_dict("records"):
        screen.add_row(*[_text(row[column], column) for column in COLUMNS])
    console = Console(width=None if Console().is_terminal else 150)
    console.print(screen)
    for row in table.to_dict("records"):
        if row["problem"]:
            console.print(f"{row['label']} at {row['size']} pixels: {row['problem']}", markup=False)


def _text(value: Any, column: str) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if column in ("label", "year", "size"):
        return str(int(value)) if not isinstance(value, str) else value
    if column.startswith(("quoted", "published")):
        return f"{value:g}"
    return short(value)


def short(value: float) -> str:
    """Three significant digits, without exponent: 0.00042, 4.09, 61.1, 833, 1,204."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    return f"{value:,.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def write_page(table: pd.DataFrame, out: Path, device: str) -> Path:
    """report.html, with the plot beside it."""
    machine = f"{cpu_count()} CPU cores" if device == "cpu" else device
    draw(out / "error_against_cost.png", table)
    trained = table[table["training_per_s"].notna()] if "training_per_s" in table else table.iloc[:0]
    figures = []
    if len(trained):
        fast, slow = (trained.loc[getattr(trained["training_per_s"], f)()] for f in ("idxmax", "idxmin"))
        figures = [
            HeadlineFigure(f"Fastest to train: {fast['label']}", short(fast["training_per_s"]), "pictures a second"),
            HeadlineFigure(f"Slowest: {slow['label']}", short(slow["training_per_s"]), "pictures a second"),
        ]
    sentence = (
        f"What {table['name'].nunique()} networks cost on this machine ({machine}, {platform.system()}), in batches of "
        f"{int(table['batch'].iloc[0])}, float32, with the head that ImageNet needs (1,000 classes; LeNet: ten digits)."
    )
    picture = Picture(
        "error_against_cost.png",
        "Top-5 error on ImageNet against multiply-adds for one picture. Filled: one protocol for all, "
        f"{ONE_PROTOCOL} of the validation set. Hollow: what the authors published, each under its own protocol "
        "(table below). Multiply-adds are those at the sizes measured.",
        "Scatter plot of error against cost.",
    )
    sections = [
        Section("Error against cost", [picture]),
        Section("What they cost here", [_cost(table), Text(
            "Training is forward, backward and a step of SGD with momentum. Memory is the peak above what the process "
            "held before; the time for 10,000 pictures is one epoch without reading and augmenting them.", "note",
        )]),
        Section("Beside what is published", [_published(table)]),
    ]  # fmt: skip
    report = Report("Networks and what they cost", "networks", False, Headline(sentence, figures), sections,
                    footer=f"imaging-pipelines {pipelines.__version__}")  # fmt: skip
    return render(report, out)


def _cost(table: pd.DataFrame) -> Table:
    rows: list[list[Any]] = []
    for row in table.to_dict("records"):
        if row["problem"]:
            rows.append([row["label"], str(row["size"]), row["problem"], *[None] * 5])
            continue
        rows.append(
            [
                row["label"], str(row["size"]), *[
                    None if pd.isna(row[c]) else short(row[c])
                    for c in ("multiply_adds_g", "inference_per_s", "training_per_s", "minutes_per_10000",
                              "inference_mb", "training_mb")
                ],
            ]
        )  # fmt: skip
    columns = ["Network", "Pixels", "G multiply-adds", "Pictures/s", "Training, pictures/s", "Minutes for 10,000",
               "MB", "Training, MB"]  # fmt: skip
    return Table(columns, rows, "Speed and memory, measured.", ["left", *["right"] * 7])  # type: ignore[list-item]


def _published(table: pd.DataFrame) -> Table:
    rows: list[list[Any]] = []
    for row in table.drop_duplicates("name").to_dict("records"):
        megabytes = f" ({row['quoted_weights_mb']:.0f} MB)" if pd.notna(row["quoted_weights_mb"]) else ""
        quoted = "–" if pd.isna(row["quoted_parameters_m"]) else f"{row['quoted_parameters_m']:g} M{megabytes}"
        error = "–" if pd.isna(row["published_top5_error"]) else f"{row['published_top5_error']:g} %"
        one = "–" if pd.isna(row["top5_error_one_protocol"]) else f"{row['top5_error_one_protocol']:g} %"
        rows.append(
            [
                row["label"], "–" if pd.isna(row["year"]) else str(int(row["year"])),
                f"{short(row['parameters_m'])} M ({short(row['weights_mb'])} MB)", quoted, one, error,
                row["published_how"] or "–", row["imagenet_weights"],
            ]
        )  # fmt: skip
    columns = ["Network", "Year", "Parameters here", "As quoted", "Top-5 error, one protocol", "Published",
               "Measured how", "ImageNet weights from"]  # fmt: skip
    caption = "Networks differ from their first descriptions: see their documentation in timm and torchvision."
    align = ["left", *["right"] * 5, "left", "left"]
    return Table(columns, rows, caption, align)  # type: ignore[arg-type]


@styled
def draw(path: Path, table: pd.DataFrame, note: str = "") -> Path:
    """Top-5 error against multiply-adds, logarithmic; networks are numbered by their cost."""
    rows = table[table["multiply_adds_g"].notna()].drop_duplicates("name")
    shown = rows[rows["top5_error_one_protocol"].notna() | rows["published_top5_error"].notna()]
    figure = Figure((WIDTH, 4.8 + 0.12 * len(shown)))
    axes = figure.subplots()
    axes.set_xlabel("Multiply-adds for one picture, billions")
    axes.set_ylabel("Top-5 error on ImageNet, %")
    handles: list[Any] = []
    if shown.empty:
        say(axes, "none of these has a published error")
    for number, row in enumerate(shown.sort_values("multiply_adds_g").to_dict("records"), start=1):
        one, published, x = row["top5_error_one_protocol"], row["published_top5_error"], row["multiply_adds_g"]
        if pd.notna(one) and pd.notna(published):
            axes.plot([x, x], [one, published], color=GREY, linewidth=0.8, linestyle=":")
        if pd.notna(one):
            axes.plot(x, one, "o", color=COLOURS[0], markersize=7)
        if pd.notna(published):
            axes.plot(x, published, "o", markerfacecolor="none", markeredgecolor=COLOURS[1], markersize=9)
        side = 1 if number % 2 else -1  # neighbours are labelled on either side
        point = (x, one if pd.notna(one) else published)
        look: dict[str, Any] = {"textcoords": "offset points", "va": "center", "color": INK, "fontsize": 11}
        axes.annotate(str(number), point, xytext=(7 * side, 0), ha="left" if side > 0 else "right", **look)
        handles.append(Line2D([], [], linestyle="none", label=f"{number}  {row['label']}"))
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter("{x:g}")
    axes.margins(x=0.1, y=0.14)
    axes.set_ylim(bottom=0)
    handles += [
        Line2D([], [], linestyle="none", marker="o", color=COLOURS[0], label="one protocol for all"),
        Line2D([], [], linestyle="none", marker="o", markerfacecolor="none", color=COLOURS[1], label="as published"),
    ]
    legend(figure, handles, columns=2)
    return save(figure, path, note)
