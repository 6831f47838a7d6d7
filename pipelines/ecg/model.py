"""The network of Hannun et al. 2019 (Methods, "Algorithm development"; Extended Data Fig. 1) and its loss.

One convolution and 16 residual blocks of two, every other block halving the time axis, so that one output stands for
256 samples. He et al.: Identity Mappings in Deep Residual Networks, ECCV 2016 (pre-activation); He et al.: Delving Deep
into Rectifiers, ICCV 2015 (initialisation).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import safetensors.torch
import torch
from torch import nn
from torch.nn import functional

from pipelines.ecg.config import CLASSES, EcgConfig
from pipelines.ecg.labels import CODES, RATE, STEP, UNLABELLED, known_codes, membership
from pipelines.shared.dataset import Augment
from pipelines.shared.errors import ConfigError, WeightsError
from pipelines.shared.trainer import Loss

BACKBONE = "resnet1d_33"
KERNEL = 16
BLOCKS = 16
UNSEEN = -1.0e4  # the score of a class that training never saw: its probability is exactly zero


@dataclass(frozen=True)
class Architecture:
    """All that is needed to build an `EcgNetwork` again.

    Attributes:
        filters: of the first convolution; they double every fourth block.
        drop_rate: before each block's second convolution.
        mean: of the training signals, subtracted from the input (0 with windows that are scaled already).
        std: of the training signals.
        trained: the labels that training held: classes, and the labels of whole recordings.
        classes: those of the twelve that may be answered: trained by themselves, or as part of a sum.
    """

    filters: int
    drop_rate: float
    mean: float
    std: float
    trained: list[str]
    classes: list[str]


def _same(signal: torch.Tensor, stride: int) -> torch.Tensor:
    """Pad (batch, channels, length) so that a convolution leaves length / stride, rounded up."""
    length = signal.shape[-1]
    out = -(-length // stride)
    pad = max(0, (out - 1) * stride + KERNEL - length)
    return functional.pad(signal, (pad // 2, pad - pad // 2))


class Block(nn.Module):
    """BN, ReLU, convolution, BN, ReLU, dropout, convolution; beside it max-pooling and channels padded with zeros.

    (batch, inputs, length) -> (batch, outputs, length / stride). The first block has no BN and ReLU in front.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, drop_rate: float, first: bool) -> None:
        super().__init__()
        self.stride, self.more = stride, outputs - inputs
        self.before = nn.Identity() if first else nn.Sequential(nn.BatchNorm1d(inputs), nn.ReLU())
        self.first = nn.Conv1d(inputs, outputs, KERNEL, stride)
        self.between = nn.Sequential(nn.BatchNorm1d(outputs), nn.ReLU(), nn.Dropout(drop_rate))
        self.second = nn.Conv1d(outputs, outputs, KERNEL)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class."""
        shortcut = functional.max_pool1d(x, self.stride, ceil_mode=True) if self.stride > 1 else x
        if self.more:
            shortcut = functional.pad(shortcut, (0, 0, 0, self.more))
        x = self.first(_same(self.before(x), self.stride))
        return self.second(_same(self.between(x), 1)) + shortcut


class EcgNetwork(nn.Module):
    """Signals (batch, samples) at 200 Hz, samples a multiple of 256 -> scores (batch, samples / 256, 12).

    With 32 filters: 33 convolutions, 10,468,204 parameters.
    """

    mean: torch.Tensor
    std: torch.Tensor
    unseen: torch.Tensor

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        width, rate = architecture.filters, architecture.drop_rate
        self.stem = nn.Conv1d(1, width, KERNEL)
        self.stem_norm = nn.Sequential(nn.BatchNorm1d(width), nn.ReLU())
        self.blocks = nn.Sequential()
        inputs = width
        for i in range(BLOCKS):
            outputs = width * 2 ** (i // 4)
            self.blocks.append(Block(inputs, outputs, 2 if i % 2 else 1, rate, first=i == 0))
            inputs = outputs
        self.last_norm = nn.Sequential(nn.BatchNorm1d(inputs), nn.ReLU())
        self.head = nn.Linear(inputs, len(CLASSES))
        for layer in self.modules():
            if isinstance(layer, nn.Conv1d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        unseen = [UNSEEN * (name not in architecture.classes) for name in CLASSES]
        self.register_buffer("mean", torch.tensor(float(architecture.mean)), persistent=False)
        self.register_buffer("std", torch.tensor(float(architecture.std)), persistent=False)
        self.register_buffer("unseen", torch.tensor(unseen), persistent=False)

    def forward(self, signal: torch.Tensor) -> torch.Tensor:
        """See the class.

        Raises:
            ValueError: the length is not a multiple of 256.
        """
        if signal.shape[-1] == 0 or signal.shape[-1] % STEP:
            raise ValueError(f"{signal.shape[-1]} samples are no multiple of {STEP}: cut or pad them, and say so")
        x = ((signal.float() - self.mean) / self.std)[:, None]
        x = self.blocks(self.stem_norm(self.stem(_same(x, 1))))
        return self.head(self.last_norm(x).transpose(1, 2)) + self.unseen


def build(
    config: EcgConfig, scale: tuple[float, float] = (0.0, 1.0), trained: Sequence[str] = tuple(CLASSES)
) -> nn.Module:
    """The network with its starting weights: random, or those of `model.weights`.

    Args:
        config: the configuration.
        scale: mean and standard deviation of the training signals.
        trained: the labels that training holds.

    Raises:
        ConfigError: another backbone.
        WeightsError: the file cannot be read or does not fit. There is no silent random start.
    """
    if config.model.backbone != BACKBONE:
        raise ConfigError(
            f"model.backbone={config.model.backbone} is not known to this study.", f"Allowed: {BACKBONE}."
        )
    shared = [c for name in trained for c in config.labels.record.get(name, [name])]
    architecture = Architecture(
        filters=config.model.filters,
        drop_rate=config.model.drop_rate,
        mean=scale[0],
        std=scale[1],
        trained=list(trained),
        classes=[name for name in CLASSES if name in shared],
    )
    network = EcgNetwork(architecture)
    if config.model.weights != "none":
        _load(network, Path(config.model.weights))
    return network


def _load(network: nn.Module, file: Path) -> None:
    try:
        network.load_state_dict(safetensors.torch.load_file(file))
    except Exception as failure:  # safetensors and torch raise many types for damaged or foreign files
        reason = (str(failure) or type(failure).__name__).splitlines()[0]
        raise WeightsError(
            f"model.weights={file} cannot be used: {reason}",
            "Allowed: none (a random start), or weights.safetensors of a run with the same model.filters.",
        ) from None


def architecture(network: nn.Module) -> dict[str, Any]:
    """What `rebuild` needs."""
    assert isinstance(network, EcgNetwork)
    return asdict(network.architecture)


def rebuild(facts: dict[str, Any]) -> nn.Module:
    """The network that model.json describes, without weights."""
    return EcgNetwork(Architecture(**facts["architecture"]))


# --- targets and loss ---


def targets(records: pd.DataFrame) -> np.ndarray:
    """float32 (windows, steps + 1): the code of every step (see `labels.CODES`), then that of the recording's label."""
    return np.column_stack([known_codes(records), records["record_code"]]).astype(np.float32)


