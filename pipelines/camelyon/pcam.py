"""PatchCamelyon (Veeling et al., MICCAI 2018): 327,680 patches of 96 x 96 pixels as HDF5, for the patch task only."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipelines.shared.data.records import Source, dataset_folder
from pipelines.shared.data.tables import RowProblem, raise_problems, read_csv, without_bad_rows
from pipelines.shared.errors import BadFile
from pipelines.shared.extras import Extra
from pipelines.shared.files import find_files

HDF5 = Extra("wsi", {"h5py": "h5py"})
MPP = 0.972  # 10x: level 2 of the challenge's slides
NAME = "camelyonpatch_level_2_split_{split}"
PARTS = {"train": "train", "valid": "val", "test": "test"}  # the files' names of the splits -> ours
KAGGLE = {"train": "training_split.h5", "valid": "validation_split.h5", "test": "test_split.h5"}  # for …_x.h5


@lru_cache(maxsize=8)
def _open(file: str) -> Any:
    HDF5.require("data=pcam")
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
    there: dict[str, list[Path]] = defaultdict(list)
    for file in find_files(root, (".h5", ".csv", ".gz")):
        there[file.name.lower()].append(file)
    parts = [_part(root, there, split, problems) for split in PARTS]
    notes = ["Patches only: no heatmaps, lesions or slide scores can be made from them."]
    remedy = "Complete the folder, see data_cards/pcam.md."
    whole = [p for p in problems if not isinstance(p, RowProblem)]
    raise_problems(whole, str(root), remedy)
    records = pd.concat([part for part in parts if part is not None])
    records, left_out = without_bad_rows(records, problems, config.data.on_bad_row, str(root))
    return Source("pcam", False, root, records.reset_index(drop=True), "slide", notes=notes, left_out=left_out)


def _part(root: Path, there: Mapping[str, list[Path]], split: str, problems: list[str]) -> pd.DataFrame | None:
    """The records of one split, in whatever folders its three files lie (index: the ids)."""
    name = NAME.format(split=split)
    files: dict[str, Path] = {}
    for kind, names in {
        "x": [f"{name}_x.h5", KAGGLE[split]],
        "y": [f"{name}_y.h5"],
        "meta": [f"{name}_meta.csv"],
    }.items():
        matching = [file for n in names for file in there.get(n, [])]
        if len(matching) == 1:
            files[kind] = matching[0]
        elif matching:
            problems.append(f"{' and '.join(f.as_posix() for f in matching)} are the same file of the set: remove one")
        else:
            packed = " (unpack the .gz file first)" if any(f"{n}.gz" in there for n in names) else ""
            problems.append(f"{names[0]} is missing{packed}")
    if len(files) < 3:
        return None
    try:
        patches = _open(str(root / files["x"]))["x"]
        shape, kind = patches.shape, patches.dtype
        labels = np.asarray(_open(str(root / files["y"]))["y"]).reshape(-1)
    except (BadFile, KeyError, AttributeError, TypeError, OSError) as failure:
        problems.append(f"{name}: {' '.join(str(failure).split())[:120]}")
        return None
    meta = read_csv(root / files["meta"], ["wsi"])
    if len(shape) != 4 or shape[3] != 3 or kind != np.uint8:
        problems.append(f"{files['x']} holds {shape} {kind}, expected (n, 96, 96, 3) uint8")
    elif not len(labels) == shape[0] == len(meta):
        problems.append(f"{name}: {shape[0]} patches, {len(labels)} labels and {len(meta)} rows of meta.csv")
    ids = np.array([f"{split}_{i}" for i in range(len(labels))], dtype=object)
    for bad, what in (
        (~np.isin(labels, (0, 1)), f"{files['y']}: labels other than 0 and 1"),
        (meta["wsi"].isna().to_numpy(), f"{files['meta']}: rows without wsi, the slide"),
    ):
        if len(bad) == len(ids) and bad.any():
            problems.append(RowProblem(f"{what}, {bad.sum()} (first: {ids[bad][0]})", *ids[bad]))
    if len(meta) != len(ids):
        return None
    return pd.DataFrame(
        {
            "id": ids, "group": meta["wsi"].astype(str).to_numpy(), "split": PARTS[split],
            "path": files["x"].as_posix(), "row": np.arange(len(ids)), "tumor": labels.astype(float),
        },
        index=ids,
    )  # fmt: skip


def read_patch(record: Mapping[str, Any], root: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """One patch, uint8 (96, 96, 3), and its fingerprint."""
    try:
        patch = np.asarray(_open(str(root / record["path"]))["x"][int(record["row"])], np.uint8)
    except (KeyError, IndexError, OSError) as failure:
        raise BadFile(f"patch {record['row']} cannot be read: {' '.join(str(failure).split())[:120]}") from None
    return patch, {"fingerprint": hashlib.sha256(patch.tobytes()).hexdigest()}
