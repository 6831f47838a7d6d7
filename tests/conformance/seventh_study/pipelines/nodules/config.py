"""Configuration of the nodules study. Imports pydantic only, so that a mistake is answered at once."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipelines.shared.config import (
    AugmentSection,
    DataSection,
    OperatingPointsSection,
    PictureModelSection,
    Section,
    StudyConfig,
)


class PhantomSettings(Section):
    """What the phantom is made of. `label_noise`: share of the patients filed in the wrong folder."""

    patients: Annotated[int, Field(ge=40)]
    seed: Annotated[int, Field(ge=0)]
    label_noise: Annotated[float, Field(ge=0, le=0.5)]


class PhantomData(DataSection):
    """`data=phantom`."""

    name: Literal["phantom"]
    phantom: PhantomSettings


class FolderData(DataSection):
    """`data=folder`: `data.root` holds a folder for each class."""

    name: Literal["folder"]


class PreprocessSection(Section):
    """`size`: side in pixels of the square that the network sees."""

    size: Annotated[int, Field(ge=32, le=1024)]


class NodulesConfig(StudyConfig):
    """The root of the study's configuration."""

    data: Annotated[PhantomData | FolderData, Field(discriminator="name")]
    model: PictureModelSection
    preprocess: PreprocessSection
    augment: AugmentSection
    operating_points: OperatingPointsSection


CONFIG = NodulesConfig
