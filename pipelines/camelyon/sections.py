"""The report's sections."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from pipelines.camelyon import drawing
from pipelines.camelyon.config import CamelyonConfig
from pipelines.camelyon.froc import Curve, Scored, froc_estimates
from pipelines.camelyon.froc_report import froc_figure
from pipelines.camelyon.metrics import TASK
from pipelines.shared import figures
from pipelines.shared.figures import Subgroup
from pipelines.shared.files import output_name
from pipelines.shared.report import Picture, Section, Table, Text
from pipelines.shared.run_folder import read_picture, read_table
from pipelines.shared.stats.auc import auroc_estimate, roc_curve
from pipelines.shared.stats.estimate import Estimate
from pipelines.shared.study import Evidence

SHOWN = 6  # slides with thumbnail, mask and heatmap
MASKS = 40  # masks on the sheet
METHODS = {
    "run": "The run's", "components": "Connected components", "suppression": "Non-maximum suppression",
    "before": "Before hard negatives",
}  # fmt: skip


def departures(config: CamelyonConfig) -> list[tuple[str, str, str]]:
    """Where the run differs from Wang et al. 2016."""
    patches, model, trainer = config.patches, config.model, config.trainer
    start = {"none": "a random start", "imagenet": "ImageNet weights"}.get(model.weights, "weights from a file")
    found = [
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
    return found


def methods_section(
    evidence: Evidence, metrics: dict[str, Estimate], curves: list[tuple[str, Curve]], note: str
) -> Section:
    """The two ways to make detections, and what hard negatives changed."""
    rows: list[list[Any]] = [["The run's detections", metrics["test.lesions.froc"]]]
    for key, label in METHODS.items():
        if f"test.lesions.froc_{key}" in metrics:
            rows.append([label, metrics[f"test.lesions.froc_{key}"]])
    if "test.lesions.froc_oracle" in metrics:
        rows.append(["Oracle: every true lesion, annotated or not", metrics["test.lesions.froc_oracle"]])
    blocks: list[Any] = []
    if len(curves) > 1:
        froc_figure(evidence.folder.figures / "froc_hard_negatives.png", curves, note=note)
        blocks.append(Picture("figures/froc_hard_negatives.png", "FROC before and after hard negatives, same slides.",
                              "Two FROC curves."))  # fmt: skip
    settings = evidence.config.lesions
    how = (
        f"Components at {settings.threshold:g}, placed at the {settings.location}, scored by the {settings.score}; "
        f"suppression with radius {settings.radius:g} at level {settings.level}, down to {settings.stop:g}. The "
        f"run's own are {settings.method}."
    )
    blocks += [Text(how), Table(["Detections", "FROC score"], rows, "Other ways from the same slides.")]
    return Section("Detections", blocks)


def slide_section(evidence: Evidence, known: pd.DataFrame, metrics: dict[str, Estimate], note: str) -> Section:
    """AUROC of slides: the forest and the heatmap's maximum."""
    curves = []
    for column, label in (("p_tumor", "random forest"), ("p_maximum", "heatmap's maximum")):
        if known[TASK].nunique() == 2:
            curve = roc_curve(known[TASK], known[column])
            curves.append(figures.Curve(label, 1 - curve.specificity, curve.sensitivity))
    figures.roc(evidence.folder.figures / "roc.png", curves, note=note)
    rows: list[list[Any]] = [
        [label, metrics.get(f"val.slides.{key}"), metrics[f"test.slides.{key}"]]
        for key, label in (("auroc", "Random forest of 31 features"), ("auroc_maximum", "Heatmap's maximum"))
    ]
    rows.append(["Difference", None, metrics["test.slides.forest_minus_maximum"]])
    return Section(
        "Slides",
        [
            Picture("figures/roc.png", "ROC curves of slides, test.", "ROC curves."),
            Table(["Score", "AUROC, val", "AUROC, test"], rows, "Intervals resample slides (groups)."),
        ],
    )


