"""Cut off and resumed, or spread over processes: the same numbers."""

from __future__ import annotations

import json
import re
import shutil

import cutting
import numpy as np
import pandas as pd
import pytest
from conftest import REPOSITORY, STUDIES, predicted_records, smoke
from cutting import TINY
from safetensors.numpy import load_file

from pipelines.camelyon.heatmap import read_heatmap

# Studies that fit or answer in a way of their own. The others run the very lines of the shared `Ensemble`, as ECG does,
# whose `fit` repeats windows and leaves the rest to it: ECG stands for them.
OF_THEIR_OWN = [
    study for study in STUDIES
    if re.search(r"def (fit|answer)\(", (REPOSITORY / "pipelines" / study / "method.py").read_text())
]  # fmt: skip


def weights(folder) -> dict[str, np.ndarray]:
    return {f"{n.parent.name}/{k}": v for n in folder.glob("models/*/*.safetensors") for k, v in load_file(n).items()}


def assert_same_run(a, b, tolerance: float = 0.0) -> None:
    """Weights, history and predictions, bit for bit or within a tolerance."""
    first, second = weights(a), weights(b)
    assert first.keys() == second.keys()
    for name in first:
        assert np.allclose(first[name], second[name], rtol=0, atol=tolerance), name
    histories = [pd.read_csv(f / "history.csv").drop(columns="seconds") for f in (a, b)]
    pd.testing.assert_frame_equal(*histories, check_exact=tolerance == 0)
    assert_same_predictions(a, b, tolerance)


def assert_same_predictions(a, b, tolerance: float) -> None:
    """Tables of predictions, and a slide's heatmaps, from which its scores come."""
    files = sorted(f.name for f in (a / "predictions").glob("*.parquet"))
    assert files == sorted(f.name for f in (b / "predictions").glob("*.parquet"))
    for name in files:
        tables = [pd.read_parquet(f / "predictions" / name) for f in (a, b)]
        pd.testing.assert_frame_equal(*tables, check_exact=tolerance == 0, rtol=0, atol=tolerance)
    heatmaps = [{f.relative_to(run): f for f in run.glob("heatmaps/*/*.tif")} for run in (a, b)]
    assert heatmaps[0].keys() == heatmaps[1].keys()
    for name, file in heatmaps[0].items():
        one, two = read_heatmap(file).values, read_heatmap(heatmaps[1][name]).values
        assert np.allclose(one, two, rtol=0, atol=tolerance, equal_nan=True), name


def headline(folder) -> float:
    metrics = json.loads((folder / "metrics.json").read_text())
    return metrics["metrics"][metrics["headline"]]["value"]


def test_each_way_to_fit_is_among_them():
    assert {"camelyon", "covid_flannel", "ecg"} <= set(OF_THEIR_OWN)


@pytest.mark.slow
def test_a_power_cut_in_every_stage_leaves_no_trace(tmp_path):
    """With a moving average, early stopping and, after the cuts alone, loader workers."""
    whole, often, output = tmp_path / "whole", tmp_path / "often", tmp_path / "output.txt"
    arguments = [*TINY, f"cache.dir={tmp_path / 'c1'}", f"run_dir={whole}", "trainer.workers=0"]
    assert cutting.run("retinopathy", arguments, output) == 0
    cuts = [
        ("preparing the cache", 2),
        ("inside an epoch", 3),
        ("writing a checkpoint", 2),
        ("validating", 1),
        ("between epochs", 1),
        ("inside an epoch", 2),
        ("writing the weights", 1),
        ("writing predictions", 4),  # after records, readers and val: test
    ]
    begin = [*TINY, f"cache.dir={tmp_path / 'c2'}", f"run_dir={often}", "trainer.workers=2"]
    for cut in cuts:
        status = cutting.run("retinopathy", begin, output, cut)
        assert status == -9, f"{cut}: {status}\n{output.read_text()[-2000:]}"
        begin = ["mode=resume", f"run={often}"]
    assert cutting.run("retinopathy", begin, output) == 0, output.read_text()[-2000:]
    assert_same_run(whole, often)
    assert not list(often.rglob("*.tmp")), "half-written files are left"


@pytest.mark.slow
@pytest.mark.parametrize("study", OF_THEIR_OWN)
def test_the_same_command_cut_off_and_resumed_gives_the_same_run(study, smoke_run_of, tmp_path):
    whole, _ = smoke_run_of(study)
    folder, output = tmp_path / "cut", tmp_path / "output.txt"
    begin = [*smoke(study), "trainer.checkpoint_seconds=0.000001", f"run_dir={folder}"]
    assert cutting.run(study, begin, output, ("inside an epoch", 3)) == -9, output.read_text()
    assert cutting.run(study, ["mode=resume", f"run={folder}"], output) == 0, output.read_text()
    assert "goes on in epoch 1 after batch 2" in output.read_text()
    assert_same_run(whole, folder)
    before, after = (json.loads((f / "metrics.json").read_text()) for f in (whole, folder))
    assert before | {"seconds": None} == after | {"seconds": None}


@pytest.mark.slow
@pytest.mark.parametrize("study", OF_THEIR_OWN)
def test_two_processes_write_one_run_and_score_like_one(study, tmp_path):
    """The same weights, once predicted by two processes and once by one."""
    two, one, output = tmp_path / "two", tmp_path / "one", tmp_path / "output.txt"
    done = cutting.together(study, *smoke(study), "trainer.device=cpu", f"run_dir={two}")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip().splitlines()[-1] == str(two / "report.html")
    assert [f.name for f in tmp_path.iterdir()] == ["two"], "more than one run folder"
    records = pd.read_parquet(two / "records.parquet")
    for split in ("val", "test"):
        predicted = pd.read_parquet(two / "predictions" / f"{split}.parquet")["id"]
        assert set(predicted) == set(predicted_records(records, split)["id"])
    shutil.copytree(two, one)
    answers = ("predictions/*", "stage1/*/*", "heatmaps/second/*", "report.html", "metrics.json")
    for stale in (file for pattern in answers for file in one.glob(pattern)):
        stale.unlink()
    assert cutting.run(study, ["mode=resume", f"run={one}"], output) == 0, output.read_text()
    assert_same_predictions(two, one, 1e-5)
    assert headline(two) == pytest.approx(headline(one), abs=1e-5)
