"""Folds: who plays which part, that they pool to one honest answer, and that they can be had again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import compose, run_on_cpu, toy_prepared

from pipelines.shared.cli.modes import _write_data
from pipelines.shared.data import assemble
from pipelines.shared.data.records import Source
from pipelines.shared.data.splits import fold_roles
from pipelines.shared.errors import ConfigError, DataError
from pipelines.shared.judging.calls import calls
from pipelines.shared.learning import cross_validation
from pipelines.shared.learning.cross_validation import CrossValidation, FoldFolder, fold_data, method_of, own_folds
from pipelines.shared.learning.learner import Learner
from pipelines.shared.learning.method import Ensemble
from pipelines.shared.run import FinishedRun, open_finished
from pipelines.shared.run_folder import RunFolder, read_json
from pipelines.shared.stats.bootstrap import Bootstrap
from pipelines.shared.stats.operating_points import point_estimates, pooled_points, threshold_of
from pipelines.shared.study import Data, Study

FOLDS = 4


class ToyLearner(Learner):
    """A logistic regression of 8 numbers."""

    classes = ["positive"]  # noqa: RUF012
    targets_shown = ("positive",)
    link = "sigmoid"

    def build(self):
        return torch.nn.Linear(8, 1)

    def architecture(self, network):
        return {}

    @staticmethod
    def rebuild(model):
        return torch.nn.Linear(8, 1)

    def targets(self, records):
        return records[["positive"]].to_numpy(np.float32)

    def augment(self):
        return lambda array, generator: array

    def loss(self):
        return torch.nn.functional.binary_cross_entropy_with_logits

    def measure(self, targets, outputs):
        return {}

    def activation(self, outputs):
        return 1 / (1 + np.exp(-outputs))

    def columns(self, probabilities):
        return pd.DataFrame({"p_positive": probabilities[:, 0]})


class ToyMethod(Ensemble):
    learner = ToyLearner


class Toy(Study):
    """A study of numbers instead of files."""

    name, title, suffixes, labels, stratify = "skin", "Toy", (), ("positive",), "positive"  # of an existing config
    sources: dict = {}  # noqa: RUF012

    def prepare_settings(self, config):
        return {}

    @staticmethod
    def prepare(record, root, settings):
        raise NotImplementedError

    def method(self, config):
        return ToyMethod()

    def choose_points(self, predictions, config):
        rows = predictions[predictions["positive"] == 1]
        return [{"name": "half", "task": "positive", "score": "p_positive", "target": {"sensitivity": 0.5},
                 "threshold": float(rows["p_positive"].median())}]  # fmt: skip

    def evaluate(self, evidence):
        raise NotImplementedError


def toy_records(groups: int = 60, seed: int = 0) -> tuple[pd.DataFrame, np.ndarray]:
    rng = np.random.default_rng(seed)
    group = np.repeat([f"p{n}" for n in range(groups)], 2)
    positive = np.repeat(np.arange(groups) % 2, 2)
    arrays = rng.normal(size=(2 * groups, 8)).astype(np.float32)
    arrays[:, 0] += positive
    ids = [f"r{seed}-{n}" for n in range(2 * groups)]
    records = pd.DataFrame(
        {"id": ids, "group": group, "split": None, "path": ids, "positive": positive.astype(float),
         "fingerprint": [f"{seed}-{n}" for n in range(2 * groups)], "source_group": group}
    )  # fmt: skip
    return records, arrays


def config_of(*overrides: str):
    return compose(
        "skin", "data=table", f"split.folds={FOLDS}", "trainer.epochs=2", "trainer.batch_size=16",
        "trainer.device=cpu", "trainer.monitor=val_loss", "trainer.warmup_epochs=0", "trainer.sampling=shuffle",
        *overrides,
    )  # fmt: skip


def toy_data(config, groups: int = 60, seed: int = 0) -> Data:
    records, arrays = toy_records(groups, seed)
    source = Source("table", False, Path(), records, "patient")
    divided = assemble._divided(Toy(), config, records, source)
    place = divided.index.to_numpy()
    flow = {"source": "table", "split_fingerprint": "x", "synthetic": False, "notes": source.notes}
    return Data(source, divided.reset_index(drop=True), toy_prepared(arrays).take(place), flow, records.head(0))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished cross-validation of 120 records."""
    config = config_of()
    made = run_on_cpu(Toy(), config, RunFolder(tmp_path_factory.mktemp("cross") / "run"))
    data = toy_data(config)
    _write_data(made.folder, data)
    method = method_of(made.study, config)
    method.fit(made, data)
    return made, data, method


