"""mode=serve over HTTP, from the command to the last byte of the answer, against the bare network.

The service is a process of its own, as a user starts it; its clients are another. The bare network sees the same
pictures, prepared and resident, in batches of 32. Both share the machine's cores, as they do in a clinic's corner.
Where a network is small, reading a file and finding the disc in it takes as long: at saturation a loop that does only
this and the network, with a thread for each core, stands beside it.
"""

from __future__ import annotations

import asyncio
import math
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import REPOSITORY, Row

sys.path.append(str(REPOSITORY / "tests" / "shared" / "handover"))

from conftest import compose
from made_service import fundus, make_run

from pipelines.retinopathy.study import STUDY
from pipelines.shared.learning.backbones import Architecture, ImageNetwork

MINUTES = 5
CLIENTS = (1, 8, 64)
NETWORKS = {"tf_efficientnet_lite0": 128, "inception_v3": 299}  # the default recipe's, the paper's
SECONDS = 12.0  # of each measurement
SIDE = 400  # px of the pictures that are sent
BATCH = 32
SOME, MANY = 500, 10_000  # requests


def rows(networks: dict[str, int] = NETWORKS, lasts: float = SECONDS, some: int = SOME, many: int = MANY) -> list[Row]:
    """All rows.

    Args:
        networks: pixels of the pictures that each takes.
        lasts: seconds of each measurement.
        some: requests before memory is looked at the first time.
        many: requests before the second time.
    """
    measured = [row for name, size in networks.items() for row in _network_rows(name, size, lasts)]
    return [*measured, _memory_row(some, many)]


def _network_rows(backbone: str, size: int, lasts: float) -> list[Row]:
    found: list[Row] = []
    with _service(backbone, size) as (port, _):
        bodies = [_body(fundus(k, SIDE)) for k in range(16)]
        asyncio.run(_ask(port, bodies, 4, 2.0))
        for clients in CLIENTS:
            before = _bare(backbone, size, lasts / 2)
            times, seconds = asyncio.run(_ask(port, bodies, clients, lasts))
            bare = (before + _bare(backbone, size, lasts / 2)) / 2
            speed = len(times) / seconds
            p50, p99 = (1000 * float(np.quantile(times, q)) for q in (0.5, 0.99))
            found.append(
                {
                    "what": f"{backbone}, {size} px, clients: {clients}",
                    "ratio": speed / bare,
                    "ours": f"{speed:.1f} pictures/s, p50 {p50:.0f} ms, p99 {p99:.0f} ms",
                    "reference": f"bare network {bare:.1f} pictures/s",
                }
            )
        loop = _bare_loop(backbone, size, lasts)
        reference = f"a loop that reads, prepares and asks the network: {loop:.1f} pictures/s"
        again = {"what": f"{found[-1]['what']}, preparing counted", "ratio": speed / loop, "ours": found[-1]["ours"]}
        found.append({**again, "reference": reference})
    return found


def _memory_row(some: int, many: int) -> Row:
    """Resident memory after some requests over that after many: 1 where it stays flat."""
    with _service("test_resnet", 64) as (port, process):
        bodies = [_body(fundus(k, 120)) for k in range(8)]
        asyncio.run(_ask(port, bodies, 8, 3600, some))
        early = _resident_mb(process)
        asyncio.run(_ask(port, bodies, 8, 3600, many - some))
        late = _resident_mb(process)
    what, ours = f"memory after {some:,} over {many:,} requests", f"{late:.0f} MiB"
    return {"what": what, "ratio": early / late, "ours": ours, "reference": f"{early:.0f} MiB"}


def _resident_mb(process: subprocess.Popen[bytes]) -> float:
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


@contextmanager
def _service(backbone: str, size: int) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """The command, as a process of its own; its port."""
    with tempfile.TemporaryDirectory() as place:
        run, log = make_run(Path(place) / "run", backbone, size), Path(place) / "log"
        command = [
            sys.executable, "-m", "pipelines.retinopathy", "mode=serve", f"run={run}", "serve.port=0",
            "serve.queue=128", "trainer.device=cpu", f"run_dir={Path(place) / 'served'}",
        ]  # fmt: skip
        with log.open("w") as said:
            process = subprocess.Popen(command, cwd=REPOSITORY, stdout=said, stderr=subprocess.STDOUT)
        try:
            yield _port(process, log), process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def _bare(backbone: str, size: int, lasts: float) -> float:
    """Pictures per second of the network alone."""
    network = ImageNetwork(Architecture(backbone, 6, 0.0, [0.5] * 3, [0.5] * 3)).eval()
    batch = torch.randint(0, 256, (BATCH, size, size, 3), dtype=torch.uint8)
    times = []
    with torch.inference_mode():
        network(batch)
        began = time.perf_counter()
        while not times or time.perf_counter() - began < lasts:
            start = time.perf_counter()
            network(batch)
            times.append(time.perf_counter() - start)
    return BATCH / statistics.mean(times)


def _bare_loop(backbone: str, size: int, lasts: float) -> float:
    """Pictures per second of the study's preparation and the network, a thread for each core, one picture at a time."""
    config: Any = compose("retinopathy", f"preprocess.size={size}")
    network = ImageNetwork(Architecture(backbone, 6, 0.0, [0.5] * 3, [0.5] * 3)).eval()
    settings, threads = STUDY.prepare_settings(config), torch.get_num_threads()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place, ThreadPoolExecutor(threads) as pool:
        for k in range(16):
            (Path(place) / f"{k}.png").write_bytes(fundus(k, SIDE))
        until = time.perf_counter() + lasts

        def asked(_: int) -> int:
            done = 0
            with torch.inference_mode():
                while time.perf_counter() < until:
                    array, _ = STUDY.prepare({"path": f"{done % 16}.png"}, Path(place), settings)
                    network(torch.from_numpy(array)[None])
                    done += 1
            return done

        pictures = sum(pool.map(asked, range(threads)))
    torch.set_num_threads(threads)
    return pictures / lasts


def _port(process: subprocess.Popen[bytes], log: Path) -> int:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        for line in log.read_text().splitlines():
            if line.startswith("Listening on "):
                return int(line.split()[2].rpartition(":")[2])
        time.sleep(0.1)
    raise RuntimeError(f"the service did not start:\n{log.read_text()}")


def _body(picture: bytes) -> bytes:
    part = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n' + picture + b"\r\n--b--\r\n"
    head = "POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    return f"{head}Content-Length: {len(part)}\r\n\r\n".encode() + part


async def _ask(
    port: int, bodies: list[bytes], clients: int, seconds: float, most: float = math.inf
) -> tuple[list[float], float]:
    """Seconds of every answer, of so many clients that ask again as soon as they are answered; and of all together."""
    times: list[float] = []
    began = time.perf_counter()

    async def client(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while (start := time.perf_counter()) - began < seconds and len(times) < most:
            writer.write(bodies[(number + len(times)) % len(bodies)])
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.partition(b"content-length:")[2].split()[0])
            answer = await reader.readexactly(length)
            if b" 200 " not in head.split(b"\r\n")[0]:
                raise RuntimeError(answer[:500].decode())
            times.append(time.perf_counter() - start)
        writer.close()

    await asyncio.gather(*(client(k) for k in range(clients)))
    return times, time.perf_counter() - began
