"""Prepared arrays: right, kept, made again when something changes, bounded, safe from two runs at once."""

from __future__ import annotations

import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from cutting import CONTEXT

from pipelines.shared.config import CacheSection
from pipelines.shared.data import cache as cache_module
from pipelines.shared.data.cache import Places, prepare_records
from pipelines.shared.errors import BadFile, ConfigError, UnusableRecord

SETTINGS = {"version": 1}


def prepare(record, root):
    """Arrays of various shapes from text files; counts its calls in a folder beside the data."""
    text = (Path(root) / record["path"]).read_text()
    (Path(root).parent / "calls").mkdir(exist_ok=True)
    (Path(root).parent / "calls" / f"{record['id']}-{len(list((Path(root).parent / 'calls').iterdir()))}").touch()
    if text == "bad":
        raise BadFile("it says so")
    if text == "useless":
        raise UnusableRecord("nothing in it", {"fingerprint": "f-useless"})
    n = int(text)
    facts = {
        "fingerprint": f"f{n}",
        "hash": np.full(4, n, np.uint64),
        "thumbnail": np.full((64, 64), n % 256, np.uint8),
    }
    return np.full((n % 5 + 1, 3), n, np.int16), facts


@pytest.fixture
def source(tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    for i in range(200):
        (root / f"{i}.txt").write_text(str(i))
    (root / "7.txt").write_text("bad")
    (root / "8.txt").write_text("useless")
    return root, pd.DataFrame({"id": [f"r{i}" for i in range(200)], "path": [f"{i}.txt" for i in range(200)]})


def section(tmp_path, **changes) -> CacheSection:
    return CacheSection(**({"enabled": True, "dir": str(tmp_path / "cache"), "max_gb": 1.0} | changes))


def calls(tmp_path) -> int:
    return len(list((tmp_path / "calls").iterdir()))


def test_arrays_facts_and_reasons(tmp_path, source):
    root, records = source
    prepared = prepare_records(records, root, prepare, SETTINGS, section(tmp_path), workers=1)
    for i in (0, 3, 199):
        assert np.array_equal(prepared.array(i), np.full((i % 5 + 1, 3), i, np.int16))
        assert prepared.array(i).dtype == np.int16
        assert prepared.hashes[i, 0] == i
        assert prepared.thumbnails[i, 5, 5] == i
    assert prepared.metadata["bad"][7] == "it says so"
    assert prepared.metadata["unusable"][8] == "nothing in it"
    assert prepared.metadata["fingerprint"][8] == "f-useless"
    assert prepared.metadata["bad"].isna().sum() == 199
    with pytest.raises(BadFile, match="it says so"):
        prepared.array(7)
    with pytest.raises(ValueError, match="read-only"):
        prepared.array(0)[0] = 1
    part = prepared.take(np.array([5, 2]))
    assert part.array(0)[0, 0] == 5
    assert part.metadata["fingerprint"].tolist() == ["f5", "f2"]
    assert pickle.loads(pickle.dumps(part)).array(1)[0, 0] == 2
    light = prepared.without_descriptions()
    assert light.thumbnails.nbytes == light.hashes.nbytes == 0
    assert light.take(np.array([5, 2])).array(0)[0, 0] == 5


def test_arrays_of_any_number_of_sides_keep_their_place():
    told = [("a.bin", "<i2", 0, (2, 3)), None, ("b.bin", "|u1", 16, ()), ("a.bin", "|u1", 64, (4, 0, 2))]
    places = Places.of(*zip(*(place or [None] * 4 for place in told), strict=True))
    assert [places.at(i) for i in range(4)] == told
    assert [places.take(np.array([3, 1])).at(i) for i in range(2)] == [told[3], None]
    assert Places.of([], [], [], []).shape.shape == (0, 0)


def test_shards_keep_their_names(tmp_path):
    """Of values of every kind that a table may hold; another name would make everybody's cache anew."""
    (tmp_path / "3" / "b").mkdir(parents=True)
    for name in ("0", "1", "3/c.dcm", "3/b/a.dcm"):
        (tmp_path / name).write_text(name)
        os.utime(tmp_path / name, ns=(0, 1_700_000_000_123_456_789))

    def one_value(record, root):
        return np.zeros(2, np.uint8), {"fingerprint": "f"}

    records = pd.DataFrame(
        {"id": ["é", "1", "2", "3"], "path": ["0", "1", "absent", "3"], "age": [1.5, np.nan, 3.0, 4.0],
         "year": pd.array([2001, None, 2003, 2004], "Int64"), "view": ["PA", None, "AP", "AP"],
         "at": pd.to_datetime(["2020-01-01", None, "2020-01-02", "2020-01-03"]),
         "mixed": pd.Series([np.int64(1), None, [1, "a"], np.float32(0.5)], dtype=object)}
    )  # fmt: skip
    reads = [*records.columns[2:], "none"]
    prepare_records(records, tmp_path, one_value, SETTINGS, section(tmp_path), 1, reads)
    (shard,) = (tmp_path / "cache").rglob("*.bin")
    assert shard.stem == "9c198aee938515a72d87fd6580d56e92648acf98f56f78fcbf534fa6ce677b91"


def test_nothing_is_made_twice_and_a_change_is_noticed(tmp_path, source):
    root, records = source
    prepare_records(records, root, prepare, SETTINGS, section(tmp_path), workers=1)
    assert calls(tmp_path) == 200
    prepare_records(records.sample(frac=1, random_state=0), root, prepare, SETTINGS, section(tmp_path), workers=1)
    assert calls(tmp_path) >= 200
    before = calls(tmp_path)
    prepare_records(records, root, prepare, SETTINGS, section(tmp_path), workers=1)
    assert calls(tmp_path) == before
    (root / "3.txt").write_text("17")
    os.utime(root / "3.txt", (1, 1))
    changed = prepare_records(records, root, prepare, SETTINGS, section(tmp_path), workers=1)
    assert changed.array(3)[0, 0] == 17
    assert before < calls(tmp_path) < before + 200, "only the shard of the changed file is made again"
    before = calls(tmp_path)
    prepare_records(records.assign(age=5), root, prepare, SETTINGS, section(tmp_path), workers=1)
    assert calls(tmp_path) == before, "a column that is not read does not matter"
    turned = records.assign(view=["PA" if i == 4 else "AP" for i in range(len(records))])
    prepare_records(turned, root, prepare, SETTINGS, section(tmp_path), workers=1, reads=["view"])
    assert calls(tmp_path) > before
    other = prepare_records(records, root, prepare, {"version": 2}, section(tmp_path), workers=1)
    assert calls(tmp_path) >= before + 200
    assert other.array(3)[0, 0] == 17


def test_several_processes_give_the_same(tmp_path, source):
    root, records = source
    one = prepare_records(records, root, prepare, SETTINGS, section(tmp_path), workers=1)
    two = prepare_records(records, root, prepare, {"version": 3}, section(tmp_path), workers=2)
    assert all(np.array_equal(one.array(i), two.array(i)) for i in range(200) if i not in (7, 8))


def test_streaming_reads_anew_and_stores_no_arrays(tmp_path, source):
    root, records = source
    prepared = prepare_records(records, root, prepare, SETTINGS, section(tmp_path, enabled=False), workers=1)
    before = calls(tmp_path)
    assert prepared.array(9)[0, 0] == 9
    assert prepared.take(np.array([11])).array(0)[0, 0] == 11
    assert calls(tmp_path) == before + 2
    assert not list((tmp_path / "cache").rglob("*.bin"))


def test_two_runs_at_once(tmp_path, source):
    root, records = source
    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(prepare_records, records, root, prepare, SETTINGS, section(tmp_path), 1) for _ in range(2)]
        results = [job.result() for job in jobs]
    assert all(r.array(150)[0, 0] == 150 for r in results)
    assert not list((tmp_path / "cache").rglob("*.tmp"))