# --- who plays which part ---


@pytest.mark.parametrize("count", [3, 4, 10])
def test_every_record_is_test_once_val_once_and_train_otherwise(count):
    fold = np.random.default_rng(0).integers(0, count, 200)
    fold[:count] = np.arange(count)
    roles = np.stack([fold_roles(fold, k) for k in range(count)])
    assert ((roles == "test").sum(axis=0) == 1).all()
    assert ((roles == "val").sum(axis=0) == 1).all()
    assert ((roles == "train").sum(axis=0) == count - 2).all()
    assert ((roles == "test") == (fold == np.arange(count)[:, None])).all()


def test_no_group_is_on_two_sides_of_any_fold():
    config = config_of()
    data = toy_data(config)
    assert data.records.groupby("group")["fold"].nunique().max() == 1
    assert set(data.records["split"]) == {"test"}
    for k in range(FOLDS):
        part = fold_data(Toy(), config, data, k)
        assert part.records.groupby("group")["split"].nunique().max() == 1
        assert set(part.records.loc[part.records["split"] == "test", "id"]) == set(
            data.records.loc[data.records["fold"] == k, "id"]
        )
        for i in (0, len(part.records) - 1):
            place = int(np.flatnonzero(data.records["id"] == part.records["id"][i])[0])
            assert np.array_equal(part.prepared.array(i), data.prepared.array(place))


@pytest.mark.slow
def test_one_fold_a_run_is_that_fold_of_all_folds_in_one():
    whole = toy_data(config_of())
    for k in range(FOLDS):
        alone = toy_data(config_of(f"split.fold={k}"))
        part = fold_data(Toy(), config_of(), whole, k)
        assert "fold" not in alone.records
        assert dict(zip(alone.records["id"], alone.records["split"], strict=True)) == dict(
            zip(part.records["id"], part.records["split"], strict=True)
        )
        assert any(f"Fold {k} of a cross-validation in {FOLDS}" in note for note in alone.flow["notes"])


def test_each_fold_has_its_own_training_size():
    config = config_of("data.train_size=10")
    data = toy_data(config)
    assert len(data.records) == 120
    part = fold_data(Toy(), config, data, 1)
    groups = part.records.groupby("split")["group"].nunique()
    assert groups["train"] == 10
    assert groups["test"] == groups["val"] == 15


def test_classes_of_fewer_groups_than_folds_are_dealt_out_and_named():
    records, _ = toy_records()
    records["positive"] = np.where(records["group"].isin(["p1", "p3"]), 2.0, 0.0)
    source = Source("table", False, Path(), records, "patient")
    divided = assemble._divided(Toy(), config_of(), records, source)
    assert set(divided["fold"]) == set(range(FOLDS))
    assert any("not in every fold: positive 2.0" in note for note in source.notes)


def test_more_folds_than_groups_is_an_error_in_words():
    with pytest.raises(DataError, match=r"There are 5 groups; at least 9 are needed, one for each of the 9 folds"):
        toy_data(config_of("split.folds=9"), groups=5)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["split.folds=null", "split.fold=1"], "fold=1 needs folds"),
        (["split.fold=4"], "folds are numbered 0 to 3"),
        (["split.folds=2"], "greater than or equal to 3"),
        (["split.by_time=age"], "folds do not go by time"),
    ],
)
def test_keys_that_do_not_fit_are_named(overrides, said):
    with pytest.raises(ConfigError, match=said):
        config_of(*overrides)


@pytest.mark.slow
def test_slides_are_cross_validated_one_fold_a_run_and_covid_takes_the_shared_keys():
    with pytest.raises(ConfigError, match=r"one fold a run, give split.fold too \(-m split.fold=0,1,2\)|-m split.fold"):
        compose("camelyon", "split.folds=3")
    compose("camelyon", "split.folds=3", "split.fold=0")
    compose("camelyon", "data=pcam", "split.folds=3")
    config = compose("covid_flannel", "split.folds=6", "split.fold=5")
    assert config.fold_count == 6
    assert config.chosen_folds == [5]
    with pytest.raises(ConfigError, match="at least 4"):
        compose("covid_flannel", "split.folds=3")
    with pytest.raises(ConfigError, match="give one of them"):
        compose("covid_flannel", "split.folds=5", "split.fold=0", "folds=[1]")


