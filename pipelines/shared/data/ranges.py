"""How bright, how large, how long the training records were, and which of these measures of a new file lie beyond them.

A network answers whatever it is shown, and its score does not tell that the file has nothing in common with what it
learned from. Simple measures often do: a negative, an empty picture, a foreign camera, other units. No torch.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import numpy as np

from pipelines.shared.data.cache import WARNINGS_BETWEEN
from pipelines.shared.seeds import seed_of

KEY = "training_ranges"  # in model.json; networks of earlier versions have none
SAMPLE = 1000  # training records at most that are measured
SLACK = 0.1  # of a range, or of its end: so far beyond nothing is said, for a sample has not the extremes of the whole

Ranges = dict[str, tuple[float, float]]  # measure, with its unit -> the lowest and the highest


def picture_measures(array: np.ndarray, metadata: Mapping[Hashable, Any]) -> dict[str, float]:
    """Mean of each colour and contrast of a prepared picture, width and height of its file.

    Args:
        array: uint8 (height, width, 1 or 3); of anything else nothing is measured.
        metadata: of `prepare`, of which `width` and `height` are pixels, where they are known.
    """
    import cv2  # ten times as fast as numpy here; a report need not load it

    if array.ndim != 3 or array.shape[2] not in (1, 3) or array.dtype != np.uint8:
        return {}
    mean, deviation = (v.ravel() for v in cv2.meanStdDev(np.ascontiguousarray(array)))
    colours = ("grey",) if len(mean) == 1 else ("red", "green", "blue")
    found = {f"mean {colour}": float(value) for colour, value in zip(colours, mean, strict=True)}
    found["contrast (standard deviation)"] = float(deviation.mean())
    return found | {f"{side} (px)": float(metadata[side]) for side in ("width", "height") if side in metadata}


def sampled(positions: np.ndarray) -> np.ndarray:
    """At most `SAMPLE` of some positions, ascending: always the same ones."""
    if len(positions) <= SAMPLE:
        return positions
    return np.sort(np.random.default_rng(seed_of(KEY)).choice(positions, SAMPLE, replace=False))


def ranges_of(measured: Iterable[Mapping[str, float]]) -> Ranges:
    """The lowest and the highest of each measure; a record may lack some."""
    values: dict[str, list[float]] = {}
    for measures in measured:
        for name, value in measures.items():
            if math.isfinite(value):
                values.setdefault(name, []).append(float(value))
    return {name: (min(of_one), max(of_one)) for name, of_one in values.items()}


def training_ranges(models: Iterable[Mapping[str, Any]]) -> Ranges:
    """What networks were trained on, all together; `models`: what their model.json say. Empty: they do not say it."""
    known = [model[KEY]["measures"] for model in models if are_ranges(model.get(KEY))]
    return ranges_of({name: pair[k] for name, pair in measures.items()} for measures in known for k in (0, 1))


def are_ranges(value: Any) -> bool:
    """Whether it is what model.json may hold under `KEY`."""
    if not isinstance(value, dict) or not isinstance(value.get("measures"), dict):
        return False
    counts = [value.get("measured"), value.get("records")]
    ends = list(value["measures"].values())
    return all(isinstance(n, int) for n in counts) and all(
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(v, numbers.Real) for v in pair) for pair in ends
    )


def warned(warnings: str | None, measures: Mapping[str, float], ranges: Ranges) -> str | None:
    """A file's warnings, and behind them which of its measures lie beyond the training set's."""
    parts = (warnings, beyond(measures, ranges))
    return WARNINGS_BETWEEN.join(part for part in parts if part) or None


def beyond(measures: Mapping[str, float], ranges: Ranges) -> str | None:
    """A sentence that names each measure outside its range, its value and the range; None where there is none."""
    found = []
    for name, value in measures.items():
        if name not in ranges or not math.isfinite(value):
            continue
        low, high = ranges[name]
        if not low - _slack(low, high, low) <= value <= high + _slack(low, high, high):
            found.append(f"{name} {shown(value)} ({shown(low)} to {shown(high)} there)")
    return f"unlike the training set: {', '.join(found)}" if found else None


def shown(value: float) -> str:
    """A measure for people."""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _slack(low: float, high: float, end: float) -> float:
    return SLACK * max(high - low, abs(end))
