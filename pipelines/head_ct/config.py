"""Configuration of the head CT study. Imports pydantic only, so that a mistake is answered at once."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

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
from pipelines.shared.errors import ConfigError
from pipelines.shared.mode import PREDICT, Mode

MODES = [
    replace(
        PREDICT,
        help="scores and a worklist of a folder of DICOM, or of the files that a table names",
        function="pipelines.head_ct.predicting:predict_studies",
        one_process=True,  # it makes one worklist
    ),
    Mode(
        "label",
        "input=<CSV of reports>",
        "concepts in reports, without any picture",
        "pipelines.head_ct.predicting:label_table",
        one_process=True,
    ),
    Mode(
        "listen",
        "run=<folder>",
        "a DICOM node: scans arrive, the worklist reorders",
        "pipelines.head_ct.listen:listen_for_studies",
        one_process=True,
        beside_run=("listen", "serve", "cache", "trainer.device", "run_dir"),
    ),
]
PASSWORD = "PIPELINES_SEND_PASSWORD"  # the environment's variable: what is configured is written into the run's folder

NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Chance = Annotated[float, Field(ge=0, le=1)]


class HeadCtData(DataSection):
    """Keys of all head CT sources.

    `salt_file`: the secret that study and patient names are hashed with; null: one in the cache folder.
    """

    salt_file: UserPath | None


class PhantomSettings(Section):
    """What the phantom is made of.

    Attributes:
        studies: all of them, gold ones included.
        gold: so many are the test set, about half of them critical.
        critical: share of critical studies among the others.
        size: pixels on a side.
        seed: everything is a function of the settings, this included.
        contrast: multiplies how far lesions differ from tissue.
        noise: multiplies the scanner's noise.
        gold_error: the chance that the radiologists' decision is wrong.
        unseen: share of statements in a phrasing that the lexicon does not hold.
    """

    studies: Annotated[int, Field(ge=40)]
    gold: Annotated[int, Field(ge=10)]
    critical: Chance
    size: Annotated[int, Field(ge=64, le=512)]
    seed: Annotated[int, Field(ge=0)]
    contrast: Positive
    noise: NonNegative
    gold_error: Annotated[float, Field(ge=0, lt=0.5)]
    unseen: Chance

    @model_validator(mode="after")
    def _not_all_gold(self) -> PhantomSettings:
        if self.gold + 20 > self.studies:
            raise ValueError(f"gold={self.gold} leaves fewer than 20 of {self.studies} studies to learn from")
        return self


class PhantomData(HeadCtData):
    """`data=phantom`."""

    name: Literal["phantom"]
    phantom: PhantomSettings


class ReportsData(HeadCtData):
    """`data=reports`: a folder of DICOM studies and a table of reports.

    `join`: which identifier the tables' `id` column holds. `gold`: a table (id, critical) of studies that radiologists
    have reviewed, which become the test part; `readers`: a table (id, reader, critical); `mentions`: a table (id,
    concept, status) to judge the labeller by.
    """

    name: Literal["reports"]
    reports: UserPath | None
    join: Literal["accession", "study"]
    id_column: str
    text_column: str
    gold: UserPath | None
    readers: UserPath | None
    mentions: UserPath | None


class RsnaData(HeadCtData):
    """`data=rsna_ich`."""

    name: Literal["rsna_ich"]


class Cq500Data(HeadCtData):
    """`data=cq500`. `findings`: columns of reads.csv any of which makes a study critical."""

    name: Literal["cq500"]
    findings: list[str]


class TableData(HeadCtData, TableSection):
    """`data=table`: rows that name a folder of DICOM files, a DICOM file or a picture (PNG, JPEG)."""

    name: Literal["table"]
    picture_window: list[float]
    picture_field: Positive

    @field_validator("picture_window")
    @classmethod
    def _level_and_width(cls, value: list[float]) -> list[float]:
        if len(value) != 2 or value[1] <= 0:
            raise ValueError("picture_window is [level, width] in HU")
        return value


class SeriesSection(Section):
    """Which series of a study is used: kernels as regular expressions (whole name), preferred thickness in mm."""

    thickness: Positive
    soft_kernels: list[str]
    sharp_kernels: list[str]

    @field_validator("soft_kernels", "sharp_kernels")
    @classmethod
    def _expressions(cls, values: list[str]) -> list[str]:
        import re

        for value in values:
            try:
                re.compile(value)
            except (re.error, RecursionError, OverflowError) as failure:
                raise ValueError(f"'{value}' is no regular expression: {failure}") from None
        return values


class PreprocessSection(Section):
    """The grid: `slices` of `thickness` mm from the top of the head, `size` pixels over `field` mm; windows as
    [level, width] in HU are the network's channels."""

    slices: Annotated[int, Field(ge=1, le=256)]
    thickness: Annotated[float, Field(ge=0.5, le=20)]
    size: Annotated[int, Field(ge=32, le=512)]
    field: Annotated[float, Field(ge=50, le=500)]
    windows: list[list[float]]

    @field_validator("windows")
    @classmethod
    def _level_and_width(cls, values: list[list[float]]) -> list[list[float]]:
        if len(values) != 3 or any(len(w) != 2 or w[1] <= 0 for w in values):
            raise ValueError("three windows are needed, each [level, width] in HU with a width above 0")
        return values


class HeadCtModel(ModelSection):
    """`kind`: `slices` (a 2D backbone per slice, then 3D convolutions) or `volume` (the backbone inflated to 3D).

    `level`: after which of the backbone's stages the maps are taken (slices). `channels`: of the 3D convolutions.
    """

    kind: Literal["slices", "volume"]
    level: Annotated[int, Field(ge=0, le=4)]
    channels: Annotated[int, Field(ge=4, le=512)]
    freeze: bool


