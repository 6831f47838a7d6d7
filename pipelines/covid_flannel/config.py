"""Configuration of the COVID chest X-ray study. Imports pydantic only, so that a mistake is answered at once."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from pipelines.shared.config import (
    AugmentSection,
    CalibrationSection,
    CopySection,
    Count,
    DataSection,
    OperatingPointsSection,
    PictureModelSection,
    Section,
    Share,
    StudyConfig,
    TableSection,
    UserPath,
)

# The order of the paper's tables; it is also the order of every probability vector.
CLASSES = ["covid19", "viral", "bacterial", "normal"]
COVID = CLASSES[0]


class XrayData(DataSection):
    """Keys of all sources. `rules` names a table of conf/covid_flannel/rules or a .yaml file."""

    rules: UserPath


class PhantomSettings(Section):
    """What the phantom is made of.

    Attributes:
        patients: how many, each with one to three pictures.
        size: side of a picture, px.
        seed: everything is a function of the settings, this included.
        contrast: of the signs of disease; 1 as drawn, lower is harder.
        label_noise: share of patients whose recorded class is wrong.
        shortcut: whether hospitals differ in looks, ages and diseases.
    """

    patients: Annotated[int, Field(ge=60)]
    size: Annotated[int, Field(ge=64, le=1024)]
    seed: Annotated[int, Field(ge=0)]
    contrast: Annotated[float, Field(gt=0)]
    label_noise: Annotated[float, Field(ge=0, le=0.5)]
    shortcut: bool


class PhantomData(XrayData):
    """`data=phantom`. `ccx` and `kcx` are folders below its root."""

    name: Literal["phantom"]
    ccx: str
    kcx: str
    official_test: bool
    phantom: PhantomSettings


class CcxData(XrayData, CopySection):
    """`data=ccx`: covid-chestxray-dataset."""

    name: Literal["ccx"]


class KcxData(XrayData):
    """`data=kcx`. `official_test`: the folder test/ is the test part of every fold."""

    name: Literal["kcx"]
    official_test: bool


class CcxKcxData(XrayData, CopySection):
    """`data=ccx_kcx`: both; `ccx` and `kcx` are their folders below `root`, `images` and `columns` are the first's."""

    name: Literal["ccx_kcx"]
    ccx: str
    kcx: str
    official_test: bool


class TableData(XrayData, TableSection):
    """`data=table`; the target is `label`, one of the four classes."""

    name: Literal["table"]


class CrossValidationSection(Section):
    """`folds`: how many; fewer if the rarest class has fewer groups.

    `tune`: share of the base learners' training groups that chooses their best epoch (strict protocol; the released one
    takes its validation fold).
    """

    folds: Annotated[int, Field(ge=4, le=20)]
    tune: Annotated[float, Field(gt=0, le=0.5)]


class LearnerSection(Section):
    """A base learner: timm's backbone and its weights (null: those under `model`), and its input.

    The prepared picture is scaled to `resize` pixels (null: as it is), of which a random square of `crop` pixels is
    learned and the middle one is judged.
    """

    backbone: str | None
    weights: UserPath | None
    resize: Annotated[int, Field(ge=32, le=1024)] | None
    crop: Annotated[int, Field(ge=32, le=1024)]


class EnsembleSection(Section):
    """Stage 2, see `flannel`. `weights`: what the learned weights go through; `alpha`: classes weigh inversely to their
    frequency in the focal loss.
    """

    weights: Literal["tanh", "softmax"]
    gamma: Annotated[float, Field(ge=0, le=10)]
    alpha: bool
    epochs: Count
    batch_size: Count
    learning_rate: Annotated[float, Field(gt=0)]
    weight_decay: Annotated[float, Field(ge=0)]


class PreprocessSection(Section):
    """`size`: side in pixels of the prepared square; `pa_to_ap`: PA pictures are mirrored and given random noise (the
    paper's step towards AP).
    """

    size: Annotated[int, Field(ge=32, le=1024)]
    pa_to_ap: bool


class LossSection(Section):
    """Cross-entropy of the base learners. `class_balance`: classes weigh (1 / their images) to this power."""

    class_balance: Share


