"""Configuration of the retinopathy study. Imports pydantic only, so that a mistake is answered at once."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipelines.shared.config import (
    AugmentSection,
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
)

PREDICT_KEYS = ["data.local_average_applied"]


class LabelRules(Section):
    """How several graders' readings become one reference (Gulshan 2016, Methods).

    `ties`: an image whose graders are divided equally gets the `lower` grade, the `higher` one, or is left out.
    `referable`: majority of the graders' own binary decisions, or decided from the majority grade.
    """

    ties: Literal["lower", "higher", "drop"]
    referable: Literal["binary_majority", "majority_grade"]


class RetinopathyData(DataSection):
    """Keys of all retinopathy sources."""

    local_average_applied: bool


class PhantomKeys(Section):
    """Those of the phantom's settings that may be set; `phantom.dataset.PhantomSettings` explains them all."""

    patients: Annotated[int, Field(ge=12)]
    size: Annotated[int, Field(ge=96, le=2048)]
    seed: Annotated[int, Field(ge=0)]
    lesion_contrast: Annotated[float, Field(gt=0)]
    grader_noise: Annotated[float, Field(ge=0)]
    ungradable: Share


class PhantomData(RetinopathyData):
    """`data=phantom`, the source with several graders. `grades_per_image`: so many per training image (null: all)."""

    name: Literal["phantom"]
    grades_per_image: Count | None
    labels: LabelRules
    phantom: PhantomKeys


class PublicData(RetinopathyData, CopySection):
    """A public set in its own layout, or a copy's."""

    name: Literal["aptos2019", "eyepacs", "messidor2", "idrid"]


class TableData(RetinopathyData, TableSection):
    """`data=table`."""

    name: Literal["table"]


class PreprocessSection(Section):
    """Geometry and colour of the network's input. `size` is the fundus circle's diameter in pixels.

    `local_average`: the network sees pictures without their local average; where data carry the filter already
    (`data.local_average_applied`) it is left out. `local_average_sigma`: of its Gaussian, as a share of the radius,
    seen at the photograph's own resolution; null: 1/30, at `size`.
    """

    size: Annotated[int, Field(ge=32, le=1024)]
    local_average: bool
    local_average_sigma: Annotated[float, Field(ge=0.002, le=0.2)] | None = None  # older runs lack it


class LossSection(Section):
    """How the grade is learned; runs of earlier versions lack the section.

    `grade`: its four outputs (mild or worse, …) are `separate`, or `cumulative` links of one score. `expected_grade`:
    the weight of the squared error of their sum, the expected grade, beside the cross-entropy: a regression's loss.
    """

    grade: Literal["separate", "cumulative"] = "separate"
    expected_grade: Annotated[float, Field(ge=0)] = 0.0


class PointSection(OperatingPointsSection):
    """`grade`: the grade that is predicted is the number of outputs at one `half`, or the expected grade is cut where
    val's quadratic `kappa` is highest.
    """

    grade: Literal["half", "kappa"] = "half"  # runs of earlier versions lack it


class RetinopathyConfig(StudyConfig):
    """The root of the study's configuration."""

    data: Annotated[PhantomData | PublicData | TableData, Field(discriminator="name")]
    model: PictureModelSection
    preprocess: PreprocessSection
    augment: AugmentSection
    loss: LossSection = LossSection()
    operating_points: PointSection
    explain: ExplainSection


CONFIG = RetinopathyConfig
