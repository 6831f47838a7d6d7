"""The network: a 2D backbone per slice and 3D convolutions over the stack of its maps, or a backbone inflated to 3D.

Input: prepared volumes, int16 HU (batch, slices, height, width), `NO_DATA` where nothing is known; the windows become
channels here, on the device. Output: logits (batch, 3): does the report name at least 4, 8, 10 critical concepts?
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pipelines.head_ct.metrics import CLASSES
from pipelines.head_ct.volumes import AIR, NO_DATA
from pipelines.shared.errors import ConfigError
from pipelines.shared.learning.timm_import import timm

Network = nn.Module


@dataclass(frozen=True)
class Plan:
    """All that is needed to build a network again."""

    kind: str
    backbone: str
    level: int
    channels: int
    drop_rate: float
    freeze: bool
    windows: list[list[float]]
    mean: list[float]
    std: list[float]


class _Windows(nn.Module):
    """HU to channels: one per window (level, width), scaled as the backbone wants it."""

    low: torch.Tensor
    width: torch.Tensor
    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        windows = torch.tensor(plan.windows, dtype=torch.float32)
        self.register_buffer("low", (windows[:, 0] - windows[:, 1] / 2).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("width", windows[:, 1].view(1, -1, 1, 1), persistent=False)
        self.register_buffer("mean", torch.tensor(plan.mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(plan.std).view(1, -1, 1, 1), persistent=False)

    def forward(self, hu: torch.Tensor) -> torch.Tensor:
        """(n, height, width) int16 -> (n, 3, height, width) float; what is not known is as dark as air."""
        values = hu.float()
        values = torch.where(hu == NO_DATA, torch.full_like(values, AIR), values)
        return (((values.unsqueeze(1) - self.low) / self.width).clamp(0, 1) - self.mean) / self.std


class SliceNetwork(nn.Module):
    """The default: maps of a 2D backbone per slice, stacked, then two 3D convolutions and masked pooling.

    Slices without data are not shown to the backbone and count nowhere, so that any number of them may be missing.
    """

    def __init__(self, plan: Plan, backbone: nn.Module | None = None) -> None:
        super().__init__()
        self.plan = plan
        self.windows: Any = _Windows(plan)
        self.backbone: Any = backbone or timm.create_model(plan.backbone, pretrained=False, num_classes=0)
        if not hasattr(self.backbone, "forward_intermediates"):
            raise ConfigError(
                f"model.backbone={plan.backbone} does not give the maps of its levels, which model.kind=slices needs.",
                "Take another of timm's, such as tf_efficientnet_lite0 or resnet18.",
            )
        self.backbone.to(memory_format=torch.channels_last)
        features: Any = self.backbone.feature_info
        widths = [info["num_chs"] for info in features]
        prune: Any = self.backbone.prune_intermediate_layers
        prune([plan.level], prune_norm=True, prune_head=True)
        if plan.freeze:
            self.backbone.requires_grad_(False)
        c = plan.channels
        self.reduce: Any = nn.Sequential(nn.Conv2d(widths[plan.level], c, 1, bias=False), nn.BatchNorm2d(c), nn.ReLU())
        self.convolutions: Any = nn.ModuleList(
            nn.Sequential(nn.Conv3d(c, c, 3, padding=1, bias=False), nn.BatchNorm3d(c), nn.ReLU()) for _ in range(2)
        )
        self.dropout = nn.Dropout(plan.drop_rate)
        self.head = nn.Linear(2 * c, len(CLASSES))

    def train(self, mode: bool = True) -> SliceNetwork:
        """As for any module; a frozen backbone keeps its statistics."""
        super().train(mode)
        if self.plan.freeze:
            self.backbone.eval()
        return self

    def forward(self, volumes: torch.Tensor) -> torch.Tensor:
        """Logits (batch, 3)."""
        batch, slices = volumes.shape[:2]
        known = (volumes != NO_DATA).flatten(2).any(dim=2)  # (batch, slices)
        pictures = self.windows(volumes[known]).to(memory_format=torch.channels_last)
        return self.judge(self.maps(pictures), known, batch, slices)

    def maps(self, pictures: torch.Tensor) -> torch.Tensor:
        """The backbone's maps of slices (n, 3, height, width), reduced: (n, channels, h, w)."""
        maps = self.backbone.forward_intermediates(
            pictures, indices=[self.plan.level], stop_early=True, intermediates_only=True
        )[0]
        reduced: torch.Tensor = self.reduce(maps)
        return reduced

    def judge(self, maps: torch.Tensor, known: torch.Tensor, batch: int, slices: int) -> torch.Tensor:
        """Logits from the maps of all known slices."""
        stack = maps.new_zeros(batch, slices, *maps.shape[1:])
        stack[known] = maps
        return self.judge_stack(stack, known)

    def judge_stack(self, stack: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
        """Logits from stacked maps (batch, slices, channels, h, w) that are zero where a slice is not known."""
        stack = stack.permute(0, 2, 1, 3, 4)  # (batch, channels, slices, h, w)
        mask = known[:, None, :, None, None].to(stack.dtype)
        for convolution in self.convolutions:
            stack = (stack + convolution(stack)) * mask
        highest = stack.amax(dim=(2, 3, 4))  # maps are not negative, so a missing slice's zero never wins
        mean = stack.sum(dim=(2, 3, 4)) / (mask.sum(dim=(2, 3, 4)) * stack.shape[3] * stack.shape[4])
        logits: torch.Tensor = self.head(self.dropout(torch.cat([highest, mean], dim=1)))
        return logits


class AllSlices(nn.Module):
    """A finished `SliceNetwork` that shows every slice to the backbone, known or not: what ONNX can say.

    The maps of unknown slices are set to zero afterwards, so the answers are the same.
    """

    def __init__(self, network: SliceNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, volumes: torch.Tensor) -> torch.Tensor:
        """Logits (batch, 3)."""
        network, (batch, slices) = self.network, volumes.shape[:2]
        known = (volumes != NO_DATA).flatten(2).any(dim=2)
        maps = network.maps(network.windows(volumes.flatten(0, 1)))
        stack = maps.view(batch, slices, *maps.shape[1:]) * known[:, :, None, None, None].to(maps.dtype)
        return network.judge_stack(stack, known)


def exportable(network: nn.Module) -> nn.Module:
    """A finished network as ONNX can say it."""
    return AllSlices(network) if isinstance(network, SliceNetwork) else network


class VolumeNetwork(nn.Module):
    """A ResNet whose every 2D convolution has become a 3D one (Carreira and Zisserman, CVPR 2017, section 2.4.1)."""

    def __init__(self, plan: Plan, backbone: nn.Module | None = None) -> None:
        super().__init__()
        self.plan = plan
        self.windows = _Windows(plan)
        flat = backbone or timm.create_model(plan.backbone, pretrained=False, num_classes=0)
        if not isinstance(flat, timm.models.resnet.ResNet):
            raise ConfigError(
                f"model.backbone={plan.backbone} cannot be inflated to three dimensions.",
                "With model.kind=volume it must be a ResNet, such as resnet50 or resnet18.",
            )
        width = flat.num_features
        self.backbone: Any = inflate(flat)
        self.dropout = nn.Dropout(plan.drop_rate)
        self.head = nn.Linear(width, len(CLASSES))

    def forward(self, volumes: torch.Tensor) -> torch.Tensor:
        """Logits (batch, 3). A missing slice is dark."""
        batch, slices, height, width = volumes.shape
        channels = self.windows(volumes.flatten(0, 1)).view(batch, slices, 3, height, width).transpose(1, 2)
        maps = self.backbone.forward_features(channels)
        logits: torch.Tensor = self.head(self.dropout(maps.mean(dim=(2, 3, 4))))
        return logits


def inflate(module: nn.Module) -> nn.Module:
    """A 2D network as a 3D one: kernels repeated along the slices and divided by their depth, so that a stack of equal
    slices gives the maps that each slice gave. The stem keeps all slices; later strides halve them too."""
    for name, child in module.named_children():
        if isinstance(child, nn.Conv2d):
            kernel, stride, padding = _three(child.kernel_size), _three(child.stride), _three(child.padding)
            if kernel[0] == 7:
                stride = (1, *stride[1:])
            new: nn.Module = nn.Conv3d(
                child.in_channels, child.out_channels, kernel, stride, padding, _three(child.dilation), child.groups,
                child.bias is not None,
            )  # fmt: skip
            assert isinstance(new, nn.Conv3d)
            with torch.no_grad():
                new.weight.copy_(child.weight.unsqueeze(2).expand(-1, -1, kernel[0], -1, -1) / kernel[0])
                if child.bias is not None and new.bias is not None:
                    new.bias.copy_(child.bias)
        elif isinstance(child, nn.BatchNorm2d):
            new = nn.BatchNorm3d(child.num_features, child.eps, child.momentum, child.affine)
            new.load_state_dict(child.state_dict())
        elif isinstance(child, nn.MaxPool2d):
            new = nn.MaxPool3d(_three(child.kernel_size), (1, *_three(child.stride)[1:]), _three(child.padding))
        elif isinstance(child, nn.AvgPool2d):
            new = nn.AvgPool3d(_three(child.kernel_size), _three(child.stride), _three(child.padding))
        else:
            new = inflate(child)
        setattr(module, name, new)
    return module


def _three(value: Any) -> tuple[int, int, int]:
    pair = value if isinstance(value, tuple) else (value, value)
    return int(pair[0]), int(pair[0]), int(pair[1])


def network_of(plan: Plan, backbone: nn.Module | None = None) -> nn.Module:
    """The network that a plan describes, around a backbone or a new one without weights."""
    kinds: dict[str, Callable[..., nn.Module]] = {"slices": SliceNetwork, "volume": VolumeNetwork}
    return kinds[plan.kind](plan, backbone)
