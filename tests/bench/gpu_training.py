"""The trainer against a bare loop, for the bench of a GPU: on resident tensors, in turn, in one process."""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from conftest import compose
from measure import Row, seconds
from torch import nn

from pipelines.shared.config import TrainerSection
from pipelines.shared.data.cache import Prepared
from pipelines.shared.learning.dataset import PreparedDataset
from pipelines.shared.learning.distributed import World, wrap
from pipelines.shared.learning.losses import Loss, weighted_cross_entropy
from pipelines.shared.learning.optimization import make_optimizer
from pipelines.shared.learning.trainer import _Training

ROUNDS = 3
OUTPUTS = 8
WEIGHTS = torch.ones(OUTPUTS)


def section_of(device: torch.device, batch: int, compiled: bool = False, **more: Any) -> TrainerSection:
    """Skin's trainer with what both sides can have: a constant rate and no moving average; `more`: other keys."""
    precision = "bf16" if device.type == "cuda" else "fp32"
    section = compose("skin").trainer.model_dump()
    own = {"batch_size": batch, "precision": precision, "compile": compiled, "deterministic": False, "workers": None}
    return TrainerSection(**(section | own | {"schedule": "constant", "ema_decay": None} | more))


def random_dataset(shape: tuple[int, ...], dtype: type, targets: np.ndarray, augment: Any) -> PreparedDataset:
    """Random records that a loader reads as it reads the cache."""
    rng, count = np.random.default_rng(0), len(targets)
    arrays = rng.integers(0, 255, (min(count, 256), *shape)).astype(dtype)
    facts = pd.DataFrame({"bad": [None] * count, "unusable": [None] * count})
    prepared = Prepared(facts, np.zeros((count, 0)), np.zeros((count, 0, 0), np.uint8), None, _Repeated(arrays))
    return PreparedDataset(prepared, [str(i) for i in range(count)], targets, augment)


class _Repeated:
    """As many records as are asked for out of a few."""

    def __init__(self, arrays: np.ndarray) -> None:
        self.arrays = arrays

    def __call__(self, index: int) -> np.ndarray:
        array: np.ndarray = self.arrays[index % len(self.arrays)]
        return array


def training_row(
    what: str,
    build: Callable[[], nn.Module],
    loss: Loss,
    dataset: PreparedDataset,
    section: TrainerSection,
    inputs: torch.Tensor,
    device: torch.device,
    target: float,
    forward: Callable[[Any, torch.Tensor], torch.Tensor] = lambda network, batch: network(batch),
) -> Row:
    """Records per second of the trainer over those of a bare loop.

    Args:
        build: the network.
        dataset: as many whole batches as a round has.
        inputs: one batch, resident, as `forward` takes it.
    """
    batch, (ours, steps) = section.batch_size, trainer(build, loss, dataset, section, device)
    answers = torch.from_numpy(dataset.targets[:batch]).to(device)
    inputs = inputs.to(device)
    network = build().to(device).train()
    called, optimizer = wrap(network, World(0, 1, device), section.compile), make_optimizer(network, section)

    def bare() -> None:
        exactly(False)
        for _ in range(steps):
            with torch.autocast(device.type, torch.bfloat16, enabled=section.precision == "bf16"):
                value = loss(forward(called, inputs), answers)
            value.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        wait(device)

    return in_turn(what, bare, ours, steps * batch, "bare loop", target)


def trainer(
    build: Callable[[], nn.Module], loss: Loss, dataset: PreparedDataset, section: TrainerSection, device: torch.device,
    world: World | None = None,
) -> tuple[Callable[[], None], int]:  # fmt: skip
    """Two epochs of the trainer, to be called, and how many steps they have.

    Nothing is read before the first or for a third: what the loader does is in the time.
    """
    file = Path(tempfile.mkdtemp()) / "never.pt"
    section = section.model_copy(update={"epochs": 2})
    run = _Training(build().to(device), loss, dataset, section, "bench", 0, world or World(0, 1, device), file, {})

    def epochs() -> None:
        exactly(section.deterministic)
        for number in range(2):
            run.progress.epoch, run.progress.batch = number, 0
            run.train_epoch()
        wait(device)

    return epochs, 2 * run.batches


def exactly(deterministic: bool) -> None:
    """As a run sets it when it starts (`cli.environment`); torch keeps it for the whole process."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(deterministic, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False


def wait(device: torch.device) -> None:
    """Until a GPU is done with all that was launched."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def in_turn(
    what: str, theirs: Callable[[], None], ours: Callable[[], None], records: int, name: str, target: float
) -> Row:
    """Both once unmeasured, then `ROUNDS` times in turn."""
    theirs(), ours()
    pairs = [(seconds(theirs), seconds(ours)) for _ in range(ROUNDS)]
    return {
        "what": what,
        "ratio": statistics.median(t / o for t, o in pairs),
        "ours": f"{records / statistics.median(o for _, o in pairs):.0f} records/s",
        "reference": f"{name} {records / statistics.median(t for t, _ in pairs):.0f} records/s, to reach {target:g}",
        "speeds": [records / statistics.median(p[i] for p in pairs) for i in (1, 0)],
    }


def cross_entropy(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Skin's and COVID's loss."""
    return weighted_cross_entropy(outputs, targets, WEIGHTS)
