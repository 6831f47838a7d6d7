"""The whole program, as a process: scans arrive, it is killed without warning, and started again."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from dataclasses import replace

import pydicom
import pytest
import torch
from conftest import REPOSITORY, compose, run_on_cpu
from test_head_ct_dicom import HEADER, head

from pipelines.head_ct.learner import HeadCtLearner
from pipelines.head_ct.predicting import StudyScorer
from pipelines.head_ct.study import STUDY
from pipelines.head_ct.writing import write_slices
from pipelines.shared.learning.model_files import save_network
from pipelines.shared.run import open_finished
from pipelines.shared.run_folder import RunFolder, write_json

pytest.importorskip("pynetdicom", reason="the extra listen is not installed")
pytest.importorskip("highdicom", reason="the extra listen is not installed")

from pynetdicom import AE, evt

from pipelines.head_ct.dicom import CT

POINTS = [
    {"task": "silver_4", "name": "high_specificity", "score": "p_at_least_4", "threshold": 0.0, "chosen_on": "val",
     "alarm": True},
]  # fmt: skip
SMALL = ["model.backbone=test_resnet", "model.weights=none", "preprocess.size=32", "trainer.device=cpu"]
PLACES = re.compile(r"Scans are sent to HEADCT@127\.0\.0\.1:(\d+); the page is at 127\.0\.0\.1:(\d+)")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished run that nobody trained: its scores mean nothing, but they are always the same."""
    folder = tmp_path_factory.mktemp("made") / "run"
    config = compose("head_ct", *SMALL, f"cache.dir={folder.parent / 'cache'}", f"run_dir={folder}")
    place = RunFolder(folder)
    place.write_config(config.model_dump())
    torch.manual_seed(1)
    learner = HeadCtLearner(config)
    network = learner.build()
    save_network(place.network("network"), network, {
        "study": "head_ct", "name": "network", "version": "0", "architecture": learner.architecture(network),
        "classes": learner.classes, "untaught": {}, "preprocessing": STUDY.prepare_settings(config), "seed": 0,
        "operating_points": POINTS,
    })  # fmt: skip
    write_json(place.operating_points, POINTS)
    write_json(place.environment, {"device": "CPU", "seconds": {}})
    write_json(place.flow, {"synthetic": True, "source": "phantom"})
    return folder


@contextmanager
def program(made, place, *keys):
    """The program, its DICOM port and its page's address; killed at the end if it still runs."""
    said = place / f"said-{time.monotonic_ns()}.txt"
    command = [
        sys.executable, "-m", "pipelines.head_ct", "mode=listen", f"run={made}", "listen.port=0", "serve.port=0",
        "listen.pause=0.3", "listen.free_gb=0", f"listen.folder={place / 'node'}", f"cache.dir={place / 'cache'}",
        "trainer.device=cpu", f"run_dir={place / said.stem}", *keys,
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with said.open("w") as output:
        process = subprocess.Popen(command, cwd=REPOSITORY, stdout=output, stderr=subprocess.STDOUT, env=environment)
    try:
        end = time.monotonic() + 180
        while (found := PLACES.search(said.read_text())) is None:
            assert process.poll() is None, said.read_text()
            assert time.monotonic() < end, said.read_text()
            time.sleep(0.1)
        yield process, int(found[1]), f"http://127.0.0.1:{found[2]}"
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def write_study(folder, number, slices=8):
    hu, positions, orientation = head(slices, size=32, spacing=4.0, step=10.0, seed=number)
    study = f"1.2.3.{number}"
    header = replace(HEADER, study_uid=study, series_uid=f"{study}.4", spacing=(4.0, 4.0), orientation=orientation)
    write_slices(folder, header, list(hu + number), positions, [f"f{k:03d}" for k in range(slices)])
    return [pydicom.dcmread(file) for file in sorted(folder.iterdir())]


def send(port, datasets):
    entity = AE("SCANNER")
    entity.add_requested_context(CT)
    link = entity.associate("127.0.0.1", port, ae_title="HEADCT")
    assert link.is_established
    assert [link.send_c_store(ds).Status for ds in datasets] == [0] * len(datasets)
    link.release()


def queue_of(page, until, seconds=60):
    """The page's state as soon as it is so."""
    end = time.monotonic() + seconds
    while True:
        with urllib.request.urlopen(f"{page}/queue", timeout=10) as answer:
            now = json.load(answer)
        if until(now):
            return now
        assert time.monotonic() < end, now
        time.sleep(0.1)


def all_scored(count):
    return lambda now: [s["scored"] and not s["late"] for s in now["waiting"]] == [True] * count


@pytest.mark.slow
def test_killed_and_started_again_nothing_is_lost_and_nothing_twice(made, tmp_path):
    got, archive = [], AE("ARCHIVE")
    archive.add_supported_context("1.2.840.10008.5.1.4.1.1.88.33")

    def store(event):
        got.append(event.dataset.StudyInstanceUID)
        return 0x0000

    receiver = archive.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
    target = f"listen.send='dicom://ARCHIVE@127.0.0.1:{receiver.socket.getsockname()[1]}'"
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
            assert process.wait(30) == 0
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
    config = compose("head_ct", *SMALL, f"cache.dir={tmp_path / 'cache'}", "mode=predict", f"run_dir={tmp_path / 'p'}")
    scorer = StudyScorer(run_on_cpu(STUDY, config, RunFolder(tmp_path / "p")), open_finished(STUDY, made))
    for shown in now["waiting"]:
        row = scorer.rows(tmp_path / "node" / "studies", [shown["study"]]).iloc[0]
        assert row["study"] == shown["study"]
        assert abs(row["p_at_least_4"] - shown["score"]) < 1e-6  # threads differ here
    for file in tmp_path.glob("*/run.log"):
        assert "Doe" not in file.read_text()
        assert "1.2.3." not in file.read_text()
