"""Where the pictures come from, and how one file becomes the network's input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from pipelines.nodules.config import NodulesConfig
from pipelines.nodules.phantom.dataset import ensure_phantom
from pipelines.shared.data.duplicates import describe
from pipelines.shared.data.images import SUFFIXES, read_picture
from pipelines.shared.data.records import Source, dataset_folder
from pipelines.shared.errors import DataError
from pipelines.shared.files import find_files

CLASSES = {"clear": 0.0, "nodule": 1.0}  # folder -> target
PREPARE_VERSION = 1  # raise it whenever `prepare` gives other arrays or metadata


def prepare_settings(config: NodulesConfig) -> dict[str, Any]:
    """Everything that a prepared array depends on besides the file."""
    return {"study": "nodules", "version": PREPARE_VERSION, "size": config.preprocess.size}


def prepare(record: Mapping[str, Any], root: Path, settings: dict[str, Any]) -> tuple[np.ndarray, dict[str, Any]]:
    """The picture as a square, uint8 (size, size, 3), and its metadata.

    Raises:
        BadFile: the file cannot be read.
    """
    image, warnings = read_picture(root / record["path"])
    side = settings["size"]
    array = np.asarray(cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA), np.uint8)
    return array, describe(image, array) | {"warnings": warnings}


def folder(config: NodulesConfig) -> Source:
    """`data=folder`: <class>/<patient>_<anything>, the patient being what stands before the first "_"."""
    return _read(dataset_folder(config.data.root, "folder"), "folder")


def phantom(config: NodulesConfig) -> Source:
    """The phantom, made on first use, read by the same adapter."""
    assert config.data.name == "phantom"
    source = _read(ensure_phantom(Path(config.cache.dir), config.data.phantom), "phantom")
    truth = pd.read_csv(source.root / "truth" / "truth.csv").set_index("patient")["contrast"]
    return replace(source, records=source.records.assign(truth_nodule=source.records["group"].map(truth)))


def _read(root: Path, name: str) -> Source:
    paths = [path for path in find_files(root, SUFFIXES) if path.parts[0] in CLASSES and len(path.parts) == 2]
    if not paths:
        raise DataError(
            f"data.root={root} holds no picture in {' or '.join(CLASSES)}.",
            "See data_cards/folder.md for the layout.",
        )
    records = pd.DataFrame(
        {
            "id": [path.as_posix() for path in paths],
            "group": [path.stem.partition("_")[0] for path in paths],
            "split": None,
            "path": [path.as_posix() for path in paths],
            "nodule": [CLASSES[path.parts[0]] for path in paths],
        }
    )
    return Source(name, name == "phantom", root, records, group_key="patient: what stands before the first _")


SOURCES = {"phantom": phantom, "folder": folder}
