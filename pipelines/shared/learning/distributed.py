"""The only place that talks to other processes. Without torchrun or srun everything here is the case of one process."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

import torch
from torch import distributed as dist
from torch import nn

from pipelines.shared.errors import ConfigError
from pipelines.shared.job import EXIT_MISTAKE
from pipelines.shared.launch import ALONE, Launch, launch
from pipelines.shared.learning.ahead import arriving

DEVICES = "auto, cpu, cuda, cuda:<number>, mps"
JOIN_TIMEOUT = timedelta(minutes=5)
# Process 0 may prepare data for hours while the others wait; the launcher ends them if it dies.
WAIT_TIMEOUT = timedelta(days=7)


@dataclass(frozen=True)
class World:
    """This process among all processes of the run.

    Attributes:
        rank: its number, from 0.
        size: how many there are.
        device: its own.
        joined: whether they can talk to each other; one process alone need not, and talks to itself if it does.
    """

    rank: int
    size: int
    device: torch.device
    joined: bool = False

    @property
    def main(self) -> bool:
        """Whether this process writes the run folder."""
        return self.rank == 0


def start(device: str, alone: bool = False) -> World:
    """Join the processes that torchrun or srun started together, and pick this process's device.

    Args:
        device: `trainer.device`: auto (a GPU of CUDA, else the CPU), cpu, cuda, cuda:<n>, or mps: Apple's GPU, which
            is not chosen by itself, as nobody has tried it.
        alone: this process does all the work, whatever was started.

    Raises:
        ConfigError: a device that this machine does not have, or fewer processes came than were announced.
    """
    here = ALONE if alone else launch()
    chosen = _device(device, here.local_rank)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if here.size > 1 and not dist.is_initialized():
        _join(here, chosen)
    return World(here.rank, here.size, chosen, joined=here.size > 1)


def _join(here: Launch, device: torch.device) -> None:
    if "MASTER_ADDR" not in os.environ:  # torchrun sets it, srun does not
        os.environ["MASTER_ADDR"] = _first_host()
        os.environ["MASTER_PORT"] = str(20_000 + int(os.environ.get("SLURM_JOB_ID", "0")) % 20_000)
    try:
        store, _, _ = next(iter(dist.rendezvous("env://", here.rank, here.size, timeout=JOIN_TIMEOUT)))
        store.set(f"joined/{here.rank}", "")
        store.wait([f"joined/{rank}" for rank in range(here.size)], JOIN_TIMEOUT)
    except (RuntimeError, ValueError) as failure:
        reason = (str(failure) or type(failure).__name__).splitlines()[0].rstrip(".")
        raise ConfigError(
            f"{here.size} processes were announced, but they did not all meet at {os.environ['MASTER_ADDR']}:"
            f"{os.environ.get('MASTER_PORT')} within {JOIN_TIMEOUT.total_seconds():.0f} s: {reason}.",
            "Start all of them with one torchrun per machine (same --nnodes, --rdzv-endpoint) or one srun.",
        ) from None
    store.set_timeout(WAIT_TIMEOUT)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=here.rank, world_size=here.size, timeout=WAIT_TIMEOUT)


def _first_host() -> str:
    nodes = os.environ.get("SLURM_STEP_NODELIST", "localhost")
    if "[" not in nodes:
        return nodes.split(",")[0]
    names = subprocess.run(["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True)
    return names.stdout.split()[0]


def _device(name: str, local: int) -> torch.device:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    index = local % max(count, 1)  # SLURM may show each process its own GPU only
    if name == "auto":
        return torch.device("cuda", index) if count else torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"trainer.device={name} is no device.", f"Allowed: {DEVICES}.") from None
    if device.type == "cuda":
        if (device.index or 0) >= count:
            raise ConfigError(f"trainer.device={name}: this machine has {count} GPUs.", "Use trainer.device=auto.")
        return torch.device("cuda", index if device.index is None else device.index)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError(f"trainer.device={name}: torch finds no Apple GPU here.", "Use trainer.device=auto.")
    if device.type == "mps" and launch().size > 1:
        raise ConfigError(f"trainer.device={name} is for one process.", "Start it without torchrun or srun.")
    if device.type not in ("cpu", "mps"):
        raise ConfigError(f"trainer.device={name} is not supported.", f"Allowed: {DEVICES}.")
    return device


def wrap(model: nn.Module, world: World, compiled: bool = False) -> nn.Module:
    """The model as the loop calls it: DistributedDataParallel where there are several processes, and compiled.

    On a GPU a compiled model's launches are replayed as CUDA graphs, which small batches gain most from. Its parameters
    are those of `model`, under their own names.
    """
    if world.joined:
        ids = [world.device.index] if world.device.type == "cuda" else None
        model = nn.parallel.DistributedDataParallel(model, device_ids=ids)
    if not compiled:
        return model
    graphs = world.device.type == "cuda" and not world.joined
    return cast(nn.Module, torch.compile(model, mode="reduce-overhead" if graphs else "default"))


def gather(value: Any, world: World) -> list[Any]:
    """The value of every process, on every process, in order of rank."""
    if not world.joined:
        return [value]
    values: list[Any] = [None] * world.size
    dist.all_gather_object(values, value)
    return values


def agreement(loss: torch.Tensor, stop: bool, world: World) -> Callable[[], tuple[float, float, bool]]:
    """Begin to exchange a step's loss and whether this process was asked to stop; one exchange per step.

    On a GPU nothing waits before the function that is returned is called: what is launched in between, above all the
    backward pass, runs meanwhile.

    Returns:
        A function that waits for: this process's loss, the mean of all processes, whether any was asked to stop.
    """
    value = loss.detach().to(torch.float32 if world.device.type == "mps" else torch.float64)  # which mps lacks
    values = torch.stack([value, value, torch.full_like(value, float(stop))])
    if world.joined:
        dist.all_reduce(values[1:])
    arrived = arriving(values)

    def wait() -> tuple[float, float, bool]:
        own, total, stops = arrived().tolist()
        return own, total / world.size, stops > 0

    return wait


def copy_from_main(model: nn.Module, world: World) -> None:
    """Give every process the main one's weights and buffers (batch norm's differ, each saw its own records)."""
    if world.joined:
        for tensor in model.state_dict().values():
            dist.broadcast(tensor, 0)


def barrier(world: World) -> None:
    """Wait for all processes."""
    if world.joined:
        dist.barrier()


@contextmanager
def main_first(world: World) -> Iterator[None]:
    """The main process runs the block, then the others do, and find on disk what it made.

    If it fails, the others end quietly with its exit status: its message is enough.
    """
    if not world.main:
        status = gather(None, world)[0]
        if status is not None:
            raise SystemExit(status)
        yield
        return
    status = None
    try:
        yield
    except BaseException as failure:
        status = failure.code if isinstance(failure, SystemExit) else EXIT_MISTAKE
        raise
    finally:
        gather(status, world)
