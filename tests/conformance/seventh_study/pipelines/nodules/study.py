"""Nodules in small pictures.

Read from top to bottom this is the study's Method section.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from pipelines.nodules import data, metrics
from pipelines.nodules.config import NodulesConfig
from pipelines.shared.data.images import SUFFIXES
from pipelines.shared.study import Evidence, Results, Study

if TYPE_CHECKING:
    from pipelines.shared.learning.method import Method


class Nodules(Study[NodulesConfig]):
    """Is there a nodule in the picture?"""

    name = "nodules"
    title = "Nodules in small pictures"

    # A folder of pictures for each class; groups are patients.
    sources = data.SOURCES
    suffixes = SUFFIXES
    labels = ("nodule",)
    stratify = "nodule"
    prepare = staticmethod(data.prepare)
    prepare_settings = staticmethod(data.prepare_settings)

    def method(self, config: NodulesConfig) -> Method[NodulesConfig]:
        """One backbone with one sigmoid output."""
        from pipelines.nodules.method import NodulesMethod

        return NodulesMethod()

    def choose_points(self, predictions: pd.DataFrame, config: NodulesConfig) -> list[dict[str, Any]]:
        """Two operating points, chosen on val and frozen."""
        return metrics.choose_points(predictions, config)

    def evaluate(self, evidence: Evidence[NodulesConfig]) -> Results:
        """AUROC, operating points, calibration."""
        from pipelines.nodules import evaluation

        return evaluation.evaluate(evidence)


STUDY = Nodules()
