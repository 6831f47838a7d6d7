"""Where the pictures come from (the two public sets: `public_sets`), and how one file becomes the networks' input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from pipelines.covid_flannel.config import CLASSES, COVID, CovidConfig
from pipelines.covid_flannel.phantom.dataset import drawn, ensure_phantom
from pipelines.covid_flannel.public_sets import CCX, CCX_BESIDES, KEY, numbered, read_ccx, read_kcx
from pipelines.covid_flannel.rules import read_rules
from pipelines.shared.data.copies import Copy
from pipelines.shared.data.duplicates import describe
from pipelines.shared.data.images import read_picture
from pipelines.shared.data.records import Source, Target, dataset_folder, read_table
from pipelines.shared.errors import DataError
from pipelines.shared.seeds import seed_of

PREPARE_VERSION = 2  # raise it whenever `prepare` gives other arrays or metadata
PA_NOISE = 8.0  # grey levels, standard deviation


# --- one file ---


def prepare_settings(config: CovidConfig) -> dict[str, Any]:
    """Everything that a prepared array depends on besides the file."""
    return {"study": "covid_flannel", "version": PREPARE_VERSION, **config.preprocess.model_dump()}


def prepare(record: Mapping[str, Any], root: Path, settings: dict[str, Any]) -> tuple[np.ndarray, dict[str, Any]]:
    """A picture as grey values, scaled to a square: uint8 (size, size, 1), and its metadata.

    With `pa_to_ap` a PA view is mirrored and given random noise, a function of the record's id.

    Raises:
        BadFile: the file cannot be read.
    """
    image, warnings = read_picture(root / record["path"])
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    size = settings["size"]
    how = cv2.INTER_AREA if min(grey.shape) >= size else cv2.INTER_CUBIC
    square = cv2.resize(grey, (size, size), interpolation=how)
    # Letters and black frames that a hospital's pictures share must not make two patients one.
    edge = image.shape[0] // 10, image.shape[1] // 10
    description = describe(image, np.ascontiguousarray(image[edge[0] : -edge[0], edge[1] : -edge[1]]))
    if settings["pa_to_ap"] and record.get("view") == "PA":
        noise = np.random.default_rng(seed_of("pa_to_ap", record["id"])).normal(0, PA_NOISE, square.shape)
        square = np.clip(np.rint(square[:, ::-1] + noise), 0, 255).astype(np.uint8)
    return square[..., None], description | {"width": image.shape[1], "height": image.shape[0], "warnings": warnings}


# --- sources ---


def phantom(config: CovidConfig) -> Source:
    """The phantom, made on first use, read through the adapters of the two sets whose layouts it has."""
    assert config.data.name == "phantom"
    settings = config.data.phantom
    root = ensure_phantom(Path(config.cache.dir), settings)
    source = _both(config, Copy(root / config.data.ccx, "ccx"), root)
    records = source.records.assign(truth=drawn(root, source.records["path"]))
    return _chosen(replace(source, name="phantom", synthetic=True, records=records), config)


def ccx(config: CovidConfig) -> Source:
    """covid-chestxray-dataset (CCX), and everything that comes in its layout."""
    assert config.data.name == "ccx"
    copy = Copy.of(config.data, "ccx", [*CCX, *CCX_BESIDES])
    return _chosen(read_ccx(copy, read_rules(config.data.rules), config.data.on_bad_row), config)


def kcx(config: CovidConfig) -> Source:
    """The chest X-rays of Kermany et al. (KCX), and everything that comes in their layout."""
    assert config.data.name == "kcx"
    copy = Copy(dataset_folder(config.data.root, "kcx"), "kcx")
    rules, data = read_rules(config.data.rules), config.data
    return _chosen(read_kcx(copy, rules, data.official_test, data.on_bad_row), config)


def ccx_kcx(config: CovidConfig) -> Source:
    """Both sets together, as the paper has them."""
    assert config.data.name == "ccx_kcx"
    root = dataset_folder(config.data.root, "ccx_kcx")
    folders = {}
    for key, name in (("ccx", config.data.ccx), ("kcx", config.data.kcx)):
        # An archive from GitHub unpacks into a folder with the branch's name behind its own.
        folders[key] = next((n for n in (name, f"{name}-master", f"{name}-main") if (root / n).is_dir()), None)
    missing = [n for n, f in zip((config.data.ccx, config.data.kcx), folders.values(), strict=True) if f is None]
    if missing:
        raise DataError(
            f"data.root={root} holds no folder {' and no folder '.join(missing)}.",
            "Put both sets into it, or name their folders with data.ccx and data.kcx.",
        )
    data = config.data.model_copy(update=folders)
    section = data.model_copy(update={"root": str(root / data.ccx)})
    copy = Copy.of(section, "ccx", [*CCX, *CCX_BESIDES])
    return _chosen(_both(config.model_copy(update={"data": data}), copy, root), config)


def _both(config: CovidConfig, ccx_copy: Copy, root: Path) -> Source:
    assert config.data.name in ("phantom", "ccx_kcx")
    data, rules = config.data, read_rules(config.data.rules)
    kcx_copy = Copy(root / data.kcx, "kcx")
    sources = {
        data.ccx: read_ccx(ccx_copy, rules, data.on_bad_row),
        data.kcx: read_kcx(kcx_copy, rules, data.official_test, data.on_bad_row),
    }
    parts = [
        source.records.assign(id=f"{folder}/" + source.records["id"], path=f"{folder}/" + source.records["path"])
        for folder, source in sources.items()
    ]
    records = pd.concat(parts, ignore_index=True)
    records["split"] = records["split"].astype(object).where(records["split"].notna(), None)
    notes = [f"{folder}: {line}" for folder, source in sources.items() for line in source.notes]
    left_out = [f"{folder}/{line}" for folder, source in sources.items() for line in source.left_out]
    excluded = {why: rows for source in sources.values() for why, rows in source.excluded.items()}
    return Source("ccx_kcx", False, root, records, KEY, None, notes, left_out, excluded=excluded)


def table(config: CovidConfig) -> Source:
    """`data=table`: the user's own table. Columns `source`, `view`, `age`, `sex`, where it has them, serve as in CCX.

    Raises:
        DataError: no column for the label, or all bad rows at once.
    """
    assert config.data.name == "table"
    number = {name: i for i, name in enumerate(CLASSES)}
    source = read_table(config.data, [Target("label", range(len(CLASSES)), required=True, words=number)])
    records = source.records.assign(label=[CLASSES[int(i)] for i in source.records["label"]])
    if "source" not in records:
        records["source"] = "table"
    return _chosen(replace(source, records=numbered(records)), config)


def _chosen(source: Source, config: CovidConfig) -> Source:
    """`negatives=same_source`: only the source that most COVID-19 pictures come from.

    Raises:
        DataError: that source has no other class.
    """
    if config.negatives == "all":
        return source
    records = source.records
    covid = records.loc[records["label"] == COVID, "source"]
    if covid.empty:
        raise DataError("negatives=same_source: there is no COVID-19 picture.", "Use negatives=all.")
    chosen = covid.value_counts().index[0]
    kept = records[records["source"] == chosen].reset_index(drop=True)
    if kept["label"].nunique() < 2:
        raise DataError(f"negatives=same_source: {chosen} holds COVID-19 only.", "Use negatives=all.")
    note = f"negatives=same_source: {len(records) - len(kept)} records of other sources than {chosen} are left out."
    return replace(source, records=kept, notes=[*source.notes, note])


SOURCES = {"phantom": phantom, "ccx_kcx": ccx_kcx, "ccx": ccx, "kcx": kcx, "table": table}
