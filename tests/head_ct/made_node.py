"""The node as a process on a run that nobody trained, and a sender; for tests and for the bench."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from conftest import PATIENCE, REPOSITORY, compose
from pynetdicom import AE

from pipelines.head_ct.dicom import CT
from pipelines.head_ct.learner import HeadCtLearner
from pipelines.head_ct.study import STUDY
from pipelines.shared.learning.model_files import save_network
from pipelines.shared.run_folder import RunFolder, write_json

POINTS = [
    {"task": "silver_4", "name": "high_specificity", "score": "p_at_least_4", "threshold": 0.0, "chosen_on": "val",
     "alarm": True},
]  # fmt: skip
SMALL = ["model.backbone=test_resnet", "model.weights=none", "preprocess.size=32"]
PLACES = re.compile(r"Scans are sent to HEADCT@127\.0\.0\.1:(\d+); the page is at 127\.0\.0\.1:(\d+)")


def make_run(folder: Path, *keys: str) -> Path:
    """A finished run that nobody trained: its scores mean nothing, but they are always the same."""
    config: Any = compose(
        "head_ct", *keys, "trainer.device=cpu", f"cache.dir={folder.parent / 'cache'}", f"run_dir={folder}"
    )
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
def program(made: Path, place: Path, *keys: str) -> Iterator[tuple[subprocess.Popen[bytes], int, str]]:
    """The program, its DICOM port and its page's address; killed at the end if it still runs."""
    said = place / f"said-{time.monotonic_ns()}.txt"
    command = [
        sys.executable, "-m", "pipelines.head_ct", "mode=listen", f"run={made}", "listen.port=0", "serve.port=0",
        "listen.pause=0.3", "listen.free_gb=0", f"listen.folder={place / 'node'}", f"cache.dir={place / 'cache'}",
        "trainer.device=cpu", f"run_dir={place / said.stem}", *keys,
    ]  # fmt: skip
    with said.open("w") as output:
        process = subprocess.Popen(command, cwd=REPOSITORY, stdout=output, stderr=subprocess.STDOUT)
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


def send(port: int, datasets: Sequence[Any]) -> None:
    """Send all over one association."""
    entity = AE("SCANNER")
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = PATIENCE
    entity.add_requested_context(CT)
    link = entity.associate("127.0.0.1", port, ae_title="HEADCT")
    assert link.is_established
    assert [link.send_c_store(ds).Status for ds in datasets] == [0] * len(datasets)
    link.release()


def queue_of(page: str, until: Callable[[dict[str, Any]], bool], seconds: float = PATIENCE) -> dict[str, Any]:
    """The page's state as soon as it is so."""
    end = time.monotonic() + seconds
    while True:
        with urllib.request.urlopen(f"{page}/queue", timeout=PATIENCE) as answer:
            now = json.load(answer)
        if until(now):
            return now
        assert time.monotonic() < end, now
        time.sleep(0.1)


def all_scored(count: int) -> Callable[[dict[str, Any]], bool]:
    """Whether so many wait, each scored with all that came."""
    return lambda now: [s["scored"] and not s["late"] for s in now["waiting"]] == [True] * count
