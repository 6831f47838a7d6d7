"""The patch network: a backbone's maps, averaged over the patch, one output; or, over a region, one for every patch.

Input: uint8 pictures (batch, height, width, 3). Output: logits (batch, 1), tumour or not. A backbone whose maps have a
whole number of cells per patch is used as a fully convolutional network on regions (`dense`): overlapping patches then
cost no more than their pixels. What differs from scoring patch by patch is what lies beyond a patch's border: the
region's pixels here, zeros there.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from pipelines.shared.errors import ConfigError
from pipelines.shared.learning.backbones import create_backbone
from pipelines.shared.learning.views import AXES, mean_sigmoid

GOOGLENET = "googlenet"  # torchvision's; timm has none


@dataclass(frozen=True)
class Plan:
    """All that is needed to build a network again."""

    backbone: str
    level: int | None
    channels: int
    drop_rate: float
    crop: int
    mean: list[float]
    std: list[float]
    test_time: str = "none"  # networks of earlier versions lack it


class PatchNetwork(nn.Module):
    """A backbone without its head, an optional 1 x 1 convolution, the average over a patch, one linear output."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, plan: Plan, backbone: nn.Module | None = None) -> None:
        super().__init__()
        self.plan = plan
        self.backbone: Any = backbone if backbone is not None else _bare_backbone(plan.backbone)
        if plan.level is not None:
            prune: Any = getattr(self.backbone, "prune_intermediate_layers", None)
            if prune is None:
                raise ConfigError(
                    f"model.backbone={plan.backbone} cannot be cut at a level.", "Set model.level=null, its last maps."
                )
            prune([plan.level], prune_norm=True, prune_head=True)
        elif not hasattr(self.backbone, "forward_features"):
            raise ConfigError(
                f"model.backbone={plan.backbone} does not give maps, which a patch network needs.",
                "Take another of timm's, or googlenet.",
            )
        self.backbone.to(memory_format=torch.channels_last)
        self.register_buffer("mean", torch.tensor(plan.mean).view(1, -1, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(plan.std).view(1, -1, 1, 1) * 255, persistent=False)
        with torch.no_grad():
            self.eval()
            maps = self._backbone_maps(torch.zeros(1, 3, plan.crop, plan.crop))
            self.train()
        width = maps.shape[1]
        cells = maps.shape[2] if maps.ndim == 4 else 0
        # pixels per cell of the maps; None where a region cannot be scored at once
        self.reduction = plan.crop // cells if cells and plan.crop % cells == 0 else None
        self.reduce: Any = nn.Identity()
        if plan.channels:
            c = plan.channels
            self.reduce = nn.Sequential(nn.Conv2d(width, c, 1, bias=False), nn.BatchNorm2d(c), nn.ReLU(inplace=True))
            width = c
        self.dropout = nn.Dropout(plan.drop_rate)
        self.head = nn.Linear(width, 1)

    def _backbone_maps(self, pictures: torch.Tensor) -> torch.Tensor:
        if self.plan.level is None:
            maps: torch.Tensor = self.backbone.forward_features(pictures)
        else:
            maps = self.backbone.forward_intermediates(
                pictures, indices=[self.plan.level], stop_early=True, intermediates_only=True
            )[0]
        return maps

    def maps(self, pictures: torch.Tensor) -> torch.Tensor:
        """uint8 (batch, height, width, 3) to maps (batch, channels, h, w)."""
        pictures = pictures.permute(0, 3, 1, 2)  # a view: the memory stays channels-last, the faster order
        reduced: torch.Tensor = self.reduce(self._backbone_maps((pictures.float() - self.mean) / self.std))
        return reduced

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Logits (batch, 1) of the middle `crop` pixels of each picture."""
        height, width = pictures.shape[1:3]
        crop = self.plan.crop
        top, left = max(0, (height - crop) // 2), max(0, (width - crop) // 2)
        maps = self.maps(pictures[:, top : top + crop, left : left + crop])
        logits: torch.Tensor = self.head(self.dropout(maps.mean(dim=(2, 3))))
        return logits

    def dense(self, pictures: torch.Tensor, stride: int, halo: int) -> torch.Tensor:
        """Logits (batch, rows, columns) of all patches of a region at a stride.

        Args:
            pictures: uint8 (batch, height, width, 3).
            stride: pixels between patches, a multiple of `reduction`.
            halo: pixels on every side that belong to no patch, a multiple of `reduction`.
        """
        assert self.reduction is not None
        r = self.reduction
        maps, edge = self.maps(pictures), halo // r
        maps = maps[:, :, edge : maps.shape[2] - edge, edge : maps.shape[3] - edge]
        pooled = functional.avg_pool2d(maps, self.plan.crop // r, stride // r)
        return (pooled * self.head.weight.view(1, -1, 1, 1)).sum(dim=1) + self.head.bias


class FlippedPatchNetwork(PatchNetwork):
    """A finished network that averages its probabilities over the flips of what it sees, see `learning.views`."""

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Logits (batch, 1) of the averaged probabilities."""
        score = super().forward
        return mean_sigmoid([score(pictures.flip(axes)).float() for axes in AXES[self.plan.test_time]])

    def dense(self, pictures: torch.Tensor, stride: int, halo: int) -> torch.Tensor:
        """Logits (batch, rows, columns) of a region whose patches reach from one halo to the other."""
        score = super().dense
        assert all((side - 2 * halo - self.plan.crop) % stride == 0 for side in pictures.shape[1:3])
        turns = AXES[self.plan.test_time]
        return mean_sigmoid([score(pictures.flip(axes), stride, halo).float().flip(axes) for axes in turns])


def _bare_backbone(name: str) -> nn.Module:
    return with_maps(name, create_backbone(name))


def with_maps(name: str, backbone: nn.Module) -> nn.Module:
    """The backbone with a `forward_features`, as timm's have it."""
    return GoogLeNetMaps(backbone) if name == GOOGLENET else backbone


class GoogLeNetMaps(nn.Sequential):
    """torchvision's GoogLeNet (Szegedy et al. 2015) up to its last maps, under torchvision's names."""

    def __init__(self, whole: nn.Module) -> None:
        parts = [(k, v) for k, v in whole.named_children() if k not in ("aux1", "aux2", "avgpool", "dropout", "fc")]
        super().__init__(OrderedDict((k, v) for k, v in parts if v is not None))

    def forward_features(self, pictures: torch.Tensor) -> torch.Tensor:
        """(batch, 3, h, w) to maps (batch, 1024, h / 32, w / 32)."""
        features: torch.Tensor = self(pictures)
        return features
