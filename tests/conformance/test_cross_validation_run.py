"""A cross-validation as a user meets it: one command, one report, networks that answer for others."""

from __future__ import annotations

import json

import cutting
import numpy as np
import pandas as pd
import pytest

FOLDS = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished cross-validation of retinopathy's phantom."""
    place = tmp_path_factory.mktemp("folds")
    settings = [*cutting.TINY, "trainer.epochs=1", f"split.folds={FOLDS}", f"cache.dir={place / 'cache'}"]
    done = cutting.answer("retinopathy", *settings, f"run_dir={place / 'run'}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == str(place / "run" / "report.html")
    return place / "run"


@pytest.mark.slow
def test_every_record_is_tested_once_in_one_report(folder):
    records = pd.read_parquet(folder / "records.parquet")
    test = pd.read_parquet(folder / "predictions" / "test.parquet")
    assert sorted(test["id"]) == sorted(records["id"])
    assert set(test["fold"]) == set(range(FOLDS))
    assert records.groupby("group")["fold"].nunique().max() == 1
    metrics = json.loads((folder / "metrics.json").read_text())
    headline = metrics["metrics"][metrics["headline"]]
    assert headline["groups"] == records["group"].nunique()
    points = json.loads((folder / "operating_points.json").read_text())
    assert all(set(p["thresholds"]) == {"0", "1", "2"} for p in points)
    assert metrics["splits"]["test"]["records"] == len(records)
    for name in ("report.html", "model_card.md"):
        assert "On other data the networks of all folds are averaged" in (folder / name).read_text(), name
    again = (folder / "metrics.json").read_bytes()
    assert cutting.answer("retinopathy", "mode=report", f"run={folder}").returncode == 0
    assert (folder / "metrics.json").read_bytes() == again


@pytest.mark.slow
def test_it_answers_for_files_and_for_its_own_data(folder, tmp_path):
    phantom = next(p for p in (folder.parent / "cache").glob("phantom-retinopathy-*") if p.is_dir())
    files = sorted(f for f in phantom.rglob("*.j*g") if "truth" not in f.parts)[:4]
    (tmp_path / "in").mkdir()
    for file in files:
        (tmp_path / "in" / file.name).write_bytes(file.read_bytes())
    cache = f"cache.dir={folder.parent / 'cache'}"
    done = cutting.answer(
        "retinopathy", "mode=predict", f"run={folder}", f"input={tmp_path / 'in'}", f"run_dir={tmp_path / 'p'}", cache
    )
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "p" / "predictions.csv")
    assert len(table) == 4
    assert table["reason"].isna().all()
    done = cutting.answer(
        "retinopathy", "mode=evaluate", f"run={folder}", "data=phantom", "data.phantom.patients=60",
        "data.phantom.size=96", f"run_dir={tmp_path / 'e'}", cache, "statistics.resamples=100",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    theirs = pd.read_parquet(tmp_path / "e" / "predictions" / "test.parquet").set_index("id")
    ours = pd.read_parquet(folder / "predictions" / "test.parquet").set_index("id").loc[theirs.index]
    assert (theirs["fold"] == ours["fold"]).all(), "each by the fold that had not seen it"
    scores = [c for c in ours if c.startswith("p_")]
    assert np.allclose(theirs[scores], ours[scores], atol=1e-6, equal_nan=True)
