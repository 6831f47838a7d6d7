"""Finished runs: real slides scored, half-finished heatmaps gone on with, pcam."""

from __future__ import annotations

import json
import shutil

import cutting
import numpy as np
import pandas as pd
import pytest
from asap import read_detections
from test_camelyon_slides import write_pcam

from pipelines.camelyon.heatmap import read_heatmap
from pipelines.camelyon.phantom.dataset import write_pyramid

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(smoke_run_of):
    """A smoke run."""
    return smoke_run_of("camelyon")[0]


def test_a_run_leaves_all_its_stages(finished):
    records = pd.read_parquet(finished / "records.parquet")
    patches = pd.read_parquet(finished / "patches" / "patches.parquet")
    assert set(patches["kind"]) == {"tumor", "normal"}
    for name in records["id"]:
        assert (finished / "tissue" / "masks" / f"{name}.png").is_file()
    second = {p.stem for p in (finished / "heatmaps" / "second").iterdir()}
    assert second == set(records.loc[records["split"] != "train", "id"])
    # A training slide's features come from a model that was trained without it.
    for k in (0, 1):
        scored = {p.stem for p in (finished / "heatmaps" / f"fold_{k}-second").iterdir()}
        mined = {p.stem for p in (finished / "heatmaps" / f"fold_{k}-first").iterdir()}
        assert scored
        assert not scored & mined
        hard = pd.read_parquet(finished / "patches" / f"fold_{k}-first-hard.parquet")
        assert not scored & set(hard["slide"])
    features = pd.read_parquet(finished / "slide_features.parquet")
    assert set(features["id"]) == set(records["id"])
    detections = pd.read_parquet(finished / "detections.parquet")
    assert {"components", "suppression", "oracle"} >= set(detections["method"])
    test = records.loc[records["split"] == "test", "id"]
    own = detections[(detections["method"] == "suppression") & (detections["network"] == "")]
    for name in test:
        table = read_detections(finished / "detections" / f"{name}.csv")
        assert len(table) == (own["slide"] == name).sum()


