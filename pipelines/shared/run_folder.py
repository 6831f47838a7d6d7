"""The files of a run folder: where they are and how they are written (aside, then renamed)."""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from pipelines.shared.errors import RunError, UserError


def write_atomically(file: Path, write: Callable[[Path], object]) -> None:
    """Write through a temporary neighbour and rename: a reader never sees half a file.

    Raises:
        UserError: no space left; what was there before is kept.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        write(aside)
        aside.replace(file)
    except (OSError, RuntimeError) as failure:
        if not _disk_is_full(failure):
            raise
        kept = "the previous one is kept" if file.exists() else "there was none before"
        raise UserError(
            f"No space left while writing {file}; {kept}.", "Free some space, then go on with mode=resume."
        ) from failure
    finally:
        aside.unlink(missing_ok=True)


def _disk_is_full(failure: Exception) -> bool:
    """torch reports a failed write as a RuntimeError of its own, with the OSError, if any, as its context."""
    if isinstance(failure, OSError):
        return failure.errno in (errno.ENOSPC, errno.EDQUOT)
    words = ("No space left", "file write failed", "unexpected pos")
    return any(word in str(failure) for word in words)


def write_json(file: Path, content: Any) -> None:
    """JSON without NaN or infinity: what is undefined must be null."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomically(file, lambda aside: aside.write_text(text, encoding="utf-8"))


def read_json(file: Path) -> Any:
    """A JSON file of a run.

    Raises:
        RunError: missing or damaged.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as failure:
        reason = "is missing" if not file.exists() else f"cannot be read: {failure}"
        raise RunError(
            f"{file} {reason}.", "Finish the run (mode=resume), or copy the whole run folder again."
        ) from None


def plain(value: Any) -> Any:
    """Numbers and containers as JSON knows them; NaN and infinity become None."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run, `outputs/<study>/<timestamp>/`."""

    path: Path

    @property
    def records(self) -> Path:
        """records.parquet: the record table with its split."""
        return self.path / "records.parquet"

    @property
    def readers(self) -> Path:
        """readers.parquet: individual readings, where the source has them."""
        return self.path / "readers.parquet"

    @property
    def flow(self) -> Path:
        """flow.json: what was found, dropped and why, on the way to the record table."""
        return self.path / "flow.json"

    @property
    def environment(self) -> Path:
        """environment.json: versions, commit, device, seed, command, seconds by stage."""
        return self.path / "environment.json"

    @property
    def operating_points(self) -> Path:
        """operating_points.json: the thresholds and where they were chosen, before they meet test."""
        return self.path / "operating_points.json"

    @property
    def history(self) -> Path:
        """history.csv: one row per network and epoch."""
        return self.path / "history.csv"

    @property
    def metrics(self) -> Path:
        """metrics.json."""
        return self.path / "metrics.json"

    @property
    def report(self) -> Path:
        """report.html; written last, so it marks a finished run."""
        return self.path / "report.html"

    @property
    def figures(self) -> Path:
        """figures/."""
        return self.path / "figures"

    def predictions(self, split: str) -> Path:
        """predictions/<split>.parquet."""
        return self.path / "predictions" / f"{split}.parquet"

    def network(self, name: str) -> Path:
        """models/<name>/."""
        return self.path / "models" / name

    def networks(self) -> list[Path]:
        """The folders of all networks, in order of their names."""
        return sorted(p.parent for p in self.path.glob("models/*/model.json"))

    def checkpoint(self, name: str) -> Path:
        """checkpoint/<name>.pt: the last training state."""
        return self.path / "checkpoint" / f"{name}.pt"

    def write_table(self, file: Path, table: pd.DataFrame) -> None:
        """A Parquet file of the run."""
        write_atomically(file, lambda aside: table.to_parquet(aside, index=False))

    def read_table(self, file: Path) -> pd.DataFrame:
        """A Parquet file of the run.

        Raises:
            RunError: the file is missing.
        """
        if not file.is_file():
            raise RunError(
                f"{file} is missing: the run is unfinished or a file was removed.", "Resume it: mode=resume."
            )
        return pd.read_parquet(file)

    def write_config(self, values: dict[str, Any]) -> None:
        """config.yaml, the resolved configuration."""
        text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
        write_atomically(self.path / "config.yaml", lambda aside: aside.write_text(text, encoding="utf-8"))
