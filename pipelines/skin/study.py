"""Skin cancer.

Esteva et al.: Dermatologist-level classification of skin cancer with deep neural networks. Nature 2017;542:115-118.

Read from top to bottom this is the study's Method section.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pipelines.shared.data.images import SUFFIXES
from pipelines.shared.errors import StatisticsError
from pipelines.shared.judging.prediction_sets import SetTask
from pipelines.shared.stats.temperature import LEAST, best_temperature
from pipelines.shared.study import Evidence, Recalibrated, Results, Study
from pipelines.skin import data, metrics
from pipelines.skin.config import SkinConfig
from pipelines.skin.training_classes import class_numbers, training_classes

if TYPE_CHECKING:
    from pipelines.shared.learning.method import Method


class Skin(Study[SkinConfig]):
    """Diseases of the skin in photographs and dermoscopy, learned on a tree's fine classes, answered at any level."""

    name = "skin"
    title = "Skin cancer in photographs and dermoscopy (Esteva et al., 2017)"

    # Pictures with a diagnosis that is a leaf of a tree; groups are lesions.
    sources = data.SOURCES
    suffixes = SUFFIXES
    labels = ("label",)
    stratify = "stratum"
    prepare = staticmethod(data.prepare)
    prepare_settings = staticmethod(data.prepare_settings)

    def split(self, records: pd.DataFrame, config: SkinConfig) -> pd.DataFrame:
        """By lesion; the training part must span at least two classes."""
        divided = super().split(records, config)
        training_classes(divided.loc[divided["split"] == "train", "lineage"].tolist(), config)
        return divided

    def method(self, config: SkinConfig) -> Method[SkinConfig]:
        """The partitioning algorithm finds the training classes; one backbone, softmax cross-entropy over them; the
        inference algorithm sums probabilities up the tree.
        """
        from pipelines.skin.method import SkinMethod

        return SkinMethod()

    def choose_points(self, predictions: pd.DataFrame, config: SkinConfig) -> list[dict[str, Any]]:
        """Two operating points of each binary task, chosen on val and frozen."""
        return metrics.choose_points(predictions, config)

    def set_tasks(self, model: Mapping[str, Any], config: SkinConfig) -> list[SetTask]:
        """Which of the training classes it may be."""
        return metrics.set_tasks(model["classes"])

    def recalibrate(
        self, part: pd.DataFrame, rest: pd.DataFrame, config: SkinConfig, models: Mapping[str, dict[str, Any]]
    ) -> Recalibrated:
        """Where the run has a temperature, one for the site's answers too, and thresholds behind it."""
        if not config.calibration.temperature:
            return super().recalibrate(part, rest, config, models)
        classes = next(iter(models.values()))["classes"]
        p = part[metrics.class_columns(classes)].to_numpy(float)
        try:
            truth = class_numbers(part["lineage"], classes)
            temperature = best_temperature(np.log(np.maximum(p, LEAST)), truth)
        except StatisticsError as reason:
            made = super().recalibrate(part, rest, config, models)
            return replace(made, chosen={"temperature": f"none ({reason})"})
        part, rest = (metrics.tempered_table(table, classes, temperature) for table in (part, rest))
        return Recalibrated(rest, self.choose_points(part, config), {"temperature": temperature})

    def evaluate(self, evidence: Evidence[SkinConfig]) -> Results:
        """Balanced accuracy at three levels of the tree, three binary tasks, readers, calibration, subgroups."""
        from pipelines.skin import evaluation

        return evaluation.evaluate(evidence)


STUDY = Skin()
