"""The report of a run: one self-contained HTML page.

A study says what the page holds (`Report`: headline, sections, blocks); `render` says how it looks. Pictures are
embedded, there is no script and nothing is fetched, so the page can be mailed, archived and read offline.

Text, captions and notes are plain text, escaped, in which `**bold**` and `` `code` `` are marked; a blank line
starts a new paragraph.
"""

from __future__ import annotations

import base64
import math
import re
import string
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, Protocol

from markupsafe import Markup, escape

from pipelines.shared.errors import RunError
from pipelines.shared.run_folder import write_text

UNDEFINED = "–"
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
CSS_PIXELS_PER_DOT = 96 / 150  # figures are drawn at 150 dots per inch, a CSS pixel is 1/96 inch


class EstimateLike(Protocol):
    """A metric with its interval, such as `stats.estimate.Estimate`; `value` is None where it is undefined."""

    @property
    def value(self) -> float | None: ...  # noqa: D102
    @property
    def low(self) -> float | None: ...  # noqa: D102
    @property
    def high(self) -> float | None: ...  # noqa: D102
    @property
    def reason(self) -> str | None: ...  # noqa: D102


Cell = str | int | float | EstimateLike | None
Alignment = Literal["left", "center", "right"]


@dataclass(frozen=True)
class Text:
    """Paragraphs. A note is set apart, a warning stands out."""

    text: str
    kind: Literal["plain", "note", "warning"] = "plain"


@dataclass(frozen=True)
class Table:
    """A table whose first column names its rows.

    Numbers and estimates are formatted here (give a year or an identifier as text). `align` has one entry per column;
    without it, columns of numbers are right-aligned and all others left-aligned.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str
    align: Sequence[Alignment] | None = None


@dataclass(frozen=True)
class Picture:
    """A PNG file, its path relative to the run folder; `alt` says what it shows to those who cannot see it."""

    path: str | Path
    caption: str
    alt: str


@dataclass(frozen=True)
class Code:
    """Something to copy exactly: a command, the environment."""

    text: str


Block = Text | Table | Picture | Code


@dataclass(frozen=True)
class Section:
    """A numbered section of the page."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class HeadlineFigure:
    """One number of the headline: an estimate (shown with its interval), a number, or text."""

    label: str
    value: Cell
    note: str = ""


@dataclass(frozen=True)
class Headline:
    """What a reader should remember: a sentence, three to five numbers, and what may spoil them."""

    sentence: str
    figures: Sequence[HeadlineFigure]
    warnings: Sequence[str] = ()


@dataclass(frozen=True)
class Report:
    """The page. `synthetic` means that images and labels were made by the program, and the page says so."""

    title: str
    study: str
    synthetic: bool
    headline: Headline
    sections: Sequence[Section]
    footer: str = ""


# ---- numbers ----


def number_text(value: float) -> str:
    """A number for people: 34,023 / 0.912 / 54.3 / −0.012; what is not a number is an en dash."""
    if isinstance(value, int):
        return f"{value:,}".replace("-", "−")
    if 0 < abs(value) < 0.0005:
        return f"{value:.1g}".replace("-", "−")
    return _rounded(value, _decimals(value))


def estimate_text(estimate: EstimateLike | None) -> str:
    """An estimate with its interval, all to the same number of decimals: '0.912 (0.884 to 0.936)'."""
    if estimate is None:
        return UNDEFINED
    interval = interval_text(estimate)
    return _value_text(estimate) + (f" ({interval})" if interval else "")


def _value_text(estimate: EstimateLike) -> str:
    if estimate.value is None:
        return UNDEFINED
    return _rounded(estimate.value, _decimals(estimate.value, estimate.low, estimate.high))


def interval_text(estimate: EstimateLike) -> str:
    """The interval of an estimate, '0.884 to 0.936', or nothing where it has none."""
    if estimate.value is None or estimate.low is None or estimate.high is None:
        return ""
    decimals = _decimals(estimate.value, estimate.low, estimate.high)
    return f"{_rounded(estimate.low, decimals)} to {_rounded(estimate.high, decimals)}"


def _decimals(*values: float | None) -> int:
    """Three decimals below 10 (what proportions and AUCs need), one below 1,000, else none."""
    largest = max((abs(v) for v in values if v is not None and math.isfinite(v)), default=0.0)
    return 3 if largest < 10 else 1 if largest < 1000 else 0


def _rounded(value: float, decimals: int) -> str:
    if math.isnan(value):
        return UNDEFINED
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return f"{value:z,.{decimals}f}".replace("-", "−")  # z: a rounded −0.000 is 0.000


# ---- the page ----


