"""Whole runs: the report, prediction on real and mixed folders, labelling, and that nobody is named anywhere."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
from conftest import run_study
from test_head_ct_data import archive, table
from test_head_ct_dicom import HEADER, head

from pipelines.head_ct.writing import write_slices
from pipelines.shared.files import walk

SECRETS = ("Zaphod", "Beeblebrox", "MRN-Q7Z11XKW", "ACC-12345", "BEEBLEBROX_ZAPHOD", "Q7Z11XKW")


def run(*arguments, check=True):
    done = run_study("head_ct", *arguments)
    assert not check or done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.fixture(scope="module")
def finished(smoke_run_of):
    return smoke_run_of("head_ct")[0]


@pytest.mark.slow
def test_the_report_judges_on_silver_and_gold_and_simulates_both_trials(finished):
    metrics = json.loads((finished / "metrics.json").read_text())
    found = metrics["metrics"]
    assert metrics["headline"] == "test.critical.auroc"
    assert 0.95 < metrics["reference"]["oracle"] <= 1
    for key in ("test.silver_4.auroc", "test.gap_8.difference", "test.critical.accuracy@high_specificity",
                "triage.queue.score_p", "triage.first_come.positive", "triage.triage.saved", "triage.alarm.positive",
                "labeller.all.precision", "labeller.present.recall"):  # fmt: skip
        assert found[key]["value"] is not None, key
    assert found["labeller.all.precision"]["value"] >= 0.95
    assert found["labeller.all.recall"]["value"] >= 0.95
    page = (finished / "report.html").read_text()
    for words in ("Silver against gold", "Triage: the queue", "Triage: the reading room", "Report labeller", "Speed",
                  "physician", "Most confident errors"):  # fmt: skip
        assert words in page, words
    speed = pd.read_csv(finished / "speed.csv")
    assert (speed["seconds"] > 0).all()
    assert "Synthetic data" in (finished / "labels" / "reports.html").read_text()


@pytest.mark.slow
def test_the_real_series_is_scored(finished, real_sample, tmp_path):
    run("mode=predict", f"run={finished}", f"input={real_sample('head_ct')}", f"run_dir={tmp_path / 'p'}")
    (row,) = pd.read_csv(tmp_path / "p" / "predictions.csv").to_dict("records")
    assert row["slices"] == 28
    assert 0 < row["p_at_least_4"] < 1
    assert row["alarm"] in (0, 1)
    assert row["seconds"] > 0
    assert "soft kernel STD+" in row["series"]
    assert "spacing uneven" in row["warnings"]
    assert "gantry tilt" in row["warnings"]
    assert pd.isna(row["reason"])
    assert (tmp_path / "p" / "worklist.html").read_text().count("<img") == 3
    files = pd.read_csv(tmp_path / "p" / "files.csv")
    assert (files["what"] == "used").sum() == 28


@pytest.mark.slow
def test_a_mixed_folder_is_one_row_per_study_and_names_nobody(finished, tmp_path):
    folder = tmp_path / "in" / "BEEBLEBROX_ZAPHOD"
    who = replace(
        HEADER, patient_id="MRN-Q7Z11XKW", patient_name="Beeblebrox^Zaphod", accession="ACC-12345", spacing=(4.0, 4.0)
    )
    hu, positions, _ = head(size=48, spacing=4.0)
    write_slices(folder / "ct", who, list(hu), list(positions), [f"s{i:02d}" for i in range(20)])
    bad = replace(who, study_uid="5.5", series_uid="5.5.1")
    write_slices(folder / "bad", bad, list(hu), list(positions), [f"Zaphod{i:02d}" for i in range(20)])
    for file in (folder / "bad").iterdir():
        file.write_bytes(file.read_bytes()[:-900])
    shutil.copytree(Path(pydicom.__file__).parent / "data" / "test_files", folder / "odd")
    (folder / "Zaphod Beeblebrox.txt").write_text("MRN-Q7Z11XKW")
    (folder / os.fsdecode(b"Zaphod \xe9\xff")).write_text("MRN-Q7Z11XKW")  # a name that is not UTF-8
    (folder / "Zaphod").symlink_to(tmp_path / "nowhere")
    (folder / "._Zaphod.dcm").write_bytes(b"\0\5\x16\7")
    cache = tmp_path / "cache"
    done = run(
        "mode=predict", f"run={finished}", f"input={tmp_path / 'in'}", f"run_dir={tmp_path / 'p'}", f"cache.dir={cache}"
    )
    rows = pd.read_csv(tmp_path / "p" / "predictions.csv")
    studies = rows[rows["study"].notna()]
    assert studies["study"].is_unique
    assert rows["reason"].isna().sum() >= 1
    files = pd.read_csv(tmp_path / "p" / "files.csv")
    assert len(files) == len(walk(tmp_path / "in"))
    for reason, count in files[files["what"] != "used"]["reason"].value_counts().items():
        assert f"{count} file{'s' if count > 1 else ''}: {reason}" in done.stdout + done.stderr
    assert (files[files["what"] != "used"]["reason"].str.len() > 5).all()
    faulty = set(files[files["what"] == "faulty"]["file"])
    assert set(rows["file"].dropna()) <= faulty
    texts = done.stdout + done.stderr
    for file in (tmp_path / "p").rglob("*"):
        if file.is_file():
            texts += file.name + file.read_bytes().decode("latin-1")
    for secret in SECRETS:
        assert secret not in texts, secret
    assert "BEEBLEBROX_ZAPHOD" in next((cache / "head_ct").glob("index-*/files.csv")).read_text()


@pytest.mark.slow
def test_a_prediction_that_was_cut_off_goes_on_and_keeps_its_order(finished, tmp_path):
    archive(tmp_path / "in", 6)
    keys = ["mode=predict", f"run={finished}", f"input={tmp_path / 'in'}"]
    run(*keys, f"run_dir={tmp_path / 'p'}")
    whole = pd.read_csv(tmp_path / "p" / "predictions.csv")
    assert whole["p_at_least_4"].is_monotonic_decreasing
    page = (tmp_path / "p" / "worklist.html").read_text()
    parts = sorted((tmp_path / "p" / "parts").glob("*.parquet"))
    assert len(parts) == 6
    for file in [*parts[2:], tmp_path / "p" / "predictions.csv", tmp_path / "p" / "worklist.html"]:
        file.unlink()
    next((tmp_path / "p" / "key_slices").glob("*.png")).unlink()
    kept = {file: file.stat().st_mtime_ns for file in parts[:2]}
    done = run("mode=resume", f"run={tmp_path / 'p'}")
    assert "2 of 6 files are scored already" in done.stdout + done.stderr
    assert kept == {file: file.stat().st_mtime_ns for file in parts[:2]}
    again = pd.read_csv(tmp_path / "p" / "predictions.csv")
    assert again.drop(columns="seconds").equals(whole.drop(columns="seconds"))
    assert (tmp_path / "p" / "worklist.html").read_text().count("<img") == page.count("<img") == 18


def test_one_study_never_ends_a_batch(monkeypatch):
    """Whatever is raised over one study is its reason; the others are scored."""
    from pipelines.head_ct.predicting import COLUMNS, _Scoring

    failures = {
        "ct-b": MemoryError(),
        "ct-d": RuntimeError("odd"),
        "ct-e": OSError(5, "Input/output error"),
    }

    def row(name):
        if name in failures:
            raise failures[name]
        return dict.fromkeys(COLUMNS) | {"study": name, "p_at_least_4": 0.5}

    scoring = object.__new__(_Scoring)
    monkeypatch.setattr(scoring, "_row", row, raising=False)
    table = scoring.rows([f"ct-{c}" for c in "abcde"])
    assert table["study"].tolist() == table["file"].tolist() == [f"ct-{c}" for c in "abcde"]
    assert table["reason"].isna().tolist() == [True, False, True, False, False]
    assert "memory" in table["reason"][1]
    assert "Input/output error" in table["reason"][4]


def test_a_study_has_its_set_behind_its_row():
    """Of a question with thresholds; what has no score has no set, and runs from before have no column."""
    from types import SimpleNamespace

    from pipelines.head_ct.predicting import COLUMNS, _predictions

    studies = {"a": 0.9, "b": 0.05, "c": 0.4}
    rows = [dict.fromkeys(COLUMNS) | {"study": name, "p_at_least_4": p} for name, p in studies.items()]
    table = pd.DataFrame([*rows, dict.fromkeys(COLUMNS) | {"study": "d", "reason": "odd"}], columns=COLUMNS)
    archive = SimpleNamespace(without=[], faulty=list)
    entry = {"name": "set_90", "task": "silver_4", "classes": ["no", "yes"], "scores": ["p_at_least_4"]}
    sets = [entry | {"thresholds": [0.5, 0.3]}, entry | {"task": "critical", "thresholds": [0.0, 0.0]}]
    made = _predictions(table, archive, None, SimpleNamespace(prediction_sets=sets)).set_index("study")
    assert made["silver_4@set_90"].where(made["silver_4@set_90"].notna(), None).to_dict() == {
        "a": "yes", "c": "no|yes", "b": "no", "d": None,
    }  # fmt: skip
    assert list(made.columns) == [*COLUMNS[1:], "silver_4@set_90"]
    assert list(_predictions(table, archive, None, SimpleNamespace(prediction_sets=[]))) == COLUMNS


@pytest.mark.slow
def test_training_on_ones_own_archive_names_nobody(tmp_path):
    root = archive(tmp_path / "in", 24, [f"Zaphod Beeblebrox {i}" for i in range(24)])
    texts = ["Subdural hematoma, mass effect, midline shift, hydrocephalus.", "No hemorrhage. No fracture."]
    reports = [["accession", "report"], *([f"ACC-{i}", texts[i % 2]] for i in range(24))]
    file = table(tmp_path / "reports.csv", reports)
    gold = table(
        tmp_path / "gold.csv", [["accession", "critical"], *([f"ACC-{i}", (i + 1) % 2] for i in range(12, 24))]
    )
    done = run(
        "data=reports", f"data.root={root}", f"data.reports={file}", f"data.gold={gold}", "trainer=smoke",
        "trainer.max_steps=1", "data.conflicting_labels=keep", "preprocess.size=32", "statistics.resamples=100",
        "triage.repetitions=4", "triage.resamples=20", f"run_dir={tmp_path / 'r'}", f"cache.dir={tmp_path / 'c'}",
    )  # fmt: skip
    text = done.stdout + done.stderr
    for path in (tmp_path / "r").rglob("*"):
        if path.is_file() and path.suffix not in (".pt", ".safetensors"):
            text += path.name + path.read_bytes().decode("latin-1")
    for secret in ("Zaphod", "Beeblebrox", "MRN-47", "ACC-1", "Doe^", "Jane"):
        assert secret not in text, secret
    records = pd.read_parquet(tmp_path / "r" / "records.parquet")
    assert (records["split"] == "test").sum() == 12
    assert records["group"].nunique() == 12


@pytest.mark.slow
def test_mistakes_are_two_lines(finished, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("no")
    for arguments, named in (
        (["mode=predict", f"run={finished}", f"input={tmp_path / 'nowhere'}"], "does not exist"),
        (["mode=predict", f"run={finished}", f"input={tmp_path / 'in'}"], "No CT slice among the 1 files"),
        (["preprocess.windows=[[40,80]]"], "three windows"),
        (["data.phantom.gold=350"], "fewer than 20"),
        (["series.soft_kernels=['(']"], "no regular expression"),
    ):
        done = run(*arguments, f"run_dir={tmp_path / 'x'}", check=False)
        assert done.returncode == 2, arguments
        assert named in done.stderr
        assert len(done.stderr.strip().splitlines()) == 2
        assert not (tmp_path / "x").exists()


@pytest.mark.slow
def test_reports_are_labelled_without_pictures(tmp_path):
    file = table(
        tmp_path / "r.csv", [["id", "report"], ["p1", "Large subdural hematoma <b>. No fracture."], ["p2", ""]]
    )
    run("mode=label", f"input={file}", f"run_dir={tmp_path / 'l'}")
    labels = pd.read_csv(tmp_path / "l" / "labels.csv")
    assert labels["row"].tolist() == ["row 2", "row 3"]
    assert labels["concepts"].tolist()[0] == 1
    assert np.isnan(labels["silver_4"][1])
    page = (tmp_path / "l" / "reports.html").read_text()
    assert '<mark class="present">subdural hematoma' in page
    assert "&lt;b&gt;" in page
    done = run("mode=label", f"input={tmp_path / 'nowhere.csv'}", f"run_dir={tmp_path / 'm'}", check=False)
    assert done.returncode == 2
