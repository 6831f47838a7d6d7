"""What a run was made with: environment.json, and the time its stages took."""

from __future__ import annotations

import platform
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pipelines
from pipelines.shared.job import Job
from pipelines.shared.log import log, log_failure, start_log
from pipelines.shared.run_folder import RunFolder, read_json, write_json

if TYPE_CHECKING:
    from pipelines.shared.distributed import World

PACKAGES = ["torch", "timm", "albumentations", "numpy", "pandas", "scikit-learn", "pydicom", "openslide-python"]


def start(title: str, job: Job, folder: RunFolder) -> World:
    """Begin a run folder (or go on with one): log, configuration, environment, torch's device and determinism."""
    start_log(folder.path)
    log.info(f"{title}\nrun folder: {folder.path}")
    if not job.resuming:
        folder.write_config(job.config.model_dump())
        write_json(folder.environment, _describe(job))

    import torch

    from pipelines.shared import distributed

    world = distributed.start(job.config.trainer.device)
    torch.backends.cudnn.benchmark = not job.config.trainer.deterministic
    torch.use_deterministic_algorithms(job.config.trainer.deterministic, warn_only=True)
    content = read_environment(folder)
    content["device"] = torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else "CPU"
    write_json(folder.environment, content)
    return world


def read_environment(folder: RunFolder) -> dict[str, Any]:
    """environment.json."""
    content: dict[str, Any] = read_json(folder.environment)
    return content


@contextmanager
def stage(folder: RunFolder, name: str) -> Iterator[None]:
    """Add the seconds of a stage to environment.json (a resumed stage adds up); a failure is noted in run.log."""
    began = time.monotonic()
    try:
        yield
    except Exception as failure:
        log_failure(f"{name}: {type(failure).__name__}: {failure}")
        raise
    content = read_environment(folder)
    content["seconds"][name] = round(content["seconds"].get(name, 0.0) + time.monotonic() - began, 2)
    write_json(folder.environment, content)


def _describe(job: Job) -> dict[str, Any]:
    packages = {}
    for name in PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "version": f"imaging-pipelines {pipelines.__version__}",
        "command": job.command,
        "commit": _commit(),
        "machine": f"Python {platform.python_version()} on {platform.system()} {platform.machine()}",
        "seed": job.config.seed,
        "packages": packages,
        "seconds": {},
    }


def _commit() -> str | None:
    """The checkout's commit, with + if there are uncommitted changes; None outside a checkout."""
    here = str(Path(__file__).resolve().parent)

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", here, *arguments], capture_output=True, text=True, timeout=5, check=True)
        return done.stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain") else "")
    except (OSError, subprocess.SubprocessError):
        return None
