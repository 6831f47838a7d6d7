"""From a heatmap to detections, and detections as files: `probability,x,y`, the format of CAMELYON16.

A heatmap is a 2D float array of tumour probabilities; NaN: not scored, no tissue. Cell (row, column) covers the level-0
pixels from `origin + stride * (column, row)` on, `stride` on each side; a detection lies in the middle of a cell.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from pipelines.camelyon.annotations import BEYOND_REASON
from pipelines.shared.data.tables import BLANKS, SEPARATORS
from pipelines.shared.errors import counted
from pipelines.shared.run_folder import write_atomically

COLUMNS = ["probability", "x", "y"]

Location = Literal["maximum", "centroid", "inside"]
Score = Literal["maximum", "mean"]


def component_detections(
    heatmap: np.ndarray,
    origin: tuple[float, float],
    stride: float,
    threshold: float = 0.9,
    location: Location = "maximum",
    score: Score = "maximum",
) -> pd.DataFrame:
    """One detection per 8-connected component of cells at or above a threshold (Wang et al. 2016, lesion-based).

    Args:
        heatmap: (rows, columns).
        origin: level-0 pixel (x, y) where cell (0, 0) begins.
        stride: level-0 pixels per cell.
        threshold: from which probability on a cell belongs to a lesion.
        location: `maximum` (the most probable cell, the first of several), `centroid` (of the component's cells; may
            lie outside of it) or `inside` (its cell nearest to the centroid).
        score: `maximum` or `mean` of the component's probabilities.

    Returns:
        probability, x, y (whole level-0 pixels), from the most probable to the least.
    """
    from scipy import ndimage

    values = np.nan_to_num(np.asarray(heatmap, np.float64), nan=0.0)
    labels, _ = ndimage.label((values >= threshold) & ~np.isnan(heatmap), structure=np.ones((3, 3)))
    rows = []
    for k, box in enumerate(ndimage.find_objects(labels), start=1):
        r, c = np.nonzero(labels[box] == k)
        p = values[box][r, c]
        r, c = r + box[0].start, c + box[1].start
        centre = np.array([r.mean(), c.mean()])
        if location == "centroid":
            place = centre
        else:
            far = (r - centre[0]) ** 2 + (c - centre[1]) ** 2
            best = int(np.argmax(p)) if location == "maximum" else int(np.argmin(far))
            place = np.array([r[best], c[best]])
        rows.append((float(p.max() if score == "maximum" else p.mean()), place[1], place[0]))
    return _detections(rows, origin, stride)


def suppressed_detections(
    heatmap: np.ndarray,
    origin: tuple[float, float],
    stride: float,
    radius: float = 12.0,
    level: int = 6,
    stop: float = 0.5,
) -> pd.DataFrame:
    """Non-maximum suppression: the highest cell is a detection, all within `radius` of it fall out, and so on.

    Args:
        heatmap: (rows, columns).
        origin: level-0 pixel (x, y) where cell (0, 0) begins.
        stride: level-0 pixels per cell.
        radius: in pixels of `level` (12 at level 6: 768 level-0 pixels).
        level: of the pyramid.
        stop: cells at or below it are no detections.

    Returns:
        As `component_detections`.
    """
    values = np.nan_to_num(np.asarray(heatmap, np.float64), nan=0.0)
    reach = radius * 2**level / stride  # cells
    span = int(np.floor(reach))
    dy, dx = np.mgrid[-span : span + 1, -span : span + 1]
    disc = dy**2 + dx**2 <= reach**2
    free = np.ones((values.shape[0] + 2 * span, values.shape[1] + 2 * span), bool)  # with a margin, so no clipping
    row, column = np.nonzero(values > stop)
    rows = []
    for k in np.argsort(-values[row, column], kind="stable"):
        r, c = row[k], column[k]
        if free[r + span, c + span]:
            rows.append((float(values[r, c]), float(c), float(r)))
            free[r : r + 2 * span + 1, c : c + 2 * span + 1] &= ~disc
    return _detections(rows, origin, stride)


def _detections(rows: list[tuple[float, float, float]], origin: tuple[float, float], stride: float) -> pd.DataFrame:
    """(probability, column, row) -> the table, in level-0 pixels."""
    table = pd.DataFrame(rows, columns=COLUMNS, dtype=np.float64)
    for name, start in zip(("x", "y"), origin, strict=True):
        table[name] = np.floor(start + (table[name] + 0.5) * stride).astype(np.int64)
    return table.sort_values("probability", ascending=False, kind="stable", ignore_index=True)


def outlines(mask: np.ndarray, origin: tuple[float, float], stride: float) -> list[list[np.ndarray]]:
    """Regions of a mask as rings in level-0 pixels, (n, 2): the outer ring of each, then those of its holes."""
    from scipy import ndimage
    from skimage import measure

    labels, _ = ndimage.label(mask, structure=np.ones((3, 3)))
    regions = []
    for k, box in enumerate(ndimage.find_objects(labels), start=1):
        padded = np.pad(labels[box] == k, 1).astype(float)
        rings = measure.find_contours(padded, 0.5, fully_connected="high")
        start = np.array([box[1].start, box[0].start]) - 1
        level0 = [np.asarray(origin) + (start + ring[:-1, ::-1] + 0.5) * stride for ring in rings]
        regions.append(sorted(level0, key=lambda ring: -_area(ring)))
    return regions


def probabilities_of(values: np.ndarray, mask: np.ndarray) -> list[dict[str, float]]:
    """The highest and the mean value, (rows, columns), in each region of a mask, in the order of `outlines`."""
    from scipy import ndimage

    labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
    of = np.arange(1, count + 1)
    both = zip(ndimage.maximum(values, labels, of), ndimage.mean(values, labels, of), strict=True)
    return [{"Highest probability": float(highest), "Mean probability": float(mean)} for highest, mean in both]


def _area(ring: np.ndarray) -> float:
    x, y = ring.T
    return abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2


# --- files ---


def write_detections(file: Path, detections: pd.DataFrame) -> None:
    """A slide's CSV, whose name is the slide's. Without detections the file is empty."""
    rows = detections[COLUMNS].to_numpy(np.float64).tolist()
    text = "".join(f"{p!r},{_pixel(x)},{_pixel(y)}\n" for p, x, y in rows)
    write_atomically(file, lambda aside: aside.write_text(text, encoding="utf-8"))


def _pixel(value: float) -> str:
    """The official evaluator reads whole pixels only, so these are written without a decimal point."""
    return str(int(value)) if value.is_integer() else repr(value)


def check_detections(file: Path) -> tuple[pd.DataFrame, list[str]]:
    """A slide's CSV, and all lines that are wrong, so that those of many files can be told at once."""
    empty = pd.DataFrame(columns=COLUMNS, dtype=np.float64)
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except OSError as failure:
        return empty, [f"cannot be read: {failure.strerror}"]
    except UnicodeDecodeError as failure:
        return empty, [f"is no text in UTF-8: {failure.reason} at byte {failure.start}"]
    rows, problems = [], []
    for number, line in enumerate(lines, start=1):  # each by itself: a quotation mark too many ends with its line
        if not line.strip(f"{BLANKS},"):
            continue
        cells = [_unquoted(cell.strip(BLANKS)) for cell in line.split(",")]
        if len(cells) != len(COLUMNS):
            problems.append(f"line {number}: {_columns(line, len(cells))}, expected 3 ({','.join(COLUMNS)})")
            continue
        try:
            values = [_number(cell) for cell in cells]
        except ValueError:
            shown = line if len(line) <= 60 else line[:57] + "..."
            header = number == 1 and all(cell[:1].isalpha() for cell in cells)
            what = "a header, the format has none" if header else "not three numbers"
            problems.append(f"line {number}: '{shown}' is {what}")
            continue
        problems += [f"line {number}: {wrong}" for wrong in _wrong(*values)]
        rows.append(values)
    return pd.DataFrame(rows, columns=COLUMNS, dtype=np.float64), problems


def _unquoted(cell: str) -> str:
    """Some programs write every cell in quotation marks."""
    return cell[1:-1] if len(cell) > 1 and cell[0] == cell[-1] == '"' else cell


def _number(cell: str) -> float:
    if "_" in cell:  # Python would read 1_0 as 10
        raise ValueError
    return float(cell)


def _columns(line: str, count: int) -> str:
    """What is there instead of three columns."""
    other = next((words for sign, words in SEPARATORS.items() if line.count(sign) == len(COLUMNS) - 1), None)
    return f"separated by {other}, not by commas" if other else counted(count, "column")


def _wrong(probability: float, x: float, y: float) -> list[str]:
    wrong = []
    if not 0 <= probability <= 1:  # NaN too
        wrong.append(f"probability {probability:g} is not within 0 and 1")
    wrong += [
        f"{name} {value:g} is no pixel" for name, value in (("x", x), ("y", y)) if not 0 <= value <= BEYOND_REASON
    ]
    return wrong
