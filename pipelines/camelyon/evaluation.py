"""The report of a run: lesions, slides, patches, from the run's tables alone. No torch."""

from __future__ import annotations

from typing import Any

import pandas as pd

from pipelines.camelyon import sections
from pipelines.camelyon.annotations import MPP
from pipelines.camelyon.froc import Scored, froc_curve, froc_estimates, unused_lowest
from pipelines.camelyon.froc_report import PUBLISHED, denominators, froc_section
from pipelines.camelyon.metrics import TASK, scored_again
from pipelines.shared.evaluator import bootstrap_settings, synthetic_note
from pipelines.shared.run_folder import read_json, read_table
from pipelines.shared.stats.auc import auroc_difference, auroc_estimate
from pipelines.shared.stats.estimate import Estimate
from pipelines.shared.stats.operating_points import point_estimates
from pipelines.shared.study import Evidence, Results

JAMA = "JAMA 2017, 129 test slides"


def _printed(what: str, value: float, low: float | None = None, high: float | None = None) -> dict[str, Any]:
    return {"what": what, "value": value, "low": low, "high": high, "source": JAMA}


PAPER_SLIDES = [
    _printed("Slide AUC, HMS-MIT II (the winner)", 0.994, 0.983, 0.999),
    _printed("Slide AUC, HMS-MGH III", 0.976),
    _printed("Slide AUC, ExB I", 0.916),
    _printed("Slide AUC, 11 pathologists with a time limit, mean", 0.810, 0.738, 0.884),
]


def evaluate(evidence: Evidence) -> Results:
    """All results of a run."""
    if evidence.config.data.name == "pcam":
        return _patches_only(evidence)
    bootstrap = bootstrap_settings(evidence.config)
    test = evidence.predictions["test"]
    known = test[test[TASK].notna()].reset_index(drop=True)
    metrics: dict[str, Estimate] = {}
    judged = _lesions(evidence, known)
    scored = judged["run"]
    estimates = froc_estimates(scored, **bootstrap)
    metrics |= {f"test.lesions.{name}": value for name, value in estimates.items()}
    for name, other in judged.items():
        if name not in ("run", "oracle"):
            metrics[f"test.lesions.froc_{name}"] = froc_estimates(other, **bootstrap)["froc"]
    oracle = froc_estimates(judged["oracle"], **bootstrap)["froc"] if "oracle" in judged else None
    if oracle is not None:
        metrics["test.lesions.froc_oracle"] = oracle
    for split, rows in evidence.predictions.items():
        metrics |= slide_metrics(rows, split, bootstrap)
    metrics["test.slides.forest_minus_maximum"] = auroc_difference(
        known[TASK], known["p_tumor"], known["p_maximum"], known["group"], **bootstrap
    ).difference
    patches = _patch_table(evidence)
    if patches is not None:
        metrics |= patch_metrics(patches, bootstrap)
    points, rates = point_estimates(known, evidence.operating_points, bootstrap)
    metrics |= rates
    chance = read_json(evidence.folder.path / "froc.json", ["chance"])["chance"]
    note = synthetic_note(evidence)
    curves = [("after hard negatives" if "before" in judged else "this run", froc_curve(scored))]
    if "before" in judged:
        curves.append(("before hard negatives", froc_curve(judged["before"])))
    lesions = froc_section(evidence.folder, scored, estimates, note, scale=_scale(evidence, known["id"]))
    lowest = unused_lowest(scored)
    warnings = [lowest] if lowest else []
    if not (~scored.tumour).any():
        warnings.append("There are no normal slides: the FROC curve is not comparable to one of a whole test set.")
    if len(known) < len(test):
        warnings.append(f"{len(test) - len(known)} test slides have no label; they are in no number.")
    return Results(
        metrics=metrics,
        headline="test.lesions.froc",
        sentence="FROC score of lesions (mean sensitivity at 1/4 to 8 false positives per slide)",
        chance=chance if chance is not None else 0.0,
        oracle=oracle,
        operating_points=points,
        paper=PUBLISHED + PAPER_SLIDES,
        departures=sections.departures(evidence.config),
        sections=[
            lesions,
            sections.methods_section(evidence, metrics, curves, note),
            sections.slide_section(evidence, known, metrics, note),
            *sections.operating_points(points, metrics),
            *sections.patch_section(patches, metrics),
            *sections.hard_negative_section(evidence),
            *sections.subgroup_section(evidence, known, scored, bootstrap, note),
            *sections.picture_sections(evidence, scored, note),
            sections.denominator_section(evidence, denominators(scored), chance),
        ],
        warnings=warnings,
        chance_note="random places in tissue with random probabilities, mean of 40 draws",
    )


