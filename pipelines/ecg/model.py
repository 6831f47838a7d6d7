"""The network of Hannun et al. 2019 (Methods, "Algorithm development"; Extended Data Fig. 1) and its loss.

One convolution and 16 residual blocks of two, every other block halving the time axis, so that one output stands for
256 samples. He et al.: Identity Mappings in Deep Residual Networks, ECCV 2016 (pre-activation); He et al.: Delving Deep
into Rectifiers, ICCV 2015 (initialisation).
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from pipelines.ecg.architecture import Architecture
from pipelines.ecg.config import CLASSES
from pipelines.ecg.labels import STEP

BACKBONE = "resnet1d_33"
KERNEL = 16
BLOCKS = 16
UNSEEN = -1.0e4  # the score of a class that training never saw: its probability is exactly zero


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
        out: torch.Tensor = self.second(_same(self.between(x), 1)) + shortcut
        return out


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
        logits: torch.Tensor = self.head(self.last_norm(x).transpose(1, 2)) + self.unseen
        return logits
