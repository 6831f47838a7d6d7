"""The skin report: every metric, table and figure, from the run's prediction tables. No torch."""

from __future__ import annotations

from typing import Any

import pandas as pd

from pipelines.shared.errors import RunError
from pipelines.shared.judging.error_gallery import error_sections, saliency_estimate
from pipelines.shared.judging.evaluator import bootstrap_settings
from pipelines.shared.stats.estimate import Estimate
from pipelines.shared.stats.operating_points import point_estimates
from pipelines.shared.study import Evidence, Results
from pipelines.skin import sections
from pipelines.skin.labels import BINARY, LEVELS
from pipelines.skin.metrics import (
    NAMES,
    binary_metrics,
    level_metrics,
    level_paths,
    reference_metrics,
)
from pipelines.skin.subgroups import largest_gaps, subgroup_estimates

CURVES = "Esteva 2017, biopsy-proven test images"
FOLDS = "Esteva 2017, validation images, nine folds"
READERS = "Esteva 2017, part of the validation images"


def _printed(what: str, value: float, source: str, deviation: float | None = None) -> dict[str, Any]:
    """A number of the paper; its accuracies have a standard deviation over the folds, which is no interval."""
    what = what if deviation is None else f"{what} (standard deviation over folds {deviation:g})"
    return {"what": what, "value": value, "low": None, "high": None, "source": source}


PAPER = [
    _printed("Three-way accuracy (mean of the classes')", 0.721, FOLDS, 0.009),
    _printed("Three-way accuracy, two dermatologists: first", 0.656, READERS),
    _printed("Three-way accuracy, two dermatologists: second", 0.660, READERS),
    _printed("Three-way accuracy, trained on the three classes", 0.694, FOLDS),
    _printed("Nine-way accuracy (mean of the classes')", 0.554, FOLDS, 0.017),
    _printed("Nine-way accuracy, two dermatologists: first", 0.533, READERS),
    _printed("Nine-way accuracy, two dermatologists: second", 0.550, READERS),
    _printed("Nine-way accuracy, trained on the nine classes", 0.489, FOLDS),
    _printed("AUC, carcinoma", 0.96, CURVES),
    _printed("AUC, melanoma", 0.94, CURVES),
    _printed("AUC, melanoma in dermoscopy", 0.91, CURVES),
]


def evaluate(evidence: Evidence) -> Results:
    """All results of a run.

    Raises:
        RunError: the network's classes answer none of the dataset's levels.
    """
    test = evidence.predictions["test"]
    bootstrap = bootstrap_settings(evidence.config)
    records = evidence.records
    paths = {level: level_paths(records["lineage"].tolist(), level) for level in LEVELS}
    untrained = _untrained(records)
    metrics: dict[str, Estimate] = {}
    predicted: dict[str, list[str]] = {}
    for split, rows in evidence.predictions.items():
        for level in LEVELS:
            found, said = level_metrics(rows, level, split, paths[level], untrained[level], bootstrap)
            metrics |= found
            if split == "test" and said is not None:
                predicted[level] = said
        for task in BINARY:
            metrics |= binary_metrics(rows, task, split, bootstrap)
    if not predicted:
        reason = metrics["test.three_way.balanced_accuracy"].reason
        raise RunError(
            f"The run cannot be judged on {evidence.flow['source']}: {reason}.",
            "Give the dataset a tree (data.taxonomy) whose nodes have the names of the run's.",
        )
    latent = records.set_index("id").reindex(test["id"])
    metrics |= reference_metrics(test, latent, metrics, paths, bootstrap)
    points, rates = point_estimates(test, evidence.operating_points, bootstrap)
    metrics |= rates
    subgroups = subgroup_estimates(evidence, test, bootstrap)
    metrics |= {f"test.malignant.auroc[{s.group}={s.label}]": s.estimate for s in subgroups}  # type: ignore[misc]
    gaps = largest_gaps(evidence, test, subgroups, bootstrap)
    metrics |= {f"test.malignant.auroc_gap[{gap.column}]": gap.estimate for gap in gaps}
    saliency = saliency_estimate(evidence, bootstrap)
    if saliency is not None:
        metrics["test.saliency.lesion_auroc"] = saliency
    level = next(level for level in reversed(LEVELS) if level in predicted)
    headline = f"test.{level}.balanced_accuracy"
    oracle = metrics.get(f"{headline}_oracle")
    warnings = [
        f"{NAMES[each]}: not answered, {metrics[f'test.{each}.balanced_accuracy'].reason}."
        for each in LEVELS
        if each not in predicted
    ]
    missed = untrained["label"]
    if missed:
        warnings.append(f"No training images, so always missed: {', '.join(missed)}.")
    found_sections = [
        sections.levels(evidence, metrics),
        *sections.training_classes(evidence),
        sections.cohort(evidence),
        sections.binary(evidence, test, metrics, points),
        sections.operating_points(evidence, test, points),
        sections.confusions(evidence, test, predicted, paths, metrics),
        *sections.reader_accuracy(evidence, test, metrics, predicted),
        sections.calibration(evidence, test, metrics),
        *sections.subgroup_section(evidence, subgroups, gaps, metrics),
        *sections.embedding_map(evidence, test),
        *error_sections(evidence, saliency, {"missed": "Missed malignancies", "false_alarm": "False alarms"}),
    ]
    return Results(
        metrics=metrics,
        headline=headline,
        sentence=f"Balanced accuracy, {NAMES[level][0].lower() + NAMES[level][1:]} ({len(paths[level])} classes)",
        chance=float(metrics[f"{headline}_chance"].value or 0.0),
        chance_note="guessing",
        oracle=oracle,
        operating_points=points,
        paper=PAPER,
        departures=_departures(evidence),
        sections=found_sections,
        warnings=warnings,
    )


