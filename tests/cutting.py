"""Runs that are killed at a chosen moment, as a power cut would, in processes that have torch loaded already.

Drawing is most of a report's time, so these runs draw no figures (each is one grey pixel) unless they are asked to.
"""

from __future__ import annotations

import faulthandler
import importlib
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from conftest import REPOSITORY, forget_the_disk

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "torch",
        "timm",
        "albumentations",
        "hydra",
        "pipelines.shared.cli.modes",
        "pipelines.shared.judging.figures",
        "pipelines.shared.learning.method",
        "pipelines.shared.learning.saliency",
        "pipelines.shared.learning.augment",
        "pipelines.shared.learning.backbones",
        "sklearn.manifold",
        "pytest",  # the rest is what every module of tests imports
        "hypothesis",
        "xdist.scheduler",
    ]
)

# A retinopathy run of seconds, with all that a checkpoint must hold.
TINY = [
    "model.backbone=test_efficientnet", "model.weights=none",  # a checkpoint of it is written in a quarter of the time
    "data.phantom.patients=60", "data.phantom.size=96", "preprocess.size=32", "trainer.batch_size=8",
    "trainer.epochs=5", "trainer.patience=2", "trainer.ema_decay=0.9", "trainer.checkpoint_seconds=0.000001",
    "explain.scored=0", "statistics.resamples=100",
]  # fmt: skip

# moment -> module, attribute, whether the power goes before, within (a file half written) or after the n-th call
MOMENTS = {
    "preparing the cache": ("pipelines.shared.data.cache", "write_atomically", "within"),
    "inside an epoch": ("pipelines.shared.learning.trainer", "_Training._step", "before"),
    "writing a checkpoint": ("pipelines.shared.learning.checkpoint", "write_atomically", "within"),
    "validating": ("pipelines.shared.learning.method", "predict", "before"),
    "between epochs": ("pipelines.shared.learning.trainer", "_Training.close_epoch", "after"),
    "writing the weights": ("pipelines.shared.learning.model_files", "write_atomically", "within"),
    "writing a heatmap": ("pipelines.camelyon.heatmap", "write_atomically", "within"),
    "writing predictions": ("pipelines.shared.run_folder", "RunFolder.write_table", "before"),
}


def run(
    study: str,
    arguments: list[str],
    output: Path,
    cut: tuple[str, int] | None = None,
    folder: Path = REPOSITORY,
    **environment: str,
) -> int:
    """The exit status of `python -m pipelines.<study> arguments`; with `cut` it is killed at the n-th such moment."""
    return finish(start(study, arguments, output, cut, folder, None, **environment))


def answer(study: str, *arguments: str, draws: bool = False) -> subprocess.CompletedProcess[str]:
    """The same with what it printed; seconds faster than a process that has yet to load torch."""
    with tempfile.TemporaryDirectory() as place:
        output, errors = Path(place, "output"), Path(place, "errors")
        errors.touch()
        status = finish(start(study, list(arguments), output, errors=errors, draws=draws))
        return subprocess.CompletedProcess(arguments, status, output.read_text(), errors.read_text())


def together(study: str, *arguments: str, processes: int = 2) -> subprocess.CompletedProcess[str]:
    """The same as one run by several processes, each told its place as torchrun tells it."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        world = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(probe.getsockname()[1]), "WORLD_SIZE": str(processes)}
    with tempfile.TemporaryDirectory() as place:
        output, errors = Path(place, "output"), Path(place, "errors")
        errors.touch()
        started = [
            start(study, list(arguments), output, errors=errors, **world, RANK=str(rank), LOCAL_RANK=str(rank))
            for rank in range(processes)
        ]
        status = max(abs(finish(process)) for process in started)
        return subprocess.CompletedProcess(arguments, status, output.read_text(), errors.read_text())


def start(
    study: str,
    arguments: list[str],
    output: Path,
    cut: tuple[str, int] | None = None,
    folder: Path = REPOSITORY,
    errors: Path | None = None,
    draws: bool = False,
    **environment: str,
) -> multiprocessing.process.BaseProcess:
    """The same, not waited for."""
    output.touch()
    process = CONTEXT.Process(
        target=_child, args=(study, arguments, output, errors or output, cut, folder, draws, environment)
    )
    process.start()
    return process


def finish(process: multiprocessing.process.BaseProcess) -> int:
    """Wait for a run; its exit status."""
    process.join(timeout=300)
    if process.exitcode is None:
        os.kill(process.pid or 0, signal.SIGABRT)  # its faulthandler says where it hangs
        process.join(timeout=5)
        process.kill()
        raise AssertionError("the run hangs: see its output")
    return process.exitcode


def _child(
    study: str,
    arguments: list[str],
    output: Path,
    errors: Path,
    cut: tuple[str, int] | None,
    folder: Path,
    draws: bool,
    environment: dict[str, str],
) -> None:
    os.chdir(folder)
    os.environ |= environment
    forget_the_disk()
    multiprocessing.set_start_method("fork", force=True)  # for loader workers, as in a run from the command line
    for file, descriptor in ((output, 1), (errors, 2)):
        with file.open("a") as text:
            os.dup2(text.fileno(), descriptor)
    faulthandler.enable()
    if cut is not None:
        _arrange(*cut)
    if not draws:
        from pipelines.shared.judging.figures import style

        style._pixels = no_pixels
    from pipelines.shared.cli.app import main

    sys.argv = [study, *arguments]
    main(study)


def no_pixels(figure: object) -> np.ndarray:
    """In place of a drawn figure."""
    return np.full((1, 1, 3), 128, np.uint8)


def _arrange(moment: str, nth: int) -> None:
    module, attribute, when = MOMENTS[moment]
    owner: Any = importlib.import_module(module)
    *path, name = attribute.split(".")
    for part in path:
        owner = getattr(owner, part)
    original, calls = getattr(owner, name), 0

    def cut(*arguments: Any, **keywords: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls != nth:
            return original(*arguments, **keywords)
        if when == "after":
            original(*arguments, **keywords)
        if when == "within":
            file, write = arguments
            return original(file, lambda aside: _half(aside, write))
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(owner, name, cut)


def _half(aside: Path, write: Callable[[Path], object]) -> None:
    write(aside)
    os.truncate(aside, aside.stat().st_size // 2)
    os.kill(os.getpid(), signal.SIGKILL)
