"""Prepared arrays: decoding and geometry happen once per source file and setting, then are memory-mapped.

Records are dealt by the hash of their id into shards of about 64. A shard is two files, named by the hash of everything
that its content depends on (settings, and every source file's path, size and modification time): `<key>.bin`, the
arrays one after the other, and `<key>.parquet`, one row per record with offset, shape, checksum, reason if bad,
fingerprint. Every run looks at the checksums of all arrays before it begins (gigabytes a second once they are in
memory, otherwise as fast as the disk), and makes a damaged shard anew. So a changed file or setting is a new key, a
run that was cut off finds its finished shards again, and two runs at once
write the same bytes under a lock. Nothing is ever written into the dataset's folder.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from stat import S_ISDIR
from typing import Any

import numpy as np
import pandas as pd
from filelock import FileLock

from pipelines.shared.config import CacheSection
from pipelines.shared.data.cache_space import hold, make_room
from pipelines.shared.errors import BadFile, MissingPackage, UnusableRecord, reason_of
from pipelines.shared.launch import launch
from pipelines.shared.log import log
from pipelines.shared.run_folder import write_atomically
from pipelines.shared.screen import cpu_count, parallel_map

SHARD_RECORDS = 64
WARNINGS_BETWEEN = "; "
# Columns of a shard's index file; `facts`: the metadata as JSON.
INDEX = ["id", "bad", "unusable", "facts", "dtype", "offset", "shape", "crc32", "hash", "thumbnail"]

# One record (a row of the record table as a dict) and the source's root -> its array, and metadata.
# Of these `fingerprint` (str) is required; `hash` (uint64 (4,)) and `thumbnail` (uint8 (64, 64)) let
# near-duplicates be found; `warnings` (a list of sentences, the same words for the same kind) are counted in verify,
# flow and report; `bad_files` (a list of "name: reason") are those of a record's files that cannot be read and without
# which it can be used; anything else becomes a column of the record table.
Prepare = Callable[[Mapping[str, Any], Path], tuple[np.ndarray, dict[str, Any]]]
Index = dict[str, list[Any]]  # of a shard: what is told of its records, by column

_encoder = json.JSONEncoder(sort_keys=True, default=str)  # one for all, as making one costs more than using it


@dataclass(frozen=True)
class Places:
    """Where prepared arrays lie, as a few arrays of numbers.

    Worker processes share these with the process that started them; of Python's own objects each worker would soon hold
    a copy, as looking at one counts a reference.

    Attributes:
        files: the shards.
        dtypes: of the arrays.
        file: (n,) int32, position in `files`; -1: there is no array.
        dtype: (n,) int32, position in `dtypes`.
        offset: (n,) int64, bytes.
        shape: (n, d) int64, -1 behind a shape of fewer than d sides.
    """

    files: list[str]
    dtypes: list[str]
    file: np.ndarray
    dtype: np.ndarray
    offset: np.ndarray
    shape: np.ndarray

    @classmethod
    def of(
        cls,
        files: Sequence[str | None],
        dtypes: Sequence[str | None],
        offsets: Sequence[int | None],
        shapes: Sequence[Sequence[int] | None],
    ) -> Places:
        """From these columns, None where a record has no array."""
        (file, file_names), (dtype, dtype_names) = (pd.factorize(np.array(c, object)) for c in (files, dtypes))
        sides = np.array([len(shape or ()) for shape in shapes], np.int64)
        shape = np.full((len(shapes), max(sides, default=0)), -1, np.int64)
        shape[np.arange(shape.shape[1]) < sides[:, None]] = [side for shape in shapes for side in shape or ()]
        offset = np.array([offset or 0 for offset in offsets], np.int64)
        return cls(list(file_names), list(dtype_names), file.astype(np.int32), dtype.astype(np.int32), offset, shape)

    def take(self, positions: np.ndarray) -> Places:
        """The same for some of the records."""
        parts = (array[positions] for array in (self.file, self.dtype, self.offset, self.shape))
        return Places(self.files, self.dtypes, *parts)

    def at(self, index: int) -> tuple[str, str, int, tuple[int, ...]] | None:
        """File, dtype, offset and shape of one record's array."""
        file = int(self.file[index])
        if file < 0:
            return None
        shape = tuple(int(side) for side in self.shape[index] if side >= 0)
        return self.files[file], self.dtypes[self.dtype[index]], int(self.offset[index]), shape


