"""`track=tensorboard | mlflow | wandb`: a run as its users' tracker shows it.

An epoch's row goes there when the epoch ends; metrics, figures, configuration and model card when the run is complete,
read from its folder. A tracker that fails costs no run: it is left alone from then on, with a warning. Only a new run,
which has nothing to lose yet, is refused where its tracker cannot begin.

Nothing leaves this machine unless the environment says so: `WANDB_MODE=online`, or `MLFLOW_TRACKING_URI` with a server.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from filelock import FileLock

from pipelines.shared.config import StudyConfig
from pipelines.shared.errors import ConfigError
from pipelines.shared.extras import Extra
from pipelines.shared.log import log
from pipelines.shared.run_folder import RunFolder, read_json, read_picture, read_yaml, write_json

EXTRAS = {
    "tensorboard": Extra("tensorboard", {"tensorboard": "tensorboard"}),
    "mlflow": Extra("mlflow", {"mlflow": "mlflow-skinny", "sqlalchemy": "sqlalchemy", "alembic": "alembic"}),
    "wandb": Extra("wandb", {"wandb": "wandb"}, in_env=False),
}
TRACKED = ("train", "resume", "evaluate")  # modes that end with metrics
KEEPER = "tracking.json"  # of the run folder: by which name trackers know it, so that a resumed run goes on there


class Tracker(ABC):
    """One run in a tracker. What a study's networks are called goes behind what is measured: `val_loss/network_00`."""

    failed: bool = False

    def epoch(self, network: str, row: Mapping[str, Any]) -> None:
        """A network's row of history.csv."""
        values = {
            f"{key}/{network}": float(value) for key, value in row.items() if _is_number(value) and key != "epoch"
        }
        self._cautiously(lambda: self.log_epoch(values, int(row["epoch"])))

    def finish(self, folder: RunFolder) -> None:
        """Metrics, figures, configuration and model card of a complete run."""
        self._cautiously(lambda: self.log_results(folder))

    def fail(self) -> None:
        """The run ended in an error. Resumed, it goes on in its place."""
        self._cautiously(self.log_failure)

    @abstractmethod
    def log_epoch(self, values: dict[str, float], epoch: int) -> None:
        """Numbers by name, of one epoch."""

    @abstractmethod
    def log_results(self, folder: RunFolder) -> None:
        """What a complete run's folder holds; the last that the tracker gets."""

    @abstractmethod
    def log_failure(self) -> None:
        """That the run failed; the last that the tracker gets of this process."""

    def _cautiously(self, work: Callable[[], None]) -> None:
        if self.failed:
            return
        try:
            work()
        except Exception as failure:  # a full disk, a server that is away: each library has its own
            self.failed = True
            name = type(self).__name__
            log.warning(f"{name} gets nothing more of this run: {_reason(failure)}. The run folder has everything.")


