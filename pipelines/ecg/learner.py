"""What the network learns: a rhythm for every step, from signals whose gain, polarity and noise change.

What it must know of the training part it is given: the signals' scale, and the labels that occur there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import safetensors.torch
import torch
from torch import nn
from torch.nn import functional

from pipelines.ecg import metrics
from pipelines.ecg.architecture import Architecture
from pipelines.ecg.augmentation import change
from pipelines.ecg.config import CLASSES, EcgConfig
from pipelines.ecg.labels import CODES, UNLABELLED, carried, known_codes, membership
from pipelines.ecg.model import BACKBONE, EcgNetwork
from pipelines.shared.errors import ConfigError, WeightsError
from pipelines.shared.learning.ahead import sent
from pipelines.shared.learning.dataset import Augment
from pipelines.shared.learning.learner import Learner
from pipelines.shared.learning.losses import Loss
from pipelines.shared.study import Data


class EcgLearner(Learner[EcgConfig]):
    """Cross-entropy of every labelled step, or of a recording's one label; twelve rhythms."""

    classes = CLASSES
    targets_shown = ()
    link = "softmax"
    columns = staticmethod(metrics.predict_columns)
    table = staticmethod(metrics.prediction_table)

    def __init__(
        self, config: EcgConfig, scale: tuple[float, float] = (0.0, 1.0), trained: Sequence[str] = tuple(CLASSES)
    ) -> None:
        """`scale`: mean and standard deviation of the training signals; `trained`: the labels that training holds."""
        super().__init__(config)
        self.scale, self.trained = scale, list(trained)

    @classmethod
    def from_data(cls, config: EcgConfig, data: Data) -> Self:
        """Scale and labels of the training part."""
        training = data.records.iloc[data.positions("train")]
        return cls(config, training_scale(config, data), trained_labels(training))

    @classmethod
    def from_model(cls, config: EcgConfig, model: dict[str, Any]) -> Self:
        """Scale and labels of the training that a model.json tells of."""
        known = Architecture.of(model)
        return cls(config, (known.mean, known.std), known.trained)

    def build(self) -> nn.Module:
        """The network with its starting weights: random, or those of `model.weights`.

        Raises:
            ConfigError: another backbone.
            WeightsError: the file cannot be read or does not fit. There is no silent random start.
        """
        section = self.config.model
        if section.backbone != BACKBONE:
            raise ConfigError(f"model.backbone={section.backbone} is not known to this study.", f"Allowed: {BACKBONE}.")
        shared = [c for name in self.trained for c in self.config.labels.record.get(name, [name])]
        architecture = Architecture(
            filters=section.filters,
            drop_rate=section.drop_rate,
            mean=self.scale[0],
            std=self.scale[1],
            trained=self.trained,
            classes=[name for name in CLASSES if name in shared],
        )
        network = EcgNetwork(architecture)
        if section.weights != "none":
            _load(network, Path(section.weights))
        return network

    def architecture(self, network: nn.Module) -> dict[str, Any]:
        """What `rebuild` needs, for model.json."""
        assert isinstance(network, EcgNetwork)
        return asdict(network.architecture)

    @staticmethod
    def rebuild(model: dict[str, Any]) -> nn.Module:
        """The network that a model.json describes, without weights."""
        return EcgNetwork(Architecture.of(model))

    def targets(self, records: pd.DataFrame) -> np.ndarray:
        """float32 (windows, steps + 1): the code of every step (`labels.CODES`), then that of the recording's label."""
        return np.column_stack([known_codes(records), records["record_code"]]).astype(np.float32)

    def strata(self, records: pd.DataFrame) -> np.ndarray:
        """The rarest of the labels that each window carries; -1 where it carries none."""
        names = carried(records)
        ranks = {
            name: i for i, (name, _) in enumerate(Counter(n for labels in names for n in sorted(labels)).most_common())
        }
        return np.array([max((ranks[name] for name in labels), default=-1) for labels in names])

    def loss(self) -> Loss:
        """Cross-entropy of every labelled step; of a recording's label, that of the mean probability of its classes.

        A window of a labelled recording counts as much as its steps would. Steps that are padding or masked count
        nowhere.
        """
        allowed = torch.from_numpy(membership(self.config.labels))

        def value(scores: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
            log_p = functional.log_softmax(scores.float(), dim=-1)  # (batch, steps, 12)
            steps, label = codes[:, :-1].long(), codes[:, -1].long()
            known = steps >= 0
            each = log_p.gather(2, steps.clamp(min=0)[..., None])[..., 0]
            total, count = -(each * known).sum(), known.sum()
            # No branch on what is there, and no copy that waits: a GPU's forward pass would have to be waited for.
            here = (steps == CODES[UNLABELLED]) & (label >= 0)[:, None]
            weight = here.sum(dim=1)
            mean = (log_p.exp() * here[..., None]).sum(dim=1) / weight.clamp(min=1)[:, None]
            p = (mean * sent(allowed, mean.device)[label.clamp(min=0)]).sum(dim=1).clamp(min=1e-7)
            total, count = total - (torch.log(p) * weight).sum(), count + weight.sum()
            return total / count.clamp(min=1)

        return value

    def augment(self) -> Augment:
        """Random changes of a prepared window, see `augmentation.change`."""
        return partial(change, keys=self.config.augment)

    def measure(self, targets: np.ndarray, outputs: np.ndarray) -> dict[str, float]:
        """`val_f1`, see `metrics.measure`."""
        return metrics.measure(targets, outputs, self.config.labels)


def _load(network: nn.Module, file: Path) -> None:
    try:
        network.load_state_dict(safetensors.torch.load_file(file))
    except Exception as failure:  # safetensors and torch raise many types for damaged or foreign files
        reason = (str(failure) or type(failure).__name__).splitlines()[0]
        raise WeightsError(
            f"model.weights={file} cannot be used: {reason}",
            "Allowed: none (a random start), or weights.safetensors of a run with the same model.filters.",
        ) from None


def training_scale(config: EcgConfig, data: Data) -> tuple[float, float]:
    """Global mean and standard deviation of the training signals; (0, 1) where windows are scaled by themselves."""
    if config.preprocess.scale == "window":
        return 0.0, 1.0
    arrays = (data.prepared.array(int(i)).astype(np.float64) for i in data.positions("train"))
    n, total, squares = np.sum([[len(x), x.sum(), (x**2).sum()] for x in arrays], axis=0)
    mean = total / n
    return float(mean), float(np.sqrt(squares / n - mean**2))


def trained_labels(records: pd.DataFrame) -> list[str]:
    """The labels that occur in some records: classes, then labels of whole recordings."""
    names = {name.removeprefix("record ") for names in carried(records) for name in names}
    return [name for name in CLASSES if name in names] + sorted(names - set(CLASSES))


def repeats(records: pd.DataFrame, most: int) -> np.ndarray:
    """How often each training window is shown per epoch, int (windows,): rare rhythms more often.

    A window whose rarest rhythm occurs in n windows is shown sqrt(N / n) times, rounded, at most `most` times, where N
    is the median over the rhythms. The paper says that rare rhythms were oversampled, not how.
    """
    names = carried(records)
    counts = pd.Series([name for labels in names for name in labels], dtype=object).value_counts()
    if counts.empty:
        return np.ones(len(records), int)
    usual = float(counts.median())
    wanted = [max((np.sqrt(usual / counts[name]) for name in labels), default=1.0) for labels in names]
    times: np.ndarray = np.clip(np.round(wanted), 1, most).astype(int)
    return times


def oversampled(data: Data, most: int) -> Data:
    """The data with training windows repeated. A repeat has an id of its own, so it is augmented in its own way."""
    train = data.positions("train")
    again = np.repeat(train, repeats(data.records.iloc[train], most) - 1)
    if len(again) == 0:
        return data
    extra = data.records.iloc[again].copy()
    extra["id"] = extra["id"].astype(str) + "#" + (extra.groupby("id").cumcount() + 2).astype(str)
    order = np.concatenate([np.arange(len(data.records)), again])
    return Data(data.source, pd.concat([data.records, extra], ignore_index=True), data.prepared.take(order), data.flow)
