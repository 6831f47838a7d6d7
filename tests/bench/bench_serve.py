"""mode=serve over HTTP, from the command to the last byte of the answer, against the bare network.

The service is a process of its own, as a user starts it; its clients are another. The bare network sees the same
pictures, prepared and resident, in batches of 32. Both share the machine's cores, as they do in a clinic's corner.
"""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from measure import REPOSITORY, Row

sys.path.append(str(REPOSITORY / "tests" / "shared" / "handover"))

from made_service import fundus, make_run

from pipelines.shared.learning.backbones import Architecture, ImageNetwork

CLIENTS = (1, 8, 64)
NETWORKS = {"tf_efficientnet_lite0": 128, "inception_v3": 299}  # the default recipe's, the paper's
SECONDS = 12.0  # of each measurement
SIDE = 400  # px of the pictures that are sent
BATCH = 32


def rows() -> list[Row]:
    """All rows."""
    return [row for name, size in NETWORKS.items() for row in _network_rows(name, size)]


def _network_rows(backbone: str, size: int) -> list[Row]:
    bodies = [_body(fundus(k, SIDE)) for k in range(16)]
    with tempfile.TemporaryDirectory() as place:
        run = make_run(Path(place) / "run", backbone, size)
        found: list[Row] = []
        with (Path(place) / "log").open("w+") as said:
            command = [
                sys.executable, "-m", "pipelines.retinopathy", "mode=serve", f"run={run}", "serve.port=0",
                "serve.queue=128", "trainer.device=cpu", f"run_dir={Path(place) / 'served'}",
            ]  # fmt: skip
            process = subprocess.Popen(command, cwd=REPOSITORY, stdout=said, stderr=subprocess.STDOUT, env=os.environ)
            try:
                port = _port(process, Path(place) / "log")
                asyncio.run(_ask(port, bodies, 4, 2.0))
                for clients in CLIENTS:
                    before = _bare(backbone, size)
                    times, seconds = asyncio.run(_ask(port, bodies, clients, SECONDS))
                    bare = (before + _bare(backbone, size)) / 2
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
            finally:
                process.send_signal(signal.SIGTERM)
                process.wait(60)
    return found


def _bare(backbone: str, size: int) -> float:
    """Pictures per second of the network alone."""
    network = ImageNetwork(Architecture(backbone, 6, 0.0, [0.5] * 3, [0.5] * 3)).eval()
    batch = torch.randint(0, 256, (BATCH, size, size, 3), dtype=torch.uint8)
    times = []
    with torch.inference_mode():
        network(batch)
        began = time.perf_counter()
        while not times or time.perf_counter() - began < SECONDS / 2:
            start = time.perf_counter()
            network(batch)
            times.append(time.perf_counter() - start)
    return BATCH / statistics.mean(times)


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


async def _ask(port: int, bodies: list[bytes], clients: int, seconds: float) -> tuple[list[float], float]:
    """Seconds of every answer, of so many clients that ask again as soon as they are answered; and of all together."""
    times: list[float] = []
    began = time.perf_counter()

    async def client(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while (start := time.perf_counter()) - began < seconds:
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
