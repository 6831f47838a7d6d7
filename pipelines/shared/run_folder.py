"""The files of a run folder: where they are, how they are written (aside, then renamed) and read (or words why not)."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import pyarrow
import yaml
from PIL import Image

from pipelines.shared.errors import RunError, UserError, disk_failure

T = TypeVar("T")

AGAIN = "Copy the whole run folder again; a training run's own files are written anew by mode=resume run=<folder>."


def write_atomically(file: Path, write: Callable[[Path], object], keep: Path | None = None) -> None:
    """Write through a temporary neighbour and rename: a reader never sees half a file, not even after a power cut.

    Args:
        file: what is to be there.
        write: called with the path of the neighbour.
        keep: where a file that was there before goes.

    Raises:
        UserError: the disk is full, read-only, … ; what was there before is kept.
    """
    aside = file.with_name(f".{os.getpid()}-{os.urandom(4).hex()}.tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write(aside)
        with aside.open("rb+") as written:
            os.fsync(written.fileno())
        if keep is not None and file.exists():
            file.replace(keep)
        aside.replace(file)
    except Exception as failure:
        reason = disk_failure(failure)
        if reason is None:
            raise
        kept = "the previous one is kept" if file.exists() else "there was none before"
        raise UserError(f"{file} cannot be written: {reason[0]}; {kept}.", reason[1]) from failure
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)


def write_text(file: Path, text: str) -> None:
    """A text file, whole or not at all."""
    write_atomically(file, lambda aside: aside.write_text(text, encoding="utf-8"))


def write_csv(file: Path, table: pd.DataFrame) -> None:
    """A CSV file, whole or not at all."""
    write_atomically(file, lambda aside: table.to_csv(aside, index=False))


def write_table(file: Path, table: pd.DataFrame) -> None:
    """A Parquet file with a checksum of every page, whole or not at all."""
    write_atomically(file, lambda aside: table.to_parquet(aside, index=False, write_page_checksum=True))


def write_png(file: Path, pixels: np.ndarray, **settings: Any) -> None:
    """A PNG file of uint8 (height, width) or (height, width, 3), whole or not at all."""
    write_atomically(file, lambda aside: Image.fromarray(pixels).save(aside, format="PNG", **settings))


def write_array(file: Path, array: np.ndarray) -> None:
    """A .npy file, whole or not at all."""

    def write(aside: Path) -> None:
        with aside.open("wb") as stream:  # given a name, numpy would append .npy to it
            np.save(stream, array)

    write_atomically(file, write)


def write_arrays(file: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """A .npz file of named arrays, compressed, whole or not at all."""

    def write(aside: Path) -> None:
        with aside.open("wb") as stream:
            np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]

    write_atomically(file, write)


def write_json(file: Path, content: Any) -> None:
    """JSON without NaN or infinity: what is undefined must be null."""
    write_text(file, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(file: Path, keys: Sequence[str] = ()) -> Any:
    """A JSON file of a run.

    Raises:
        RunError: missing, damaged, or without one of `keys`.
    """
    content = read_file(file, lambda: json.loads(file.read_text(encoding="utf-8")))
    if keys and not isinstance(content, dict):
        raise RunError(f"{file} holds a {type(content).__name__} where a dict of keys belongs.", AGAIN)
    missing = [key for key in keys if key not in content]
    if missing:
        raise RunError(f"{file} has no {', '.join(missing)}: it is damaged or of another version.", AGAIN)
    return content


def read_yaml(file: Path) -> dict[str, Any]:
    """A YAML file of a run that holds keys.

    Raises:
        RunError: missing or damaged.
    """

    def read() -> dict[str, Any]:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it holds no keys")
        return content

    content: dict[str, Any] = read_file(file, read)
    return content


def read_table(file: Path, columns: Sequence[str] = (), **options: Any) -> pd.DataFrame:
    """A Parquet or CSV file of a run; `options` go to pandas.

    Raises:
        RunError: missing, damaged, cut off, or without one of `columns`.
    """
    if file.suffix == ".csv":
        table = read_file(file, lambda: _whole_csv(file, options))
    else:
        table = read_file(file, lambda: _whole_parquet(file, options))
    missing = [column for column in columns if column not in table]
    if missing:
        raise RunError(f"{file} has no column {', '.join(missing)}: it is damaged or of another version.", AGAIN)
    return table


def read_array(file: Path) -> np.ndarray:
    """A .npy file of a run.

    Raises:
        RunError: missing or damaged.
    """
    return read_file(file, lambda: np.load(file, allow_pickle=False))


def read_arrays(file: Path) -> dict[str, np.ndarray]:
    """The arrays of a .npz file of a run, by name.

    Raises:
        RunError: missing or damaged.
    """

    def read() -> dict[str, np.ndarray]:
        with np.load(file, allow_pickle=False) as content:
            return dict(content)

    return read_file(file, read)


def read_picture(file: Path) -> np.ndarray:
    """A picture of a run as uint8 (height, width, 3).

    Raises:
        RunError: missing or damaged.
    """

    def read() -> np.ndarray:
        with Image.open(file) as picture:
            return np.asarray(picture.convert("RGB"))

    return read_file(file, read)


def _whole_parquet(file: Path, options: dict[str, Any]) -> pd.DataFrame:
    table = pd.read_parquet(file, page_checksum_verification=True, **options)
    if any("\0" in str(column) for column in table):  # pages have checksums, their names have none
        raise ValueError("the names of its columns are damaged")
    for _, column in table.items():
        if isinstance(column.dtype, pd.StringDtype):  # pandas before 3 makes objects of texts, and reads them at once
            pyarrow.array(column).validate(full=True)  # what is not UTF-8 fails here, not where it is used
    return table


def _whole_csv(file: Path, options: dict[str, Any]) -> pd.DataFrame:
    if not file.read_bytes().endswith(b"\n"):
        raise ValueError("its last line is cut off" if file.stat().st_size else "it is empty")
    table: pd.DataFrame = pd.read_csv(file, **options)
    return table


def read_file(file: Path, read: Callable[[], T]) -> T:
    """What `read` makes of a file of a run, of any format.

    Raises:
        RunError: missing, or damaged: whatever `read` raises.
    """
    if not file.is_file():
        raise RunError(
            f"{file} is missing: the run is unfinished, or the file was removed.",
            "Finish a training run with mode=resume run=<folder>, or copy the whole run folder again.",
        )
    try:
        return read()
    except Exception as failure:  # every format has its own ways of being damaged
        reason = (str(failure) or type(failure).__name__).splitlines()[0].rstrip(".")
        raise RunError(f"{file} cannot be read: {reason}.", AGAIN) from failure


def digest(file: Path) -> str:
    """The SHA-256 of a file's content."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


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
    def config(self) -> Path:
        """config.yaml: the resolved configuration; written first, so it marks a run that has begun."""
        return self.path / "config.yaml"

    @property
    def records(self) -> Path:
        """records.parquet: the record table with its split."""
        return self.path / "records.parquet"

    @property
    def split(self) -> Path:
        """split.csv: the split alone, as `split.file` takes it."""
        return self.path / "split.csv"

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
    def prediction_sets(self) -> Path:
        """prediction_sets.json: the thresholds of prediction sets, where there are any."""
        return self.path / "prediction_sets.json"

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
        write_table(file, table)

    def read_table(self, file: Path) -> pd.DataFrame:
        """A Parquet file of the run.

        Raises:
            RunError: the file is missing or damaged.
        """
        return read_table(file)

    def write_config(self, values: dict[str, Any]) -> None:
        """config.yaml, the resolved configuration."""
        write_text(self.config, yaml.safe_dump(values, sort_keys=False, allow_unicode=True))

    def begun(self) -> bool:
        """Whether anything lies here that a run could lose: a log and a lock alone are of one cut off at its start."""
        left = [] if not self.path.exists() else [self.path] if not self.path.is_dir() else list(self.path.iterdir())
        return any(f.name not in ("run.log", ".lock") and f.suffix != ".tmp" for f in left)
