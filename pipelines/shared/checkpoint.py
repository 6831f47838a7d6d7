"""Training state on disk: written aside and renamed, read without unpickling code."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import torch

from pipelines.shared.errors import RunError, UserError
from pipelines.shared.run_folder import write_atomically

SCHEMA = 1


def save(file: Path, state: dict[str, Any]) -> None:
    """Write a training state. If the disk is full the previous checkpoint stays, and the error says so.

    Raises:
        UserError: no space left.
    """
    try:
        write_atomically(file, lambda aside: torch.save({"schema": SCHEMA} | state, aside))
    except (OSError, RuntimeError) as failure:  # torch reports a failed write as RuntimeError
        full = getattr(failure, "errno", None) == errno.ENOSPC or "No space left" in str(failure)
        if not full and "file write failed" not in str(failure) and "unexpected pos" not in str(failure):
            raise
        kept = "the previous checkpoint is kept" if file.exists() else "there is no earlier checkpoint"
        raise UserError(
            f"No space left while writing {file}; {kept}.", "Free some space, then go on with mode=resume."
        ) from failure


def load(file: Path, belongs_to: dict[str, Any]) -> dict[str, Any] | None:
    """Read a training state, None if there is none.

    Args:
        file: the checkpoint.
        belongs_to: what the run is now (world size, split, configuration); must equal what was saved.

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
    for key, value in belongs_to.items():
        if state["belongs_to"].get(key) != value:
            raise RunError(
                f"{file} was written with another {key}: {state['belongs_to'].get(key)}, now {value}.",
                "Resume under the same conditions, or start a new run.",
            )
    return state