class ShortcutSection(Section):
    """Shortcut tests. `border`: width of the frame that is kept, share of the side; `blur`: pixels that are left of the
    blurred picture's side.
    """

    border: Annotated[float, Field(gt=0, lt=0.5)]
    blur: Annotated[int, Field(ge=2, le=16)]


class CovidConfig(StudyConfig):
    """The root of the study's configuration."""

    data: Annotated[PhantomData | CcxData | KcxData | CcxKcxData | TableData, Field(discriminator="name")]
    protocol: Literal["strict", "released"]
    negatives: Literal["all", "same_source"]
    cross_validation: CrossValidationSection
    folds: list[Annotated[int, Field(ge=0)]] | None
    learners: list[str] | None
    stage1: UserPath | list[UserPath] | None
    base_learners: dict[str, LearnerSection]
    ensemble: EnsembleSection
    model: PictureModelSection
    preprocess: PreprocessSection
    augment: AugmentSection
    loss: LossSection
    calibration: CalibrationSection = Field(default_factory=CalibrationSection)
    operating_points: OperatingPointsSection
    shortcut_tests: ShortcutSection

    @field_validator("base_learners", mode="before")
    @classmethod
    def _without_null(cls, values: Any) -> Any:
        """A learner that is null is left out: so an experiment, or a user, can drop one."""
        return {k: v for k, v in values.items() if v is not None} if isinstance(values, dict) else values

    @model_validator(mode="after")
    def _parts_exist(self) -> CovidConfig:
        if self.split.folds is not None and self.split.folds < 4:
            raise ValueError(f"split.folds={self.split.folds}: two stages need at least 4")
        if self.split.fold is not None and self.folds is not None:
            raise ValueError(f"split.fold={self.split.fold} and folds={self.folds}: give one of them")
        if self.model.networks != 1:
            raise ValueError("model.networks must be 1: base_learners are the ensemble")
        if not self.base_learners:
            raise ValueError("base_learners names none; at least one is needed")
        odd = [name for name in self.base_learners if not name.replace("_", "").isalnum()]
        if odd:
            raise ValueError(f"base_learners: names hold letters, digits and _ only, found {', '.join(odd)}")
        taken = {"flannel", "constant", "average", "voting", "best_base"} & set(self.base_learners)
        if taken:
            raise ValueError(f"base_learners: {', '.join(sorted(taken))} is the name of a combination")
        unknown = [name for name in self.learners or [] if name not in self.base_learners]
        if unknown or self.learners == []:
            named = ", ".join(unknown) or "none"
            raise ValueError(f"learners: found {named}, allowed: {', '.join(self.base_learners)}")
        beyond = [fold for fold in self.folds or [] if fold >= self.fold_count]
        if beyond or self.folds == []:
            named = ", ".join(map(str, beyond)) or "none"
            raise ValueError(f"folds: found {named}, allowed: 0 to {self.fold_count - 1}")
        for name, learner in self.base_learners.items():
            frozen = self.model.head_only or self.trainer.head_epochs > 0
            if frozen and name in self.chosen_learners and learner.weights == "none":
                key = "model.freeze=backbone" if self.model.head_only else "trainer.head_epochs"
                raise ValueError(
                    f"{key} with base_learners.{name}.weights=none: a backbone that has learned nothing would be "
                    "frozen; leave it out with learners=[…]"
                )
            if learner.crop > (learner.resize or self.preprocess.size):
                side = learner.resize or self.preprocess.size
                raise ValueError(f"base_learners.{name}: a crop of {learner.crop} from {side} pixels")
        return self

    @property
    def fold_count(self) -> int:
        """How many folds are wanted: `split.folds`, as every study has it, or this study's own key."""
        return self.split.folds or self.cross_validation.folds

    @property
    def chosen_folds(self) -> list[int] | None:
        """The test folds that this run does; None: all."""
        return self.folds if self.split.fold is None else [self.split.fold]

    @property
    def chosen_learners(self) -> list[str]:
        """The base learners of this run, in the configuration's order."""
        return [name for name in self.base_learners if self.learners is None or name in self.learners]


CONFIG = CovidConfig
