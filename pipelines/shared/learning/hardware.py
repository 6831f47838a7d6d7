"""What the machine decides: loader workers and precision."""

from __future__ import annotations

from pipelines.shared.config import TrainerSection
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