def test_hard_negatives_lie_in_normal_tissue_above_the_threshold(finished):
    hard = pd.read_parquet(finished / "patches" / "first-hard.parquet")
    assert (hard["tumor"] == 0).all()
    assert (hard["split"] == "train").all()
    for name, rows in hard.groupby("slide"):
        heatmap = read_heatmap(finished / "heatmaps" / "first" / f"{name}.tif")
        r, c = (rows[axis].to_numpy() // heatmap.stride for axis in ("y", "x"))
        assert (heatmap.values[r.astype(int), c.astype(int)] > 0.5).all()


def test_a_killed_heatmap_stage_goes_on(finished, tmp_path):
    folder, output = tmp_path / "cut", tmp_path / "output.txt"
    shutil.copytree(finished, folder)
    place = folder / "heatmaps" / "second"
    shutil.rmtree(place)
    for file in [*folder.glob("predictions/*"), folder / "report.html", folder / "metrics.json"]:
        file.unlink()
    words = ["mode=resume", f"run={folder}"]
    assert cutting.run("camelyon", words, output, ("writing a heatmap", 3)) == -9, output.read_text()
    kept = {p: p.stat().st_mtime_ns for p in place.glob("*.tif")}
    assert len(kept) == 2
    assert cutting.run("camelyon", words, output) == 0, output.read_text()
    assert all(p.stat().st_mtime_ns == stamp for p, stamp in kept.items()), "a finished slide was scored again"
    assert not list(folder.rglob("*.tmp"))
    for file in (finished / "heatmaps" / "second").iterdir():
        np.testing.assert_array_equal(read_heatmap(place / file.name).values, read_heatmap(file).values)
    first, second = (json.loads((f / "metrics.json").read_text()) for f in (finished, folder))
    assert first | {"seconds": None} == second | {"seconds": None}


def test_a_real_slide_is_scored_and_bad_files_have_their_reason(finished, tmp_path, real_sample):
    place, out = tmp_path / "in", tmp_path / "out"
    place.mkdir()
    file = next(real_sample("slides").glob("*.svs"))
    shutil.copy(file, place / "real.svs")
    (place / "empty.tif").touch()
    (place / "short.svs").write_bytes(file.read_bytes()[:4000])
    write_pyramid(place / "glass.tif", np.full((600, 600, 3), 244, np.uint8), 0.25)
    done = cutting.answer("camelyon", "mode=predict", f"run={finished}", f"input={place}", f"run_dir={out}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == str(out / "predictions.csv")
    table = pd.read_csv(out / "predictions.csv").set_index("file")
    assert len(table) == 4
    assert table["reason"].isna().to_dict() == {
        "real.svs": True, "empty.tif": False, "short.svs": False, "glass.tif": False,
    }  # fmt: skip
    assert "no tissue" in table.loc["glass.tif", "reason"]
    assert 0 <= table.loc["real.svs", "p_tumor"] <= 1
    heatmap = read_heatmap(out / "heatmaps" / "real.svs.tif")
    assert heatmap.tissue.any()
    assert heatmap.stride == pytest.approx(16 / 0.499, rel=0.01)
    read_detections(out / "detections" / "real.svs.csv")
    assert (out / "overlays" / "real.svs.png").stat().st_size > 1000
    shapes = json.loads((out / "geojson" / "real.svs.geojson").read_text())
    assert shapes["type"] == "FeatureCollection"


def test_slides_between_bad_files_are_scored_and_never_twice(finished, folder_of_slides, tmp_path):
    out, output = tmp_path / "out", tmp_path / "output.txt"
    words = ["mode=predict", f"run={finished}", f"input={folder_of_slides}", f"run_dir={out}"]
    assert cutting.run("camelyon", words, output, ("writing a heatmap", 3)) == -9, output.read_text()
    kept = {p: p.stat().st_mtime_ns for place in ("heatmaps", "overlays") for p in (out / place).glob("[!.]*")}
    assert len(kept) == 4, "two slides are whole"
    assert cutting.run("camelyon", ["mode=resume", f"run={out}"], output) == 0, output.read_text()
    assert all(p.stat().st_mtime_ns == stamp for p, stamp in kept.items()), "a slide was scored again"
    table = pd.read_csv(out / "predictions.csv").set_index("file")
    good = ["2024.01.15.tif", "2024.01.16.tif", "same.svs", "same.tif", "病理/切片.tif"]
    assert table.index[table["reason"].isna()].tolist() == good
    assert len(table) == 8
    assert "cannot be a slide's scale" in table.loc["2024.01.15b.tif", "reason"]
    assert "1 .txt" in output.read_text()
    for place in ("heatmaps", "overlays", "detections", "geojson"):
        assert len(list((out / place).iterdir())) == len(good)
    points = json.loads((finished / "operating_points.json").read_text())
    for point in points:
        column = table[f"{point['task']}@{point['name']}"]
        assert column.isna().tolist() == table["p_tumor"].isna().tolist()
        assert (column.dropna() == (table["p_tumor"].dropna() >= point["threshold"])).all()


@pytest.fixture
def folder_of_slides(tmp_path):
    """Slides whose names are alike, with a file in between that cannot be scored; one is a link."""
    place, rng = tmp_path / "in", np.random.default_rng(0)
    (place / "病理").mkdir(parents=True)
    y, x = np.ogrid[:300, :400]
    tissue = ((y - 150) / 90) ** 2 + ((x - 200) / 130) ** 2 < 1
    for name in ("2024.01.15.tif", "2024.01.16.tif", "same.svs", "same.tif", "病理/切片.tif"):
        stained = (rng.integers(-25, 25, (300, 400, 1)) + np.array([205, 120, 175])).clip(0, 255)
        write_pyramid(place / name, np.where(tissue[..., None], stained, 244).astype(np.uint8), 0.5)
    write_pyramid(place / "2024.01.15b.tif", np.full((300, 400, 3), 244, np.uint8), 352.8)
    (place / "2024.01.16b.tif").write_bytes(b"II*\0" + bytes(100))
    (place / "same.tiff").symlink_to("nowhere")
    (place / "._same.tif").touch()
    (place / "notes.txt").touch()
    return place


def test_pcam_is_the_patch_task_alone(finished, tmp_path):
    place, out = tmp_path / "pcam", tmp_path / "run"
    place.mkdir()
    write_pcam(place, 40)
    words = ["trainer=smoke", "data=pcam", f"data.root={place}", f"cache.dir={tmp_path / 'cache'}"]
    done = cutting.answer("camelyon", *words, f"run_dir={out}")
    assert done.returncode == 0, done.stderr
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["headline"] == "test.patches.auroc"
    assert metrics["metrics"]["test.patches.auroc"]["n"] == 40
    # It has never seen a whole slide.
    refused = cutting.answer("camelyon", "mode=predict", f"run={out}", f"input={place}", f"run_dir={tmp_path / 'p'}")
    assert refused.returncode == 2
    assert "no network of whole slides" in refused.stderr
