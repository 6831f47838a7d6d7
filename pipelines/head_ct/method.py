"""An ensemble of equals; then what the triage trial needs to know of it: seconds to the alarm, errors, the labeller."""

from __future__ import annotations

from pipelines.head_ct.config import HeadCtConfig
from pipelines.head_ct.learner import HeadCtLearner
from pipelines.shared.learning.method import Ensemble, first_network
from pipelines.shared.run import Run
from pipelines.shared.study import Data


class HeadCtMethod(Ensemble[HeadCtConfig]):
    """Networks that differ by their seed, their probabilities averaged linearly."""

    learner = HeadCtLearner

    def explain(self, run: Run[HeadCtConfig], data: Data) -> None:
        """The labeller against the truth, the seconds from files to alarm, the most confident errors."""
        from pipelines.head_ct.artifacts import record

        record(run, data, first_network(run, HeadCtLearner))
