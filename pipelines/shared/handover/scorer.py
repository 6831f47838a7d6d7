"""A finished run, ready for files that nobody has labelled: what `mode=predict` and `mode=serve` ask alike. No torch
before it is asked.
"""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Generic

import numpy as np
import pandas as pd
from PIL import Image

from pipelines.shared.cli.inputs import Inputs, input_files
from pipelines.shared.data.assemble import prepare_all
from pipelines.shared.data.cache import Prepared, prepare_in_memory
from pipelines.shared.data.ranges import warned
from pipelines.shared.data.records import Source
from pipelines.shared.errors import BadFile
from pipelines.shared.files import shown_name
from pipelines.shared.judging.calls import calls
from pipelines.shared.judging.prediction_sets import with_set_columns
from pipelines.shared.run import FinishedRun, Run
from pipelines.shared.screen import cpu_count
from pipelines.shared.study import C, Data


@dataclass(frozen=True)
class Picture:
    """What a page shows of a file.

    Attributes:
        title: what it is, in a few words.
        png: the picture; of an overlay with transparency.
        overlay: it lies over the picture before it.
    """

    title: str
    png: bytes
    overlay: bool = False


def png_of(pixels: np.ndarray) -> bytes:
    """uint8 (height, width) or (height, width, 1, 3 or 4) as a PNG file."""
    stream = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels).save(stream, "PNG")
    return stream.getvalue()


def heat_of(strength: np.ndarray) -> bytes:
    """A saliency map, float 0 to 1 (height, width), as a PNG that lets through what is under its zeros.

    In cyan, which stands out from eyes and skin and from grey.
    """
    alpha = np.rint(np.clip(strength, 0, 1) * 255).astype(np.uint8)
    colour = np.broadcast_to(np.array([0, 229, 255], np.uint8), (*strength.shape, 3))
    return png_of(np.concatenate([colour, alpha[..., None]], axis=2))


class Scorer(ABC, Generic[C]):
    """The rows of predictions.csv, and pictures for a page.

    Its run's folder takes what is written besides (heatmaps, annotations).

    Attributes:
        together: a file is one row, in order, so that the files of several requests can be scored in one go.
        threads: that may ask for rows at once, each of them one processor's work.
    """

    together = True
    threads = 1

    def __init__(self, run: Run[C], finished: FinishedRun) -> None:
        self.run, self.finished = run, finished

    def inputs(self, path: Path) -> Inputs:
        """What there is to score in a file, a folder, or a table that names files.

        Raises:
            DataError: nothing.
        """
        return input_files(path, self.run.study.suffixes)

    @abstractmethod
    def rows(self, root: Path, files: list[str]) -> pd.DataFrame:
        """Rows of predictions.csv: `file` (as `shown_name`), `reason` (None where there is an answer), the columns of
        the prediction table, the calls at every operating point.

        Args:
            root: the folder that `files` are relative to.
            files: some of `inputs(…).files`.
        """

    def pictures(self, root: Path, file: str) -> list[Picture]:
        """A file that has been scored as the network saw it, and what it looked at; nothing, unless a study can."""
        return []


class PictureScorer(Scorer[C]):
    """The scorer of studies whose records are single files, each prepared by itself: pictures.

    Args:
        in_memory: for a service: nothing of a file is left on disk, networks stay loaded, and on a CPU one picture at a
            time goes through them, by one thread. A sum's last digits depend on how many pictures and threads share
            it, and what is said of one picture must not depend on who else asks, or on the machine's processors: it is
            what `mode=predict` says of this picture by itself.
    """

    def __init__(self, run: Run[C], finished: FinishedRun, in_memory: bool = False) -> None:
        self.alone = in_memory and run.world.device.type == "cpu"
        if in_memory:
            batch = {"batch_size": 1} if self.alone else {}
            trainer = run.config.trainer.model_copy(update={"workers": 0, **batch})
            run = replace(run, config=run.config.model_copy(update={"trainer": trainer}), resident={})
        if self.alone:
            import torch

            torch.set_num_threads(1)  # of this whole process: set and reset around each picture, threads would race
            self.threads = run.config.serve.threads or cpu_count()
        super().__init__(run, finished)
        self.in_memory = in_memory
        self.method = run.study.method(run.config)

    def prepared(self, records: pd.DataFrame, root: Path) -> Prepared:
        """The files as the networks take them; those that cannot be read have their reason in its metadata."""
        from pipelines.shared.learning.distributed import main_first

        study, config = self.run.study, self.run.config
        if self.in_memory:
            prepare = partial(study.prepare, settings=study.prepare_settings(config))
            return prepare_in_memory(records, root, prepare, 1 if self.alone else cpu_count())
        with main_first(self.run.world):
            return prepare_all(study, config, records, root)

    def rows(self, root: Path, files: list[str]) -> pd.DataFrame:
        """One row per file: its reason if it has one, else the prediction columns and the calls at every threshold."""
        from pipelines.shared.learning.hardware import one_thread

        names = [shown_name(file) for file in files]
        records = pd.DataFrame({"id": names, "path": files})
        prepared = self.prepared(records, root)
        reason = prepared.metadata["bad"].fillna(prepared.metadata["unusable"])
        good = np.flatnonzero(reason.isna().to_numpy())
        table = pd.DataFrame({"file": names, "reason": reason, "warnings": prepared.metadata["warnings"]})
        if len(good):
            source = Source("files", False, root, records, group_key="none")
            data = Data(source, records, prepared, {}).take(good)
            with one_thread() if len(good) == 1 and not self.in_memory else nullcontext():
                answers = self.method.answer(self.run, self.finished, data).drop(columns="id")
            scores = pd.concat([answers, calls(answers, self.finished.operating_points)], axis=1)
            scores = with_set_columns(scores, self.finished.prediction_sets)
            whole = dict.fromkeys(scores.select_dtypes("integer"), "Int64")  # beside a bad file they stay whole
            table = table.join(scores.astype(whole).set_index(pd.Index(good)))
            table["warnings"] = self._warned(table["warnings"], data, good)
        return table

    def _warned(self, warnings: pd.Series, data: Data, places: np.ndarray) -> pd.Series:
        """The warnings of all files, with what lies beyond the training set; `data`: those files at `places`."""
        ranges, study, config = self.finished.training_ranges, self.run.study, self.run.config
        said = warnings.astype(object).tolist()
        for position, place in enumerate(places if ranges else ()):
            said[place] = warned(said[place], study.measures(data, position, config), ranges)
        return pd.Series(said, dtype=object)

    def pictures(self, root: Path, file: str) -> list[Picture]:
        """The prepared picture, and over it what its first network looked at."""
        prepared = self.prepared(pd.DataFrame({"id": [file], "path": [file]}), root)
        try:
            picture = prepared.array(0)
        except BadFile:
            return []
        if picture is None:
            return []
        shown = [Picture("As the network saw it", png_of(picture))]
        found = self.method.saliency(self.run, self.finished, picture)
        return [*shown, Picture(found[0], heat_of(found[1]), overlay=True)] if found else shown
