"""The sections of a configuration that every study has, checked with pydantic.

The values, defaults included, live in the YAML files under `conf/`; a model here states which keys exist, their
types and ranges. Nothing is converted silently (`strict`) and no unknown key passes (`extra="forbid"`), also
not one that `+key=value` added; `validation` says in words what is wrong. Neither module imports torch or numpy: a
mistake is answered at once.
"""

from __future__ import annotations

from os.path import expanduser
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_origin

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from pipelines.shared.errors import DataError

# A path as a user gives it: `~` is their home. Expanded here, when the configuration is checked, and nowhere else.
UserPath = Annotated[str, AfterValidator(expanduser)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """Base of all configuration sections."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _quoted_dictionaries(cls, values: Any) -> Any:
        """Words that Hydra's grammar lacks stand in quotation marks: `'data.targets="{tumor: présence}"'`."""
        if not isinstance(values, dict):
            return values
        kinds = {name: get_origin(field.annotation) for name, field in cls.model_fields.items()}
        return {k: _unquoted(v) if kinds.get(k) is dict and isinstance(v, str) else v for k, v in values.items()}


def _unquoted(text: str) -> Any:
    """The dictionary that a text writes in YAML; the text itself if it writes something else."""
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    return found if isinstance(found, dict) else text


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


def _zero_for_auto(value: Any) -> Any:
    return 0 if value == "auto" else value


class TrainerSection(Section):
    """The loop's recipe. Optimisers and schedules are timm's, under timm's names.

    `batch_size`: over all processes; `auto` (kept as 0 until it is known): the largest power of two that fits.

    `sampling`: `shuffle` shows every record once an epoch, `balanced` shows records of rare classes more often, those
    of frequent ones less often, so that a class of n records comes as often as n ** (1 - `sampling_power`).
    `mixup`, `cutmix`: alpha of the Beta distribution that says how much of two pictures is mixed, see `mixing`.
    `head_epochs`: of so many first epochs the backbone is frozen. `first_size`: pictures of the first epoch have so
    many pixels, those of the last all of theirs. `layer_decay`: each layer learns at so much of the rate of the one
    after it. `ema_warmup`: the moving average is short at first. `average_epochs`: the last epoch is judged with the
    average of the weights after so many last epochs.
    """

    epochs: Count
    batch_size: Annotated[int, BeforeValidator(_zero_for_auto), Field(ge=0)]
    sampling: Literal["shuffle", "balanced"] = "shuffle"
    sampling_power: Share = 1.0
    accumulate: Count
    optimizer: str
    learning_rate: Annotated[float, Field(gt=0)]
    weight_decay: Annotated[float, Field(ge=0)]
    momentum: Annotated[float, Field(ge=0, lt=1)]
    optimizer_args: dict[str, float | bool]
    schedule: Literal["constant", "cosine", "step", "plateau"]
    warmup_epochs: Annotated[int, Field(ge=0)]
    decay_epochs: Count
    decay_rate: Annotated[float, Field(gt=0, le=1)]
    layer_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    head_epochs: Annotated[int, Field(ge=0)] = 0
    first_size: Annotated[int, Field(ge=32)] | None = None
    mixup: Annotated[float, Field(ge=0, le=10)] = 0.0
    cutmix: Annotated[float, Field(ge=0, le=10)] = 0.0
    clip_norm: Annotated[float, Field(gt=0)] | None
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None
    ema_warmup: bool = False
    average_epochs: Count = 1
    monitor: str
    patience: Count | None
    max_steps: Count | None
    precision: Literal["auto", "fp32", "bf16"]
    device: str
    deterministic: bool
    compile: bool = False  # as with sampling: older runs lack it
    workers: Annotated[int, Field(ge=0)] | None
    checkpoint_seconds: Annotated[float, Field(gt=0)]

    @model_validator(mode="after")
    def _fits_together(self) -> TrainerSection:
        for key in ("head_epochs", "average_epochs"):
            if getattr(self, key) > self.epochs:
                raise ValueError(f"{key}={getattr(self, key)} of epochs={self.epochs}")
        if self.ema_warmup and self.ema_decay is None:
            raise ValueError("ema_warmup=true has no moving average to warm up: ema_decay is null")
        if self.average_epochs > 1 and self.patience is not None:
            raise ValueError(
                f"average_epochs={self.average_epochs} with patience={self.patience}: which epochs are the last is not "
                "known while they run; one of the two must be left out (1, null)"
            )
        return self


class AugmentSection(Section):
    """Random changes of training pictures; 0 leaves a step out.

    Flips are probabilities; `rotate` is in degrees to either side; `scale`, `translate` (of the side), `brightness`,
    `contrast`, `saturation` and `hue` (of the colour circle) are the largest relative changes to either side.
    `crop_area`: a random part of the picture, of at least so much of its area, is enlarged to the whole; null: all of
    it. `crop_aspect`: the part's largest ratio of the sides. `blur`, `jpeg`, `erase`: the shares of pictures that are
    blurred, that go through JPEG, that lose a rectangle. `operations`: how many changes of tone are drawn for each
    picture from a list (see `augment.TONES`).
    """

    horizontal_flip: Annotated[float, Field(ge=0, le=1)]
    vertical_flip: Annotated[float, Field(ge=0, le=1)]
    rotate: Annotated[float, Field(ge=0, le=180)]
    scale: Annotated[float, Field(ge=0, lt=1)]
    translate: Annotated[float, Field(ge=0, lt=1)]
    brightness: Annotated[float, Field(ge=0, le=1)]
    contrast: Annotated[float, Field(ge=0, le=1)]
    saturation: Annotated[float, Field(ge=0, le=1)]
    hue: Annotated[float, Field(ge=0, le=0.5)]
    crop_area: Annotated[float, Field(gt=0, le=1)] | None = None
    crop_aspect: Annotated[float, Field(ge=1, le=4)] = 4 / 3
    blur: Share = 0.0
    jpeg: Share = 0.0
    erase: Share = 0.0
    operations: Annotated[int, Field(ge=0, le=5)] = 0

    @model_validator(mode="after")
    def _crop_or_scale(self) -> AugmentSection:
        if self.crop_area is not None and (self.scale or self.translate):
            raise ValueError(
                f"crop_area={self.crop_area:g} takes the place of scale={self.scale:g} and "
                f"translate={self.translate:g}, which must be 0 with it"
            )
        return self


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


class ServeSection(Section):
    """`mode=serve`: where it listens and what it takes. The token that it asks for is no key, see `serve.TOKEN`.

    `root`: the folder below which a request may name files by their path; null: what is scored is sent. `queue`:
    requests in the house, a further one is answered 503; `batch`: requests that are scored together, at most.
    `upload_mb`, `files`, `seconds`: of one request: its size, its files, and the time for it to arrive; `unpacked_mb`:
    what an archive may grow to.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    root: UserPath | None = None
    queue: Count = 64
    batch: Count = 32
    upload_mb: Annotated[float, Field(gt=0)] = 512.0
    unpacked_mb: Annotated[float, Field(gt=0)] = 2048.0
    files: Count = 4096
    seconds: Annotated[float, Field(gt=0)] = 120.0


class StudyConfig(Section):
    """The root. A study's own configuration extends it.

    `intended_use`: what the network is meant for, in the words of whoever makes the run; it goes into the model card.
    """

    study: str
    mode: str
    run: UserPath | None
    input: UserPath | None
    run_dir: UserPath
    intended_use: str | None = None
    seed: Annotated[int, Field(ge=0)]
    data: DataSection
    split: SplitSection
    cache: CacheSection
    model: ModelSection
    trainer: TrainerSection
    statistics: StatisticsSection
    serve: ServeSection = Field(default_factory=ServeSection)  # runs that were made before this section existed lack it

    pictures: ClassVar[bool] = True  # whether records are pictures, and their networks have a backbone

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


def conf_folder() -> Path:
    """`conf/` of the checkout, or its copy inside the installed package."""
    return _beside("conf")


def cards_folder() -> Path:
    """`data_cards/` of the checkout, or its copy inside the installed package."""
    return _beside("data_cards")


def _beside(name: str) -> Path:
    package = Path(__file__).resolve().parents[1]
    for folder in (package.parent / name, package / name):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"The folder {name}/ is missing beside {package}: reinstall the package.")


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
