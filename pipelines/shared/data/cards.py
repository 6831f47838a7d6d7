"""Data cards: what is known about a dataset, and how to get it.

A card is `data_cards/<name>.md`: YAML front matter with fixed keys, then prose. Adapters quote a card when a
folder or file is missing; the report quotes its group key and known confounds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict

from pipelines.shared.config import cards_folder


class Card(BaseModel):
    """The front matter of a data card.

    `weights_licence`: the licence under which networks that were trained on the set may be handed on (`pipelines.
    publish` lists those it knows); `yours`: its owner says; null: they may not.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    title: str
    study: str
    synthetic: bool
    licence: str
    weights_licence: str | None = None
    access: str
    layout: list[str]
    counts: dict[str, Any]
    group_key: str
    targets: dict[str, str]
    confounds: list[str]
    prose: str = ""


def load_card(name: str) -> Card:
    """Read `data_cards/<name>.md`.

    Raises:
        ValueError: the card has no front matter, or its keys are not a card's (a defect of the project).
    """
    file: Path = cards_folder() / f"{name}.md"
    text = file.read_text(encoding="utf-8")
    parts = text.split("---\n", 2)
    if len(parts) != 3 or parts[0]:
        raise ValueError(f"{file.name} must begin with YAML front matter between two lines of ---.")
    return Card(**yaml.safe_load(parts[1]), prose=parts[2].strip())
