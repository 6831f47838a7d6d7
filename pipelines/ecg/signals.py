"""Reading signals: WFDB, the irhythm set's raw files, CSV and NPY, resampled to 200 Hz."""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.signal import resample_poly

from pipelines.ecg.labels import RATE, STEP
from pipelines.shared.errors import BadFile

SLOWEST, FASTEST = 50, 20_000  # Hz; what a header may say
MARGIN = 64  # samples at 200 Hz on either side of a stretch, so that the filter's edges lie outside it
RAIL = 4  # equal samples in a row at the highest or lowest value of a window: the amplifier was at its limit


@dataclass(frozen=True)
class Recording:
    """One lead of one recording, read piece by piece.

    Attributes:
        rate: sampling rate of the file, Hz.
        length: samples in the file.
        lead: the lead's name.
        unit: of the values.
        file: in which the samples are.
        read: (first, last + 1) -> float64 samples at the file's rate; NaN where the file marks a sample as invalid.
    """

    rate: float
    length: int
    lead: str
    unit: str
    file: Path
    read: Callable[[int, int], np.ndarray]

    @property
    def samples(self) -> int:
        """Length at 200 Hz."""
        return int(self.length * RATE / self.rate)

    @property
    def steps(self) -> int:
        """Whole steps of 256 samples."""
        return self.samples // STEP


def open_recording(path: Path, leads: Sequence[str], sampling_rate: float | None = None) -> Recording:
    """A recording from any file of it: `.hea`, its `.dat` or `.mat`, `.ecg`, `.csv`, `.npy`.

    Args:
        path: the file.
        leads: of several leads the first of these is taken; a single lead is taken whatever its name.
        sampling_rate: Hz, for CSV without a column of times and for NPY.

    Raises:
        BadFile: missing or unreadable, a sampling rate that cannot be, none of the leads, nothing in it.
    """
    kind = path.suffix.lower()
    if kind in (".hea", ".dat", ".mat"):
        recording = _wfdb(path.with_suffix(".hea"), leads)
    elif kind == ".ecg":
        recording = _raw(path)
    elif kind == ".csv":
        recording = _csv(path, leads, sampling_rate)
    elif kind == ".npy":
        recording = _npy(path, sampling_rate)
    else:
        raise BadFile(f"{kind or 'no suffix'} is no kind of signal file; known: .hea, .dat, .mat, .ecg, .csv, .npy")
    if not SLOWEST <= recording.rate <= FASTEST:
        raise BadFile(f"a sampling rate of {recording.rate:g} Hz cannot be right ({SLOWEST} to {FASTEST:,} Hz)")
    if recording.steps < 1:
        seconds = recording.length / recording.rate
        raise BadFile(f"{seconds:.2f} s at {recording.rate:g} Hz: shorter than one step of {STEP / RATE:g} s")
    return recording


def read_stretch(recording: Recording, start: int, stop: int) -> np.ndarray:
    """Samples [start, stop) at 200 Hz, float64, with an anti-aliasing filter; NaN near samples that are invalid.

    The piece that is read begins where both rates meet, so that any two stretches fit together.
    """
    ratio = Fraction(RATE / recording.rate).limit_denominator(2000)
    up, down = ratio.numerator, ratio.denominator
    if up == down:
        return recording.read(start, stop)
    first = max(0, start - MARGIN) // up * up  # a multiple of `up` here is a whole sample of the file
    begin = first // up * down
    end = min(recording.length, math.ceil((stop + MARGIN) * down / up))
    values = recording.read(begin, end)
    gaps = np.isnan(values)
    level = 0.0 if gaps.all() else float(np.nanmedian(values))
    out = resample_poly(np.where(gaps, level, values), up, down, padtype="edge")
    if gaps.any():
        out[resample_poly(gaps.astype(float), up, down) > 0.01] = np.nan
    out = out[start - first : stop - first]
    return np.concatenate([out, np.full(stop - start - len(out), out[-1])]) if len(out) < stop - start else out


def fingerprint(recording: Recording, start: int, stop: int) -> tuple[str, float]:
    """SHA-256 (hex) of the file's own samples under [start, stop) at 200 Hz, and the share that is at the rails.

    A constant offset, gain and the name of the lead do not matter: what is equal but for these is the same signal.
    """
    scale = recording.rate / RATE
    values = recording.read(int(start * scale), min(recording.length, math.ceil(stop * scale)))
    known = values[~np.isnan(values)]
    if len(known) == 0 or np.ptp(known) == 0:
        return hashlib.sha256(repr((len(values), "flat")).encode()).hexdigest(), 0.0
    unit = np.round((values - known.min()) / np.ptp(known) * 32767)
    digest = hashlib.sha256(repr((round(recording.rate, 3), len(values))).encode())
    digest.update(np.nan_to_num(unit, nan=-1).astype("<i2").tobytes())
    return digest.hexdigest(), clipped_share(values)


def clipped_share(values: np.ndarray) -> float:
    """The share of samples in runs of at least `RAIL` equal ones at the highest or lowest value."""
    if len(values) == 0 or np.isnan(values).all():
        return 0.0
    total = 0
    for limit in (np.nanmax(values), np.nanmin(values)):
        edges = np.flatnonzero(np.diff(np.concatenate([[False], values == limit, [False]]).astype(int)))
        runs = edges[1::2] - edges[::2]
        total += int(runs[runs >= RAIL].sum())
    return min(1.0, total / len(values))


