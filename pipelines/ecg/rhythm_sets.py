"""What gets prediction sets: the rhythm of a step, and the label of a whole recording. No torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from pipelines.ecg.config import CLASSES, LabelSection
from pipelines.ecg.metrics import SCORES
from pipelines.ecg.taught import taught
from pipelines.shared.judging.prediction_sets import FrozenSets, SetTask, with_set_columns


def set_tasks(trained: Sequence[str], labels: LabelSection) -> list[SetTask]:
    """Which rhythm is a step, which label has a recording: what training taught by itself, if that is two or more.

    Steps of one recording are alike, but patients are exchangeable: each counts once for each of their rhythms, and
    what is promised is about a step of a new patient with the rhythm.

    Args:
        trained: the labels that training held (`Architecture.trained`).
        labels: of the run's configuration.
    """
    rhythms = [name for name in taught(trained, labels).names if name in CLASSES]
    marks = [word for word in trained if word in labels.record] or rhythms
    tasks = [
        SetTask("rhythm", "Rhythm of a step", {name: f"p_{name}" for name in rhythms}, _among("target", rhythms)),
        SetTask(
            "recording",
            "Label of a recording",
            {word: [f"p_{name}" for name in labels.record.get(word, [word])] for word in marks},
            _among("record_label", marks),
            unit="record",
        ),
    ]
    return [task for task in tasks if len(task.scores) > 1]


def _among(column: str, names: Sequence[str]) -> Callable[[pd.DataFrame], pd.Series]:
    return lambda table: table[column].where(table[column].isin(names), None)


def set_columns(p: np.ndarray, sets: FrozenSets) -> pd.DataFrame:
    """The columns of prediction sets for one recording's steps, from their probabilities (steps, 12)."""
    return with_set_columns(pd.DataFrame(p, columns=SCORES).assign(record=0), sets).drop(columns=[*SCORES, "record"])


def recording_sets(p: np.ndarray, sets: FrozenSets) -> dict[str, str]:
    """The columns of the sets of a whole recording."""
    whole = [frozen for frozen in sets if frozen.get("unit") == "record"]
    return {str(name): str(column.iloc[0]) for name, column in set_columns(p, whole).items()}
