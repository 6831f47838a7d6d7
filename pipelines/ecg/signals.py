"""Recordings as the study uses them: opened from any kind of file, and read as pieces at 200 Hz."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import numpy as np

from pipelines.ecg.formats import open_array, open_raw, open_table
from pipelines.ecg.labels import RATE, STEP
from pipelines.ecg.recording import Recording
from pipelines.ecg.wfdb_files import beside, is_there, open_record
from pipelines.shared.errors import BadFile

SLOWEST, FASTEST = 50, 20_000  # Hz; what a header may say
LONGEST = 100  # days; likewise
MARGIN = 64  # samples at 200 Hz on either side of a stretch, so that the filter's edges lie outside it
RAIL = 4  # equal samples in a row at the highest or lowest value of a window: the amplifier was at its limit
BRIDGED = 0.05  # s; a gap that is no longer becomes a straight line: no wave of an ECG fits into it
FLAT = 3  # steps; a line that is flat for so long is no signal
FINEST = 30_000  # the largest terms of a ratio of rates that is resampled in one go
MISSING = "samples are marked as missing; steps with a gap of more than 50 ms are not used"
KINDS = (".hea", ".dat", ".mat", ".ecg", ".csv", ".npy")


def open_recording(path: Path, leads: Sequence[str], sampling_rate: float | None = None) -> Recording:
    """A recording from any file of it: `.hea`, its `.dat` or `.mat`, `.ecg`, `.csv`, `.npy`.

    Args:
        path: the file; a WFDB record may be named without its suffix.
        leads: of several leads the first of these is taken; a single lead is taken whatever its name.
        sampling_rate: Hz, for CSV without a column of times and for NPY.

    Raises:
        BadFile: missing or unreadable, a sampling rate that cannot be, none of the leads, nothing in it. So does
            `read`, for infinite samples.
    """
    path = signal_file(path)
    kind = path.suffix.lower()
    if kind in (".hea", ".dat", ".mat"):
        recording = open_record(path if kind == ".hea" else path.with_suffix(".hea"), leads)
    elif kind == ".ecg":
        recording = open_raw(path)
    elif kind == ".csv":
        recording = open_table(path, leads, sampling_rate)
    elif kind == ".npy":
        recording = open_array(path, sampling_rate)
    else:
        raise BadFile(f"{kind or 'no suffix'} is no kind of signal file; known: {', '.join(KINDS)}")
    if not SLOWEST <= recording.rate <= FASTEST:
        raise BadFile(f"a sampling rate of {recording.rate:g} Hz cannot be right ({SLOWEST} to {FASTEST:,} Hz)")
    if recording.steps < 1:
        seconds = recording.length / recording.rate
        raise BadFile(f"{seconds:.2f} s at {recording.rate:g} Hz: shorter than one step of {STEP / RATE:g} s")
    days = recording.length / recording.rate / 86_400
    if days > LONGEST:
        raise BadFile(f"{days:,.0f} days at {recording.rate:g} Hz cannot be right (at most {LONGEST})")

    def read(first: int, last: int) -> np.ndarray:
        values = recording.read(first, last)
        infinite = np.flatnonzero(np.isinf(values))
        if len(infinite):
            seconds_in = (first + infinite[0]) / recording.rate
            raise BadFile(f"{len(infinite):,} of {len(values):,} samples are infinite, the first at {seconds_in:.2f} s")
        return values

    return replace(recording, read=read)


def signal_file(path: Path) -> Path:
    """The file that a path means: WFDB, and tables of large sets, name a record without the suffix of its header."""
    return beside(path, "hea") if path.suffix.lower() not in KINDS and is_there(path, "hea") else path


def read_stretch(recording: Recording, start: int, stop: int) -> np.ndarray:
    """Samples [start, stop) at 200 Hz, float64, with an anti-aliasing filter; NaN in gaps longer than `BRIDGED`.

    Times are those of the file's own clock, however odd its rate, and any two stretches fit together.
    """
    from scipy.signal import resample_poly

    scale = Fraction(repr(recording.rate)) / RATE  # samples of the file per sample here
    up, down = scale.denominator, scale.numerator
    begin = max(0, math.floor((start - MARGIN) * scale))
    exact = max(up, down) <= FINEST
    if exact:
        begin = begin // down * down  # where a sample of the file is one at 200 Hz too
    end = min(recording.length, math.ceil((stop + MARGIN) * scale))
    values, lost = bridged(recording.read(begin, end), recording.rate)
    places = np.arange(start, stop) * float(scale) - begin  # in samples of the file
    out: np.ndarray
    if exact:
        first = begin // down * up
        out = resample_poly(values, up, down, window=_low_pass(up, down), padtype="edge")[start - first : stop - first]
        out = np.concatenate([out, np.full(stop - start - len(out), out[-1])])
    else:
        fine = max(1, math.ceil(4000 / recording.rate))
        cut = max(1.0, float(scale))
        grid = resample_poly(values, fine, 1, window=_low_pass(fine, 1, cut), padtype="edge")
        out = np.interp(places * fine, np.arange(len(grid)), grid)
    out[lost[np.minimum(np.round(places).astype(int), len(lost) - 1)]] = np.nan
    return out


@lru_cache(maxsize=16)
def _low_pass(up: int, down: int, slower: float = 1.0) -> np.ndarray:
    """The filter of `resample_poly` (its default), that stays below the slower of both rates.

    Each of its `up` phases sums to the same, so that a constant stays exactly constant.

    Args:
        up: as of `resample_poly`.
        down: as of `resample_poly`.
        slower: how much slower than both the rate is that the result is taken at afterwards.
    """
    from scipy.signal import firwin

    width = max(up, down) * slower
    if width == 1:
        return np.ones(1)
    half = math.ceil(10 * width)
    taps = firwin(2 * half + 1, 1 / width, window=("kaiser", 5.0))
    phase = np.arange(len(taps)) % up
    filters: np.ndarray = taps / np.bincount(phase, taps)[phase] / up
    return filters


def bridged(values: np.ndarray, rate: float) -> tuple[np.ndarray, np.ndarray]:
    """Samples with a straight line over every gap, and which of them lie in gaps longer than `BRIDGED`, bool.

    Args:
        values: (samples,), NaN where missing.
        rate: Hz.
    """
    missing = np.isnan(values)
    if not missing.any():
        return values, missing
    if missing.all():
        return np.zeros_like(values), missing
    samples = np.arange(len(values))
    filled = np.interp(samples, samples[~missing], values[~missing])
    lost = missing.copy()
    for begin, end in _runs(missing):
        lost[begin:end] = end - begin > max(1, round(BRIDGED * rate))
    return filled, lost


def _runs(mask: np.ndarray) -> list[tuple[int, int]]:
    """(first, last + 1) of every run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(int)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def lost_steps(values: np.ndarray) -> np.ndarray:
    """Which whole steps of a stretch at 200 Hz have a gap, bool (steps,)."""
    gaps: np.ndarray = np.isnan(values[: len(values) // STEP * STEP]).reshape(-1, STEP).any(axis=1)
    return gaps


def flat_steps(values: np.ndarray) -> np.ndarray:
    """Which whole steps of a stretch at 200 Hz do not change at all, bool (steps,)."""
    steps = values[: len(values) // STEP * STEP].reshape(-1, STEP)
    flat: np.ndarray = np.ptp(steps, axis=1) <= 1e-9 * np.maximum(1.0, np.abs(steps).max(axis=1))
    return flat


def flat_lines(flat: np.ndarray) -> np.ndarray:
    """Which steps lie in a flat line of at least `FLAT` steps, from which steps are flat, bool (steps,)."""
    result = np.zeros_like(flat)
    for begin, end in _runs(flat):
        result[begin:end] = end - begin >= FLAT
    return result


@dataclass(frozen=True)
class Quality:
    """What is known of a piece of the file's own samples.

    Attributes:
        fingerprint: SHA-256 (hex). A constant offset, gain and the name of the lead do not matter: what is equal but
            for these is the same signal.
        clipped: the share that is at the rails.
        missing: samples that the file marks as missing.
    """

    fingerprint: str
    clipped: float
    missing: int


def quality(recording: Recording, start: int, stop: int) -> Quality:
    """The quality of the file's own samples under [start, stop) at 200 Hz."""
    scale = recording.rate / RATE
    values = recording.read(int(start * scale), min(recording.length, math.ceil(stop * scale)))
    known = values[~np.isnan(values)]
    missing = len(values) - len(known)
    if len(known) == 0 or np.ptp(known) == 0:
        return Quality(hashlib.sha256(repr((len(values), "flat")).encode()).hexdigest(), 0.0, missing)
    unit = np.round((values - known.min()) / np.ptp(known) * 32767)
    digest = hashlib.sha256(repr((round(recording.rate, 3), len(values))).encode())
    digest.update(np.nan_to_num(unit, nan=-1).astype("<i2").tobytes())
    return Quality(digest.hexdigest(), clipped_share(values), missing)


def clipped_share(values: np.ndarray) -> float:
    """The share of samples in runs of at least `RAIL` equal ones at the highest or lowest value."""
    if len(values) == 0 or np.isnan(values).all():
        return 0.0
    runs = [end - begin for limit in (np.nanmax(values), np.nanmin(values)) for begin, end in _runs(values == limit)]
    return min(1.0, sum(length for length in runs if length >= RAIL) / len(values))
