"""`mode=serve`: a finished run behind HTTP, with a page to try it. Extra `serve`: FastAPI, uvicorn, python-multipart.

uploads.py   what a request may bring: its size, archives, paths below the allowed root
batching.py  the queue, and the one thread that owns the networks
service.py   from a request's files to the answer
app.py       routes, and who may ask; server.py: connections that take their time
page.py      the pages, from the templates beside it
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipelines.shared.extras import Extra

if TYPE_CHECKING:
    from pipelines.shared.job import Job
    from pipelines.shared.run import FinishedRun
    from pipelines.shared.study import Study

SERVE = Extra(
    "serve",
    {
        "fastapi": "fastapi",
        "uvicorn": "uvicorn",
        "python_multipart": "python-multipart",
        "markdown_it": "markdown-it-py",
    },
)


def serve_run(study: Study[Any], job: Job, finished: FinishedRun) -> None:
    """Answer requests until SIGINT or SIGTERM; what is under way is answered first."""
    from pipelines.shared.handover.serve.server import listen

    listen(study, job, finished)
