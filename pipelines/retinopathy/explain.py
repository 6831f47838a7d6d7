"""Saliency of the most confident errors, and whether the maps point at the phantom's lesions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
from torch import nn

from pipelines.retinopathy import fundus
from pipelines.retinopathy.config import RetinopathyConfig
from pipelines.retinopathy.metrics import HEADS, headline_task, known
from pipelines.shared.distributed import World
from pipelines.shared.explain import saliency_maps
from pipelines.shared.run_folder import RunFolder
from pipelines.shared.seeds import seed_of
from pipelines.shared.stats.auc import auroc
from pipelines.shared.study import Data


def explain(config: RetinopathyConfig, data: Data, network: nn.Module, folder: RunFolder, world: World) -> None:
    """Write saliency/: pictures, maps and gallery.csv of the most confident errors; scores.csv where lesions are known.

    The errors are those furthest on the wrong side of a score of one half.
    """
    test = pd.read_parquet(folder.predictions("test"))
    task = headline_task(test)
    out = folder.path / "saliency"
    out.mkdir(exist_ok=True)
    errors = _errors(test, task, config.explain.errors)
    scored = _with_lesions(data, test, config.explain.scored, config.seed)
    wanted = list(dict.fromkeys([*errors["id"], *scored["id"]]))
    place = {name: i for i, name in enumerate(data.records["id"])}
    pictures = [np.array(data.prepared.array(place[name])) for name in wanted]
    maps = dict(zip(wanted, saliency_maps(network, _score(task), pictures, world), strict=True))

    rows = []
    for row in errors.to_dict("records"):
        name = str(row["id"])
        record = data.records.iloc[place[name]]
        stem = f"error_{len(rows):02d}"
        cv2.imwrite(str(out / f"{stem}.png"), cv2.cvtColor(pictures[wanted.index(name)], cv2.COLOR_RGB2BGR))
        cv2.imwrite(str(out / f"{stem}_map.png"), np.uint8(255 * maps[name]))
        mask = _mask(data, record, config.preprocess.size)
        if mask is not None:
            cv2.imwrite(str(out / f"{stem}_mask.png"), np.uint8(255 * mask))
        grade = "unknown" if np.isnan(row["grade"]) else int(row["grade"])
        rows.append(
            {
                "kind": row["kind"],
                "id": name,
                "image": f"{stem}.png",
                "map": f"{stem}_map.png",
                "mask": f"{stem}_mask.png" if mask is not None else None,
                "subtitle": f"grade {grade}, score {row[f'p_{task}']:.2f}",
            }
        )
    columns = ["kind", "id", "image", "map", "mask", "subtitle"]
    pd.DataFrame(rows, columns=columns).to_csv(out / "gallery.csv", index=False)
    if len(scored):
        _score_lesions(data, scored, maps, place, config.preprocess.size).to_csv(out / "scores.csv", index=False)


def _score(task: str) -> Any:
    """The score that is explained: the headline's log-odds, up to a monotone transform."""
    moderate, dme = HEADS.index("moderate_or_worse"), HEADS.index("dme")
    if task == "referable":
        return lambda outputs: torch.logsumexp(outputs[:, [moderate, dme]], dim=1)
    return lambda outputs: outputs[:, moderate]


def _errors(test: pd.DataFrame, task: str, count: int) -> pd.DataFrame:
    rows = known(test, task)
    score = f"p_{task}"
    missed = rows[(rows[task] == 1) & (rows[score] < 0.5)].nsmallest(count, score).assign(kind="missed")
    alarms = rows[(rows[task] == 0) & (rows[score] >= 0.5)].nlargest(count, score).assign(kind="false_alarm")
    return pd.concat([missed, alarms])


def _with_lesions(data: Data, test: pd.DataFrame, count: int, seed: int) -> pd.DataFrame:
    """A seeded choice of test images whose lesions are known."""
    if "truth_mask" not in data.records:
        return test.iloc[:0]
    masks = data.records.set_index("id")["truth_mask"].reindex(test["id"])
    rows = test[masks.notna().to_numpy()]
    order = sorted(rows.index, key=lambda i: seed_of(seed, "saliency", rows.at[i, "id"]))
    return rows.loc[order[:count]]


def _mask(data: Data, record: pd.Series, size: int) -> np.ndarray | None:
    """The lesion mask in the geometry of the prepared picture, bool (size, size)."""
    if not isinstance(record.get("truth_mask"), str):
        return None
    mask = cv2.imread(str(Path(data.source.root) / record["truth_mask"]), cv2.IMREAD_GRAYSCALE)
    circle = fundus.Circle(record["circle_x"], record["circle_y"], record["circle_radius"], record["circle_aspect"])
    return fundus.prepare_mask(mask, circle, size) > 127


def _score_lesions(
    data: Data, scored: pd.DataFrame, maps: dict[str, np.ndarray], place: dict[str, int], size: int
) -> pd.DataFrame:
    """Per image, the AUROC of the map's values for lesion pixels against the other pixels of the fundus."""
    axis = np.linspace(-1, 1, size)
    inside = axis[:, None] ** 2 + axis[None, :] ** 2 < 0.95**2
    rows = []
    for name in scored["id"]:
        record = data.records.iloc[place[name]]
        mask = _mask(data, record, size)
        assert mask is not None
        lesion = mask[inside]
        value = auroc(lesion, maps[name][inside]) if 0 < lesion.sum() < len(lesion) else np.nan
        rows.append({"id": name, "group": record["group"], "lesion_auroc": value, "lesion_pixels": int(lesion.sum())})
    return pd.DataFrame(rows)
