"""The stages from slides to scored patches and heatmaps; each leaves files, and a run that was cut off goes on behind
the last.

    tissue/masks/<slide>.png, <slide>.png     masks and their pictures
    patches/patches.parquet                   where the patches lie
    models/first, models/second               before and after hard negatives, on all training slides
    models/fold_<k>-first, fold_<k>-second    the same without the slides of fold k
    patches/<name>-hard.parquet               hard negatives that joined the second model's training
    heatmaps/<name>/<slide>.tif               of the network <name>
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from pipelines.camelyon.config import CamelyonConfig
from pipelines.camelyon.heatmap import Heatmap, heatmap_file, read_heatmap, score_slide, write_heatmap
from pipelines.camelyon.learner import PatchLearner
from pipelines.camelyon.metrics import TASK
from pipelines.camelyon.model import PatchNetwork
from pipelines.camelyon.patches import annotation_of, normal_tissue, patch_data, rows_of, sample_patches, with_slide
from pipelines.camelyon.slides import opened
from pipelines.camelyon.tissue import find_tissue, mask_file, read_tissue, write_tissue
from pipelines.shared import preemption
from pipelines.shared.data.splits import folds
from pipelines.shared.errors import BadFile, DataError, reason_of
from pipelines.shared.job import EXIT_RESUME_ME
from pipelines.shared.learning.dataset import PreparedDataset
from pipelines.shared.learning.distributed import World, agreement, barrier, main_first
from pipelines.shared.learning.hardware import uses_bf16
from pipelines.shared.learning.method import fit_network, load_network, network_outputs
from pipelines.shared.log import log
from pipelines.shared.run import Run
from pipelines.shared.run_folder import RunFolder, read_table
from pipelines.shared.screen import track
from pipelines.shared.seeds import seed_of
from pipelines.shared.study import Data


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
    nothing = torch.zeros((), device=world.device)
    *_, stop = agreement(nothing, preemption.requested(), world)()  # also: all are finished
    if stop:
        raise SystemExit(EXIT_RESUME_ME)


def make_masks(run: Run[CamelyonConfig], data: Data) -> None:
    """tissue/: the mask of every slide, and its picture."""
    paths = dict(zip(data.records["id"], data.records["path"], strict=True))
    place = run.folder.path / "tissue"

    def work(name: str) -> None:
        slide = opened(data.source.root / paths[name], run.config.slide_mpp)
        write_tissue(place, name, find_tissue(slide, run.config.tissue), slide)

    per_slide(list(paths), partial(mask_file, place), work, "Finding tissue", run.world)


def all_patches(run: Run[CamelyonConfig], data: Data) -> pd.DataFrame:
    """patches/patches.parquet: the patches of all slides."""
    file = run.folder.path / "patches" / "patches.parquet"
    with main_first(run.world):
        if not file.exists():
            patches = sample_patches(run.config, data.records, data.source.root, run.folder.path / "tissue")
            run.folder.write_table(file, patches)
            counts = (patches["split"] + " " + patches["kind"]).value_counts(sort=False)
            log.info("patches: " + ", ".join(f"{name} {n:,}" for name, n in counts.items()))
    return read_table(file)


def fit_models(run: Run[CamelyonConfig], data: Data, patches: pd.DataFrame, prefix: str) -> str:
    """A network on these patches, and a second one with the first one's hard negatives.

    Returns:
        The name of the last one, without the prefix for all slides, else with it.
    """
    _fit(run, data, patches, f"{prefix}first")
    if not run.config.hard_negatives.enabled:
        return f"{prefix}first"
    hard = hard_negatives(run, data, patches, f"{prefix}first")
    _fit(run, data, pd.concat([patches, hard], ignore_index=True), f"{prefix}second")
    return f"{prefix}second"


def _fit(run: Run[CamelyonConfig], data: Data, patches: pd.DataFrame, name: str) -> None:
    if (run.folder.network(name) / "model.json").exists():
        return
    for_fit = patch_data(run.config, data, patches[patches["split"] != "test"])
    fit_network(run, PatchLearner(run.config), for_fit, name, seed_of(run.config.seed, name))


def hard_negatives(run: Run[CamelyonConfig], data: Data, patches: pd.DataFrame, name: str) -> pd.DataFrame:
    """Patches of the training slides' normal tissue that a network takes for tumour: patches/<name>-hard.parquet."""
    file = run.folder.path / "patches" / f"{name}-hard.parquet"
    slides = patches.loc[patches["split"] == "train", "slide"].unique().tolist()
    if not file.exists():
        make_heatmaps(run, data, slides, name)
    with main_first(run.world):
        if not file.exists():
            run.folder.write_table(file, _false_alarms(run.config, data, run.folder, slides, name))
    table = read_table(file)
    log.info(f"{name}: {len(table):,} hard negatives from {table['slide'].nunique()} of {len(slides)} training slides")
    return table


def _false_alarms(config: CamelyonConfig, data: Data, folder: RunFolder, slides: list[str], name: str) -> pd.DataFrame:
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
    run: Run[CamelyonConfig], data: Data, slides: list[str], name: str, network_path: Path | None = None
) -> None:
    """heatmaps/<name>/: of these slides, by a network of this run, or of another (`network_path`)."""
    config, folder, world = run.config, run.folder, run.world
    paths = dict(zip(data.records["id"], data.records["path"], strict=True))
    loaded: list[PatchNetwork] = []

    def work(slide_id: str) -> None:
        if not loaded:
            network = load_network(run, PatchLearner(config), network_path or folder.network(name))
            assert isinstance(network, PatchNetwork)
            loaded.append(network)
        slide = opened(data.source.root / paths[slide_id], config.slide_mpp)
        tissue = read_tissue(folder.path / "tissue", slide_id, slide, config.tissue)
        bf16 = uses_bf16(config.trainer, world)
        heatmap = score_slide(slide, tissue, loaded[0], config.patches.mpp, config.heatmap, world.device, bf16)
        write_heatmap(heatmap_file(folder.path, name, slide_id), heatmap)

    per_slide(slides, partial(heatmap_file, folder.path, name), work, f"Heatmaps of {name}", world)


def score_patches(run: Run[CamelyonConfig], data: Data, patches: pd.DataFrame, names: list[str]) -> None:
    """patches/test.parquet: the test patches with every network's probability."""
    file = run.folder.path / "patches" / "test.parquet"
    if file.exists():
        return
    barrier(run.world)
    learner = PatchLearner(run.config)
    test = patch_data(run.config, data, patches[patches["split"] == "test"])
    dataset = PreparedDataset(test.prepared, test.records["id"].tolist(), learner.targets(test.records))
    table = test.records.copy()
    for name in names:
        network = load_network(run, learner, run.folder.network(name))
        outputs = network_outputs(run, network, dataset, f"Test patches, {name}")
        table[f"p_{name}"] = learner.probabilities(outputs)[:, 0]
    if run.world.main:
        run.folder.write_table(file, table)
    barrier(run.world)
