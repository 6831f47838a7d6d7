"""Trackers: what they get of a run, read back with their own packages."""

from __future__ import annotations

import json
import math
import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import compose, run_study
from cutting import TINY

from pipelines.shared.cli.environment import stage
from pipelines.shared.cli.finished import with_finished_run
from pipelines.shared.config import StudyConfig
from pipelines.shared.errors import ConfigError, MissingPackage
from pipelines.shared.handover import tracking
from pipelines.shared.handover.tracking import (
    EXTRAS,
    Tracker,
    alone_in,
    experiment_of,
    flat,
    metric_values,
    open_tracker,
)
from pipelines.shared.judging import evaluator
from pipelines.shared.run_folder import RunFolder, read_json, read_yaml, write_png

ROWS = [
    {"network": "network", "epoch": 1, "train_loss": 0.9, "val_loss": 0.8, "learning_rate": math.nan, "best": True},
    {"network": "network", "epoch": 2, "train_loss": 0.7, "val_loss": 0.6, "learning_rate": 0.01, "best": True},
]


def needs(*trackers):
    for name in trackers:
        if missing := EXTRAS[name].missing:
            pytest.skip(f"not installed: {', '.join(missing)}")


@pytest.fixture
def folder(made_run, tmp_path, monkeypatch):
    """A finished run, to be changed; the working directory is an empty one."""
    shutil.copytree(made_run, tmp_path / "runs" / "made")
    place = RunFolder(tmp_path / "runs" / "made")
    write_png(place.figures / "roc.png", np.full((8, 12, 3), 200, np.uint8))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return place


def tracked(config: StudyConfig, folder: RunFolder, rows=ROWS, sweep=None) -> Tracker:
    tracker = open_tracker(config, folder, sweep)
    assert tracker is not None
    for row in rows:
        tracker.epoch("network", row)
    return tracker


