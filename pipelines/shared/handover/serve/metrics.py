"""What the service counts of itself, in Prometheus' text format."""

from __future__ import annotations

import bisect
import resource
import sys
import threading
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipelines.shared.handover.serve.service import Service

BOUNDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)  # s, of the histogram's buckets


class Counts:
    """Requests by path and status, the seconds of those that were answered, files scored and refused."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.requests: Counter[tuple[str, int]] = Counter()
        self.buckets = [0] * (len(BOUNDS) + 1)
        self.seconds = 0.0
        self.files: Counter[str] = Counter()

    def request(self, path: str, status: int) -> None:
        """A request that was answered in some way."""
        with self._lock:
            self.requests[path, status] += 1

    def scored(self, seconds: float, good: int, bad: int) -> None:
        """A prediction: how long its sender waited from the last byte to the answer, and its files."""
        with self._lock:
            self.buckets[bisect.bisect_left(BOUNDS, seconds)] += 1
            self.seconds += seconds
            self.files["scored"] += good
            self.files["unreadable"] += bad

    def text(self, service: Service) -> str:
        """All metrics."""
        lines: list[str] = []

        def metric(name: str, kind: str, what: str, samples: list[tuple[str, float]]) -> None:
            lines.append(f"# HELP pipelines_{name} {what}")
            lines.append(f"# TYPE pipelines_{name} {kind}")
            lines.extend(f"pipelines_{name}{labels} {value:g}" for labels, value in samples)

        batcher = service.batcher
        with self._lock:
            requests = sorted(self.requests.items())
            files, buckets, seconds = dict(self.files), list(self.buckets), self.seconds
        about = (
            f'{{study="{service.study.name}",run="{service.finished.folder.path.name}",model="{service.fingerprint}"}}'
        )
        metric("info", "gauge", "The run that answers.", [(about, 1)])
        metric("requests_total", "counter", "Requests by path and status.",
               [(f'{{path="{path}",status="{status}"}}', n) for (path, status), n in requests])  # fmt: skip
        metric("files_total", "counter", "Files by what became of them.",
               [(f'{{result="{result}"}}', n) for result, n in sorted(files.items())])  # fmt: skip
        below, samples = 0, []
        for bound, n in zip([*map(str, BOUNDS), "+Inf"], buckets, strict=True):
            below += n
            samples.append((f'_bucket{{le="{bound}"}}', float(below)))
        metric("predict_seconds", "histogram", "From a request's last byte to its answer.",
               [*samples, ("_sum", seconds), ("_count", float(below))])  # fmt: skip
        metric("inside", "gauge", "Requests in progress.", [("", batcher.inside)])
        metric("places", "gauge", "Most requests in progress at once.", [("", batcher.places)])
        metric("waiting", "gauge", "Requests in the queue.", [("", batcher.waiting)])
        metric("batches_total", "counter", "Batches by their number of requests.",
               [(f'{{requests="{size}"}}', n) for size, n in sorted(batcher.sizes.items())])  # fmt: skip
        metric("memory_peak_bytes", "gauge", "Largest resident memory.", [("", peak_memory())])
        return "\n".join(lines) + "\n"


def peak_memory() -> float:
    """The largest resident memory of this process so far, bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)
