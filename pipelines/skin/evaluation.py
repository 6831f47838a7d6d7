"""How a run is judged: every metric, the headline, departures from the paper, warnings. No torch."""

from __future__ import annotations

from functools import partial

from pipelines.shared.errors import RunError
from pipelines.shared.judging.error_gallery import saliency_estimate
from pipelines.shared.judging.readers import against_readers
from pipelines.shared.judging.subgroups import subgroup_estimates, subgroup_metrics
from pipelines.shared.stats.estimate import Estimate
from pipelines.shared.stats.operating_points import point_estimates
from pipelines.shared.study import Evidence, Results
from pipelines.skin import published
from pipelines.skin.config import SkinConfig
from pipelines.skin.labels import LEVELS
from pipelines.skin.metrics import (
    MALIGNANT,
    TASKS,
    binary_metrics,
    level_metrics,
    level_paths,
    reference_metrics,
    title_of,
)
from pipelines.skin.sections import report_sections
from pipelines.skin.subgroups import largest_gaps


def evaluate(evidence: Evidence[SkinConfig]) -> Results:
    """All results of a run.

    Raises:
        RunError: the network's classes answer none of the dataset's levels.
    """
    test, records, bootstrap = evidence.predictions["test"], evidence.records, evidence.bootstrap
    paths = {level: level_paths(records["lineage"].tolist(), level) for level in LEVELS}
    untrained = _untrained(evidence)
    metrics: dict[str, Estimate] = {}
    predicted: dict[str, list[str]] = {}  # of test, by level
    for split, rows in evidence.predictions.items():
        for level in LEVELS:
            of_level, nodes = level_metrics(rows, level, split, paths[level], untrained[level], bootstrap)
            metrics |= of_level
            if split == "test" and nodes is not None:
                predicted[level] = nodes
        for task in TASKS.values():
            metrics |= binary_metrics(rows, task, split, bootstrap)
    if not predicted:
        reason = metrics["test.three_way.balanced_accuracy"].reason
        raise RunError(
            f"The run cannot be judged on {evidence.flow['source']}: {reason}.",
            "Give the dataset a tree (data.taxonomy) whose nodes have the names of the run's.",
        )
    metrics |= reference_metrics(test, records, metrics, paths, bootstrap)
    points, rates = point_estimates(test, evidence.operating_points, bootstrap)
    auroc = partial(MALIGNANT.auroc, bootstrap=bootstrap)
    subgroups = subgroup_estimates(evidence, test, auroc) if MALIGNANT.has_score(test) else []
    gaps = largest_gaps(evidence, test, subgroups)
    metrics |= rates | subgroup_metrics("test.malignant.auroc", subgroups)
    metrics |= {f"test.malignant.auroc_gap[{gap.column}]": gap.estimate for gap in gaps}
    compared = against_readers(evidence, test, MALIGNANT, points, "biopsy")
    metrics |= compared.metrics if compared is not None else {}
    saliency = saliency_estimate(evidence, bootstrap)
    if saliency is not None:
        metrics["test.saliency.lesion_auroc"] = saliency
    finest = next(level for level in reversed(LEVELS) if level in predicted)
    headline = f"test.{finest}.balanced_accuracy"
    warnings = [
        f"{title_of(level, records)}: not answered, {metrics[f'test.{level}.balanced_accuracy'].reason}."
        for level in LEVELS
        if level not in predicted
    ]
    if untrained["label"]:
        warnings.append(f"No training images, so always missed: {', '.join(untrained['label'])}.")
    title = title_of(finest, records)
    title = title[0].lower() + title[1:]
    return Results(
        metrics=metrics,
        headline=headline,
        sentence=f"Balanced accuracy, {title} ({len(paths[finest])} classes)",
        chance=float(metrics[f"{headline}_chance"].value or 0.0),
        chance_note="classes guessed at random",
        oracle=metrics.get(f"{headline}_oracle"),
        operating_points=points,
        paper=published.NUMBERS,
        departures=_departures(evidence),
        sections=report_sections(evidence, metrics, points, predicted, paths, subgroups, gaps, saliency, compared),
        warnings=warnings,
    )


def _untrained(evidence: Evidence[SkinConfig]) -> dict[str, list[str]]:
    """The nodes of each level that val or test have and the run's own training part lacks (nothing without one)."""
    train = evidence.training
    if train.empty:
        return {level: [] for level in LEVELS}
    return {level: sorted(set(evidence.records[level]) - set(train[level])) for level in LEVELS}


def _departures(evidence: Evidence[SkinConfig]) -> list[tuple[str, str, str]]:
    """What the paper did and this run did otherwise, from the run's own configuration."""
    config = evidence.config
    model, trainer, augment = config.model, config.trainer, config.augment
    train = evidence.training
    networks = "one network" if model.networks == 1 else f"{model.networks} networks"
    turned = "largest upright square inside kept" if augment.inscribed else "black corners"
    coloured = any((augment.brightness, augment.contrast, augment.saturation, augment.hue))
    colours = "; colour changed too" if coloured else ""
    turned += f"; parts of at least {augment.crop_area:g} of the area" if augment.crop_area is not None else ""
    drawn = f"; balanced sampling (power {trainer.sampling_power:g})" if trainer.sampling == "balanced" else ""
    flips = f"flips with probability {augment.horizontal_flip:g} and {augment.vertical_flip:g}"
    rows = [
        (
            "Network",
            "Inception-v3 at 299 px, ImageNet weights, all layers trained",
            f"{model.backbone} at {config.preprocess.size} px, weights: {model.weights}, {networks}{model.views}",
        ),
        (
            "Optimiser",
            "RMSprop (decay 0.9, momentum 0.9, epsilon 0.1), 0.001 divided by 16 every 30 epochs",
            config.learning,
        ),
        (
            "Augmentation",
            "rotation 0-359 degrees with the largest upright inscribed rectangle, vertical flip 0.5",
            "none" if model.head_only else f"rotation to {augment.rotate:g} degrees, {turned}; {flips}{colours}",
        ),
        ("Class balance", "not described", f"weights (1 / images) to the power {config.loss.class_balance:g}{drawn}"),
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
