"""What appears on the screen: progress bars, and work spread over processes."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pipelines.shared.errors import UserError
from pipelines.shared.launch import launch

Item = TypeVar("Item")
Result = TypeVar("Result")


def cpu_count() -> int:
    """Processors that this process may use (a container or a scheduler may allow fewer than exist).

    PYTHON_CPU_COUNT overrides it, as in Python 3.13.
    """
    given = os.environ.get("PYTHON_CPU_COUNT", "")
    if given.isdecimal() and int(given):
        return int(given)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def print_path(path: Path) -> None:
    """Print where something was written, a line of its own; in most terminals a link that opens it."""
    text = str(path)
    if sys.stdout.isatty() and os.environ.get("TERM", "") not in ("", "dumb"):
        # With the machine's name, so that a terminal that shows another machine does not look on its own.
        link = path.resolve().as_uri().replace("file://", f"file://{socket.gethostname()}", 1)
        text = f"\033]8;;{link}\033\\{text}\033]8;;\033\\"
    print(text, flush=True)


def progress_bar() -> Progress:
    """A rich progress bar on standard error; silent when that is no terminal, in all processes but the first, and off
    the main thread, where a service works.
    """
    console = Console(stderr=True)
    silent = not console.is_terminal or launch().rank > 0 or threading.current_thread() is not threading.main_thread()
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        disable=silent,
        transient=True,
    )


def track(items: Iterable[Item], description: str, total: int | None = None) -> Iterator[Item]:
    """Iterate with a progress bar."""
    if total is None and isinstance(items, Sequence):
        total = len(items)
    with progress_bar() as bar:
        task = bar.add_task(description, total=total, note="")
        for item in items:
            yield item
            bar.advance(task)


def parallel_map(
    function: Callable[[Item], Result], items: Sequence[Item], description: str, workers: int | None = None
) -> list[Result]:
    """`[function(i) for i in items]` over processes, in order, with a progress bar.

    `function` must be importable (top level, or a `functools.partial` of such). `workers` defaults to the
    processors available; with 0 or 1, or a single item, everything runs in this process. Processes are spawned
    (about a second each), not forked: forking after torch has started its threads can deadlock.

    Raises:
        UserError: the system ended one of the processes.
    """
    workers = cpu_count() if workers is None else workers
    if workers <= 1 or len(items) <= 1:
        return [function(item) for item in track(items, description)]
    context = multiprocessing.get_context("spawn")
    chunk = max(1, len(items) // (workers * 16))
    parts = [items[i : i + chunk] for i in range(0, len(items), chunk)]
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_parent) as pool:
        # Not `pool.map`: it cancels what has not begun, and Python 3.11 prints a traceback for each that is cancelled
        # when a process ends.
        try:
            futures = [pool.submit(_each, function, part) for part in parts]
            results = (result for future in futures for result in future.result())
            return list(track(results, description, total=len(items)))
        except BrokenProcessPool:
            raise UserError(
                f"{description}: the system ended one of {workers} processes, as it does when memory runs out.",
                f"Start it again; for fewer processes with PYTHON_CPU_COUNT={max(1, workers // 2)} before the command.",
            ) from None
        except BaseException:  # a failure, or SIGTERM: what is under way is not waited for
            for process in multiprocessing.active_children():
                process.terminate()
            raise


def _each(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    return [function(item) for item in items]


def _end_with_parent() -> None:
    """Let this worker end when its parent is killed, instead of waiting for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
