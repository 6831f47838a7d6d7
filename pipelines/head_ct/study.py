"""Head CT triage.

Titano et al.: Automated deep-neural-network surveillance of cranial images for acute neurologic events. Nature Medicine
2018;24:1337-1341.

Read from top to bottom this is the study's Method section.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from pipelines.head_ct import archive, data, metrics, predicting
from pipelines.head_ct.config import HeadCtConfig
from pipelines.head_ct.measures import volume_measures
from pipelines.head_ct.stacks import Stack
from pipelines.shared.judging.prediction_sets import SetTask
from pipelines.shared.study import Data, Evidence, Results, Study

if TYPE_CHECKING:
    from pipelines.shared.handover.scorer import Scorer
    from pipelines.shared.learning.method import Method
    from pipelines.shared.run import FinishedRun, Run


class HeadCt(Study[HeadCtConfig]):
    """Studies with critical findings go to the top of the radiologist's worklist."""

    name = "head_ct"
    title = "Head CT triage (Titano et al., 2018)"

    # DICOM series become volumes in Hounsfield units; groups are patients, identified by salted hashes.
    # Silver labels: what reports say, counted; gold labels: what radiologists decided, on the test part.
    sources = data.SOURCES
    suffixes = data.SUFFIXES
    labels = ("critical", "silver_4")
    stratify = "stratum"
    prepare = staticmethod(data.prepare)
    prepare_settings = staticmethod(data.prepare_settings)

    def measures(self, data: Data, position: int, config: HeadCtConfig) -> dict[str, float]:
        """Slices, their distance, pixels, Hounsfield units of the head."""
        index = archive.read_index(data.source.root / data.records["path"].iloc[position])
        stack = Stack.from_json(index["stack"]) if "stack" in index else None
        return volume_measures(data.prepared.array(position), stack)

    def method(self, config: HeadCtConfig) -> Method[HeadCtConfig]:
        """A 2D backbone per slice and 3D convolutions: at least 4, 8, 10 critical concepts?"""
        from pipelines.head_ct.method import HeadCtMethod

        return HeadCtMethod()

    def scorer(self, run: Run[HeadCtConfig], finished: FinishedRun, in_memory: bool = False) -> Scorer[HeadCtConfig]:
        """Folders of DICOM files."""
        return predicting.StudyScorer(run, finished)

    def choose_points(self, predictions: pd.DataFrame, config: HeadCtConfig) -> list[dict[str, Any]]:
        """Two operating points by the labels that val has; one of them raises the alarm."""
        return metrics.choose_points(predictions, config)

    def set_tasks(self, model: Mapping[str, Any], config: HeadCtConfig) -> list[SetTask]:
        """Whether there are critical findings, by the labels that val has."""
        return [task.set_task for task in (metrics.CRITICAL, metrics.SILVER_4)]

    def evaluate(self, evidence: Evidence[HeadCtConfig]) -> Results:
        """Judged on silver and gold labels, beside physicians; then the triage trial."""
        from pipelines.head_ct import evaluation

        return evaluation.evaluate(evidence)


STUDY = HeadCt()