def test_tensorboard_has_epochs_metrics_figures_configuration_and_card(folder):
    needs("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = compose("retinopathy", "track=tensorboard")
    tracked(config, folder, ROWS[:1])  # cut off; the run is resumed
    tracked(config, folder, ROWS[1:]).finish(folder)
    found = EventAccumulator(str(folder.path / "tensorboard")).Reload()
    losses = [(e.step, e.value) for e in found.Scalars("val_loss/network")]
    assert losses == [(1, pytest.approx(0.8)), (2, pytest.approx(0.6))]
    assert [e.step for e in found.Scalars("learning_rate/network")] == [2]  # it was no number at first
    assert found.Scalars("test/referable.auroc.low")[0].value == pytest.approx(0.87)
    assert found.Images("roc")[0].width == 12
    texts = {tag: found.Tensors(tag)[0].tensor_proto.string_val[0].decode() for tag in found.Tags()["tensors"]}
    assert texts["model_card/text_summary"].startswith("# Model card")
    assert "study: retinopathy" in texts["config/text_summary"]


@pytest.mark.slow
def test_mlflow_has_them_too_and_a_resumed_run_goes_on_in_its_place(folder, monkeypatch):
    needs("mlflow")
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///runs.db")
    labels = compose("ecg").model_dump()["labels"]  # whose codes differ in signs that MLflow refuses
    folder.write_config(read_yaml(folder.config) | {"labels": labels})
    config = compose("retinopathy", "track=mlflow")
    tracked(config, folder, ROWS[:1], sweep="sweep_1").fail()
    client = MlflowClient()
    run_id = read_json(folder.path / "tracking.json")["mlflow"]
    assert client.get_run(run_id).info.status == "FAILED"
    tracked(config, folder, ROWS[1:]).finish(folder)
    (found,) = client.search_runs([client.get_experiment_by_name("retinopathy").experiment_id])
    assert found.info.run_name == "made"
    assert found.info.status == "FINISHED"
    assert found.data.tags["sweep"] == "sweep_1"
    assert found.info.run_id == run_id
    assert found.data.params["trainer.epochs"] == str(config.trainer.epochs)
    assert json.loads(found.data.params["labels.wfdb"]) == labels["wfdb"]
    assert found.data.metrics["test/referable.auroc"] == 0.91
    losses = client.get_metric_history(found.info.run_id, "val_loss/network")
    assert [(m.step, m.value) for m in losses] == [(1, 0.8), (2, 0.6)]
    files = {file.path for place in ("", "figures") for file in client.list_artifacts(found.info.run_id, place)}
    assert files >= {"config.yaml", "metrics.json", "model_card.md", "figures/roc.png"}


def test_wandb_works_offline_unless_told_otherwise(folder, monkeypatch):
    needs("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    tracked(compose("retinopathy", "track=wandb"), folder, sweep="sweep_1").finish(folder)
    (place,) = folder.path.glob("wandb/offline-run-*")
    assert place.name.endswith(read_json(folder.path / "tracking.json")["wandb"])
    assert list(place.glob("files/media/images/**/*.png"))
    assert (place / "files" / "model_card.md").exists()


@pytest.mark.slow
def test_no_tracker_without_being_asked_and_none_where_no_metrics_are_made(made_run, tmp_path):
    folder = RunFolder(tmp_path)
    assert open_tracker(compose("retinopathy"), folder, None) is None
    for mode in ("verify", "predict", "export"):
        asked = compose("retinopathy", "track=tensorboard", f"mode={mode}")
        assert open_tracker(asked, folder, None) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_resumed_run_keeps_its_tracker_unless_told_otherwise_and_an_evaluation_has_its_own(folder):
    folder.write_config(read_yaml(folder.config) | {"track": "mlflow"})

    def tracker_of(*overrides):
        keys = [override.partition("=")[0] for override in overrides]
        config = compose("retinopathy", f"run={folder.path}", *overrides)
        return with_finished_run("retinopathy", config, ["run", *keys]).track

    assert tracker_of("mode=resume") == "mlflow"
    assert tracker_of("mode=resume", "track=null") is None
    assert tracker_of("mode=resume", "track=tensorboard") == "tensorboard"
    assert tracker_of("mode=evaluate", "data=phantom") is None
    assert tracker_of("mode=evaluate", "data=phantom", "track=tensorboard") == "tensorboard"


class Broken(Tracker):
    def __init__(self, study, folder, sweep):
        self.calls = 0
        if sweep == "none":
            raise OSError("no server answers")

    def log_epoch(self, values, epoch):
        self.calls += 1
        raise OSError("the server is away")

    def log_results(self, folder):
        self.calls += 1

    def log_failure(self):
        raise AssertionError("it is left alone")


def test_a_tracker_that_fails_costs_no_run(folder, monkeypatch, capfd):
    monkeypatch.setitem(tracking.TRACKERS, "mlflow", Broken)
    config = compose("retinopathy", "track=mlflow")
    warned: list[str] = []
    monkeypatch.setattr(tracking.log, "warning", warned.append)
    tracker = tracked(config, folder)
    tracker.finish(folder)
    tracker.fail()
    assert tracker.calls == 1
    assert warned == ["Broken gets nothing more of this run: the server is away. The run folder has everything."]


@pytest.mark.parametrize("left", ["checkpoint/network.pt", "models/network/model.json", "history.csv", "tracking.json"])
def test_a_tracker_that_is_away_refuses_a_new_run_but_not_one_that_goes_on(left, tmp_path, monkeypatch):
    monkeypatch.setitem(tracking.TRACKERS, "mlflow", Broken)
    warned: list[str] = []
    monkeypatch.setattr(tracking.log, "warning", warned.append)
    folder, config = RunFolder(tmp_path), compose("retinopathy", "track=mlflow")
    with pytest.raises(ConfigError, match=r"track=mlflow cannot begin: no server answers(?s:.*)track=null"):
        open_tracker(config, folder, "none")
    (tmp_path / left).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / left).touch()
    assert open_tracker(config, folder, "none") is None
    assert warned == ["track=mlflow cannot begin: no server answers\nThe run goes on without it."]


def test_keys_that_are_no_plain_names_stay_together_under_their_parent():
    config = compose("ecg").model_dump()
    found = list(flat(config))
    names = [name for name, _ in found]
    assert len(set(names)) == len(names)
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789_.") for name in names if "labels" not in name)
    assert json.loads(dict(found)["labels.wfdb"]) == config["labels"]["wfdb"]
    assert list(flat({"a": {"b": {}, "c": {"d": 1}}})) == [("a.b", {}), ("a.c.d", 1)]


@pytest.mark.slow
def test_a_failed_beginning_leaves_no_name_behind(folder, monkeypatch):
    needs("mlflow")
    import mlflow

    class Client:
        def get_experiment_by_name(self, name):
            return SimpleNamespace(experiment_id="1")

        def create_run(self, *_, **__):
            return SimpleNamespace(info=SimpleNamespace(run_id="2"))

        def log_batch(self, *_, **__):
            raise OSError("the server is away")

    monkeypatch.setattr(mlflow, "MlflowClient", Client)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///runs.db")
    with pytest.raises(OSError, match="the server is away"):
        tracking.MLflow("retinopathy", folder, None)
    assert not (folder.path / "tracking.json").exists()


def test_jobs_that_begin_at_once_share_the_experiment():
    class Store:
        made: str | None = None

        def get_experiment_by_name(self, name):
            return SimpleNamespace(experiment_id=self.made) if self.made else None

        def create_experiment(self, name):
            self.made = "7"
            return self.made

    class Raced(Store):
        def create_experiment(self, name):
            self.made = "8"  # by another job, after this one had looked
            raise RuntimeError("already exists")

    class Away(Store):
        def create_experiment(self, name):
            raise OSError("no server answers")

    assert experiment_of(Store(), "skin") == "7"
    assert experiment_of(Raced(), "skin") == "8"
    with pytest.raises(OSError, match="no server answers"):
        experiment_of(Away(), "skin")


def test_a_local_database_is_opened_by_one_job_at_a_time(tmp_path):
    needs("mlflow")
    from filelock import FileLock, Timeout

    with alone_in(f"sqlite:///{tmp_path}/runs.db"), pytest.raises(Timeout):
        FileLock(tmp_path / "runs.db.lock", blocking=False).acquire()
    for store in ("sqlite://", "sqlite:///:memory:", "http://localhost:5000", f"{tmp_path}/mlruns"):
        with alone_in(store):
            assert not list(tmp_path.glob("mlruns*"))


def test_wandb_begins_its_own_run_beside_one_that_is_active_and_ends_it_as_failed(folder, monkeypatch):
    ended: list[int] = []
    run = SimpleNamespace(
        id="3", define_metric=lambda *_, **__: None, finish=lambda exit_code=0: ended.append(exit_code)
    )
    given: dict[str, object] = {}
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=lambda **settings: given.update(settings) or run))
    tracking.Wandb("retinopathy", folder, None).fail()
    assert given["reinit"] == "finish_previous"
    assert ended == [1]


