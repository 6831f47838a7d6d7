"""Files that are unlike the training set: predictions of them carry a warning, and are the same otherwise."""

from __future__ import annotations

import io
import shutil

import numpy as np
import pandas as pd
import pytest
from made_service import fundus, opened
from PIL import Image

from pipelines.retinopathy.study import STUDY
from pipelines.shared.data.assemble import prepare_all
from pipelines.shared.data.ranges import KEY
from pipelines.shared.data.records import Source
from pipelines.shared.errors import RunError
from pipelines.shared.learning.method import keep_ranges
from pipelines.shared.learning.model_files import update_model
from pipelines.shared.run import open_finished
from pipelines.shared.run_folder import read_json
from pipelines.shared.study import Data


def blue(content: bytes) -> bytes:
    """The same picture with red and blue exchanged, as a program that confuses the two would store it."""
    stream = io.BytesIO()
    Image.fromarray(np.asarray(Image.open(io.BytesIO(content)))[..., ::-1]).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def taught(made_run, tmp_path_factory):
    """A copy of a made run that knows the ranges of twelve pictures, one of them twice."""
    place = tmp_path_factory.mktemp("taught")
    folder = shutil.copytree(made_run, place / "run")
    for k in range(12):
        (place / f"{k}.png").write_bytes(fundus(k))
    shutil.copy(place / "3.png", place / "again.png")
    files = [*(f"{k}.png" for k in range(12)), "again.png"]
    records = pd.DataFrame({"id": files, "path": files})
    run, _ = opened(folder, folder)
    data = Data(
        Source("files", False, place, records, group_key="none"),
        records,
        prepare_all(STUDY, run.config, records, place),
        {},
    )
    keep_ranges(run, data, np.arange(len(files)))
    return folder


@pytest.fixture
def inputs(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.png").write_bytes(fundus(77))
    (folder / "b.png").write_bytes(blue(fundus(77)))
    (folder / "c.png").write_bytes(fundus(77, side=400))
    (folder / "d.png").write_bytes(b"no picture")
    return folder


def scored(folder, place, inputs, in_memory):
    run, finished = opened(folder, place)
    return STUDY.scorer(run, finished, in_memory).rows(inputs, sorted(f.name for f in inputs.iterdir()))


def test_what_model_json_says(taught):
    said = read_json(taught / "models" / "network" / "model.json")[KEY]
    assert (said["records"], said["measured"]) == (12, 12)
    assert said["measures"]["width (px)"] == [180, 180]
    low, high = said["measures"]["mean red"]
    assert 0 < low < high < 255


@pytest.mark.slow
@pytest.mark.parametrize("in_memory", [False, True], ids=["predict", "serve"])
def test_files_beyond_it_have_a_warning_and_the_same_scores(taught, made_run, tmp_path, inputs, in_memory):
    before = scored(made_run, tmp_path / "before", inputs, in_memory)
    after = scored(taught, tmp_path / "after", inputs, in_memory)
    assert before["warnings"].isna().all(), "a run of an earlier version says nothing"
    pd.testing.assert_frame_equal(before.drop(columns="warnings"), after.drop(columns="warnings"), check_exact=True)
    a, b, c, d = after["warnings"]
    assert a is None
    assert d is None
    assert b.startswith("unlike the training set: mean red ")
    assert "mean blue" in b
    assert "width (px) 420 (180 to 180 there)" in c
    assert "height (px) 400 (160 to 160 there)" in c


def test_the_service_says_it(taught, tmp_path, inputs):
    pytest.importorskip("fastapi", reason="the extra serve is not installed")
    from pipelines.shared.handover.serve.service import Request, Service

    service = Service(*opened(taught, tmp_path / "serve"))
    try:
        answers = [
            service.batcher.submit(Request(inputs, [name], [name])).result()["warnings"] for name in ("a.png", "b.png")
        ]
    finally:
        service.close()
    assert not any("unlike" in line for line in answers[0])
    assert any(line.startswith("unlike the training set: mean red ") for line in answers[1])


def test_damage_is_named(taught, tmp_path):
    folder = shutil.copytree(taught, tmp_path / "run")
    update_model(folder / "models" / "network", {KEY: {"measures": {"mean red": [1]}}})
    with pytest.raises(RunError, match=f"its {KEY} are damaged"):
        open_finished(STUDY, folder)
