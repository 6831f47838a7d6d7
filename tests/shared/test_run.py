"""A finished run is checked when it is opened: what is damaged in it is named."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import pandas as pd
import pytest

from pipelines.shared.errors import RunError
from pipelines.shared.judging.calls import calls
from pipelines.shared.judging.recalibration import recalibrated_results
from pipelines.shared.run import MODEL_SCHEMA, open_finished
from pipelines.shared.run_folder import RunFolder, read_json, write_json

POINT = {"name": "sensitive", "task": "tumor", "score": "p_tumor", "threshold": 0.5}


@pytest.fixture
def folder(tmp_path):
    made = RunFolder(tmp_path)
    facts = {"schema": MODEL_SCHEMA, "study": "x", "classes": ["a"], "architecture": {}, "preprocessing": {}}
    write_json(made.network("network") / "model.json", facts)
    return made


def test_operating_points_are_read_as_they_were_written(folder):
    write_json(folder.operating_points, [POINT])
    assert open_finished(SimpleNamespace(name="x"), folder.path).operating_points == [POINT]


@pytest.mark.parametrize(
    "damaged",
    [
        [{k: v for k, v in POINT.items() if k != "score"}],
        [POINT, POINT | {"threshold": None}],
        [POINT | {"threshold": 10**400}],
        [POINT | {"name": 3}],
        ["sensitive"],
        {"sensitive": POINT},
        POINT,
    ],
)
def test_damaged_operating_points_are_named(folder, damaged):
    write_json(folder.operating_points, damaged)
    with pytest.raises(RunError, match=r"operating_points\.json: entry \d is no operating point"):
        open_finished(SimpleNamespace(name="x"), folder.path)
    write_json(folder.path / "recalibration.json", {"operating_points": damaged})
    with pytest.raises(RunError, match=r"recalibration\.json: entry \d is no operating point"):
        recalibrated_results(None, SimpleNamespace(folder=folder))  # what mode=report asks first


CALIBRATION = {"temperature": 2.0, "prior_strength": 0.5, "log_prior": [-1.0],
               "val": {"monitor": "val_loss", "before": None, "after": 1.0}}  # fmt: skip


@pytest.mark.parametrize(
    "damage",
    [
        {},
        {"temperature": 0},
        {"temperature": None},
        {"log_prior": [-1.0, -1.0]},
        {"log_prior": ["-1"]},
        {"prior_strength": None},
        {"val": None},
        {"val": 5},
    ],
)
def test_a_damaged_calibration_is_named(folder, damage):
    model = folder.network("network") / "model.json"
    write_json(folder.operating_points, [])
    write_json(model, read_json(model) | {"calibration": CALIBRATION | damage})
    with pytest.raises(RunError, match=r"model\.json: its calibration is damaged") if damage else nullcontext():
        open_finished(SimpleNamespace(name="x"), folder.path)


def test_a_score_that_is_not_there_is_named():
    with pytest.raises(RunError, match="p_tumour"):
        calls(pd.DataFrame({"p_tumor": [0.5]}), [POINT | {"score": "p_tumour"}])
