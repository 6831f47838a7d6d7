"""A run that is being made, and one that is finished. No torch."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic

from pipelines.shared.data.ranges import KEY, Ranges, are_ranges, training_ranges
from pipelines.shared.errors import RunError
from pipelines.shared.judging.prediction_sets import frozen_sets
from pipelines.shared.pretrained import notice_of
from pipelines.shared.run_folder import RunFolder, read_json
from pipelines.shared.study import C, Study
from pipelines.shared.untaught import untaught_of

if TYPE_CHECKING:
    from torch import nn

    from pipelines.shared.handover.tracking import Tracker
    from pipelines.shared.learning.distributed import World

MODEL_SCHEMA = 1


@dataclass(frozen=True)
class Run(Generic[C]):
    """What every function of a run needs: the study, its configuration, the run's folder, the processes.

    `resident`: networks of a finished run that stay loaded, by their folder; None: each is read when it is needed.
    `tracker`: what the user follows the run in, see `tracking`; None on all but the main process.
    """

    study: Study[C]
    config: C
    folder: RunFolder
    world: World
    resident: dict[Path, nn.Module] | None = None
    tracker: Tracker | None = None


@dataclass(frozen=True)
class FinishedRun:
    """A run whose networks can answer: its folder, its networks' model.json by name, its frozen thresholds.

    `prediction_sets`: as `judging.prediction_sets.choose_sets` gives them; runs made before there were any have none.
    """

    folder: RunFolder
    models: dict[str, dict[str, Any]]
    operating_points: list[dict[str, Any]]
    prediction_sets: list[dict[str, Any]] = field(default_factory=list)

    @property
    def networks(self) -> list[Path]:
        """The networks' folders, in order of their names."""
        return [self.folder.network(name) for name in self.models]

    @property
    def notice(self) -> str | None:
        """The licence of a run that was published and came without its records; None for any other."""
        return notice_of(self.folder.path)

    @property
    def untaught(self) -> dict[str, str]:
        """Outputs that are null, as no training record taught them -> why."""
        return untaught_of(self.models.values())

    @property
    def training_ranges(self) -> Ranges:
        """The ranges of simple measures of its training records; empty for a run of an earlier version."""
        return training_ranges(self.models.values())


def open_finished(study: Study[Any], path: str | Path | None) -> FinishedRun:
    """A finished run of this study, checked.

    Raises:
        RunError: no network or no operating points, or of another study, schema or with other classes.
    """
    folder = RunFolder(Path(str(path)))
    networks = folder.networks()
    if not networks or not folder.operating_points.exists():
        raise RunError(
            f"run={folder.path} holds no finished network.",
            "Finish it first: mode=resume run=<folder>. If another mode made this folder (export, predict), give the "
            "training run's.",
        )
    models = {place.name: read_model(place, study.name) for place in networks}
    first = next(iter(models.values()))
    for place in networks[1:]:
        read_model(place, study.name, first["classes"])
    points = checked_points(read_json(folder.operating_points), folder.operating_points)
    return FinishedRun(folder, models, points, frozen_sets(folder))


def checked_points(points: Any, file: Path) -> list[dict[str, Any]]:
    """The operating points that a file of a run holds, each with what it is asked for.

    Raises:
        RunError: the file is damaged.
    """
    words = ("name", "task", "score")
    for number, point in enumerate(points if isinstance(points, list) else [points], 1):
        sound = (
            isinstance(points, list)
            and isinstance(point, dict)
            and all(isinstance(point.get(key), str) for key in words)
        )
        if (
            not sound
            or not isinstance(point.get("threshold"), float | int)
            or abs(point["threshold"]) > sys.float_info.max
        ):
            raise RunError(
                f"{file}: entry {number} is no operating point: it wants {', '.join(words)} and a threshold.",
                "Copy the whole run folder again.",
            )
    return list(points)


def read_model(folder: Path, study: str, classes: list[str] | None = None) -> dict[str, Any]:
    """model.json, checked to be of this study and of these classes in this order (None: any).

    Raises:
        RunError: missing or damaged, of another study, schema or other classes.
    """
    file = folder / "model.json"
    model: dict[str, Any] = read_json(file, ["schema", "study", "classes", "architecture", "preprocessing"])
    if model.get("schema") != MODEL_SCHEMA:
        raise RunError(
            f"{file} has schema {model.get('schema')}, this version reads {MODEL_SCHEMA}.",
            "Use the version that wrote it.",
        )
    if model.get("study") != study:
        raise RunError(
            f"{folder} is a network of the study '{model.get('study')}', not of '{study}'.",
            f"Use python -m pipelines.{model.get('study')}, or give a run of {study}.",
        )
    if model["architecture"].pop("test_time_flips", False):  # what earlier versions called test_time=flips
        model["architecture"]["test_time"] = "flips"
    calibration = model.get("calibration")
    if calibration is not None and not _is_calibration(calibration, len(model["classes"])):
        raise RunError(f"{file}: its calibration is damaged.", "Copy the whole run folder again.")
    if KEY in model and not are_ranges(model[KEY]):
        raise RunError(f"{file}: its {KEY} are damaged.", "Copy the whole run folder again.")
    if classes is not None and model.get("classes") != classes:
        raise RunError(
            f"{folder} answers {model.get('classes')}, the study asks for {classes}.",
            "Give a run with the same classes in the same order.",
        )
    return model


def _is_calibration(value: Any, classes: int) -> bool:
    """Whether it is what `learning.calibration.choose_calibration` chose for so many classes."""
    return (
        isinstance(value, dict)
        and isinstance(value.get("val"), dict)
        and {"before", "after", "monitor"} <= set(value["val"])
        and isinstance(value.get("log_prior"), list)
        and len(value["log_prior"]) == classes
        and all(isinstance(n, int | float) for n in [value.get("prior_strength"), *value["log_prior"]])
        and isinstance(value.get("temperature"), int | float)
        and value["temperature"] > 0
    )
