"""Saliency maps of image networks, with captum."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np
import torch
from captum.attr import IntegratedGradients
from torch import nn

from pipelines.shared.distributed import World
from pipelines.shared.screen import track

STEPS = 8


def saliency_maps(
    network: nn.Module,
    score: Callable[[torch.Tensor], torch.Tensor],
    pictures: Sequence[np.ndarray],
    regions: Sequence[np.ndarray],
    world: World,
    description: str = "Saliency",
) -> list[np.ndarray]:
    """Integrated gradients (Sundararajan et al., ICML 2017, eq. 1) of one score, picture by picture.

    The path starts at the picture's own heavily blurred copy, so that the map shows which fine structures speak for or
    against the score, not that tissue is brighter than its background. Outside the region both are the same, so
    nothing is attributed there.

    Args:
        network: maps (1, height, width, 3) to outputs.
        score: outputs to one number per picture, (1,).
        pictures: uint8 (height, width, 3) each.
        regions: bool (height, width) each: where there is something to see.
        world: where the network is.
        description: of the progress bar.

    Returns:
        float32 (height, width) each: the attribution's absolute value summed over colours and slightly smoothed,
        scaled so that its 99th percentile is 1, and cut there.
    """
    network.eval()
    gradients = IntegratedGradients(lambda batch: score(network(batch)))
    maps = []
    for picture, region in track(list(zip(pictures, regions, strict=True)), description):
        height = picture.shape[0]
        weight = region.astype(np.float32)[..., None]
        values = picture.astype(np.float32)
        # Averages over the region alone: a background that leaks in would make its rim the strongest structure.
        total = cv2.GaussianBlur(values * weight, (0, 0), height / 10)
        share = cv2.GaussianBlur(weight, (0, 0), height / 10)[..., None]
        blurred = np.where(region[..., None], total / np.maximum(share, 1e-6), values)
        inputs = torch.from_numpy(values)[None].to(world.device)
        baseline = torch.from_numpy(blurred)[None].to(world.device)
        found = gradients.attribute(inputs, baseline, n_steps=STEPS, internal_batch_size=STEPS)
        strength = found[0].sum(dim=-1).abs().cpu().numpy().astype(np.float32)
        strength = cv2.GaussianBlur(strength, (0, 0), height / 64)
        top = np.percentile(strength, 99)
        maps.append(np.clip(strength / top, 0, 1) if top > 0 else np.zeros_like(strength))
    return maps
