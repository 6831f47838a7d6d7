"""The only place that knows ranks. Without torchrun or SLURM everything here is the case of one process."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed as dist
from torch import nn

from pipelines.shared.errors import ConfigError


@dataclass(frozen=True)
class World:
    """This process among all processes of the run."""

    rank: int
    size: int
    device: torch.device

    @property
    def main(self) -> bool:
        """Whether this process writes the run folder."""
        return self.rank == 0


def start(device: str) -> World:
    """Join the process group that torchrun (or SLURM's variables) announced, and pick this process's device.

    Args:
        device: `trainer.device`: auto, cpu, cuda or cuda:<n>.

    Raises:
        ConfigError: a device that this machine does not have.
    """
    size, rank, local = (int(os.environ.get(k, d)) for k, d in (("WORLD_SIZE", 1), ("RANK", 0), ("LOCAL_RANK", 0)))
    chosen = _device(device, local)
    if size > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo", rank=rank, world_size=size)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    return World(rank, size, chosen)


def _device(name: str, local: int) -> torch.device:
    if name == "auto":
        return torch.device("cuda", local) if torch.cuda.is_available() else torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"trainer.device={name} is no device.", "Allowed: auto, cpu, cuda, cuda:<number>.") from None
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if (device.index or 0) >= max(count, 1) or not torch.cuda.is_available():
            raise ConfigError(f"trainer.device={name}: this machine has {count} GPUs.", "Use trainer.device=auto.")
        return torch.device("cuda", local if device.index is None else device.index)
    if device.type != "cpu":
        raise ConfigError(f"trainer.device={name} is not supported.", "Allowed: auto, cpu, cuda, cuda:<number>.")
    return device


def wrap(model: nn.Module, world: World) -> nn.Module:
    """The model as the loop calls it: DistributedDataParallel where there are several processes."""
    if world.size == 1:
        return model
    ids = [world.device.index] if world.device.type == "cuda" else None
    return nn.parallel.DistributedDataParallel(model, device_ids=ids)


def gather(value: Any, world: World) -> list[Any]:
    """The value of every process, on every process, in order of rank."""
    if world.size == 1:
        return [value]
    values: list[Any] = [None] * world.size
    dist.all_gather_object(values, value)
    return values


def barrier(world: World) -> None:
    """Wait for all processes."""
    if world.size > 1:
        dist.barrier()
