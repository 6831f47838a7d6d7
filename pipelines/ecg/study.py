"""Ambulatory ECG rhythms.

Hannun et al.: Cardiologist-level arrhythmia detection and classification in ambulatory electrocardiograms using a deep
neural network. Nature Medicine 2019;25:65-69.

Read from top to bottom this is the study's Method section.
"""

from __future__ import annotations

from pipelines.ecg import data, evaluation, labels, metrics, predicting, readers, strips
from pipelines.ecg.config import CLASSES
from pipelines.shared.study import Deferred, Study

# These import torch, which reports and checks of data do without.
model = Deferred("pipelines.ecg.model")
training = Deferred("pipelines.ecg.training")

STUDY = Study(
    name="ecg",
    title="Ambulatory ECG rhythms (Hannun et al., 2019)",
    # Single-lead recordings at 200 Hz in windows of 30 s; groups are patients.
    sources=data.SOURCES,
    prepare=data.prepare,
    prepare_settings=data.prepare_settings,
    prepare_reads=["header", "expected_rate", "start"],
    suffixes=data.SUFFIXES,
    labels=["rhythms", "record_label"],
    labelled=labels.labelled,
    stratify="stratum",
    # 33 convolutions with shortcuts; one of twelve rhythms for every step of 256 samples.
    classes=CLASSES,
    targets=model.targets,
    augment=model.augment,
    build=model.build,
    architecture=model.architecture,
    rebuild=model.rebuild,
    # A step that nobody labelled counts nowhere; a recording's one label is that of its mean probability.
    loss=model.loss,
    fit_and_predict=training.fit_and_predict,
    measure=metrics.measure,
    # One row per step.
    probabilities=metrics.probabilities,
    predict_columns=metrics.predict_columns,
    target_columns=metrics.target_columns,
    prediction_table=metrics.prediction_table,
    choose_points=metrics.choose_points,
    # Sequence and set level, beside six cardiologists.
    evaluate=evaluation.evaluate,
    explain=strips.save_strips,
    modes={"predict": predicting.predict_recordings, "readers": readers.read_by_cardiologists},
)
