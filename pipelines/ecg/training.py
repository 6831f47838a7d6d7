"""What training takes from its own part of the data: the signals' scale, the labels it holds, rare rhythms' repeats."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd

from pipelines.ecg.config import CLASSES, EcgConfig
from pipelines.ecg.labels import carried
from pipelines.ecg.metrics import measure
from pipelines.ecg.model import build
from pipelines.shared import fitting
from pipelines.shared.distributed import World
from pipelines.shared.run_folder import RunFolder
from pipelines.shared.study import Data, Study


def fit_and_predict(study: Study, config: EcgConfig, data: Data, folder: RunFolder, world: World) -> None:
    """The shared fit, with a network that knows the training part's scale and labels, and rare rhythms repeated."""
    training = data.records.iloc[data.positions("train")]
    ready = replace(
        study,
        build=partial(build, scale=training_scale(config, data), trained=trained_labels(training)),
        measure=partial(measure, labels=config.labels),
    )
    fitting.fit_and_predict(ready, config, oversampled(data, config.sampling.most), folder, world)


def training_scale(config: EcgConfig, data: Data) -> tuple[float, float]:
    """Global mean and standard deviation of the training signals; (0, 1) where windows are scaled by themselves."""
    if config.preprocess.scale == "window":
        return 0.0, 1.0
    arrays = (data.prepared.array(int(i)).astype(np.float64) for i in data.positions("train"))
    n, total, squares = np.sum([[len(x), x.sum(), (x**2).sum()] for x in arrays], axis=0)
    mean = total / n
    return float(mean), float(np.sqrt(squares / n - mean**2))


def trained_labels(records: pd.DataFrame) -> list[str]:
    """The labels that occur in some records: classes, then labels of whole recordings."""
    names = {name.removeprefix("record ") for names in carried(records) for name in names}
    return [name for name in CLASSES if name in names] + sorted(names - set(CLASSES))


def repeats(records: pd.DataFrame, most: int) -> np.ndarray:
    """How often each training window is shown per epoch, int (windows,): rare rhythms more often.

    A window whose rarest rhythm occurs in n windows is shown sqrt(N / n) times, rounded, at most `most` times, where N
    is the median over the rhythms. The paper says that rare rhythms were oversampled, not how.
    """
    names = carried(records)
    counts = pd.Series([name for mine in names for name in mine], dtype=object).value_counts()
    if counts.empty:
        return np.ones(len(records), int)
    usual = float(counts.median())
    wanted = [max((np.sqrt(usual / counts[name]) for name in mine), default=1.0) for mine in names]
    return np.clip(np.round(wanted), 1, most).astype(int)


def oversampled(data: Data, most: int) -> Data:
    """The data with training windows repeated. A repeat has an id of its own, so it is augmented in its own way."""
    at = data.positions("train")
    again = np.repeat(at, repeats(data.records.iloc[at], most) - 1)
    if len(again) == 0:
        return data
    extra = data.records.iloc[again].copy()
    extra["id"] = extra["id"].astype(str) + "#" + (extra.groupby("id").cumcount() + 2).astype(str)
    order = np.concatenate([np.arange(len(data.records)), again])
    return Data(data.source, pd.concat([data.records, extra], ignore_index=True), data.prepared.take(order), data.flow)
