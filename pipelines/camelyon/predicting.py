"""`mode=predict`: heatmap, detections, overlay and GeoJSON of slides, at the model's microns per pixel.

The run folder gets, per slide, `heatmaps/<slide>.tif`, `detections/<slide>.csv`, `overlays/<slide>.png`,
`geojson/<slide>.geojson` (drag it onto the slide in QuPath), and one row in predictions.csv. A slide that cannot be
scored is a row with its reason.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from PIL import Image

from pipelines.camelyon.config import CamelyonConfig
from pipelines.camelyon.geojson import write_geojson
from pipelines.camelyon.lesions import outlines, write_detections
from pipelines.camelyon.metrics import TASK
from pipelines.camelyon.slides import SUFFIXES, Slide
from pipelines.camelyon.tissue import NONE, find_tissue, write_tissue
from pipelines.shared.environment import stage, start
from pipelines.shared.errors import BadFile
from pipelines.shared.evaluator import calls
from pipelines.shared.inputs import input_files
from pipelines.shared.log import log
from pipelines.shared.run import open_finished
from pipelines.shared.run_folder import RunFolder, read_json, write_atomically
from pipelines.shared.screen import track

if TYPE_CHECKING:
    from pipelines.shared.job import Job
    from pipelines.shared.study import Study


def predict_slides(study: Study[CamelyonConfig], job: Job) -> None:
    """Score every slide of a folder, or one."""
    from pipelines.camelyon.learner import PatchLearner
    from pipelines.camelyon.method import final_network
    from pipelines.camelyon.model import PatchNetwork
    from pipelines.shared.distributed import gather
    from pipelines.shared.method import load_network

    config: Any = job.config
    finished = open_finished(study, config.run)
    name = final_network(finished)
    inputs = input_files(Path(config.input).expanduser(), SUFFIXES)
    root, files = inputs.root, inputs.files
    run = start(study, job)
    world, folder = run.world, run.folder
    network = load_network(run, PatchLearner(run.config), finished.folder.network(name))
    assert isinstance(network, PatchNetwork)
    rows = []
    with stage(run, "predict"):
        for file in track(files[world.rank :: world.size], "Scoring slides"):
            try:
                rows.append({"file": file, "reason": None} | _score(config, root / file, file, network, world, folder))
            except BadFile as reason:
                rows.append({"file": file, "reason": str(reason)})
        rows = [row for part in gather(rows, world) for row in part]
    if not world.main:
        return
    table = _table(config, finished.folder, pd.DataFrame(rows).set_index("file").loc[files].reset_index())
    out = folder.path / "predictions.csv"
    write_atomically(out, lambda aside: table.to_csv(aside, index=False))
    log.info(inputs.closing(int(table["reason"].isna().sum())))
    print(out)


def _score(config: Any, path: Path, file: str, network: Any, world: Any, folder: RunFolder) -> dict[str, Any]:
    """All files of one slide, and its features."""
    from pipelines.camelyon.heatmap import overlay, score_slide, write_heatmap
    from pipelines.camelyon.scoring import detections_of
    from pipelines.camelyon.slide_features import slide_features
    from pipelines.shared.trainer import uses_bf16

    name = Path(file).with_suffix("").as_posix().replace("/", "__")
    slide = Slide(path, config.slide_mpp)
    try:
        tissue = find_tissue(slide, config.tissue)
        if not tissue.mask.any():
            raise BadFile(NONE)
        write_tissue(folder.path / "tissue", name, tissue, slide)
        heatmap = score_slide(
            slide, tissue, network, config.patches.mpp, config.heatmap, world.device, uses_bf16(config.trainer, world)
        )
        facts = slide.facts
        write_heatmap(folder.path / "heatmaps" / f"{name}.tif", heatmap)
        found = detections_of(heatmap, config.lesions, config.lesions.method)
        write_detections(folder.path / "detections" / f"{name}.csv", found)
        regions = outlines(np.nan_to_num(heatmap.values) >= config.lesions.threshold, (0.0, 0.0), heatmap.stride)
        write_geojson(folder.path / "geojson" / f"{name}.geojson", regions=regions, detections=found)
        mpp = max(facts.width, facts.height) * facts.mpp[0] / 1024
        shown = overlay(slide.read(0, 0, *slide.at(mpp), mpp), heatmap, (facts.width, facts.height))
        target = folder.path / "overlays" / f"{name}.png"
        write_atomically(target, lambda aside: Image.fromarray(shown).save(aside, format="PNG"))
        features = slide_features(heatmap.values, heatmap.tissue, heatmap.stride * heatmap.mpp)
        area = float(tissue.mask.sum()) * (config.tissue.mpp / 1000) ** 2
        return {"detections": len(found), "tissue_mm2": round(area, 4), "mpp": facts.mpp[0]} | features
    finally:
        slide.close()


def _table(config: Any, finished: RunFolder, rows: pd.DataFrame) -> pd.DataFrame:
    """predictions.csv: the forest's score, the heatmap's maximum, and the calls at the frozen thresholds."""
    from pipelines.camelyon.scoring import forest_scores
    from pipelines.camelyon.slide_features import FEATURES

    good = rows["reason"].isna()
    table = rows[["file", "reason"]].copy()
    if good.any():
        scored = rows[good]
        columns = pd.DataFrame(
            {f"p_{TASK}": forest_scores(config, finished, scored[FEATURES]), "p_maximum": scored["maximum"].to_numpy()},
            index=scored.index,
        )
        about = scored[["detections", "tissue_mm2", "mpp"]].astype({"detections": "Int64"})
        points = read_json(finished.operating_points)
        table = table.join(
            pd.concat([columns, calls(columns, points), about], axis=1).convert_dtypes(convert_floating=False)
        )
    return table
