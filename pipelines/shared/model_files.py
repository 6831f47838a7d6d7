"""A network on disk: `weights.safetensors` and `model.json`, which says how to build it again and what it answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import safetensors.torch
from torch import nn

from pipelines.shared.errors import RunError
from pipelines.shared.run_folder import digest, plain, read_json, write_atomically, write_json

SCHEMA = 1


def save_network(folder: Path, network: nn.Module, facts: dict[str, Any]) -> None:
    """Write a network. `facts` becomes model.json: study, classes, preprocessing, architecture …, and the checksum."""
    state = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    file = folder / "weights.safetensors"
    write_atomically(file, lambda aside: safetensors.torch.save_file(state, aside))
    write_json(folder / "model.json", plain({"schema": SCHEMA} | facts | {"sha256": digest(file)}))


def load_weights(folder: Path, network: nn.Module) -> nn.Module:
    """Fill a network that was built from `read_facts(folder)["architecture"]`.

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


def read_facts(folder: Path, study: str, classes: list[str] | None = None) -> dict[str, Any]:
    """model.json, checked to be of this study and of these classes in this order (None: any).

    Raises:
        RunError: missing or damaged, of another study, schema or other classes.
    """
    file = folder / "model.json"
    facts: dict[str, Any] = read_json(file, ["schema", "study", "classes", "architecture", "preprocessing"])
    if facts.get("schema") != SCHEMA:
        raise RunError(
            f"{file} has schema {facts.get('schema')}, this version reads {SCHEMA}.", "Use the version that wrote it."
        )
    if facts.get("study") != study:
        raise RunError(
            f"{folder} is a network of the study '{facts.get('study')}', not of '{study}'.",
            f"Use python -m pipelines.{facts.get('study')}, or give a run of {study}.",
        )
    if classes is not None and facts.get("classes") != classes:
        raise RunError(
            f"{folder} answers {facts.get('classes')}, the study asks for {classes}.",
            "Give a run with the same classes in the same order.",
        )
    return facts


def update_facts(folder: Path, changes: dict[str, Any]) -> None:
    """Change keys of model.json, such as the operating points once they are chosen."""
    write_json(folder / "model.json", plain(read_json(folder / "model.json") | changes))
