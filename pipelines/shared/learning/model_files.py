"""A network on disk: `weights.safetensors` and `model.json`, which says how to build it again and what it answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import safetensors.torch
from torch import nn

from pipelines.shared.errors import RunError
from pipelines.shared.run import MODEL_SCHEMA
from pipelines.shared.run_folder import digest, plain, read_json, write_atomically, write_json


def save_network(folder: Path, network: nn.Module, description: dict[str, Any]) -> None:
    """Write a network. `description` becomes model.json (study, classes, architecture …), with a checksum."""
    state = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    file = folder / "weights.safetensors"
    write_atomically(file, lambda aside: safetensors.torch.save_file(state, aside))
    write_json(folder / "model.json", plain({"schema": MODEL_SCHEMA} | description | {"sha256": digest(file)}))


def load_weights(folder: Path, network: nn.Module) -> nn.Module:
    """Fill a network that was built from its model.json.

    Raises:
        RunError: weights missing, damaged (they have not the checksum of model.json) or of another architecture.
    """
    file = folder / "weights.safetensors"
    expected = read_json(folder / "model.json").get("sha256")  # networks of earlier versions have none
    try:
        if expected is not None and digest(file) != expected:
            raise ValueError("it is not the file that was written, by its checksum in model.json")
        network.load_state_dict(safetensors.torch.load_file(file))
    except Exception as failure:  # safetensors and torch raise many types for damaged or foreign files
        reason = (str(failure) or type(failure).__name__).splitlines()[0].rstrip(".")
        raise RunError(
            f"{file} cannot be loaded: {reason}.",
            f"Copy the whole run folder again; or remove {folder}, and mode=resume run=<run folder> makes it anew.",
        ) from failure
    return network


def update_model(folder: Path, changes: dict[str, Any]) -> None:
    """Change keys of model.json, such as the operating points once they are chosen."""
    write_json(folder / "model.json", plain(read_json(folder / "model.json") | changes))
