"""Saliency maps of image networks, with captum; the gallery of a run's most confident errors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
from captum.attr import IntegratedGradients
from torch import nn

from pipelines.shared.learning.distributed import World
from pipelines.shared.run import Run
from pipelines.shared.run_folder import write_csv, write_png
from pipelines.shared.screen import track
from pipelines.shared.seeds import seed_of
from pipelines.shared.stats.auc import auroc
from pipelines.shared.study import Data

STEPS = 8


def saliency_maps(
    network: nn.Module,
    score: Callable[[torch.Tensor], torch.Tensor],
    pictures: Sequence[np.ndarray],
    regions: Sequence[np.ndarray],
    world: World,
    description: str = "Saliency",
) -> list[np.ndarray]:
    """Integrated gradients (Sundararajan et al., ICML 2017, eq. 1) of one score, picture by picture.

    The path starts at the picture's own heavily blurred copy, so that the map shows which fine structures speak for or
    against the score, not that tissue is brighter than its background. Outside the region both are the same, so
    nothing is attributed there.

    Args:
        network: maps (1, height, width, 3) to outputs.
        score: outputs to one number per picture, (1,).
        pictures: uint8 (height, width, 3) each.
        regions: bool (height, width) each: where there is something to see.
        world: where the network is.
        description: of the progress bar.

    Returns:
        float32 (height, width) each: the attribution's absolute value summed over colours and slightly smoothed,
        scaled so that its 99th percentile is 1, and cut there.
    """
    network.eval()
    gradients = IntegratedGradients(lambda batch: score(network(batch)))
    maps = []
    for picture, region in track(list(zip(pictures, regions, strict=True)), description):
        height = picture.shape[0]
        weight = region.astype(np.float32)[..., None]
        values = picture.astype(np.float32)
        # Averages over the region alone: a background that leaks in would make its rim the strongest structure.
        total = cv2.GaussianBlur(values * weight, (0, 0), height / 10).reshape(
            values.shape
        )  # it drops a single channel
        share = cv2.GaussianBlur(weight, (0, 0), height / 10)[..., None]
        blurred = np.where(region[..., None], total / np.maximum(share, 1e-6), values)
        inputs = torch.from_numpy(values)[None].to(world.device)
        baseline = torch.from_numpy(blurred)[None].to(world.device)
        found = gradients.attribute(inputs, baseline, n_steps=STEPS, internal_batch_size=STEPS)
        strength = found[0].sum(dim=-1).abs().cpu().numpy().astype(np.float32)
        strength = cv2.GaussianBlur(strength, (0, 0), height / 64)
        top = np.percentile(strength, 99)
        maps.append(np.clip(strength / top, 0, 1) if top > 0 else np.zeros_like(strength))
    return maps


def confident_errors(test: pd.DataFrame, task: str, count: int) -> pd.DataFrame:
    """The predictions furthest on the wrong side of a score of one half, at most `count` of each `kind`.

    Args:
        test: prediction table with `<task>` (0, 1, NaN where unknown) and `p_<task>`.
        task: the binary task.
        count: per kind: missed (positive, score below one half) and false_alarm.
    """
    score = f"p_{task}"
    missed = test[(test[task] == 1) & (test[score] < 0.5)].nsmallest(count, score).assign(kind="missed")
    alarms = test[(test[task] == 0) & (test[score] >= 0.5)].nlargest(count, score).assign(kind="false_alarm")
    return pd.concat([missed, alarms])


def with_masks(data: Data, test: pd.DataFrame, count: int, seed: int) -> pd.DataFrame:
    """A seeded choice of test pictures whose lesion masks are known (column `truth_mask` of the record table)."""
    if "truth_mask" not in data.records:
        return test.iloc[:0]
    rows = test[data.records.set_index("id")["truth_mask"].reindex(test["id"]).notna().to_numpy()]
    order = sorted(rows.index, key=lambda i: seed_of(seed, "saliency", rows.at[i, "id"]))
    return rows.loc[order[:count]]


def write_gallery(
    network: nn.Module,
    score: Callable[[torch.Tensor], torch.Tensor],
    data: Data,
    errors: pd.DataFrame,
    scored: pd.DataFrame,
    region: Callable[[np.ndarray], np.ndarray],
    mask: Callable[[pd.Series], np.ndarray | None],
    run: Run[Any],
) -> None:
    """Write saliency/: pictures, maps and gallery.csv of the errors, scores.csv of the pictures with known lesions.

    A score is the AUROC of the map's values for lesion pixels against the other pixels of the region.

    Args:
        network: maps (1, height, width, 3) to outputs.
        score: outputs to the number that is explained, (1,).
        data: with prepared pictures, uint8 (height, width, 3).
        errors: id, kind and subtitle of each picture shown.
        scored: id and group of each picture whose map is scored.
        region: a picture -> bool (height, width): where there is something to see.
        mask: a record -> its lesions in the geometry of the prepared picture, bool; None where unknown.
        run: whose folder is written; its device is the network's.
    """
    out = run.folder.path / "saliency"
    place = {name: i for i, name in enumerate(data.records["id"])}
    wanted = list(dict.fromkeys([*errors["id"], *scored["id"]]))
    pictures = {name: np.array(data.prepared.array(place[name])) for name in wanted}
    regions = {name: region(picture) for name, picture in pictures.items()}
    found = saliency_maps(network, score, list(pictures.values()), list(regions.values()), run.world)
    maps = dict(zip(wanted, found, strict=True))
    rows = []
    for number, error in enumerate(errors.to_dict("records")):
        name, stem = str(error["id"]), f"error_{number:02d}"
        lesions = mask(data.records.iloc[place[name]])
        layers = {"": pictures[name], "_map": 255 * maps[name], "_mask": None if lesions is None else 255 * lesions}
        for layer, values in layers.items():
            if values is not None:
                write_png(out / f"{stem}{layer}.png", values.astype(np.uint8))
        files = {"image": f"{stem}.png", "map": f"{stem}_map.png", "mask": f"{stem}_mask.png"}
        if lesions is None:
            files["mask"] = None  # type: ignore[assignment]
        rows.append({"kind": error["kind"], "id": name, **files, "subtitle": error["subtitle"]})
    columns = ["kind", "id", "image", "map", "mask", "subtitle"]
    write_csv(out / "gallery.csv", pd.DataFrame(rows, columns=columns))
    scores = []
    for name, group in zip(scored["id"], scored["group"], strict=True):
        lesions = mask(data.records.iloc[place[name]])
        assert lesions is not None
        lesion, values = lesions[regions[name]], maps[name][regions[name]]
        value = auroc(lesion, values) if 0 < lesion.sum() < len(lesion) else np.nan
        scores.append({"id": name, "group": group, "lesion_auroc": value, "lesion_pixels": int(lesion.sum())})
    if scores:
        write_csv(out / "scores.csv", pd.DataFrame(scores))
