"""Columns of the prediction table and the scores of slides. No torch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from pipelines.camelyon.config import CamelyonConfig
from pipelines.camelyon.froc import Scored
from pipelines.camelyon.masks import LESION_COLUMNS
from pipelines.shared.errors import DataError, StatisticsError
from pipelines.shared.judging.tasks import BinaryTask, known
from pipelines.shared.stats.bootstrap import Bootstrap
from pipelines.shared.stats.estimate import Estimate
from pipelines.shared.stats.operating_points import choose_two_points

TASK = "tumor"
CLASSES = ["tumor"]
FOREST = BinaryTask("slides", "Random forest of 31 features", target=TASK, score="p_tumor")
MAXIMUM = BinaryTask("slides", "Heatmap's maximum", target=TASK, score="p_maximum")
TUMOUR = BinaryTask(TASK, "Tumour", target=TASK, score="p_tumor")  # what thresholds and prediction sets are for
PATCHES = BinaryTask("patches", "Patches with tumour", target=TASK, score="p_tumor")


def predict_columns(p: np.ndarray) -> pd.DataFrame:
    """`p_tumor`."""
    return pd.DataFrame({"p_tumor": p[:, 0]})


def choose_points(rows: pd.DataFrame, config: CamelyonConfig) -> list[dict[str, Any]]:
    """A specific and a sensitive threshold of `p_tumor`, on val."""
    try:
        return choose_two_points(known(rows, TASK), TASK, config.operating_points)
    except StatisticsError as reason:
        raise DataError(
            f"No operating point can be chosen on val: {reason}.", "Give val slides of both kinds."
        ) from None


def slide_metrics(rows: pd.DataFrame, split: str, bootstrap: Bootstrap) -> dict[str, Estimate]:
    """AUROC of the forest and of the heatmap's maximum."""
    return {
        f"{split}.slides.auroc": FOREST.auroc(rows, bootstrap),
        f"{split}.slides.auroc_maximum": MAXIMUM.auroc(rows, bootstrap),
    }


def patch_metrics(patches: pd.DataFrame, bootstrap: Bootstrap) -> dict[str, Estimate]:
    """AUROC of each network over test patches; intervals resample slides."""
    scores = [str(column) for column in patches if str(column).startswith("p_")]
    return {
        f"test.patches.auroc_{score.removeprefix('p_')}": replace(PATCHES, score=score).auroc(patches, bootstrap)
        for score in scores
    }


def scored_again(slides: list[str], tumour: np.ndarray, detections: pd.DataFrame, lesions: pd.DataFrame) -> Scored:
    """What `froc.score_detections` found, from the tables that a run keeps: every lesion with its highest detection.

    Args:
        slides: names of all slides.
        tumour: (slides,) bool.
        detections: slide, probability, lesion, outcome.
        lesions: slide and `annotations.LESION_COLUMNS`.
    """
    place = {name: i for i, name in enumerate(slides)}
    lesions = lesions[lesions["slide"].isin(place)]
    itc = lesions["itc"].to_numpy(bool)
    on = detections[detections["lesion"] > 0]
    highest = on.groupby(["slide", "lesion"])["probability"].max()
    keys = pd.MultiIndex.from_frame(lesions[["slide", "label"]])
    score = highest.reindex(keys).fillna(0.0).to_numpy(float)
    owner = lesions["slide"].map(place).to_numpy(np.int64)
    false = detections[detections["outcome"] == "false_positive"]
    return Scored(
        slides=slides,
        tumour=tumour,
        lesion_slide=owner[~itc],
        lesion_score=score[~itc],
        lesion_length=lesions["length"].to_numpy(float)[~itc],
        false_slide=false["slide"].map(place).to_numpy(np.int64),
        false_score=false["probability"].to_numpy(float),
        itc=np.bincount(owner[itc], minlength=len(slides)),
    )


def empty_lesions() -> pd.DataFrame:
    """A lesion table without rows."""
    table = pd.DataFrame({c: pd.Series(dtype=float) for c in LESION_COLUMNS})
    return table.astype({"label": int, "itc": bool}).assign(slide=pd.Series(dtype=object))
