"""Signals that are no WFDB records: CSV tables, arrays, the irhythm set's raw files. Nothing is shifted or guessed."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import csv as arrow_csv

from pipelines.ecg.labels import RATE
from pipelines.ecg.recording import Recording, choose
from pipelines.shared.errors import BadFile, reason_of

TIMES = ("time", "seconds", "t")  # a column of this name holds the times of the samples, in seconds
SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}
BLANK_LINE = re.compile(rb"(?:\r\n|\n|\r(?!\n))[ \t]*(?:\r\n|\n|\r(?!\n))[ \t\r\n]*[^ \t\r\n]")
LONGEST_LINE = 100_000  # characters of a table's first line


def open_raw(path: Path) -> Recording:
    """`.ecg` of the irhythm set: int16, little-endian, one lead, 200 Hz, in units of its own."""
    try:
        size = path.stat().st_size
    except OSError:
        raise BadFile("there is no such file") from None
    if size % 2:
        raise BadFile(f"{size} bytes are no whole number of 16-bit samples: truncated")

    def read(first: int, last: int) -> np.ndarray:
        return np.fromfile(path, "<i2", count=last - first, offset=2 * first).astype(np.float64)

    return Recording(float(RATE), size // 2, "ECG", "adu", path, read)


def open_array(path: Path, sampling_rate: float | None) -> Recording:
    """`.npy`: one lead as a one-dimensional array of numbers; NaN where a sample is missing."""
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as failure:  # numpy raises many types for damaged files
        raise BadFile(reason_of(failure)) from None
    if not isinstance(values, np.ndarray):
        raise BadFile("it is an archive of arrays (.npz), whatever its name says: save the one array as .npy")
    if values.ndim != 1 or values.dtype.kind not in "iuf":
        raise BadFile(f"an array (samples,) of numbers is needed, found {values.shape} of {values.dtype}")
    if sampling_rate is None:
        raise BadFile("an .npy file has no sampling rate: give data.sampling_rate=<Hz>")

    def read(first: int, last: int) -> np.ndarray:
        with np.errstate(invalid="ignore"):  # single precision has NaN that cannot be converted without a warning
            return np.asarray(values[first:last], np.float64)

    return Recording(sampling_rate, len(values), "ECG", "unknown", path, read)


def open_table(path: Path, leads: Sequence[str], sampling_rate: float | None) -> Recording:
    """`.csv`: a column per lead, and perhaps one of times in seconds; an empty cell is a missing sample.

    Raises:
        BadFile: another separator, rows that do not fit the header, cells that are no numbers, blank lines, times that
            do not rise evenly.
    """
    try:
        names, first_row = _header(path)
        time = next((i for i, name in enumerate(names) if name.lower() in TIMES), None)
        signals = [i for i, name in enumerate(names) if i != time and name]
        if not signals:
            raise BadFile("no column with a signal")
        if first_row == 0 and len(names) > 1:
            raise BadFile(
                f"its first line holds {len(names)} numbers and no names: name its leads there (decimal commas? Write "
                "numbers with a point)"
            )
        channel = signals[choose([names[i] for i in signals], leads)]
        columns = _columns(path, names, first_row, [channel] if time is None else [channel, time])
    except OSError as failure:
        raise BadFile(f"cannot be read: {failure.strerror or failure}") from None
    rate = sampling_rate if time is None else _rate(columns[1], names[time])
    if rate is None:
        raise BadFile("no sampling rate: give data.sampling_rate=<Hz>, or a column 'time' in seconds")
    return Recording(rate, len(columns[0]), names[channel], "unknown", path, lambda a, b: columns[0][a:b])


def _header(path: Path) -> tuple[list[str], int]:
    """The names of the columns, empty for one that has none, and how many lines come before the first sample."""
    with path.open(encoding="utf-8-sig", errors="replace", newline=None) as text:
        lines = text.read(LONGEST_LINE).split("\n")
    number, line = next(((i, line) for i, line in enumerate(lines) if line.strip()), (0, ""))
    if not line:
        raise BadFile("cannot be read as a table: it is empty")
    if len(line) >= LONGEST_LINE or "\0" in line:
        raise BadFile("cannot be read as a table: its first line is none of a CSV file in UTF-8")
    for separator, name in SEPARATORS.items():
        if separator in line.strip() and "," not in line.replace('"', ""):
            raise BadFile(f"its columns are separated by {name}: write it with commas, and numbers with a point")
    names = [name.strip() for name in next(csv.reader([line]))]
    if all(_is_number(name) for name in names):  # no header: the line is a sample
        return [f"column {i + 1}" for i in range(len(names))], number
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise BadFile(f"it names a column twice: {', '.join(twice)}")
    return names, number + 1


def _columns(path: Path, names: Sequence[str], first_row: int, wanted: Sequence[int]) -> list[np.ndarray]:
    """Some columns as float64, NaN for empty cells; every row must have as many fields as there are names."""
    content = path.read_bytes()
    begin = len(content) - len(content.lstrip())
    blank = BLANK_LINE.search(content, begin)
    if blank:
        line = content.count(b"\n", 0, blank.start()) + 2
        raise BadFile(f"line {line} is blank: remove it, or write nan if a sample is missing there")
    keys = [str(i) for i in range(len(names))]
    try:
        table = arrow_csv.read_csv(
            pa.BufferReader(content),
            arrow_csv.ReadOptions(column_names=keys, skip_rows=first_row, use_threads=False),
            convert_options=arrow_csv.ConvertOptions(
                include_columns=[keys[i] for i in wanted], column_types={keys[i]: pa.float64() for i in wanted}
            ),
        )
    except pa.ArrowException as failure:
        raise BadFile(_in_words(str(failure), names)) from None
    return [table.column(keys[i]).to_numpy().astype(np.float64) for i in wanted]


def _in_words(message: str, names: Sequence[str]) -> str:
    """What is wrong with a table, from the sentence of the reader."""
    fields = re.search(r"Row #(\d+): Expected (\d+) columns, got (\d+)", message)
    if fields:
        return (
            f"row {fields[1]} has {fields[3]} fields, the first line {fields[2]}: a separator too many or too few "
            "(decimal commas? Write numbers with a point)"
        )
    cell = re.search(r"column #(\d+): Row #(\d+): .*invalid value '(.*)'", message, re.DOTALL)
    if cell:
        return f"row {cell[2]}: {names[int(cell[1])]} is '{cell[3][:40]}', which is no number"
    return f"cannot be read as a table: {message.splitlines()[0][:200]}"


def _rate(times: np.ndarray, name: str) -> float:
    """Sampling rate, Hz, from the times of the samples in seconds."""
    gaps = np.diff(times)
    usual = float(np.median(gaps)) if len(gaps) else np.nan
    if not usual > 0 or not np.abs(gaps - usual).max() <= 0.5 * usual:
        raise BadFile(f"the column {name} does not rise evenly: samples are missing, or it is no time in seconds")
    return round(1 / float(gaps.mean()), 3)


def _is_number(name: str) -> bool:
    try:
        float(name)
    except ValueError:
        return False
    return True
