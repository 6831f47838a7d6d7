"""From slides to slide scores, stage by stage; each leaves files, and a run that was cut off goes on behind the last.

    tissue/masks/<slide>.png, <slide>.png     masks and their pictures
    patches/patches.parquet                   where the patches lie
    models/first, models/second               before and after hard negatives, on all training slides
    models/fold_<k>-first, fold_<k>-second    the same without the slides of fold k
    patches/<name>-hard.parquet               hard negatives that joined the second model's training
    heatmaps/<name>/<slide>.tif               of the network <name>
    detections.parquet, lesions.parquet, slide_features.parquet, forest.npz, predictions/

Training slides' features come from heatmaps of the fold's model that has not seen them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipelines.camelyon import scoring
from pipelines.camelyon.config import CamelyonConfig
from pipelines.camelyon.heatmap import Heatmap, heatmap_file, read_heatmap, score_slide, write_heatmap
from pipelines.camelyon.metrics import TASK
from pipelines.camelyon.model import PatchNetwork
from pipelines.camelyon.patches import annotation_of, normal_tissue, patch_data, rows_of, sample_patches, with_slide
from pipelines.camelyon.slides import opened
from pipelines.camelyon.tissue import find_tissue, mask_file, read_tissue, write_tissue
from pipelines.shared import fitting, preemption
from pipelines.shared.dataset import PreparedDataset
from pipelines.shared.distributed import World, agree, barrier, main_first
from pipelines.shared.errors import BadFile, DataError, StatisticsError, reason_of
from pipelines.shared.job import EXIT_RESUME_ME
from pipelines.shared.log import log
from pipelines.shared.model_files import update_facts
from pipelines.shared.run_folder import RunFolder, plain, read_table, write_json
from pipelines.shared.screen import track
from pipelines.shared.seeds import seed_of
from pipelines.shared.splits import folds
from pipelines.shared.study import Data, Study


def fit_and_predict(study: Study, config: CamelyonConfig, data: Data, folder: RunFolder, world: World) -> None:
    """All stages. `pcam` has patches only: there one network is fitted and judged."""
    if config.data.name == "pcam":
        fitting.fit_and_predict(study, config, data, folder, world)
        return
    make_masks(config, data, folder, world)
    patches = all_patches(config, data, folder, world)
    final = fit_models(study, config, data, patches, folder, world, "")
    fold = fold_of(config, data.records)
    for k in range(config.slide_scores.folds):
        others = patches[~patches["slide"].isin(fold.index[fold == k])]
        name = fit_models(study, config, data, others, folder, world, f"fold_{k}-")
        make_heatmaps(study, config, data, fold.index[fold == k].tolist(), name, folder, world)
    scored = data.records.loc[data.records["split"] != "train", "id"].tolist()
    make_heatmaps(study, config, data, scored, final, folder, world)
    test = data.records.loc[data.records["split"] == "test", "id"].tolist()
    if final != "first":
        make_heatmaps(study, config, data, test, "first", folder, world)
    score_patches(study, config, data, patches, folder, world, [final] if final == "first" else ["first", final])
    if world.main:
        places = {name: f"fold_{k}-{final}" for name, k in fold.items()} | dict.fromkeys(scored, final)
        scoring.score_training(config, data, folder, places, before=None if final == "first" else "first")
        predictions = scoring.slide_predictions(data.records, folder, scoring.train_forest(config, folder))
        for split in ("val", "test"):
            mine = predictions["id"].isin(data.records.loc[data.records["split"] == split, "id"])
            folder.write_table(folder.predictions(split), predictions[mine].reset_index(drop=True))
        points = choose_points(study, config, folder.read_table(folder.predictions("val")))
        write_json(folder.operating_points, plain(points))
        for path in folder.networks():
            update_facts(path, {"operating_points": points})
    barrier(world)


def choose_points(study: Study, config: CamelyonConfig, validated: pd.DataFrame) -> list[dict[str, Any]]:
    """Operating points of the slide score, chosen on val."""
    try:
        points = study.choose_points(validated, config)
    except StatisticsError as reason:
        raise DataError(
            f"No operating point can be chosen on val: {reason}.", "Give val slides of both kinds."
        ) from None
    return [point | {"chosen_on": "val"} for point in points]


def fold_of(config: CamelyonConfig, records: pd.DataFrame) -> pd.Series:
    """The fold of every training slide (index: id)."""
    train = records[records["split"] == "train"]
    found = folds(train, config.slide_scores.folds, TASK, seed_of(config.seed, "cross-fitting"))
    return pd.Series(found.to_numpy(), index=train["id"])


def per_slide(
    names: Sequence[str], done: Callable[[str], Path], work: Callable[[str], None], what: str, world: World
) -> None:
    """Do something for every slide whose file is not there; the slides are divided among the processes."""
    todo = [name for name in names if not done(name).exists()]
    barrier(world)  # nobody begins before all have looked
    for name in track(todo[world.rank :: world.size], what, len(todo[world.rank :: world.size])):
        try:
            work(name)
        except (BadFile, MemoryError) as failure:
            raise DataError(
                f"{name}: {reason_of(failure)}.", "Replace the slide, then go on with mode=resume."
            ) from None
        if preemption.requested() and world.size == 1:
            raise SystemExit(EXIT_RESUME_ME)
    _, stop = agree(0.0, preemption.requested(), world)  # also: all are finished
    if stop:
        raise SystemExit(EXIT_RESUME_ME)


def make_masks(config: CamelyonConfig, data: Data, folder: RunFolder, world: World) -> None:
    """tissue/: the mask of every slide, and its picture."""
    paths = dict(zip(data.records["id"], data.records["path"], strict=True))
    place = folder.path / "tissue"

    def work(name: str) -> None:
        slide = opened(data.source.root / paths[name], config.slide_mpp)
        write_tissue(place, name, find_tissue(slide, config.tissue), slide)

    per_slide(list(paths), partial(mask_file, place), work, "Finding tissue", world)


def all_patches(config: CamelyonConfig, data: Data, folder: RunFolder, world: World) -> pd.DataFrame:
    """patches/patches.parquet: the patches of all slides."""
    file = folder.path / "patches" / "patches.parquet"
    with main_first(world):
        if not file.exists():
            patches = sample_patches(config, data.records, data.source.root, folder.path / "tissue")
            folder.write_table(file, patches)
            counts = (patches["split"] + " " + patches["kind"]).value_counts(sort=False)
            log.info("patches: " + ", ".join(f"{name} {n:,}" for name, n in counts.items()))
    return read_table(file)


def fit_models(
    study: Study, config: CamelyonConfig, data: Data, patches: pd.DataFrame, folder: RunFolder, world: World,
    prefix: str,
) -> str:  # fmt: skip
    """A network on these patches, and a second one with the first one's hard negatives.

    Returns:
        The name of the last one, without the prefix for all slides, else with it.
    """
    _fit(study, config, data, patches, folder, world, f"{prefix}first")
    if not config.hard_negatives.enabled:
        return f"{prefix}first"
    hard = hard_negatives(study, config, data, patches, folder, world, f"{prefix}first")
    _fit(study, config, data, pd.concat([patches, hard], ignore_index=True), folder, world, f"{prefix}second")
    return f"{prefix}second"


def _fit(
    study: Study, config: CamelyonConfig, data: Data, patches: pd.DataFrame, folder: RunFolder, world: World, name: str
) -> None:
    if (folder.network(name) / "model.json").exists():
        return
    mine = patch_data(config, data, patches[patches["split"] != "test"])
    targets = study.targets(mine.records)
    fitting.fit_network(study, config, mine, targets, folder, world, name, seed_of(config.seed, name))


def hard_negatives(
    study: Study, config: CamelyonConfig, data: Data, patches: pd.DataFrame, folder: RunFolder, world: World, name: str
) -> pd.DataFrame:
    """Patches of the training slides' normal tissue that a network takes for tumour: patches/<name>-hard.parquet."""
    file = folder.path / "patches" / f"{name}-hard.parquet"
    slides = patches.loc[patches["split"] == "train", "slide"].unique().tolist()
    if not file.exists():
        make_heatmaps(study, config, data, slides, name, folder, world)
    with main_first(world):
        if not file.exists():
            table = _mine(config, data, folder, slides, name)
            folder.write_table(file, table)
    table = read_table(file)
    log.info(f"{name}: {len(table):,} hard negatives from {table['slide'].nunique()} of {len(slides)} training slides")
    return table


