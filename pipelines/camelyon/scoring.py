"""From heatmaps to detections, lesions, features and slide scores."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipelines.camelyon import lesions
from pipelines.camelyon.annotations import MPP
from pipelines.camelyon.config import CamelyonConfig, LesionSection
from pipelines.camelyon.forest import Forest, fit_forest, forest_file, read_forest, write_forest
from pipelines.camelyon.froc import froc_score, score_detections
from pipelines.camelyon.heatmap import Heatmap, heatmap_file, overlay, read_heatmap
from pipelines.camelyon.masks import LesionMap, lesion_map
from pipelines.camelyon.metrics import TASK, empty_lesions
from pipelines.camelyon.patches import annotation_of, rows_of
from pipelines.camelyon.slide_features import baseline, slide_features
from pipelines.camelyon.slides import opened
from pipelines.camelyon.tissue import read_tissue
from pipelines.shared.errors import RunError
from pipelines.shared.files import output_name
from pipelines.shared.log import log
from pipelines.shared.run_folder import RunFolder, write_json, write_png
from pipelines.shared.screen import track
from pipelines.shared.seeds import seed_of
from pipelines.shared.study import Data

CHANCE = 40  # repetitions of random detections
RANDOM_PER_SLIDE = 32
PICTURE = 640  # pixels of the longest side of an overlay


def detections_of(heatmap: Heatmap, settings: LesionSection, method: str) -> pd.DataFrame:
    """probability, x, y of a heatmap by one of the two methods."""
    origin = (0.0, 0.0)
    if method == "components":
        return lesions.component_detections(
            heatmap.values, origin, heatmap.stride, settings.threshold, settings.location, settings.score
        )
    return lesions.suppressed_detections(
        heatmap.values, origin, heatmap.stride, settings.radius, settings.level, settings.stop
    )


def methods(settings: LesionSection) -> tuple[str, str]:
    """The run's method, and the other one."""
    other = {"components": "suppression", "suppression": "components"}
    return settings.method, other[settings.method]


def score_training(
    config: CamelyonConfig, data: Data, folder: RunFolder, places: Mapping[str, str], before: str | None
) -> None:
    """Tables of a training run: features of all slides, detections and lesions of the test slides.

    Args:
        config: of the run.
        data: its slides.
        folder: the run.
        places: slide -> the network whose heatmap counts.
        before: the network without hard negatives, judged beside it; None: there is none.
    """
    heatmaps = {slide: heatmap_file(folder.path, network, slide) for slide, network in places.items()}
    write_features(data.records, heatmaps, folder)
    test = data.records[data.records["split"] == "test"]
    runs = {"": {s: heatmaps[s] for s in test["id"]}}
    if before is not None:
        runs["before"] = {s: heatmap_file(folder.path, before, s) for s in test["id"]}
    score_lesions(config, data, test, runs, folder)


def write_features(records: pd.DataFrame, heatmaps: Mapping[str, Path], folder: RunFolder) -> None:
    """slide_features.parquet: id, group, split, tumor, and the features of every slide."""
    rows = []
    for record in track(rows_of(records), "Features of slides"):
        heatmap = read_heatmap(heatmaps[record["id"]])
        features = slide_features(heatmap.values, heatmap.tissue, heatmap.stride * heatmap.mpp)
        rows.append({c: record[c] for c in ("id", "group", "split", TASK)} | features)
    folder.write_table(folder.path / "slide_features.parquet", pd.DataFrame(rows))


def slide_predictions(records: pd.DataFrame, folder: RunFolder, forest: Forest) -> pd.DataFrame:
    """id, group, tumor, p_tumor (the forest), p_maximum (the heatmap's), of the slides of this run.

    Args:
        records: its slides.
        folder: the run, with the features of these slides.
        forest: of this run, or of the finished one that is applied.
    """
    features = (
        folder.read_table(folder.path / "slide_features.parquet").set_index("id").loc[records["id"]].reset_index()
    )
    table = records[["id", "group", TASK]].reset_index(drop=True)
    return table.assign(p_tumor=forest.probabilities(features), p_maximum=baseline(features))


def train_forest(config: CamelyonConfig, folder: RunFolder) -> Forest:
    """The forest of a run's training slides, from slide_features.parquet; kept in forest.npz."""
    forest = _fitted(config, folder)
    write_forest(forest_file(folder), forest)
    return forest


def _fitted(config: CamelyonConfig, folder: RunFolder) -> Forest:
    features = folder.read_table(folder.path / "slide_features.parquet")
    training = features[features["split"] == "train"]
    seed = seed_of(config.seed, "forest") % 2**32
    return fit_forest(training, training[TASK].to_numpy(int), seed, config.slide_scores.trees)


def forest_of(config: CamelyonConfig, finished: RunFolder) -> Forest:
    """The forest of a finished run, which its thresholds were chosen for.

    Runs of earlier versions do not hold it: there it is fitted again, and must give the run's own predictions.

    Raises:
        RunError: the file is damaged, or what is fitted again is another forest.
    """
    if forest_file(finished).exists():
        return read_forest(forest_file(finished))
    forest = _fitted(config, finished)
    predictions = finished.read_table(finished.predictions("test"))
    again = slide_predictions(predictions, finished, forest)
    apart = float((again["p_tumor"] - predictions["p_tumor"]).abs().max())
    if not apart <= 1e-6:
        raise RunError(
            f"run={finished.path} does not hold its forest (forest.npz), and fitted again from its features it "
            f"gives other probabilities than the run's own (by up to {apart:.2g}).",
            "Install the version of scikit-learn that its environment.json names, or train again.",
        )
    log.warning(
        f"{finished.path.name} does not hold its forest, as runs of earlier versions do not: it was fitted again from "
        "the features of the training slides, and gives the run's own test predictions."
    )
    return forest


