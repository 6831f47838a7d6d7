"""mode=listen: from the last slice's arrival to the alarm, and how many slices a second it takes from four senders.

The node is a process of its own, as a user starts it; its senders are another. The reference of the second is a node
that acknowledges and keeps nothing. Every study must be scored with all its slices; how often one was is counted in the
node's journal, and more than once only where a sender paused for longer than the node waits.
"""

from __future__ import annotations

import sqlite3
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from measure import REPOSITORY, Row
from pynetdicom import AE, evt

sys.path.append(str(REPOSITORY / "tests" / "head_ct"))

from made_node import all_scored, make_run, program, queue_of, send

from pipelines.head_ct.dicom import CT
from pipelines.head_ct.writing import Header, add_pixels, dataset_of, stored_values, uid_of

MINUTES = 4
SLICES, SIZE = 40, 512
STUDIES, SENDERS = 100, 4
ALONE = 20  # studies for the time to the alarm
PAUSE = 1.0  # s
PAPER = 1.2  # s that the paper's system takes for a study (Titano 2018)


def rows(studies: int = STUDIES, alone: int = ALONE, slices: int = SLICES) -> list[Row]:
    """Both rows.

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
    return found


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
    seconds = _sent(port, names, slices)
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
    speed, reference = studies * slices / seconds, min(few, studies) * slices / bare
    return {
        "what": f"{studies} studies of {slices} slices from {SENDERS} senders, none lost, scorings: {scorings}",
        "ratio": speed / reference,
        "ours": f"{speed:.0f} slices/s, scored after {whole:.0f} s; last slice to score p50 {p50:.0f}, p99 {p99:.0f} s",
        "reference": f"kept nowhere {reference:.0f} slices/s",
    }


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
