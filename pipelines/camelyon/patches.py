"""Patches are coordinates: drawn once per slide, read from the slide when they are wanted.

A patch's label is that of its middle. A normal patch holds no tumour at all: its middle keeps half a patch's diagonal
away from every outline. The patch table has one row per patch: `id`, `group`, `split`, `slide`, `path`, `x`, `y` (its
middle, level-0 pixels), `tumor`, `kind` (tumor, normal, hard).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from pipelines.camelyon.annotations import Annotation, outlines_of
from pipelines.camelyon.config import CamelyonConfig, PatchSection
from pipelines.camelyon.masks import tumour_mask
from pipelines.camelyon.slides import Slide, opened
from pipelines.camelyon.tissue import Tissue, read_tissue
from pipelines.shared.data.cache import Prepared, prepare_records
from pipelines.shared.data.splits import split_fingerprint
from pipelines.shared.errors import BadFile, DataError
from pipelines.shared.screen import track
from pipelines.shared.seeds import seed_of
from pipelines.shared.study import Data

VERSION = 1  # raise it whenever the same settings give other patches
TRIAL = 12  # patches of a kind per slide of a trial run


def annotation_of(config: CamelyonConfig, record: Mapping[str, Any], root: Path) -> Annotation | None:
    """A slide's outlines; None if it has none. They were checked when the slides were prepared."""
    if not isinstance(record.get("annotation"), str):
        return None
    return outlines_of(root / record["annotation"], config.annotation_groups)


def normal_tissue(tissue: Tissue, slide: Slide, annotation: Annotation | None, reach: float) -> Tissue:
    """Tissue that keeps more than `reach` microns away from every tumour outline."""
    if annotation is None:
        return tissue
    near = tumour_mask(annotation, tissue.cell[0], slide.properties.width, slide.properties.height)
    rows, columns = tissue.mask.shape
    free = np.ones((rows, columns), np.uint8)
    free[: near.shape[0], : near.shape[1]] = ~near[:rows, :columns]
    if free.all():
        return tissue
    distance = cv2.distanceTransform(free, cv2.DIST_L2, 5) * tissue.cell[0] * slide.properties.mpp[0]
    return Tissue(tissue.mask & (distance > reach), tissue.cell)


def sample_slide(
    record: Mapping[str, Any], slide: Slide, tissue: Tissue, annotation: Annotation | None, settings: PatchSection,
    seed: int,
) -> pd.DataFrame:  # fmt: skip
    """The patches of one slide: x, y, tumor, kind. As many of each kind as configured, or as the slide has room for."""
    rng = np.random.default_rng(seed_of(seed, "patches", record["id"]))
    reach = settings.crop * settings.mpp / 2 * 2**0.5
    wanted: list[tuple[str, np.ndarray, int]] = []
    if annotation is not None:
        inside = tumour_mask(annotation, tissue.cell[0], slide.properties.width, slide.properties.height)
        wanted.append(("tumor", inside, settings.tumor))
    if not record["partly"]:
        normal = normal_tissue(tissue, slide, annotation, reach).mask
        wanted.append(("normal", normal, settings.normal if annotation is None else settings.normal_in_tumor))
    parts = []
    for kind, mask, count in wanted:
        places = np.argwhere(mask)
        chosen = places[rng.choice(len(places), min(count, len(places)), replace=False)]
        middle = (chosen[:, ::-1] + rng.uniform(0, 1, chosen.shape)) * np.array(tissue.cell)
        parts.append(
            pd.DataFrame({"x": middle[:, 0], "y": middle[:, 1], "tumor": float(kind == "tumor"), "kind": kind})
        )
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["x", "y", "tumor", "kind"])