@dataclass
class Prepared:
    """The prepared form of a record table, in its order.

    Attributes:
        metadata: one row per record: `bad` and `unusable` (reasons or None), `fingerprint`, `warnings` (joined by "; ",
            or None), and the study's own columns.
        hashes: perceptual hashes, uint64 (n, 4), zero where there is none.
        thumbnails: uint8 (n, 64, 64).
    """

    metadata: pd.DataFrame
    hashes: np.ndarray
    thumbnails: np.ndarray
    _places: Places | None
    _stream: Callable[[int], np.ndarray] | None = None
    _open: dict[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.metadata)

    def array(self, index: int) -> np.ndarray:
        """The prepared array of one record: a read-only view of the cache, or freshly read with `cache=off`."""
        if self._stream is not None:
            return self._stream(index)
        place = None if self._places is None else self._places.at(index)
        if place is None:
            raise BadFile(self.metadata["bad"].iloc[index] or self.metadata["unusable"].iloc[index] or "not prepared")
        file, dtype, offset, shape = place
        if file not in self._open:
            self._open[file] = _mapped(Path(file))
        count = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return self._open[file][offset : offset + count].view(dtype).reshape(shape)

    def take(self, positions: np.ndarray) -> Prepared:
        """The same for some of the records, in the order given."""
        if np.array_equal(positions, np.arange(len(self))):
            return self
        stream = None if self._stream is None else partial(_stream_subset, self._stream, positions)
        places = None if self._places is None else self._places.take(positions)
        metadata = self.metadata.iloc[positions].reset_index(drop=True)
        return Prepared(metadata, self.hashes[positions], self.thumbnails[positions], places, stream)

    def without_descriptions(self) -> Prepared:
        """The same without what near-duplicates are found by: 4 KB a record that nothing after the gate looks at."""
        n = len(self)
        return Prepared(
            self.metadata, np.zeros((n, 0), np.uint64), np.zeros((n, 0, 0), np.uint8), self._places, self._stream
        )

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": {}}


def _stream_subset(stream: Callable[[int], np.ndarray], positions: np.ndarray, index: int) -> np.ndarray:
    return stream(int(positions[index]))


