"""The node is killed at random moments while several senders send; they repeat what was not acknowledged."""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import PATIENCE, REPOSITORY

from pipelines.head_ct.dicom import CT
from pipelines.head_ct.writing import Header, dataset_of, uid_of

pytest.importorskip("pynetdicom", reason="the extra listen is not installed")

from pynetdicom import AE

SLICES = 12


class Life:
    """The node as one process after the other; `port` is None while there is none."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port: int | None = None
        self.process: subprocess.Popen[str] | None = None

    def begin(self) -> None:
        command = [sys.executable, str(Path(__file__).with_name("bare_node.py")), str(self.folder)]
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def end(self) -> None:
        assert self.process is not None
        self.port = None
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


def slice_of(study: str, number: int):
    ds = dataset_of(
        Header("MRN", "Doe^Jane", "ACC", study, f"{study}.4", (1.0, 1.0)), CT, uid_of(study, number), number
    )
    ds.Rows = ds.Columns = 8
    ds.PixelData = bytes(128)
    ds["PixelData"].VR = "OW"
    return ds


def send_all(life: Life, sender: int, over: threading.Event, sent: list[str], until: float) -> None:
    """Send one study after the other, each slice until it is acknowledged, as a scanner does, until it is over."""
    entity = AE("SCANNER")
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = entity.connection_timeout = 20
    entity.add_requested_context(CT)
    number = 0
    while not over.is_set():
        study = f"1.2.{sender}.{number}"
        left, number = [slice_of(study, k) for k in range(SLICES)], number + 1
        while left and time.monotonic() < until:
            link = entity.associate("127.0.0.1", life.port, ae_title="HEADCT") if life.port else None
            if link is None or not link.is_established:
                time.sleep(0.05)
                continue
            while left and link.is_established:
                try:
                    status = link.send_c_store(left[0])
                except RuntimeError:  # the association has gone
                    break
                if status.get("Status") != 0:
                    break
                left.pop(0)
            if link.is_established:
                link.release()
        if not left:
            sent.append(study)


def killed(folder: Path, kills: int, senders: int, seed: int) -> tuple[sqlite3.Connection, int]:
    """Kill the node so often while studies are sent; its journal when all is scored, and how many were sent."""
    chance, life, until = random.Random(seed), Life(folder), time.monotonic() + PATIENCE + 60 * kills
    life.begin()
    over, sent = threading.Event(), []
    threads = [threading.Thread(target=send_all, args=(life, s, over, sent, until)) for s in range(senders)]
    try:
        for thread in threads:
            thread.start()
        for _ in range(kills):
            time.sleep(chance.uniform(0.0, 0.6))
            life.end()
            life.begin()
        over.set()
        for thread in threads:
            thread.join()
        journal = sqlite3.connect(folder / "journal.sqlite", timeout=PATIENCE)
        due = (
            "SELECT count(*) FROM studies AS s WHERE NOT EXISTS "
            "(SELECT 1 FROM scores WHERE study = s.study AND revision = s.revision)"
        )
        while journal.execute(due).fetchone()[0]:
            assert time.monotonic() < until
            time.sleep(0.1)
    finally:
        life.end()
    return journal, len(sent)


def check(folder: Path, journal: sqlite3.Connection, count: int) -> None:
    """All is there, once."""
    files = journal.execute("SELECT study, count(*) FROM instances GROUP BY study").fetchall()
    assert len(files) == count
    assert {n for _, n in files} == {SLICES}
    assert len(list((folder / "studies").rglob("*.dcm"))) == count * SLICES
    last = journal.execute(
        "SELECT s.study, count(*), max(c.slices) FROM studies AS s JOIN scores AS c "
        "ON c.study = s.study AND c.revision = s.revision GROUP BY s.study"
    ).fetchall()
    assert len(last) == count
    assert {(n, slices) for _, n, slices in last} == {(1, SLICES)}, "every study with all its slices, once"
    scores = journal.execute("SELECT count(*) FROM scores").fetchone()
    letters = journal.execute("SELECT count(*) FROM outbox").fetchone()
    assert scores == letters, "a result for every score, none besides"


@pytest.mark.slow
def test_nothing_is_lost_and_nothing_twice(tmp_path):
    kills = int(os.environ.get("LISTEN_KILLS", "4"))  # 50 for a thorough look
    journal, sent = killed(tmp_path, kills, senders=2, seed=0)
    assert sent >= 2
    check(tmp_path, journal, sent)
    journal.close()
