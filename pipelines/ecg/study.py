"""Ambulatory ECG rhythms.

Hannun et al.: Cardiologist-level arrhythmia detection and classification in ambulatory electrocardiograms using a deep
neural network. Nature Medicine 2019;25:65-69.

Read from top to bottom this is the study's Method section.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pipelines.ecg import data, labels, measures, metrics, predicting, rhythm_sets
from pipelines.ecg.architecture import Architecture
from pipelines.ecg.config import EcgConfig
from pipelines.shared.judging.prediction_sets import SetTask
from pipelines.shared.study import Data, Evidence, Results, Study

if TYPE_CHECKING:
    from pipelines.shared.handover.scorer import Scorer
    from pipelines.shared.learning.method import Method
    from pipelines.shared.run import FinishedRun, Run


class Ecg(Study[EcgConfig]):
    """One of twelve rhythms for every 1.28 s of a single-lead recording."""

    name = "ecg"
    title = "Ambulatory ECG rhythms (Hannun et al., 2019)"

    # Single-lead recordings at 200 Hz in windows of 30 s; groups are patients.
    sources = data.SOURCES
    suffixes = data.SUFFIXES
    labels = ("rhythms", "record_label")
    stratify = "stratum"
    prepare = staticmethod(data.prepare)
    prepare_settings = staticmethod(data.prepare_settings)
    reads = ("header", "expected_rate", "start")

    def measures(self, data: Data, position: int, config: EcgConfig) -> dict[str, float]:
        """Of a window: sampling rate, length, amplitude."""
        record = data.records.iloc[position].to_dict()
        return measures.row_measures(record, data.source.root, self.prepare_settings(config))

    def labelled(self, records: pd.DataFrame) -> np.ndarray:
        """A window with a step of a known rhythm, or of a recording with a label."""
        return labels.labelled(records)

    def method(self, config: EcgConfig) -> Method[EcgConfig]:
        """33 convolutions with shortcuts; a step that nobody labelled counts nowhere; a recording's one label is that
        of its mean probability.
        """
        from pipelines.ecg.method import EcgMethod

        return EcgMethod()

    def scorer(self, run: Run[EcgConfig], finished: FinishedRun, in_memory: bool = False) -> Scorer[EcgConfig]:
        """Recordings of any length."""
        return predicting.RecordingScorer(run, finished, in_memory)

    def choose_points(self, predictions: pd.DataFrame, config: EcgConfig) -> list[dict[str, Any]]:
        """None: the answer is the most probable rhythm, so there is no threshold to choose."""
        return metrics.choose_points(predictions, config)

    def set_tasks(self, model: Mapping[str, Any], config: EcgConfig) -> list[SetTask]:
        """Which rhythm a step may be; where recordings have one label, which it may be. Patients are the groups."""
        return rhythm_sets.set_tasks(Architecture.of(dict(model)).trained, config.labels)

    def evaluate(self, evidence: Evidence[EcgConfig]) -> Results:
        """Sequence and set level, beside six cardiologists."""
        from pipelines.ecg import evaluation

        return evaluation.evaluate(evidence)


STUDY = Ecg()
