"""The ECG study: trainer and loader at the default width, and a day's recording beside the bare network."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from conftest import compose
from measure import REPOSITORY, Row, loader_row, training_data_of, training_row

from pipelines.ecg import signals
from pipelines.ecg.data import prepare_settings
from pipelines.ecg.labels import STEP
from pipelines.ecg.learner import EcgLearner
from pipelines.ecg.predicting import label_recording
from pipelines.ecg.study import STUDY
from pipelines.shared.data.assemble import training_data
from pipelines.shared.stats.probabilities import softmax

MINUTES = 3
HOURS = 24
RATE = 360  # Hz, so that the day is resampled too
BATCH = 64


def rows() -> list[Row]:
    """All rows of this study."""
    config = compose("ecg", f"cache.dir={REPOSITORY / '.cache'}", "trainer.max_steps=6", "trainer.device=cpu")
    data = training_data(STUDY, config)
    learner = EcgLearner.from_data(config, data)
    dataset, batch = training_data_of(learner, data), config.trainer.batch_size
    inputs = torch.randn(batch, config.preprocess.steps * STEP)
    answers = torch.from_numpy(dataset.targets[:batch])
    what = f"ECG, {config.model.filters} filters, batch {batch}, training"
    return [
        training_row(what, learner, dataset, inputs, answers),
        loader_row("ECG windows", STUDY, learner, dataset),
        _day_row(config),
    ]


def _day_row(config: Any) -> Row:
    """Hours of signal per second: a day at 360 Hz read, resampled and labelled, against the network alone."""
    network = EcgLearner(config).build().eval()
    day = np.cumsum(np.random.default_rng(0).standard_normal(HOURS * 3600 * RATE, dtype=np.float32))
    recording = signals.Recording(RATE, len(day), "II", "mV", REPOSITORY, lambda a, b: day[a:b].astype(np.float64))

    def answer(windows: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return softmax(network(torch.from_numpy(windows)).numpy())

    settings = prepare_settings(config)
    answer(np.zeros((BATCH, config.preprocess.steps * STEP), np.float32))
    began = time.perf_counter()
    label_recording(recording, answer, settings, config.predict.overlap, BATCH, "A day")
    ours = HOURS / (time.perf_counter() - began)
    windows = np.random.default_rng(1).standard_normal((BATCH, config.preprocess.steps * STEP), dtype=np.float32)
    began = time.perf_counter()
    rounds = 10
    for _ in range(rounds):
        answer(windows)
    # Without overlap: every step of a window is a step of the recording.
    bare = rounds * BATCH * config.preprocess.steps * STEP / 200 / 3600 / (time.perf_counter() - began)
    kept = 1 - 2 * config.predict.overlap / config.preprocess.steps
    return {
        "what": f"ECG, labelling a day at {RATE} Hz (overlap keeps {100 * kept:.0f} % of each window)",
        "ratio": ours / bare,
        "ours": f"{ours:.2f} h of signal/s",
        "reference": f"bare network, no overlap {bare:.2f} h/s",
    }
