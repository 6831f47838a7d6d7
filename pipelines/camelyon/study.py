"""CAMELYON16: metastases of breast cancer in whole slides of lymph nodes.

Ehteshami Bejnordi et al.: Diagnostic assessment of deep learning algorithms for detection of lymph node metastases in
women with breast cancer. JAMA 2017;318:2199-2210. The winning method: Wang, Khosla, Gargeya, Irshad, Beck: Deep
learning for identifying metastatic breast cancer. 2016 (arXiv 1606.05718).

Read from top to bottom this is the study's Method section.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from pipelines.camelyon import data, dicom_slides, metrics, predicting
from pipelines.camelyon.config import CamelyonConfig
from pipelines.camelyon.measures import slide_measures
from pipelines.shared.judging.prediction_sets import SetTask
from pipelines.shared.study import Data, Evidence, Results, Study

if TYPE_CHECKING:
    from pipelines.shared.handover.scorer import Scorer
    from pipelines.shared.learning.method import Method
    from pipelines.shared.run import FinishedRun, Run


class Camelyon(Study[CamelyonConfig]):
    """Where in a slide is a metastasis, and is there one at all?"""

    name = "camelyon"
    title = "Lymph node metastases in whole slides (CAMELYON16, 2017)"

    # Slides stay whole: a record is a slide, its annotation an ASAP XML file. Tissue by Otsu's threshold.
    sources = data.SOURCES
    suffixes = (*data.SUFFIXES, dicom_slides.SUFFIX)
    labels = ("tumor",)
    stratify = "tumor"
    prepare = staticmethod(data.prepare)
    prepare_settings = staticmethod(data.prepare_settings)
    reads = data.PREPARE_READS

    def split(self, records: pd.DataFrame, config: CamelyonConfig) -> pd.DataFrame:
        """By slide; training needs normal tissue and slides of both kinds, val slides of both kinds."""
        divided = super().split(records, config)
        data.check_parts(config, divided)
        return divided

    def measures(self, data: Data, position: int, config: CamelyonConfig) -> dict[str, float]:
        """Microns per pixel, and the colour of the tissue."""
        mpp = data.prepared.metadata["mpp"].iloc[position] if "mpp" in data.prepared.metadata else None
        return slide_measures(data.prepared.array(position), mpp, config.tissue.min_saturation)

    def method(self, config: CamelyonConfig) -> Method[CamelyonConfig]:
        """Patches are coordinates; a patch network, hard negatives, a second network; the same without each fold's
        slides; heatmaps of all slides; detections; a forest over features of heatmaps.
        """
        from pipelines.camelyon.method import PatchMethod, SlideMethod

        return PatchMethod() if config.data.name == "pcam" else SlideMethod()

    def scorer(
        self, run: Run[CamelyonConfig], finished: FinishedRun, in_memory: bool = False
    ) -> Scorer[CamelyonConfig]:
        """Whole slides."""
        return predicting.SlideScorer(run, finished)

    def choose_points(self, predictions: pd.DataFrame, config: CamelyonConfig) -> list[dict[str, Any]]:
        """A specific and a sensitive threshold of a slide's score, chosen on val and frozen."""
        return metrics.choose_points(predictions, config)

    def set_tasks(self, model: Mapping[str, Any], config: CamelyonConfig) -> list[SetTask]:
        """Whether there is a metastasis in a slide (of ready patches: tumour in a patch)."""
        return [metrics.TUMOUR.set_task]

    def evaluate(self, evidence: Evidence[CamelyonConfig]) -> Results:
        """Task 1, lesions: FROC. Task 2, slides: AUROC."""
        from pipelines.camelyon import evaluation

        return evaluation.evaluate(evidence)


STUDY = Camelyon()
