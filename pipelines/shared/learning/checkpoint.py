"""Training state on disk: written aside and renamed, read without unpickling code, the one before it kept."""

from __future__ import annotations

import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from pipelines.shared.errors import RunError
from pipelines.shared.log import log
from pipelines.shared.run_folder import write_atomically

SCHEMA = 1


def save(file: Path, state: dict[str, Any]) -> None:
    """Write a training state; the one that was there becomes `<name>.previous.pt`.

    Raises:
        UserError: the disk is full or cannot be written; what was there is kept.
    """
    write_atomically(file, lambda aside: torch.save({"schema": SCHEMA} | state, aside), keep=_previous(file))


def load(file: Path, must_match: dict[str, Any]) -> dict[str, Any] | None:
    """Read a training state, None if there is none: the last one, or the one before it where the last is damaged.

    From either, training ends with the same weights; where both are damaged it begins anew, which it says.

    Args:
        file: the checkpoint.
        must_match: what the run is now (world size, split, keys of the configuration); must equal what was saved.

    Raises:
        RunError: of another schema, world size, split or configuration; the message says which.
    """
    for place in (file, _previous(file)):
        if not place.exists():
            continue
        try:
            state = _read(place)
        except Exception as failure:  # torch, zipfile and pickle raise many types for a damaged file
            reason = (str(failure) or type(failure).__name__).splitlines()[0].rstrip(".")
            log.warning(f"{place} is damaged ({reason}): put aside, training goes on from what there was before it")
            with suppress(OSError):  # another process was first, and finds no more than this one
                place.replace(place.with_name(f"{file.stem}.damaged{file.suffix}"))
            continue
        _check(place, state, must_match)
        return state
    return None


def _previous(file: Path) -> Path:
    return file.with_name(f"{file.stem}.previous{file.suffix}")


def _read(file: Path) -> dict[str, Any]:
    """torch does not look at the checksums that it writes: a checkpoint is a ZIP file, and each tensor has one."""
    with zipfile.ZipFile(file) as content:
        damaged = content.testzip()
    if damaged is not None:
        raise ValueError(f"the checksum of {damaged} does not fit")
    state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    return state


def _check(file: Path, state: dict[str, Any], must_match: dict[str, Any]) -> None:
    if state.get("schema") != SCHEMA:
        raise RunError(
            f"{file} has checkpoint schema {state.get('schema')}, this version writes {SCHEMA}.",
            "Resume with the version that began the run, or start anew.",
        )
    before = state["belongs_to"]
    for key in sorted(before.keys() | must_match.keys()):
        if before.get(key) != must_match.get(key):
            raise RunError(
                f"{file} was written with another {key}: {before.get(key)}, now {must_match.get(key)}.",
                "Resume under the same conditions, or start a new run.",
            )
