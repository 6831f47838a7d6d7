"""mode=predict over folders: every file a row of its own, results that are never written over, going on after a cut."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
from conftest import compose, run_on_cpu
from test_ecg_data import sine, wfdb_record
from test_ecg_signals import ecg_like, put

from pipelines.ecg import predicting
from pipelines.ecg.annotations import read_rhythms
from pipelines.ecg.architecture import Architecture
from pipelines.ecg.config import CLASSES
from pipelines.ecg.labels import STEP
from pipelines.ecg.study import STUDY
from pipelines.shared.cli.finished import with_finished_run
from pipelines.shared.errors import ConfigError, MissingPackage
from pipelines.shared.job import Job
from pipelines.shared.run import open_finished
from pipelines.shared.run_folder import RunFolder


def by_its_mean(windows):
    """Probabilities that depend on each step's signal alone."""
    mean = windows.reshape(len(windows), -1, STEP).std(axis=2)
    p = np.zeros((*mean.shape, len(CLASSES)))
    p[..., 0], p[..., 7] = 1 / (1 + mean), mean / (1 + mean)
    return p


@pytest.fixture
def predict(tmp_path, monkeypatch):
    """Label some files as a finished run would, with an answer that needs no network."""
    asked: list[int] = []

    def answer(windows):
        asked.append(len(windows))
        return by_its_mean(windows)

    def picture(path, rows):  # drawing one takes a second
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{len(rows)} strips")
        return path

    monkeypatch.setattr(predicting, "_answer", lambda *_: answer)
    monkeypatch.setattr(predicting, "strips", picture)
    finished = tmp_path / "finished"
    (finished / "models" / "network").mkdir(parents=True)
    facts = {"schema": 1, "study": "ecg", "classes": CLASSES, "preprocessing": {}}
    facts["architecture"] = asdict(Architecture(8, 0.0, 0.0, 1.0, CLASSES, CLASSES))
    (finished / "models" / "network" / "model.json").write_text(json.dumps(facts))
    (finished / "operating_points.json").write_text("[]")

    def run(source, name, *more):
        folder = tmp_path / name
        config = compose("ecg", "mode=predict", f"run={finished}", f"input={source}", f"run_dir={folder}", *more)
        predicting.predict_recordings(STUDY, Job(config, folder, ""))
        return pd.read_csv(folder / "predictions.csv", dtype={"file": str}).set_index("file")

    run.asked = asked
    return run


def signal(folder, name, seed=0):
    folder.mkdir(parents=True, exist_ok=True)
    x = sine(30, seed)
    time = np.arange(len(x)) / 200
    pd.DataFrame({"time": time.round(3), "II": x}).to_csv(folder / f"{name}.csv", index=False)


def test_results_have_names_of_their_own(predict, tmp_path):
    folder = tmp_path / "in"
    for k, name in enumerate(("2024.01.15", "2024.01.16", "患者一", "患者二", "a b", "a_b")):
        signal(folder, name, k)
    signal(folder / "sub", "a b", 7)
    signal(folder / "a", "b__c", 8)
    signal(folder / "a__b", "c", 9)
    np.save(folder / "a b.npy", sine())
    table = predict(folder, "out", "data.sampling_rate=200")
    assert len(table) == 10
    assert table["reason"].isna().all()
    notes = sorted(f.name for f in (tmp_path / "out" / "annotations").iterdir())
    pictures = sorted(f.stem for f in (tmp_path / "out" / "figures").glob("*.png"))
    assert len(notes) == len(pictures) == 10
    assert {"2024.01.15.csv.rhy", "患者一.csv.rhy", "a b.csv.rhy", "a b.npy.rhy", "sub__a b.csv.rhy"} <= set(notes)


