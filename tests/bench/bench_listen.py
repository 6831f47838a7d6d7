"""mode=listen: from the last slice's arrival to the alarm, and how many slices a second it takes from four senders.

The node is a process of its own, as a user starts it; its senders are another. The reference of the second is a node
that acknowledges and keeps nothing.
"""

from __future__ import annotations

import statistics
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

SLICES, SIZE = 40, 512
STUDIES, SENDERS = 100, 4
ALONE = 10  # studies for the time to the alarm
PAUSE = 1.0  # s
PAPER = 1.2  # s that the paper's system takes for a study (Titano 2018)


def rows() -> list[Row]:
    """Both rows."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        run = make_run(place / "run", "model.weights=none")
        with program(run, place, f"listen.pause={PAUSE}") as (_, port, page):
            found = [_alarm(port, page)]
        (place / "many").mkdir()
        with program(run, place / "many", f"listen.pause={PAUSE}") as (_, port, page):
            found.append(_many(port, page))
    return found


def _alarm(port: int, page: str) -> Row:
    """One study after the other; the first warms up."""
    for k in range(ALONE + 1):
        send(port, list(_study(f"1.2.1.{k}")))
        now = queue_of(page, all_scored(k + 1), 120)
    times = [float(s["to_score"]) - PAUSE for s in now["waiting"]]
    took = statistics.median(times)
    return {
        "what": f"last of {SLICES} slices plus the pause to alarm", "ratio": PAPER / took,
        "ours": f"{took:.2f} s, longest {max(times):.2f} s", "reference": f"paper {PAPER} s",
    }  # fmt: skip


def _many(port: int, page: str) -> Row:
    """All studies from several senders at once; nothing may be lost."""
    names = [f"1.2.2.{k}" for k in range(STUDIES)]
    seconds = _sent(port, names)
    now = queue_of(page, all_scored(STUDIES), 3600)
    assert {s["files"] for s in now["waiting"]} == {SLICES}
    entity: Any = AE("HEADCT")
    entity.add_supported_context(CT)
    entity.maximum_pdu_size = 131072
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, lambda event: 0)])
    try:
        bare = _sent(server.socket.getsockname()[1], names[: max(SENDERS, STUDIES // 5)])
    finally:
        server.shutdown()
    speed, reference = STUDIES * SLICES / seconds, max(SENDERS, STUDIES // 5) * SLICES / bare
    return {
        "what": f"{STUDIES} studies of {SLICES} slices from {SENDERS} senders", "ratio": speed / reference,
        "ours": f"{speed:.0f} slices/s, none lost", "reference": f"kept nowhere {reference:.0f} slices/s",
    }  # fmt: skip


def _sent(port: int, names: list[str]) -> float:
    """Seconds to send these studies, shared between the senders."""
    began = time.perf_counter()
    with ThreadPoolExecutor(SENDERS) as pool:
        list(pool.map(lambda name: send(port, list(_study(name))), names))
    return time.perf_counter() - began


def _study(uid: str) -> Any:
    """Slices through a ball, 5 mm apart."""
    header = Header("MRN", "Doe^Jane", "ACC", uid, f"{uid}.4", (0.45, 0.45))
    y, x = np.indices((SIZE, SIZE)) - SIZE / 2
    for k in range(SLICES):
        ds = dataset_of(header, CT, uid_of(uid, k), k + 1)
        radius = 180 * np.sqrt(max(0.0, 1 - (k / SLICES * 2 - 1) ** 2))
        ds.Rows = ds.Columns = SIZE
        ds.PixelSpacing, ds.SliceThickness = [0.45, 0.45], 5.0
        ds.ImagePositionPatient = [-115.0, -115.0, 5.0 * k]
        ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        ds.RescaleSlope, ds.RescaleIntercept = header.slope, header.intercept
        add_pixels(ds, stored_values(header, np.where(np.hypot(x, y) < radius, 40.0, -1000.0)), header)
        yield ds
