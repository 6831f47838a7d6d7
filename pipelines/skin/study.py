"""Skin cancer.

Esteva et al.: Dermatologist-level classification of skin cancer with deep neural networks. Nature 2017;542:115-118.

Read from top to bottom this is the study's Method section.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from pipelines.shared.data.images import SUFFIXES
from pipelines.shared.study import Evidence, Results, Study
from pipelines.skin import data, metrics
from pipelines.skin.config import SkinConfig
from pipelines.skin.training_classes import training_classes

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

    def evaluate(self, evidence: Evidence[SkinConfig]) -> Results:
        """Balanced accuracy at three levels of the tree, three binary tasks, readers, calibration, subgroups."""
        from pipelines.skin import evaluation

        return evaluation.evaluate(evidence)


STUDY = Skin()
