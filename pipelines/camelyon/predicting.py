"""`mode=predict`: heatmap, detections, overlay and GeoJSON of slides, at the model's microns per pixel.

The run folder gets, per slide, `heatmaps/<slide>.tif`, `detections/<slide>.csv`, `overlays/<slide>.png`,
`geojson/<slide>.geojson` (drag it onto the slide in QuPath), where <slide> is its whole path below `input`, and one row
in predictions.csv. Whatever goes wrong with a slide is the reason in its row, and the others go on. A run that was cut
off goes on behind the last slide that was scored (mode=resume).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pipelines.camelyon.config import CamelyonConfig
from pipelines.camelyon.data import OVERVIEW
from pipelines.camelyon.dicom_slides import SUFFIX, one_file_each
from pipelines.camelyon.geojson import write_geojson
from pipelines.camelyon.lesions import outlines, probabilities_of, write_detections
from pipelines.camelyon.measures import slide_measures
from pipelines.camelyon.metrics import TASK
from pipelines.camelyon.slides import SUFFIXES, Slide
from pipelines.camelyon.tissue import NONE, find_tissue, write_tissue
from pipelines.shared.cli.environment import stage, start
from pipelines.shared.cli.inputs import Inputs, input_files, score_in_parts
from pipelines.shared.data.cache import WARNINGS_BETWEEN
from pipelines.shared.data.ranges import warned
from pipelines.shared.errors import BadFile, UserError, counted, reason_of
from pipelines.shared.files import output_name, shown_name
from pipelines.shared.handover.scorer import Picture, Scorer
from pipelines.shared.judging.calls import calls
from pipelines.shared.judging.prediction_sets import with_set_columns
from pipelines.shared.log import log
from pipelines.shared.run import FinishedRun, Run, open_finished
from pipelines.shared.run_folder import write_csv, write_png
from pipelines.shared.screen import print_path

if TYPE_CHECKING:
    from pipelines.shared.job import Job
    from pipelines.shared.study import Study

Row = dict[str, Any]
TEXT, SCORES, FACTS = ["file", "reason", "warnings"], [f"p_{TASK}", "p_maximum"], ["tissue_mm2", "mpp"]


def predict_slides(study: Study[CamelyonConfig], job: Job) -> None:
    """Score every slide of a folder, or one."""
    from pipelines.camelyon.method import final_network
    from pipelines.shared.learning.distributed import gather

    config: Any = job.config
    finished = open_finished(study, config.run)
    final_network(finished)
    inputs, parts = slides_of(Path(config.input))
    run = start(study, job)
    world, folder = run.world, run.folder
    scorer = SlideScorer(run, finished)

    def score(files: list[str]) -> pd.DataFrame:
        """A slide for each process."""
        rows = [scorer.row(inputs.root, file) for file in files[world.rank :: world.size]]
        return table_of([row for part in gather(rows, world) for row in part], finished)

    with stage(run, "predict"):
        table = score_in_parts(folder, inputs.files, score, world, size=world.size)
    if not world.main:
        return
    out = folder.path / "predictions.csv"
    write_csv(out, table)
    more = f"; {counted(parts, 'file')} read with their slides" if parts else ""
    log.info(inputs.closing(int(table["reason"].isna().sum())) + more)
    print_path(out)


def slides_of(path: Path) -> tuple[Inputs, int]:
    """The slides of a file or folder, and how many files of DICOM slides are read with others."""
    return one_file_each(input_files(path, (*SUFFIXES, SUFFIX)))


class SlideScorer(Scorer[CamelyonConfig]):
    """A finished run, ready for slides; what is written of them goes into the folder of `run`."""

    together = False

    def __init__(self, run: Run[CamelyonConfig], finished: FinishedRun) -> None:
        from pipelines.camelyon.learner import PatchLearner
        from pipelines.camelyon.method import final_network
        from pipelines.camelyon.model import PatchNetwork
        from pipelines.camelyon.scoring import forest_of
        from pipelines.shared.learning.method import load_network

        super().__init__(run, finished)
        self.config, self.world, self.folder = run.config, run.world, run.folder.path
        self.forest = forest_of(run.config, finished.folder)
        network = load_network(run, PatchLearner(run.config), finished.folder.network(final_network(finished)))
        assert isinstance(network, PatchNetwork)
        self.network = network

    def inputs(self, path: Path) -> Inputs:
        """Slides."""
        return slides_of(path)[0]

    def rows(self, root: Path, files: list[str]) -> pd.DataFrame:
        """One row per slide."""
        return table_of([self.row(root, file) for file in files], self.finished)

    def pictures(self, root: Path, file: str) -> list[Picture]:
        """The slide with its heatmap."""
        shown = self.folder / "overlays" / f"{output_name(file)}.png"
        return [Picture("The slide, and where the network sees a metastasis", shown.read_bytes())]

    def row(self, root: Path, file: str) -> Row:
        """A slide's row, whatever happens to it; what concerns all slides (no space is left) is raised."""
        row: Row = {"file": shown_name(file), "reason": None, "warnings": None}
        try:
            slide = Slide(root / file, self.config.slide_mpp)
            try:
                row["warnings"] = WARNINGS_BETWEEN.join(slide.warned(self.config.patches.mpp)) or None
                ranges = self.finished.training_ranges
                measured = self.measures(slide) if ranges else {}  # before anything is written: it may not be readable
                scored = self.score(slide, file)
                return row | {"warnings": warned(row["warnings"], measured, ranges)} | scored
            finally:
                slide.close()
        except UserError:
            raise
        except Exception as failure:
            return row | {"reason": reason_of(failure)}

    def measures(self, slide: Slide) -> dict[str, float]:
        """What of a slide is compared with the training set."""
        return slide_measures(slide.overview(OVERVIEW), slide.properties.mpp[0], self.config.tissue.min_saturation)

    def score(self, slide: Slide, file: str) -> Row:
        """Write all files of one slide; its scores, and what else is told of it."""
        from pipelines.camelyon.heatmap import overlay, score_slide, write_heatmap
        from pipelines.camelyon.scoring import detections_of
        from pipelines.camelyon.slide_features import baseline, slide_features
        from pipelines.shared.learning.hardware import uses_bf16

        config, folder, properties, name = self.config, self.folder, slide.properties, output_name(file)
        tissue = find_tissue(slide, config.tissue)
        if not tissue.mask.any():
            raise BadFile(NONE)
        device, bf16 = self.world.device, uses_bf16(config.trainer, self.world)
        heatmap = score_slide(slide, tissue, self.network, config.patches.mpp, config.heatmap, device, bf16)
        found = detections_of(heatmap, config.lesions, config.lesions.method)
        values = np.nan_to_num(heatmap.values)
        mask = values >= config.lesions.threshold
        regions, measured = outlines(mask, (0.0, 0.0), heatmap.stride), probabilities_of(values, mask)
        mpp = max(properties.width, properties.height) * properties.mpp[0] / 1024
        shown = overlay(slide.read(0, 0, *slide.at(mpp), mpp), heatmap, (properties.width, properties.height))
        features = pd.DataFrame([slide_features(heatmap.values, heatmap.tissue, heatmap.stride * heatmap.mpp)])
        # Written once nothing more is read: a slide that cannot be read to its end leaves no files beside its reason.
        write_tissue(folder / "tissue", file, tissue, slide)
        write_heatmap(folder / "heatmaps" / f"{name}.tif", heatmap)
        write_detections(folder / "detections" / f"{name}.csv", found)
        write_geojson(folder / "geojson" / f"{name}.geojson", (), regions, measured, found)
        write_png(folder / "overlays" / f"{name}.png", shown)
        return {
            f"p_{TASK}": self.forest.probabilities(features)[0],
            "p_maximum": baseline(features)[0],
            "detections": len(found),
            "tissue_mm2": round(float(tissue.mask.sum()) * (config.tissue.mpp / 1000) ** 2, 4),
            "mpp": properties.mpp[0],
        }


def table_of(rows: Sequence[Row], finished: FinishedRun) -> pd.DataFrame:
    """Rows of predictions.csv: what a slide without scores lacks is empty, also its calls at the frozen thresholds and
    its prediction set.
    """
    table = pd.DataFrame(rows, columns=[*TEXT, *SCORES, "detections", *FACTS])
    table = table.astype(dict.fromkeys(SCORES + FACTS, float) | {"detections": "Int64"})
    called = calls(table, finished.operating_points)
    sets = with_set_columns(table[SCORES], finished.prediction_sets).drop(columns=SCORES)
    return pd.concat([table[TEXT + SCORES], called, sets, table[["detections", *FACTS]]], axis=1)
