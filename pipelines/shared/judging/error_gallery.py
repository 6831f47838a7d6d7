"""The most confident errors in the report, from the pictures that `explain.write_gallery` left. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipelines.shared.config import StudyConfig
from pipelines.shared.judging import figures
from pipelines.shared.judging.figures import Tile
from pipelines.shared.judging.report import Picture, Section, Table, Text
from pipelines.shared.run_folder import read_picture, read_table
from pipelines.shared.stats.bootstrap import Bootstrap
from pipelines.shared.stats.estimate import Estimate
from pipelines.shared.stats.proportions import weighted_ratio_estimate
from pipelines.shared.study import Evidence


def saliency_estimate(evidence: Evidence[StudyConfig], bootstrap: Bootstrap) -> Estimate | None:
    """Does the map point at lesions? Mean over images of the AUROC of saliency for lesion pixels; 0.5 is chance."""
    file = evidence.folder.path / "saliency" / "scores.csv"
    if not file.exists():
        return None
    scores = read_table(file, ["group", "lesion_auroc"])
    scores = scores[scores["lesion_auroc"].notna()]
    if scores.empty:
        return None
    return weighted_ratio_estimate(
        scores["lesion_auroc"].to_numpy(), np.ones(len(scores)), scores["group"].to_numpy(), bootstrap=bootstrap
    )


def error_sections(
    evidence: Evidence[StudyConfig], saliency: Estimate | None, labels: Mapping[str, str]
) -> list[Section]:
    """The section of a report, or none where the explain stage left nothing.

    Args:
        evidence: of the run.
        saliency: what `saliency_estimate` found.
        labels: the kinds of error in `saliency/gallery.csv` -> what the report calls them.
    """
    folder = evidence.folder.path / "saliency"
    file = folder / "gallery.csv"
    blocks: list[Any] = []
    if file.exists():
        gallery = read_table(file, ["kind", "id", "image", "map", "mask", "subtitle"], dtype={"id": str})
        for kind, label in labels.items():
            part = gallery[gallery["kind"] == kind]
            if part.empty:
                continue
            tiles = [_tile(folder, row) for _, row in part.iterrows()]
            figures.gallery(evidence.folder.figures / f"{kind}.png", tiles, note=evidence.note)
            caption = f"{label}: the most confident errors on test, with the saliency map beside each picture."
            blocks.append(Picture(f"figures/{kind}.png", caption, f"{label} with saliency maps."))
    if saliency is not None:
        rows: list[list[Any]] = [
            ["AUROC of saliency for lesion pixels, mean over images", saliency],
            ["Chance", 0.5],
        ]
        blocks.append(Table(["Measure", "Value"], rows, "Does the map point at lesions? Scored against known masks."))
    if blocks:
        blocks.append(Text("Saliency shows where a change of the pixels changes the score, not why.", "note"))
    return [Section("Most confident errors", blocks)] if blocks else []


def _tile(folder: Path, row: pd.Series) -> Tile:
    overlay = read_picture(folder / row["map"])[..., 0].astype(np.float32) / 255
    mask = read_picture(folder / row["mask"])[..., 0] > 127 if isinstance(row["mask"], str) else None
    return Tile(read_picture(folder / row["image"]), str(row["id"]), row["subtitle"], overlay, mask)
