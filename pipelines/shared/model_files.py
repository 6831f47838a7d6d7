"""A network on disk: `weights.safetensors` and `model.json`, which says how to build it again and what it answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import nn

from pipelines.shared.errors import RunError
from pipelines.shared.run import MODEL_SCHEMA
from pipelines.shared.run_folder import plain, write_atomically, write_json


def save_network(folder: Path, network: nn.Module, facts: dict[str, Any]) -> None:
    """Write a network. `facts` becomes model.json: study, classes, preprocessing, architecture …"""
    state = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    write_atomically(folder / "weights.safetensors", lambda aside: safetensors.torch.save_file(state, aside))
    write_json(folder / "model.json", plain({"schema": MODEL_SCHEMA} | facts))


def load_weights(folder: Path, network: nn.Module) -> nn.Module:
    """Fill a network that was built from its model.json.

    Raises:
        RunError: weights missing, damaged or of another architecture.
    """
    file = folder / "weights.safetensors"
    try:
        network.load_state_dict(safetensors.torch.load_file(file))
    except Exception as failure:  # safetensors and torch raise many types for damaged or foreign files
        reason = (str(failure) or type(failure).__name__).splitlines()[0]
        raise RunError(
            f"{file} cannot be loaded: {reason}", "Copy the whole run folder again, or train anew."
        ) from failure
    return network


def update_facts(folder: Path, changes: dict[str, Any]) -> None:
    """Change keys of model.json, such as the operating points once they are chosen."""
    facts = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    write_json(folder / "model.json", plain(facts | changes))