def operating_points(points: list[dict[str, Any]], metrics: dict[str, Estimate]) -> list[Section]:
    """Rates at the frozen thresholds."""
    rows: list[list[Any]] = []
    for point in points:
        for rate in ("sensitivity", "specificity", "ppv", "npv"):
            key = next((k for k in metrics if k.endswith(f"{rate}@{point['name']}") and k.startswith("test.")), None)
            if key is not None:
                label = rate.upper() if rate in ("ppv", "npv") else rate.capitalize()
                rows.append([f"{label}, {point['name'].replace('_', ' ')}", f"{point['threshold']:.3f}", metrics[key]])
    if not rows:
        return []
    caption = "Thresholds were chosen on val and frozen."
    return [Section("Operating points", [Table(["Rate", "Threshold", "Test"], rows, caption)])]


def patch_section(patches: pd.DataFrame | None, metrics: dict[str, Estimate]) -> list[Section]:
    """AUROC over test patches."""
    if patches is None:
        return []
    rows: list[list[Any]] = [
        [key.rpartition("auroc_")[2].capitalize() + " network", estimate]
        for key, estimate in metrics.items()
        if key.startswith("test.patches.auroc_")
    ]
    kinds = patches["kind"].value_counts()
    caption = f"{kinds.get('tumor', 0):,} tumour and {kinds.get('normal', 0):,} normal patches of test slides."
    return [Section("Patches", [Table(["Network", "AUROC"], rows, caption)])]


def patch_roc(evidence: Evidence, test: pd.DataFrame, estimate: Estimate, note: str) -> Section:
    """The patch task alone."""
    curve = roc_curve(test[TASK], test["p_tumor"])
    figures.roc(
        evidence.folder.figures / "roc.png",
        [figures.Curve("patches", 1 - curve.specificity, curve.sensitivity)],
        note=note,
    )
    rows: list[list[Any]] = [["Test patches", estimate]]
    picture = Picture("figures/roc.png", "ROC curve of patches, test.", "ROC curve.")
    return Section("Patches", [picture, Table(["Part", "AUROC"], rows, "Intervals resample slides.")])


def hard_negative_section(evidence: Evidence) -> list[Section]:
    """How many cells of normal tissue each first network took for tumour, and how many patches joined."""
    files = sorted((evidence.folder.path / "patches").glob("*-counts.parquet"))
    if not files:
        return []
    rows: list[list[Any]] = []
    for file in files:
        table = read_table(file, ["above_threshold", "scored", "taken"])
        name = file.name.removesuffix("-counts.parquet")
        found = int((table["above_threshold"] > 0).sum())
        rows.append([name, len(table), int(table["scored"].sum()), int(table["above_threshold"].sum()), found,
                     int(table["taken"].sum())])  # fmt: skip
    columns = ["Network", "Slides", "Cells scored", "Normal, above threshold", "Slides with any", "Patches taken"]
    settings = evidence.config.hard_negatives
    caption = (
        f"Training slides; threshold {settings.threshold:g}, at most {settings.per_slide} patches per slide. Names "
        "with fold_ are the cross-fitted models, each without its fold's slides."
    )
    return [Section("Hard negatives", [Table(columns, rows, caption)])]


def subgroup_section(
    evidence: Evidence, known: pd.DataFrame, scored: Scored, bootstrap: dict[str, Any], note: str
) -> list[Section]:
    """FROC score and slide AUROC by the configured columns."""
    records = evidence.records.set_index("id").reindex(known["id"])
    subgroups: list[Subgroup] = []
    rows: list[list[Any]] = []
    for column in evidence.config.subgroups:
        if column not in records or records[column].isna().all() or records[column].nunique() > 12:
            continue
        values = records[column].to_numpy()
        for value in sorted({v for v in values if not pd.isna(v)}, key=str):
            mine = values == value
            froc = froc_estimates(part_of(scored, mine), **bootstrap)["froc"]
            some = known[mine]
            auc = auroc_estimate(some[TASK], some["p_tumor"], some["group"], **bootstrap)
            subgroups.append(Subgroup(str(value), froc, int(mine.sum()), column))
            rows.append([f"{column}: {value}", int(mine.sum()), int(some[TASK].sum()), froc, auc])
    if not subgroups:
        return []
    overall = froc_estimates(scored, **bootstrap)["froc"]
    figures.forest(
        evidence.folder.figures / "subgroups.png", subgroups, Subgroup("All", overall, len(known)), metric="FROC score",
        note=note,
    )  # fmt: skip
    return [
        Section(
            "Subgroups",
            [
                Picture("figures/subgroups.png", "FROC score by subgroup, test.", "Forest plot of subgroups."),
                Table(
                    ["Subgroup", "Slides", "Tumour", "FROC score", "Slide AUROC"], rows, "Few slides, wide intervals."
                ),
            ],
        )
    ]