# --- what a run of all folds leaves ---


def test_predictions_of_all_folds_are_pooled_and_each_is_by_a_network_that_had_not_seen_the_record(run):
    made, data, _ = run
    fold = dict(zip(data.records["id"], data.records["fold"], strict=True))
    for split, off in (("test", 0), ("val", 1)):
        table = pd.read_parquet(made.folder.predictions(split))
        assert sorted(table["id"]) == sorted(data.records["id"])
        assert ((table["fold"] + off) % FOLDS == table["id"].map(fold)).all()
    assert [p.name for p in made.folder.networks()] == [f"fold_{k}-network" for k in range(FOLDS)]
    assert [read_json(p / "model.json")["name"] for p in made.folder.networks()] == [
        f"fold_{k}-network" for k in range(FOLDS)
    ]
    history = pd.read_csv(made.folder.history)
    assert list(dict.fromkeys(history["network"])) == [f"fold_{k}-network" for k in range(FOLDS)]


def test_every_fold_has_its_own_threshold_and_the_median_is_for_others(run):
    made, _, _ = run
    point = read_json(made.folder.operating_points)[0]
    own = [read_json(p / "model.json")["operating_points"][0]["threshold"] for p in made.folder.networks()]
    assert [point["thresholds"][str(k)] for k in range(FOLDS)] == own
    assert len(set(own)) == FOLDS
    assert point["threshold"] == np.median(own)
    assert point["chosen_on"] == "val"
    val = pd.read_parquet(made.folder.predictions("val"))
    of_fold = val[(val["fold"] == 2) & (val["positive"] == 1)]
    assert own[2] == of_fold["p_positive"].median()


def test_other_records_are_answered_by_all_networks_own_ones_by_the_fold_that_tested_them(run):
    made, data, method = run
    finished = open_finished(made.study, made.folder.path)
    tested = pd.read_parquet(made.folder.predictions("test")).set_index("id")["p_positive"]
    again = method.answer(made, finished, data)
    assert again["id"].tolist() == data.records["id"].tolist()
    assert again["fold"].tolist() == data.records["fold"].tolist()
    assert np.allclose(again["p_positive"], tested.loc[again["id"]])
    records, arrays = toy_records(10, seed=1)
    records["group"] = records["source_group"] = "other " + records["group"]
    other = Data(data.source, records, toy_prepared(arrays), {})
    table = method.answer(made, finished, other)
    assert table["fold"].isna().all()
    singles = []
    for k in range(FOLDS):
        only = {n: m for n, m in finished.models.items() if n.startswith(f"fold_{k}-")}
        singles.append(method.method.answer(made, FinishedRun(finished.folder, only, []), other)["p_positive"])
    assert np.allclose(table["p_positive"], np.mean(singles, axis=0))
    assert np.ptp(singles, axis=0).max() > 1e-3
    every = np.stack([*arrays, *(data.prepared.array(i) for i in range(len(data.records)))])
    both = Data(data.source, pd.concat([records, data.records], ignore_index=True), toy_prepared(every), {})
    mixed = method.answer(made, finished, both)
    assert mixed["id"].tolist() == both.records["id"].tolist()
    assert np.allclose(mixed["p_positive"], [*table["p_positive"], *again["p_positive"]])


def test_groups_of_another_source_with_the_same_names_are_others(run):
    made, data, _ = run
    finished = open_finished(made.study, made.folder.path)
    rows = data.records[["group"]].assign(fingerprint="new")
    assert not np.isnan(own_folds(finished, "table", rows)).any()
    assert np.isnan(own_folds(finished, "ham10000", rows)).all()
    assert np.isnan(own_folds(finished, "table", rows[["fingerprint"]])).all()


