"""What was worked out once and is kept in the cache, with a checksum: a damaged file is as good as none."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pandas as pd

from pipelines.shared.errors import RunError
from pipelines.shared.log import log
from pipelines.shared.run_folder import read_table, write_table, write_text


def keep(file: Path, content: Any) -> None:
    """Write what JSON can say. (In ASCII: names of files may be any bytes.)"""
    write_text(file, json.dumps({"sha256": _digest(content), "content": content}))


def kept(file: Path) -> Any | None:
    """What `keep` wrote there; None if there is nothing, or it is damaged."""
    if not file.is_file():
        return None
    try:
        found = json.loads(file.read_bytes())
        if found["sha256"] == _digest(found["content"]):
            return found["content"]
    except Exception:  # OSError, and whatever a damaged file makes of JSON
        pass
    log.warning(f"{file} of the cache is damaged and is made again.")
    return None


def keep_table(file: Path, table: pd.DataFrame) -> None:
    """Write a table as Parquet, with a checksum of every page."""
    write_table(file, table)


def kept_table(file: Path, columns: list[str]) -> pd.DataFrame | None:
    """What `keep_table` wrote there; None if there is nothing, or it is damaged."""
    if not file.is_file():
        return None
    try:
        return read_table(file, columns)
    except RunError:
        log.warning(f"{file} of the cache is damaged and is made again.")
        return None


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
