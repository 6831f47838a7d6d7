"""An ensemble of equals."""

from __future__ import annotations

from pipelines.nodules.config import NodulesConfig
from pipelines.nodules.learner import NodulesLearner
from pipelines.shared.learning.method import Ensemble


class NodulesMethod(Ensemble[NodulesConfig]):
    """Networks that differ by their seed, their probabilities averaged linearly."""

    learner = NodulesLearner
