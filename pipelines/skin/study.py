"""Skin cancer.

Esteva et al.: Dermatologist-level classification of skin cancer with deep neural networks. Nature 2017;542:115-118.

Read from top to bottom this is the study's Method section.
"""

from __future__ import annotations

from pipelines.shared.images import SUFFIXES
from pipelines.shared.study import Deferred, Study
from pipelines.skin import data, evaluation, metrics, training_classes

# These import torch, which reports and checks of data do without.
explain = Deferred("pipelines.skin.explain")
model = Deferred("pipelines.skin.model")

STUDY = Study(
    name="skin",
    title="Skin cancer in photographs and dermoscopy (Esteva et al., 2017)",
    # Pictures with a diagnosis that is a leaf of a tree; groups are lesions.
    sources=data.SOURCES,
    prepare=data.prepare,
    prepare_settings=data.prepare_settings,
    suffixes=SUFFIXES,
    labels=["label"],
    stratify="stratum",
    # The partitioning algorithm finds the training classes; one backbone, softmax cross-entropy over them.
    classes=[],
    for_training=training_classes.for_training,
    for_classes=training_classes.for_classes,
    targets=model.targets,
    augment=model.augment,
    build=model.build,
    architecture=model.architecture,
    rebuild=model.rebuild,
    loss=model.loss,
    measure=model.measure,
    # An ensemble's probabilities are averaged; the inference algorithm sums them up the tree.
    probabilities=metrics.softmax,
    predict_columns=metrics.predict_columns,
    target_columns=metrics.target_columns,
    # Two operating points of each binary task, chosen on val and frozen.
    choose_points=metrics.choose_points,
    evaluate=evaluation.evaluate,
    explain=explain.explain,
)
