"""A node whose scorer counts slices in place of asking a network: a process that can be killed often.

`python bare_node.py <folder>` prints its port when it listens; `<folder> <bytes>` names its largest PDU.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pandas as pd

from pipelines.head_ct.config import ListenSection
from pipelines.head_ct.listen.journal import Journal
from pipelines.head_ct.listen.node import Node
from pipelines.head_ct.listen.scoring import Desk
from pipelines.head_ct.listen.store import Store
from pipelines.head_ct.metrics import SCORE
from pipelines.head_ct.pseudonyms import Names

PAUSE = 0.2


class Counting:
    """The more slices the higher the score."""

    def rows(self, root, files):
        found = len(list((root / files[0]).glob("*.dcm")))
        row = {"study": files[0], "file": None, "reason": None, SCORE: found / 100, "alarm": 0, "seconds": 0.0}
        return pd.DataFrame([row | {"slices": found, "series": "axial", "warnings": None}])

    def left_out(self):
        return None

    def pictures(self, root, file):
        return []


def main(folder: Path, **settings: int) -> None:
    store = Store(folder, Journal(folder / "journal.sqlite"), Names("salt"), free=0)
    store.adopt()
    desk = Desk(store, Counting(), PAUSE, ["sr"], folder / "pictures", folder / "scratch")
    desk.start()
    node = Node(ListenSection(port=0, timeout=5.0, **settings), store, desk.came.set)
    node.start()
    print(node.port, flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]), **({"pdu": int(sys.argv[2])} if len(sys.argv) > 2 else {}))
