"""Who may ask, and how much: a layer around all routes, before any of a request's body is read."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from pipelines.shared.config import ServeSection
from pipelines.shared.handover.serve.uploads import Refused, too_large

TOKEN = "PIPELINES_TOKEN"  # the environment's variable
OPEN = ("/healthz",)  # for whoever watches over the machine
LOOPBACK = ("127.0.0.1", "localhost", "::1")
PAGE_HEADERS = {
    # Pages fetch nothing from elsewhere, and stand in no frame; answers about people are kept nowhere.
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Guard:
    """Refuses whom it does not know, and cuts off what is too large or too slow.

    Args:
        app: what lies behind it.
        settings: limits.
        token: that a request must bring; None: none is asked for.
        refuse: how a refusal is answered.
        count: told the path and status of every answer.
    """

    def __init__(
        self,
        app: App,
        settings: ServeSection,
        token: str | None,
        refuse: Callable[[Refused], App],
        count: Callable[[str, int], None],
    ) -> None:
        self.app, self.settings, self.token, self.refuse, self.count = app, settings, token, refuse, count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in scope["headers"]}
        started = False

        async def answer(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                self.count(str(getattr(scope.get("route"), "path", "other")), int(message["status"]))
                message["headers"] = [*message["headers"], *((k.encode(), v.encode()) for k, v in PAGE_HEADERS.items())]
            await send(message)

        try:
            self._allow(str(scope["path"]), headers)
            await self.app(scope, self._bounded(headers, receive), answer)
        except Refused as refused:
            if not started:
                await self.refuse(refused)(scope, receive, answer)

    def _allow(self, path: str, headers: dict[str, str]) -> None:
        """Raises Refused for a request that must not be answered."""
        host = headers.get("host", "")
        if self.settings.host in LOOPBACK and _name_of(host) not in LOOPBACK:
            # Another site's name that leads here: its scripts could read the answers (DNS rebinding).
            raise Refused("This service answers under the name localhost alone.", "Ask 127.0.0.1 or localhost.", 403)
        origin = headers.get("origin")
        if origin is not None and origin.partition("//")[2] != host:
            raise Refused("The request comes from another site's page.", "Open this service's own page.", 403)
        if self.token is not None and path not in OPEN and not _knows(self.token, headers.get("authorization", "")):
            raise Refused(
                "The token is missing or wrong.", f"Send it as 'Authorization: Bearer <{TOKEN}>', or as password.", 401
            )

    def _bounded(self, headers: dict[str, str], receive: Receive) -> Receive:
        """The body, as long as it is neither too large nor too slow."""
        limit = self.settings.upload_mb
        declared = headers.get("content-length", "0")
        if declared.isdigit() and int(declared) > limit * 1e6:
            raise too_large(limit)
        deadline, size, whole = time.monotonic() + self.settings.seconds, 0, False

        async def bounded() -> Message:
            nonlocal size, whole
            if whole:  # what comes now is the client's leaving, for which one may wait
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), max(0.001, deadline - time.monotonic()))
            except TimeoutError:
                raise Refused(
                    f"The request took longer than {self.settings.seconds:g} s to arrive.",
                    "Send less at a time; whoever runs the service can raise serve.seconds.",
                    408,
                ) from None
            size += len(message.get("body", b""))
            if size > limit * 1e6:
                raise too_large(limit)
            whole = not message.get("more_body", False)
            return message

        return bounded


def _name_of(host: str) -> str:
    """The name in a Host header, without its port."""
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]


def _knows(token: str, authorization: str) -> bool:
    """Whether a header holds the token: as bearer, or as the password that a browser asks for."""
    kind, _, value = authorization.partition(" ")
    if kind.lower() == "basic":
        try:
            value = base64.b64decode(value, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return False
    elif kind.lower() != "bearer":
        return False
    return hmac.compare_digest(value.strip().encode(), token.encode())
