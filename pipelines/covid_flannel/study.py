"""COVID-19 in chest X-rays.

Qiao, Bae, Glass, Xiao, Sun: FLANNEL (Focal Loss bAsed Neural Network EnsembLe) for COVID-19 detection. J Am Med Inform
Assoc 2021;28:444-452 (online 2020).

Read from top to bottom this is the study's Method section.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from pipelines.covid_flannel import data, metrics, protocol
from pipelines.covid_flannel.config import CovidConfig
from pipelines.covid_flannel.measures import spine_against_all
from pipelines.shared.data.images import SUFFIXES
from pipelines.shared.judging.prediction_sets import SetTask
from pipelines.shared.study import Data, Evidence, Recalibrated, Results, Study

if TYPE_CHECKING:
    from pipelines.shared.learning.method import Method


class CovidFlannel(Study[CovidConfig]):
    """COVID-19, other viral and bacterial pneumonia, and normal chests, by a learned ensemble."""

    name = "covid_flannel"
    title = "COVID-19 in chest X-rays, FLANNEL (Qiao et al., 2020)"

    # Frontal chest X-rays as grey squares; groups are patients.
    sources = data.SOURCES
    suffixes = SUFFIXES
    labels = ("label",)
    stratify = "stratum"
    prepare = staticmethod(data.prepare)
    prepare_settings = staticmethod(data.prepare_settings)
    reads = ("view",)
    own_folds = True  # folds/: two stages need two parts that their networks have not seen

    def split(self, records: pd.DataFrame, config: CovidConfig) -> pd.DataFrame:
        """Every patient is tested once, in one of five folds."""
        return protocol.divide(records, config)

    def measures(self, data: Data, position: int, config: CovidConfig) -> dict[str, float]:
        """Those of a picture, and how bright the spine is, which tells a negative."""
        spine = spine_against_all(data.prepared.array(position))
        return super().measures(data, position, config) | {"spine against the whole (grey levels)": spine}

    def method(self, config: CovidConfig) -> Method[CovidConfig]:
        """Stage 1: five base learners in every fold. Stage 2: FLANNEL learns from their predictions for patients whom
        they have not seen; voting, averaging and constant weights beside it.
        """
        from pipelines.covid_flannel.method import FlannelMethod

        return FlannelMethod()

    def choose_points(self, predictions: pd.DataFrame, config: CovidConfig) -> list[dict[str, Any]]:
        """Thresholds of P(COVID-19), chosen on the stacking part of every fold and frozen."""
        return metrics.choose_points(predictions, config)

    def set_tasks(self, model: Mapping[str, Any], config: CovidConfig) -> list[SetTask]:
        """Which of the four classes FLANNEL cannot rule out."""
        return [metrics.SET_TASK]

    def recalibrate(
        self, part: pd.DataFrame, rest: pd.DataFrame, config: CovidConfig, models: Mapping[str, dict[str, Any]]
    ) -> Recalibrated:
        """One threshold for all pictures of the site, as no fold's own ensemble answers there alone."""
        points = metrics.choose_fold_points(part, config, 0)
        return Recalibrated(rest, [{k: v for k, v in point.items() if k != "fold"} for point in points])

    def evaluate(self, evidence: Evidence[CovidConfig]) -> Results:
        """Table 6.3, FLANNEL against its best member, and whether it is a shortcut."""
        from pipelines.covid_flannel import evaluation

        return evaluation.evaluate(evidence)


STUDY = CovidFlannel()
