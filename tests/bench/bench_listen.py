"""mode=listen: from the last slice's arrival to the alarm, how many slices a second it takes from four senders, and
what its larger PDU gives.

The node is a process of its own, as a user starts it; its senders are another. The reference of the second is a node
that acknowledges and keeps nothing. Every study must be scored with all its slices; how often one was is counted in the
node's journal, and more than once only where a sender paused for longer than the node waits.
"""

from __future__ import annotations

import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from measure import REPOSITORY, Row, seconds
from pynetdicom import AE, evt

sys.path.append(str(REPOSITORY / "tests" / "head_ct"))

from made_node import all_scored, make_run, program, queue_of, send

from pipelines.head_ct.config import ListenSection
from pipelines.head_ct.dicom import CT
from pipelines.head_ct.writing import Header, add_pixels, dataset_of, stored_values, uid_of

MINUTES = 4
SLICES, SIZE = 40, 512
STUDIES, SENDERS = 100, 4
ALONE = 20  # studies for the time to the alarm
PAUSE = 1.0  # s
ROUNDS = 9  # studies for the gain of a larger PDU
PAPER = 1.2  # s that the paper's system takes for a study (Titano 2018)


def rows(studies: int = STUDIES, alone: int = ALONE, slices: int = SLICES) -> list[Row]:
    """All rows.

    Args:
        studies: sent by several senders at once.
        alone: studies that are sent one after the other.
        slices: of each study.
    """
    with tempfile.TemporaryDirectory() as folder:
        run = make_run(Path(folder, "run"), "model.weights=none")
        one, many = Path(folder, "one"), Path(folder, "many")
        one.mkdir(), many.mkdir()
        with program(run, one, f"listen.pause={PAUSE}") as (_, port, page):
            found = [_alarm(port, page, alone, slices)]
        with program(run, many, f"listen.pause={PAUSE}") as (_, port, page):
            found.append(_many(port, page, studies, slices, many / "node" / "journal.sqlite"))
    return [*found, pdu_row(ROUNDS, slices)]


def _alarm(port: int, page: str, alone: int, slices: int) -> Row:
    """One study after the other; the first warms up."""
    for k in range(alone + 1):
        send(port, list(_study(f"1.2.1.{k}", slices)))
        now = queue_of(page, all_scored(k + 1), 120)
    by_arrival = sorted(now["waiting"], key=lambda study: study["arrival"])
    times = [float(s["to_score"]) - PAUSE for s in by_arrival[1:]]
    p50, p99 = np.quantile(times, [0.5, 0.99])
    return {
        "what": f"last of {slices} slices plus the pause to alarm, {alone} studies", "ratio": PAPER / float(p50),
        "ours": f"p50 {p50:.2f} s, p99 {p99:.2f} s", "reference": f"paper {PAPER} s",
    }  # fmt: skip


def _many(port: int, page: str, studies: int, slices: int, journal: Path) -> Row:
    """All studies from several senders at once; nothing may be lost."""
    names = [f"1.2.2.{k}" for k in range(studies)]
    began = time.perf_counter()
    took = _sent(port, names, slices)
    now = queue_of(page, all_scored(studies), 3600)
    whole = time.perf_counter() - began
    assert {s["files"] for s in now["waiting"]} == {slices}, "slices were lost"
    with sqlite3.connect(journal) as db:
        scorings, scored = db.execute("SELECT count(*), count(DISTINCT study) FROM scores").fetchone()
    assert scored == studies, f"{scored} of {studies} studies were scored"
    p50, p99 = np.quantile([float(s["to_score"]) for s in now["waiting"]], [0.5, 0.99])
    entity: Any = AE("HEADCT")
    entity.add_supported_context(CT)
    entity.maximum_pdu_size = 131072
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, lambda event: 0)])
    few = max(SENDERS, studies // 5)
    try:
        bare = _sent(server.socket.getsockname()[1], names[:few], slices)
    finally:
        server.shutdown()
    speed, reference = studies * slices / took, min(few, studies) * slices / bare
    return {
        "what": f"{studies} studies of {slices} slices from {SENDERS} senders, none lost, scorings: {scorings}",
        "ratio": speed / reference,
        "ours": f"{speed:.0f} slices/s, scored after {whole:.0f} s; last slice to score p50 {p50:.0f}, p99 {p99:.0f} s",
        "reference": f"kept nowhere {reference:.0f} slices/s",
    }


def pdu_row(rounds: int, slices: int) -> Row:
    """Storing a study with the node's largest PDU over pynetdicom's default, in turn; the first study warms up.

    Both nodes are processes of their own that store and only count.

    Args:
        rounds: studies that are sent to either.
        slices: of each study.
    """
    ours, default = ListenSection().pdu, AE().maximum_pdu_size
    pairs = []
    with tempfile.TemporaryDirectory() as place, _storing(place, ours) as tuned, _storing(place, default) as plain:
        for k in range(rounds + 1):
            study = list(_study(f"1.2.3.{k}", slices))
            took = {}
            for port in (plain, tuned) if k % 2 else (tuned, plain):  # the first is still busy while the second works
                took[port] = seconds(lambda port=port, study=study: send(port, study))
            pairs.append((took[plain], took[tuned]))
    before, after = zip(*pairs[1:], strict=True)
    return {
        "what": f"a study of {slices} slices of {SIZE} x {SIZE} stored, PDUs of {ours:,} bytes",
        "ratio": statistics.median(b / a for b, a in pairs[1:]),
        "ours": f"{slices / statistics.median(after):.0f} slices/s",
        "reference": f"of {default:,}, pynetdicom's default: {slices / statistics.median(before):.0f} slices/s",
    }


@contextmanager
def _storing(place: str, pdu: int) -> Iterator[int]:
    """The port of a node of this largest PDU."""
    folder = Path(place, str(pdu))
    folder.mkdir()
    command = [sys.executable, str(REPOSITORY / "tests" / "head_ct" / "bare_node.py"), str(folder), str(pdu)]
    process = subprocess.Popen(
        command, cwd=REPOSITORY, env=os.environ | {"PYTHONPATH": str(REPOSITORY)}, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.communicate()


def _sent(port: int, names: list[str], slices: int) -> float:
    """Seconds to send these studies, shared between the senders."""
    began = time.perf_counter()
    with ThreadPoolExecutor(SENDERS) as pool:
        list(pool.map(lambda name: send(port, list(_study(name, slices))), names))
    return time.perf_counter() - began


def _study(uid: str, slices: int) -> Any:
    """Slices through a ball, 5 mm apart."""
    header = Header("MRN", "Doe^Jane", "ACC", uid, f"{uid}.4", (0.45, 0.45))
    y, x = np.indices((SIZE, SIZE)) - SIZE / 2
    for k in range(slices):
        ds = dataset_of(header, CT, uid_of(uid, k), k + 1)
        radius = 180 * np.sqrt(max(0.0, 1 - (k / slices * 2 - 1) ** 2))
        ds.Rows = ds.Columns = SIZE
        ds.PixelSpacing, ds.SliceThickness = [0.45, 0.45], 5.0
        ds.ImagePositionPatient = [-115.0, -115.0, 5.0 * k]
        ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        ds.RescaleSlope, ds.RescaleIntercept = header.slope, header.intercept
        add_pixels(ds, stored_values(header, np.where(np.hypot(x, y) < radius, 40.0, -1000.0)), header)
        yield ds
