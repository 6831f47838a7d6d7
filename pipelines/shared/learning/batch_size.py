"""`trainer.batch_size=auto`: the largest power of two that fits into memory, and its learning rate."""

from __future__ import annotations

import math
import os
from pathlib import Path

import torch
from torch import nn

from pipelines.shared.config import TrainerSection
from pipelines.shared.learning.dataset import PreparedDataset, batch_of
from pipelines.shared.learning.distributed import World, gather
from pipelines.shared.learning.hardware import out_of_memory, uses_bf16
from pipelines.shared.learning.losses import Loss
from pipelines.shared.log import log

BASE = 32  # records: the batch that trainer.learning_rate is meant for
LARGEST = {"cpu": 64}  # of a process; a CPU gains nothing from more
LARGEST_ON_GPU = 1024
BATCHES = 16  # an epoch has at least so many: few large steps learn little
PROBE = 2  # records whose memory is measured on a CPU
SHARE = 0.5  # of the memory that is available there


def sized(
    config: TrainerSection, network: nn.Module, loss: Loss, data: PreparedDataset, world: World
) -> TrainerSection:
    """The recipe with a batch size and its learning rate.

    The rate grows with the square root of the batch for optimisers that normalise the gradient (Adam and its kin), else
    in proportion to it (Goyal et al., 2017, section 2.1); timm does the same.
    """
    limit = min(LARGEST.get(world.device.type, LARGEST_ON_GPU), max(1, len(data) // BATCHES // world.size))
    largest = 2 ** int(math.log2(limit))
    find = _by_estimate if world.device.type == "cpu" else _by_trying
    each = min(gather(find(config, network.to(world.device).train(), loss, data, world, largest), world))
    batch = each * world.size
    factor = batch * config.accumulate / BASE
    factor = math.sqrt(factor) if "ada" in config.optimizer or "lamb" in config.optimizer else factor
    rate = config.learning_rate * factor
    log.info(
        f"trainer.batch_size=auto: {batch}; trainer.learning_rate={config.learning_rate:g}, meant for {BASE}, "
        f"becomes {rate:.3g}"
    )
    return config.model_copy(update={"batch_size": batch, "learning_rate": rate})


def _step(
    config: TrainerSection, network: nn.Module, loss: Loss, data: PreparedDataset, world: World, batch: int
) -> None:
    """Forward and backward of so many records."""
    arrays, targets, _ = batch_of(data, [i % min(len(data), 8) for i in range(batch)], world.device)
    with torch.autocast(world.device.type, torch.bfloat16, enabled=uses_bf16(config, world)):
        value = loss(network(arrays), targets)
    value.backward()
    network.zero_grad(set_to_none=True)


def _by_trying(
    config: TrainerSection, network: nn.Module, loss: Loss, data: PreparedDataset, world: World, largest: int
) -> int:
    """Twice as many records each time, until they do not fit; half of what fits leaves room for the optimiser."""
    fits, batch = 1, 2
    while batch <= 2 * largest:
        try:
            _step(config, network, loss, data, world, batch)
        except (MemoryError, RuntimeError) as failure:
            if not out_of_memory(failure):
                raise
            break
        fits, batch = batch // 2, 2 * batch
    if world.device.type == "cuda":
        torch.cuda.empty_cache()
    return max(1, min(fits, largest))


def _by_estimate(
    config: TrainerSection, network: nn.Module, loss: Loss, data: PreparedDataset, world: World, largest: int
) -> int:
    """What the backward pass of a record keeps, twice (gradients), may take a share of the available memory.

    A machine that runs out of main memory ends the process, so nothing is tried.
    """
    weights = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in network.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        _step(config, network, loss, data, world, PROBE)
    each = 2 * max(1, sum(kept.values())) / PROBE
    room = SHARE * available_memory() - 4 * sum(weights.values())  # gradients, and what optimisers keep
    size: int = max(1, min(largest, 2 ** int(math.log2(max(1.0, room / each)))))
    return size


def available_memory() -> int:
    """Bytes of main memory that can be had without swapping."""
    table = Path("/proc/meminfo")
    if table.exists():
        lines = dict(line.split(":", 1) for line in table.read_text().splitlines() if ":" in line)
        return int(lines["MemAvailable"].split()[0]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2  # elsewhere: half of what there is
