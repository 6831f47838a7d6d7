"""Whole runs: the real samples trained on and judged, several sources, the cardiologists' table, a sweep."""

from __future__ import annotations

import json
import shutil
import subprocess

import cutting
import numpy as np
import pandas as pd
import pytest
from conftest import phantom_root

from pipelines.ecg.config import CLASSES
from pipelines.ecg.labels import NOTES

pytestmark = pytest.mark.slow


def run(*arguments: str, check: bool = True, draws: bool = False) -> subprocess.CompletedProcess[str]:
    done = cutting.answer("ecg", *arguments, draws=draws)
    assert not check or done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def finished(smoke_run_of):
    """A run of a few steps on the phantom."""
    return smoke_run_of("ecg")[0]


def metrics_of(folder):
    return json.loads((folder / "metrics.json").read_text())


def test_the_cardiologists_table_needs_no_model(real_sample, tmp_path):
    done = run("mode=readers", "data=irhythm", f"data.root={real_sample('irhythm')}", f"run_dir={tmp_path / 'r'}")
    assert done.stdout.strip().splitlines()[-1] == str(tmp_path / "r" / "report.html")
    assert "Average by support" in done.stdout
    assert "JUNCTIONAL" in done.stdout
    metrics = metrics_of(tmp_path / "r")["metrics"]
    for name in [*CLASSES, "weighted", "macro"]:
        for level in ("sequence", "set"):
            entry = metrics[f"test.{name}.f1_{level}"]
            assert entry["value"] is not None or entry["reason"]
    assert metrics["test.weighted.f1_sequence"]["groups"] == 24
    assert metrics["test.agreement.fleiss_kappa"]["value"] > 0.4
    assert not (tmp_path / "r" / "models").exists()
    refused = run("mode=readers", "data=cinc2017", f"data.root={real_sample('cinc2017')}", check=False)
    assert refused.returncode == 2
    assert len(refused.stderr.strip().splitlines()) == 2


def test_the_challenges_sample_trains_and_is_judged_on_the_test_set(real_sample, tmp_path):
    root = real_sample("cinc2017")
    run(
        "experiment=cinc2017", f"data.root={root}", "model.filters=4", "trainer.epochs=2", "trainer.max_steps=3",
        "split.train=0.6", "split.val=0.2", "split.test=0.2", f"run_dir={tmp_path / 'c'}",
    )  # fmt: skip
    whole = metrics_of(tmp_path / "c")
    assert whole["headline"] == "test.challenge.f1"
    assert whole["source"]["name"] == "cinc2017"
    for word in ("N", "A", "O", "~"):
        assert f"test.{word}.f1_record" in whole["metrics"]
    mean = sum(whole["metrics"][f"test.{w}.f1_record"]["value"] or 0 for w in "NAO") / 3
    assert whole["metrics"]["test.challenge.f1"]["value"] == pytest.approx(mean)
    assert whole["reference"]["chance"] == pytest.approx(0.25, abs=0.02)
    table = pd.read_parquet(tmp_path / "c" / "predictions" / "test.parquet")
    assert table["target"].isna().all()
    assert not table.duplicated(["record", "step"]).any()

    run("mode=evaluate", f"run={tmp_path / 'c'}", "data=irhythm", f"data.root={real_sample('irhythm')}",
        f"run_dir={tmp_path / 'e'}")  # fmt: skip
    judged = metrics_of(tmp_path / "e")
    assert judged["headline"] == "test.weighted.f1_sequence"
    assert judged["splits"] == {"test": {"records": 24, "groups": 24}}
    assert "test.AF.cardiologists_f1_sequence" in judged["metrics"]
    assert judged["metrics"]["test.weighted.cardiologists_f1_sequence"]["value"] == pytest.approx(0.6856, abs=1e-3)
    guessed = judged["metrics"]["test.EAR.f1_sequence"]
    assert guessed["value"] is None
    assert guessed["reason"] == "training taught it only as part of O"
    assert judged["metrics"]["test.AF.f1_sequence"]["value"] is not None
    report = (tmp_path / "e" / "report.html").read_text()
    assert "Classes that training never saw" in report
    assert "only as part of a sum" in report
    run("mode=predict", f"run={tmp_path / 'c'}", f"input={real_sample('irhythm')}", f"run_dir={tmp_path / 'p'}")
    said = pd.read_csv(tmp_path / "p" / "predictions.csv")
    assert said[["p_AF", "p_SINUS", "p_NOISE", "p_O"]].sum(axis=1).to_numpy() == pytest.approx(1)
    assert said[["p_AVB", "p_EAR", "p_VT"]].isna().all(axis=None)
    assert set(" ".join(said["rhythms"]).split()) <= {"AF", "SINUS", "NOISE", "O"}
    assert said["untaught"].str.endswith("WENCKEBACH: training taught it only as part of O").all()
    steps = pd.read_parquet(tmp_path / "p" / "steps.parquet")
    assert set(steps["rhythm"]) <= {"AF", "SINUS", "NOISE", "O"}
    assert steps["p_BIGEMINY"].isna().all()
    # What is known of the network came along, so the report can be made again without the run.
    (tmp_path / "c").rename(tmp_path / "gone")
    run("mode=report", f"run={tmp_path / 'e'}")
    assert metrics_of(tmp_path / "e")["metrics"] == judged["metrics"]


