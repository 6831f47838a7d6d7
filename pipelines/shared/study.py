"""What a study is: where its data come from and how its answers are judged. No torch.

A study is three small classes. `Study`, here, is its Method section without the network. A `Learner` (learner.py) is
one network and how it learns. A `Method` (method.py) is how learners become an answer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import numpy as np
import pandas as pd

from pipelines.shared.config import StudyConfig
from pipelines.shared.data.ranges import picture_measures
from pipelines.shared.data.records import SPLITS, Source
from pipelines.shared.data.splits import grouped_split, subsample_groups
from pipelines.shared.judging.prediction_sets import SetTask
from pipelines.shared.judging.published import Published
from pipelines.shared.judging.report import Section
from pipelines.shared.run_folder import RunFolder
from pipelines.shared.stats.bootstrap import Bootstrap
from pipelines.shared.stats.estimate import Estimate
from pipelines.shared.untaught import untaught_of

if TYPE_CHECKING:  # torch is imported by the modes that need it
    from pipelines.shared.data.cache import Prepared
    from pipelines.shared.handover.scorer import Scorer
    from pipelines.shared.learning.method import Method
    from pipelines.shared.run import FinishedRun, Run

C = TypeVar("C", bound=StudyConfig)
C_co = TypeVar("C_co", bound=StudyConfig, covariant=True)  # of what is only read


@dataclass(frozen=True)
class Data:
    """A source made ready: checked, gated, split, prepared. `records` and `prepared` have the same order.

    `all_folds`: the record table of a whole cross-validation, where these are the records as one fold uses them: for
    what must be the same in every fold, such as the names of classes. `undivided`: `id` and `group` of usable records
    that no split took (`data.train_size`, …), for split.csv.
    """

    source: Source
    records: pd.DataFrame
    prepared: Prepared
    flow: dict[str, Any]
    undivided: pd.DataFrame | None = None
    all_folds: pd.DataFrame | None = None

    def positions(self, split: str) -> np.ndarray:
        """Row numbers of a split."""
        return np.flatnonzero((self.records["split"] == split).to_numpy())

    def take(self, positions: np.ndarray) -> Data:
        """Some of the records, in the order given."""
        records = self.records.iloc[positions].reset_index(drop=True)
        return replace(self, records=records, prepared=self.prepared.take(positions))

    def part(self, split: str) -> Data:
        """The records of a split."""
        return self.take(self.positions(split))


@dataclass(frozen=True)
class Evidence(Generic[C_co]):
    """What a run left behind, read from its folder alone: all that metrics, figures and report are made from."""

    folder: RunFolder
    config: C_co
    records: pd.DataFrame
    predictions: dict[str, pd.DataFrame]
    readers: pd.DataFrame | None
    flow: dict[str, Any]
    history: pd.DataFrame | None
    networks: list[dict[str, Any]]
    operating_points: list[dict[str, Any]]
    prediction_sets: list[dict[str, Any]] = field(default_factory=list)

    @property
    def bootstrap(self) -> Bootstrap:
        """How the run's intervals are made."""
        return Bootstrap(self.config.statistics.resamples, self.config.seed, self.config.statistics.level)

    @property
    def note(self) -> str:
        """The small line below every figure that was made from a phantom."""
        return "synthetic data" if self.flow["synthetic"] else ""

    @property
    def training(self) -> pd.DataFrame:
        """The records that networks were trained on; of a cross-validation all, as most folds learn from each."""
        return self.records if "fold" in self.records else self.records[self.records["split"] == "train"]

    @property
    def untaught(self) -> dict[str, str]:
        """Outputs that are null, as no training record taught them -> why."""
        return untaught_of(self.networks)


@dataclass(frozen=True)
class Results:
    """What a study's evaluation found.

    Attributes:
        metrics: `<split>.<task>.<metric>` -> Estimate.
        headline: key of the headline metric.
        sentence: what that metric is, in words, for the report's first line.
        chance: the headline metric of answers at random.
        chance_note: how these are drawn.
        oracle: the headline metric of a phantom's latent truth; None on real data.
        operating_points: as in metrics.json.
        paper: the paper's own numbers.
        departures: where the run differs from the paper: (what, in the paper, here).
        sections: the study's part of the report, in order.
        warnings: for the top of the report.
    """

    metrics: dict[str, Estimate]
    headline: str
    sentence: str
    chance: float
    oracle: Estimate | None
    operating_points: list[dict[str, Any]]
    paper: Sequence[Published]
    departures: list[tuple[str, str, str]]
    sections: list[Section]
    warnings: list[str] = field(default_factory=list)
    chance_note: str = "random scores"


