"""The sections of a configuration that every study has, checked with pydantic.

The values, defaults included, live in the YAML files under `conf/`; a model here states which keys exist, their
types and ranges. Nothing is converted silently (`strict`) and no unknown key passes (`extra="forbid"`), also
not one that `+key=value` added; `validation` says in words what is wrong. Neither module imports torch or numpy: a
mistake is answered at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import yaml
from pydantic import Field, field_validator, model_validator

from pipelines.shared.errors import DataError
from pipelines.shared.sections import AugmentSection as AugmentSection
from pipelines.shared.sections import CalibrationSection as CalibrationSection
from pipelines.shared.sections import Count as Count
from pipelines.shared.sections import Fraction as Fraction
from pipelines.shared.sections import Section as Section
from pipelines.shared.sections import Share as Share
from pipelines.shared.sections import TrainerSection as TrainerSection
from pipelines.shared.sections import UserPath as UserPath


class DataSection(Section):
    """Keys that every source has. A study's sources add their own."""

    name: str
    root: UserPath | None
    on_bad_file: Literal["error", "skip"]
    on_bad_row: Literal["error", "skip"] = "error"  # runs that were made before this key existed lack it
    conflicting_labels: Literal["drop", "keep", "error"]
    near_duplicates: bool
    train_size: Count | None


class TableColumns(Section):
    """Which column of the user's table holds what. Null: the table has no such column."""

    path: str
    id: str | None
    group: str | None
    split: str | None


class TableSection(DataSection):
    """`data=table`: a CSV or Parquet file of the user's own."""

    name: Literal["table"]
    table: UserPath | None
    columns: TableColumns
    targets: dict[str, str]
    values: dict[str, dict[str, int | float | str]]

    @field_validator("values", mode="before")
    @classmethod
    def _codes_are_words(cls, values: Any) -> Any:
        """YAML reads the code 1 as a number; in a table every cell is text."""
        if not isinstance(values, dict):
            return values
        return {k: {str(c): v for c, v in m.items()} if isinstance(m, dict) else m for k, m in values.items()}


class CopySection(DataSection):
    """A public set, of which copies differ (see `copies`). `columns`: the set's name of a column -> this copy's name;
    `images`: the folder below `root` that holds the pictures, where it cannot be found by its name.
    """

    images: str | None = None  # runs that were made before these keys existed lack them
    columns: dict[str, str] = Field(default_factory=dict)


class SplitSection(Section):
    """How records are divided. Fractions are of groups.

    `file`: a split that is handed in instead, a CSV with `id`, `split` and, if you like, `group`; `by_time`: the column
    of the record table by which the latest groups are test, those before them val. `folds`: cross-validation; `fold`
    is the one that is tested (the next one is val, the others train), null: all of them in one run.
    """

    by: Literal["group", "record"]
    file: UserPath | None = None  # runs that were made before these keys existed lack them
    by_time: str | None = None
    folds: Annotated[int, Field(ge=3, le=100)] | None = None
    fold: Annotated[int, Field(ge=0)] | None = None
    train: Fraction
    val: Fraction
    test: Fraction
    leakage: Literal["report", "drop", "error"]

    @model_validator(mode="after")
    def _sums_to_one(self) -> SplitSection:
        total = self.train + self.val + self.test
        if abs(total - 1) > 1e-6:
            raise ValueError(f"train + val + test must be 1, found {total:.6g}")
        return self

    @model_validator(mode="after")
    def _one_way_to_divide(self) -> SplitSection:
        if self.file is not None and self.by_time is not None:
            raise ValueError(f"file={self.file} and by_time={self.by_time}: a split is handed in or made by time")
        if self.folds is not None and self.by_time is not None:
            raise ValueError(f"folds={self.folds} and by_time={self.by_time}: folds do not go by time")
        if self.fold is not None and self.folds is None:
            raise ValueError(f"fold={self.fold} needs folds, the number of folds")
        if self.fold is not None and self.folds is not None and self.fold >= self.folds:
            raise ValueError(f"fold={self.fold} and folds={self.folds}: folds are numbered 0 to {self.folds - 1}")
        return self

    @property
    def pools_folds(self) -> bool:
        """Whether one run does all folds of a cross-validation."""
        return self.folds is not None and self.fold is None


