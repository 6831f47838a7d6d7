"""What of a recording is compared with the training set."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.ecg.labels import RATE, STEP
from pipelines.ecg.measures import WINDOWS, recording_measures, row_measures
from pipelines.ecg.recording import Recording
from pipelines.shared.data.ranges import beyond, ranges_of

STEPS = 23


def recording(seconds: float, rate: float = 200.0, gain: float = 1.0, seed: int = 0, reads: list | None = None):
    values = gain * np.random.default_rng(seed).standard_normal(int(seconds * rate))

    def read(first, last):
        if reads is not None:
            reads.append((first, last))
        return values[first:last]

    return Recording(rate, len(values), "II", "mV", None, read)


RANGES = ranges_of(recording_measures(recording(30, seed=k), STEPS) for k in range(20))


def test_a_recording_like_those_of_training_has_no_warning():
    assert beyond(recording_measures(recording(30, seed=99), STEPS), RANGES) is None
    assert beyond(recording_measures(recording(3600, seed=99), STEPS), RANGES) is None, "it is labelled in windows"


@pytest.mark.parametrize(
    ("odd", "named"),
    [
        (recording(30, rate=360), "sampling rate (Hz) 360 (200 to 200 there)"),
        (recording(9), "window (s) 8.96 (29.44 to 29.44 there)"),
        (recording(30, gain=1000), "amplitude (standard deviation)"),
        (recording(30, gain=0.001), "amplitude (standard deviation)"),
    ],
    ids=["rate", "short", "microvolt", "weak"],
)
def test_what_is_unlike_it_is_named(odd, named):
    assert named in beyond(recording_measures(odd, STEPS), RANGES)


def test_of_a_long_recording_little_is_read():
    reads: list[tuple[int, int]] = []
    long = recording(7200, reads=reads)
    recording_measures(long, STEPS)
    assert len(reads) == WINDOWS
    assert all(last - first == STEPS * STEP for first, last in reads)
    assert reads[0][0] == 0
    assert long.samples - 2 * STEP < reads[-1][1] <= long.samples


def test_a_gap_is_left_out_and_nothing_but_gaps_has_no_amplitude():
    values = np.random.default_rng(0).standard_normal(30 * RATE)
    values[:1000] = np.nan
    some = Recording(200.0, len(values), "II", "mV", None, lambda a, b: values[a:b])
    assert recording_measures(some, STEPS)["amplitude (standard deviation)"] == pytest.approx(1, abs=0.1)
    none = Recording(200.0, 30 * RATE, "II", "mV", None, lambda a, b: np.full(b - a, np.nan))
    assert set(recording_measures(none, STEPS)) == {"sampling rate (Hz)", "window (s)"}


def test_a_window_of_the_record_table(tmp_path):
    values = np.random.default_rng(0).standard_normal(70 * 250)
    np.save(tmp_path / "a.npy", values)
    settings = {"steps": STEPS, "leads": ["II"], "sampling_rate": 250.0}
    found = row_measures({"path": "a.npy", "start": STEPS}, tmp_path, settings)
    begin, end = STEPS * STEP * 250 // RATE, 2 * STEPS * STEP * 250 // RATE
    assert found == {"sampling rate (Hz)": 250, "window (s)": STEPS * STEP / RATE,
                     "amplitude (standard deviation)": pytest.approx(values[begin:end].std())}  # fmt: skip
    rest = row_measures({"path": "a.npy", "start": 2 * STEPS}, tmp_path, settings)
    assert rest["window (s)"] == (70 * RATE // STEP - 2 * STEPS) * STEP / RATE
