"""Every record predicted exactly once, whatever the number of processes."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from pipelines.shared.learning.ahead import arriving
from pipelines.shared.learning.dataset import Loader, PreparedDataset
from pipelines.shared.learning.distributed import World, gather
from pipelines.shared.screen import track


def predict(
    model: nn.Module,
    data: PreparedDataset | Loader,
    world: World,
    batch_size: int,
    workers: int = 0,
    precision: str = "fp32",
    description: str = "Predicting",
) -> np.ndarray:
    """The model's outputs for all records, in the dataset's order.

    Args:
        model: maps a batch of prepared arrays to outputs of shape (batch, ...).
        data: not augmented; a loader, for the device of `world`, keeps its worker processes for the next time.
        world: process r of w predicts records r, r + w, …; the parts are merged by position.
        batch_size: per process; it does not change the result beyond rounding.
        workers: loader processes, where no loader is given.
        precision: `bf16` runs the model in bfloat16 autocast; outputs are float32 in any case.
        description: of the progress bar.

    Returns:
        float32 (records, ...), on every process.

    Raises:
        RuntimeError: a record was predicted twice or not at all (a defect).
    """
    batches_of = data if isinstance(data, Loader) else Loader(data, workers, world.device)
    count = len(batches_of.dataset)
    share = list(range(count))[world.rank :: world.size]
    batches = [[(0, position, 0) for position in share[i : i + batch_size]] for i in range(0, len(share), batch_size)]
    if model.training:  # to ask is quicker than to tell every layer of a network that serves one picture at a time
        model.eval()
    outputs, positions = [], []
    with torch.inference_mode(), torch.autocast(world.device.type, torch.bfloat16, enabled=precision == "bf16"):
        for arrays, _, batch in track(batches_of(batches), description, total=len(batches)):
            # Not waited for: a GPU goes on with the next batch.
            outputs.append(arriving(model(arrays).float()))
            positions.append(batch)
    part = (torch.cat(positions).numpy(), torch.cat([arrived() for arrived in outputs]).numpy()) if positions else None
    parts = [p for p in gather(part, world) if p is not None]
    order = np.concatenate([p for p, _ in parts])
    if not np.array_equal(np.sort(order), np.arange(count)):
        raise RuntimeError(f"{len(order)} predictions for {count} records: some were predicted twice or never.")
    merged = np.concatenate([o for _, o in parts])
    return merged[np.argsort(order)]