class TensorBoard(Tracker):
    """Event files in tensorboard/ of the run folder: `tensorboard --logdir <a run, a sweep, or all of outputs>`."""

    def __init__(self, study: str, folder: RunFolder, sweep: str | None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer: Any = SummaryWriter(folder.path / "tensorboard")

    def log_epoch(self, values: dict[str, float], epoch: int) -> None:
        """Scalars, on disk before the next epoch begins."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, epoch)
        self.writer.flush()

    def log_results(self, folder: RunFolder) -> None:
        """Metrics as scalars, figures as images, the rest as text."""
        for name, value in metric_values(folder):
            self.writer.add_scalar(name, value)
        for figure in figures(folder):
            self.writer.add_image(figure.stem, read_picture(figure), dataformats="HWC")
        self.writer.add_text("config", f"```\n{folder.config.read_text(encoding='utf-8')}\n```")
        self.writer.add_text("model_card", (folder.path / "model_card.md").read_text(encoding="utf-8"))
        self.writer.close()

    def log_failure(self) -> None:
        """Event files know no such thing."""
        self.writer.close()


class MLflow(Tracker):
    """A run of the experiment that is called as the study; a sweep's runs have its name as the tag `sweep`."""

    def __init__(self, study: str, folder: RunFolder, sweep: str | None) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        for name in ("alembic", "mlflow.store.db.utils"):  # which tell how the tables of a new database are made
            logging.getLogger(name).setLevel(logging.WARNING)
        from mlflow import MlflowClient, get_tracking_uri
        from mlflow.entities import Metric, Param

        self.metric: Callable[..., Any] = Metric
        with alone_in(get_tracking_uri()):
            self.client: Any = MlflowClient()
        known = _kept(folder, "mlflow")
        if known is not None:
            self.id = known
            self.client.update_run(self.id, status="RUNNING")
            return
        tags = {"sweep": sweep} if sweep else {}
        place = experiment_of(self.client, study)
        self.id = self.client.create_run(place, run_name=folder.path.name, tags=tags).info.run_id
        params = [Param(key, str(value)) for key, value in flat(read_yaml(folder.config))]
        for first in range(0, len(params), 100):  # as many as it takes at once of these
            self.client.log_batch(self.id, params=params[first : first + 100])
        _keep(folder, "mlflow", self.id)

    def log_epoch(self, values: dict[str, float], epoch: int) -> None:
        """Metrics by epoch."""
        self._log(values, epoch)

    def _log(self, values: Mapping[str, float], step: int) -> None:
        now = int(time.time() * 1000)
        metrics = [self.metric(_plain_name(name), value, now, step) for name, value in values.items()]
        for first in range(0, len(metrics), 1000):  # as many as it takes at once
            self.client.log_batch(self.id, metrics[first : first + 1000])

    def log_results(self, folder: RunFolder) -> None:
        """Metrics, and files as artifacts."""
        self._log(dict(metric_values(folder)), 0)
        for figure in figures(folder):
            self.client.log_artifact(self.id, str(figure), "figures")
        for file in (folder.config, folder.metrics, folder.path / "model_card.md"):
            self.client.log_artifact(self.id, str(file))
        self.client.set_terminated(self.id)

    def log_failure(self) -> None:
        """The run's status."""
        self.client.set_terminated(self.id, "FAILED")


def alone_in(store: str) -> AbstractContextManager[object]:
    """A lock around the opening of a local database, whose tables the first of several jobs makes."""
    if not store.startswith("sqlite"):
        return nullcontext()
    from sqlalchemy.engine import make_url

    file = make_url(store).database
    return FileLock(f"{file}.lock") if file and file != ":memory:" else nullcontext()


def experiment_of(client: Any, study: str) -> str:
    """The id of the experiment that is called as the study, made if there is none."""
    found = client.get_experiment_by_name(study)
    if found is None:
        try:
            return str(client.create_experiment(study))
        except Exception:  # another job has made it in the meantime; anything else is raised again
            found = client.get_experiment_by_name(study)
            if found is None:
                raise
    return str(found.experiment_id)


class Wandb(Tracker):
    """A run of the project that is called as the study, below wandb/ of the run folder; a sweep is its group.

    Offline unless `WANDB_MODE` says otherwise: `wandb sync <run folder>/wandb/offline-run-*` sends it later.
    """

    def __init__(self, study: str, folder: RunFolder, sweep: str | None) -> None:
        os.environ.setdefault("WANDB_MODE", "offline")
        os.environ.setdefault("WANDB_SILENT", "true")
        import wandb

        self.wandb: Any = wandb
        known = _kept(folder, "wandb")
        self.run: Any = wandb.init(
            project=study, name=folder.path.name, group=sweep, dir=folder.path, id=known, resume="allow",
            config=read_yaml(folder.config), reinit="finish_previous",  # of another job of this process
        )  # fmt: skip
        _keep(folder, "wandb", self.run.id)
        self.run.define_metric("*", step_metric="epoch")

    def log_epoch(self, values: dict[str, float], epoch: int) -> None:
        """A row of the run's history."""
        self.run.log({**values, "epoch": epoch})

    def log_results(self, folder: RunFolder) -> None:
        """Metrics as the run's summary, figures as its media, the model card as a file."""
        self.run.summary.update(dict(metric_values(folder)))
        self.run.log({f"figures/{figure.stem}": self.wandb.Image(str(figure)) for figure in figures(folder)})
        self.run.save(str(folder.path / "model_card.md"), base_path=str(folder.path), policy="now")
        self.run.finish()

    def log_failure(self) -> None:
        """The run's exit code."""
        self.run.finish(exit_code=1)


TRACKERS: dict[str, Callable[[str, RunFolder, str | None], Tracker]] = {
    "tensorboard": TensorBoard,
    "mlflow": MLflow,
    "wandb": Wandb,
}


def open_tracker(config: StudyConfig, folder: RunFolder, sweep: str | None) -> Tracker | None:
    """The tracker of a run whose folder has its config.yaml; None where none is asked for, the mode ends without
    metrics, or a run that goes on finds its tracker away.

    Raises:
        ConfigError: that of a new run cannot begin: no server answers, no database can be opened, …
    """
    if config.track is None or config.mode not in TRACKED:
        return None
    try:
        return TRACKERS[config.track](config.study, folder, sweep)
    except Exception as failure:  # each library has its own
        problem = f"track={config.track} cannot begin: {_reason(failure)}"
        if _goes_on(folder):
            log.warning(f"{problem}\nThe run goes on without it.")
            return None
        raise ConfigError(problem, "Mend that, or go without: track=null.") from None


def _goes_on(folder: RunFolder) -> bool:
    """Whether a run began earlier: known to a tracker, or with a part of its training behind it."""
    files = ("checkpoint/*.pt", "models/*/model.json", folder.history.name, KEEPER)
    return any(file for pattern in files for file in folder.path.glob(pattern))


def _reason(failure: Exception) -> str:
    return " ".join(str(failure).split())[:200] or type(failure).__name__


# --- what a run folder holds for them ---


def metric_values(folder: RunFolder) -> Iterator[tuple[str, float]]:
    """Every metric that is defined, and the ends of its interval: `test/referable.auroc`, `….low`, `….high`."""
    for name, metric in read_json(folder.metrics, ["metrics"])["metrics"].items():
        for part in ("value", "low", "high"):
            if metric[part] is not None:
                yield name.replace(".", "/", 1) + ("" if part == "value" else f".{part}"), float(metric[part])


def figures(folder: RunFolder) -> list[Path]:
    """The run's figures, by name."""
    return sorted(folder.figures.glob("*.png"))


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """A configuration's keys, dotted, with their values.

    What has keys that are no plain names stays whole, as JSON: codes of rhythms differ in signs alone, which trackers
    refuse.
    """
    for key, value in values.items():
        if not isinstance(value, dict) or not value:
            yield f"{prefix}{key}", value
        elif all(re.fullmatch(r"[\w\- ]+", str(inner)) for inner in value):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", json.dumps(value, ensure_ascii=False)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value


def _plain_name(name: str) -> str:
    """As MLflow takes it."""
    return re.sub(r"[^\w.\-/ ]", "_", name)


def _kept(folder: RunFolder, tracker: str) -> str | None:
    file = folder.path / KEEPER
    return read_json(file).get(tracker) if file.is_file() else None


def _keep(folder: RunFolder, tracker: str, name: str) -> None:
    file = folder.path / KEEPER
    write_json(file, (read_json(file) if file.is_file() else {}) | {tracker: name})
