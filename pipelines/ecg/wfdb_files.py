"""WFDB records: headers, signals, records in segments. Unpacking of samples is wfdb's.

The format is that of PhysioNet's WFDB Applications Guide, header(5) and signal(5). Headers are read here and not by
`wfdb.rdheader`: that one drops letters outside ASCII, refuses file names with points, takes what follows an unusual
unit for the lead's name and a sample count of 0 for an empty record, and needs minutes for one very long line.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from pipelines.ecg.labels import RATE
from pipelines.ecg.recording import Recording, choose, plain_name
from pipelines.shared.errors import BadFile, reason_of
from pipelines.shared.extras import Extra

WFDB = Extra("ecg", {"wfdb": "wfdb"})
LONGEST_LINE = 4_096  # characters; the format allows 255
LARGEST = 4_000_000  # bytes of a header; those of records with thousands of segments have some 100,000
GAP = "~"  # a segment, or a signal's file, that is not there
FORMAT = re.compile(r"(\d+)(?:x(\d+))?(?::(\d+))?(?:\+(\d+))?")
GAIN = re.compile(r"([-+\d.eE]+)(?:\(([-+]?\d+)\))?(?:/(.*))?")


@dataclass(frozen=True)
class Signal:
    """One signal line of a header; `per_frame`: its samples in a frame, `offset`: bytes before the first one."""

    file: str
    format: str
    per_frame: int
    skew: int
    offset: int
    gain: float
    baseline: int
    unit: str
    first_value: int
    name: str


@dataclass(frozen=True)
class Header:
    """A header. `rate`: frames per second, in which annotations count; `frames`: None where it does not say how many.

    A record in segments has no signals of its own, but `segments`: (record, frames), the record "~" being a gap.
    """

    rate: float
    frames: int | None
    signals: tuple[Signal, ...]
    segments: tuple[tuple[str, int], ...] | None


def beside(stem: Path, suffix: str) -> Path:
    """The file of a record with this suffix. A record's name may hold points, which `Path.with_suffix` would cut."""
    return stem.with_name(f"{stem.name}.{suffix}")


def is_there(stem: Path, suffix: str) -> bool:
    """Whether a record has a file with this suffix; a name that no file system takes has none."""
    with suppress(OSError):
        return beside(stem, suffix).is_file()
    return False


# --- headers ---


def read_header(file: Path) -> Header:
    """What a header says.

    Raises:
        BadFile: missing, too long to be a header, or a field that cannot be.
    """
    try:
        status = file.stat()
        if status.st_size > LARGEST:
            raise BadFile(f"{file.name} has {status.st_size:,} bytes; a header has at most {LARGEST:,}")
        return _read_header(file, status.st_size, status.st_mtime_ns)
    except FileNotFoundError:
        raise BadFile(f"its header {file.name} is missing") from None
    except OSError as failure:
        raise BadFile(f"{file.name} cannot be read: {failure.strerror}") from None


@lru_cache(maxsize=4096)  # a record in segments may have thousands of them, and is opened once per window
def _read_header(file: Path, size: int, changed: int) -> Header:
    text = file.read_bytes().decode("utf-8-sig", "surrogateescape")  # names of files keep their bytes
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    longest = max(map(len, lines), default=0)
    if longest > LONGEST_LINE:
        raise BadFile(f"{file.name} has a line of {longest:,} characters; a header's have at most {LONGEST_LINE:,}")
    if not lines:
        raise BadFile(f"{file.name} is empty")
    try:
        return _parsed(lines)
    except ValueError as reason:
        raise BadFile(f"{file.name} cannot be read: {reason}") from None


def _parsed(lines: Sequence[str]) -> Header:
    words = lines[0].split()
    segments = words[0].partition("/")[2]
    if len(words) < 2:
        raise ValueError("its first line does not say how many signals there are")
    count = _whole(words[1], "number of signals")
    rate = 250.0  # the format's default
    if len(words) > 2:
        rate = _number(re.split(r"[/(]", words[2])[0], "sampling rate")
        if rate <= 0:
            raise ValueError(f"a sampling rate of {rate:g} Hz")
    frames = _whole(words[3], "number of samples") if len(words) > 3 and ":" not in words[3] else 0
    wanted = _whole(segments, "number of segments") if segments else count
    rest = lines[1 : 1 + wanted]
    if len(rest) < wanted:
        raise ValueError(f"it promises {wanted} {'segments' if segments else 'signals'} and describes {len(rest)}")
    if segments:
        return Header(rate, frames or None, (), tuple(map(_segment, rest)))
    return Header(rate, frames or None, tuple(_signal(line, i) for i, line in enumerate(rest)), None)


def _segment(line: str) -> tuple[str, int]:
    name, *length = line.split()
    if not _of_this_folder(name):
        raise ValueError(f"segment {name} lies in another folder")
    return name, _whole(" ".join(length), f"length of segment {name}")


