"""What the report shows, in order. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from pipelines.camelyon import plots
from pipelines.camelyon.config import CamelyonConfig
from pipelines.camelyon.froc import Scored, froc_curve, froc_estimates
from pipelines.camelyon.froc_report import denominators, froc_figure, froc_section
from pipelines.camelyon.metrics import FOREST, MAXIMUM, PATCHES
from pipelines.shared.files import output_name
from pipelines.shared.judging import figures
from pipelines.shared.judging.report import Block, Cell, Picture, Section, Table, Text
from pipelines.shared.judging.sections import (
    Metrics,
    OperatingPoint,
    auroc_table,
    operating_points_section,
    roc_blocks,
    roc_line,
)
from pipelines.shared.judging.subgroups import subgroup_estimates, subgroup_section, subgroup_table
from pipelines.shared.run_folder import read_picture, read_table
from pipelines.shared.stats.estimate import Estimate
from pipelines.shared.study import Evidence

SHOWN = 6  # slides with thumbnail, mask and heatmap
MASKS = 40  # masks on the sheet
MOST_CENTRES = 12  # a column with more values gives no subgroups
METHODS = {
    "components": "Connected components",
    "suppression": "Non-maximum suppression",
    "before": "Before hard negatives",
    "oracle": "Oracle: every true lesion, annotated or not",
}
Camelyon = Evidence[CamelyonConfig]


def report_sections(
    evidence: Camelyon,
    known: pd.DataFrame,
    scored: Mapping[str, Scored],
    metrics: Metrics,
    points: Sequence[OperatingPoint],
    patches: pd.DataFrame | None,
    chance: float | None,
    scale: str,
) -> list[Section]:
    """The sections of the report.

    Args:
        evidence: of the run.
        known: predictions of the test slides with a label.
        scored: `run` and other ways to make detections, on the same slides.
        metrics: of `evaluation.evaluate`.
        points: with their rates.
        patches: predictions of test patches, if the run has some.
        chance: FROC score of random detections, if it was computed.
        scale: the microns per pixel that lesions were counted with, in words.
    """
    run = scored["run"]
    lesions = {name.removeprefix("test.lesions."): e for name, e in metrics.items() if name.startswith("test.lesions.")}
    return [
        froc_section(evidence.folder, run, lesions, evidence.note, scale=scale),
        _detections(evidence, metrics, scored),
        _slides(evidence, known, metrics),
        operating_points_section(evidence, known, FOREST, points),
        *_patches(patches, metrics),
        *_hard_negatives(evidence),
        *_subgroups(evidence, known, run, metrics),
        _pictures(evidence, run),
        _basis(evidence, run, chance),
    ]


def patch_sections(
    evidence: Camelyon, test: pd.DataFrame, metrics: Metrics, points: Sequence[OperatingPoint]
) -> list[Section]:
    """The report of the patch task alone."""
    roc = roc_blocks(evidence, test, [PATCHES], metrics, "ROC curve of patches, test.", points=points)
    return [
        Section("Patches", [*roc, auroc_table([PATCHES], metrics, "Patches")]),
        operating_points_section(evidence, test, PATCHES, points),
    ]


def _detections(evidence: Camelyon, metrics: Metrics, scored: Mapping[str, Scored]) -> Section:
    """The two ways to make detections, and what hard negatives changed."""
    rows: list[list[Cell]] = [["The run's detections", metrics["test.lesions.froc"]]]
    rows += [
        [label, metrics[f"test.lesions.froc_{name}"]]
        for name, label in METHODS.items()
        if f"test.lesions.froc_{name}" in metrics
    ]
    blocks: list[Block] = []
    if "before" in scored:
        curves = [
            ("after hard negatives", froc_curve(scored["run"])),
            ("before hard negatives", froc_curve(scored["before"])),
        ]
        froc_figure(evidence.folder.figures / "froc_hard_negatives.png", curves, note=evidence.note)
        caption = "FROC before and after hard negatives, same slides."
        blocks.append(Picture("figures/froc_hard_negatives.png", caption, "Two FROC curves."))
    settings = evidence.config.lesions
    how = (
        f"Components at {settings.threshold:g}, placed at the {settings.location}, scored by the {settings.score}; "
        f"suppression with radius {settings.radius:g} at level {settings.level}, down to {settings.stop:g}. The "
        f"run's own are {settings.method}."
    )
    blocks += [
        Text(how),
        Table(["Detections", "FROC score"], rows, "Other ways to make detections on the same slides."),
    ]
    return Section("Detections", blocks)


def _slides(evidence: Camelyon, known: pd.DataFrame, metrics: Metrics) -> Section:
    """AUROC of slides: the forest and the heatmap's maximum."""
    curves = {task.title: task.roc(known) for task in (FOREST, MAXIMUM)}
    lines = [roc_line(title, curve) for title, curve in curves.items() if curve is not None]
    figures.roc(evidence.folder.figures / "roc.png", lines, note=evidence.note)
    rows: list[list[Cell]] = [
        [task.title, metrics.get(f"val.slides.{key}"), metrics[f"test.slides.{key}"]]
        for task, key in ((FOREST, "auroc"), (MAXIMUM, "auroc_maximum"))
    ]
    rows.append(["Difference", None, metrics["test.slides.forest_minus_maximum"]])
    picture = Picture("figures/roc.png", "ROC curves of slides, test.", "ROC curves.")
    table = Table(["Score", "AUROC, val", "AUROC, test"], rows, "Intervals resample slides (groups).")
    return Section("Slides", [picture, table])


