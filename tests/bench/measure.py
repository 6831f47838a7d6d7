"""What the benches of all studies share: times, memory, and the trainer against a bare loop."""

from __future__ import annotations

import ctypes
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from pipelines.shared.learning.learner import Learner

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests")]

from pipelines.shared.data.assemble import training_data  # noqa: E402
from pipelines.shared.learning.dataset import EpochBatches, Loader, PreparedDataset  # noqa: E402
from pipelines.shared.learning.distributed import World  # noqa: E402
from pipelines.shared.learning.hardware import keep_freed_memory  # noqa: E402
from pipelines.shared.learning.trainer import _Training  # noqa: E402
from pipelines.shared.study import Data, Study  # noqa: E402

ROUNDS = 5
WORLD = World(0, 1, torch.device("cpu"))
Row = dict[str, Any]


def seconds(function: Callable[[], Any]) -> float:
    """Wall time of one call."""
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def command_seconds(command: Sequence[str], status: int = 0) -> float:
    """Median wall time of a command that ends with this exit status, three runs after a warm-up."""

    def run() -> None:
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
        assert done.returncode == status, f"{done.returncode}, not {status}: {done.stderr[-2000:]}"

    return statistics.median([seconds(run) for _ in range(4)][1:])


def command_peak_mb(command: Sequence[str]) -> float:
    """Peak resident memory of a command's largest process, in MB.

    Asked of a small process in between: a child's peak begins with the memory of the process that started it.
    """
    code = (
        "import resource, subprocess, sys\n"
        "subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True)\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *command], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    return int(done.stdout) / 1024


def training_data_of(learner: Learner[Any], data: Data) -> PreparedDataset:
    """The augmented training records."""
    at = data.positions("train")
    ids, targets = data.records["id"].to_numpy()[at], learner.targets(data.records)[at]
    return PreparedDataset(data.prepared.take(at), ids, targets, learner.augment(), 0)


def usual_memory() -> None:
    """glibc's way with freed memory where nobody asked for another: the thresholds that it soon reaches by itself."""
    mmap_threshold, trim_threshold, mmap_max = -3, -1, -4  # malloc.h; 32 MiB is M_MMAP_THRESHOLD's dynamic maximum
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(mmap_threshold, 32 << 20)
        libc.mallopt(trim_threshold, 64 << 20)
        libc.mallopt(mmap_max, 65536)


def training_row(
    what: str,
    learner: Learner[Any],
    dataset: PreparedDataset,
    inputs: torch.Tensor,
    answers: torch.Tensor,
    forward: Callable[[Any, torch.Tensor], torch.Tensor] = lambda network, inputs: network(inputs),
) -> Row:
    """Records per second of the trainer over those of a bare loop, both in turn in one process.

    As in every run the trainer keeps freed memory; the bare loop's goes back to the system as it does anywhere.

    Args:
        what: of the row.
        learner: whose network and loss are used; its configuration is the recipe, `trainer.max_steps` steps a round.
        dataset: the training records, augmented.
        inputs: one batch as the network's first layer takes it: resident, random, scaled already.
        answers: its targets.
        forward: how the bare loop calls the network on these.
    """
    config, network, loss = learner.config, learner.build(), learner.loss()
    file = Path(tempfile.mkdtemp()) / "never.pt"
    run = _Training(network, loss, dataset, config.trainer, "bench", 0, WORLD, file, {})
    steps = run.batches

    def pipeline() -> None:
        keep_freed_memory(WORLD.device)
        run.progress.epoch, run.progress.batch = run.progress.epoch + 1, 0
        run.train_epoch()

    bare_network: nn.Module = learner.build()
    optimizer = torch.optim.AdamW(bare_network.parameters(), lr=1e-3)

    def bare() -> None:
        usual_memory()
        bare_network.train()
        for _ in range(steps):
            loss(forward(bare_network, inputs), answers).backward()
            optimizer.step()
            optimizer.zero_grad()

    pipeline(), bare()
    pairs = [(seconds(bare), seconds(pipeline)) for _ in range(ROUNDS)]
    records = steps * config.trainer.batch_size
    return {
        "what": what,
        "ratio": statistics.median(b / p for b, p in pairs),
        "ours": f"{records / statistics.median(p for _, p in pairs):.1f} records/s",
        "reference": f"bare loop {records / statistics.median(b for b, _ in pairs):.1f} records/s",
        "note": f"{config.study} trains with " + ", ".join(f"{k} {v}" for k, v in config.augment if v),
    }


def loader_row(what: str, study: Study[Any], learner: Learner[Any], cached: PreparedDataset) -> Row:
    """Records per second of the loader alone, augmenting, in one process: prepared cache over cache=off."""
    config = learner.config
    off = config.model_copy(update={"cache": config.cache.model_copy(update={"enabled": False})})
    streamed = training_data_of(learner, training_data(study, off))
    with_cache, without = (_loader_speed(d, config.trainer.batch_size) for d in (cached, streamed))
    return {
        "what": f"{what}, loader alone",
        "ratio": with_cache / without,
        "ours": f"cache {with_cache:.0f} records/s",
        "reference": f"cache=off {without:.0f} records/s",
    }


def _loader_speed(dataset: PreparedDataset, batch: int) -> float:
    order, load = EpochBatches(len(dataset), batch, 0, 0), Loader(dataset)
    return len(order) * batch / float(np.median([seconds(lambda: list(load(order))) for _ in range(3)]))
