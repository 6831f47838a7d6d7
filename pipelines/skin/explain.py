"""Saliency of the most confident errors, whether the maps point at lesions, and the map of the last hidden layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import nn

from pipelines.shared.backbones import ImageNetwork
from pipelines.shared.distributed import World
from pipelines.shared.embeddings import write_embeddings
from pipelines.shared.explain import saliency_maps
from pipelines.shared.run_folder import RunFolder
from pipelines.shared.seeds import seed_of
from pipelines.shared.stats.auc import auroc
from pipelines.shared.study import Data
from pipelines.skin.config import SkinConfig
from pipelines.skin.data import centre_square
from pipelines.skin.metrics import answered
from pipelines.skin.model import DEPTHS
from pipelines.skin.training_classes import find_classes


def explain(config: SkinConfig, data: Data, network: nn.Module, folder: RunFolder, world: World) -> None:
    """Write predictions/embeddings.npy and saliency/: pictures, maps and gallery.csv of the most confident errors about
    malignancy, scores.csv where lesions are known.
    """
    assert isinstance(network, ImageNetwork)
    write_embeddings(network, data, folder, world, config.trainer.batch_size)
    test = pd.read_parquet(folder.predictions("test"))
    if not answered(test, "malignant") or test["malignant"].nunique() < 2:
        return
    out = folder.path / "saliency"
    out.mkdir(exist_ok=True)
    errors = _errors(test, config.explain.errors)
    scored = _with_lesions(data, test, config.explain.scored, config.seed)
    wanted = list(dict.fromkeys([*errors["id"], *scored["id"]]))
    place = {name: i for i, name in enumerate(data.records["id"])}
    pictures = [np.array(data.prepared.array(place[name])) for name in wanted]
    regions = [picture.max(axis=2) > 12 for picture in pictures]  # not the dark frame of a dermatoscope
    maps = dict(zip(wanted, saliency_maps(network, _score(config, data), pictures, regions, world), strict=True))

    rows: list[dict[str, Any]] = []
    for row in errors.to_dict("records"):
        name = str(row["id"])
        stem = f"error_{len(rows):02d}"
        Image.fromarray(pictures[wanted.index(name)]).save(out / f"{stem}.png")
        Image.fromarray((255 * maps[name]).astype(np.uint8)).save(out / f"{stem}_map.png")
        mask = _mask(data, data.records.iloc[place[name]], config.preprocess.size)
        if mask is not None:
            Image.fromarray((255 * mask).astype(np.uint8)).save(out / f"{stem}_mask.png")
        rows.append(
            {
                "kind": row["kind"],
                "id": name,
                "image": f"{stem}.png",
                "map": f"{stem}_map.png",
                "mask": f"{stem}_mask.png" if mask is not None else None,
                "subtitle": f"{row['label']}, P(malignant) {row['p_malignant']:.2f}".replace("_", " "),
            }
        )
    columns = ["kind", "id", "image", "map", "mask", "subtitle"]
    pd.DataFrame(rows, columns=columns).to_csv(out / "gallery.csv", index=False)
    scores = []
    for name in scored["id"]:
        record = data.records.iloc[place[name]]
        mask = _mask(data, record, config.preprocess.size)
        assert mask is not None
        value = auroc(mask.ravel(), maps[name].ravel()) if 0 < mask.mean() < 1 else np.nan
        scores.append({"id": name, "group": record["group"], "lesion_auroc": value})
    if scores:
        pd.DataFrame(scores).to_csv(out / "scores.csv", index=False)


def _score(config: SkinConfig, data: Data) -> Callable[[torch.Tensor], torch.Tensor]:
    """The score that is explained: the log-odds of a malignant disease (of an ensemble its first network's)."""
    lineages = data.records["lineage"][data.records["split"] == "train"]
    classes = find_classes(lineages, config.data.max_class_size, DEPTHS.get(config.partition.level))
    malignant = torch.tensor([name.split("/")[0] == "malignant" for name in classes])

    def log_odds(outputs: torch.Tensor) -> torch.Tensor:
        mine = malignant.to(outputs.device)
        return torch.logsumexp(outputs[:, mine], dim=1) - torch.logsumexp(outputs[:, ~mine], dim=1)

    return log_odds


def _errors(test: pd.DataFrame, count: int) -> pd.DataFrame:
    wrong = (test["p_malignant"] >= 0.5) != (test["malignant"] == 1)
    missed = test[wrong & (test["malignant"] == 1)].nsmallest(count, "p_malignant").assign(kind="missed")
    alarms = test[wrong & (test["malignant"] == 0)].nlargest(count, "p_malignant").assign(kind="false_alarm")
    return pd.concat([missed, alarms])


def _with_lesions(data: Data, test: pd.DataFrame, count: int, seed: int) -> pd.DataFrame:
    """A seeded choice of test pictures whose lesion masks are known."""
    if "truth_mask" not in data.records:
        return test.iloc[:0]
    order = sorted(test.index, key=lambda i: seed_of(seed, "saliency", test.at[i, "id"]))
    return test.loc[order[:count]]


def _mask(data: Data, record: pd.Series, size: int) -> np.ndarray | None:
    """The lesion's mask in the geometry of the prepared picture, bool (size, size)."""
    if not isinstance(record.get("truth_mask"), str):
        return None
    with Image.open(data.source.root / record["truth_mask"]) as picture:
        return centre_square(np.asarray(picture.convert("L")), size) > 127