def test_a_run_that_is_cut_off_goes_on_with_the_fold_it_was_at(run, tmp_path, monkeypatch):
    made, data, method = run
    again = run_on_cpu(made.study, made.config, RunFolder(tmp_path / "again"))
    _write_data(again.folder, data)
    real, fitted = ToyMethod.fit, []

    def cut(self, fold_run, part):
        fitted.append(fold_run.folder.fold)
        if len(fitted) == 3:
            raise KeyboardInterrupt
        real(self, fold_run, part)

    monkeypatch.setattr(ToyMethod, "fit", cut)
    with pytest.raises(KeyboardInterrupt):
        method.fit(again, data)
    assert not again.folder.predictions("test").exists()
    method.fit(again, data)
    assert fitted == [0, 1, 2, 2, 3]
    for name in ("test", "val"):
        whole, resumed = (pd.read_parquet(r.folder.predictions(name)) for r in (made, again))
        assert whole.equals(resumed)
    assert read_json(again.folder.operating_points) == read_json(made.folder.operating_points)


def test_what_is_shown_is_of_fold_0(run, monkeypatch):
    made, data, method = run
    seen = []
    monkeypatch.setattr(ToyMethod, "explain", lambda self, r, d: seen.append((r, d)))
    method.explain(made, data)
    folder, part = seen[0][0].folder, seen[0][1]
    assert folder.path == made.folder.path
    assert [p.name for p in folder.networks()] == ["fold_0-network"]
    table = pd.read_parquet(folder.predictions("test"))
    assert set(table["id"]) == set(part.records.loc[part.records["split"] == "test", "id"])


def test_the_method_is_wrapped_only_where_one_run_does_all_folds(run):
    assert isinstance(run[2], CrossValidation)
    assert isinstance(method_of(Toy(), config_of("split.fold=0")), ToyMethod)
    assert isinstance(method_of(Toy(), config_of("split.folds=null")), ToyMethod)
    from pipelines.covid_flannel.study import STUDY

    assert not isinstance(method_of(STUDY, compose("covid_flannel", "split.folds=5")), CrossValidation)


def test_a_fold_without_labels_is_refused_before_anything_is_trained(tmp_path):
    config = config_of()
    made = run_on_cpu(Toy(), config, RunFolder(tmp_path / "run"))
    data = toy_data(config)
    data.records.loc[data.records["fold"] == 2, "positive"] = np.nan
    data.flow["card"] = "table"
    with pytest.raises(DataError, match="in val has a label"):
        method_of(made.study, config).fit(made, data)
    assert not made.folder.networks()


def test_folders_of_folds_keep_their_files_apart(tmp_path):
    whole = RunFolder(tmp_path)
    folders = [FoldFolder(cross_validation.fold_path(whole, k), whole, k) for k in (1, 11)]
    for folder in folders:
        folder.network("network").mkdir(parents=True)
        (folder.network("network") / "model.json").write_text("{}")
    assert [p.name for p in folders[0].networks()] == ["fold_1-network"]
    assert folders[0].checkpoint("network") != folders[1].checkpoint("network")


# --- thresholds ---


def test_rows_are_called_at_the_threshold_of_their_own_fold():
    points = [{"name": "half", "task": "t", "score": "p", "fold": k, "threshold": t, "chosen_on": "val"}
              for k, t in enumerate((0.2, 0.5, 0.9))]  # fmt: skip
    pooled = pooled_points(points)
    assert pooled == [{"name": "half", "task": "t", "score": "p", "chosen_on": "val", "threshold": 0.5,
                       "thresholds": {"0": 0.2, "1": 0.5, "2": 0.9}}]  # fmt: skip
    rows = pd.DataFrame({"p": [0.3, 0.3, 0.3, 0.6], "t": [1, 0, 0, 1], "group": list("abcd"),
                         "fold": pd.array([0, 1, 2, None], dtype="Int64")})  # fmt: skip
    assert threshold_of(pooled[0], rows).tolist() == [0.2, 0.5, 0.9, 0.5]
    assert threshold_of(points[0], rows) == 0.2
    assert calls(rows, pooled)["t@half"].tolist() == [1, 0, 0, 1]
    filled, metrics = point_estimates(rows, pooled, Bootstrap(100))
    assert metrics["test.t.sensitivity@half"].value == 1
    assert filled[0]["specificity"]["value"] == 1
