"""The page of a node: the queue, which updates itself, and the figures of the trial. It fetches nothing elsewhere."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from fastapi import Request as HttpRequest
from fastapi.responses import HTMLResponse, JSONResponse, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.exceptions import HTTPException

from pipelines.head_ct.listen.figures import figures, queue
from pipelines.head_ct.listen.journal import Entry, Outcome
from pipelines.shared.handover.serve import page as shared
from pipelines.shared.handover.serve.app import refusal
from pipelines.shared.handover.serve.guard import App, Guard
from pipelines.shared.handover.serve.service import NOTICE, Json
from pipelines.shared.handover.serve.uploads import Refused

if TYPE_CHECKING:
    from pipelines.head_ct.listen.store import Store
    from pipelines.shared.config import ServeSection

HERE = Path(__file__).parent
DONE = 50  # studies already read that the page lists
NAME = re.compile(r"ct-[0-9a-f]{12}")


@lru_cache
def environment() -> Environment:
    """The templates: the page's own, and those of `mode=serve` that they build on."""
    return Environment(
        loader=FileSystemLoader([HERE / "templates", shared.HERE / "templates"]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def state(store: Store, pictures: Path, alive: bool) -> Json:
    """Everything that the page shows.

    Args:
        store: with the journal.
        pictures: folder of the key slices.
        alive: whether studies are being scored.
    """
    waiting, now = store.journal.waiting(), time.time()
    arrival = {e.study: place for place, e in enumerate(waiting, start=1)}
    return {
        "warnings": _warnings(store, alive),
        "waiting": [
            _row(e, now, pictures) | {"place": place, "arrival": arrival[e.study]}
            for place, e in enumerate(queue(waiting), start=1)
        ],
        "read": [_row(e, now, pictures) for e in store.journal.last_read(DONE)],
        "figures": asdict(figures(store.journal.readings())),
    }


def _warnings(store: Store, alive: bool) -> list[str]:
    """What whoever reads must know of the node."""
    said = []
    if not alive:
        said.append("Scoring has stopped: the queue is in order of arrival from here on. Start the program again.")
    if not store.room():
        said.append("The disk is nearly full: nothing more is taken (listen.free_gb).")
    return said


def _row(entry: Entry, now: float, pictures: Path) -> Json:
    """A study as the page shows it; times in seconds."""
    outcome = entry.outcome or Outcome()
    late = entry.scored is not None and entry.scored != entry.revision
    return {
        "study": entry.study,
        "waits": round((entry.read or now) - entry.arrived, 1),
        "to_score": None if entry.at is None or entry.after_removal else round(entry.at - entry.latest, 2),
        "files": entry.files,
        "scored": entry.outcome is not None,
        "late": late,
        "after_removal": entry.after_removal,
        "late_after_reading": entry.read is not None and entry.latest > entry.read,
        "critical": entry.critical,
        "picture": outcome.score is not None and (pictures / f"{entry.study}.png").exists(),
        "revision": entry.scored,
        "unsent": entry.unsent,
        "failure": entry.failure,
        **asdict(outcome),
    }


def make_app(
    store: Store,
    pictures: Path,
    settings: ServeSection,
    token: str | None,
    alive: Callable[[], bool],
    about: Json,
) -> App:
    """The page and what it asks, behind the guard of `mode=serve`.

    Args:
        store: with the journal.
        pictures: folder of the key slices.
        settings: limits of a request.
        token: that every request but /healthz must bring; None: none.
        alive: whether studies are being scored.
        about: title, run, model, threshold, address of the node, notes.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.exception_handler(HTTPException)
    async def _http(request: HttpRequest, failure: HTTPException) -> Response:
        return JSONResponse({"reason": f"{failure.detail}.", "remedy": "GET / is the page."}, failure.status_code)

    @app.exception_handler(Refused)
    async def _refused(request: HttpRequest, failure: Refused) -> Response:
        return refusal(failure)

    @app.get("/", response_class=HTMLResponse)
    def front() -> Response:
        text = environment().get_template("queue.html.j2").render(about=about, notice=NOTICE)
        return HTMLResponse(text)

    @app.get("/queue")
    def now() -> Response:
        return JSONResponse(state(store, pictures, alive()))

    @app.get("/pictures/{study}.png")
    def picture(study: str) -> Response:
        file = pictures / f"{_known(study)}.png"
        if not file.is_file():
            raise HTTPException(404, "There are no key slices of this study")
        return Response(file.read_bytes(), media_type="image/png")

    @app.post("/studies/{study}/read")
    async def read(study: str, request: HttpRequest) -> Response:
        answer = await _json(request)
        if not store.journal.read(_known(study), answer["critical"], time.time()):
            raise HTTPException(404, "There is no such study")
        return JSONResponse({"study": study, "critical": answer["critical"]})

    @app.get("/healthz")
    def healthz() -> Response:
        well = alive() and store.room()
        return JSONResponse({"status": "ok" if well else "see the page"}, 200 if well else 503)

    @app.get("/static/{name}")
    def static(name: str) -> Response:
        found = static_file(name)
        if found is None:
            raise HTTPException(404, "There is no such file")
        return Response(found[0], media_type=found[1])

    return Guard(app, settings, token, refusal, lambda path, status: None)


def _known(study: str) -> str:
    """A study's hashed name, and nothing else.

    Raises:
        HTTPException: it is none.
    """
    if not NAME.fullmatch(study):
        raise HTTPException(404, "There is no such study")
    return study


async def _json(request: HttpRequest) -> dict[str, Any]:
    """The body of "read".

    Raises:
        Refused: it is not what is asked for, or does not come from the page: a form of another site cannot send JSON.
    """
    try:
        if request.headers.get("content-type", "").partition(";")[0] != "application/json":
            raise ValueError
        answer = await request.json()
        if not isinstance(answer, dict) or not isinstance(answer.get("critical"), bool):
            raise ValueError
    except (ValueError, RecursionError):  # the latter of thousands of nested brackets
        raise Refused("Whether the study is critical is missing.", 'Send JSON: {"critical": true}, or false.') from None
    return answer


@lru_cache
def static_file(name: str) -> tuple[bytes, str] | None:
    """A file of this page, or of the pages of `mode=serve`, and its type."""
    own = {f.name: f for f in (HERE / "static").iterdir() if f.suffix in shared.KINDS}
    return (own[name].read_bytes(), shared.KINDS[own[name].suffix]) if name in own else shared.static_file(name)
