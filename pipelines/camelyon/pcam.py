"""PatchCamelyon (Veeling et al., MICCAI 2018): 327,680 patches of 96 x 96 pixels as HDF5, for the patch task only."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipelines.shared.errors import BadFile, DataError
from pipelines.shared.records import Source, dataset_folder, raise_problems, read_csv

MPP = 0.972  # 10x: level 2 of the challenge's slides
NAME = "camelyonpatch_level_2_split_{split}"
PARTS = {"train": "train", "valid": "val", "test": "test"}  # the files' names of the splits -> ours


@lru_cache(maxsize=8)
def _open(file: str) -> Any:
    import h5py

    try:
        return h5py.File(file, "r")
    except OSError as failure:
        raise BadFile(f"is no HDF5 file: {' '.join(str(failure).split())[:120]}") from None


def pcam(config: Any) -> Source:
    """`data=pcam`: `…_x.h5`, `…_y.h5` and `…_meta.csv` of train, valid and test. A group is a slide.

    Raises:
        DataError: files that are missing or disagree with each other, all at once.
    """
    root = dataset_folder(config.data.root, "pcam")
    problems: list[str] = []
    parts = []
    for theirs, ours in PARTS.items():
        name = NAME.format(split=theirs)
        files = {kind: root / f"{name}_{kind}" for kind in ("x.h5", "y.h5", "meta.csv")}
        missing = [f.name for f in files.values() if not f.is_file()]
        if missing:
            packed = " (unpack the .gz file first)" if any((root / f"{m}.gz").exists() for m in missing) else ""
            problems += [f"{m} is missing{packed}" for m in missing]
            continue
        try:
            shape = _open(str(files["x.h5"]))["x"].shape
            labels = np.asarray(_open(str(files["y.h5"]))["y"]).reshape(-1)
        except (BadFile, KeyError) as failure:
            problems.append(f"{name}: {failure}")
            continue
        meta = read_csv(files["meta.csv"], ["wsi"])
        if not len(labels) == shape[0] == len(meta):
            problems.append(f"{name}: {shape[0]} patches, {len(labels)} labels and {len(meta)} rows of meta.csv")
            continue
        if len(shape) != 4 or shape[3] != 3:
            problems.append(f"{files['x.h5'].name} holds {shape}, expected (n, 96, 96, 3)")
            continue
        index = np.arange(shape[0])
        parts.append(
            pd.DataFrame(
                {
                    "id": [f"{theirs}_{i}" for i in index], "group": meta["wsi"].astype(str), "split": ours,
                    "path": files["x.h5"].name, "row": index, "tumor": labels.astype(float),
                }
            )
        )  # fmt: skip
    raise_problems(problems, str(root), "Complete the folder, see data_cards/pcam.md.")
    if not parts:
        raise DataError(f"{root} holds no patches.", "See data_cards/pcam.md.")
    records = pd.concat(parts, ignore_index=True)
    notes = ["Patches only: no heatmaps, lesions or slide scores can be made from them."]
    return Source("pcam", False, root, records, "slide", notes=notes)


def read_patch(record: Mapping[str, Any], root: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """One patch, uint8 (96, 96, 3), and its fingerprint."""
    patch = np.asarray(_open(str(root / record["path"]))["x"][int(record["row"])], np.uint8)
    return patch, {"fingerprint": hashlib.sha256(patch.tobytes()).hexdigest()}