def test_a_cut_off_run_goes_on(tmp_path, source, monkeypatch):
    root, records = source
    made = []
    original = cache_module._make_shard

    def cut(job, **more):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(1)
        original(job, **more)

    monkeypatch.setattr(cache_module, "_make_shard", cut)
    with pytest.raises(KeyboardInterrupt):
        prepare_records(records, root, prepare, SETTINGS, section(tmp_path), workers=1)
    before = calls(tmp_path)
    monkeypatch.setattr(cache_module, "_make_shard", original)
    prepare_records(records, root, prepare, SETTINGS, section(tmp_path), workers=1)
    assert calls(tmp_path) == 200 > before > 0


def test_the_bound_refuses_and_evicts_the_oldest(tmp_path, source):
    root, records = source
    with pytest.raises(ConfigError, match=r"cache\.max_gb"):
        prepare_records(records, root, prepare, SETTINGS, section(tmp_path, max_gb=1e-6), workers=1)
    folder = tmp_path / "cache" / "prepared"
    old = folder / "old"
    old.mkdir()
    (old / "big.bin").write_bytes(bytes(900_000))
    os.utime(old, (1, 1))
    prepare_records(records, root, prepare, {"version": 9}, section(tmp_path, max_gb=0.00091), workers=1)
    assert not old.exists()


