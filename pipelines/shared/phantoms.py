"""Where phantoms lie and how they come there: made once per settings, aside, and renamed when complete."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipelines.shared.errors import UserError, disk_failure

ABANDONED = 3600  # seconds without a new file after which a half-made folder is taken for that of a killed run


def ensure_folder(
    cache_dir: Path, study: str, version: int, settings: dict[str, Any], make: Callable[[Path], None]
) -> Path:
    """The folder of a phantom, made if it is not there: `.cache/phantom-<study>-<hash of version and settings>`.

    `make` fills an empty folder, which then is renamed: a phantom is complete or absent. When two processes make the
    same one at once, the first to finish wins; both must be the same. What a killed run left half made is removed.

    Raises:
        UserError: the disk is full, read-only, …
    """
    _remove_abandoned(cache_dir, study)
    key = json.dumps([version, settings], sort_keys=True)
    folder = cache_dir / f"phantom-{study}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    if folder.exists():
        return folder
    aside = folder.with_name(f".{folder.name}.{os.getpid()}.{os.urandom(4).hex()}")
    try:
        aside.mkdir(parents=True)
        make(aside)
        os.sync()  # all files at once: they are thousands
        try:
            aside.rename(folder)
        except OSError:
            if not folder.exists():
                raise
    except Exception as failure:
        reason = disk_failure(failure)
        if reason is None:
            raise
        raise UserError(f"The phantom cannot be written to {folder}: {reason[0]}.", reason[1]) from failure
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder


def write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    """A CSV file whose columns are the keys of the first row; None is an empty cell."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def write_notice(folder: Path, what: str, maker: str, settings: dict[str, Any]) -> None:
    """SYNTHETIC.txt: that nothing here is real, what truth/ is, and by which settings all was made."""
    lines = "\n".join(f"{name} = {value}" for name, value in settings.items())
    (folder / "SYNTHETIC.txt").write_text(
        f"Everything in this folder is synthetic: {what}\n"
        "truth/ holds what it was made from; that is for scoring, never a feature.\n"
        f"Made by {maker}:\n\n{lines}\n",
        encoding="utf-8",
    )


def _remove_abandoned(cache_dir: Path, study: str) -> None:
    for folder in cache_dir.glob(f".phantom-{study}-*"):
        with suppress(OSError):  # another process has just finished or removed it
            last = max(path.stat().st_mtime for path in (folder, *folder.iterdir()))
            if time.time() - last > ABANDONED:
                shutil.rmtree(folder, ignore_errors=True)
