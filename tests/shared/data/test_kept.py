"""What the cache keeps comes back as it was written, or not at all."""

from __future__ import annotations

import pandas as pd
import pytest

from pipelines.shared.data.kept import keep, keep_table, kept, kept_table

CONTENT = {"slices": [{"file": "caf\udce9/1.dcm", "z": 0.1, "tilt": None}], "faults": []}
TABLE = pd.DataFrame({"id": [f"study {i}" for i in range(50)], "concept": ["infarct", "mass"] * 25})


def test_what_is_kept_comes_back(tmp_path):
    keep(tmp_path / "new" / "a.json", CONTENT)
    assert kept(tmp_path / "new" / "a.json") == CONTENT
    assert kept(tmp_path / "b.json") is None
    keep_table(tmp_path / "a.parquet", TABLE)
    pd.testing.assert_frame_equal(kept_table(tmp_path / "a.parquet", ["id"]), TABLE)
    assert kept_table(tmp_path / "b.parquet", ["id"]) is None


@pytest.mark.parametrize(
    "damage", [lambda c: c[: len(c) // 2], lambda c: b"", lambda c: b"[]", lambda c: b"[" * 100_000,
               lambda c: c.replace(b"0.1", b"0.2"), lambda c: c.replace(b"1.dcm", b"2.dcm")],
)  # fmt: skip
def test_what_is_damaged_is_none(tmp_path, damage):
    keep(tmp_path / "a.json", CONTENT)
    (tmp_path / "a.json").write_bytes(damage((tmp_path / "a.json").read_bytes()))
    assert kept(tmp_path / "a.json") is None