def test_a_missing_file_is_a_record_with_a_reason(tmp_path, source):
    root, records = source

    def strict(record, root):
        if not (root / record["path"]).exists():
            raise BadFile("does not exist")
        return prepare(record, root)

    (root / "5.txt").unlink()
    prepared = prepare_records(records, root, strict, SETTINGS, section(tmp_path), workers=1)
    assert prepared.metadata["bad"][5] == "does not exist"


@pytest.mark.parametrize("text", ["bad", "useless"])
def test_a_shard_in_which_nothing_is_good(tmp_path, text):
    root = tmp_path / "data"
    root.mkdir()
    (root / "0.txt").write_text(text)
    records = pd.DataFrame({"id": ["r0"], "path": ["0.txt"]})
    prepared = prepare_records(records, root, prepare, SETTINGS, section(tmp_path), workers=1)
    reason = prepared.metadata["bad"][0] or prepared.metadata["unusable"][0]
    assert reason in ("it says so", "nothing in it")
    with pytest.raises(BadFile, match=reason):
        prepared.array(0)


def _read_while_others_need_room(root: Path, records: pd.DataFrame, cache: CacheSection, messages) -> None:
    prepared = prepare_records(records, root, prepare, SETTINGS, cache, workers=1)
    messages.send("ready")
    messages.recv()
    messages.send(int(prepared.array(3)[0, 0]))


@pytest.mark.slow
def test_what_another_run_reads_is_not_removed(tmp_path, source):
    root, records = source
    ours, theirs = CONTEXT.Pipe()
    cache = section(tmp_path, max_gb=0.00015)
    reader = CONTEXT.Process(target=_read_while_others_need_room, args=(root, records, cache, theirs))
    reader.start()
    assert ours.recv() == "ready"
    (folder,) = (tmp_path / "cache" / "prepared").iterdir()
    os.utime(folder, (1, 1))
    prepare_records(records, root, prepare, {"version": 2}, cache, workers=1)
    assert folder.exists()
    ours.send("go on")
    assert ours.recv() == 3
    reader.join()
    prepare_records(records, root, prepare, {"version": 3}, cache, workers=1)
    assert not folder.exists(), "its reader has ended"


def test_two_processes_at_once(tmp_path, source):
    root, records = source
    cache, pipes = section(tmp_path), [CONTEXT.Pipe() for _ in range(2)]
    readers = [CONTEXT.Process(target=_read_while_others_need_room, args=(root, records, cache, p[1])) for p in pipes]
    for reader in readers:
        reader.start()
    for ours, _ in pipes:
        assert ours.recv() == "ready"
        ours.send("go on")
        assert ours.recv() == 3
    assert calls(tmp_path) == 200, "a shard was made twice"


@pytest.mark.parametrize("kind", [".bin", ".parquet"])
@pytest.mark.parametrize("damage", ["zeroed", "halved", "emptied"])
def test_a_damaged_shard_is_made_anew(tmp_path, source, kind, damage):
    root, records = source
    prepare_records(records, root, prepare, SETTINGS, section(tmp_path), workers=1)
    file = max((tmp_path / "cache").rglob(f"*{kind}"), key=lambda f: f.stat().st_size)
    content = file.read_bytes()
    at = len(content) // 4  # among the arrays, or the pages of the table
    left = {"zeroed": content[:at] + bytes(64) + content[at + 64 :], "halved": content[: 2 * at], "emptied": b""}
    file.write_bytes(left[damage])
    before = calls(tmp_path)
    prepared = prepare_records(records, root, prepare, SETTINGS, section(tmp_path), workers=1)
    assert before < calls(tmp_path) < before + 200, "only the damaged shard is made again"
    assert all(prepared.array(i)[0, 0] == i for i in range(200) if i not in (7, 8))
    assert file.read_bytes() == content


def test_shards_without_checksums_are_used(tmp_path, source):
    root, records = source
    prepare_records(records, root, prepare, SETTINGS, section(tmp_path), workers=1)
    for file in (tmp_path / "cache").rglob("*.parquet"):  # as earlier versions wrote them
        pd.read_parquet(file).drop(columns="crc32").to_parquet(file, index=False)
    before = calls(tmp_path)
    prepared = prepare_records(records, root, prepare, SETTINGS, section(tmp_path), workers=1)
    assert calls(tmp_path) == before
    assert prepared.array(3)[0, 0] == 3
