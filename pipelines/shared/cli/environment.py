"""What a run was made with: environment.json, and the time its stages took."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, cast

from filelock import FileLock, Timeout

import pipelines
from pipelines.shared.config import in_checkout
from pipelines.shared.errors import ConfigError, RunError
from pipelines.shared.job import Job
from pipelines.shared.launch import launch, slurm_job
from pipelines.shared.log import log, log_failure, start_log
from pipelines.shared.mode import modes_of
from pipelines.shared.pretrained import notice_of
from pipelines.shared.run import Run
from pipelines.shared.run_folder import RunFolder, read_json, write_json
from pipelines.shared.study import C, Study

PACKAGES = ["torch", "timm", "albumentations", "numpy", "pandas", "scikit-learn", "pydicom", "openslide-python", "wfdb"]


def start(study: Study[C], job: Job) -> Run[C]:
    """Begin a run folder (or go on with one): other processes, log, configuration, environment, device, determinism.

    The main process decides on the folder and writes it; the others learn its path.

    Raises:
        RunError: another run is writing there.
        ConfigError: its tracker cannot begin.
    """
    import torch

    from pipelines.shared.handover.tracking import open_tracker
    from pipelines.shared.learning import distributed

    start_log(None, quiet=launch().rank > 0)
    one_process = modes_of(job.config.study)[job.config.mode].one_process
    world = distributed.start(job.config.trainer.device, alone=one_process)
    folder = RunFolder(distributed.gather(job.run_dir, world)[0])
    if world.main:
        claim(folder)
        # The configuration comes first: a run that is cut off after it can be resumed, one before it started again.
        if not folder.config.exists():
            folder.write_config(job.config.model_dump())
        if not folder.environment.exists():
            write_json(folder.environment, _describe(job))
        start_log(folder.path)
        log.info(f"run folder: {folder.path}")
        notice = notice_of(Path(job.config.run)) if job.config.run else None
        if notice is not None:
            log.warning(notice)
        names = {"cpu": "CPU", "mps": "Apple GPU"}
        device = names.get(world.device.type) or torch.cuda.get_device_name(world.device)
        if world.size > 1:
            device = f"{world.size} processes, {device}"
            log.info(device)
        elif int(os.environ.get("SLURM_NTASKS", "1")) > 1 and not one_process:
            log.warning(f"SLURM allots {os.environ['SLURM_NTASKS']} tasks, but only one was started: use srun.")
        write_json(folder.environment, read_environment(folder) | {"device": device})
    # cuDNN is not told to try its kernels out (cudnn.benchmark): on an H200 that took half a minute for lite0 and more
    # than two for head CT, and again for every other size of picture or batch.
    if job.config.trainer.compile:
        torch.use_deterministic_algorithms(job.config.trainer.deterministic, warn_only=True)  # the compiler's too
    else:  # the same without importing the compiler, which takes two seconds
        torch.set_deterministic_debug_mode("warn" if job.config.trainer.deterministic else "default")
    # Deterministic kernels need no memory filled before they write it; that costs a sixth of a training step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a property of the module
    tracker = open_tracker(job.config, folder, job.sweep) if world.main else None
    return Run(study, cast(C, job.config), folder, world, tracker=tracker)


_claims: list[FileLock] = []  # the lock of the folder that this process writes, held until the next job or the end


def claim(folder: RunFolder) -> None:
    """Make a run folder and be the only one to write there, until the next job of this process or its end.

    Raises:
        ConfigError: it cannot be made or written.
        RunError: another process writes there.
    """
    while _claims:
        _claims.pop().release()
    lock = FileLock(folder.path / ".lock")
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except Timeout:
        raise RunError(
            f"run_dir={folder.path}: another run is writing there at this moment.",
            "Wait until it has ended; a new run may take another run_dir. Processes that should work together are "
            "started by torchrun or srun.",
        ) from None
    except OSError as failure:
        raise ConfigError(
            f"run_dir={folder.path} cannot be written: {failure.strerror}.",
            "Choose another place for a new run: run_dir=<folder>. One that is there already can be copied.",
        ) from None
    _claims.append(lock)
    for leftover in folder.path.rglob("*.tmp"):  # of a process that was killed while it wrote
        leftover.unlink()


def read_environment(folder: RunFolder) -> dict[str, Any]:
    """environment.json."""
    content: dict[str, Any] = read_json(folder.environment)
    return content


@contextmanager
def stage(run: Run[Any], name: str) -> Iterator[None]:
    """Add the seconds of a stage to environment.json (a resumed stage adds up); run.log and tracker note a failure."""
    began = time.monotonic()
    try:
        yield
    except Exception as failure:
        log_failure(f"{name}: {type(failure).__name__}: {failure}")
        if run.tracker is not None:
            run.tracker.fail()
        raise
    if not run.world.main:
        return
    content = read_environment(run.folder)
    content["seconds"][name] = round(content["seconds"].get(name, 0.0) + time.monotonic() - began, 2)
    write_json(run.folder.environment, content)


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
        "slurm_job": slurm_job(),
        "commit": _commit(),
        "machine": f"Python {platform.python_version()} on {platform.system()} {platform.machine()}",
        "seed": job.config.seed,
        "packages": packages,
        "seconds": {},
    }


def _commit() -> str | None:
    """The checkout's commit, with + if there are uncommitted changes; None outside a checkout."""
    if not in_checkout():  # what git says there would be of a repository that the environment happens to lie in
        return None
    here = str(Path(__file__).resolve().parent)

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", here, *arguments], capture_output=True, text=True, timeout=5, check=True)
        return done.stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain") else "")
    except (OSError, subprocess.SubprocessError):
        return None
