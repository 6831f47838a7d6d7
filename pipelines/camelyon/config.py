"""Configuration of the CAMELYON study. Imports pydantic only, so that a mistake is answered at once."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from pipelines.shared.config import AugmentSection as SharedAugment
from pipelines.shared.config import (
    Count,
    DataSection,
    ModelSection,
    OperatingPointsSection,
    Section,
    StudyConfig,
    TableSection,
    UserPath,
)
from pipelines.shared.mode import PREDICT, Mode

MODES = [
    replace(
        PREDICT,
        help="heatmap, detections, overlay and GeoJSON of a slide, a folder, or the slides that a table names",
        function="pipelines.camelyon.predicting:predict_slides",
    ),
    Mode(
        "froc",
        "detections=<folder> annotations=<folder> slides=<CSV>",
        "score anybody's submission, without slides or a model",
        "pipelines.camelyon.froc_mode:score_submission",
        one_process=True,
        keys=(  # another one would count for nothing, and is refused; those of the machine may be there
            *("detections", "annotations", "slides", "data.mpp", "data.annotation_groups"),
            *("statistics", "seed", "run_dir", "cache", "trainer.device", "trainer.workers"),
        ),
    ),
]
PREDICT_KEYS = ["data.mpp"]

NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Chance = Annotated[float, Field(ge=0, le=1)]

PLAUSIBLE_MPP = (0.05, 10.0)  # microns per level-0 pixel, from an oil objective to a picture of the whole glass
Mpp = Annotated[float, Field(ge=PLAUSIBLE_MPP[0], le=PLAUSIBLE_MPP[1])]


class CamelyonData(DataSection):
    """Keys of all sources of slides.

    `mpp`: microns per level-0 pixel of all slides, whatever they say themselves (where that differs, it is said); null:
    what each slide says, and one that does not is an error.
    `strict_outlines`: refuse outlines that cross themselves, as the official ones sometimes do.
    `annotation_groups`: ASAP groups of other names than the challenge's -> tumor, or other (cut out of tumour).
    """

    mpp: Mpp | None
    strict_outlines: bool
    annotation_groups: dict[str, Literal["tumor", "other"]] = Field(default_factory=dict)  # older runs lack it

    @field_validator("annotation_groups", mode="before")
    @classmethod
    def _names_are_words(cls, groups: Any) -> Any:
        """YAML reads a group called 1 as a number."""
        return {str(name): word for name, word in groups.items()} if isinstance(groups, dict) else groups


class PhantomSettings(Section):
    """What the phantom is made of.

    Attributes:
        slides: all of them; half have metastases.
        test: so many are the test part.
        smallest, largest: side of a slide in level-0 pixels; most are small.
        seed: everything is a function of the settings, this included.
        atypia: multiplies how far the cells of tumour, and of active germinal centres, differ from those at rest.
        follicles: multiplies the number of germinal centres, which look like metastases.
        variation: multiplies how far stains differ from slide to slide.
        missed: the chance that the annotator overlooks a small metastasis.
    """

    slides: Annotated[int, Field(ge=12)]
    test: Annotated[int, Field(ge=4)]
    smallest: Annotated[int, Field(ge=1024, le=32768)]
    largest: Annotated[int, Field(ge=1024, le=32768)]
    seed: Annotated[int, Field(ge=0)]
    atypia: NonNegative
    follicles: NonNegative
    variation: NonNegative
    missed: Annotated[float, Field(ge=0, lt=1)]

    @model_validator(mode="after")
    def _both_parts(self) -> PhantomSettings:
        if self.test + 8 > self.slides:
            raise ValueError(f"test={self.test} leaves fewer than 8 of {self.slides} slides for training")
        if self.smallest > self.largest:
            raise ValueError(f"smallest={self.smallest} is above largest={self.largest}")
        return self


class PhantomData(CamelyonData):
    """`data=phantom`."""

    name: Literal["phantom"]
    phantom: PhantomSettings


class Camelyon16Data(CamelyonData):
    """`data=camelyon16`.

    `partly_annotated`: training slides from which no normal patches are taken. `set_apart`: slides that are left out,
    with the reason.
    """

    name: Literal["camelyon16"]
    partly_annotated: list[str]
    set_apart: dict[str, str]


class PcamData(DataSection):
    """`data=pcam`: ready patches; no slides, so no heatmaps, lesions or slide scores."""

    name: Literal["pcam"]


class TableData(CamelyonData, TableSection):
    """`data=table`: a row per slide. `annotations`: a folder of ASAP XML files named like the slides."""

    name: Literal["table"]
    annotations: UserPath | None
    partly_annotated: list[str]


class TissueSection(Section):
    """Where tissue is: Otsu's threshold of the saturation at `mpp` microns per pixel.

    `grey`: a second rule, the pixel must also be darker than Otsu's threshold of the grey level. `min_saturation` (of
    255): below it nothing is tissue, however the thresholds fall. Areas in mm2.
    """

    mpp: Positive
    grey: bool
    min_saturation: Annotated[int, Field(ge=0, le=255)]
    smallest: NonNegative
    largest_hole: NonNegative


class PatchSection(Section):
    """Which patches are learned from.

    `mpp`: microns per pixel. `size`: pixels read; `crop`: pixels that the network sees (a random crop in training, the
    middle otherwise). Numbers of patches are per slide. `packed`: keep all patches in the cache instead of reading
    them from the slides again and again.
    """

    mpp: Positive
    size: Annotated[int, Field(ge=16, le=1024)]
    crop: Annotated[int, Field(ge=16, le=1024)]
    tumor: Count
    normal_in_tumor: Count
    normal: Count
    packed: bool

    @model_validator(mode="after")
    def _crop_fits(self) -> PatchSection:
        if self.crop > self.size:
            raise ValueError(f"crop={self.crop} is larger than size={self.size}")
        return self


class CamelyonModel(ModelSection):
    """`level`: after which of the backbone's stages the maps are taken (null: after the last); `channels` of the
    convolution that follows them, 0 for none; `test_time`: over which flips finished networks average probabilities.
    """

    level: Annotated[int, Field(ge=0, le=4)] | None
    channels: Annotated[int, Field(ge=0, le=2048)]
    test_time: Literal["none", "mirror", "flips"] = "none"


class HardNegativeSection(Section):
    """The second model: patches of normal tissue that the first one scores above `threshold` join its training.

    `per_slide`: at most so many, drawn at random.
    """

    enabled: bool
    threshold: Annotated[float, Field(gt=0, lt=1)]
    per_slide: Count


class HeatmapSection(Section):
    """Whole slides. `stride` and `block` in pixels of the patches' mpp.

    `halo`: what the network sees around a block besides its patches; half of its receptive field makes the result
    independent of blocks. `patchwise`: score every patch by itself, also where the backbone is fully convolutional.
    """

    stride: Annotated[int, Field(ge=4, le=1024)]
    block: Annotated[int, Field(ge=64, le=16384)]
    halo: Annotated[int, Field(ge=0, le=2048)]
    patchwise: bool


class LesionSection(Section):
    """From heatmap to detections, see lesions.py.

    `method`: which of the two makes the run's detections; the other is reported beside it.
    """

    method: Literal["components", "suppression"]
    threshold: Annotated[float, Field(gt=0, lt=1)]
    location: Literal["maximum", "centroid", "inside"]
    score: Literal["maximum", "mean"]
    radius: Positive
    level: Annotated[int, Field(ge=0, le=12)]
    stop: Annotated[float, Field(ge=0, lt=1)]


class SlideSection(Section):
    """The slides' classifier: a forest of `trees`; its training heatmaps come from `folds` cross-fitted models."""

    trees: Annotated[int, Field(ge=10)]
    folds: Annotated[int, Field(ge=2, le=10)]