class CacheSection(Section):
    """Prepared arrays on disk. `cache=off` streams from the source files instead."""

    enabled: bool
    dir: UserPath
    max_gb: Annotated[float, Field(gt=0)]


class ModelSection(Section):
    """The backbone and where its weights come from.

    `weights`: `imagenet` (from a package for EfficientNet-lite0 to -lite2, else downloaded), `none` (a random start,
    asked for explicitly) or the path of a local .safetensors, .pt or .pth file.
    """

    backbone: str
    weights: UserPath
    drop_rate: Annotated[float, Field(ge=0, lt=1)]
    networks: Count

    @property
    def head_only(self) -> bool:
        """Whether only a logistic head is fitted, on features that are computed once, see `learning.frozen`."""
        return False


class PictureModelSection(ModelSection):
    """The same for pictures. `test_time`: over which views of a picture a finished network averages its probabilities,
    see `learning.views`. `drop_path_rate`: how often, at most, a block of the backbone is left out while it learns.
    `freeze`: `backbone` computes the backbone's features once and fits a logistic head, see `learning.frozen`.
    """

    test_time: Literal["none", "mirror", "flips", "mirror_crops", "flips_crops"] = "none"
    drop_path_rate: Annotated[float, Field(ge=0, lt=1)] = 0.0  # as with test_time: older runs lack it
    freeze: Literal["backbone"] | None = None

    @model_validator(mode="after")
    def _head_on_something(self) -> PictureModelSection:
        if self.head_only and self.weights == "none":
            raise ValueError("freeze=backbone with weights=none: a backbone that has learned nothing sees nothing")
        if self.head_only and self.networks > 1:
            raise ValueError(
                f"freeze=backbone with networks={self.networks}: they would be the same, seeds play no part"
            )
        return self

    @property
    def head_only(self) -> bool:
        """Whether only a logistic head is fitted, on features that are computed once, see `learning.frozen`."""
        return self.freeze == "backbone"

    @property
    def views(self) -> str:
        """For a report: over what is averaged, after a comma; nothing where it is the picture alone."""
        names = {"mirror": "mirror image", "flips": "flips", "mirror_crops": "mirror images and corners",
                 "flips_crops": "flips and corners"}  # fmt: skip
        return f", {names[self.test_time]} averaged" if self.test_time in names else ""


class OperatingPointsSection(Section):
    """Targets on `val`; the thresholds that reach them are frozen."""

    high_specificity: Annotated[float, Field(gt=0, lt=1)]
    high_sensitivity: Annotated[float, Field(gt=0, lt=1)]


class ExplainSection(Section):
    """Saliency: how many of the most confident errors are shown, and how many images with known lesions are scored."""

    errors: Annotated[int, Field(ge=0, le=24)]
    scored: Annotated[int, Field(ge=0)]


class StatisticsSection(Section):
    """Intervals: clustered bootstrap over groups, exact binomial where stated."""

    resamples: Annotated[int, Field(ge=100)]
    level: Annotated[float, Field(ge=0.5, lt=1)]


class ConformalSection(Section):
    """Prediction sets, see `stats.conformal`.

    `level`: share of each class whose sets hold it; thresholds are chosen on `val` and frozen. null: no sets.
    """

    level: Annotated[float, Field(ge=0.5, lt=1)] | None = 0.9