def part_of(scored: Scored, chosen: np.ndarray) -> Scored:
    """What was found on some of the slides, (n,) bool."""
    place = np.cumsum(chosen) - 1
    lesion, false = chosen[scored.lesion_slide], chosen[scored.false_slide]
    return Scored(
        slides=[s for s, c in zip(scored.slides, chosen, strict=True) if c],
        tumour=scored.tumour[chosen],
        lesion_slide=place[scored.lesion_slide[lesion]],
        lesion_score=scored.lesion_score[lesion],
        lesion_length=scored.lesion_length[lesion],
        false_slide=place[scored.false_slide[false]],
        false_score=scored.false_score[false],
        itc=scored.itc[chosen],
    )


def picture_sections(evidence: Evidence, scored: Scored, note: str) -> list[Section]:
    """Thumbnail, tissue and heatmap of some test slides, and the masks of all slides."""
    folder = evidence.folder.path
    false = np.bincount(scored.false_slide, minlength=len(scored.slides))
    missed = np.bincount(scored.lesion_slide[scored.lesion_score == 0], minlength=len(scored.slides))
    # The slides with most to see: most missed lesions, most false positives, then any.
    order: list[int] = []
    for rank in (np.argsort(-missed, kind="stable"), np.argsort(-false, kind="stable")):
        order += [int(i) for i in rank if int(i) not in order][: SHOWN // 2]
    rows = []
    for i in order[:SHOWN]:
        name = scored.slides[i]
        kind = "tumour" if scored.tumour[i] else "normal"
        lesions = int((scored.lesion_slide == i).sum())
        title = f"{name}: {kind}, {lesions} lesions, {missed[i]} missed, {false[i]} false positives"
        pictures = [_square(_picture(folder / place, name)) for place in ("tissue", "overlays")]
        rows.append((title, pictures))
    drawing.rows_of_slides(evidence.folder.figures / "slides.png", rows, ["Slide and tissue", "Heatmap"], note=note)
    names = evidence.records["id"].tolist()[:MASKS]
    sheet = [(name, _square(_picture(folder / "tissue", name), 220)) for name in names]
    drawing.mask_sheet(evidence.folder.figures / "masks.png", sheet, note=note)
    more = len(evidence.records) - len(sheet)
    rest = f" {more} more are in tissue/." if more else ""
    return [
        Section(
            "Pictures",
            [
                Picture("figures/slides.png", "Test slides with most missed lesions and most false positives. Green: "
                        "outline of the tissue. Yellow to red: probability of tumour.", "Slides, masks and heatmaps."),
                Picture("figures/masks.png", f"The tissue of every slide.{rest}", "Masks of the slides."),
            ],
        )
    ]  # fmt: skip


def _picture(place: Path, slide: str) -> Path:
    """A slide's picture; runs of earlier versions named it by the id as it is."""
    file = place / f"{output_name(slide)}.png"
    return file if file.exists() else place / f"{slide}.png"


def _square(file: Path, side: int = 480) -> np.ndarray:
    found = Image.fromarray(read_picture(file))
    scale = side / max(found.size)
    found = found.resize((round(found.width * scale), round(found.height * scale)))
    square = Image.new("RGB", (side, side), "white")
    square.paste(found, ((side - found.width) // 2, (side - found.height) // 2))
    return np.asarray(square)


def denominator_section(evidence: Evidence, text: str, chance: float | None) -> Section:
    """What the numbers rest on."""
    apart = [n for n in evidence.flow["notes"] if "set apart" in n]
    said = [f"Lesion scores rest on {text}.", *apart]
    if chance is not None:
        said.append(f"Random places in tissue with random probabilities have a FROC score of {chance:.3f}.")
    return Section("What the numbers rest on", [Text("\n\n".join(said))])
