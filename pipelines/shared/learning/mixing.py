"""What happens to a whole batch of pictures before the network sees it: a smaller size, mixup, CutMix.

All of it is drawn from torch's generator, which the loop seeds at every step.
"""

from __future__ import annotations

import torch
from torch import nn

from pipelines.shared.config import TrainerSection
from pipelines.shared.errors import ConfigError
from pipelines.shared.learning.losses import Loss

STEP = 32  # by how many pixels pictures grow: what most backbones divide them by


def side_at(epoch: int, epochs: int, first: int, full: int) -> int:
    """Pixels of the pictures' sides in an epoch (from 0): from `first` to `full` linearly, in multiples of `STEP`."""
    if epoch >= epochs - 1:
        return full
    return min(full, round((first + (full - first) * epoch / (epochs - 1)) / STEP) * STEP)


def resized(pictures: torch.Tensor, epoch: int, config: TrainerSection) -> torch.Tensor:
    """Pictures (batch, height, width, channels) at the size of this epoch; as they are without `first_size`.

    Raises:
        ConfigError: `first_size` is larger than the pictures.
    """
    full, first = pictures.shape[1], config.first_size
    if first is None:
        return pictures
    if first > full:
        raise ConfigError(f"trainer.first_size={first}, but pictures have {full} pixels.", f"Choose at most {full}.")
    side = side_at(epoch, config.epochs, first, full)
    if side == full:
        return pictures
    smaller = nn.functional.interpolate(pictures.permute(0, 3, 1, 2).float(), side, mode="bilinear", antialias=True)
    return smaller.permute(0, 2, 3, 1)


def mixed(pictures: torch.Tensor, config: TrainerSection) -> tuple[torch.Tensor, float]:
    """Each picture mixed with the one before it in its batch: by mixup, by CutMix or, with both, by one of the two.

    mixup (Zhang et al., ICLR 2018) adds pictures, CutMix (Yun et al., ICCV 2019) takes a rectangle out of the other.

    Args:
        pictures: (batch, height, width, channels).
        config: `mixup` and `cutmix` are alpha of Beta(alpha, alpha), from which the shares are drawn; 0: not at all.

    Returns:
        The pictures, and the share of each that is its own; 1 where nothing was mixed.
    """
    if not config.mixup and not config.cutmix:
        return pictures, 1.0
    from torchvision.transforms.v2 import CutMix, MixUp

    ways = [way(alpha=a) for way, a in ((MixUp, config.mixup), (CutMix, config.cutmix)) if a]
    way = ways[int(torch.randint(len(ways), ()))]
    whose = torch.eye(len(pictures))  # as the labels: row i says of whose pictures i is made
    mixture, shares = way(pictures.permute(0, 3, 1, 2).float(), whose)
    return mixture.permute(0, 2, 3, 1), float(shares[0, 0])


def mixed_loss(loss: Loss, outputs: torch.Tensor, targets: torch.Tensor, own: float) -> torch.Tensor:
    """The loss of mixed pictures: the share that is their own, by their own targets, the rest by the neighbour's.

    For every loss that is linear in the targets (cross-entropy, weighted or not, and binary cross-entropy) this is the
    loss of the mixed targets; a target that is unknown does not make the neighbour's unknown.
    """
    value = loss(outputs, targets)
    return value if own == 1 else own * value + (1 - own) * loss(outputs, targets.roll(1, 0))
