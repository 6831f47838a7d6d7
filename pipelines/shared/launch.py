"""Which process of how many this is, and which scheduler's job, as the environment says. Imports no torch.

torchrun announces itself with WORLD_SIZE, RANK and LOCAL_RANK; SLURM's srun with SLURM_STEP_NUM_TASKS and SLURM_PROCID.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from pipelines.shared.errors import ConfigError


@dataclass(frozen=True)
class Launch:
    """This process among all started together: `rank` of `size`, on its machine `local_rank` of `local_size`."""

    rank: int
    size: int
    local_rank: int
    local_size: int


ALONE = Launch(rank=0, size=1, local_rank=0, local_size=1)


def launch() -> Launch:
    """What the launcher announced; one process where nothing did.

    Raises:
        ConfigError: half an announcement, or a launcher that is not supported: each of its processes would run the
            whole study alone and overwrite the others.
    """
    size = processes()
    if size > 1 and "WORLD_SIZE" in os.environ:
        return Launch(_number("RANK"), size, _number("LOCAL_RANK"), _number("LOCAL_WORLD_SIZE", size))
    if size > 1:
        local_size = -(-size // _number("SLURM_STEP_NUM_NODES", 1))
        return Launch(_number("SLURM_PROCID"), size, _number("SLURM_LOCALID"), local_size)
    for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE"):
        if _number(name, 1) > 1:
            raise ConfigError(
                f"{name}={os.environ[name]}: mpirun started several processes, and each would run the study alone.",
                "Start them with torchrun or with SLURM's srun.",
            )
    return ALONE


def processes() -> int:
    """How many processes torchrun or srun announced."""
    return _number("WORLD_SIZE", 0) or _number("SLURM_STEP_NUM_TASKS", 1)


def _number(name: str, default: int | None = None) -> int:
    text = os.environ.get(name, default)
    try:
        return int(text)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        found = "is not set" if text is None else f"is '{text}', not a number"
        raise ConfigError(
            f"Several processes were announced, but {name} {found} in the environment.",
            "Start them with torchrun or with SLURM's srun, which set it.",
        ) from None


def slurm_job() -> str | None:
    """The identity of this SLURM job, which a requeue keeps; None outside SLURM."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ.get('SLURM_ARRAY_TASK_ID')}" if array else os.environ.get("SLURM_JOB_ID")


def requeued() -> bool:
    """Whether SLURM has started this job before."""
    return _number("SLURM_RESTART_COUNT", 0) > 0
