"""Routes of a service."""

from __future__ import annotations

import asyncio
import shutil
import time
import traceback
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi import Request as HttpRequest
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

import pipelines
from pipelines.shared.errors import DataError
from pipelines.shared.handover.serve import page
from pipelines.shared.handover.serve.batching import Full
from pipelines.shared.handover.serve.guard import App, Guard
from pipelines.shared.handover.serve.metrics import Counts
from pipelines.shared.handover.serve.service import NOTICE, Json, Request, Service
from pipelines.shared.handover.serve.uploads import Refused, Room, below
from pipelines.shared.log import log

BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {
                    "file": {
                        "type": "array",
                        "items": {"type": "string", "format": "binary"},
                        "description": "One or several files, or a zip of them.",
                    },
                    "path": {"type": "string", "description": "In place of a file: its path below serve.root."},
                },
            }
        }
    },
}


def refusal(refused: Refused) -> JSONResponse:
    """What is wrong and what helps, as JSON."""
    ask = {"www-authenticate": 'Basic realm="token"'} if refused.status == 401 else {}
    return JSONResponse({"reason": refused.problem, "remedy": refused.remedy}, refused.status, headers=ask)


def make_app(service: Service, token: str | None = None) -> App:
    """The service as an ASGI application.

    Args:
        service: answers.
        token: that every request but /healthz must bring; None: none.
    """
    counts = Counts()
    model = page.model_description(service)
    app = FastAPI(
        title=service.study.title,
        version=pipelines.__version__,
        description=NOTICE,
        docs_url=None,  # FastAPI's own page is loaded from elsewhere
        redoc_url=None,
    )
    app.state.counts = counts

    @app.exception_handler(Refused)
    async def _refused(request: HttpRequest, failure: Refused) -> Response:
        return refusal(failure)

    @app.exception_handler(DataError)
    async def _unusable(request: HttpRequest, failure: DataError) -> Response:
        return refusal(Refused(failure.problem, failure.remedy))

    @app.exception_handler(HTTPException)
    async def _http(request: HttpRequest, failure: HTTPException) -> Response:
        remedy = "GET /docs says what there is." if failure.status_code in (404, 405) else "Send multipart/form-data."
        return JSONResponse({"reason": f"{failure.detail}.", "remedy": remedy}, failure.status_code)

    @app.exception_handler(ClientDisconnect)
    async def _gone(request: HttpRequest, failure: ClientDisconnect) -> Response:
        return Response(status_code=400)  # to nobody

    @app.exception_handler(Full)
    async def _full(request: HttpRequest, failure: Full) -> Response:
        words = {"reason": "The service is busy.", "remedy": f"Ask again in {failure.retry_after} s."}
        return JSONResponse(words, 503, headers={"retry-after": str(failure.retry_after)})

    @app.exception_handler(Exception)
    async def _defect(request: HttpRequest, failure: Exception) -> Response:
        # Where, not what: an exception may quote a file, and so a name.
        places = traceback.extract_tb(failure.__traceback__)
        where = " < ".join(f"{Path(p.filename).name}:{p.lineno}" for p in reversed(places[-6:]))
        log.error(f"defect: {type(failure).__name__} at {where}")
        words = {"reason": "The service failed on this request.", "remedy": "Its log says where; please report it."}
        return JSONResponse(words, 500)

    @app.post("/predict", openapi_extra={"requestBody": BODY}, summary="Score files", response_model=None)
    async def predict(request: HttpRequest, pictures: bool = False) -> Response:
        """The rows that mode=predict writes, and the decision at every operating point.

        With pictures=true also the first file as the network saw it, and what it looked at.
        """
        service.batcher.enter()
        folder = service.folder()
        try:
            asked = await received(request, service, folder, pictures)
            began = time.perf_counter()
            answer: Json = await asyncio.wrap_future(service.batcher.submit(asked))
            bad = [row for row in answer["predictions"] if row.get("reason") is not None]
            counts.scored(time.perf_counter() - began, len(answer["predictions"]) - len(bad), len(bad))
            if len(bad) == len(answer["predictions"]) and bad:
                raise Refused(_first_reason(bad), f"This study reads: {', '.join(service.study.suffixes)}.")
            return JSONResponse(answer)
        finally:
            service.batcher.leave()
            await asyncio.to_thread(shutil.rmtree, folder, True)

    @app.get("/healthz", summary="Whether anybody answers")
    async def healthz() -> Response:
        alive = service.batcher.alive
        return JSONResponse({"status": "ok" if alive else "nobody answers"}, 200 if alive else 503)

    @app.get("/metrics", response_class=PlainTextResponse, summary="Prometheus metrics")
    async def metrics() -> Response:
        return PlainTextResponse(counts.text(service), media_type="text/plain; version=0.0.4")

    @app.get("/model", summary="The model card: JSON, or HTML for a browser (format=json, format=html)")
    async def model_card(request: HttpRequest, format: str = "") -> Response:
        html = format == "html" or (format != "json" and "text/html" in request.headers.get("accept", ""))
        return HTMLResponse(page.card_page(service, model)) if html else JSONResponse(model)

    @app.get("/", response_class=HTMLResponse, summary="A page to try the model")
    async def front() -> Response:
        return HTMLResponse(page.front_page(service, model))

    @app.get("/docs", response_class=HTMLResponse, summary="This interface, for people")
    async def docs(request: HttpRequest) -> Response:
        return HTMLResponse(page.docs_page(service, app.openapi(), request.headers.get("host", "")))

    @app.get("/static/{name}", include_in_schema=False)
    async def static(name: str) -> Response:
        found = page.static_file(name)
        if found is None:
            raise HTTPException(404, "There is no such file")
        return Response(found[0], media_type=found[1])

    return Guard(app, service.settings, token, refusal, counts.request)


async def received(request: HttpRequest, service: Service, folder: Path, pictures: bool) -> Request:
    """What a request asks, its files written into `folder`.

    Raises:
        Refused: there is nothing in it, or more than is allowed.
    """
    form = await request.form(max_files=service.settings.files, max_fields=8, max_part_size=4096)
    try:
        files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
        path = form.get("path")
        if not files and isinstance(path, str) and path:
            relative = await asyncio.to_thread(below, service.settings.root, path)
            root = Path(str(service.settings.root)).resolve()
            return await asyncio.to_thread(service.request, root, relative, pictures)
        if not files:
            raise Refused("The request holds no file.", "Send it as multipart/form-data, in a field called file.")
        room = Room(folder, service.settings)
        for number, file in enumerate(files):
            await asyncio.to_thread(room.take, file.filename or f"file_{number}", file.file)
    finally:
        await form.close()
    return await asyncio.to_thread(service.request, service.incoming, folder.relative_to(service.incoming), pictures)


def _first_reason(rows: list[dict[str, Any]]) -> str:
    reason = str(rows[0]["reason"])
    more = f" ({len(rows) - 1} more files could not be scored either)" if len(rows) > 1 else ""
    return f"The file {reason.rstrip('.')}{more}." if reason[:1].islower() else f"{reason.rstrip('.')}{more}."
