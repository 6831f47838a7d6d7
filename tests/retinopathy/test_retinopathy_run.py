"""Whole runs: on the real sample, on one's own table, predicted files, a sweep, a run cut off and resumed."""

from __future__ import annotations

import json
import shutil
import subprocess
from functools import partial

import cutting
import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import phantom_root
from PIL import Image

pytestmark = pytest.mark.slow


def run(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = cutting.answer("retinopathy", *arguments)
    assert not check or done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def finished(smoke_run_of):
    """A run of a few steps on the phantom."""
    return smoke_run_of("retinopathy")[0]


def test_the_real_sample_trains_reports_and_is_judged_by_another_run(real_sample, finished, tmp_path):
    root = f"data.root={real_sample('aptos2019')}"
    shown = run("data=aptos2019", root, "mode=verify").stdout
    assert "4 sets of identical images" in shown
    assert shown.count("identical, labels differ") == 2
    quick = ["trainer=smoke", "preprocess.size=64", "statistics.resamples=200"]
    run("data=aptos2019", root, *quick, f"run_dir={tmp_path / 'train'}")
    metrics = json.loads((tmp_path / "train" / "metrics.json").read_text())
    assert metrics["headline"] == "test.moderate_or_worse.auroc"
    assert metrics["source"] == metrics["source"] | {"name": "aptos2019", "synthetic": False, "records": 58}
    assert metrics["reference"]["oracle"] is None
    report = (tmp_path / "train" / "report.html").read_text()
    assert "the intervals say how little this proves" in report
    assert "Synthetic data." not in report

    run("mode=evaluate", f"run={finished}", "data=aptos2019", root, f"run_dir={tmp_path / 'judged'}")
    judged = json.loads((tmp_path / "judged" / "metrics.json").read_text())
    frozen = json.loads((finished / "metrics.json").read_text())["operating_points"]
    thresholds = {(p["task"], p["name"]): p["threshold"] for p in frozen}
    for point in judged["operating_points"]:
        assert point["threshold"] == thresholds[point["task"], point["name"]]
        assert point["chosen_on"] == "val"
    assert judged["splits"] == {"test": {"records": 58, "groups": 56}}


def test_predicting_files(finished, tmp_path):
    records = pd.read_parquet(finished / "records.parquet")
    test = records[records["split"] == "test"].iloc[0]
    cache = phantom_root(finished) / test["path"]
    (tmp_path / "in" / "deep").mkdir(parents=True)
    with Image.open(cache) as picture:
        picture.load()
    (tmp_path / "in" / "deep" / cache.name).write_bytes(cache.read_bytes())
    (tmp_path / "in" / "broken.png").write_bytes(b"no picture")
    Image.new("RGB", (300, 300), (80, 80, 80)).save(tmp_path / "in" / "blank.png")
    (tmp_path / "in" / "notes.txt").write_text("not for us")
    done = run("mode=predict", f"run={finished}", f"input={tmp_path / 'in'}", f"run_dir={tmp_path / 'out'}")
    assert done.stdout.strip().splitlines()[-1] == str(tmp_path / "out" / "predictions.csv")
    table = pd.read_csv(tmp_path / "out" / "predictions.csv").set_index("file")
    assert sorted(table.index) == ["blank.png", "broken.png", f"deep/{cache.name}"]
    good = table.loc[f"deep/{cache.name}"]
    predictions = pd.read_parquet(finished / "predictions" / "test.parquet").set_index("id")
    assert good["p_referable"] == pytest.approx(predictions.loc[test["id"], "p_referable"], abs=1e-5)
    points = json.loads((finished / "operating_points.json").read_text())
    for point in points:
        called = good[f"{point['task']}@{point['name']}"]
        assert called == float(predictions.loc[test["id"], point["score"]] >= point["threshold"])
    assert good["grade@set_90"] == predictions.loc[test["id"], "grade@set_90"]
    assert pd.isna(good["reason"])
    assert "no fundus circle" in table.loc["blank.png", "reason"]
    assert isinstance(table.loc["broken.png", "reason"], str)
    assert table.loc[["blank.png", "broken.png"], "p_referable"].isna().all()


def test_one_file_can_be_predicted(finished, tmp_path):
    picture = next((phantom_root(finished) / "images").iterdir())
    run("mode=predict", f"run={finished}", f"input={picture}", f"run_dir={tmp_path / 'out'}")
    assert len(pd.read_csv(tmp_path / "out" / "predictions.csv")) == 1


def test_predicting_is_cut_off_and_goes_on(finished, tmp_path, monkeypatch):
    """Six files in parts of two, cut off in the third part; resumed it scores the last two only, from a table too."""
    from pipelines.retinopathy.study import STUDY
    from pipelines.shared.cli import modes
    from pipelines.shared.cli.inputs import score_in_parts
    from pipelines.shared.handover.scorer import PictureScorer
    from pipelines.shared.job import Job, config_model
    from pipelines.shared.validation import check

    pictures = sorted((phantom_root(finished) / "images").iterdir())[:6]
    (tmp_path / "in").mkdir()
    for picture in pictures[:5]:
        (tmp_path / "in" / picture.name).write_bytes(picture.read_bytes())
    (tmp_path / "in" / "broken.png").write_bytes(b"no picture")
    values = yaml.safe_load((finished / "config.yaml").read_text())
    values |= {"mode": "predict", "run": str(finished), "input": str(tmp_path / "in")}
    job = Job(check(config_model("retinopathy"), values), tmp_path / "out", "a command")
    rows, asked = PictureScorer.rows, []

    def cut(scorer, root, files):
        asked.extend(files)
        if len(asked) > 4:
            raise KeyboardInterrupt
        return rows(scorer, root, files)

    monkeypatch.setattr(modes, "score_in_parts", partial(score_in_parts, size=2))
    monkeypatch.setattr(PictureScorer, "rows", cut)
    with pytest.raises(KeyboardInterrupt):
        modes.run(STUDY, job)
    assert not (tmp_path / "out" / "predictions.csv").exists()
    assert len(list((tmp_path / "out" / "parts").iterdir())) == 2
    monkeypatch.setattr(PictureScorer, "rows", lambda *a: asked.append("again") or asked.extend(a[2]) or rows(*a))
    done = run("mode=resume", f"run={tmp_path / 'out'}", check=False)
    assert done.returncode == 2, "another run is writing there: this test's own process holds the folder"
    modes.run(STUDY, job)
    assert asked[asked.index("again") + 1 :] == sorted(f.name for f in (tmp_path / "in").iterdir())[4:]
    table = pd.read_csv(tmp_path / "out" / "predictions.csv")
    assert list(table["file"]) == sorted(f.name for f in (tmp_path / "in").iterdir())
    assert table["p_referable"].isna().tolist() == (table["file"] == "broken.png").tolist()

    listed = tmp_path / "in" / "list.csv"
    listed.write_text("path,site\n" + "".join(f"{name},x\n" for name in [*table["file"], "gone.png"]))
    run("mode=predict", f"run={finished}", f"input={listed}", f"run_dir={tmp_path / 'whole'}")
    whole = pd.read_csv(tmp_path / "whole" / "predictions.csv")
    assert isinstance(whole["reason"].iloc[-1], str)
    scores = [c for c in table if c.startswith("p_")]
    assert np.allclose(whole[scores].iloc[:-1], table[scores], atol=1e-6, equal_nan=True)
    before = (tmp_path / "whole" / "predictions.csv").read_bytes()
    (tmp_path / "whole" / "predictions.csv").unlink()
    run("mode=resume", f"run={tmp_path / 'whole'}")
    assert (tmp_path / "whole" / "predictions.csv").read_bytes() == before


def test_a_table_of_files_is_checked_as_a_whole(tmp_path):
    from pipelines.shared.cli.inputs import Inputs, input_files
    from pipelines.shared.errors import DataError

    table = tmp_path / "list.csv"
    table.write_text("path\na.png\n\n../b.png\na.png\n")
    with pytest.raises(DataError) as failure:
        input_files(table, [".png"])
    assert "leaves the folder" in str(failure.value)
    assert "occurs 2 times" in str(failure.value)
    table.write_text("file\na.png\n")
    with pytest.raises(DataError, match="no column 'path'"):
        input_files(table, [".png"])
    table.write_text("path\nb.png\na.png\n")
    assert input_files(table, [".png"]) == Inputs(tmp_path, ["b.png", "a.png"], [])
    assert input_files(table, [".csv"]) == Inputs(tmp_path, ["list.csv"], [])


def test_a_model_of_other_classes_is_refused(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    file = tmp_path / "run" / "models" / "network" / "model.json"
    file.write_text(file.read_text().replace('"dme"', '"drusen"'))
    picture = next((phantom_root(finished) / "images").iterdir())
    arguments = [f"run={tmp_path / 'run'}", f"input={picture}", f"run_dir={tmp_path / 'o'}"]
    done = run("mode=predict", *arguments, check=False)
    assert done.returncode == 2
    assert "drusen" in done.stderr


def test_a_sweep_over_patients_and_seeds(tmp_path):
    arguments = [
        "-m",
        "data.train_size=20,40",
        "seed=0,1",
        "trainer=smoke",
        "model.backbone=test_efficientnet",
        "model.weights=none",
        "data.phantom.patients=90",
        "data.phantom.size=96",
        "preprocess.size=32",
        "explain.scored=0",
        "explain.errors=0",
        "statistics.resamples=100",
        f"run_dir={tmp_path}",
    ]
    run(*arguments)
    folders = sorted(p for p in tmp_path.iterdir() if p.is_dir())
    assert [p.name.split("-")[0] for p in folders] == ["0", "1", "2", "3"]
    sizes, tests = [], []
    for folder in folders:
        records = pd.read_parquet(folder / "records.parquet")
        sizes.append(records.loc[records["split"] == "train", "group"].nunique())
        tests.append(frozenset(records.loc[records["split"] == "test", "id"]))
        assert (folder / "report.html").exists()
    assert sizes == [20, 20, 40, 40]
    assert tests[0] == tests[2], "the same seed has the same test set at every size"
    assert tests[0] != tests[1]
    again = run(*arguments).stdout
    assert again.count("Complete already") == 4


def test_resuming_with_other_data_is_refused(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    flow = tmp_path / "run" / "flow.json"
    flow.write_text(json.dumps(json.loads(flow.read_text()) | {"fingerprint": "0" * 64}))
    done = run("mode=resume", f"run={tmp_path / 'run'}", check=False)
    assert done.returncode == 2
    assert "another data" in done.stderr
