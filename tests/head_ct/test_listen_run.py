"""The whole program, as a process: scans arrive, it is killed without warning, and started again."""

from __future__ import annotations

import signal
import sqlite3
from dataclasses import replace

import pydicom
import pytest
from conftest import PATIENCE, compose, run_on_cpu
from test_head_ct_dicom import HEADER, head

from pipelines.head_ct.predicting import StudyScorer
from pipelines.head_ct.study import STUDY
from pipelines.head_ct.writing import write_slices
from pipelines.shared.run import open_finished
from pipelines.shared.run_folder import RunFolder

pytest.importorskip("pynetdicom", reason="the extra listen is not installed")
pytest.importorskip("highdicom", reason="the extra listen is not installed")

from made_node import SMALL, all_scored, make_run, program, queue_of, send
from pynetdicom import AE, evt


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("made") / "run", *SMALL)


def write_study(folder, number, slices=8):
    hu, positions, orientation = head(slices, size=32, spacing=4.0, step=10.0, seed=number)
    study = f"1.2.3.{number}"
    header = replace(HEADER, study_uid=study, series_uid=f"{study}.4", spacing=(4.0, 4.0), orientation=orientation)
    write_slices(folder, header, list(hu + number), positions, [f"f{k:03d}" for k in range(slices)])
    return [pydicom.dcmread(file) for file in sorted(folder.iterdir())]


@pytest.mark.slow
def test_killed_and_started_again_nothing_is_lost_and_nothing_twice(made, tmp_path):
    got, archive = [], AE("ARCHIVE")
    archive.add_supported_context("1.2.840.10008.5.1.4.1.1.88.33")

    def store(event):
        got.append(event.dataset.StudyInstanceUID)
        return 0x0000

    receiver = archive.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
    target = f"listen.send='ARCHIVE@127.0.0.1:{receiver.socket.getsockname()[1]}'"
    studies = [write_study(tmp_path / f"s{k}", k) for k in range(3)]
    try:
        with program(made, tmp_path, target) as (process, port, page):
            send(port, studies[0])
            queue_of(page, all_scored(1))
            send(port, studies[1])
            send(port, studies[2][:5])
            process.send_signal(signal.SIGKILL)
            process.wait()
        with program(made, tmp_path, target) as (process, port, page):
            send(port, studies[2][3:])  # two of them again
            now = queue_of(
                page,
                lambda now: all_scored(3)(now) and all(s["picture"] and not s["unsent"] for s in now["waiting"]),
            )
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) == 0
    finally:
        receiver.shutdown()
    assert [s["files"] for s in now["waiting"]] == [8] * 3
    assert [s["slices"] for s in now["waiting"]] == [8] * 3
    scores = [s["score"] for s in now["waiting"]]
    assert scores == sorted(scores, reverse=True)
    assert all(s["alarm"] and s["picture"] for s in now["waiting"])
    assert set(got) == {"1.2.3.0", "1.2.3.1", "1.2.3.2"}
    journal = sqlite3.connect(tmp_path / "node" / "journal.sqlite")
    last = journal.execute("SELECT count(*), count(DISTINCT study) FROM scores WHERE revision = 8").fetchone()
    assert last == (3, 3), "every study with all its slices, once"

    # The same numbers as mode=predict, which reads the same files with the same code.
    config = compose(
        "head_ct",
        *SMALL,
        "trainer.device=cpu",
        f"cache.dir={tmp_path / 'cache'}",
        "mode=predict",
        f"run_dir={tmp_path / 'p'}",
    )
    scorer = StudyScorer(run_on_cpu(STUDY, config, RunFolder(tmp_path / "p")), open_finished(STUDY, made))
    for shown in now["waiting"]:
        row = scorer.rows(tmp_path / "node" / "studies", [shown["study"]]).iloc[0]
        assert row["study"] == shown["study"]
        assert abs(row["p_at_least_4"] - shown["score"]) < 1e-6  # threads differ here
    folder = tmp_path / "node" / "studies" / now["waiting"][0]["study"]
    assert scorer.left_out() is None
    (folder / "junk.dcm").write_bytes(b"junk")
    scorer.rows(folder.parent, [folder.name])
    assert str(scorer.left_out()).startswith("1 file: ")
    for file in tmp_path.glob("*/run.log"):
        assert "Doe" not in file.read_text()
        assert "1.2.3." not in file.read_text()
