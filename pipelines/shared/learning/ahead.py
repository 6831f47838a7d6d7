"""What a GPU needs next is copied to it while it computes, and what it has answered, while it goes on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import TypeVar

import torch

T = TypeVar("T", bound=tuple[object, ...])


def made_ahead(items: Iterable[T], device: torch.device) -> Iterator[T]:
    """The items, each made one before it is asked for, on a stream of its own; elsewhere than on a GPU as they come.

    Args:
        items: tuples, made as they are taken; their tensors come to `device` from pinned memory, without waiting.
        device: where the tensors are computed with.
    """
    if device.type != "cuda":
        yield from items
        return
    stream = _stream(device)
    ready: deque[tuple[T, torch.cuda.Event]] = deque()

    def taken() -> T:
        item, made = ready.popleft()
        now = torch.cuda.current_stream(device)
        now.wait_event(made)
        for part in item:
            if isinstance(part, torch.Tensor) and part.device.type == "cuda":
                part.record_stream(now)  # its memory is not given away before the computation is done with it
        return item

    coming = iter(items)
    while True:
        with torch.cuda.stream(stream):
            item = next(coming, None)
            if item is None:
                break
            ready.append((item, stream.record_event()))
        if len(ready) == 2:
            yield taken()
    while ready:
        yield taken()


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """One for the whole process: memory that is free on one stream is not given to another."""
    return torch.cuda.Stream(device)


def sent(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The values on a device; it is not waited until a GPU has them, nor for what it is at."""
    return values.to(device, non_blocking=device.type == "cuda")


def arriving(values: torch.Tensor) -> Callable[[], torch.Tensor]:
    """Begin to copy values to main memory.

    Returns:
        A function that waits for them, and not for what was launched after them.
    """
    on_gpu = values.device.type == "cuda"
    there = values.to("cpu", non_blocking=on_gpu)
    arrived = torch.cuda.current_stream(values.device).record_event() if on_gpu else None

    def wait() -> torch.Tensor:
        if arrived is not None:
            arrived.synchronize()
        return there

    return wait
