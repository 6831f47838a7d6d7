"""Rows of the record table, one per window of a recording (see `data` for the columns)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipelines.ecg.config import EcgConfig
from pipelines.ecg.labels import RATE, STEP, record_words, strata, window_labels, windows
from pipelines.ecg.recording import Recording
from pipelines.ecg.signals import open_recording
from pipelines.shared.data.tables import BLANKS, without_bad_rows
from pipelines.shared.errors import BadFile, DataError


def window_rows(
    recording: dict[str, Any], steps: int, size: int, labels: Sequence[str], more: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """The rows of one recording, one per window, from its label of every step."""
    places = windows(steps, size)
    name = str(recording["record"])
    rows = []
    for k, (start, counted) in enumerate(places):
        row = {"id": name if len(places) == 1 else f"{name}@{k:04d}", "start": start}
        row["rhythms"] = window_labels(labels, start, counted, size)
        rows.append(row | recording | dict(more or {}))
    return rows


def good_rows(
    rows: list[dict[str, Any]],
    problems: Sequence[str],
    config: EcgConfig,
    what: str,
    remedy: str,
    key: Callable[[dict[str, Any]], str] = lambda row: str(row["record"]),
) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows of recordings without problems, and what is wrong with those left out (`data.on_bad_row=skip`).

    Args:
        rows: of all recordings.
        problems: `RowProblem`s that name recordings, and others.
        config: the configuration.
        what: the dataset, for the message.
        remedy: what else can be done than to leave them out.
        key: row -> the name that problems have for its recording.

    Raises:
        DataError: all problems at once, if they are not to be skipped or nothing would be left.
    """
    names = list(dict.fromkeys(map(key, rows)))
    remedy = f"{remedy} To leave these recordings out and report them: data.on_bad_row=skip."
    recordings = pd.DataFrame({"name": names}, index=pd.Index(names, dtype=object))
    good, left_out = without_bad_rows(recordings, problems, config.data.on_bad_row, what, remedy)
    kept = set(good["name"])
    return [row for row in rows if key(row) in kept], left_out


def finish(rows: list[dict[str, Any]], config: EcgConfig) -> pd.DataFrame:
    """The record table from its rows, with every column of `data`'s docstring."""
    table = pd.DataFrame(rows)
    for column in ("split", "header", "record_label"):
        table[column] = table[column].astype(object).where(table[column].notna(), None) if column in table else None
    if "expected_rate" not in table:
        table["expected_rate"] = np.nan
    words = record_words(config.labels)
    table["record_code"] = [words.index(w) if isinstance(w, str) else -1 for w in table["record_label"]]
    table["steps"] = config.preprocess.steps
    table["stratum"] = strata(table)
    return table


def open_or_none(file: Path, config: EcgConfig) -> Recording | None:
    """A recording, or None where it cannot be read: `prepare` will say why."""
    with suppress(BadFile, OSError):
        return open_recording(file, config.data.leads, config.data.sampling_rate)
    return None


def beyond(recording: Recording | None) -> int:
    """Samples at 200 Hz after the last whole step."""
    return recording.samples % STEP if recording else 0


def rest_note(samples: int, recordings: int) -> list[str]:
    """A note on what lies beyond the last whole step."""
    if not samples:
        return []
    return [
        f"Only whole steps of {STEP / RATE:g} s are used: {samples / RATE:,.1f} s at the ends of {recordings:,} "
        "recordings are left out."
    ]


def text_lines(file: Path) -> list[tuple[int, str]]:
    """The lines of a list that are not empty, without blanks around them, and their numbers from 1.

    Raises:
        DataError: not UTF-8, or nothing in it.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{file} is not UTF-8 text.", "Save it as UTF-8, or copy it again.") from None
    except OSError as failure:
        raise DataError(f"{file} cannot be read: {failure.strerror}.", "Copy it again.") from None
    lines = [(number, line.strip(BLANKS)) for number, line in enumerate(text.splitlines(), start=1)]
    lines = [(number, line) for number, line in lines if line]
    if not lines:
        raise DataError(f"{file} is empty.", "Copy it again, or remove it.")
    return lines
