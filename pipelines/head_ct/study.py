"""Head CT triage.

Titano et al.: Automated deep-neural-network surveillance of cranial images for acute neurologic events. Nature Medicine
2018;24:1337-1341.

Read from top to bottom this is the study's Method section.
"""

from __future__ import annotations

from pipelines.head_ct import data, evaluation, metrics, predicting
from pipelines.shared.study import Deferred, Study

# These import torch, which reports and checks of data do without.
aftermath = Deferred("pipelines.head_ct.aftermath")
model = Deferred("pipelines.head_ct.model")

STUDY = Study(
    name="head_ct",
    title="Head CT triage (Titano et al., 2018)",
    # DICOM series become volumes in Hounsfield units; groups are patients, identified by salted hashes.
    sources=data.SOURCES,
    prepare=data.prepare,
    prepare_settings=data.prepare_settings,
    suffixes=data.SUFFIXES,
    # Silver labels: what reports say, counted; gold labels: what radiologists decided, on the test part.
    labels=["critical", "silver_4"],
    stratify="stratum",
    # A 2D backbone per slice and 3D convolutions: at least 4, 8, 10 critical concepts?
    classes=metrics.CLASSES,
    targets=model.targets,
    augment=model.augment,
    build=model.build,
    architecture=model.architecture,
    rebuild=model.rebuild,
    exportable=model.exportable,
    loss=model.loss,
    measure=model.measure,
    probabilities=metrics.probabilities,
    predict_columns=metrics.predict_columns,
    target_columns=metrics.target_columns,
    choose_points=metrics.choose_points,
    # Judged on silver and gold, beside physicians; then the triage trial.
    evaluate=evaluation.evaluate,
    explain=aftermath.record,
    modes={"predict": predicting.predict_studies, "label": predicting.label_table},
)
