"""A source of 500,000 records (EyePACS and MIMIC-CXR are of that size): what verify does with its table, made up.

To reach on two cores: under 4 GB and ten minutes, all rows together.
"""

from __future__ import annotations

import resource
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from measure import Row, seconds

from pipelines.shared.data.duplicates import candidate_pairs
from pipelines.shared.data.leakage import leakage_gate
from pipelines.shared.data.splits import grouped_split, split_fingerprint

RECORDS = 500_000


def rows(records: int = RECORDS) -> list[Row]:
    """All rows."""
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
             "reference": f"to reach {target:.0f} s; {memory:.1f} GB so far"}
        )  # fmt: skip
        return answer[0]

    pairs = step("candidates for near-duplicates, by an index", lambda: candidate_pairs(hashes), 400)
    assert set(map(tuple, np.sort(copies, axis=1).tolist())) <= set(map(tuple, pairs.tolist()))
    near = pd.DataFrame({"i": pairs[:, 0], "j": pairs[:, 1], "distance": 4, "difference": 0.01})
    gated, _ = step("leakage gate", lambda: leakage_gate(table, labels=["grade"], near=near), 60)
    shares = {"train": 0.6, "val": 0.15, "test": 0.25}
    split = step("split", lambda: grouped_split(gated, shares, "grade", 0), 40)
    step("fingerprint of the split", lambda: split_fingerprint(gated.assign(split=split)), 10)
    return found