class ServeSection(Section):
    """`mode=serve`: where it listens and what it takes. The token that it asks for is no key, see `serve.TOKEN`.

    `root`: the folder below which a request may name files by their path; null: what is scored is sent. `queue`:
    requests in the house, a further one is answered 503; `batch`: requests that are scored together, at most;
    `threads`: that score pictures on a CPU, each picture by one of them; null: as many as there are processors.
    `upload_mb`, `files`, `seconds`: of one request: its size, its files, and the time for it to arrive; `unpacked_mb`:
    what an archive may grow to.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    root: UserPath | None = None
    queue: Count = 64
    batch: Count = 32
    threads: Count | None = None
    upload_mb: Annotated[float, Field(gt=0)] = 512.0
    unpacked_mb: Annotated[float, Field(gt=0)] = 2048.0
    files: Count = 4096
    seconds: Annotated[float, Field(gt=0)] = 120.0


class StudyConfig(Section):
    """The root. A study's own configuration extends it.

    `recalibrate`: with mode=evaluate, the share of the new site's groups on which thresholds are chosen anew.
    `track`: what the user follows runs in, see `handover.tracking`.
    `intended_use`: what the network is meant for, in the words of whoever makes the run; it goes into the model card.
    `subgroups`: columns of the record table, for each value of which the report gives the results apart.
    """

    study: str
    mode: str
    run: UserPath | None
    input: UserPath | None
    run_dir: UserPath
    recalibrate: Fraction | None = None  # as with intended_use: older runs lack it
    track: Literal["tensorboard", "mlflow", "wandb"] | None = None
    intended_use: str | None = None
    seed: Annotated[int, Field(ge=0)]
    data: DataSection
    split: SplitSection
    cache: CacheSection
    model: ModelSection
    trainer: TrainerSection
    statistics: StatisticsSection
    conformal: ConformalSection = Field(default_factory=ConformalSection)  # as with `serve`: older runs lack it
    subgroups: list[str] = Field(default_factory=list)
    serve: ServeSection = Field(default_factory=ServeSection)  # runs that were made before this section existed lack it

    pictures: ClassVar[bool] = True  # whether records are pictures, and their networks have a backbone

    @property
    def learning(self) -> str:
        """For a report: how networks are trained."""
        if self.model.head_only:
            return "a logistic head on features of the frozen backbone, computed once and without augmentation"
        trainer = self.trainer
        return f"{trainer.optimizer}, {trainer.learning_rate:g}, {trainer.schedule} over {trainer.epochs} epochs"

    @property
    def kept(self) -> str:
        """For a report: of what the best on val is kept."""
        return "penalty" if self.model.head_only else "epoch"

    @model_validator(mode="after")
    def _training_fits(self) -> StudyConfig:
        trainer = self.trainer
        for key in ("mixup", "cutmix", "first_size"):
            if not self.pictures and (value := getattr(trainer, key)):
                raise ValueError(f"trainer.{key}={value} is for pictures, which this study's records are not")
        if self.model.head_only and trainer.sampling == "balanced":
            raise ValueError(
                "trainer.sampling=balanced with model.freeze=backbone: every picture is shown once; "
                "trainer.sampling must be shuffle"
            )
        if trainer.head_epochs and self.model.weights == "none":
            raise ValueError(
                f"trainer.head_epochs={trainer.head_epochs} with model.weights=none: the backbone would be frozen "
                "before it has learned anything"
            )
        return self


PACKAGE = Path(__file__).resolve().parents[1]


def conf_folder() -> Path:
    """`conf/` inside the installed package, or of the checkout."""
    return _folder("conf")


def cards_folder() -> Path:
    """`data_cards/` inside the installed package, or of the checkout."""
    return _folder("data_cards")


def in_checkout() -> bool:
    """Whether this runs from a checkout; else the package was installed from a wheel."""
    return not conf_folder().is_relative_to(PACKAGE)


def _folder(name: str) -> Path:
    for folder in (PACKAGE / name, PACKAGE.parent / name):  # beside an installed package lie other people's folders
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"The folder {name}/ is missing in {PACKAGE}: reinstall the package.")


def read_settings_file(file: Path, remedy: str) -> Any:
    """What a YAML file of the user's own holds (a lexicon, rules).

    Raises:
        DataError: it is missing, or is no YAML; `remedy` says where a good one is.
    """
    try:
        return yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as failure:
        reason = " ".join(str(failure).split()) or type(failure).__name__
        raise DataError(f"{file} cannot be read as YAML: {reason}.", remedy) from None