def test_annotations_count_in_the_clock_of_their_own_recording(predict, tmp_path):
    x = np.concatenate([ecg_like(40, seed=k) * (1, 0.01)[k % 2] for k in range(3)])
    put(tmp_path / "in", "odd", x, head=f"1 249.96 {len(x)}")
    frames = np.hstack([np.zeros((len(x) // 8, 1)), x.reshape(-1, 8)])
    lines = ["16 200/mV 12 0 0 0 0 RESP", "16x8 200/mV 12 0 0 0 0 II"]
    put(tmp_path / "in", "frames", frames, head=f"2 31.25 {len(frames)}", line=lines)
    predict(tmp_path / "in", "out")
    found = pd.read_csv(tmp_path / "out" / "episodes.csv")
    for name, rate in (("odd.hea", 249.96), ("frames.hea", 31.25)):
        (tmp_path / "out" / "annotations" / f"{name}.hea").write_text(f"{name} 1 {rate}\n")
        read = read_rhythms(tmp_path / "out" / "annotations" / name, "rhy")
        mine = found[found["file"] == name]
        assert len(mine) > 1
        assert np.allclose(read.seconds, mine["start_s"], atol=0.02)


@pytest.mark.slow
def test_bad_files_take_nothing_from_the_others(predict, tmp_path):
    folder = tmp_path / "in"
    for k in range(6):
        signal(folder, f"s{2 * k}", k)
    (folder / "s1.csv").write_text("II\n0,1\n0,2\n")
    (folder / "s3.npy").write_bytes(b"\x93NUMPY no array")
    (folder / "s5.csv").write_bytes(b"")
    put(folder, "s7", np.full(6000, 3), head="1 200")  # a flat line
    put(folder, "s9", ecg_like(30), head="1 250 9000")  # truncated
    put(folder, "s11", ecg_like(30), head="1 250 7500", line="16 1e-320/mV 12 0 0 0 0 II")
    table = predict(folder, "all")
    bad = table["reason"].notna()
    assert sorted(table.index[bad]) == ["s1.csv", "s11.hea", "s3.npy", "s5.csv", "s7.hea", "s9.hea"]
    for name in table.index[~bad]:
        alone = predict(folder / name, f"alone-{name}")
        pd.testing.assert_frame_equal(alone, table.loc[[name]].astype(alone.dtypes))
    assert list(table.index) == [
        f"s{k}.{'csv' if k in (1, 5) or k % 2 == 0 else 'npy' if k == 3 else 'hea'}" for k in range(12)
    ]


def test_a_file_that_fails_in_an_unforeseen_way_has_its_reason(predict, tmp_path, monkeypatch):
    for name in ("a", "b", "c"):
        signal(tmp_path / "in", name)
    whole = predicting.signals.clipped_share
    calls = iter(range(99))

    def one_fails(values):
        if next(calls) == 1:
            raise MemoryError
        return whole(values)

    monkeypatch.setattr(predicting.signals, "clipped_share", one_fails)
    table = predict(tmp_path / "in", "out")
    assert table["reason"].tolist()[1] == "needs more memory than there is"
    assert table["reason"].isna().tolist() == [True, False, True]


def test_a_name_that_is_not_utf_8_is_a_row(predict, tmp_path):
    signal(tmp_path / "in", "a")
    odd = os.fsencode(tmp_path / "in") + b"/caf\xe9.csv"
    try:
        (tmp_path / "in" / "a.csv").rename(os.fsdecode(odd))
    except OSError:
        pytest.skip("this file system takes no such name")
    signal(tmp_path / "in", "b")
    table = predict(tmp_path / "in", "out")
    assert table["reason"].isna().all()
    assert set(table.index) == {"caf\\xe9.csv", "b.csv"}


def test_every_file_is_a_row_or_counted(predict, tmp_path, caplog):
    folder = tmp_path / "in"
    wfdb_record(folder, "r1")  # with .dat and .atr
    put(folder, "n_1", ecg_like(40), head="1 250 10000")
    (folder / "night.hea").write_text("night/2 1 250 20000\nn_1 10000\nn_1 10000\n")
    (folder / "r1.csv").write_text("a,list,of,beats\n")  # beside a record of this name
    (folder / "stray.dat").write_bytes(b"\0" * 100)
    (folder / "notes.txt").write_text("x")
    (folder / ".DS_Store").write_text("x")
    (folder / "gone.csv").symlink_to(folder / "nowhere")
    signal(tmp_path / "elsewhere", "s")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    table = predict(folder, "out")
    assert set(table.index) == {"gone.csv", "linked/s.csv", "night.hea", "r1.hea"}
    assert table.loc[["linked/s.csv", "night.hea", "r1.hea"], "reason"].isna().all()
    assert float(table.loc["night.hea", "seconds"]) == 80
    said = (tmp_path / "out" / "run.log").read_text()
    assert "1 .txt" in said
    assert "1 segment read with their records" in said
    assert "1 .dat" in said
    assert table.loc["gone.csv", "reason"]


def test_a_service_draws_strips_and_no_page_of_a_long_recording(predict, tmp_path, monkeypatch):
    pages = []
    monkeypatch.setattr(predicting, "LONG", 20)
    monkeypatch.setattr(predicting, "write_summary", lambda folder, *more: pages.append(folder.name))
    signal(tmp_path / "in", "a")
    predict(tmp_path / "in", "out")
    assert pages == ["a.csv"]
    finished, folder = open_finished(STUDY, tmp_path / "finished"), RunFolder(tmp_path / "served")
    run = run_on_cpu(STUDY, compose("ecg", f"run_dir={folder.path}"), folder)
    folder.path.mkdir()
    shown = predicting.RecordingScorer(run, finished, in_memory=True).pictures(tmp_path / "in", "a.csv")
    assert [picture.png for picture in shown] == [b"4 strips"]
    assert len(pages) == 1


@pytest.mark.filterwarnings("error::DeprecationWarning:pipelines")
def test_counts_stay_whole_beside_a_file_without_an_answer(predict, tmp_path):
    folder = tmp_path / "in"
    signal(folder, "good")
    (folder / "bad.csv").write_text("no signal\n")
    predict(folder, "out")
    table = pd.read_csv(tmp_path / "out" / "predictions.csv", dtype=str).set_index("file")
    assert table["reason"].notna().to_dict() == {"bad.csv": True, "good.csv": False}
    assert all(table.loc["good.csv", column].isdecimal() for column in ("steps", "missing_samples", "episodes"))
    assert table.loc["good.csv", "seconds"] == "30.0"


def test_a_service_without_the_extra_is_refused_before_any_file(predict, tmp_path, monkeypatch):
    finished, folder = open_finished(STUDY, tmp_path / "finished"), RunFolder(tmp_path / "served")
    run = run_on_cpu(STUDY, compose("ecg", f"run_dir={folder.path}"), folder)
    monkeypatch.setitem(sys.modules, "wfdb", None)
    with pytest.raises(MissingPackage, match=r"Labelling recordings needs packages that are not installed: wfdb\."):
        STUDY.scorer(run, finished, in_memory=True)


@pytest.mark.slow
def test_a_prediction_that_was_cut_off_goes_on(predict, tmp_path, monkeypatch):
    folder = tmp_path / "in"
    for k in range(5):
        signal(folder, f"s{k}", k)
    pictures = predicting.strips

    def cut(path, rows, **more):
        if path.name.startswith("s3"):
            raise KeyboardInterrupt
        return pictures(path, rows, **more)

    monkeypatch.setattr(predicting, "strips", cut)
    with pytest.raises(KeyboardInterrupt):
        predict(folder, "out")
    assert not (tmp_path / "out" / "predictions.csv").exists()
    first = (tmp_path / "out" / "annotations" / "s0.csv.rhy").stat().st_mtime_ns
    monkeypatch.setattr(predicting, "strips", pictures)
    before = len(predict.asked)
    table = predict(folder, "out")
    assert len(predict.asked) - before == 2, "s3 and s4 alone"
    assert (tmp_path / "out" / "annotations" / "s0.csv.rhy").stat().st_mtime_ns == first
    pd.testing.assert_frame_equal(table, predict(folder, "whole"))
    for name in ("episodes.csv", "steps.parquet"):
        read = pd.read_csv if name.endswith("csv") else pd.read_parquet
        pd.testing.assert_frame_equal(read(tmp_path / "out" / name), read(tmp_path / "whole" / name))


@pytest.mark.slow
def test_predict_takes_the_keys_that_its_reasons_name(predict, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    RunFolder(run).write_config(compose("ecg", "data.leads=[V1,II]").model_dump())

    def of(*more):
        config = compose("ecg", "mode=predict", f"run={run}", "input=x", *more)
        return with_finished_run("ecg", config, [m.partition("=")[0] for m in more])

    assert (of().data.leads, of().data.sampling_rate) == (["V1", "II"], None)
    assert of("data.sampling_rate=128").data.sampling_rate == 128
    assert of("data.leads=[aVR]").data.leads == ["aVR"]
    with pytest.raises(ConfigError, match=r"takes: .*data\.leads, data\.sampling_rate"):
        of("preprocess.steps=17")
    np.save(tmp_path / "a.npy", sine())
    reason = predict(tmp_path / "a.npy", "without").loc["a.npy", "reason"]
    assert "give data.sampling_rate=<Hz>" in reason
    assert pd.isna(predict(tmp_path / "a.npy", "given", "data.sampling_rate=200").loc["a.npy", "reason"])
