"""Augmentation of whole batches where the network is: what was drawn for each picture, applied to all of them at once.

`augment.image_augment` draws it. From what OpenCV does to a picture of eight bits it differs by rounding.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional


@dataclass(frozen=True)
class BatchChange:
    """Turns, moves, enlarges and colours a batch of pictures.

    Attributes:
        side: pixels of the new pictures' sides; None: as large as the old ones.
        mirrored: whether a picture goes on beyond its border as its mirror image.
        outside: the tone (0 to 255) that is there otherwise.
        colours: whether hue and saturation are changed.
    """

    side: int | None
    mirrored: bool
    outside: int
    colours: bool

    @torch.no_grad()
    def __call__(self, pictures: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
        """The changed pictures.

        Args:
            pictures: uint8 (batch, height, width, 1 or 3).
            drawn: float32 (batch, 10): the matrix (2, 3), row by row, from coordinates (x, y, 1) of the new picture to
                those of the old one, in pixels; factor and addend of all tones; the shift of the hue in degrees and of
                the saturation (0 to 255).

        Returns:
            uint8 (batch, side, side, 1 or 3).
        """
        values = self._warped(pictures.permute(0, 3, 1, 2), drawn[:, :6])
        factor, addend, hue, saturation = drawn[:, 6:, None, None].unbind(1)
        values.mul_(factor[:, None]).add_(addend[:, None]).clamp_(0, 255).floor_()  # as a table of bytes has it
        if self.colours and values.shape[1] == 3:
            if values.device.type == "cuda":  # eleven bits are enough for eight, in half the time
                values, hue, saturation = values.half(), hue.half(), saturation.half()
            values = shifted_colours(values, hue, saturation).round()
        return values.to(torch.uint8).permute(0, 2, 3, 1).contiguous()

    def _warped(self, pictures: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
        """Whole numbers, float32 (batch, channels, side, side)."""
        height, width = pictures.shape[2:]
        x = torch.arange(self.side or width, device=pictures.device)
        y = torch.arange(self.side or height, device=pictures.device)[:, None]
        a, b, c, d, e, f = matrix[:, :, None, None].unbind(1)
        # Not as a product of matrices: a GPU may take its factors with ten bits.
        old_x, old_y = a * x + b * y + c, d * x + e * y + f
        if self.mirrored:  # at the middle of the outermost pixels, which are then at -1 and 1
            places = torch.stack([2 * old_x / max(width - 1, 1) - 1, 2 * old_y / max(height - 1, 1) - 1], dim=-1)
            seen = functional.grid_sample(pictures.float(), places, padding_mode="reflection", align_corners=True)
            return seen.round_()
        places = torch.stack([(2 * old_x + 1) / width - 1, (2 * old_y + 1) / height - 1], dim=-1)
        seen = functional.grid_sample(pictures.float() - self.outside, places, align_corners=False)  # 0 beyond
        return seen.add_(self.outside).round_()


def shifted_colours(pictures: torch.Tensor, hue: torch.Tensor, saturation: torch.Tensor) -> torch.Tensor:
    """Pictures whose hue is turned and whose saturation is raised, by the hexcone model (Smith, SIGGRAPH 1978).

    Args:
        pictures: float (batch, 3, height, width), red, green, blue, 0 to 255.
        hue: (batch, 1, 1), degrees.
        saturation: (batch, 1, 1), added to a saturation of 0 to 255; grey stays grey.
    """
    red, green, blue = pictures.unbind(1)
    value, lowest = pictures.amax(1), pictures.amin(1)
    range_ = value - lowest
    divisor = range_.clamp(min=1)  # whole numbers: where it is 0 there is no hue
    sector = torch.where(value == green, (blue - red) / divisor + 2, (red - green) / divisor + 4)
    sector = torch.where(value == red, (green - blue) / divisor, sector) + hue / 60
    purity = (range_ / value.clamp(min=1) + saturation / 255).clamp(0, 1) * (range_ > 0)
    channels = []
    for first in (5, 3, 1):
        k = (first + sector) % 6
        channels.append(value - value * purity * torch.minimum(k, 4 - k).clamp(0, 1))
    return torch.stack(channels, dim=1)
