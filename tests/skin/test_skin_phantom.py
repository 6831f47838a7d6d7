"""The phantom: reproducible, in HAM10000's layout, with a truth that its oracle and readers follow."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from conftest import phantom_settings
from PIL import Image

from pipelines.shared.data.copies import Copy
from pipelines.skin.diseases import DISEASES, NAMES, draw_looks, recorded_shares
from pipelines.skin.phantom.artist import draw_lesion, photograph
from pipelines.skin.phantom.dataset import diseases_of, ensure_phantom, make_phantom, oracle_columns
from pipelines.skin.public_sets import read_ham10000
from pipelines.skin.trees import read_tree

SMALL = phantom_settings("skin", lesions=200, size=64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return ensure_phantom(tmp_path_factory.mktemp("cache"), SMALL, workers=1)


def test_the_diseases_are_the_trees_labels_and_their_shares_sum_to_one():
    assert sorted(NAMES) == sorted(read_tree("phantom").leaves)
    assert sum(d.share for d in DISEASES.values()) == pytest.approx(1)
    for name, disease in DISEASES.items():
        assert set(disease.mistaken_for) <= set(NAMES) - {name}


def test_every_disease_has_at_least_six_lesions():
    for settings in (SMALL, phantom_settings("skin")):
        counts = pd.Series(diseases_of(settings)).value_counts()
        assert counts.sum() == settings.lesions
        assert len(counts) == 20
        assert counts.min() >= 6


@pytest.mark.slow
def test_it_is_read_by_the_adapter_of_the_real_set(folder):
    source = read_ham10000(Copy(folder, "skin_phantom"), read_tree("phantom"), "phantom", "error")
    records = source.records
    assert source.synthetic
    assert records["group"].nunique() == 200
    assert 1.5 < len(records) / 200 < 2.6
    assert records.groupby("group")["label"].nunique().max() == 1
    assert set(records["skin_type"]) <= set(range(1, 7))
    assert (folder / "SYNTHETIC.txt").read_text().startswith("Everything in this folder is synthetic")
    for row in records.head(5).itertuples():
        with Image.open(folder / row.path) as picture, Image.open(folder / f"truth/masks/{row.id}.png") as mask:
            assert picture.size == mask.size == (64, 48)
            assert 0.005 < (np.asarray(mask) > 127).mean() < 0.95


@pytest.mark.slow
def test_the_same_settings_give_the_same_files(folder, tmp_path):
    again = tmp_path / "again"
    again.mkdir()
    make_phantom(again, SMALL, workers=1)
    for name in ("HAM10000_metadata.csv", "readers.csv", "truth/truth.csv"):
        assert (again / name).read_bytes() == (folder / name).read_bytes()
    first = sorted(folder.glob("HAM10000_images_part_*/*.jpg"))[7]
    assert (again / first.relative_to(folder)).read_bytes() == first.read_bytes()


def test_readers_are_as_good_as_their_skill(folder):
    readings = pd.read_csv(folder / "readers.csv")
    truth = pd.read_csv(folder / "truth" / "truth.csv").set_index("image_id")["disease"]
    right = readings["diagnosis"] == truth.reindex(readings["image_id"]).to_numpy()
    assert 0.5 < right.mean() < 0.8
    assert readings["reader"].nunique() == 21
    assert not readings.duplicated(["image_id", "reader"]).any()


def test_records_are_wrong_as_often_as_told(folder):
    metadata = pd.read_csv(folder / "HAM10000_metadata.csv").drop_duplicates("lesion_id")
    truth = pd.read_csv(folder / "truth" / "truth.csv").set_index("image_id")["disease"]
    drawn = truth.reindex(metadata["image_id"]).to_numpy()
    assert (metadata["dx"] != drawn).mean() < 0.15
    for recorded, disease in zip(metadata["dx"], drawn, strict=True):
        assert recorded in recorded_shares(disease, 0.06)


def test_the_oracle_answers_by_what_was_drawn():
    table = oracle_columns(["nodular_melanoma", "common_nevus"], 0.06, read_tree("phantom"))
    assert table["truth_three_way"].tolist() == ["malignant", "benign"]
    assert table["truth_nine_way"].tolist() == ["malignant_melanoma", "benign_melanocytic"]
    # a nodular melanoma is recorded as another melanoma, a blue naevus or a keratosis, 0.02 each
    assert table["truth_malignant"][0] == pytest.approx(0.96)
    assert table["truth_melanoma_vs_nevus"][0] == pytest.approx(0.96 / 0.98)
    assert table["truth_malignant"][1] == pytest.approx(0.02)


def test_darker_skin_gives_darker_pictures_of_the_same_lesion():
    looks = draw_looks(np.random.default_rng(0), "common_nevus", 1.0, 0.0)
    lesion = draw_lesion(np.random.default_rng(1), looks, 120)
    light, dark = (photograph(np.random.default_rng(2), lesion, kind, 96, 128)[0] for kind in (1, 6))
    assert light.mean() > 1.5 * dark.mean()
    assert light.shape == (96, 128, 3)


def test_without_contrast_all_diseases_look_alike():
    rngs = [np.random.default_rng(0) for _ in range(2)]
    a, b = (draw_looks(rng, name, 1e-9, 0.0) for rng, name in zip(rngs, ("wart", "nodular_melanoma"), strict=True))
    np.testing.assert_allclose(a.array(), b.array(), rtol=1e-6)