def _mine(config: CamelyonConfig, data: Data, folder: RunFolder, slides: list[str], name: str) -> pd.DataFrame:
    settings = config.hard_negatives
    records = {record["id"]: record for record in rows_of(data.records)}
    reach = config.patches.crop * config.patches.mpp / 2 * 2**0.5
    parts, counts = [], []
    for slide_id in slides:
        record = records[slide_id]
        if record["partly"]:
            continue
        slide = opened(data.source.root / record["path"], config.slide_mpp)
        tissue = read_tissue(folder.path / "tissue", slide_id, slide, config.tissue)
        normal = normal_tissue(tissue, slide, annotation_of(config, record, data.source.root), reach)
        heatmap = heatmap_of(folder, name, slide_id)
        rows, columns = np.nonzero(np.nan_to_num(heatmap.values) > settings.threshold)
        x, y = (columns + 0.5) * heatmap.stride, (rows + 0.5) * heatmap.stride
        wrong = np.flatnonzero(normal.at(x, y))
        rng = np.random.default_rng(seed_of(config.seed, "hard", name, slide_id))
        chosen = rng.choice(wrong, min(len(wrong), settings.per_slide), replace=False)
        found = pd.DataFrame({"x": x[chosen], "y": y[chosen], "tumor": 0.0, "kind": "hard"})
        parts.append(with_slide(found, record))
        counts.append({"network": name, "slide": slide_id, "scored": int(heatmap.tissue.sum()),
                       "above_threshold": len(wrong), "taken": len(chosen)})  # fmt: skip
    folder.write_table(folder.path / "patches" / f"{name}-counts.parquet", pd.DataFrame(counts))
    return pd.concat(parts, ignore_index=True)


