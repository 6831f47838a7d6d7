"""One network on this machine: parameters, multiply-adds, speed and memory of training and inference."""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pipelines.shared.learning.backbones import Architecture, ImageNetwork, expected_scale


@dataclass(frozen=True)
class Task:
    """What to measure: pictures of `size` pixels in batches, about `seconds` for each speed, on a device of torch."""

    name: str
    size: int
    batch: int
    seconds: float
    device: str
    training: bool
    classes: int


def measure(task: Task) -> dict[str, Any]:
    """Measure one network. Peak memory is that of the process, so each measurement needs a process of its own.

    Returns:
        name, size, batch, parameters, multiply_adds (of one picture), inference_per_s, training_per_s (pictures;
        training is forward, backward and a step of SGD with momentum in float32), inference_mb, training_mb (above what
        the process held before; on a GPU, what was allocated there), problem (None, or why it cannot be run).
    """
    measured: dict[str, Any] = {"name": task.name, "size": task.size, "batch": task.batch, "problem": None}
    device = torch.device(task.device)
    torch.manual_seed(0)
    before = _resident_mb()
    network = ImageNetwork(Architecture(task.name, task.classes, 0.0, *expected_scale(task.name))).to(device)
    measured["parameters"] = sum(p.numel() for p in network.parameters())
    pictures = torch.randint(0, 256, (task.batch, task.size, task.size, 3), dtype=torch.uint8, device=device)
    answers = torch.randint(0, task.classes, (task.batch,), device=device)
    try:
        measured["multiply_adds"] = multiply_adds(network, pictures[:1])
        _forget_peak(device)
        network.eval()

        def infer() -> None:
            with torch.inference_mode():
                network(pictures)

        measured["inference_per_s"] = task.batch * _rate(infer, task.seconds, device)
        measured["inference_mb"] = _peak_mb(device) - (0 if device.type == "cuda" else before)
        if task.training:
            network.train()
            optimizer = torch.optim.SGD(network.parameters(), lr=1e-4, momentum=0.9)

            def step() -> None:
                nn.functional.cross_entropy(network(pictures), answers).backward()
                optimizer.step()
                optimizer.zero_grad()

            _forget_peak(device)
            measured["training_per_s"] = task.batch * _rate(step, task.seconds, device)
            measured["training_mb"] = _peak_mb(device) - (0 if device.type == "cuda" else before)
    except (RuntimeError, ValueError) as failure:  # too small a picture for its strides, or not enough memory
        measured["problem"] = (str(failure) or type(failure).__name__).splitlines()[0]
    return measured


def multiply_adds(network: nn.Module, pictures: torch.Tensor) -> int:
    """Multiply-adds of the convolutions and matrix products for a batch; torch counts two operations each."""
    network.eval()
    with torch.inference_mode(False), torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(pictures)
    counted: int = counter.get_total_flops() // 2
    return counted


def _rate(work: Any, seconds: float, device: torch.device) -> float:
    """Calls per second: the median of single calls after a first one that is not counted; at least three calls."""
    work()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return 1 / sorted(times)[len(times) // 2]


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    marks = Path("/proc/self/clear_refs")
    if marks.exists():
        marks.write_text("5")  # Linux: the peak starts anew from what is resident now


def _peak_mb(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    return _status_mb("VmHWM")


def _resident_mb() -> float:
    return _status_mb("VmRSS")


def _status_mb(key: str) -> float:
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith(f"{key}:"))
        return int(line.split()[1]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # bytes on macOS; the peak so far