@dataclass(frozen=True)
class Recalibrated:
    """What was chosen anew on a part of a new site.

    Attributes:
        predictions: the prediction table of the site's other records, as they are now answered.
        operating_points: thresholds for that table.
        chosen: what was chosen besides, name -> number, numbers, or why there is none.
    """

    predictions: pd.DataFrame
    operating_points: list[dict[str, Any]]
    chosen: dict[str, Any] = field(default_factory=dict)


class Study(ABC, Generic[C]):
    """One study.

    Attributes:
        name: the package's name.
        title: for the report.
        sources: `data=<name>` -> function from the configuration to a `Source`.
        suffixes: file names that `mode=predict` takes from a folder, lower case.
        labels: target columns that identical records must agree on.
        stratify: the column that the split balances.
        reads: columns of the record table, besides id and path, that `prepare` looks at.
        own_folds: whether it cross-validates in a way of its own (its `split` makes the folds, its method pools them).
    """

    name: ClassVar[str]
    title: ClassVar[str]
    sources: ClassVar[Mapping[str, Callable[[Any], Source]]]
    suffixes: ClassVar[Sequence[str]]
    labels: ClassVar[Sequence[str]]
    stratify: ClassVar[str]
    reads: ClassVar[Sequence[str]] = ()
    own_folds: ClassVar[bool] = False

    @abstractmethod
    def prepare_settings(self, config: C) -> dict[str, Any]:
        """Everything that `prepare` depends on besides the file, JSON-serialisable."""

    @staticmethod
    @abstractmethod
    def prepare(record: Mapping[str, Any], root: Path, settings: dict[str, Any]) -> tuple[np.ndarray, dict[str, Any]]:
        """One record as the array that the network takes, and metadata; see `cache.Prepare`.

        Raises:
            BadFile: the file cannot be read.
            UnusableRecord: it can be read, but the protocol has no use for it.
        """

    def measures(self, data: Data, position: int, config: C) -> dict[str, float]:
        """Simple measures of a record, by name and unit, that those of new files are compared with; here of a picture.

        `mode=predict` and `mode=serve` warn of what lies beyond those of the training records.
        """
        return picture_measures(data.prepared.array(position), data.prepared.metadata.iloc[position].to_dict())

    def labelled(self, records: pd.DataFrame) -> np.ndarray:
        """Which records carry a label of the task, bool (records,)."""
        return np.asarray(records[list(self.labels)].notna().any(axis=1))

    def split(self, records: pd.DataFrame, config: C) -> pd.DataFrame:
        """The records after the leakage gate with `split`: by group, stratified, `data.train_size` groups for training.

        Raises:
            DataError: a class has too few groups to be divided.
        """
        fractions = {name: getattr(config.split, name) for name in SPLITS}
        records = records.assign(split=grouped_split(records, fractions, self.stratify, config.seed))
        if config.data.train_size is None:
            return records
        train = records[records["split"] == "train"]
        chosen = set(subsample_groups(train, config.data.train_size, config.seed)["id"])
        return records[(records["split"] != "train") | records["id"].isin(chosen)]

    @abstractmethod
    def method(self, config: C) -> Method[C]:
        """How the study learns and answers. Torch is imported here, not before."""

    def scorer(self, run: Run[C], finished: FinishedRun, in_memory: bool = False) -> Scorer[C]:
        """The finished run, ready for unlabelled files. Here: of a study of pictures, `in_memory` for a service."""
        from pipelines.shared.handover.scorer import PictureScorer

        return PictureScorer(run, finished, in_memory)

    @abstractmethod
    def choose_points(self, predictions: pd.DataFrame, config: C) -> list[dict[str, Any]]:
        """Operating points, chosen on a prediction table (that of val)."""

    def set_tasks(self, model: Mapping[str, Any], config: C) -> list[SetTask]:
        """The questions that get prediction sets (`conformal.level`); here none.

        Args:
            model: model.json of the run's first network.
            config: of the run, or of its evaluation.
        """
        return []

    def recalibrate(
        self, part: pd.DataFrame, rest: pd.DataFrame, config: C, models: Mapping[str, dict[str, Any]]
    ) -> Recalibrated:
        """What a finished run had frozen, chosen anew for a new site; here thresholds: answers stay as they are.

        Args:
            part: the run's prediction table of the site's records that are set aside for this.
            rest: the same of its other records, which are judged.
            config: of the evaluation.
            models: the run's model.json by network.
        """
        return Recalibrated(rest, self.choose_points(part, config))

    @abstractmethod
    def evaluate(self, evidence: Evidence[C]) -> Results:
        """Metrics, figures and sections of the report, from the files of a run."""
