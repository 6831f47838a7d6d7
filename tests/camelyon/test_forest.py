"""The forest over slides: scikit-learn's to the last bit, kept as plain arrays, refused when they are damaged."""

from __future__ import annotations

import zipfile
from dataclasses import fields, replace

import numpy as np
import pandas as pd
import pytest
from conftest import compose

from pipelines.camelyon import forest as forests
from pipelines.camelyon import scoring
from pipelines.camelyon.forest import Forest, as_arrays, fit_forest, forest_file, read_forest, write_forest
from pipelines.camelyon.slide_features import FEATURES
from pipelines.shared.errors import RunError
from pipelines.shared.run_folder import RunFolder


def slides(count=60, seed=0):
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(rng.random((count, len(FEATURES))), columns=FEATURES)
    return table, (table["region1_area"] + 0.3 * rng.random(count) > 0.6).to_numpy(int)


def test_arrays_decide_as_scikit_learn_does():
    from sklearn.ensemble import RandomForestClassifier

    table, labels = slides()
    other, _ = slides(200, seed=1)
    theirs = RandomForestClassifier(40, class_weight="balanced", random_state=3).fit(table.to_numpy(), labels)
    ours = as_arrays(theirs)
    assert ours.problem() is None
    for part in (table, other, other[FEATURES[::-1]]):  # columns in whatever order
        np.testing.assert_array_equal(ours.probabilities(part), theirs.predict_proba(part[FEATURES].to_numpy())[:, 1])


@pytest.mark.slow
def test_a_forest_learns_and_depends_on_its_seed():
    table, labels = slides()
    train, test = slice(0, 40), slice(40, 60)
    found = fit_forest(table[train], labels[train], seed=0, trees=100).probabilities(table[test])
    assert found[labels[test] == 1].mean() > found[labels[test] == 0].mean() + 0.3
    again, other = (fit_forest(table[train], labels[train], seed, 100).probabilities(table[test]) for seed in (0, 1))
    np.testing.assert_array_equal(found, again)
    assert (found != other).any()
    with pytest.raises(KeyError):
        fit_forest(table.drop(columns="maximum"), labels, seed=0)
    with pytest.raises(ValueError, match="both"):
        fit_forest(table, np.ones(60), seed=0)


def test_a_stored_forest_is_the_same_and_is_never_unpickled(tmp_path):
    table, labels = slides()
    forest, file = fit_forest(table, labels, 0, 20), tmp_path / "forest.npz"
    write_forest(file, forest)
    stored = read_forest(file)
    for field in fields(Forest):
        np.testing.assert_array_equal(getattr(stored, field.name), getattr(forest, field.name))
    np.savez(file, **{field.name: np.array([{}], object) for field in fields(Forest)}, features=np.array(FEATURES))
    with pytest.raises(RunError, match="is damaged"):
        read_forest(file)


def test_a_damaged_forest_is_refused_in_words(tmp_path, monkeypatch):
    table, labels = slides()
    forest, file = fit_forest(table, labels, 0, 20), tmp_path / "forest.npz"
    write_forest(file, forest)
    content = file.read_bytes()
    middle = len(content) // 2
    for damaged in (b"", b"no forest", content[:middle], content[:middle] + bytes(64) + content[middle + 64 :]):
        file.write_bytes(damaged)
        with pytest.raises(RunError, match=r"forest\.npz is damaged"):
            read_forest(file)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("features.npy", b"no array")
        for field in fields(Forest):
            archive.writestr(f"{field.name}.npy", b"no array")
    with pytest.raises(RunError):
        read_forest(file)
    circle = np.where(forest.left >= 0, 0, -1)
    for change in ({"left": circle}, {"tumour": forest.tumour + 1}, {"right": forest.right[1:]},
                   {"feature": forest.feature + 40}, {"roots": forest.roots + 0.5}):  # fmt: skip
        write_forest(file, replace(forest, **change))
        with pytest.raises(RunError, match="is damaged"):
            read_forest(file)
    monkeypatch.setattr(forests, "FEATURES", FEATURES[::-1])
    file.write_bytes(content)
    with pytest.raises(RunError, match="other features"):
        read_forest(file)


@pytest.fixture
def run(tmp_path):
    """A finished run's tables of slides: 40 of training, 20 of test."""
    config, folder = compose("camelyon", "slide_scores.trees=20"), RunFolder(tmp_path / "run")
    table, labels = slides()
    ids = [f"slide_{i}" for i in range(60)]
    split = ["train"] * 40 + ["test"] * 20
    table = table.assign(id=ids, group=ids, split=split, tumor=labels.astype(float))
    folder.write_table(folder.path / "slide_features.parquet", table)
    forest = scoring.train_forest(config, folder)
    folder.write_table(folder.predictions("test"), scoring.slide_predictions(table[40:], folder, forest))
    return config, folder


def test_what_is_applied_is_the_forest_that_the_thresholds_were_chosen_for(run):
    config, folder = run
    first = scoring.forest_of(config, folder)
    features = folder.read_table(folder.path / "slide_features.parquet")
    folder.write_table(folder.path / "slide_features.parquet", features[::-1])  # fitted again it would be another
    np.testing.assert_array_equal(
        scoring.forest_of(config, folder).probabilities(features), first.probabilities(features)
    )


def test_a_run_without_its_forest_is_served_if_the_same_can_be_fitted_again(run, caplog):
    config, folder = run
    features = folder.read_table(folder.path / "slide_features.parquet")
    first = scoring.forest_of(config, folder).probabilities(features)
    forest_file(folder).unlink()
    with caplog.at_level("WARNING"):
        again = scoring.forest_of(config, folder)
    np.testing.assert_array_equal(again.probabilities(features), first)
    assert "fitted again" in caplog.text
    assert not forest_file(folder).exists(), "a finished run is not written to"
    with pytest.raises(RunError, match="other probabilities"):
        scoring.forest_of(config.model_copy(update={"seed": 1}), folder)
