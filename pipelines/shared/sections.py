"""What sections of a configuration are made of, and those that say how a network learns and is finished."""

from __future__ import annotations

from os.path import expanduser
from typing import Annotated, Any, Literal, get_origin

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

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
    picture from a list (see `augment.TONES`). `on_device`: geometry, brightness, contrast and colour are changed for a
    whole batch where the network is, as drawn; the rest happens on the cores as ever, but before and not after. null:
    where that is a GPU, whose network would wait for its cores otherwise; on a CPU it is slower.
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
    on_device: bool | None = None

    @model_validator(mode="after")
    def _crop_or_scale(self) -> AugmentSection:
        if self.crop_area is not None and (self.scale or self.translate):
            raise ValueError(
                f"crop_area={self.crop_area:g} takes the place of scale={self.scale:g} and "
                f"translate={self.translate:g}, which must be 0 with it"
            )
        return self


class CalibrationSection(Section):
    """What is put behind a trained network and chosen on val, see `learning.calibration`. `temperature`: one number by
    which the outputs are divided; `prior`: how strongly the classes' frequencies in training are corrected for.
    """

    temperature: bool = False  # runs that were made before this section existed lack it
    prior: bool = False
