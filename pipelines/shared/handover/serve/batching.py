"""Requests wait in a bounded queue; threads ask the networks, each of them for its share of all that wait in one go."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

Task = TypeVar("Task")
Answer = TypeVar("Answer")


class Full(Exception):
    """No room for another request; `retry_after`: seconds until there may be."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"full, again in {retry_after} s")
        self.retry_after = retry_after


class Batcher(Generic[Task, Answer]):
    """Takes tasks up in the order in which they came.

    A place is taken before a request's body is read (`enter`), so that the disk never holds more than `places` of
    them; it is given back when the answer has been sent (`leave`).

    Args:
        work: tasks -> their answers, in order; an exception as an answer is raised where that task waits. Whatever it
            raises itself is the answer of all.
        places: requests in progress, at most.
        batch: tasks that are given to `work` at once, at most.
        alike: a task -> what tasks must share to be worked on together.
        threads: that call `work`, each with tasks of its own.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Task]], Sequence[Answer | Exception]],
        places: int,
        batch: int,
        alike: Callable[[Task], object] = lambda task: None,
        threads: int = 1,
    ) -> None:
        self._work, self.places, self.batch, self._alike = work, places, batch, alike
        self._waiting: deque[tuple[Task, Future[Answer]]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self.inside = 0
        self.seconds = 0.1  # that a task takes, a running mean
        self.sizes: dict[int, int] = {}  # of the batches -> how many there were
        self._threads = [threading.Thread(target=self._run, name=f"networks-{k}", daemon=True) for k in range(threads)]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """Tasks that nobody works on yet."""
        return len(self._waiting)

    @property
    def alive(self) -> bool:
        """Whether there is somebody to answer."""
        return all(thread.is_alive() for thread in self._threads)

    def enter(self) -> None:
        """Take a place.

        Raises:
            Full: there is none.
        """
        with self._changed:
            if self.inside >= self.places:
                raise Full(max(1, math.ceil(self.inside * self.seconds / len(self._threads))))
            self.inside += 1

    def leave(self) -> None:
        """Give a place back."""
        with self._changed:
            self.inside -= 1

    def submit(self, task: Task) -> Future[Answer]:
        """A task, to be answered in its turn; cancelled before that, it is left out."""
        future: Future[Answer] = Future()
        with self._changed:
            if self._closed:
                raise Full(1)
            self._waiting.append((task, future))
            self._changed.notify()
        return future

    def close(self) -> None:
        """Answer what waits, then end."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _take(self) -> list[tuple[Task, Future[Answer]]]:
        """The next tasks, those that may be worked on together: this thread's share of what waits; none at the end."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                taken: list[tuple[Task, Future[Answer]]] = []
                share = min(self.batch, math.ceil(len(self._waiting) / len(self._threads)))
                while self._waiting and len(taken) < share:
                    task, future = self._waiting[0]
                    if taken and self._alike(task) != self._alike(taken[0][0]):
                        break
                    self._waiting.popleft()
                    if future.set_running_or_notify_cancel():
                        taken.append((task, future))
                if taken or (self._closed and not self._waiting):
                    return taken

    def _run(self) -> None:
        while taken := self._take():
            began = time.perf_counter()
            answers: Sequence[Answer | Exception]
            try:
                answers = self._work([task for task, _ in taken])
            except Exception as failure:
                answers = [failure] * len(taken)
            with self._changed:
                self.seconds += 0.1 * ((time.perf_counter() - began) / len(taken) - self.seconds)
                self.sizes[len(taken)] = self.sizes.get(len(taken), 0) + 1
            for (_, future), answer in zip(taken, answers, strict=True):
                if isinstance(answer, Exception):
                    future.set_exception(answer)
                else:
                    future.set_result(answer)
