"""Long recordings: windows that cover every step once, the same answers as one by one, bounded memory, real files."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import compose
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.ecg import signals
from pipelines.ecg.config import CLASSES
from pipelines.ecg.data import scaled
from pipelines.ecg.labels import RATE, STEP
from pipelines.ecg.predicting import episode_table, label_recording, named, plan, score_columns
from pipelines.ecg.taught import taught

SETTINGS = {"steps": 23, "scale": "window"}


@given(st.integers(1, 400), st.integers(1, 60), st.data())
@settings(max_examples=80, deadline=None)
def test_every_step_is_kept_once_with_its_context(steps, size, data):
    overlap = data.draw(st.integers(0, (size - 1) // 2))
    windows = plan(steps, size, overlap)
    kept = [k for _, first, last in windows for k in range(first, last)]
    assert kept == list(range(steps))
    for start, first, last in windows:
        assert 0 <= start <= first
        assert last <= start + size
        if steps > size:
            assert start + size <= steps
            assert first == 0 or first - start >= overlap
            assert last == steps or start + size - last >= overlap


def recording(seconds, rate=200.0, seed=0, longest=None):
    """A recording in memory; `longest` is the most samples that may be read at once."""
    rng = np.random.default_rng(seed)
    values = np.cumsum(rng.standard_normal(int(seconds * rate)))

    def read(first, last):
        assert longest is None or last - first <= longest
        return values[first:last]

    return signals.Recording(rate, len(values), "II", "mV", None, read), values


def mean_and_place(windows):
    """An answer that depends on the whole window: class 0 gets a function of the step's mean, class 1 the rest."""
    step = windows.reshape(len(windows), -1, STEP).mean(axis=2)
    p = np.zeros((*step.shape, len(CLASSES)))
    p[..., 0] = 1 / (1 + np.exp(-step))
    p[..., 1] = 1 - p[..., 0]
    return p


@pytest.mark.parametrize("at_once", [1, 3, 1000])
def test_pieces_give_what_windows_one_by_one_give(at_once):
    whole, values = recording(400)
    got = label_recording(whole, mean_and_place, SETTINGS, 4, at_once, "")
    assert got.shape == (400 * RATE // STEP, 12)
    for start, first, last in plan(whole.steps, 23, 4):
        one = mean_and_place(scaled(values[start * STEP : (start + 23) * STEP], SETTINGS)[None])[0]
        assert np.allclose(got[first:last], one[first - start : last - start])


@pytest.mark.slow
def test_memory_is_bounded_whatever_the_length():
    most = int((8 * (23 - 8) + 23) * STEP * 360 / 200 + 1000)
    long, _ = recording(4 * 3600, 360.0, longest=most)
    got = label_recording(long, mean_and_place, SETTINGS, 4, 8, "")
    assert len(got) == long.steps
    assert not np.isnan(got).any()


def test_a_recording_shorter_than_a_window_is_padded():
    short, _ = recording(9.5)
    assert label_recording(short, mean_and_place, SETTINGS, 4, 8, "").shape == (7, 12)


def test_flat_stretches_have_no_answer_and_the_rest_has():
    _, values = recording(400)
    values[30_000:50_000] = 5.0
    flat = signals.Recording(200.0, len(values), "II", "mV", None, lambda a, b: values[a:b])
    got = label_recording(flat, mean_and_place, SETTINGS, 4, 8, "")
    labels = named(got)
    assert labels[0] in CLASSES
    assert labels[160] == "?"
    table = episode_table("x", labels, got)
    assert table["steps"].sum() == len(labels)
    assert "unreadable" in set(table["rhythm"])
    assert (table["end_s"].iloc[:-1].to_numpy() == table["start_s"].iloc[1:].to_numpy()).all()


def test_what_training_never_taught_is_no_answer_and_has_no_probability():
    known = taught(["N", "A", "O", "VT"], compose("ecg").labels)
    p = np.full((3, 12), 0.07)
    p[0, CLASSES.index("EAR")] = 0.23  # with the others of O it is the most probable
    p[1, CLASSES.index("SINUS")] = 0.9
    p[2] = np.nan
    answers = known.answers(p)
    labels = named(answers, known.names)
    assert labels == ["O", "SINUS", "?"]
    assert episode_table("x", labels, answers, known.names)["rhythm"].tolist() == ["O", "SINUS", "unreadable"]
    columns = score_columns(p, known)
    assert columns[["p_EAR", "p_NOISE"]].isna().all(axis=None)
    assert columns["p_O"].iloc[0] == pytest.approx(0.07 * 7 + 0.23)
    assert columns["p_VT"].iloc[0] == 0.07
    assert "NOISE: no training record has it" in known.sentence()