class AugmentSection(Section):
    """Random changes of a training volume: mirror left and right, shift in mm, turn in degrees, HU noise and offset,
    and the chance that a slice is lost."""

    mirror: Chance
    shift: NonNegative
    rotate: Annotated[float, Field(ge=0, le=45)]
    noise: NonNegative
    offset: NonNegative
    lost_slices: Annotated[float, Field(ge=0, lt=1)]


class LabelSection(Section):
    """`lexicon`, `terms`: files of your own in place of conf/head_ct/lexicon.yaml and terms.yaml."""

    lexicon: UserPath | None
    terms: UserPath | None


class AlarmSection(OperatingPointsSection):
    """The two operating points, and which of them raises the alarm."""

    alarm: Literal["high_specificity", "high_sensitivity"]


class TriageSection(Section):
    """The simulated reading room.

    `prevalence`: of critical studies among those that arrive (null: as in the test part); `load`: how busy the readers
    are, from which the rate of arrivals follows; times in seconds; `reading_times`: a file with one time per line in
    place of an exponential distribution; `arrivals`: a file with one arrival (s) per line in place of Poisson's.
    """

    radiologists: Count
    load: Annotated[float, Field(gt=0, lt=1)]
    reading: Positive
    reading_times: UserPath | None
    arrivals: UserPath | None
    prevalence: Annotated[float, Field(gt=0, lt=1)] | None
    studies: Annotated[int, Field(ge=20, le=20000)]
    repetitions: Count
    resamples: Annotated[int, Field(ge=20)]


AE_TITLE = r"[!-\[\]-~]([ -\[\]-~]*[!-\[\]-~])?"
AeTitle = Annotated[str, Field(min_length=1, max_length=16, pattern=f"^{AE_TITLE}$")]


def is_web_address(text: str) -> bool:
    """Whether it is an http(s) address."""
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False


def dicom_address(text: str) -> tuple[str, str, int] | None:
    """AE title, host and port of `<AE title>@<host>:<port>`; None: it is something else."""
    found = re.fullmatch(rf"({AE_TITLE})@(\[[0-9A-Fa-f:]+\]|[^@:/\[\]\s]+):([0-9]{{1,5}})", text)
    if found is None or text.startswith(("http:", "https:")):
        return None
    title, host, port = found[1], found[3].strip("[]"), int(found[4])
    return (title, host, port) if len(title) <= 16 and 0 < port < 65536 else None


class ListenSection(Section):
    """`mode=listen`: the node where scans arrive. Its page listens where `serve` says.

    Attributes:
        folder: what arrived, the journal, the results; null: `head_ct/listen` in the cache folder.
        host, port: of the DICOM node.
        ae_title: its own.
        callers: AE titles that may connect; none given: any on this machine.
        associations: at the same time.
        pdu: bytes of the largest PDU that it takes; 0: any.
        instance_mb: megabytes of the largest instance that it takes.
        timeout: seconds after which a sender that says nothing is let go.
        pause: seconds without a further slice after which a study is complete.
        free_gb: that must stay free on the disk; below it nothing is taken.
        keep_hours: after which the files of a study that is scored, with all its results sent, are removed; where the
            disk is nearly full, also with results that nobody took.
        send: where results go: `<AE title>@<host>:<port>`, or the http(s) address of a DICOMweb service (STOW-RS), with
            a user's name if it asks for one (`<user>@<host>`); the password is no key, see `PASSWORD`.
        capture: also send a secondary capture of the key slices.
        retry: seconds until a sending that failed is tried again; doubled each time, an hour at most.
    """

    folder: UserPath | None = None
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 11112
    ae_title: AeTitle = "HEADCT"
    callers: list[AeTitle] = Field(default_factory=list)
    associations: Count = 10
    pdu: Annotated[int, Field(ge=0, le=2**32 - 1)] = 131072
    instance_mb: Positive = 500.0
    timeout: Positive = 30.0
    pause: Positive = 3.0
    free_gb: NonNegative = 2.0
    keep_hours: Positive = 72.0
    send: str | None = None
    capture: bool = False
    retry: Positive = 30.0

    @field_validator("send")
    @classmethod
    def _address(cls, value: str | None) -> str | None:
        if value is not None and re.match(r"https?:/{2}[^/?#]*:[^/?#]*@", value, re.IGNORECASE):
            raise ConfigError(
                "listen.send holds a password, which would be written into the run's folder.",
                f"Leave it out (<user>@<host> remains) and set {PASSWORD}=<secret> in the environment.",
            )
        if value is not None and dicom_address(value) is None and not is_web_address(value):
            raise ValueError(
                f"'{value}' is neither <AE title>@<host>:<port> nor the http(s) address of a DICOMweb service (STOW-RS)"
            )
        return value


class HeadCtConfig(StudyConfig):
    """The root of the study's configuration.

    `trial`: a small phantom, to see that all is connected (trainer=smoke).
    """

    pictures = False

    data: Annotated[PhantomData | ReportsData | RsnaData | Cq500Data | TableData, Field(discriminator="name")]
    model: HeadCtModel
    series: SeriesSection
    preprocess: PreprocessSection
    augment: AugmentSection
    labels: LabelSection
    operating_points: AlarmSection
    triage: TriageSection
    # Runs that were made before these lack them.
    listen: ListenSection = Field(default_factory=ListenSection)
    trial: bool = False


CONFIG = HeadCtConfig
