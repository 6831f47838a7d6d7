"""An ensemble of equals; then saliency of its first network's errors and the map of its last hidden layer."""

from __future__ import annotations

import numpy as np

from pipelines.shared.learning.method import Ensemble, first_network
from pipelines.shared.run import FinishedRun, Run
from pipelines.shared.study import Data
from pipelines.skin.config import SkinConfig
from pipelines.skin.learner import SkinLearner


class SkinMethod(Ensemble[SkinConfig]):
    """Networks that differ by their seed, their probabilities averaged linearly."""

    learner = SkinLearner

    def explain(self, run: Run[SkinConfig], data: Data) -> None:
        """Saliency of the most confident errors, and the last hidden layer of every test picture."""
        from pipelines.skin.artifacts import explain

        explain(run, data, first_network(run, SkinLearner))

    def saliency(
        self, run: Run[SkinConfig], finished: FinishedRun, picture: np.ndarray
    ) -> tuple[str, np.ndarray] | None:
        """What spoke for or against malignancy."""
        from pipelines.skin.artifacts import saliency_of

        return saliency_of(run, finished, picture)