def sample_patches(config: CamelyonConfig, records: pd.DataFrame, root: Path, tissue_folder: Path) -> pd.DataFrame:
    """The patch table of all slides.

    Raises:
        DataError: no slide of the training part gives tumour patches, or none normal ones.
    """
    settings = config.patches
    if config.trial:
        few = {"tumor": TRIAL, "normal": TRIAL, "normal_in_tumor": TRIAL}
        settings = settings.model_copy(update=few)
    parts = []
    for record in track(rows_of(records), "Sampling patches"):
        slide = opened(root / record["path"], config.slide_mpp)
        tissue = read_tissue(tissue_folder, str(record["id"]), slide, config.tissue)
        sampled = sample_slide(record, slide, tissue, annotation_of(config, record, root), settings, config.seed)
        parts.append(with_slide(sampled, record))
    table = pd.concat(parts, ignore_index=True)
    train = table[table["split"] == "train"]
    for kind in ("tumor", "normal"):
        if not (train["kind"] == kind).any():
            raise DataError(f"No training slide gives {kind} patches.", "Give annotated tumour slides and normal ones.")
    return table


def rows_of(records: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a record table as dictionaries."""
    return records.to_dict("records")  # type: ignore[return-value]


def with_slide(patches: pd.DataFrame, record: Mapping[str, Any]) -> pd.DataFrame:
    """The columns that a patch has from its slide, and its id."""
    patches = patches.assign(**{c: record[c] for c in ("group", "split", "path")}, slide=record["id"])
    places = zip(patches["kind"], patches["x"], patches["y"], strict=True)
    patches["id"] = [f"{record['id']}:{kind}:{x:.0f}:{y:.0f}" for kind, x, y in places]
    return patches.drop_duplicates("id")


class PatchReader:
    """Reads patch number i from its slide: uint8 (size, size, 3)."""

    def __init__(self, patches: pd.DataFrame, root: Path, mpp: float, size: int, slide_mpp: float | None) -> None:
        names = patches["path"].astype("category")
        self.paths = [root / p for p in names.cat.categories]
        self.slide = names.cat.codes.to_numpy()
        self.x, self.y = patches["x"].to_numpy(float), patches["y"].to_numpy(float)
        self.mpp, self.size, self.slide_mpp = mpp, size, slide_mpp

    def __call__(self, index: int) -> np.ndarray:
        """The patch."""
        path = self.paths[self.slide[index]]
        try:
            return read_patch(opened(path, self.slide_mpp), self.x[index], self.y[index], self.mpp, self.size)
        except BadFile as reason:
            raise DataError(f"{path}: {reason}.", "Replace the slide, then go on with mode=resume.") from None


def read_patch(slide: Slide, x: float, y: float, mpp: float, size: int) -> np.ndarray:
    """The patch of `size` pixels of `mpp` microns around a level-0 position."""
    half = size * mpp / slide.properties.mpp[0] / 2
    return slide.read(x - half, y - half, size, size, mpp)


def _packed(record: Mapping[str, Any], root: Path, settings: dict[str, Any]) -> tuple[np.ndarray, dict[str, Any]]:
    """One patch for the packed cache."""
    slide = opened(root / record["path"], settings["slide_mpp"])
    patch = read_patch(slide, record["x"], record["y"], settings["mpp"], settings["size"])
    return patch, {"fingerprint": record["id"]}


def patch_data(config: CamelyonConfig, data: Data, patches: pd.DataFrame) -> Data:
    """Patches as the data of a fit: the record table is the patch table, arrays are read when they are wanted."""
    settings = config.patches
    root = data.source.root
    patches = patches.reset_index(drop=True)
    if settings.packed:
        keys = {
            "study": "camelyon", "what": "patches", "version": VERSION, "mpp": settings.mpp, "size": settings.size,
            "slide_mpp": config.slide_mpp,
        }  # fmt: skip
        cache = config.cache.model_copy(update={"enabled": True})
        prepared = prepare_records(patches, root, partial(_packed, settings=keys), keys, cache, reads=("x", "y"))
    else:
        n = len(patches)
        nothing = pd.DataFrame({"bad": [None] * n, "unusable": [None] * n, "fingerprint": patches["id"]})
        reader = PatchReader(patches, root, settings.mpp, settings.size, config.slide_mpp)
        prepared = Prepared(nothing, np.zeros((n, 0)), np.zeros((n, 0, 0), np.uint8), None, reader)
    flow = data.flow | {"split_fingerprint": split_fingerprint(patches)}
    return replace(data, records=patches, prepared=prepared, flow=flow)