def _scale(evidence: Evidence, slides: pd.Series) -> str:
    """The microns per pixel that lesions were counted with, see `scoring.lesion_maps`."""
    if evidence.config.data.name != "table":
        return f"{MPP:g} microns per level-0 pixel for all slides, as in the challenge"
    scales = evidence.records.loc[evidence.records["id"].isin(slides), "mpp"]
    number = f"{scales.min():.4g}" if scales.nunique() == 1 else f"{scales.min():.4g} to {scales.max():.4g}"
    return f"{number} microns per level-0 pixel, each slide's own"


def _lesions(evidence: Evidence, known: pd.DataFrame) -> dict[str, Scored]:
    """`run`, the other method's, `before` hard negatives, and the `oracle`, as far as they are there."""
    path = evidence.folder.path
    detections, lesions = read_table(path / "detections.parquet"), read_table(path / "lesions.parquet")
    slides, tumour = known["id"].tolist(), known[TASK].to_numpy() == 1
    detections = detections[detections["slide"].isin(slides)]
    found = {}
    for (method, network), rows in detections.groupby(["method", "network"]):
        if method == evidence.config.lesions.method:
            name = "before" if network == "before" else "run"
        elif network == "before":
            continue
        else:
            name = str(method)
        found[name] = scored_again(slides, tumour, rows, lesions)
    if "run" not in found:  # a run may detect nothing at all
        found["run"] = scored_again(slides, tumour, detections.iloc[:0], lesions)
    return found


def slide_metrics(rows: pd.DataFrame, split: str, bootstrap: dict[str, Any]) -> dict[str, Estimate]:
    """AUROC of the forest and of the heatmap's maximum."""
    rows = rows[rows[TASK].notna()]
    return {
        f"{split}.slides.{name}": auroc_estimate(rows[TASK], rows[column], rows["group"], **bootstrap)
        for name, column in (("auroc", "p_tumor"), ("auroc_maximum", "p_maximum"))
    }


def _patch_table(evidence: Evidence) -> pd.DataFrame | None:
    file = evidence.folder.path / "patches" / "test.parquet"
    return read_table(file) if file.exists() else None


def patch_metrics(patches: pd.DataFrame, bootstrap: dict[str, Any]) -> dict[str, Estimate]:
    """AUROC over test patches; intervals resample slides."""
    names = [str(c).removeprefix("p_") for c in patches if str(c).startswith("p_")]
    return {
        f"test.patches.auroc_{name}": auroc_estimate(patches[TASK], patches[f"p_{name}"], patches["group"], **bootstrap)
        for name in names
    }


def _patches_only(evidence: Evidence) -> Results:
    """The patch task of pcam."""
    bootstrap = bootstrap_settings(evidence.config)
    metrics: dict[str, Estimate] = {}
    for split, rows in evidence.predictions.items():
        rows = rows[rows[TASK].notna()]
        metrics[f"{split}.patches.auroc"] = auroc_estimate(rows[TASK], rows["p_tumor"], rows["group"], **bootstrap)
    test = evidence.predictions["test"]
    points, rates = point_estimates(test[test[TASK].notna()], evidence.operating_points, bootstrap)
    note = synthetic_note(evidence)
    return Results(
        metrics=metrics | rates,
        headline="test.patches.auroc",
        sentence="AUROC of patches (tumour or not)",
        chance=0.5,
        oracle=None,
        operating_points=points,
        paper=[],
        departures=[
            ("Data", "whole slides, heatmaps, lesions, slide scores", "ready patches: the patch task only"),
        ],
        sections=[sections.patch_roc(evidence, test, metrics["test.patches.auroc"], note),
                  *sections.operating_points(points, metrics | rates)],
    )  # fmt: skip
