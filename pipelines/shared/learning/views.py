"""Test-time augmentation: a finished network that answers with the mean over several views of a picture.

    none           the picture
    mirror         the picture and its mirror image, left and right exchanged
    flips          its four flips
    mirror_crops   `mirror` of the picture and of its four corners (7/8 of the sides, enlarged): ten views
    flips_crops    `flips` of the same: twenty views

Corners and mirror images: Krizhevsky et al., NeurIPS 2012, section 4.1 (who add the middle crop, not the whole).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

AXES = {"mirror": [(), (2,)], "flips": [(), (1,), (2,), (1, 2)]}  # of (batch, height, width, channels)
SHARE = 7 / 8  # of a corner's sides in the picture's


def views(pictures: torch.Tensor, test_time: str) -> Iterator[torch.Tensor]:
    """All views of some pictures (batch, height, width, channels), each of their size; the enlarged ones are float."""
    flips, _, crops = test_time.partition("_")
    for part in [pictures, *(corners(pictures) if crops else [])]:
        for axes in AXES[flips]:
            yield part.flip(axes) if axes else part


def corners(pictures: torch.Tensor) -> list[torch.Tensor]:
    """The four corners of pictures (batch, height, width, channels), enlarged to their size; float."""
    size = list(pictures.shape[1:3])
    height, width = (round(SHARE * side) for side in size)
    whole, found = pictures.permute(0, 3, 1, 2).float(), []
    for top in (0, size[0] - height):
        for left in (0, size[1] - width):
            part = whole[:, :, top : top + height, left : left + width]
            found.append(nn.functional.interpolate(part, size, mode="bilinear").permute(0, 2, 3, 1))
    return found


class MeanOverViews(nn.Module):
    """A network that averages its probabilities over several views of each picture.

    Input as the network's; output (batch, classes): numbers whose softmax or sigmoid, whichever `link` names, is the
    mean of the views' probabilities.

    Args:
        network: pictures (batch, height, width, channels) to outputs (batch, classes).
        test_time: which views, see above.
        link: softmax or sigmoid, what makes probabilities of outputs.
        never: classes that nothing taught, bool (classes,); to a softmax they are not there.
    """

    never: torch.Tensor

    def __init__(self, network: nn.Module, test_time: str, link: str, never: np.ndarray) -> None:
        super().__init__()
        self.network, self.test_time, self.link = network, test_time, link
        self.some = bool(never.any())
        self.register_buffer("never", torch.from_numpy(never), persistent=False)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Averaged outputs, (batch, classes)."""
        each = [self.network(view).float() for view in views(pictures, self.test_time)]
        return mean_softmax(each, self.never if self.some else None) if self.link == "softmax" else mean_sigmoid(each)


def mean_softmax(outputs: list[torch.Tensor], never: torch.Tensor | None = None) -> torch.Tensor:
    """Logarithms of the mean of some softmaxes: their own softmax is that mean."""
    if never is not None:
        outputs = [each.masked_fill(never, -torch.inf) for each in outputs]
    return torch.stack([each.softmax(dim=-1) for each in outputs]).mean(dim=0).log()


def mean_sigmoid(outputs: list[torch.Tensor]) -> torch.Tensor:
    """Log-odds of the mean of some sigmoids."""
    stack = torch.stack(outputs)
    return stack.sigmoid().mean(dim=0).log() - (-stack).sigmoid().mean(dim=0).log()