def prepare_records(
    records: pd.DataFrame,
    root: Path,
    prepare: Prepare,
    settings: dict[str, Any],
    cache: CacheSection,
    workers: int | None = None,
    reads: Sequence[str] = (),
) -> Prepared:
    """Prepare all records, in parallel, taking what the cache holds already.

    Args:
        records: the record table; `id` names the record (and its part of the file, where it is only a part).
        root: the source's folder.
        prepare: picklable; raises `BadFile` for what cannot be read, `UnusableRecord` for what is readable but
            of no use to the study.
        settings: everything else that the arrays depend on, JSON-serialisable; its change is a new cache entry.
        reads: columns, besides id and path, that `prepare` looks at; a change there is a new cache entry too.
        cache: folder and bound. With `enabled=False` arrays are read anew each time; only metadata are kept.

    Raises:
        ConfigError: the arrays will not fit into `cache.max_gb`.
    """
    folder = Path(cache.dir) / "prepared" / _digest([settings, str(root.resolve()), cache.enabled])[:16]
    folder.mkdir(parents=True, exist_ok=True)
    os.utime(folder)  # the folder used longest ago is the first to go
    hold(folder)
    count = max(1, len(records) // SHARD_RECORDS)
    shards: list[list[int]] = [[] for _ in range(count)]
    looked_at = ("id", "path", *reads)
    columns = records[[column for column in records if column in looked_at]].to_dict("list")
    for position, name in enumerate(columns["id"]):
        shards[int(_digest(name)[:8], 16) % count].append(position)
    shards = [shard for shard in shards if shard]
    told = [columns.get(column, [None] * len(records)) for column in looked_at]
    below = str(root)
    stamps = [_stamp(os.path.join(below, path)) for path in columns["path"]]  # noqa: PTH118  three times as fast
    states = list(zip(*told, stamps, strict=True))
    keys = [_digest([states[i] for i in shard]) for shard in shards]
    indices = _sound_indices(folder, keys, cache.enabled)
    todo = [(key, shard) for key, shard in zip(keys, shards, strict=True) if key not in indices]
    rows: list[dict[str, Any]] = []
    if todo or not cache.enabled:
        rows = records.to_dict("records")  # type: ignore[assignment]
    jobs = [(key, [rows[i] for i in shard]) for key, shard in todo]
    make = partial(_make_shard, folder=folder, root=root, prepare=prepare, store=cache.enabled)
    if jobs:
        first, rest = jobs[0], jobs[1:]
        make(first)
        make_room(folder, first[0], len(rest), cache)
        few = len(jobs) * SHARD_RECORDS <= 4 * SHARD_RECORDS
        parallel_map(make, rest, "Preparing records", workers=1 if few else workers or cpu_count())
        indices |= {key: _read_index(folder, key) for key, _ in jobs}
    stream = None if cache.enabled else partial(_read_again, rows, root, prepare)
    return _collect(folder, [indices[key] for key in keys], keys, shards, stream)


def _sound_indices(folder: Path, keys: list[str], stored: bool) -> dict[str, Index]:
    """The index of every shard that is there and undamaged."""
    there = [key for key in keys if (folder / f"{key}.parquet").exists()]
    check = stored and launch().local_rank == 0  # once on every machine
    with ThreadPoolExecutor(min(8, cpu_count())) as pool:  # zlib lets other threads work
        found = dict(zip(there, pool.map(partial(_sound_index, folder, check=check), there), strict=True))
    for key in (key for key, index in found.items() if index is None):
        log.warning(f"{folder / key}.* of the cache is damaged and is made again.")
    return {key: index for key, index in found.items() if index is not None}


def _sound_index(folder: Path, key: str, check: bool) -> Index | None:
    try:
        index = _read_index(folder, key)
        if check and "crc32" in index:  # shards of earlier versions have none
            stored = any(dtype is not None for dtype in index["dtype"])
            content = _mapped(folder / f"{key}.bin").data if stored else memoryview(b"")
            places = (index[column] for column in ("dtype", "offset", "shape", "crc32"))
            for dtype, offset, shape, checksum in zip(*places, strict=True):
                if dtype is not None:
                    size = math.prod(shape) * np.dtype(dtype).itemsize
                    if zlib.crc32(content[offset : offset + size]) != checksum:
                        return None
    except Exception:  # pyarrow, json and numpy raise many types for a damaged file
        return None
    return index


def _read_index(folder: Path, key: str) -> Index:
    """As pyarrow reads one file, for a table of a thousand shards takes pandas, or a data set of pyarrow's, seconds."""
    from pyarrow import parquet

    with parquet.ParquetFile(folder / f"{key}.parquet", page_checksum_verification=True) as file:
        index: Index = file.read(use_threads=False).to_pydict()
    return index | {"facts": json.loads(f"[{','.join(index['facts'])}]")}


def _mapped(file: Path) -> np.ndarray:
    """The bytes of a file, read as they are looked at; of an empty one (arrays without elements) too."""
    return np.memmap(file, np.uint8, "r") if file.stat().st_size else np.zeros(0, np.uint8)


def _digest(value: object) -> str:
    return hashlib.sha256(_encoder.encode(value).encode()).hexdigest()


def _stamp(path: str) -> object:
    """Size and modification time of a file, or of all files below a folder; None if it is not there."""
    try:
        status = os.stat(path)  # noqa: PTH116  three times as fast
    except OSError:
        return None
    if S_ISDIR(status.st_mode):
        return [[p.name, _stamp(str(p))] for p in sorted(Path(path).rglob("*")) if p.is_file()]
    return [status.st_size, status.st_mtime_ns]


def _read_again(rows: list[dict[str, Any]], root: Path, prepare: Prepare, index: int) -> np.ndarray:
    return prepare(rows[index], root)[0]


def _make_shard(job: tuple[str, list[dict[str, Any]]], folder: Path, root: Path, prepare: Prepare, store: bool) -> None:
    key, rows = job
    index_file, array_file = folder / f"{key}.parquet", folder / f"{key}.bin"
    with FileLock(folder / f"{key}.lock"):
        if index_file.exists() and _sound_index(folder, key, check=store) is not None:
            return  # another run was first
        chunks: list[bytes] = []
        offset = 0
        index: list[dict[str, Any]] = []
        for row in rows:
            entry, array = _entry(row, root, prepare)
            if array is not None:
                entry["offset"] = offset
                if store:
                    data = np.ascontiguousarray(array).tobytes()
                    entry["crc32"] = zlib.crc32(data)
                    padding = -len(data) % 16  # keeps every array aligned for any dtype
                    chunks.append(data + bytes(padding))
                    offset += len(data) + padding
            index.append(entry)
        if store:
            write_atomically(array_file, lambda aside: aside.write_bytes(b"".join(chunks)))
        table = pd.DataFrame(index, columns=INDEX, dtype=object)
        write_atomically(index_file, lambda aside: table.to_parquet(aside, index=False, write_page_checksum=True))
    (folder / f"{key}.lock").unlink(missing_ok=True)


def _entry(row: dict[str, Any], root: Path, prepare: Prepare) -> tuple[dict[str, Any], np.ndarray | None]:
    """What an index says of one record, and its array; None where it is bad or unusable."""
    entry: dict[str, Any] = {"id": row["id"], "bad": None, "unusable": None, "facts": "{}"}
    try:
        array, metadata = prepare(row, root)
    except UnusableRecord as reason:
        return entry | {"unusable": str(reason), "facts": json.dumps(reason.metadata)}, None
    except MissingPackage:
        raise
    except Exception as failure:  # a file that makes a decoder fail in its own way is a bad file
        return entry | {"bad": reason_of(failure)}, None
    hashes, thumbnail = metadata.pop("hash", None), metadata.pop("thumbnail", None)
    entry |= {"dtype": array.dtype.str, "shape": list(array.shape), "facts": json.dumps(metadata)}
    entry["hash"] = None if hashes is None else np.asarray(hashes, np.uint64).tobytes()
    entry["thumbnail"] = None if thumbnail is None else thumbnail.tobytes()
    return entry, array


def prepare_in_memory(records: pd.DataFrame, root: Path, prepare: Prepare, threads: int = 1) -> Prepared:
    """A few records prepared as `prepare_records` does, of which nothing is left on disk."""
    rows: list[dict[str, Any]] = records.to_dict("records")  # type: ignore[assignment]
    with ThreadPoolExecutor(threads) as pool:
        entries, arrays = zip(*pool.map(lambda row: _entry(row, root, prepare), rows), strict=True)
    index: Index = {column: [entry.get(column) for entry in entries] for column in INDEX}
    index["facts"] = [json.loads(text) for text in index["facts"]]
    return _collect(Path(), [index], [""], [list(range(len(rows)))], arrays.__getitem__)


def _collect(
    folder: Path,
    indices: list[Index],
    keys: list[str],
    shards: list[list[int]],
    stream: Callable[[int], np.ndarray] | None,
) -> Prepared:
    """One table of all shards, in the order of the records."""
    n = sum(map(len, shards))
    order = list(chain.from_iterable(shards))
    hashes = np.zeros((n, 4), np.uint64)
    thumbnails = np.zeros((n, 64, 64), np.uint8)
    files: list[str | None] = []
    for index, key, positions in zip(indices, keys, shards, strict=True):
        _fill(hashes, positions, index["hash"])
        _fill(thumbnails, positions, index["thumbnail"])
        missing = (None in place for place in zip(index["dtype"], index["offset"], strict=True))
        file = str(folder / f"{key}.bin")
        files += [None if none else file for none in missing]  # one that is read as it is needed has no offset
    told = {c: list(chain.from_iterable(index[c] for index in indices)) for c in INDEX if c != "crc32"}
    metadata: list[dict[str, Any]] = [{}] * n
    for position, bad, unusable, facts in zip(order, told["bad"], told["unusable"], told["facts"], strict=True):
        known = {"bad": bad, "unusable": unusable, "fingerprint": None} | facts
        known["warnings"] = WARNINGS_BETWEEN.join(known.get("warnings") or []) or None
        metadata[position] = known
    table = pd.DataFrame(metadata)
    for column in ("bad", "unusable", "fingerprint", "warnings"):  # pandas would make NaN of None
        table[column] = table[column].astype(object).where(table[column].notna(), None)
    places = Places.of(files, told["dtype"], told["offset"], told["shape"]).take(np.argsort(order))
    return Prepared(table, hashes, thumbnails, places, stream)


def _fill(array: np.ndarray, positions: list[int], values: list[bytes | None]) -> None:
    """The rows at these positions; a row without a value stays as it is."""
    there = [position for position, value in zip(positions, values, strict=True) if value is not None]
    if there:
        content = b"".join(value for value in values if value is not None)
        array[there] = np.frombuffer(content, array.dtype).reshape(len(there), *array.shape[1:])
