"""One network and how it learns: what a study tells the trainer, and how outputs become an answer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Generic, Literal, Self

import numpy as np
import pandas as pd
from torch import nn

from pipelines.shared.learning.dataset import Augment
from pipelines.shared.learning.losses import Loss
from pipelines.shared.stats.probabilities import sigmoid, softmax
from pipelines.shared.study import C, Data
from pipelines.shared.untaught import find_untaught


class Learner(ABC, Generic[C]):
    """One network, its loss, its augmentation, its targets and its part of the prediction table.

    What was learned from the data (classes, class counts, scale of the signals) are arguments of the constructor of
    those learners that need them: they override `from_data` and `from_model`.

    Attributes:
        classes: what the network's outputs are, in order.
        targets_shown: columns of the record table that go into the prediction table.
        link: what makes probabilities of outputs.
        untaught: outputs that no training record taught -> why.
    """

    classes: list[str]
    targets_shown: ClassVar[Sequence[str]]
    link: ClassVar[Literal["sigmoid", "softmax"]]

    def __init__(self, config: C, untaught: Mapping[str, str] | None = None) -> None:
        self.config, self.untaught = config, dict(untaught or {})

    @classmethod
    def from_data(cls, config: C, data: Data) -> Self:
        """A learner for these data; what it must know of them it takes from their training part.

        Raises:
            DataError: nothing can be learned from them.
        """
        targets = cls(config).targets(data.records)
        return cls(config, untaught=find_untaught(cls.classes, targets[data.positions("train")]))

    @classmethod
    def from_model(cls, config: C, model: dict[str, Any]) -> Self:
        """The learner that a network's model.json tells of."""
        return cls(config, untaught=model.get("untaught"))

    @abstractmethod
    def build(self) -> nn.Module:
        """A network with its starting weights."""

    @abstractmethod
    def architecture(self, network: nn.Module) -> dict[str, Any]:
        """What `rebuild` needs, for model.json."""

    @staticmethod
    @abstractmethod
    def rebuild(model: dict[str, Any]) -> nn.Module:
        """The network that a model.json describes, without weights."""

    @abstractmethod
    def targets(self, records: pd.DataFrame) -> np.ndarray:
        """float32 (records, ...), NaN where unknown."""

    def strata(self, records: pd.DataFrame) -> np.ndarray:
        """The class of each record that `trainer.sampling=balanced` goes by, (records,): equal targets, equal class."""
        targets = np.nan_to_num(self.targets(records).reshape(len(records), -1), nan=-1.0)
        return np.unique(targets, axis=0, return_inverse=True)[1].ravel()

    @abstractmethod
    def augment(self) -> Augment:
        """Random changes of a prepared array."""

    @abstractmethod
    def loss(self) -> Loss:
        """Loss of outputs and targets; ignores unknown targets itself."""

    @abstractmethod
    def measure(self, targets: np.ndarray, outputs: np.ndarray) -> dict[str, float]:
        """What the trainer may monitor, besides `val_loss`."""

    def calibrate(
        self,
        targets: np.ndarray,
        outputs: Callable[[], np.ndarray],
        measure: Callable[[np.ndarray], dict[str, float]],
    ) -> dict[str, Any]:
        """What `finished` puts behind a trained network, chosen on val and kept in model.json under `calibration`.

        Nothing, unless a study's configuration has `calibration`.

        Args:
            targets: of val, (records, ...).
            outputs: predicts val, (records, classes); a collective call of all processes.
            measure: outputs for val to what the trainer monitors.
        """
        return {}

    def activation(self, outputs: np.ndarray, /) -> np.ndarray:
        """Outputs (..., classes) to probabilities, by `link`."""
        return softmax(outputs) if self.link == "softmax" else sigmoid(outputs)

    @property
    def never(self) -> np.ndarray:
        """Which of the classes are untaught, bool (classes,)."""
        return np.array([name in self.untaught for name in self.classes])

    def probabilities(self, outputs: np.ndarray, /) -> np.ndarray:
        """Outputs (..., classes) to probabilities, which an ensemble averages linearly.

        An untaught class is NaN, and to a softmax it is not there: the others share the whole probability.
        """
        if not self.untaught:
            return self.activation(outputs)
        return np.where(self.never, np.nan, self.activation(np.where(self.never, -np.inf, outputs)))

    def choose(self, records: pd.DataFrame, probabilities: np.ndarray) -> dict[str, Any]:
        """What `columns` needs besides probabilities and is chosen on these records, those of val.

        It is kept in model.json under `chosen_on_val`, where `from_model` finds it.
        """
        return {}

    @abstractmethod
    def columns(self, probabilities: np.ndarray, /) -> pd.DataFrame:
        """The `p_…` columns of the prediction table; null where they rest on a probability that is NaN."""

    def table(self, records: pd.DataFrame, probabilities: np.ndarray, /) -> pd.DataFrame:
        """The prediction table of some records: id, group, targets (as far as the records have them), `p_…`."""
        who = records[[c for c in ("id", "group", *self.targets_shown) if c in records]].reset_index(drop=True)
        return pd.concat([who, self.columns(probabilities)], axis=1)

    def finished(self, network: nn.Module, model: dict[str, Any]) -> nn.Module:
        """A network with its weights, as it answers once it is finished; `model`: its model.json."""
        return network

    def exportable(self, network: nn.Module) -> nn.Module:
        """A finished network as ONNX can say it: the same answers, without what depends on values of the input."""
        return network
