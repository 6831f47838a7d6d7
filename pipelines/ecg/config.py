"""Configuration of the ECG study. Imports pydantic only, so that a mistake is answered at once."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from pipelines.shared.config import Count, DataSection, ModelSection, Section, StudyConfig, TableSection, UserPath
from pipelines.shared.mode import PREDICT, Mode

MODES = [
    replace(
        PREDICT,
        help="episodes, .rhy files and strips of recordings of any length",
        function="pipelines.ecg.predicting:predict_recordings",
        one_process=True,  # a recording is labelled in its order
    ),
    Mode(
        "readers",
        "data=irhythm data.root=<folder>",
        "the cardiologists' table of a source, without any model",
        "pipelines.ecg.readers:read_by_cardiologists",
        one_process=True,
    ),
]
PREDICT_KEYS = ["data.leads", "data.sampling_rate"]

# The twelve outputs, in the order of the network's units (Hannun 2019, Table 1).
CLASSES = [
    "AF", "AVB", "BIGEMINY", "EAR", "IVR", "JUNCTIONAL", "NOISE", "SINUS", "SVT", "TRIGEMINY", "VT", "WENCKEBACH",
]  # fmt: skip

NonNegative = Annotated[float, Field(ge=0)]
Probability = Annotated[float, Field(ge=0, le=1)]


class AlsoSource(Section):
    """One more source to train on, each with its own label rule: `data.also=[{name: mitdb, root: <folder>}]`."""

    name: Literal["irhythm", "cinc2017", "mitdb", "wfdb"]
    root: UserPath


class EcgData(DataSection):
    """Keys of all ECG sources.

    `leads`: of several leads the first of these that a recording has. `sampling_rate`: Hz, for files that do not say it
    themselves.
    """

    leads: list[str]
    sampling_rate: Annotated[float, Field(ge=50, le=20_000)] | None = None  # older runs lack it
    also: list[AlsoSource]


class PhantomSettings(Section):
    """What the phantom is made of.

    Attributes:
        patients: one or two records each.
        seed: everything is a function of the settings, this included.
        noise: multiplies everything that disturbs the signal.
        subtlety: how often ectopic P waves look like the sinus node's and fast fibrillation is nearly regular.
        committee_error: the chance that the committee mistakes an episode of average difficulty.
    """

    patients: Annotated[int, Field(ge=48)]
    seed: Annotated[int, Field(ge=0)]
    noise: NonNegative
    subtlety: Probability
    committee_error: Probability


class PhantomData(EcgData):
    """`data=phantom`."""

    name: Literal["phantom"]
    phantom: PhantomSettings


class IrhythmData(EcgData):
    """`data=irhythm`, the published test set."""

    name: Literal["irhythm"]


class CincData(EcgData):
    """`data=cinc2017`, one label per recording."""

    name: Literal["cinc2017"]


class WfdbData(EcgData):
    """`data=mitdb` and `data=wfdb`. `patients`: a CSV file (record, patient) for recordings of the same person."""

    name: Literal["mitdb", "wfdb"]
    patients: UserPath | None
    same_patient: list[list[str]]

    @field_validator("same_patient", mode="before")
    @classmethod
    def _names_are_words(cls, value: object) -> object:
        """YAML reads the record name 201 as a number."""
        return [[str(n) for n in names] for names in value] if isinstance(value, list) else value


class TableData(EcgData, TableSection):
    """`data=table`."""

    name: Literal["table"]


class EcgModel(ModelSection):
    """The residual network; 32 `filters` in the first convolution are the paper's. `backbone` has one choice."""

    filters: Annotated[int, Field(ge=1, le=128)]


class PreprocessSection(Section):
    """The network's input: windows of `steps` x 256 samples at 200 Hz.

    `scale`: `window` (each window's own mean and standard deviation) or `global` (those of the training part, which
    needs all recordings in the same unit).
    """

    steps: Annotated[int, Field(ge=1, le=4096)]
    scale: Literal["window", "global"]


class AugmentSection(Section):
    """Random changes of a training window, in units of its standard deviation; 0 leaves a step out.

    `flip`: the share of windows whose polarity is reversed, as by exchanged leads. `speed`: the largest relative change
    of the heart's rate; `shift`: of the window's place, in seconds. The labels of steps stay where they are: at
    0.04 and 0.64 a rhythm's ends move by up to a step (1.28 s). `band`: the share of windows that go through another
    device's filters.
    """

    gain: Annotated[float, Field(ge=0, lt=1)]
    noise: NonNegative
    wander: NonNegative
    flip: Probability
    speed: Annotated[float, Field(ge=0, le=0.1)] = 0.0  # runs that were made before these keys existed lack them
    shift: Annotated[float, Field(ge=0, le=0.64)] = 0.0
    band: Probability = 0.0


class SamplingSection(Section):
    """`most`: how often, at most, a window with a rare rhythm is shown per epoch; 1: no oversampling."""

    most: Annotated[int, Field(ge=1, le=64)]


class LabelSection(Section):
    """What the names of each source mean in the twelve classes.

    `wfdb`: rhythm annotation -> class, null: known but none of the twelve (masked). `irhythm`: other names -> class.
    `record`: a label of a whole recording -> the classes that share it: the mean probability of their sum is trained.
    """

    wfdb: dict[str, str | None]
    irhythm: dict[str, str]
    record: dict[str, list[str]]

    @model_validator(mode="after")
    def _classes_exist(self) -> LabelSection:
        named = [*self.wfdb.values(), *self.irhythm.values(), *(c for classes in self.record.values() for c in classes)]
        unknown = sorted({name for name in named if name is not None and name not in CLASSES})
        if unknown:
            raise ValueError(f"no such class: {', '.join(unknown)}; allowed: {', '.join(CLASSES)}")
        empty = [name for name, classes in self.record.items() if not classes]
        if empty:
            raise ValueError(f"record labels without a class: {', '.join(empty)}")
        return self


class PredictSection(Section):
    """Long recordings: `overlap` steps on either side of a window are read but not kept."""

    overlap: Annotated[int, Field(ge=0, le=1024)]
    windows: Count


class EcgConfig(StudyConfig):
    """The root of the study's configuration."""

    pictures = False

    data: Annotated[
        PhantomData | IrhythmData | CincData | WfdbData | TableData,
        Field(discriminator="name"),
    ]
    model: EcgModel
    preprocess: PreprocessSection
    augment: AugmentSection
    sampling: SamplingSection
    labels: LabelSection
    predict: PredictSection

    @model_validator(mode="after")
    def _no_backbone(self) -> EcgConfig:
        for key, value in (("layer_decay", self.trainer.layer_decay), ("head_epochs", self.trainer.head_epochs)):
            if value:
                raise ValueError(f"trainer.{key}={value} is for pretrained backbones, which this study's network lacks")
        return self

    @model_validator(mode="after")
    def _rare_rhythms_once(self) -> EcgConfig:
        if self.trainer.sampling == "balanced" and self.sampling.most > 1:
            raise ValueError(
                f"trainer.sampling=balanced and sampling.most={self.sampling.most} would both show rare rhythms more "
                "often: sampling.most must be 1"
            )
        return self

    @model_validator(mode="after")
    def _windows_are_wider_than_their_overlap(self) -> EcgConfig:
        if 2 * self.predict.overlap >= self.preprocess.steps:
            raise ValueError(
                f"predict.overlap={self.predict.overlap} on either side leaves nothing of a window of "
                f"preprocess.steps={self.preprocess.steps}"
            )
        return self


CONFIG = EcgConfig
