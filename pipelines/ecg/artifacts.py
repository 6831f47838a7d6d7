"""Signals that the report shows: for every rhythm a typical test window, and the most confident errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from pipelines.ecg.config import CLASSES
from pipelines.ecg.labels import RATE, STEP
from pipelines.ecg.metrics import answers, codes_of, known_steps, scores_of
from pipelines.shared.run_folder import RunFolder, write_arrays, write_csv
from pipelines.shared.study import Data

SHOWN = 7  # steps of a strip: 9 s
ERRORS = 6


def choose(test: pd.DataFrame) -> pd.DataFrame:
    """Which stretches of test are shown: id, kind (typical, error, whole), name, step (of the window, the first shown).

    Typical of a rhythm is the step of the reference whose probability is the median of its kind; an error is the step
    whose true rhythm has the lowest probability, one per recording and pair of rhythms. Where there are only labels of
    whole recordings, the strips are a recording per label. The whole is the window with most changes of the answer.
    """
    rows = test.assign(answer=np.array(CLASSES, dtype=object)[answers(test)])
    rows["within"] = rows.groupby("id").cumcount()
    chosen: list[dict[str, Any]] = []
    known = known_steps(rows)
    if len(known):
        known = known.assign(p=scores_of(known)[np.arange(len(known)), codes_of(known["target"])])
        for name in CLASSES:
            of_class = known[known["target"] == name].sort_values(["p", "id", "within"])
            if len(of_class):
                row = of_class.iloc[len(of_class) // 2]
                chosen.append({"id": row["id"], "kind": "typical", "name": name, "step": int(row["within"])})
        wrong = known[known["target"] != known["answer"]].sort_values(["p", "id", "within"])
        wrong = wrong.drop_duplicates("record").drop_duplicates(["target", "answer"])
        for error in wrong.head(ERRORS).to_dict("records"):
            name = f"{error['target']}, answered {error['answer']}"
            chosen.append({"id": error["id"], "kind": "error", "name": name, "step": int(error["within"])})
    else:
        for label, part in rows[rows["record_label"].notna()].groupby("record_label"):
            for name in list(dict.fromkeys(part["id"]))[:3]:
                chosen.append({"id": name, "kind": "typical", "name": f"recording labelled {label}", "step": 0})
    changes = (rows["answer"] != rows.groupby("id")["answer"].shift()).groupby(rows["id"]).sum()
    if len(changes):
        most = changes.index[int(np.argmax(np.minimum(changes.to_numpy(), 4)))]
        chosen.append({"id": most, "kind": "whole", "name": "", "step": 0})
    return pd.DataFrame(chosen, columns=["id", "kind", "name", "step"])


def save_strips(data: Data, folder: RunFolder) -> None:
    """Write strips/strips.csv and strips/signals.npz: what is shown, and the prepared windows of it."""
    test = folder.read_table(folder.predictions("test"))
    chosen = choose(test)
    place = {name: i for i, name in enumerate(data.records["id"])}
    out = folder.path / "strips"
    arrays = {str(i): np.asarray(data.prepared.array(place[name]), np.float32) for i, name in enumerate(chosen["id"])}
    write_arrays(out / "signals.npz", arrays)
    write_csv(out / "strips.csv", chosen)


def stretch(signal: np.ndarray, step: int, steps: int, shown: int = SHOWN) -> tuple[np.ndarray, int]:
    """`shown` steps of a window around one of them, and the first of these; `steps` are those that really exist."""
    first = int(np.clip(step - shown // 2, 0, max(0, steps - shown)))
    return signal[first * STEP : min(first + shown, steps) * STEP], first


def seconds(step: float) -> float:
    """Steps as seconds."""
    return step * STEP / RATE
