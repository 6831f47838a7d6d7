"""What the machine decides: loader workers, precision, and what is said where a batch does not fit into memory."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch

from pipelines.shared.config import TrainerSection
from pipelines.shared.errors import UserError
from pipelines.shared.launch import launch
from pipelines.shared.learning.distributed import World
from pipelines.shared.screen import cpu_count


def loader_workers(config: TrainerSection, world: World) -> int:
    """`trainer.workers`, for each process; null: none on a CPU (training needs the cores), else up to 8 each."""
    if config.workers is not None:
        return config.workers
    return 0 if world.device.type == "cpu" else min(8, max(1, cpu_count() // launch().local_size - 1))


def uses_bf16(config: TrainerSection, world: World) -> bool:
    """Whether networks compute in bfloat16: `trainer.precision`, on its own only on a GPU."""
    return config.precision == "bf16" or (config.precision == "auto" and world.device.type == "cuda")


def keep_freed_memory(device: torch.device) -> None:
    """On a CPU keep the memory that tensors free in the process: the next step needs the same again.

    glibc returns large blocks to the system at once and has to have them cleared page by page when it asks anew, at
    every batch. Without that, on two cores, lite0 at 128 px answers 334 pictures a second instead of 196, ResNet-18 at
    224 px 73 instead of 64; on one, lite0 at 160 px trains 12 % more. See mallopt(3). Elsewhere (macOS, musl) nothing
    happens.
    """
    trim_threshold, mmap_max = -1, -4  # malloc.h: M_TRIM_THRESHOLD, M_MMAP_MAX
    if device.type == "cpu":
        with suppress(OSError, AttributeError):
            libc = ctypes.CDLL("libc.so.6")
            libc.mallopt(mmap_max, 0)
            libc.mallopt(trim_threshold, 2**31 - 1)


@contextmanager
def one_thread() -> Iterator[None]:
    """On a CPU, compute without dividing the work: how it is divided decides the last digits of a sum."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def batch_in_memory(config: TrainerSection, world: World) -> Iterator[None]:
    """Where a batch does not fit into the memory of GPU or machine, or the loader's workers do not, say which key to
    change.

    Raises:
        UserError: it does not, or a worker was ended by the system.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as failure:
        if str(failure).startswith("DataLoader worker (pid"):
            workers = loader_workers(config, world)
            raise UserError(
                f"The system ended one of {workers} processes that load the batches, as it does when memory runs out "
                "(in a container also that of /dev/shm).",
                f"Start it again, with fewer of them: trainer.workers={workers // 2}.",
            ) from None
        if not out_of_memory(failure):
            raise
        remedy = "Take smaller records (preprocess), a smaller network, or another trainer.device."
        if config.batch_size > world.size:
            half, twice = config.batch_size // 2, 2 * config.accumulate
            remedy = (
                f"Halve it: trainer.batch_size={half}; with trainer.accumulate={twice} a step sees as many records."
            )
        raise UserError(
            f"trainer.batch_size={config.batch_size} does not fit into the memory of {world.device}.", remedy
        ) from None


def out_of_memory(failure: Exception) -> bool:
    """Whether an allocation failed."""
    text = str(failure)
    words = ("DefaultCPUAllocator", "out of memory", "not enough memory")  # of CPU, Apple's GPU and CUDA's libraries
    return isinstance(failure, (MemoryError, torch.OutOfMemoryError)) or any(word in text for word in words)
