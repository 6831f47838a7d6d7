"""Data cards as Croissant, the vocabulary by which search engines and catalogues know datasets (Akhtar et al.:
Croissant: A metadata format for ML-ready datasets. NeurIPS 2024). `python -m pipelines.publish.croissant` writes
`data_cards/<name>.croissant.json` beside the card of each dataset, from the card alone. Extra `croissant`.

What a card's `layout` says in a form that a program can read becomes files and columns: paths at the beginning of a
line, and behind the name of a table, in parentheses, its columns. All of it is in the description.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

from pipelines.publish.licences import OWN
from pipelines.shared.config import cards_folder
from pipelines.shared.data.cards import Card, load_card
from pipelines.shared.extras import Extra
from pipelines.shared.job import exit_on_mistake
from pipelines.shared.run_folder import write_json

CROISSANT = Extra("croissant", {"mlcroissant": "mlcroissant"})
FORMATS = {
    "csv": "text/csv", "jpg": "image/jpeg", "jpeg": "image/jpeg", "png": "image/png", "tif": "image/tiff",
    "xml": "application/xml", "json": "application/json", "txt": "text/plain", "dcm": "application/dicom",
    "h5": "application/x-hdf5", **dict.fromkeys(("hea", "dat", "atr", "mat", "ecg"), "application/octet-stream"),
}  # fmt: skip
# A path; <anything>, {one,other} and [0-9] stand in it.
NAME = rf"[\w.\-/<>{{}}\[\],*]*[\w>}}\]*]\.(?:{'|'.join(FORMATS)})|[\w.\-/]+/<\w+>"
LISTED = re.compile(rf"(?:optional, )?({NAME})(?: \([^)]*\))?(?:, | and | or |$|;)")
TABLE = re.compile(rf"(?:^|(?<=, )|(?<=- )|(?<=and ))({NAME}) \(([^)]*)\)")


def main() -> None:
    """Write all of them."""
    exit_on_mistake(write_all)


def write_all() -> None:
    """`<name>.croissant.json` beside the card of each dataset."""
    CROISSANT.require("Croissant")
    for card in datasets():
        write_json(croissant_file(card.name), croissant(card))
        print(croissant_file(card.name))


def datasets() -> list[Card]:
    """The cards of datasets; those of data that users bring themselves say what may be brought."""
    cards = [load_card(file.stem) for file in sorted(cards_folder().glob("*.md")) if file.stem != "README"]
    return [card for card in cards if card.weights_licence != OWN]


def croissant_file(name: str) -> Path:
    """Where a card's Croissant is."""
    return cards_folder() / f"{name}.croissant.json"


def croissant(card: Card) -> dict[str, Any]:
    """A card as JSON-LD."""
    import mlcroissant as mlc

    files = {path: _identifier(path) for path in paths(card.layout)}
    tables = {table: names for table, names in columns(card.layout).items() if table in files}
    distribution = [  # a single file too: Croissant wants its checksum, and copies of public sets differ
        mlc.FileSet(id=files[path], name=path, includes=globs(path), encoding_formats=[_format(path)]) for path in files
    ]
    records = [
        mlc.RecordSet(
            id=f"rows-of-{files[table]}",
            name=f"rows of {table}",
            fields=[
                mlc.Field(
                    id=f"rows-of-{files[table]}/{_identifier(name)}",
                    name=name,
                    description=card.targets.get(name),
                    data_types=mlc.DataType.TEXT,
                    source=mlc.Source(file_set=files[table], extract=mlc.Extract(column=name)),
                )
                for name in names
            ],
        )
        for table, names in tables.items()
    ]
    metadata = mlc.Metadata(
        name=card.title,
        description=description(card),
        license=card.licence,
        keywords=[card.study, "medical imaging" if card.study != "ecg" else "ECG", *["synthetic"] * card.synthetic],
        data_biases=card.confounds,
        distribution=distribution,
        record_sets=records,
    )
    content: dict[str, Any] = json.loads(json.dumps(metadata.to_json()))
    return content


def description(card: Card) -> str:
    """What the dataset is, how it is had, what lies where, what is counted and what is asked."""
    paragraphs = [text for text in card.prose.split("\n\n") if not text.startswith(("#", "|", "```"))]
    parts = [
        " ".join(paragraphs[0].split()),
        f"Access: {card.access}",
        "Layout: " + "; ".join(card.layout),
        "Counts: " + ", ".join(f"{number} {name}" for name, number in card.counts.items()),
        f"Records are grouped by {card.group_key}",
        "Targets: " + "; ".join(f"{name}: {meaning}" for name, meaning in card.targets.items()),
    ]
    return "\n\n".join(part if part.endswith(".") else f"{part}." for part in parts if not part.endswith(": "))


# --- what a layout says ---


def paths(layout: list[str]) -> list[str]:
    """The paths at the beginning of its lines, as they are written."""
    found = []
    for line in layout:
        place = 0
        while match := LISTED.match(line, place):
            found.append(match.group(1))
            place = match.end()
    return list(dict.fromkeys(found))


def columns(layout: list[str]) -> dict[str, list[str]]:
    """Tables -> their columns, as far as the layout names them."""
    return {
        table: names
        for line in layout
        for table, inside in TABLE.findall(line)
        if table.endswith(".csv") and (names := list(_names(inside)))
    }


def _names(inside: str) -> Iterator[str]:
    """Of `patientid or Patientid, offset, …; with or without a header` the columns patientid and offset."""
    for word in re.split(r", |;(?=\S)", inside.partition("; ")[0]):
        name = re.split(r" (?:or|=|…)(?: |$)", word.removeprefix("then "))[0].strip()
        if name and name != "…":
            yield name


def globs(path: str) -> list[str]:
    """A path as patterns: `<x>` is anything, `{a,b}` one of them."""
    parts = re.split(r"(\{[^}]*\})", re.sub(r"<[^>]*>", "*", path))
    choices = [part[1:-1].split(",") if part.startswith("{") else [part] for part in parts]
    return ["".join(chosen) for chosen in product(*choices)]


def _identifier(path: str) -> str:
    return re.sub(r"[^\w.\-]+", "_", path).strip("_")


def _format(path: str) -> str:
    return FORMATS.get(path.rpartition(".")[2].lower(), "application/octet-stream")


if __name__ == "__main__":
    main()