def score_lesions(
    config: CamelyonConfig, data: Data, slides: pd.DataFrame, runs: Mapping[str, Mapping[str, Path]], folder: RunFolder
) -> None:
    """detections.parquet (slide, method, network, probability, x, y, lesion, outcome), lesions.parquet, froc.json, the
    CSV files of the run's own method in detections/, and the pictures in overlays/.

    `method` is components, suppression or, on a phantom, oracle; `network` is empty, or `before` for the network
    without hard negatives. Lesions and outcomes are those of slides with a known label; without, `lesion` is 0.
    """
    names = slides["id"].tolist()
    maps = lesion_maps(config, slides, data.source.root)
    parts: list[pd.DataFrame] = []
    for network, files in runs.items():
        for method in methods(config.lesions):
            tables = [
                detections_of(read_heatmap(files[name]), config.lesions, method).assign(slide=name) for name in names
            ]
            parts.append(_scored(names, pd.concat(tables, ignore_index=True), maps, method, network))
            if not network and method == config.lesions.method:
                for name, table in zip(names, tables, strict=True):
                    lesions.write_detections(folder.path / "detections" / f"{output_name(name)}.csv", table)
    if "truth_lesions" in slides:
        parts.append(_scored(names, oracle_detections(slides), maps, "oracle", ""))
    folder.write_table(folder.path / "detections.parquet", pd.concat(parts, ignore_index=True))
    lesion_tables = [m.lesions.assign(slide=name) for name, m in maps.items() if len(m.lesions)] or [empty_lesions()]
    folder.write_table(folder.path / "lesions.parquet", pd.concat(lesion_tables, ignore_index=True))
    write_json(folder.path / "froc.json", {"chance": chance(config, data, slides, maps, folder), "repetitions": CHANCE})
    for record in track(rows_of(slides), "Drawing overlays"):
        _draw(config, data, record, read_heatmap(runs[""][record["id"]]), folder)


def _scored(
    names: list[str], table: pd.DataFrame, maps: dict[str, LesionMap], method: str, network: str
) -> pd.DataFrame:
    _, judged = score_detections(names, table, maps)
    return judged.assign(method=method, network=network)


def lesion_maps(config: CamelyonConfig, slides: pd.DataFrame, root: Path) -> dict[str, LesionMap]:
    """The lesions of every tumour slide. The challenge counts with 0.243 microns per pixel whatever the slide says;
    slides of one's own with what they say."""
    maps = {}
    for record in track(rows_of(slides), "Lesions of the annotations"):
        annotation = annotation_of(config, record, root)
        if annotation is not None and annotation.tumour:
            mpp = record["mpp"] if config.data.name == "table" else MPP
            maps[str(record["id"])] = lesion_map(annotation, int(record["width"]), int(record["height"]), mpp)
    return maps


def oracle_detections(slides: pd.DataFrame) -> pd.DataFrame:
    """One detection per true lesion of a phantom, whether annotated or not, the surer the larger it is."""
    rows: list[dict[str, Any]] = []
    for name, text in zip(slides["id"], slides["truth_lesions"], strict=True):
        for lesion in json.loads(text):
            p = float(np.clip(0.5 + lesion["radius_um"] / 1000, 0, 1))
            rows.append({"probability": p, "x": int(lesion["x"]), "y": int(lesion["y"]), "slide": name})
    return pd.DataFrame(rows, columns=["probability", "x", "y", "slide"])


def chance(
    config: CamelyonConfig, data: Data, slides: pd.DataFrame, maps: dict[str, LesionMap], folder: RunFolder
) -> float | None:
    """The mean FROC score of random places in tissue with random probabilities; None without lesions."""
    names = slides["id"].tolist()
    if not any((~m.lesions["itc"]).any() for m in maps.values()):
        return None
    rng = np.random.default_rng(seed_of(config.seed, "chance"))
    places = {}
    for record in rows_of(slides):
        slide = opened(data.source.root / record["path"], config.slide_mpp)
        tissue = read_tissue(folder.path / "tissue", record["id"], slide, config.tissue)
        places[record["id"]] = (np.argwhere(tissue.mask)[:, ::-1] + 0.5) * np.array(tissue.cell)
    values = []
    for _ in range(CHANCE):
        tables = []
        for name in names:
            centres = places[name][rng.integers(len(places[name]), size=RANDOM_PER_SLIDE)]
            p = rng.random(RANDOM_PER_SLIDE)
            tables.append(pd.DataFrame({"probability": p, "x": centres[:, 0], "y": centres[:, 1], "slide": name}))
        values.append(froc_score(score_detections(names, pd.concat(tables, ignore_index=True), maps)[0]))
    return float(np.mean(values))


def _draw(config: CamelyonConfig, data: Data, record: Mapping[str, Any], heatmap: Heatmap, folder: RunFolder) -> None:
    """overlays/<slide>.png: the slide, grey, under its heatmap."""
    slide = opened(data.source.root / record["path"], config.slide_mpp)
    properties = slide.properties
    mpp = max(properties.width, properties.height) * properties.mpp[0] / PICTURE
    picture = slide.read(0, 0, *slide.at(mpp), mpp)
    shown = overlay(picture, heatmap, (properties.width, properties.height))
    file = folder.path / "overlays" / f"{output_name(record['id'])}.png"
    write_png(file, shown)