def render(report: Report, run_folder: Path) -> Path:
    """Write the page to `run_folder/report.html` and return its path.

    The page is written aside and renamed, so that a reader never meets half of one.

    Raises:
        RunError: a picture is missing or is not a PNG file.
        ValueError: a table's rows and columns do not agree.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["marked"] = _marked
    numbers = {"table": 0, "picture": 0}
    page = environment.get_template("report.html.j2").render(
        report=report,
        cards=[_card(figure) for figure in report.headline.figures],
        sections=[
            {"title": section.title, "blocks": [_block(block, Path(run_folder), numbers) for block in section.blocks]}
            for section in report.sections
        ],
    )
    path = Path(run_folder) / "report.html"
    write_text(path, page)
    return path


def _marked(text: str) -> Markup:
    """Escape `text`, then mark `**bold**` and `` `code` `` in it."""
    safe = str(escape(_joined(text)))
    return Markup(re.sub(r"`([^`\n]+)`|\*\*([^*`\n]+)\*\*", _tagged, safe))


def _tagged(match: re.Match[str]) -> str:
    code, bold = match.groups()
    return f"<code>{code}</code>" if code else f"<strong>{bold}</strong>"


def _joined(text: str) -> str:
    """Keep a number and its percent sign on one line."""
    return re.sub(r"(\d) %", "\\1\u00a0%", text)


def _is_estimate(value: object) -> bool:
    return hasattr(value, "value") and hasattr(value, "low") and hasattr(value, "high")


def _card(figure: HeadlineFigure) -> dict[str, str]:
    """Label, large number, interval and note of one headline figure, and why a number or interval is missing."""
    return {**_cell(figure.value), "label": figure.label, "note": figure.note}


def _cell(value: Any) -> dict[str, str]:
    """Text of one cell, its interval, and why one of them is missing where that is known."""
    if value is None:
        return {"text": UNDEFINED, "interval": "", "reason": ""}
    if _is_estimate(value):
        interval = interval_text(value)
        reason = "" if interval else value.reason or ""
        return {"text": _value_text(value), "interval": interval, "reason": reason}
    if isinstance(value, str):
        return {"text": _joined(value), "interval": "", "reason": ""}
    if isinstance(value, Real) and not isinstance(value, bool):
        number = int(value) if isinstance(value, Integral) else float(value)
        return {"text": number_text(number), "interval": "", "reason": ""}
    raise ValueError(f"A table cell is text, a number, an estimate or None, not {type(value).__name__}: {value!r}")


def _block(block: Block, run_folder: Path, numbers: dict[str, int]) -> dict[str, Any]:
    """What the template needs of a block. `numbers` counts tables and pictures over the page."""
    if isinstance(block, Text):
        paragraphs = [part.strip() for part in re.split(r"\n\s*\n", block.text) if part.strip()]
        return {"kind": "text", "look": block.kind, "paragraphs": paragraphs}
    if isinstance(block, Code):
        return {"kind": "code", "text": block.text}
    if isinstance(block, Table):
        numbers["table"] += 1
        return {"kind": "table", "number": numbers["table"], **_table(block)}
    if isinstance(block, Picture):
        numbers["picture"] += 1
        return {"kind": "picture", "number": numbers["picture"], **_picture(block, run_folder)}
    raise ValueError(f"Not a block of a report: {type(block).__name__}")


def _table(table: Table) -> dict[str, Any]:
    """Cells as text, the alignment of each column, and one footnote (a, b, …) per reason of an empty cell."""
    width = len(table.columns)
    for number, row in enumerate(table.rows, start=1):
        if len(row) != width:
            raise ValueError(f"Table '{table.caption}': row {number} has {len(row)} cells, the table {width} columns.")
    if table.align is not None and len(table.align) != width:
        raise ValueError(f"Table '{table.caption}': {len(table.align)} alignments for {width} columns.")

    columns = [[row[i] for row in table.rows] for i in range(width)]
    align = table.align or ["left" if i == 0 else _alignment(column) for i, column in enumerate(columns)]
    marks: dict[str, str] = {}
    rows = []
    for row in table.rows:
        cells = [_cell(value) for value in row]
        for cell in cells:
            reason = cell["reason"]
            cell["mark"] = marks.setdefault(reason, _letter(len(marks))) if reason else ""
        rows.append(cells)
    notes = [{"mark": mark, "reason": reason} for reason, mark in marks.items()]
    return {"caption": table.caption, "columns": table.columns, "align": align, "rows": rows, "notes": notes}


def _alignment(column: Sequence[Cell]) -> Alignment:
    return "left" if any(isinstance(value, str) for value in column) else "right"


def _letter(index: int) -> str:
    """A, b, … z, aa, bb, …: the mark of a footnote."""
    letters = string.ascii_lowercase
    return letters[index % 26] * (index // 26 + 1)


def _picture(picture: Picture, run_folder: Path) -> dict[str, Any]:
    path = run_folder / picture.path
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RunError(
            f"{picture.path}: the report shows this picture, but it cannot be read in {run_folder} ({error.strerror}).",
            "Run the mode that draws it again, or put the file back.",
        ) from None
    if not content.startswith(PNG_SIGNATURE) or len(content) < 24:
        raise RunError(f"{picture.path}: not a PNG file.", "Pictures of a report are PNG files; draw it again.")
    width, height = struct.unpack(">II", content[16:24])  # the header chunk comes first in every PNG file
    return {
        "caption": picture.caption,
        "alt": picture.alt,
        "data": base64.b64encode(content).decode("ascii"),
        "width": round(width * CSS_PIXELS_PER_DOT),
        "height": round(height * CSS_PIXELS_PER_DOT),
    }