def _of_this_folder(name: str) -> bool:
    """Whether this may be the name of a file beside the header."""
    return Path(name).name == name and "\0" not in name


def _signal(line: str, number: int) -> Signal:
    """A signal line: file, format, gain, and five whole numbers, of which the last ones may be missing; a name."""
    words = line.split()
    if not _of_this_folder(words[0]):
        raise ValueError(f"signal {number} lies in another folder: {words[0]}")
    kind = FORMAT.fullmatch(words[1]) if len(words) > 1 else None
    if kind is None:
        raise ValueError(f"signal {number} has no format")
    rest = line.split(None, 2)[2] if len(words) > 2 else ""
    gain, baseline, unit = 0.0, None, None
    if rest and not rest[0].isalpha():
        word, rest = _first_word(rest)
        match = GAIN.fullmatch(word)
        if match is None:
            raise ValueError(f"signal {number} has the gain {word}, which is no number")
        gain, unit = _number(match[1], f"gain of signal {number}"), match[3]
        baseline = None if match[2] is None else int(match[2])
    numbers: list[int] = []  # resolution, zero, first value, checksum, block size
    while len(numbers) < 5 and re.match(r"\s*[-+]?\d+(\s|$)", rest):
        word, rest = _first_word(rest)
        numbers.append(int(word))
    zero = numbers[1] if len(numbers) > 1 else 0
    return Signal(
        file=words[0],
        format=kind[1],
        per_frame=int(kind[2] or 1) or 1,
        skew=int(kind[3] or 0),
        offset=int(kind[4] or 0),
        gain=gain or 200.0,  # the format's default
        baseline=zero if baseline is None else baseline,
        unit=unit or "mV",
        first_value=numbers[2] if len(numbers) > 2 else 0,
        name=rest.strip() or f"signal {number}",
    )


def _first_word(text: str) -> tuple[str, str]:
    word, *rest = text.split(None, 1)
    return word, rest[0] if rest else ""


def _whole(text: str, what: str) -> int:
    if not re.fullmatch(r"\d{1,12}", text):
        raise ValueError(f"'{text}' as its {what}")
    return int(text)


def _number(text: str, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"'{text}' as its {what}")
    return value


# --- signals ---


def open_record(header_file: Path, leads: Sequence[str]) -> Recording:
    """The wanted lead of a record at its own rate: several samples per frame are all read.

    Of a record in segments it is the one of `leads` that covers most of it, of equals the first; where a segment lacks
    it, and in gaps between segments, samples are NaN.

    Raises:
        BadFile: missing, damaged or cut off, in a form that cannot be read, or without the leads.
    """
    header = read_header(header_file)
    if header.segments is not None:
        return _segments(header_file, header, leads)
    if not header.signals:
        raise BadFile(f"{header_file.name} has no signals")
    return _single(header_file, header, choose([s.name for s in header.signals], leads))


def _single(header_file: Path, header: Header, channel: int) -> Recording:
    WFDB.require("A WFDB record")
    from wfdb.io._signal import BYTES_PER_SAMPLE

    signal = header.signals[channel]
    file = header_file.with_name(signal.file)
    together = [s for s in header.signals if s.file == signal.file]
    if signal.format not in BYTES_PER_SAMPLE or {s.format for s in together} != {signal.format}:
        formats = ", ".join(dict.fromkeys(s.format for s in together))
        raise BadFile(f"{header_file.name} gives {signal.file} the format {formats}, which cannot be")
    try:
        size = file.stat().st_size - together[0].offset
    except OSError:
        raise BadFile(f"its signal file is missing: {signal.file}") from None
    of_a_frame = BYTES_PER_SAMPLE[signal.format] * sum(s.per_frame for s in together)
    frames = header.frames
    if frames is None:
        if not of_a_frame:  # compressed
            raise BadFile(f"{header_file.name} does not say how many samples there are, as format {signal.format} must")
        frames = int(size / of_a_frame + 1e-6)
    elif size < math.floor(frames * of_a_frame):
        raise BadFile(
            f"truncated: {header_file.name} promises {frames:,} samples, {max(0, size):,} bytes of {signal.file} "
            f"are {int(max(0, size) / of_a_frame):,}"
        )
    read = _reader(header_file.parent, together, together.index(signal), frames)
    rate = header.rate * signal.per_frame
    return Recording(rate, frames * signal.per_frame, signal.name, signal.unit, file, read, header.rate)