def loss(config: EcgConfig) -> Loss:
    """Cross-entropy of every labelled step; of a recording's label, that of the mean probability of its classes.

    A window of a labelled recording counts as much as its steps would. Steps that are padding or masked count nowhere.
    """
    allowed = torch.from_numpy(membership(config.labels))

    def value(scores: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        log_p = functional.log_softmax(scores.float(), dim=-1)  # (batch, steps, 12)
        steps, label = codes[:, :-1].long(), codes[:, -1].long()
        known = steps >= 0
        each = log_p.gather(2, steps.clamp(min=0)[..., None])[..., 0]
        total, count = -(each * known).sum(), known.sum()
        whole = label >= 0
        if whole.any():
            here = (steps == CODES[UNLABELLED])[whole]
            mine, weight = log_p.exp()[whole], here.sum(dim=1)
            mean = (mine * here[..., None]).sum(dim=1) / weight.clamp(min=1)[:, None]
            p = (mean * allowed.to(mean.device)[label[whole]]).sum(dim=1).clamp(min=1e-7)
            total = total - (torch.log(p) * weight).sum()
            count = count + weight.sum()
        return total / count.clamp(min=1)

    return value


# --- augmentation ---


def augment(config: EcgConfig) -> Augment:
    """Random changes of a prepared window: gain, polarity, white noise, baseline wander. Never of its time axis."""
    keys = config.augment

    def change(window: np.ndarray, seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        level, deviation = float(window.mean()), float(window.std())
        gain = 1 + keys.gain * rng.uniform(-1, 1)
        if rng.random() < keys.flip:
            gain = -gain
        changed = level + gain * (window - level)
        if keys.noise:
            noise = rng.standard_normal(len(window), dtype=np.float32)
            changed = changed + deviation * keys.noise * rng.random() * noise
        if keys.wander:
            time = np.arange(len(window)) / RATE
            wave = np.sin(2 * np.pi * rng.uniform(0.05, 0.5) * time + rng.uniform(0, 2 * np.pi))
            changed = changed + deviation * keys.wander * rng.random() * wave
        return changed.astype(np.float32)

    return change