class CamelyonConfig(StudyConfig):
    """The root of the study's configuration.

    `trial`: few small slides and few patches, to see that all is connected (trainer=smoke). `detections`,
    `annotations`, `slides`: of mode=froc, which also takes `data.mpp` and `data.annotation_groups`.
    """

    trial: bool
    detections: UserPath | None
    annotations: UserPath | None
    slides: UserPath | None
    data: Annotated[
        PhantomData | Camelyon16Data | PcamData | TableData,
        Field(discriminator="name"),
    ]
    model: CamelyonModel
    tissue: TissueSection
    patches: PatchSection
    augment: SharedAugment
    hard_negatives: HardNegativeSection
    heatmap: HeatmapSection
    lesions: LesionSection
    slide_scores: SlideSection
    operating_points: OperatingPointsSection

    @model_validator(mode="after")
    def _one_network(self) -> CamelyonConfig:
        if self.split.pools_folds and self.data.name != "pcam":
            raise ValueError(
                f"split.folds={self.split.folds}: slides are cross-validated one fold a run, give split.fold too "
                f"(-m split.fold={','.join(map(str, range(self.split.folds or 0)))} does all)"
            )
        if self.model.networks > 1 and self.data.name != "pcam":
            raise ValueError(f"model.networks={self.model.networks}: slides are scored by one network")
        return self

    @property
    def slide_mpp(self) -> float | None:
        """Microns per level-0 pixel of all slides; None: as each slide says."""
        return None if self.data.name == "pcam" else self.data.mpp

    @property
    def annotation_groups(self) -> dict[str, str]:
        """What ASAP groups of other names stand for."""
        return {} if self.data.name == "pcam" else dict(self.data.annotation_groups)


CONFIG = CamelyonConfig
