"""Trackers: what they get of a run, read back with their own packages."""

from __future__ import annotations

import math
import shutil
import sys

import numpy as np
import pytest
from conftest import compose, run_study
from cutting import TINY

from pipelines.shared.cli.finished import with_finished_run
from pipelines.shared.config import StudyConfig
from pipelines.shared.errors import ConfigError, MissingPackage
from pipelines.shared.handover import tracking
from pipelines.shared.handover.tracking import EXTRAS, Tracker, metric_values, open_tracker
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
    config = compose("retinopathy", "track=mlflow")
    tracked(config, folder, ROWS[:1], sweep="sweep_1")
    tracked(config, folder, ROWS[1:]).finish(folder)
    client = MlflowClient()
    (found,) = client.search_runs([client.get_experiment_by_name("retinopathy").experiment_id])
    assert found.info.run_name == "made"
    assert found.info.status == "FINISHED"
    assert found.data.tags["sweep"] == "sweep_1"
    assert found.data.params["trainer.epochs"] == str(config.trainer.epochs)
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


def test_no_tracker_without_being_asked_and_none_where_no_metrics_are_made(made_run, tmp_path):
    folder = RunFolder(tmp_path)
    assert open_tracker(compose("retinopathy"), folder, None) is None
    for mode in ("verify", "predict", "export"):
        asked = compose("retinopathy", "track=tensorboard", f"mode={mode}")
        assert open_tracker(asked, folder, None) is None
    assert list(tmp_path.iterdir()) == []


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


def test_a_tracker_that_fails_costs_no_run(folder, monkeypatch, capfd):
    monkeypatch.setitem(tracking.TRACKERS, "mlflow", Broken)
    config = compose("retinopathy", "track=mlflow")
    warned: list[str] = []
    monkeypatch.setattr(tracking.log, "warning", warned.append)
    tracker = tracked(config, folder)
    tracker.finish(folder)
    assert tracker.calls == 1
    assert warned == ["Broken gets nothing more of this run: the server is away. The run folder has everything."]
    with pytest.raises(ConfigError, match="track=mlflow cannot begin: no server answers"):
        open_tracker(config, folder, "none")


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