# --- the formats ---


def _wfdb(header_file: Path, leads: Sequence[str]) -> Recording:
    import wfdb

    if not header_file.is_file():
        raise BadFile(f"its header {header_file.name} is missing")
    stem = str(header_file.with_suffix("").resolve())
    try:
        header = wfdb.rdheader(stem)
        names = list(header.sig_name or []) if not isinstance(header, wfdb.MultiRecord) else header.get_sig_name()
        rate, length = float(header.fs or 0), int(header.sig_len or 0)
    except Exception as failure:  # wfdb raises many types for damaged headers
        raise BadFile(f"{header_file.name} cannot be read: {_reason(failure)}") from None
    if rate <= 0:
        raise BadFile(f"{header_file.name} has no sampling rate")
    if length <= 0 or not names:
        raise BadFile(f"{header_file.name} has no signals")
    channel = _lead(names, leads)
    units = (header.units or ["mV"])[channel] if not isinstance(header, wfdb.MultiRecord) else "mV"

    def read(first: int, last: int) -> np.ndarray:
        try:
            record = wfdb.rdrecord(stem, sampfrom=first, sampto=last, channels=[channel], return_res=64)
            values = np.asarray(record.p_signal[:, 0], dtype=np.float64)
        except FileNotFoundError as failure:
            raise BadFile(f"its signal file is missing: {Path(failure.filename or '').name}") from None
        except Exception as failure:  # a truncated file is a ValueError of numpy's, others differ
            raise BadFile(f"truncated or damaged: {header_file.name} promises {length:,} samples") from failure
        if len(values) != last - first:
            raise BadFile(f"truncated: {header_file.name} promises {length:,} samples")
        return values

    file = header_file if isinstance(header, wfdb.MultiRecord) else header_file.with_name(header.file_name[channel])
    return Recording(rate, length, names[channel], units or "mV", file, read)


def _lead(names: Sequence[str], leads: Sequence[str]) -> int:
    """Which lead is taken: the first that is asked for; names are compared without case and blanks."""
    plain = [str(n).strip().lower() for n in names]
    if len(plain) == 1:
        return 0
    for wanted in leads:
        if wanted.strip().lower() in plain:
            return plain.index(wanted.strip().lower())
    raise BadFile(f"none of data.leads ({', '.join(leads)}) among its leads {', '.join(map(str, names))}")


def _raw(path: Path) -> Recording:
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


def _csv(path: Path, leads: Sequence[str], sampling_rate: float | None) -> Recording:
    """A table with a column per lead, and perhaps one of times in seconds (`time`, `seconds` or `t`)."""
    try:
        table = pd.read_csv(path, encoding="utf-8-sig")
    except (OSError, ValueError) as failure:  # pandas' own errors are ValueErrors
        raise BadFile(f"cannot be read as a table: {_reason(failure)}") from None
    if all(_is_number(name) for name in table.columns):  # no header: the first row is a sample
        table = pd.read_csv(path, header=None, encoding="utf-8-sig").rename(columns=str)
    times = next((c for c in table.columns if str(c).strip().lower() in ("time", "seconds", "t")), None)
    rate = sampling_rate
    if times is not None:
        gaps = np.diff(pd.to_numeric(table[times], errors="coerce").to_numpy(float))
        usual = float(np.median(gaps)) if len(gaps) else np.nan
        if not usual > 0 or np.abs(gaps - usual).max() > 0.5 * usual:
            raise BadFile(f"the column {times} does not rise evenly: samples are missing, or it is no time in seconds")
        rate = round(1 / float(gaps.mean()), 3)
        table = table.drop(columns=[times])
    if rate is None:
        raise BadFile("no sampling rate: give data.sampling_rate, or a column 'time' in seconds")
    if table.shape[1] == 0:
        raise BadFile("no column with a signal")
    channel = _lead([str(c) for c in table.columns], leads)
    values = pd.to_numeric(table.iloc[:, channel], errors="coerce").to_numpy(np.float64)
    return Recording(rate, len(values), str(table.columns[channel]), "unknown", path, lambda a, b: values[a:b])


def _npy(path: Path, sampling_rate: float | None) -> Recording:
    """One lead as a one-dimensional array of numbers."""
    if sampling_rate is None:
        raise BadFile("an .npy file has no sampling rate: give data.sampling_rate")
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as failure:
        raise BadFile(f"cannot be read: {_reason(failure)}") from None
    if values.ndim != 1 or not np.issubdtype(values.dtype, np.number) or np.iscomplexobj(values):
        raise BadFile(f"an array (samples,) of numbers is needed, found {values.shape} of {values.dtype}")
    return Recording(sampling_rate, len(values), "ECG", "unknown", path, lambda a, b: np.asarray(values[a:b], float))


def _is_number(name: object) -> bool:
    with contextlib.suppress(ValueError):
        float(str(name))
        return True
    return False


def _reason(failure: Exception) -> str:
    return (str(failure) or type(failure).__name__).splitlines()[0]


# --- writing ---


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
