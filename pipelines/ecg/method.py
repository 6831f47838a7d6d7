"""An ensemble of equals that sees rare rhythms more often; then strips of signal for the report."""

from __future__ import annotations

from pipelines.ecg.artifacts import save_strips
from pipelines.ecg.config import EcgConfig
from pipelines.ecg.learner import EcgLearner, oversampled
from pipelines.shared.learning.method import Ensemble
from pipelines.shared.run import Run
from pipelines.shared.study import Data


class EcgMethod(Ensemble[EcgConfig]):
    """Networks that differ by their seed, their probabilities averaged linearly."""

    learner = EcgLearner

    def fit(self, run: Run[EcgConfig], data: Data) -> None:
        """The shared fit, with windows of rare rhythms repeated."""
        super().fit(run, oversampled(data, run.config.sampling.most))

    def explain(self, run: Run[EcgConfig], data: Data) -> None:
        """Typical windows of every rhythm, and the most confident errors."""
        save_strips(data, run.folder)
