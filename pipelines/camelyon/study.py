"""CAMELYON16: metastases of breast cancer in whole slides of lymph nodes.

Ehteshami Bejnordi et al.: Diagnostic assessment of deep learning algorithms for detection of lymph node metastases in
women with breast cancer. JAMA 2017;318:2199-2210. The winning method: Wang, Khosla, Gargeya, Irshad, Beck: Deep
learning for identifying metastatic breast cancer. 2016 (arXiv 1606.05718).

Read from top to bottom this is the study's Method section.
"""

from __future__ import annotations

from pipelines.camelyon import data, evaluation, exporting, froc_mode, metrics, predicting
from pipelines.shared.study import Deferred, Study

# These import torch, which reports and checks of data do without.
external = Deferred("pipelines.camelyon.external")
model = Deferred("pipelines.camelyon.model")
training = Deferred("pipelines.camelyon.training")

STUDY = Study(
    name="camelyon",
    title="Lymph node metastases in whole slides (CAMELYON16, 2017)",
    # Slides stay whole: a record is a slide, its annotation an ASAP XML file. Tissue by Otsu's threshold.
    sources=data.SOURCES,
    prepare=data.prepare,
    prepare_settings=data.prepare_settings,
    prepare_reads=data.PREPARE_READS,
    suffixes=data.SUFFIXES,
    labels=["tumor"],
    stratify="tumor",
    check=data.check_parts,
    # Patches are coordinates; a patch network, hard negatives, a second network; the same without each fold's slides;
    # heatmaps of all slides; detections; features of heatmaps.
    fit_and_predict=training.fit_and_predict,
    classes=metrics.CLASSES,
    targets=model.targets,
    augment=model.augment,
    build=model.build,
    architecture=model.architecture,
    rebuild=model.rebuild,
    loss=model.loss,
    measure=model.measure,
    probabilities=metrics.probabilities,
    # A slide's score is a forest's, learned from cross-fitted heatmaps of the training slides.
    predict_columns=metrics.predict_columns,
    target_columns=metrics.target_columns,
    choose_points=metrics.choose_points,
    # Task 1, lesions: FROC. Task 2, slides: AUROC.
    evaluate=evaluation.evaluate,
    external=external.external_predictions,
    export_data=exporting.export_data,
    beyond_export=exporting.BEYOND,
    modes={"predict": predicting.predict_slides, "froc": froc_mode.score_submission},
)