def heatmap_of(folder: RunFolder, network: str, slide: str) -> Heatmap:
    """A heatmap of the run."""
    return read_heatmap(heatmap_file(folder.path, network, slide))


def make_heatmaps(
    study: Study, config: CamelyonConfig, data: Data, slides: list[str], name: str, folder: RunFolder, world: World,
    network_path: Path | None = None,
) -> None:  # fmt: skip
    """heatmaps/<name>/: of these slides, by a network of this run, or of another (`network_path`)."""
    paths = dict(zip(data.records["id"], data.records["path"], strict=True))
    loaded: list[PatchNetwork] = []

    def work(slide_id: str) -> None:
        if not loaded:
            network = fitting.load_network(study, network_path or folder.network(name))
            assert isinstance(network, PatchNetwork)
            loaded.append(network.to(world.device))
        slide = opened(data.source.root / paths[slide_id], config.slide_mpp)
        tissue = read_tissue(folder.path / "tissue", slide_id, slide, config.tissue)
        bf16 = uses_bf16(config, world)
        heatmap = score_slide(slide, tissue, loaded[0], config.patches.mpp, config.heatmap, world.device, bf16)
        write_heatmap(heatmap_file(folder.path, name, slide_id), heatmap)

    per_slide(slides, partial(heatmap_file, folder.path, name), work, f"Heatmaps of {name}", world)


def uses_bf16(config: CamelyonConfig, world: World) -> bool:
    """The precision of the configuration on this device."""
    return config.trainer.precision == "bf16" or (config.trainer.precision == "auto" and world.device.type == "cuda")


def score_patches(
    study: Study, config: CamelyonConfig, data: Data, patches: pd.DataFrame, folder: RunFolder, world: World,
    names: list[str],
) -> None:  # fmt: skip
    """patches/test.parquet: the test patches with every network's probability."""
    file = folder.path / "patches" / "test.parquet"
    if file.exists():
        return
    barrier(world)
    mine = patch_data(config, data, patches[patches["split"] == "test"])
    dataset = PreparedDataset(mine.prepared, mine.records["id"].tolist(), study.targets(mine.records))
    table = mine.records.copy()
    for name in names:
        network = fitting.load_network(study, folder.network(name)).to(world.device)
        outputs = fitting.network_outputs(network, dataset, config, world, f"Test patches, {name}")
        table[f"p_{name}"] = study.probabilities(outputs)[:, 0]
    if world.main:
        folder.write_table(file, table)
    barrier(world)