def test_a_stage_that_fails_is_told_to_the_tracker():
    told: list[str] = []
    run = SimpleNamespace(tracker=SimpleNamespace(fail=lambda: told.append("failed")))
    with pytest.raises(ZeroDivisionError), stage(run, "train"):
        1 / 0  # noqa: B018
    assert told == ["failed"]


def test_a_tracker_has_all_before_the_report_marks_the_run_complete(monkeypatch, tmp_path):
    folder = RunFolder(tmp_path)
    order: list[str] = []
    monkeypatch.setattr(evaluator, "read_json", lambda *_: {})
    monkeypatch.setattr(evaluator, "load_card", lambda *_: None)
    for name in ("metrics_file", "write_json", "write_card", "write_checklist", "_report", "render"):
        monkeypatch.setattr(evaluator, name, lambda *_, name=name: order.append(name))
    evidence = SimpleNamespace(folder=folder, flow={"card": "skin"})
    tracker = SimpleNamespace(finish=lambda given: order.append("tracker"))
    evaluator.write_results(None, evidence, None, tracker)
    assert order[-3:] == ["_report", "tracker", "render"]
    assert sorted(order[:-3]) == ["metrics_file", "write_card", "write_checklist", "write_json"]


def test_metrics_that_are_undefined_are_left_out(tmp_path):
    (tmp_path / "metrics.json").write_text(
        '{"metrics": {"val.a.b": {"value": null, "low": null, "high": null}, "test.x.y": {"value": 1, "low": null,'
        ' "high": 2}}}'
    )
    assert dict(metric_values(RunFolder(tmp_path))) == {"test/x.y": 1.0, "test/x.y.high": 2.0}


def test_a_tracker_that_is_not_installed_is_named_before_anything_is_made(monkeypatch, tmp_path):
    from pipelines.retinopathy.study import STUDY
    from pipelines.shared.cli import modes
    from pipelines.shared.job import Job

    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MissingPackage, match=r"track=wandb needs .*: wandb\.(?s:.*)\[wandb\]"):
        modes.run(STUDY, Job(compose("retinopathy", "track=wandb"), tmp_path / "run", ""))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_sweep_is_tracked_from_the_command_line(tmp_path):
    needs("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    done = run_study("retinopathy", "-m", *TINY, "seed=0", "track=tensorboard", f"run_dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    (run,) = tmp_path.glob("0-*")
    found = EventAccumulator(str(run / "tensorboard")).Reload()
    history = RunFolder(run).history.read_text().splitlines()
    assert len(found.Scalars("train_loss/network")) == len(history) - 1
    assert {"history", "flow"} <= set(found.Tags()["images"])
    metrics = dict(metric_values(RunFolder(run)))
    assert metrics.keys() <= set(found.Tags()["scalars"])