def _patches(patches: pd.DataFrame | None, metrics: Metrics) -> list[Section]:
    """AUROC over test patches."""
    if patches is None:
        return []
    rows: list[list[Cell]] = [
        [key.rpartition("auroc_")[2].capitalize() + " network", estimate]
        for key, estimate in metrics.items()
        if key.startswith("test.patches.auroc_")
    ]
    kinds = patches["kind"].value_counts()
    caption = f"{kinds.get('tumor', 0):,} tumour and {kinds.get('normal', 0):,} normal patches of test slides."
    return [Section("Patches", [Table(["Network", "AUROC"], rows, caption)])]


def _hard_negatives(evidence: Camelyon) -> list[Section]:
    """How many cells of normal tissue each first network took for tumour, and how many patches joined."""
    files = sorted((evidence.folder.path / "patches").glob("*-counts.parquet"))
    if not files:
        return []
    rows: list[list[Cell]] = []
    for file in files:
        table = read_table(file, ["above_threshold", "scored", "taken"])
        scored, above, taken = (int(table[column].sum()) for column in ("scored", "above_threshold", "taken"))
        name, slides = file.name.removesuffix("-counts.parquet"), int((table["above_threshold"] > 0).sum())
        rows.append([name, len(table), scored, above, slides, taken])
    columns = ["Network", "Slides", "Cells scored", "Normal, above threshold", "Slides with any", "Patches taken"]
    settings = evidence.config.hard_negatives
    caption = (
        f"Training slides; threshold {settings.threshold:g}, at most {settings.per_slide} patches per slide. Names "
        "with fold_ are the cross-fitted models, each without its fold's slides."
    )
    return [Section("Hard negatives", [Table(columns, rows, caption)])]


def _subgroups(evidence: Camelyon, known: pd.DataFrame, run: Scored, metrics: Metrics) -> list[Section]:
    """FROC score and slide AUROC by the configured columns; `known` numbers the slides as `run` does."""

    def froc(rows: pd.DataFrame) -> Estimate:
        return froc_estimates(_part_of(run, known.index.isin(rows.index)), bootstrap=evidence.bootstrap)["froc"]

    def auroc(rows: pd.DataFrame) -> Estimate:
        return FOREST.auroc(rows, evidence.bootstrap)

    scores, aurocs = (subgroup_estimates(evidence, known, metric, MOST_CENTRES) for metric in (froc, auroc))
    return subgroup_section(
        evidence,
        scores,
        metrics["test.lesions.froc"],
        n=len(known),
        metric="FROC score",
        records="Slides",
        positives=False,
        more=[subgroup_table(aurocs, "AUROC", "Slides", "Slides with metastases, test.")],
    )


def _part_of(scored: Scored, chosen: np.ndarray) -> Scored:
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


def _pictures(evidence: Camelyon, run: Scored) -> Section:
    """Thumbnail, tissue and heatmap of some test slides, and the masks of all slides."""
    folder = evidence.folder.path
    false = np.bincount(run.false_slide, minlength=len(run.slides))
    missed = np.bincount(run.lesion_slide[run.lesion_score == 0], minlength=len(run.slides))
    # The slides with most to see: most missed lesions, most false positives, then any.
    order: list[int] = []
    for rank in (np.argsort(-missed, kind="stable"), np.argsort(-false, kind="stable")):
        order += [int(i) for i in rank if int(i) not in order][: SHOWN // 2]
    rows = []
    for i in order[:SHOWN]:
        name = run.slides[i]
        kind = "tumour" if run.tumour[i] else "normal"
        lesions = int((run.lesion_slide == i).sum())
        title = f"{name}: {kind}, {lesions} lesions, {missed[i]} missed, {false[i]} false positives"
        rows.append((title, [_square(_picture(folder / place, name)) for place in ("tissue", "overlays")]))
    titles = ["Slide and tissue", "Heatmap"]
    plots.rows_of_slides(evidence.folder.figures / "slides.png", rows, titles, note=evidence.note)
    names = evidence.records["id"].tolist()
    sheet = [(name, _square(_picture(folder / "tissue", name), 220)) for name in names[:MASKS]]
    plots.mask_sheet(evidence.folder.figures / "masks.png", sheet, note=evidence.note)
    rest = f" {len(names) - len(sheet)} more are in tissue/." if len(names) > len(sheet) else ""
    about = (
        "Test slides with most missed lesions and most false positives. Green: outline of the tissue. Yellow to red: "
        "probability of tumour."
    )
    return Section(
        "Pictures",
        [
            Picture("figures/slides.png", about, "Slides, masks and heatmaps."),
            Picture("figures/masks.png", f"The tissue of every slide.{rest}", "Masks of the slides."),
        ],
    )


def _picture(place: Path, slide: str) -> Path:
    """A slide's picture; runs of earlier versions named it by the id as it is."""
    file = place / f"{output_name(slide)}.png"
    return file if file.exists() else place / f"{slide}.png"


def _square(file: Path, side: int = 480) -> np.ndarray:
    picture = Image.fromarray(read_picture(file))
    scale = side / max(picture.size)
    picture = picture.resize((round(picture.width * scale), round(picture.height * scale)))
    square = Image.new("RGB", (side, side), "white")
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return np.asarray(square)


def _basis(evidence: Camelyon, run: Scored, chance: float | None) -> Section:
    """What the numbers rest on."""
    sentences = [f"Lesion scores rest on {denominators(run)}."]
    sentences += [note for note in evidence.flow["notes"] if "set apart" in note]
    if chance is not None:
        sentences.append(f"Random places in tissue with random probabilities have a FROC score of {chance:.3f}.")
    return Section("What the numbers rest on", [Text("\n\n".join(sentences))])
