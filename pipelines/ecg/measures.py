"""What of a recording is compared with the training set: sampling rate, length of a window, amplitude."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.ecg import signals
from pipelines.ecg.labels import RATE, STEP
from pipelines.ecg.recording import Recording

WINDOWS = 16  # of a long recording that are looked at, at most


def row_measures(record: Mapping[Hashable, Any], root: Path, settings: Mapping[str, Any]) -> dict[str, float]:
    """Of one window, a row of the record table; `settings`: of `data.prepare`."""
    header = record.get("header")
    file = root / (header if isinstance(header, str) else record["path"])
    recording = signals.open_recording(file, settings["leads"], settings["sampling_rate"])
    start = int(record.get("start", 0))
    return _measures(recording, [start], min(settings["steps"], recording.steps - start))


def recording_measures(recording: Recording, steps: int) -> dict[str, float]:
    """Of a recording that is labelled in windows of `steps`: of up to `WINDOWS` of them, the median amplitude."""
    length = min(steps, recording.steps)
    starts = np.linspace(0, recording.steps - length, min(WINDOWS, recording.steps // length))
    return _measures(recording, [int(start) for start in starts], length)


def _measures(recording: Recording, starts: list[int], steps: int) -> dict[str, float]:
    """`starts`: first steps of windows of `steps`."""
    scale = recording.rate / RATE * STEP  # the file's own samples in a step
    pieces = [recording.read(int(s * scale), min(recording.length, int((s + steps) * scale))) for s in starts]
    deviations = [float(np.nanstd(piece)) for piece in pieces if not np.isnan(piece).all()]
    found = {"sampling rate (Hz)": recording.rate, "window (s)": steps * STEP / RATE}
    return found | ({"amplitude (standard deviation)": float(np.median(deviations))} if deviations else {})
