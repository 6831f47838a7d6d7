"""How a run is judged: every metric, the headline, departures from the paper, warnings. No torch."""

from __future__ import annotations

import pandas as pd

from pipelines.camelyon import published, sections
from pipelines.camelyon.annotations import MPP
from pipelines.camelyon.config import CamelyonConfig
from pipelines.camelyon.froc import Scored, froc_estimates, unused_lowest
from pipelines.camelyon.metrics import FOREST, PATCHES, TASK, patch_metrics, scored_again, slide_metrics
from pipelines.shared.run_folder import read_json, read_table
from pipelines.shared.stats.auc import auroc_difference
from pipelines.shared.stats.estimate import Estimate
from pipelines.shared.stats.operating_points import point_estimates
from pipelines.shared.study import Evidence, Results

Camelyon = Evidence[CamelyonConfig]


def evaluate(evidence: Camelyon) -> Results:
    """All results of a run."""
    if evidence.config.data.name == "pcam":
        return _patches_only(evidence)
    test, bootstrap, path = evidence.predictions["test"], evidence.bootstrap, evidence.folder.path
    known = FOREST.known(test).reset_index(drop=True)
    scored = _lesions(evidence, known)
    run = scored["run"]
    metrics = {f"test.lesions.{name}": e for name, e in froc_estimates(run, bootstrap=bootstrap).items()}
    for name, other in scored.items():  # other ways to make detections
        if name != "run":
            metrics[f"test.lesions.froc_{name}"] = froc_estimates(other, bootstrap=bootstrap)["froc"]
    for split, rows in evidence.predictions.items():
        metrics |= slide_metrics(rows, split, bootstrap)
    metrics["test.slides.forest_minus_maximum"] = auroc_difference(
        known[TASK], known["p_tumor"], known["p_maximum"], known["group"], bootstrap=bootstrap
    ).difference
    file = path / "patches" / "test.parquet"
    patches = read_table(file) if file.exists() else None
    if patches is not None:
        metrics |= patch_metrics(patches, bootstrap)
    points, rates = point_estimates(known, evidence.operating_points, bootstrap)
    metrics |= rates
    chance = read_json(path / "froc.json", ["chance"])["chance"]
    lowest = unused_lowest(run)
    warnings = [lowest] if lowest else []
    if run.tumour.all():
        warnings.append("There are no normal slides: the FROC curve is not comparable to one of a whole test set.")
    if len(known) < len(test):
        warnings.append(f"{len(test) - len(known)} test slides have no label; they are in no number.")
    return Results(
        metrics=metrics,
        headline="test.lesions.froc",
        sentence="FROC score of lesions (mean sensitivity at 1/4 to 8 false positives per slide)",
        chance=chance if chance is not None else 0.0,
        oracle=metrics.get("test.lesions.froc_oracle"),
        operating_points=points,
        paper=published.LESIONS + published.SLIDES,
        departures=_departures(evidence.config),
        sections=sections.report_sections(
            evidence, known, scored, metrics, points, patches, chance, _scale(evidence, known["id"])
        ),
        warnings=warnings,
        chance_note="random places in tissue with random probabilities, mean of 40 draws",
    )


def _scale(evidence: Camelyon, slides: pd.Series) -> str:
    """The microns per pixel that lesions were counted with, see `scoring.lesion_maps`."""
    if evidence.config.data.name != "table":
        return f"{MPP:g} microns per level-0 pixel for all slides, as in the challenge"
    scales = evidence.records.loc[evidence.records["id"].isin(slides), "mpp"]
    number = f"{scales.min():.4g}" if scales.nunique() == 1 else f"{scales.min():.4g} to {scales.max():.4g}"
    return f"{number} microns per level-0 pixel, each slide's own"


def _lesions(evidence: Camelyon, known: pd.DataFrame) -> dict[str, Scored]:
    """`run`, the other method's, `before` hard negatives, and the `oracle`, as far as they are there."""
    path = evidence.folder.path
    detections, lesions = read_table(path / "detections.parquet"), read_table(path / "lesions.parquet")
    slides, tumour = known["id"].tolist(), known[TASK].to_numpy() == 1
    detections = detections[detections["slide"].isin(slides)]
    scored = {}
    for (method, network), rows in detections.groupby(["method", "network"]):
        if method == evidence.config.lesions.method:
            name = "before" if network == "before" else "run"
        elif network == "before":
            continue
        else:
            name = str(method)
        scored[name] = scored_again(slides, tumour, rows, lesions)
    if "run" not in scored:  # a run may detect nothing at all
        scored["run"] = scored_again(slides, tumour, detections.iloc[:0], lesions)
    return scored


def _patches_only(evidence: Camelyon) -> Results:
    """The patch task of pcam."""
    metrics: dict[str, Estimate] = {}
    for split, rows in evidence.predictions.items():
        metrics |= PATCHES.metrics(rows, split, evidence.bootstrap)
    test = PATCHES.known(evidence.predictions["test"])
    points, rates = point_estimates(test, evidence.operating_points, evidence.bootstrap)
    metrics |= rates
    return Results(
        metrics=metrics,
        headline="test.patches.auroc",
        sentence="AUROC of patches (tumour or not)",
        chance=0.5,
        oracle=None,
        operating_points=points,
        paper=[],
        departures=[("Data", "whole slides, heatmaps, lesions, slide scores", "ready patches: the patch task only")],
        sections=sections.patch_sections(evidence, test, metrics, points),
    )


def _departures(config: CamelyonConfig) -> list[tuple[str, str, str]]:
    """Where the run differs from Wang et al. 2016."""
    patches, model, trainer = config.patches, config.model, config.trainer
    start = {"none": "a random start", "imagenet": "ImageNet weights"}.get(model.weights, "weights from a file")
    return [
        ("Network", "GoogLeNet", f"{model.backbone}, {start}"
         + ("" if model.level is None else f", cut after stage {model.level}")),
        ("Magnification", "40x (10x and 20x were worse)", f"{patches.mpp:g} microns per pixel"),
        ("Patches", "256 pixels, crops of 224; about 1,000 of each kind per slide",
         f"{patches.size} pixels, crops of {patches.crop}; {patches.tumor} tumour and {patches.normal_in_tumor} normal "
         f"per tumour slide, {patches.normal} per normal slide"),
        ("Optimiser", "SGD, 0.01 halved every 50,000 steps, weight decay 0.0005, batch 32",
         f"{trainer.optimizer}, {trainer.learning_rate:g}, {trainer.schedule}, weight decay "
         f"{trainer.weight_decay:g}, batch {trainer.batch_size}"),
        ("Heatmaps", "each patch by itself", "each patch by itself" if config.heatmap.patchwise
         else "fully convolutional where the network allows it: beyond a patch's border lie pixels, not zeros"),
        ("Slide classifier", "28 features, trained on heatmaps of the training slides",
         f"31 features; training slides are scored by {config.slide_scores.folds} cross-fitted models that have not "
         "seen them"),
    ]  # fmt: skip
