"""Diabetic retinopathy.

Gulshan et al.: Development and Validation of a Deep Learning Algorithm for Detection of Diabetic Retinopathy in
Retinal Fundus Photographs. JAMA 2016;316(22):2402-2410.

Read from top to bottom this is the study's Method section.
"""

from __future__ import annotations

from pipelines.retinopathy import data, evaluation, metrics
from pipelines.shared.images import SUFFIXES
from pipelines.shared.study import Deferred, Study

# These import torch, which reports and checks of data do without.
explain = Deferred("pipelines.retinopathy.explain")
model = Deferred("pipelines.retinopathy.model")

STUDY = Study(
    name="retinopathy",
    title="Diabetic retinopathy in fundus photographs (Gulshan et al., 2016)",
    # Photographs, graded by one or several graders; groups are patients.
    sources=data.SOURCES,
    prepare=data.prepare,
    prepare_settings=data.prepare_settings,
    suffixes=SUFFIXES,
    labels=["grade", "dme", "gradable"],
    stratify="grade",
    # One backbone, six sigmoid heads; unknown targets are masked out of the loss.
    classes=metrics.HEADS,
    targets=model.targets,
    augment=model.augment,
    build=model.build,
    architecture=model.architecture,
    rebuild=model.rebuild,
    loss=model.loss,
    measure=model.measure,
    # An ensemble's probabilities are averaged linearly; the five grades follow from the ordered heads.
    probabilities=metrics.sigmoid,
    predict_columns=metrics.predict_columns,
    target_columns=metrics.target_columns,
    # Two operating points, chosen on val and frozen.
    choose_points=metrics.choose_points,
    evaluate=evaluation.evaluate,
    explain=explain.explain,
)