def _untrained(records: pd.DataFrame) -> dict[str, list[str]]:
    """The nodes of each level that val or test have and the run's own training part lacks (nothing without one)."""
    train = records[records["split"] == "train"]
    if train.empty:
        return {level: [] for level in LEVELS}
    return {level: sorted(set(records[level]) - set(train[level])) for level in LEVELS}


def _departures(evidence: Evidence) -> list[tuple[str, str, str]]:
    """What the paper did and this run did otherwise, from the run's own configuration."""
    config, records = evidence.config, evidence.records
    model, trainer, augment = config.model, config.trainer, config.augment
    train = records[records["split"] == "train"]
    networks = "one network" if model.networks == 1 else f"{model.networks} networks"
    turned = "largest upright square inside kept" if augment.inscribed else "black corners"
    colour = any((augment.brightness, augment.contrast, augment.saturation, augment.hue))
    flips = f"flips with probability {augment.horizontal_flip:g} and {augment.vertical_flip:g}"
    rows = [
        (
            "Network",
            "Inception-v3 at 299 px, ImageNet weights, all layers trained",
            f"{model.backbone} at {config.preprocess.size} px, weights: {model.weights}, {networks}"
            + (", flips averaged" if model.test_time_flips else ""),
        ),
        (
            "Optimiser",
            "RMSprop (decay 0.9, momentum 0.9, epsilon 0.1), 0.001 divided by 16 every 30 epochs",
            f"{trainer.optimizer}, {trainer.learning_rate:g}, {trainer.schedule} over {trainer.epochs} epochs",
        ),
        (
            "Augmentation",
            "rotation 0-359 degrees with the largest upright inscribed rectangle, vertical flip 0.5",
            f"rotation to {augment.rotate:g} degrees, {turned}; {flips}" + ("; colour changed too" if colour else ""),
        ),
        ("Class balance", "not described", f"weights (1 / images) to the power {config.loss.class_balance:g}"),
        (
            "Split",
            "a graph over shared metadata and near-neighbour images; no component on two sides",
            f"components of lesion, identical and near-identical pictures; split.by={config.split.by}",
        ),
        (
            "Judged on",
            "1,942 biopsy-proven images (as printed they and 127,463 others do not add up to 129,450)",
            "held-out groups of one source, unless mode=evaluate says otherwise; not all biopsy-proven",
        ),
    ]
    if len(train):
        classes = len(evidence.networks[0]["classes"]) if evidence.networks else 0
        learned = f"{len(train):,} images; {classes} classes (partition.level={config.partition.level})"
        rows.insert(1, ("Learned from", "127,463 images of 2,032 diseases in 757 training classes", learned))
    return rows
