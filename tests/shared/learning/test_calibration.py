"""Temperature and prior correction: chosen on val in that order, frozen in model.json, in every answer."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import compose, run_on_cpu, study_of, toy_prepared
from pydantic import ValidationError

from pipelines.covid_flannel.config import CLASSES
from pipelines.shared.data.records import Source
from pipelines.shared.errors import ConfigError
from pipelines.shared.learning.calibration import STRENGTHS, Calibrated, calibrated, choose_calibration
from pipelines.shared.learning.learner import Learner
from pipelines.shared.learning.method import Ensemble, training_keys
from pipelines.shared.learning.views import MeanOverViews
from pipelines.shared.run import open_finished
from pipelines.shared.run_folder import RunFolder, read_json
from pipelines.shared.sections import CalibrationSection
from pipelines.shared.stats.probabilities import softmax
from pipelines.shared.stats.temperature import best_temperature
from pipelines.shared.study import Data, Study

BOTH = CalibrationSection(temperature=True, prior=True)
NEVER = np.zeros(3, bool)


def drawn(counts=(800, 150, 50), seed=0):
    """Outputs, three times too sure, of a network that was trained on rare and common classes; and the classes."""
    rng = np.random.default_rng(seed)
    truth = np.repeat(np.arange(3), counts)
    seen = rng.normal(size=(len(truth), 3)) + 1.5 * np.eye(3)[truth]
    log_likelihood = 1.5 * seen  # of class k against the others, but for what all have in common
    return 3 * (log_likelihood + np.log(np.array(counts) / sum(counts))), truth.astype(np.float32), np.array(counts)


def measure_of(truth):
    def measure(outputs):
        answers = outputs.argmax(axis=1)
        recalls = [(answers[truth == k] == k).mean() for k in range(3)]
        return {"val_balanced_accuracy": float(np.mean(recalls)), "val_accuracy": float((answers == truth).mean())}

    return measure


def chosen(section=BOTH, monitor="val_balanced_accuracy", measure=None):
    outputs, truth, counts = drawn()
    measure = measure or measure_of(truth)
    return choose_calibration(section, counts, NEVER, truth, lambda: outputs, measure, monitor)


def test_the_temperature_comes_first_and_the_prior_is_corrected_behind_it():
    outputs, truth, counts = drawn()
    found = chosen()
    assert found["temperature"] == pytest.approx(best_temperature(outputs, truth))
    assert found["temperature"] == pytest.approx(3, rel=0.15)
    assert 0.5 <= found["prior_strength"] <= 1.5, "balanced accuracy wants the classes to weigh alike"
    np.testing.assert_allclose(found["log_prior"], np.log(counts / counts.sum()))
    values = {
        tau: measure_of(truth)(outputs / found["temperature"] - tau * np.array(found["log_prior"])) for tau in STRENGTHS
    }
    balanced = {tau: v["val_balanced_accuracy"] for tau, v in values.items()}
    assert balanced[found["prior_strength"]] == max(balanced.values())
    assert found["val"] == {
        "monitor": "val_balanced_accuracy",
        "before": balanced[0.0],
        "after": max(balanced.values()),
    }
    assert found["val"]["after"] > found["val"]["before"] + 0.05


def test_of_equally_good_strengths_the_nearest_to_zero_is_taken():
    assert list(map(abs, STRENGTHS)) == sorted(map(abs, STRENGTHS))
    flat = chosen(measure=lambda outputs: {"val_balanced_accuracy": 0.5})
    assert flat["prior_strength"] == 0
    unknown = chosen(measure=lambda outputs: {"val_balanced_accuracy": float("nan")})
    assert unknown["prior_strength"] == 0


def test_a_loss_is_wanted_low():
    def measure(outputs):
        return {"val_loss": float(np.abs(outputs - drawn()[0] + 0.5 * np.log(drawn()[2] / 1000)).mean())}

    assert chosen(CalibrationSection(prior=True), "val_loss", measure)["prior_strength"] == 0.5


def test_each_is_chosen_only_where_it_is_asked_for():
    assert chosen(CalibrationSection(temperature=True))["prior_strength"] == 0
    assert chosen(CalibrationSection(prior=True))["temperature"] == 1

    def outputs():
        raise AssertionError("val is not predicted once more for nothing")

    assert choose_calibration(CalibrationSection(), np.ones(3), NEVER, np.zeros(1), outputs, dict, "val_loss") == {}


def test_without_a_best_temperature_it_stays_one():
    truth = np.array([0, 1, 2], np.float32)
    found = choose_calibration(
        CalibrationSection(temperature=True), np.ones(3), NEVER, truth, lambda: 9 * np.eye(3), measure_of(truth),
        "val_accuracy",
    )  # fmt: skip
    assert found["temperature"] == 1


def test_the_module_says_what_was_chosen():
    outputs, _, counts = drawn()
    network, model = torch.nn.Identity(), {"calibration": chosen()}
    module = calibrated(network, model)
    found = softmax(module(torch.from_numpy(outputs)).numpy())
    c = model["calibration"]
    np.testing.assert_allclose(
        found, softmax(outputs / c["temperature"] - c["prior_strength"] * np.log(counts / counts.sum())), atol=1e-6
    )
    assert not module.state_dict(), "weights stay those of the network"
    assert calibrated(network, {}) is network
    assert calibrated(network, {"calibration": {}}) is network


@pytest.mark.parametrize("study", ["skin", "covid_flannel"])
def test_a_finished_network_is_calibrated_behind_its_views(study):
    config = compose(study, "model.test_time=mirror", "model.backbone=test_efficientnet", "model.weights=none")
    kind = study_of(study).method(config).learner
    if study == "covid_flannel":
        section = next(iter(config.base_learners.values()))
        learner = kind(config, section.model_copy(update={"backbone": None, "weights": None}))
    else:
        learner = kind.from_model(config, {"classes": ["a/b", "c/d"]})
    network = learner.build()
    prior = np.log(np.arange(1, len(learner.classes) + 1) / 10)
    calibration = {"temperature": 2.0, "prior_strength": 0.5, "log_prior": prior.tolist()}
    model = json.loads(json.dumps({"architecture": learner.architecture(network), "calibration": calibration}))
    module = learner.finished(network, model).eval()
    assert isinstance(module, Calibrated)
    assert isinstance(module.network, MeanOverViews)
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.integers(0, 256, (2, 64, 64, 1 if study == "covid_flannel" else 3), np.uint8))
    with torch.inference_mode():
        mean = softmax(module.network(x).numpy())
        np.testing.assert_allclose(
            learner.probabilities(module(x).numpy()), softmax(np.log(mean) / 2 - 0.5 * prior), atol=1e-6
        )


@pytest.mark.parametrize("study", ["skin", "covid_flannel"])
def test_a_learner_corrects_for_its_own_training_pictures(study):
    config = compose(study, "calibration.prior=true", "calibration.temperature=true")
    kind = study_of(study).method(config).learner
    outputs, truth, counts = drawn()
    if study == "skin":
        learner = kind(config, ["a/b", "a/c", "d"], counts)
    else:  # its fourth class was never taught
        learner = kind(config, None, np.array([*counts, 0]), {CLASSES[3]: "no record"})
        outputs = np.column_stack([outputs, np.full(len(outputs), -99.0)])

    def measure(values):
        loss = learner.loss()(torch.from_numpy(values), torch.from_numpy(truth))
        return {"val_loss": float(loss), **learner.measure(truth, values)}

    found = learner.calibrate(truth, lambda: outputs, measure)
    assert found["val"]["monitor"] == config.trainer.monitor
    assert found["temperature"] == pytest.approx(3, rel=0.15)
    np.testing.assert_allclose(found["log_prior"][:3], np.log(counts / counts.sum()))
    assert found["log_prior"][3:] == [0.0] * (study == "covid_flannel"), "nothing is known of it"
    worse = found["val"]["after"] - found["val"]["before"]
    assert (worse < 0) if found["val"]["monitor"].endswith("loss") else (worse > 0)


# --- in a run ---


class ToyLearner(Learner):
    """Three classes, from three numbers."""

    classes = ["a", "b", "c"]  # noqa: RUF012
    targets_shown = ("label",)
    link = "softmax"
    build = staticmethod(lambda: torch.nn.Linear(3, 3))
    rebuild = staticmethod(lambda model: torch.nn.Linear(3, 3))

    def architecture(self, network):
        return {}

    def targets(self, records):
        return records["label"].to_numpy(np.float32)

    def augment(self):
        return lambda array, seed: array

    def loss(self):
        return lambda outputs, targets: torch.nn.functional.cross_entropy(outputs, targets.long())

    def measure(self, targets, outputs):
        return measure_of(targets)(outputs)

    def calibrate(self, targets, outputs, measure):
        section, monitor = self.config.calibration, self.config.trainer.monitor
        return choose_calibration(section, np.array([300, 60, 40]), self.never, targets, outputs, measure, monitor)

    def finished(self, network, model):
        return calibrated(network, model)

    def columns(self, probabilities):
        return pd.DataFrame(probabilities, columns=["p_a", "p_b", "p_c"])


class ToyMethod(Ensemble):
    learner = ToyLearner


class Toy(Study):
    name, title, suffixes, labels, stratify = "skin", "Toy", (), ("label",), "label"
    sources: dict = {}  # noqa: RUF012
    prepare = None
    evaluate = None

    def prepare_settings(self, config):
        return {}

    def method(self, config):
        return ToyMethod()

    def choose_points(self, predictions, config):
        return []


def fitted(folder, *overrides):
    truth = np.concatenate([np.repeat(np.arange(3), (n, n // 5, n // 8)) for n in (240, 120)])
    rng = np.random.default_rng(1)
    arrays = (rng.normal(size=(len(truth), 3)) + np.eye(3)[truth]).astype(np.float32)
    ids = [f"r{i}" for i in range(len(truth))]
    train = 240 + 48 + 30
    split = np.array(["train"] * train + ["val", "test"] * ((len(truth) - train + 1) // 2))[: len(truth)]
    records = pd.DataFrame({"id": ids, "group": ids, "split": split, "label": truth.astype(float)})
    data = Data(
        Source("table", False, None, records, "patient"), records, toy_prepared(arrays),
        {"source": "table", "split_fingerprint": "x"},
    )  # fmt: skip
    config = compose(
        "skin", "data=table", "trainer.epochs=3", "trainer.batch_size=16", "trainer.device=cpu",
        "trainer.monitor=val_balanced_accuracy", "trainer.learning_rate=0.05", *overrides,
    )  # fmt: skip
    run = run_on_cpu(Toy(), config, RunFolder(folder))
    ToyMethod().fit(run, data)
    return run, data


def test_a_run_answers_everything_as_it_was_calibrated(tmp_path):
    raw, _ = fitted(tmp_path / "raw")
    run, data = fitted(tmp_path / "run", "calibration.temperature=true", "calibration.prior=true")
    model = read_json(run.folder.network("network") / "model.json")
    before = read_json(raw.folder.network("network") / "model.json")
    assert "calibration" not in before
    assert model["sha256"] == before["sha256"], "the weights are the same"
    c = model["calibration"]
    assert c["prior_strength"] != 0
    shift = c["prior_strength"] * np.array(c["log_prior"])
    p = ["p_a", "p_b", "p_c"]
    for split in ("val", "test"):
        old = raw.folder.read_table(raw.folder.predictions(split))[p].to_numpy()
        new = run.folder.read_table(run.folder.predictions(split))
        np.testing.assert_allclose(new[p].to_numpy(), softmax(np.log(old) / c["temperature"] - shift), atol=1e-6)
        answered = ToyMethod().answer(run, open_finished(run.study, run.folder.path), data.part(split))
        pd.testing.assert_frame_equal(answered, new)
    gained = [
        measure_of(val["label"].to_numpy())(val[p].to_numpy())["val_balanced_accuracy"]
        for val in (f.folder.read_table(f.folder.predictions("val")) for f in (raw, run))
    ]
    assert gained == pytest.approx([c["val"]["before"], c["val"]["after"]])


@pytest.mark.slow
def test_cut_off_before_calibration_a_run_ends_as_one_that_was_not(tmp_path, monkeypatch):
    whole, _ = fitted(tmp_path / "whole", "calibration.temperature=true", "calibration.prior=true")
    with monkeypatch.context() as patched:
        patched.setattr(ToyLearner, "calibrate", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            fitted(tmp_path / "cut", "calibration.temperature=true", "calibration.prior=true")
    again, _ = fitted(tmp_path / "cut", "calibration.temperature=true", "calibration.prior=true")
    models = [read_json(f.folder.network("network") / "model.json") for f in (whole, again)]
    assert models[0] == models[1]


# --- configuration ---


@pytest.mark.slow
def test_only_studies_with_a_softmax_over_pictures_have_the_section():
    for study in ("skin", "covid_flannel"):
        config = compose(study)
        assert config.calibration == CalibrationSection()
        values = config.model_dump()
        del values["calibration"]
        assert type(config).model_validate(values) == config, "runs from before can be read"
        with pytest.raises((ConfigError, ValidationError)):
            compose(study, "calibration.temperature=2")
    with pytest.raises(ConfigError, match="calibration"):
        compose("retinopathy", "+calibration.prior=true")


@pytest.mark.slow
def test_a_checkpoint_from_before_still_belongs_to_a_run():
    assert not [key for key in training_keys(compose("skin")) if key.startswith("calibration")]
    assert training_keys(compose("skin", "calibration.prior=true"))["calibration.prior"] is True
    assert training_keys(compose("skin", "subgroups=[]"))["subgroups"] == []  # its default came later
