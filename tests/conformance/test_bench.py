"""The GPU's bench goes through, tiny and on a CPU: what it measures there means nothing."""

from __future__ import annotations

import math
import sys

import pytest
from conftest import REPOSITORY


@pytest.mark.slow
def test_the_bench_of_a_gpu_goes_through(monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "tests" / "bench"))
    import bench_gpu

    try:
        rows = bench_gpu.rows(tiny=True)
    finally:
        for name in ("bench_gpu", "measure"):
            sys.modules.pop(name, None)
    assert len(rows) == 5
    for row in rows:
        assert math.isfinite(row["ratio"])
        assert row["ratio"] > 0
        assert set(row) == {"what", "ratio", "ours", "reference"}
