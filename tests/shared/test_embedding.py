"""The map of the last hidden layer."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from pipelines.shared.judging.figures import embedding
from pipelines.skin.tsne import tsne


@pytest.mark.slow
def test_groups_stay_together_and_the_seed_decides(tmp_path):
    rng = np.random.default_rng(0)
    group = np.repeat([0, 1, 2], 30)
    values = rng.normal(size=(90, 64)) + 6 * np.eye(64)[group]
    places = tsne(values, seed=0)
    assert places.shape == (90, 2)
    assert (places == tsne(values, seed=0)).all()
    distance = np.linalg.norm(places[:, None] - places[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    assert (group[distance.argmin(axis=1)] == group).mean() > 0.95
    names = np.array(["benign", "malignant", "neither"])[group].tolist()
    with Image.open(embedding(tmp_path / "a.png", places, names, sorted(set(names)), note="synthetic data")) as picture:
        assert picture.width > 500


def test_too_few_records_give_a_figure_all_the_same(tmp_path):
    assert tsne(np.zeros((2, 8)), seed=0).shape == (2, 2)
    assert tsne(np.random.default_rng(0).normal(size=(6, 8)), seed=0).shape == (6, 2)
    assert embedding(tmp_path / "b.png", np.zeros((0, 2)), [], []).exists()
