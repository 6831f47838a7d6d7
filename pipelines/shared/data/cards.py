"""Data cards: what is known about a dataset, and how to get it.

A card is `data_cards/<name>.md`: YAML front matter with fixed keys, then prose. Adapters quote a card when a
folder or file is missing; the report quotes its group key and known confounds.
"""

from __future__ import annotations

from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from pipelines.shared.config import cards_folder
from pipelines.shared.errors import DataError


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
        DataError: there is none, it has no front matter, or its keys are not a card's.
    """
    file = cards_folder() / f"{name}.md"
    remedy = "Write it like the other cards there; pipelines/shared/README.md, Adding a study, says what it is for."
    if not file.is_file():
        raise DataError(f"data_cards/{file.name} does not exist: every source has a data card.", remedy)
    parts = file.read_text(encoding="utf-8").split("---\n", 2)
    if len(parts) != 3 or parts[0]:
        raise DataError(f"data_cards/{file.name} does not begin with YAML between two lines of ---.", remedy)
    try:
        return Card.model_validate({**yaml.safe_load(parts[1]), "prose": parts[2].strip()})
    except ValidationError as failure:
        first = failure.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise DataError(f"data_cards/{file.name}: {key}: {first['msg'].lower()}.", remedy) from None
    except (yaml.YAMLError, TypeError):
        raise DataError(f"data_cards/{file.name}: its first part is no YAML of keys and values.", remedy) from None