def test_a_test_part_without_any_label_ends_in_words(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "r")
    file = tmp_path / "r" / "predictions" / "test.parquet"
    pd.read_parquet(file).assign(target=None).to_parquet(file)
    run("mode=report", f"run={tmp_path / 'r'}")
    whole = metrics_of(tmp_path / "r")
    main = whole["metrics"][whole["headline"]]
    assert main["value"] is None
    assert main["reason"] == "no step and no recording of test has a label"
    assert "no step and no recording of test has a label" in (tmp_path / "r" / "report.html").read_text()


def test_several_sources_are_joined_for_training(real_sample, tmp_path):
    run(
        "data=cinc2017", f"data.root={real_sample('cinc2017')}",
        f"data.also=[{{name: irhythm, root: {real_sample('irhythm')}}}, {{name: mitdb, root: {real_sample('mitdb')}}}]",
        "model.filters=4", "trainer=smoke", f"run_dir={tmp_path / 'j'}",
    )  # fmt: skip
    records = pd.read_parquet(tmp_path / "j" / "records.parquet")
    assert set(records["source"]) == {"cinc2017", "irhythm", "mitdb"}
    facts = json.loads((tmp_path / "j" / "models" / "network" / "model.json").read_text())["architecture"]
    assert {"N", "A", "O", "~", "SINUS"} <= set(facts["trained"])
    assert facts["classes"] == CLASSES
    metrics = metrics_of(tmp_path / "j")["metrics"]
    assert "test.challenge.f1" in metrics
    assert "test.weighted.f1_sequence" in metrics


def test_bad_files_stop_a_run_before_training_or_are_dropped_and_reported(tmp_path):
    from test_ecg_data import wfdb_record

    for i in range(12):
        wfdb_record(tmp_path / "db", f"r{i:02d}", [("SINUS", 0), ("AF", 2560)], seed=i)
    (tmp_path / "db" / "r03.dat").write_bytes(b"\0" * 500)
    (tmp_path / "db" / "r04.hea").unlink()
    common = ["data=wfdb", f"data.root={tmp_path / 'db'}", "trainer=smoke", "model.filters=4"]
    done = run(*common, f"run_dir={tmp_path / 'a'}", check=False)
    assert done.returncode == 2
    assert "r03" in done.stderr
    assert "r04" in done.stderr
    assert not (tmp_path / "a" / "models").exists()
    run(*common, "data.on_bad_file=skip", f"run_dir={tmp_path / 'b'}")
    assert len(pd.read_parquet(tmp_path / "b" / "records.parquet")) == 10
    assert "Files that cannot be read" in (tmp_path / "b" / "report.html").read_text()


def test_the_real_half_hour_and_bad_files(finished, real_sample, tmp_path):
    import wfdb

    mitdb = real_sample("mitdb")
    run("mode=predict", f"run={finished}", f"input={mitdb / '119'}", f"run_dir={tmp_path / 'one'}", draws=True)
    table = pd.read_csv(tmp_path / "one" / "predictions.csv")
    assert table["file"].tolist() == ["119.hea"]
    assert table["steps"].tolist() == [1410]
    assert table[[f"p_{c}" for c in CLASSES]].sum(axis=1).tolist() == pytest.approx([1.0])
    found = pd.read_csv(tmp_path / "one" / "episodes.csv")
    notes = wfdb.rdann(str(tmp_path / "one" / "annotations" / "119.hea"), "rhy")
    assert [n.rstrip("\0") for n in notes.aux_note] == [NOTES[r] for r in found["rhythm"]]
    assert notes.sample / 360 == pytest.approx(found["start_s"], abs=0.01)
    steps = pd.read_parquet(tmp_path / "one" / "steps.parquet")
    assert len(steps) == found["steps"].sum() == 1410
    assert (tmp_path / "one" / "figures" / "119.hea.png").stat().st_size > 10_000

    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    irhythm = next(iter(sorted(real_sample("irhythm").glob("*.ecg"))))
    (folder / "deep" / irhythm.name).write_bytes(irhythm.read_bytes())
    (folder / "cut.hea").write_bytes((mitdb / "119.hea").read_bytes().replace(b"119", b"cut"))
    (folder / "cut.dat").write_bytes((mitdb / "119.dat").read_bytes()[:400_000])
    np.full(6000, 7, "<i2").tofile(folder / "flat.ecg")
    np.save(folder / "norate.npy", np.zeros(6000))
    run("mode=predict", f"run={finished}", f"input={folder}", f"run_dir={tmp_path / 'many'}")
    table = pd.read_csv(tmp_path / "many" / "predictions.csv").set_index("file")
    assert set(table.index) == {"cut.hea", "flat.ecg", "norate.npy", f"deep/{irhythm.name}"}
    good = table.loc[f"deep/{irhythm.name}"]
    assert pd.isna(good["reason"])
    assert good["steps"] == 23
    assert "promises 650,000 samples" in table.loc["cut.hea", "reason"]
    assert "flat lines" in table.loc["flat.ecg", "reason"]
    assert "no sampling rate" in table.loc["norate.npy", "reason"]


def test_a_test_records_answer_is_that_of_the_run(finished, tmp_path):
    records = pd.read_parquet(finished / "records.parquet")
    row = records[records["split"] == "test"].iloc[0]
    flow = json.loads((finished / "flow.json").read_text())
    assert flow["source"] == "phantom"
    file = phantom_root(finished) / row["header"]
    run("mode=predict", f"run={finished}", f"input={file}", f"run_dir={tmp_path / 'p'}")
    mine = pd.read_parquet(tmp_path / "p" / "steps.parquet")
    test = pd.read_parquet(finished / "predictions" / "test.parquet")
    test = test[test["id"] == row["id"]]
    scores = [f"p_{c}" for c in CLASSES]
    assert np.allclose(mine[scores], test[scores], atol=1e-5)
