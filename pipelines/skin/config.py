"""Configuration of the skin cancer study. Imports pydantic only, so that a mistake is answered at once."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pipelines.shared.config import (
    AugmentSection,
    CalibrationSection,
    CopySection,
    Count,
    DataSection,
    ExplainSection,
    OperatingPointsSection,
    PictureModelSection,
    Section,
    Share,
    StudyConfig,
    TableSection,
    UserPath,
)


class SkinData(DataSection):
    """Keys of all sources. `taxonomy` names a tree of conf/skin/taxonomy/ or a .yaml file; `max_class_size` is the
    partitioning algorithm's, chosen with the tree and its counts.
    """

    taxonomy: UserPath
    max_class_size: Count


class PhantomSettings(Section):
    """What the phantom is made of.

    Attributes:
        lesions: how many, each with one to four pictures; with fewer the rare diseases would crowd out the common ones.
        size: longer side of a picture, px; the shorter is three quarters of it.
        seed: everything is a function of the settings, this included.
        contrast: of what tells the diseases apart; 1 as drawn, lower is harder.
        atypia: how far a lesion may drift towards a disease that it is mistaken for.
        label_noise: share of lesions whose recorded diagnosis is one that the true one is mistaken for.
    """

    lesions: Annotated[int, Field(ge=200)]
    size: Annotated[int, Field(ge=64, le=1024)]
    seed: Annotated[int, Field(ge=0)]
    contrast: Annotated[float, Field(gt=0)]
    atypia: Share
    label_noise: Annotated[float, Field(ge=0, le=0.5)]


class PhantomData(SkinData):
    """`data=phantom`."""

    name: Literal["phantom"]
    phantom: PhantomSettings


class Ham10000Data(SkinData, CopySection):
    """`data=ham10000`."""

    name: Literal["ham10000"]


class Isic2018Data(SkinData, CopySection):
    """`data=isic2018`. `part`: which of the three official parts is read; null: all that are there."""

    name: Literal["isic2018"]
    part: Literal["training", "validation", "test"] | None


class Fitzpatrick17kData(SkinData, CopySection):
    """`data=fitzpatrick17k`."""

    name: Literal["fitzpatrick17k"]


class TableData(SkinData, TableSection):
    """`data=table`; `targets` names the column of the diagnosis, `values` maps words to the tree's labels."""

    name: Literal["table"]


class PartitionSection(Section):
    """What is trained on: the partitioning algorithm's fine classes, or one of the two coarse levels (the ablation)."""

    level: Literal["fine", "nine_way", "three_way"]


class SkinModel(PictureModelSection):
    """The backbone. Runs of earlier versions have `test_time_flips`, which is now `test_time=flips`."""

    @model_validator(mode="before")
    @classmethod
    def _test_time_flips(cls, values: Any) -> Any:
        if not isinstance(values, dict) or "test_time_flips" not in values:
            return values
        known = {key: value for key, value in values.items() if key != "test_time_flips"}
        return {"test_time": "flips" if values["test_time_flips"] else "none"} | known


class PreprocessSection(Section):
    """`size`: side in pixels of the square around the picture's centre that the network sees."""

    size: Annotated[int, Field(ge=32, le=1024)]


class SkinAugment(AugmentSection):
    """`inscribed`: after the rotation the largest upright square inside the rotated picture is kept and enlarged, so
    that no corner is black; `scale` then only enlarges.
    """

    inscribed: bool


class LossSection(Section):
    """Cross-entropy. `class_balance`: classes weigh (1 / their images) to this power: 0 not at all, 1 fully."""

    class_balance: Share
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]


class SkinConfig(StudyConfig):
    """The root of the study's configuration."""

    data: Annotated[
        PhantomData | Ham10000Data | Isic2018Data | Fitzpatrick17kData | TableData, Field(discriminator="name")
    ]
    model: SkinModel
    partition: PartitionSection
    preprocess: PreprocessSection
    augment: SkinAugment
    loss: LossSection
    calibration: CalibrationSection = Field(default_factory=CalibrationSection)
    operating_points: OperatingPointsSection
    explain: ExplainSection


CONFIG = SkinConfig
