"""Saliency of the most confident errors, and whether the maps point at the phantom's lesions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from scipy.ndimage import binary_erosion
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
    regions = [_fundus(picture) for picture in pictures]
    maps = dict(zip(wanted, saliency_maps(network, _score(task), pictures, regions, world), strict=True))

    rows: list[dict[str, Any]] = []
    for row in errors.to_dict("records"):
        name = str(row["id"])
        record = data.records.iloc[place[name]]
        stem = f"error_{len(rows):02d}"
        Image.fromarray(pictures[wanted.index(name)]).save(out / f"{stem}.png")
        Image.fromarray((255 * maps[name]).astype(np.uint8)).save(out / f"{stem}_map.png")
        mask = _mask(data, record, config.preprocess.size)
        if mask is not None:
            Image.fromarray((255 * mask).astype(np.uint8)).save(out / f"{stem}_mask.png")
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
        visible = dict(zip(wanted, regions, strict=True))
        _score_lesions(data, scored, maps, visible, place, config.preprocess.size).to_csv(
            out / "scores.csv", index=False
        )


def _fundus(picture: np.ndarray) -> np.ndarray:
    """Where a prepared picture shows the fundus: inside its circle, and not cut off by the camera's frame."""
    axis = np.linspace(-1, 1, picture.shape[0])
    inside = axis[:, None] ** 2 + axis[None, :] ** 2 < 0.95**2
    return binary_erosion(inside & (picture.max(axis=2) > 12), np.ones((3, 3)))


def _score(task: str) -> Any:
    """The score that is explained: the headline's log-odds (of an ensemble its first network's)."""
    moderate, dme = HEADS.index("moderate_or_worse"), HEADS.index("dme")
    if task == "referable":

        def log_odds(outputs: torch.Tensor) -> torch.Tensor:
            a, b = outputs[:, moderate], outputs[:, dme]
            return torch.logsumexp(torch.stack([a, b, a + b]), dim=0)  # of 1 - (1 - p_a)(1 - p_b)

        return log_odds
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
    mask = np.asarray(Image.open(data.source.root / record["truth_mask"]).convert("L"))
    circle = fundus.Circle(record["circle_x"], record["circle_y"], record["circle_radius"], record["circle_aspect"])
    return fundus.prepare_mask(mask, circle, size) > 127


def _score_lesions(
    data: Data,
    scored: pd.DataFrame,
    maps: dict[str, np.ndarray],
    visible: dict[str, np.ndarray],
    place: dict[str, int],
    size: int,
) -> pd.DataFrame:
    """Per image, the AUROC of the map's values for lesion pixels against the other pixels of the fundus."""
    rows = []
    for name in scored["id"]:
        record = data.records.iloc[place[name]]
        mask = _mask(data, record, size)
        assert mask is not None
        lesion = mask[visible[name]]
        value = auroc(lesion, maps[name][visible[name]]) if 0 < lesion.sum() < len(lesion) else np.nan
        rows.append({"id": name, "group": record["group"], "lesion_auroc": value, "lesion_pixels": int(lesion.sum())})
    return pd.DataFrame(rows)