def _reader(folder: Path, together: Sequence[Signal], number: int, frames: int) -> Callable[[int, int], np.ndarray]:
    """Reads one of the signals that share a file; first and last count its own samples."""
    signal, where = together[number], str(folder.absolute())

    def read(first: int, last: int) -> np.ndarray:
        from wfdb.io import _signal

        begin, end = first // signal.per_frame, -(-last // signal.per_frame)
        begin = 0 if signal.format == "8" else begin  # differences: they add up from the beginning
        try:
            # What `wfdb.rdrecord` calls for a record's samples. It takes no header, nor a number of frames, from us.
            (digital,) = _signal._rd_segment(
                file_name=[s.file for s in together],
                dir_name=where,
                pn_dir=None,
                fmt=[s.format for s in together],
                n_sig=len(together),
                sig_len=frames,
                byte_offset=[s.offset for s in together],
                samps_per_frame=[s.per_frame for s in together],
                skew=[s.skew for s in together],
                init_value=[s.first_value for s in together],
                sampfrom=begin,
                sampto=end,
                channels=[number],
                ignore_skew=False,
            )
        except Exception as failure:  # numpy's and soundfile's errors, for damaged files
            raise BadFile(f"{signal.file} is damaged, or not what its header says ({reason_of(failure)})") from None
        with np.errstate(over="ignore"):  # a gain near 0 makes infinite samples, which are named as such
            values: np.ndarray = (digital.astype(np.float64) - signal.baseline) / signal.gain
        invalid = _signal.INVALID_SAMPLE_VALUE[signal.format]
        if invalid is not None:
            values[digital == invalid] = np.nan
        return values[first - begin * signal.per_frame : last - begin * signal.per_frame]

    return read


def _segments(header_file: Path, header: Header, leads: Sequence[str]) -> Recording:
    listed = [(name, frames) for name, frames in header.segments or () if frames]  # without a header of the layout
    headers = {name: read_header(beside(header_file.with_name(name), "hea")) for name, _ in listed if name != GAP}
    covered: dict[str, int] = {}
    for name, frames in listed:
        for lead in {plain_name(s.name) for s in headers[name].signals} if name != GAP else ():
            covered[lead] = covered.get(lead, 0) + frames
    for name, part in headers.items():
        if part.segments is not None:
            raise BadFile(f"its segment {name} is in segments itself")
        if part.rate != header.rate:
            raise BadFile(f"its segment {name} has {part.rate:g} frames a second, the record {header.rate:g}")
    if not covered:
        raise BadFile(f"{header_file.name} has no segment with a signal")
    wanted = [lead for lead in map(plain_name, leads) if lead in covered]
    if not wanted:
        wanted = [list(covered)[choose(list(covered), leads)]]
    chosen = max(wanted, key=covered.__getitem__)
    parts = _parts(header_file, listed, headers, chosen)
    present = [part for _, part in parts if part is not None]
    if len({part.rate for part in present}) > 1:
        raise BadFile(f"its segments have lead {present[0].lead} at several rates")
    per_frame = round(present[0].rate / header.rate)
    ends = np.cumsum([frames * per_frame for frames, _ in parts]).tolist()
    total = sum(frames for frames, _ in parts)
    if header.frames not in (None, total):
        raise BadFile(f"{header_file.name} promises {header.frames:,} samples, its segments {total:,}")

    def read(first: int, last: int) -> np.ndarray:
        values = np.full(last - first, np.nan)
        for end, (frames, part) in zip(ends, parts, strict=True):
            begin = end - frames * per_frame
            low, high = max(first, begin), min(last, end)
            if part is not None and low < high:
                values[low - first : high - first] = part.read(low - begin, high - begin)
        return values

    first = present[0]
    return Recording(first.rate, ends[-1], first.lead, first.unit, header_file, read, header.rate)


def _parts(
    header_file: Path, listed: Sequence[tuple[str, int]], headers: dict[str, Header], chosen: str
) -> list[tuple[int, Recording | None]]:
    """Frames and lead of each segment; None for a gap, and where a segment lacks the lead."""
    opened: dict[str, Recording | None] = {GAP: None}
    for name, part in headers.items():
        names = [plain_name(s.name) for s in part.signals]
        file = beside(header_file.with_name(name), "hea")
        opened[name] = _single(file, part, names.index(chosen)) if chosen in names else None
    for name, frames in listed:
        lead = opened[name]
        if lead is not None and lead.length * headers[name].rate < frames * lead.rate:
            raise BadFile(f"truncated: segment {name} has fewer than the {frames:,} samples that are promised")
    return [(frames, opened[name]) for name, frames in listed]


def write_record(stem: Path, digital: np.ndarray, lead: str, gain: float, comments: Sequence[str]) -> None:
    """Write one lead at 200 Hz as WFDB format 16. `digital`: int16 (samples,); `gain`: units per mV."""
    import wfdb

    wfdb.wrsamp(
        stem.name,
        fs=RATE,
        units=["mV"],
        sig_name=[lead],
        d_signal=digital.reshape(-1, 1).astype(np.int16),
        fmt=["16"],
        adc_gain=[gain],
        baseline=[0],
        comments=list(comments),
        write_dir=str(stem.parent),
    )
