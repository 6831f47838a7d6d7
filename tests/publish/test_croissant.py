"""Data cards as Croissant: valid, and what the cards say."""

from __future__ import annotations

import json
import sys

import pytest

from pipelines.publish.croissant import (
    CROISSANT,
    columns,
    croissant,
    croissant_file,
    datasets,
    description,
    globs,
    paths,
)
from pipelines.shared.data.cards import load_card

CARDS = datasets()


@pytest.fixture(scope="module")
def mlc():
    if CROISSANT.missing:
        pytest.skip(f"not installed: {', '.join(CROISSANT.missing)}")
    import absl.logging
    import mlcroissant

    # It would close pytest's stream, which it began with, when Hydra sets logging up anew in a later test.
    absl.logging.get_absl_handler().python_handler.stream = sys.__stderr__
    return mlcroissant


def test_paths_and_columns_are_read_from_a_layout():
    layout = [
        "train.csv (id_code, diagnosis; with a header)",
        "a/<x>.png and b/<x>_{l,r}.jpeg, in any folder",
        "optional, more.csv (name or Name, then R1, …) and test/",
        "prose about other.csv (a table) and pictures",
        "left.csv (one;two), <id>.hea",
    ]
    assert paths(layout) == ["train.csv", "a/<x>.png", "b/<x>_{l,r}.jpeg", "more.csv", "left.csv", "<id>.hea"]
    assert columns(layout) == {
        "train.csv": ["id_code", "diagnosis"], "more.csv": ["name", "R1"], "left.csv": ["one", "two"]
    }  # fmt: skip
    assert globs("b/<x>_{l,r}.jpeg") == ["b/*_l.jpeg", "b/*_r.jpeg"]


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_a_cards_croissant_is_valid_and_up_to_date(card, mlc):
    file = croissant_file(card.name)
    content = json.loads(file.read_text(encoding="utf-8"))
    assert content == croissant(card), "make croissant writes it anew"
    metadata = mlc.Dataset(jsonld=file).metadata  # it refuses what is not valid
    assert metadata.name == card.title
    assert metadata.license == [card.licence]
    assert metadata.data_biases == card.confounds
    assert [s.includes for s in metadata.distribution] == [globs(path) for path in paths(card.layout)]
    tables = columns(card.layout)
    assert [[f.name for f in rows.fields] for rows in metadata.record_sets] == [
        tables[path] for path in paths(card.layout) if path in tables
    ]


def test_what_is_not_valid_is_refused(mlc, tmp_path):
    content = croissant(load_card("ham10000"))
    content["recordSet"][0]["field"][0]["source"]["fileSet"]["@id"] = "nowhere"
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(mlc.ValidationError, match="nowhere"):
        mlc.Dataset(jsonld=tmp_path / "a.json")


def test_every_dataset_has_one_and_nothing_else_has():
    there = {file.name for file in croissant_file("x").parent.glob("*.croissant.json")}
    assert there == {croissant_file(card.name).name for card in CARDS}
    assert len(there) > 20
    assert not {"table", "wfdb", "reports"} & {card.name for card in CARDS}


def test_the_description_says_how_the_data_are_had_and_grouped():
    text = description(load_card("ham10000"))
    assert text.startswith("Dermoscopic pictures, 600 x 450 px,")
    assert "Access: Harvard Dataverse" in text
    assert "Counts: 10015 images, 7470 lesions." in text
    assert "Records are grouped by lesion." in text
