"""Space for prepared arrays on disk: which folders of the cache are read by a run that is alive, and which may go."""

from __future__ import annotations

import os
import shutil
import threading
import time
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from pipelines.shared.config import CacheSection
from pipelines.shared.errors import ConfigError

_in_use: dict[Path, FileLock] = {}  # the folders whose arrays this process may read, until it ends

_one_thread = threading.Lock()


def hold(folder: Path) -> None:
    """Keep other runs from removing this folder to make room for theirs."""
    with _one_thread:  # a second lock on the file by this process would wait for the first for ever
        if folder not in _in_use:
            lock = FileLock(folder / f"used-by-{os.getpid()}")
            lock.acquire()
            _in_use[folder] = lock


def _held(folder: Path) -> bool:
    """Whether a run that is alive reads from this folder."""
    for file in folder.glob("used-by-*"):
        try:
            with FileLock(file, blocking=False):
                pass
        except Timeout:
            return True
    return False


def make_room(folder: Path, key: str, more: int, cache: CacheSection) -> None:
    """Remove what was used longest ago until this source fits.

    Args:
        folder: of the prepared source.
        key: the name of its first shard, by which the others' sizes are estimated.
        more: how many shards are still to be made.
        cache: the bound.

    Raises:
        ConfigError: the source alone is too large.
    """
    limit = cache.max_gb * 1e9
    shard = sum(f.stat().st_size for f in folder.glob(f"{key}.*"))
    need = _size(folder) + shard * more * 1.1
    if need > limit:
        raise ConfigError(
            f"The prepared arrays would take about {need / 1e9:.2g} GB, cache.max_gb={cache.max_gb:g}.",
            "Raise cache.max_gb, or stream from the source files with cache=off.",
        )
    others = sorted((f for f in folder.parent.iterdir() if f != folder and f.is_dir()), key=lambda f: f.stat().st_mtime)
    while others and need + sum(map(_size, others)) > limit:
        oldest = others.pop(0)
        if not _held(oldest):
            shutil.rmtree(oldest, ignore_errors=True)
    for leftover in folder.parent.rglob("*.tmp"):
        with suppress(FileNotFoundError):  # another run has just renamed it
            if time.time() - leftover.stat().st_mtime > 3600:
                leftover.unlink()


def _size(folder: Path) -> int:
    return sum(f.stat().st_size for f in folder.iterdir() if f.is_file())
