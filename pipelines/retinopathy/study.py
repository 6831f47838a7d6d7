"""Diabetic retinopathy.

Gulshan et al.: Development and Validation of a Deep Learning Algorithm for Detection of Diabetic Retinopathy in
Retinal Fundus Photographs. JAMA 2016;316(22):2402-2410.

Read from top to bottom this is the study's Method section.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pandas as pd

from pipelines.retinopathy import data, metrics
from pipelines.retinopathy.config import RetinopathyConfig
from pipelines.shared.data.images import SUFFIXES
from pipelines.shared.errors import StatisticsError
from pipelines.shared.judging.prediction_sets import SetTask
from pipelines.shared.study import Evidence, Recalibrated, Results, Study

if TYPE_CHECKING:
    from pipelines.shared.learning.method import Method


class Retinopathy(Study[RetinopathyConfig]):
    """Referable diabetic retinopathy in photographs of the fundus."""

    name = "retinopathy"
    title = "Diabetic retinopathy in fundus photographs (Gulshan et al., 2016)"

    # Photographs, graded by one or several graders; groups are patients.
    sources = data.SOURCES
    suffixes = SUFFIXES
    labels = ("grade", "dme", "gradable")
    stratify = "grade"
    prepare = staticmethod(data.prepare)
    prepare_settings = staticmethod(data.prepare_settings)

    def method(self, config: RetinopathyConfig) -> Method[RetinopathyConfig]:
        """One backbone with six sigmoid heads; the probabilities of several networks are averaged linearly."""
        from pipelines.retinopathy.method import RetinopathyMethod

        return RetinopathyMethod()

    def choose_points(self, predictions: pd.DataFrame, config: RetinopathyConfig) -> list[dict[str, Any]]:
        """Two operating points, high specificity and high sensitivity, chosen on val and frozen."""
        return metrics.choose_points(predictions, config)

    def set_tasks(self, model: Mapping[str, Any], config: RetinopathyConfig) -> list[SetTask]:
        """Which of the five grades it may be; whether it is to be referred, may stay, or needs another look."""
        return [metrics.GRADE, *(task.set_task for task in metrics.HEADLINES)]

    def recalibrate(
        self, part: pd.DataFrame, rest: pd.DataFrame, config: RetinopathyConfig, models: Mapping[str, dict[str, Any]]
    ) -> Recalibrated:
        """Thresholds, and where the run has cut points of the expected grade, these too."""
        made = super().recalibrate(part, rest, config, models)
        if not any("cut_points" in model.get("chosen_on_val", {}) for model in models.values()):
            return made
        heads = [f"p_{head}" for head in metrics.HEADS]
        try:
            cuts = metrics.choose_cut_points(part["grade"].to_numpy(float), part[heads].to_numpy(float))
        except StatisticsError as reason:
            return replace(made, chosen={"cut_points": f"none ({reason})"})
        grade = metrics.predict_columns(rest[heads].to_numpy(float), cuts)["grade_predicted"].to_numpy()
        return replace(made, predictions=rest.assign(grade_predicted=grade), chosen={"cut_points": cuts})

    def evaluate(self, evidence: Evidence[RetinopathyConfig]) -> Results:
        """AUROC of referable disease, agreement on five grades, calibration, subgroups, single graders."""
        from pipelines.retinopathy import evaluation

        return evaluation.evaluate(evidence)


STUDY = Retinopathy()
