"""COVID-19 in chest X-rays.

Qiao, Bae, Glass, Xiao, Sun: FLANNEL (Focal Loss bAsed Neural Network EnsembLe) for COVID-19 detection. J Am Med Inform
Assoc 2021;28:444-452 (online 2020).

Read from top to bottom this is the study's Method section.
"""

from __future__ import annotations

from pipelines.covid_flannel import data, evaluation, metrics, protocol
from pipelines.covid_flannel.config import CLASSES
from pipelines.shared.images import SUFFIXES
from pipelines.shared.study import Deferred, Study

# These import torch, which reports and checks of data do without.
model = Deferred("pipelines.covid_flannel.model")
training = Deferred("pipelines.covid_flannel.training")

STUDY = Study(
    name="covid_flannel",
    title="COVID-19 in chest X-rays, FLANNEL (Qiao et al., 2020)",
    # Frontal chest X-rays as grey squares; groups are patients.
    sources=data.SOURCES,
    prepare=data.prepare,
    prepare_settings=data.prepare_settings,
    prepare_reads=["view"],
    suffixes=SUFFIXES,
    labels=["label"],
    stratify="stratum",
    # Every patient is tested once, in one of five folds.
    split=protocol.divide,
    # Stage 1: five base learners in every fold, cross-entropy over four classes.
    classes=CLASSES,
    targets=model.targets,
    augment=model.augment,
    build=model.build,
    architecture=model.architecture,
    rebuild=model.rebuild,
    loss=model.loss,
    measure=model.measure,
    probabilities=metrics.softmax,
    # Stage 2: FLANNEL learns from their predictions for patients whom they have not seen; voting, averaging and
    # constant weights beside it.
    fit_and_predict=training.fit_and_predict,
    combine=training.combine,
    predict_columns=metrics.predict_columns,
    target_columns=metrics.target_columns,
    # Thresholds of P(COVID-19) are chosen on the stacking part of every fold and frozen.
    choose_points=metrics.choose_points,
    # Table 6.3, FLANNEL against its best member, and whether it is a shortcut.
    evaluate=evaluation.evaluate,
)
