"""From files on disk to a score, an alarm and key slices, one study at a time, with the seconds it took."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from pipelines.head_ct.model import SliceNetwork
from pipelines.head_ct.stacks import Stack
from pipelines.head_ct.volumes import NO_DATA, Grid, onto_grid, windowed
from pipelines.shared.stats.probabilities import sigmoid

KEY_SLICES, KEY_SIZE = 3, 224  # pixels


class Scorer:
    """The networks of a run, as a function of prepared volumes; `probabilities`: of their outputs, a learner's."""

    def __init__(
        self,
        networks: Sequence[nn.Module],
        device: torch.device,
        bf16: bool = False,
        probabilities: Callable[[np.ndarray], np.ndarray] = sigmoid,
    ) -> None:
        self.networks = [n.to(device).eval() for n in networks]
        self.device, self.bf16, self.probabilities = device, bf16, probabilities

    def logits(self, network: nn.Module, volumes: np.ndarray) -> np.ndarray:
        """(n, slices, size, size) int16 -> (n, 3)."""
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            logits: np.ndarray = network(torch.from_numpy(volumes).to(self.device)).float().cpu().numpy()
            return logits

    def score(self, volume: np.ndarray) -> np.ndarray:
        """Probabilities (3,), averaged over the networks; NaN for what no training record taught."""
        mean: np.ndarray = np.mean([self.probabilities(self.logits(n, volume[None]))[0] for n in self.networks], axis=0)
        return mean

    def importance(self, volume: np.ndarray) -> np.ndarray:
        """(slices,): by how much the first network's logit falls without each slice; -inf for slices without data."""
        network = self.networks[0]
        known = (volume != NO_DATA).any(axis=(1, 2))
        fall = np.full(len(volume), -np.inf)
        places = np.flatnonzero(known)
        if len(places) == 1:
            fall[places] = 0.0
            return fall
        if isinstance(network, SliceNetwork):
            without = self._without(network, volume, known)
        else:
            copies = np.repeat(volume[None], len(places), axis=0)
            copies[np.arange(len(places)), places] = NO_DATA
            without = np.concatenate([self.logits(network, c[None])[:, 0] for c in copies])
        fall[places] = self.logits(network, volume[None])[0, 0] - without
        return fall

    def _without(self, network: SliceNetwork, volume: np.ndarray, known: np.ndarray) -> np.ndarray:
        """The logit without each known slice; the backbone sees every slice once."""
        places = np.flatnonzero(known)
        with torch.inference_mode():
            pictures = network.windows(torch.from_numpy(volume[places]).to(self.device))
            maps = network.maps(pictures.to(memory_format=torch.channels_last))
            logits = []
            for k in range(len(places)):
                rest = [i for i in range(len(places)) if i != k]
                mask = torch.zeros(1, len(volume), dtype=torch.bool, device=self.device)
                mask[0, places[rest]] = True
                logits.append(float(network.judge(maps[rest], mask, 1, len(volume))[0, 0]))
        return np.array(logits)


def score_study(stack: Stack, root: Path, grid: Grid, scorer: Scorer) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """A study's volume, its probabilities (3,), and metadata with `volume_s` and `network_s`.

    Raises:
        BadFile: the volume cannot be made.
    """
    began = time.perf_counter()
    volume, metadata = onto_grid(stack, root, grid)
    middle = time.perf_counter()
    values = scorer.score(volume)
    end = time.perf_counter()
    return volume, values, metadata | {"volume_s": middle - began, "network_s": end - middle}


def key_slices(stack: Stack, root: Path, grid: Grid, importance: np.ndarray) -> list[np.ndarray]:
    """Pictures of the slices that matter most, uint8 (224, 224), brain window, from the top down; none where no slice's
    importance is a number.
    """
    order = [int(k) for k in np.argsort(-importance, kind="stable") if np.isfinite(importance[k])]
    fine, _ = onto_grid(stack, root, Grid(grid.slices, grid.thickness, KEY_SIZE, grid.field))
    return [windowed(fine[k], 40, 80) for k in sorted(order[:KEY_SLICES])]
