"""The process that listens, and connections that must not be held open for ever."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from pipelines.shared.cli.environment import start
from pipelines.shared.config import ServeSection
from pipelines.shared.errors import ConfigError
from pipelines.shared.handover.serve.app import make_app
from pipelines.shared.handover.serve.guard import LOOPBACK, TOKEN
from pipelines.shared.handover.serve.service import NOTICE, Service
from pipelines.shared.job import Job
from pipelines.shared.log import log
from pipelines.shared.run import FinishedRun
from pipelines.shared.study import Study

HEAD_SECONDS = 10.0  # for a request's headers to arrive
IDLE_SECONDS = 15  # between two requests of a connection
LEAVING_SECONDS = 60  # for what is under way when the service is stopped


class Impatient(H11Protocol):
    """uvicorn's HTTP, which waits for ever for a request's first lines, with a limit to it."""

    _patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._patience = self.loop.call_later(HEAD_SECONDS, self._cut)

    def handle_events(self) -> None:
        """Stop waiting once the headers are there; begin again for the next request."""
        before = self.cycle
        super().handle_events()
        if self._patience is not None and self.cycle is not before:
            self._patience.cancel()
            self._patience = None

    def data_received(self, data: bytes) -> None:
        """The first byte of a further request starts the wait for its headers."""
        if self._patience is None and self.cycle is not None and self.cycle.response_complete:
            self._patience = self.loop.call_later(HEAD_SECONDS, self._cut)
        super().data_received(data)

    def on_response_complete(self) -> None:
        """A client that is answered before it has sent everything may go on for a while, and so read the answer."""
        super().on_response_complete()
        if self._patience is None and self.conn.their_state is h11.SEND_BODY:
            self._patience = self.loop.call_later(HEAD_SECONDS, self._cut)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        if self._patience is not None:
            self._patience.cancel()
        super().connection_lost(exc)

    def _cut(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()


class Server(uvicorn.Server):
    """Ends on SIGINT and SIGTERM once it has answered what is under way, as a success."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Answer signals while it serves."""
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def token_of(settings: ServeSection) -> str | None:
    """The token that requests must bring; None: none is set, and only this machine can ask.

    Raises:
        ConfigError: an address that others reach, without a token.
    """
    token = os.environ.get(TOKEN) or None
    if settings.host not in LOOPBACK and token is None:
        raise ConfigError(
            f"serve.host={settings.host} lets others than this machine ask, and no token is set.",
            f"Choose one and set it: {TOKEN}=<secret> in the environment; or keep serve.host=127.0.0.1.",
        )
    return token


def listen(study: Study[Any], job: Job, finished: FinishedRun) -> None:
    """Answer requests until SIGINT or SIGTERM.

    Raises:
        ConfigError: an address that is taken or not this machine's, one that others reach without a token, or no such
            folder as `serve.root`.
    """
    settings = job.config.serve
    token = token_of(settings)
    if settings.root is not None and not Path(settings.root).is_dir():
        raise ConfigError(f"serve.root={settings.root} is no folder.", "Give one that is there, or leave it out.")
    door = bound(settings.host, settings.port)
    try:
        run = start(study, job)
        keep_quiet()
        service = Service(run, finished)
        try:
            service.check()
            address = f"{settings.host}:{door.getsockname()[1]}"
            log.info(f"model {service.fingerprint[:16]}, {service.device}. {NOTICE}")
            door.listen()  # whoever asks from now on is answered
            print(f"Listening on {address} (Ctrl-C ends it)", flush=True)
            Server(server_config(make_app(service, token), settings.queue)).run(sockets=[door])
        finally:
            service.close()
    finally:
        door.close()
    log.info("stopped")


def bound(host: str, port: int) -> socket.socket:
    """A socket at this address.

    Raises:
        ConfigError: it cannot be had.
    """
    try:
        family, kind, number, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        door = socket.socket(family, kind, number)
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        door.bind(address)
    except OSError as failure:
        raise ConfigError(
            f"serve.host={host} serve.port={port} cannot be listened on: {failure.strerror}.",
            "Choose another with serve.port=<number>; serve.port=0 takes any that is free.",
        ) from None
    return door


def server_config(app: Any, queue: int) -> uvicorn.Config:
    """uvicorn's settings: its own log stays silent, as it would quote what clients send."""
    return uvicorn.Config(
        app,
        http=Impatient,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=LEAVING_SECONDS,
        limit_concurrency=4 * queue + 64,  # connections; who is over it is answered 503
    )


def keep_quiet() -> None:
    """Libraries say what they find odd in a file by quoting it: names of patients would get into logs."""
    warnings.simplefilter("ignore")
    logging.raiseExceptions = False  # a log that cannot be written would show on the screen what it was to hold
    logging.getLogger().addHandler(logging.NullHandler())  # else what nobody handles goes to standard error
    for name in (
        "uvicorn",
        "uvicorn.error",
        "pydicom",
        "PIL",
        "fastapi",
        "python_multipart",
        "asyncio",
        "pynetdicom",
        "highdicom",
    ):
        quiet = logging.getLogger(name)
        quiet.propagate = False
        quiet.addHandler(logging.NullHandler())
