"""Training state on disk: written aside and renamed, read without unpickling code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from pipelines.shared.errors import RunError
from pipelines.shared.run_folder import write_atomically

SCHEMA = 1


def save(file: Path, state: dict[str, Any]) -> None:
    """Write a training state. If the disk is full the previous checkpoint stays, and the error says so.

    Raises:
        UserError: no space left.
    """
    write_atomically(file, lambda aside: torch.save({"schema": SCHEMA} | state, aside))


def load(file: Path, belongs_to: dict[str, Any]) -> dict[str, Any] | None:
    """Read a training state, None if there is none.

    Args:
        file: the checkpoint.
        belongs_to: what the run is now (world size, split, keys of the configuration); must equal what was saved.

    Raises:
        RunError: of another schema, world size, split or configuration; the message says which.
    """
    if not file.exists():
        return None
    state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    if state.get("schema") != SCHEMA:
        raise RunError(
            f"{file} has checkpoint schema {state.get('schema')}, this version writes {SCHEMA}.",
            "Resume with the version that began the run, or start anew.",
        )
    before = state["belongs_to"]
    for key in sorted(before.keys() | belongs_to.keys()):
        if before.get(key) != belongs_to.get(key):
            raise RunError(
                f"{file} was written with another {key}: {before.get(key)}, now {belongs_to.get(key)}.",
                "Resume under the same conditions, or start a new run.",
            )
    return state
