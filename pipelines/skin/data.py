"""Where the pictures come from (public sets: `public_sets`), and how one file becomes the network's input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from pipelines.shared.data.copies import Copy
from pipelines.shared.data.duplicates import describe
from pipelines.shared.data.images import read_picture
from pipelines.shared.data.records import Source, Target, read_table
from pipelines.skin import public_sets
from pipelines.skin.config import SkinConfig
from pipelines.skin.labels import add_levels
from pipelines.skin.phantom.dataset import ensure_phantom, oracle_columns
from pipelines.skin.trees import read_tree

PREPARE_VERSION = 2  # raise it whenever `prepare` gives other arrays or metadata


# --- one file ---


def prepare_settings(config: SkinConfig) -> dict[str, Any]:
    """Everything that a prepared array depends on besides the file."""
    return {"study": "skin", "version": PREPARE_VERSION, "size": config.preprocess.size}


def prepare(record: Mapping[str, Any], root: Path, settings: dict[str, Any]) -> tuple[np.ndarray, dict[str, Any]]:
    """The largest square around a picture's centre, where the lesion is: uint8 (size, size, 3), and its metadata.

    Raises:
        BadFile: the file cannot be read.
    """
    image, warnings = read_picture(root / record["path"])
    array = centre_square(image, settings["size"])
    # Dermatoscopes leave a dark frame around a disc; only the square inside it tells two pictures apart.
    edge = round(settings["size"] * (1 - 0.5**0.5) / 2)
    description = describe(image, np.ascontiguousarray(array[edge:-edge, edge:-edge]))
    return array, description | {"width": image.shape[1], "height": image.shape[0], "warnings": warnings}


def centre_square(image: np.ndarray, size: int) -> np.ndarray:
    """The largest square around the centre of a picture or mask (height, width[, 3]), scaled to `size` pixels."""
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = image[top : top + side, left : left + side]
    how = cv2.INTER_AREA if side >= size else cv2.INTER_CUBIC
    return cv2.resize(square, (size, size), interpolation=how)


# --- sources ---


def phantom(config: SkinConfig) -> Source:
    """The phantom, made on first use, read through HAM10000's adapter."""
    assert config.data.name == "phantom"
    settings = config.data.phantom
    root = ensure_phantom(Path(config.cache.dir), settings)
    tree = read_tree(config.data.taxonomy)
    source = public_sets.read_ham10000(Copy(root, "skin_phantom"), tree, "phantom", config.data.on_bad_row)
    truth = pd.read_csv(root / "truth" / "truth.csv", dtype={"image_id": str}).set_index("image_id")
    disease = truth["disease"].reindex(source.records["id"]).tolist()
    oracle = oracle_columns(disease, settings.label_noise, tree)
    masks = [f"truth/masks/{i}.png" for i in source.records["id"]]
    return replace(source, records=source.records.join(oracle).assign(truth_mask=masks))


def table(config: SkinConfig) -> Source:
    """`data=table`: the user's own table, its diagnoses being labels of the tree that `data.taxonomy` names.

    Raises:
        DataError: no column for the diagnosis, or all bad rows at once.
    """
    assert config.data.name == "table"
    tree = read_tree(config.data.taxonomy)
    number = {leaf: i for i, leaf in enumerate(tree.leaves)}
    source = read_table(config.data, [Target("diagnosis", range(len(number)), required=True, words=number)])
    label = [tree.leaves[int(i)] for i in source.records["diagnosis"]]
    records = add_levels(source.records.drop(columns="diagnosis").assign(label=label), tree)
    return replace(source, records=records)


SOURCES = {
    "phantom": phantom,
    "ham10000": public_sets.ham10000,
    "isic2018": public_sets.isic2018,
    "fitzpatrick17k": public_sets.fitzpatrick17k,
    "table": table,
}
