"""A source of 500,000 records (EyePACS and MIMIC-CXR are of that size): what verify and a run do with its tables, made
up; the report of a run on it, as a command; a cache of 100,000 records that is opened again; and the memory of a
loader's workers.

To reach on two cores: under 4 GB and ten minutes, the table's rows together, and so the report. Both are measured in a
process of their own, as the peak of memory is a process's.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from measure import REPOSITORY, Row, command_peak_mb, seconds

from pipelines.retinopathy.metrics import TASKS, predict_columns
from pipelines.retinopathy.study import STUDY
from pipelines.shared.config import CacheSection
from pipelines.shared.data.cache import Prepared, prepare_records
from pipelines.shared.data.duplicates import candidate_pairs
from pipelines.shared.data.leakage import leakage_gate
from pipelines.shared.data.splits import grouped_split, split_fingerprint
from pipelines.shared.judging.prediction_sets import choose_sets, freeze_sets
from pipelines.shared.learning.dataset import EpochBatches, Loader, PreparedDataset
from pipelines.shared.run_folder import RunFolder, plain, write_json
from pipelines.shared.stats.auc import auroc_estimate

MINUTES = 5
RECORDS, CACHED = 500_000, 100_000
WORKERS = (1, 2)


def rows(records: int = RECORDS, cached: int = CACHED) -> list[Row]:
    """All rows."""
    command = [sys.executable, __file__, str(records)]
    done = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, check=True)
    return [*json.loads(done.stdout), _report_row(records), _cache_row(cached), _loader_row(records)]


def _table_rows(records: int) -> list[Row]:
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, (records, 4), dtype=np.uint64)
    copies = rng.choice(records, (records // 100, 2), replace=False)
    hashes[copies[:, 1]] = hashes[copies[:, 0]] ^ (
        np.uint64(1) << rng.integers(0, 64, (len(copies), 4), dtype=np.uint64)
    )
    names = [f"image_{i:07d}" for i in range(records)]
    table = pd.DataFrame(
        {"id": names, "group": [f"patient_{k:06d}" for k in rng.integers(0, records // 2, records)], "split": None,
         "grade": rng.integers(0, 5, records).astype(float), "fingerprint": [f"{i:064x}" for i in range(records)]}
    )  # fmt: skip
    found: list[Row] = []

    def step(what: str, function: Callable[[], Any], target: float) -> Any:
        answer: list[Any] = []
        took = seconds(lambda: answer.append(function()))
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        found.append(
            {"what": f"{records:,} records: {what}", "ratio": target / took, "ours": f"{took:.1f} s",
             "reference": f"to reach {target:.0f} s; {memory:.1f} GB so far, to stay under 4"}
        )  # fmt: skip
        return answer[0]

    pairs = step("candidates for near-duplicates, by an index", lambda: candidate_pairs(hashes), 400)
    assert set(map(tuple, np.sort(copies, axis=1).tolist())) <= set(map(tuple, pairs.tolist()))
    near = pd.DataFrame({"i": pairs[:, 0], "j": pairs[:, 1], "distance": 4, "difference": 0.01})
    gated, _ = step("leakage gate", lambda: leakage_gate(table, labels=["grade"], near=near), 60)
    shares = {"train": 0.6, "val": 0.15, "test": 0.25}
    split = step("split", lambda: grouped_split(gated, shares, "grade", 0), 40)
    step("fingerprint of the split", lambda: split_fingerprint(gated.assign(split=split)), 10)
    test = gated[np.asarray(split) == "test"]
    referable = test["grade"].to_numpy() >= 2
    score = referable + rng.normal(size=len(test))
    what = f"AUROC of the {len(test):,} that are test, with 2,000 clustered resamples"
    step(what, lambda: auroc_estimate(referable, score, test["group"]), 60)
    return found


def _report_row(records: int) -> Row:
    """`mode=report` of a finished run of one yes-or-no task, all of its statistics and its page."""
    with tempfile.TemporaryDirectory() as place:
        run = _finished_run(Path(place), records)
        command = [sys.executable, "-m", "pipelines.retinopathy", "mode=report", f"run={run.path}"]
        peak: list[float] = []
        took = seconds(lambda: peak.append(command_peak_mb(command)))
        rows = len(pd.read_parquet(run.predictions("test"), columns=["id"]))
    return {
        "what": f"{records:,} records: report of the {rows:,} that are test, one task", "ratio": 600 / took,
        "ours": f"{took:.0f} s, {peak[0] / 1024:.1f} GB", "reference": "to reach 600 s, under 4 GB",
    }  # fmt: skip


def _finished_run(place: Path, records: int) -> RunFolder:
    """What a run of retinopathy leaves of which only one head has labels; two pictures of each patient."""
    from conftest import compose  # measure has put it on the path

    config: Any = compose("retinopathy", f"run_dir={place}")
    folder, rng = RunFolder(place), np.random.default_rng(1)
    truth, split = rng.random(records) < 0.2, rng.choice(["train", "val", "test"], records, p=[0.6, 0.15, 0.25])
    unknown = dict.fromkeys(["grade", *TASKS], np.nan)
    patients = rng.permutation(records) // 2
    split = split[patients]
    table = pd.DataFrame(
        {"id": [f"image_{i:07d}" for i in range(records)], "group": [f"patient_{k:06d}" for k in patients],
         "split": split, "path": "none.png", "fingerprint": [f"{i:064x}" for i in range(records)]}
        | unknown | {"moderate_or_worse": truth.astype(float)}
    )  # fmt: skip
    score = 1.8 * truth - 2.2 + rng.normal(size=records)
    heads = 1 / (1 + np.exp(-(score[:, None] + [1, 0, -1, -2, -1, 3])))
    folder.write_config(config.model_dump())
    folder.write_table(folder.records, table)
    predictions = pd.concat([table[["id", "group", "grade", *TASKS]], predict_columns(heads)], axis=1)
    for name in ("val", "test"):
        folder.write_table(folder.predictions(name), predictions[split == name])
    val = predictions[split == "val"]
    write_json(folder.operating_points, plain([p | {"chosen_on": "val"} for p in STUDY.choose_points(val, config)]))
    freeze_sets(folder, choose_sets(STUDY.set_tasks({}, config), val, config.conformal.level))
    network = {"study": "retinopathy", "name": "network", "architecture": {}, "classes": [], "preprocessing": {}}
    nothing: dict[str, Any] = {"lists": {}, "gate": [], "notes": [], "warnings": []}
    steps = [{"kind": "kept", "label": "records", "count": records}]
    write_json(folder.flow, nothing | {
        "source": "made", "card": "eyepacs", "synthetic": True, "group_key": "patient", "fingerprint": "0" * 64,
        "split_fingerprint": "0" * 64, "steps": steps, "networks": [network],
    })  # fmt: skip
    write_json(folder.environment, {
        "seconds": {}, "packages": {}, "command": "made", "machine": "made", "version": "0", "commit": None,
    })  # fmt: skip
    return folder


def _cache_row(records: int) -> Row:
    """Opening a cache that is whole: files looked at, checksums compared, tables joined."""
    table = pd.DataFrame({"id": [f"image_{i:07d}" for i in range(records)], "path": "none.png"})
    with tempfile.TemporaryDirectory() as place:
        cache = CacheSection(enabled=True, dir=place, max_gb=8.0)

        def opened() -> Prepared:
            return prepare_records(table, Path(place), _prepare, {"of": "the bench"}, cache, workers=1)

        opened()
        took = seconds(opened)
    what = f"a cache of {records:,} records is opened"
    return {"what": what, "ratio": 1 / took, "ours": f"{took:.1f} s", "reference": "to reach 1 s"}


def _prepare(row: Any, root: Path) -> tuple[np.ndarray, dict[str, Any]]:
    return np.zeros((4, 4, 3), np.uint8), {"fingerprint": row["id"]}


class _Zeros:
    """As many arrays as are asked for."""

    def __call__(self, index: int) -> np.ndarray:
        return np.zeros((4, 4, 3), np.uint8)


def _loader_row(records: int) -> Row:
    """What an epoch leaves in a worker that it shares with no other process: one worker over each of several."""
    facts = pd.DataFrame({"bad": [None] * records, "unusable": [None] * records})
    prepared = Prepared(facts, np.zeros((records, 0)), np.zeros((records, 0, 0), np.uint8), None, _Zeros())
    names = [f"image_{i:07d}" for i in range(records)]
    dataset = PreparedDataset(prepared, names, np.zeros(records, np.float32))
    each = []
    for workers in WORKERS:
        loader = Loader(dataset, workers, torch.device("cpu"))
        for _ in loader(EpochBatches(records, 1024, 0, 0)):
            pass
        own = [_private_mb(process.pid) for process in loader._loader._iterator._workers]
        each.append(sum(own) / workers)
        del loader
    return {
        "what": f"memory of a loader's worker after {records:,} records, of {WORKERS[0]} and of {WORKERS[1]}",
        "ratio": each[0] / each[1],
        "ours": f"{each[1]:.0f} MB each",
        "reference": f"{each[0]:.0f} MB alone",
    }


def _private_mb(process: int) -> float:
    """What a process does not share with any other."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


if __name__ == "__main__":
    print(json.dumps(_table_rows(int(sys.argv[1]))))
