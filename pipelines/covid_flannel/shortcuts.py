"""Shortcut tests: could "COVID-19 or not" be answered without looking at the lungs?

Each test is a logistic regression (scikit-learn, L2, C = 0.1) on few grey values of the prepared picture, reduced by
principal components, trained and tested over the run's own folds, so by patient; a fixed test part is predicted from
all folds. No network is involved: what so simple a model finds, a network finds too.

    border    disease from the frame alone; the picture's centre is blanked
    blurred   disease from the picture reduced to a few pixels, which keep exposure and the outline of the body
    source    which source (CCX or KCX) a picture comes from, within one class, from the picture at 32 x 32
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import pandas as pd

from pipelines.covid_flannel.config import CLASSES, CovidConfig
from pipelines.covid_flannel.protocol import FIXED

if TYPE_CHECKING:
    from pipelines.shared.run_folder import RunFolder
    from pipelines.shared.study import Data

SIDE = 32  # pixels of the pictures that border and source see
COMPONENTS = 30
FEWEST = 6  # patients of each source that a class must have for the test within it
COLUMNS = ["test", "id", "group", "truth", "score"]


def features(pictures: np.ndarray, kind: str, border: float, blur: int) -> np.ndarray:
    """What a test sees of pictures (n, side, side): float (n, values).

    `border` is the width of the frame that is kept, as a share of the side; `blur` the pixels left of the side.
    """
    if kind == "blurred":
        side = pictures.shape[1]
        soft = [cv2.GaussianBlur(p.astype(np.float32), (0, 0), side / blur) for p in pictures]
        return np.stack([cv2.resize(p, (blur, blur), interpolation=cv2.INTER_AREA) for p in soft]).reshape(
            len(soft), -1
        )
    small = np.stack([cv2.resize(p, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for p in pictures]).astype(np.float32)
    if kind == "border":
        frame = np.ones((SIDE, SIDE), bool)
        width = max(1, round(border * SIDE))
        frame[width:-width, width:-width] = False
        return small[:, frame]
    return small.reshape(len(small), -1)


def out_of_fold(values: np.ndarray, truth: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """P(truth) (n,) of every row from a regression on the other folds; NaN where those hold one class only."""
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    score = np.full(len(truth), np.nan)
    for k in np.unique(fold):
        test = fold == k
        train = ~test & (fold != FIXED)
        if len(np.unique(truth[train])) < 2:
            continue
        count = min(COMPONENTS, int(train.sum()) - 1, values.shape[1])
        model = make_pipeline(
            StandardScaler(), PCA(count, random_state=0), StandardScaler(), LogisticRegression(C=0.1, max_iter=2000)
        )
        model.fit(values[train], truth[train])
        score[test] = model.predict_proba(values[test])[:, 1]
    return score


def shortcut_scores(pictures: np.ndarray, records: pd.DataFrame, config: CovidConfig) -> pd.DataFrame:
    """One row per test and picture: test, id, group, truth (0 or 1), score.

    Args:
        pictures: uint8 (n, side, side), the prepared pictures.
        records: their rows: id, group, fold, label, source.
        config: `shortcut_tests`.
    """
    section, fold = config.shortcut_tests, records["fold"].to_numpy()
    tables = []

    def add(name: str, positions: np.ndarray, truth: np.ndarray, values: np.ndarray) -> None:
        score = out_of_fold(values, truth, fold[positions])
        rows = records.iloc[positions][["id", "group"]].assign(test=name, truth=truth.astype(int), score=score)
        tables.append(rows[rows["score"].notna()])

    everyone = np.arange(len(records))
    for kind in ("border", "blurred"):
        values = features(pictures, kind, section.border, section.blur)
        for label in CLASSES:
            truth = (records["label"] == label).to_numpy()
            if truth.any() and not truth.all():
                add(f"{kind}[{label}]", everyone, truth, values)
    sources = records["source"].value_counts()
    if len(sources) > 1:
        values = features(pictures, "source", section.border, section.blur)
        first = (records["source"] == sources.index[0]).to_numpy()
        for label in CLASSES:
            positions = np.flatnonzero(records["label"] == label)
            patients = [records.iloc[positions][first[positions] == side]["group"].nunique() for side in (True, False)]
            if min(patients) >= FEWEST:
                add(f"source[{label}]", positions, ~first[positions], values[positions])
    return pd.concat(tables, ignore_index=True)[COLUMNS] if tables else pd.DataFrame(columns=COLUMNS)


def write_shortcuts(config: CovidConfig, data: Data, folder: RunFolder) -> None:
    """Write shortcuts.parquet into the run folder."""
    pictures = np.stack([np.asarray(data.prepared.array(i))[..., 0] for i in range(len(data.records))])
    folder.write_table(folder.path / "shortcuts.parquet", shortcut_scores(pictures, data.records, config))
