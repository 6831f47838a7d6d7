"""An ensemble of equals, and saliency of its first network's errors."""

from __future__ import annotations

import numpy as np

from pipelines.retinopathy.config import RetinopathyConfig
from pipelines.retinopathy.learner import RetinopathyLearner
from pipelines.shared.learning.method import Ensemble, first_network
from pipelines.shared.run import FinishedRun, Run
from pipelines.shared.study import Data


class RetinopathyMethod(Ensemble[RetinopathyConfig]):
    """Networks that differ by their seed, their probabilities averaged linearly."""

    learner = RetinopathyLearner

    def explain(self, run: Run[RetinopathyConfig], data: Data) -> None:
        """Saliency of the most confident errors."""
        from pipelines.retinopathy.artifacts import explain

        explain(run, data, first_network(run, RetinopathyLearner))

    def saliency(
        self, run: Run[RetinopathyConfig], finished: FinishedRun, picture: np.ndarray
    ) -> tuple[str, np.ndarray] | None:
        """What spoke for or against referable disease."""
        from pipelines.retinopathy.artifacts import saliency_of

        return saliency_of(run, finished, picture)
