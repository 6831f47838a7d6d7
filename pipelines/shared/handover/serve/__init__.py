"""`mode=serve`: a finished run behind HTTP, with a page to try it. Extra `serve`: FastAPI, uvicorn, python-multipart.

uploads.py   what a request may bring: its size, archives, paths below the allowed root
batching.py  the queue, and the one thread that owns the networks
service.py   from a request's files to the answer
app.py       routes, and who may ask; server.py: connections that take their time
page.py      the pages, from the templates beside it
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipelines.shared.errors import UserError

if TYPE_CHECKING:
    from pipelines.shared.job import Job
    from pipelines.shared.run import FinishedRun
    from pipelines.shared.study import Study

PACKAGES = {
    "fastapi": "fastapi",
    "uvicorn": "uvicorn",
    "python_multipart": "python-multipart",
    "markdown_it": "markdown-it-py",
}


def needs_packages(mode: str = "serve") -> None:
    """Refuse before any work where the packages are not there.

    Raises:
        UserError: naming those that are missing.
    """
    from importlib.util import find_spec

    missing = [name for module, name in PACKAGES.items() if find_spec(module) is None]
    if missing:
        raise UserError(
            f"mode={mode} needs packages that are not installed: {', '.join(missing)}.",
            "Install the extra: pip install '.[serve]' (make env has it).",
        )


def serve_run(study: Study[Any], job: Job, finished: FinishedRun) -> None:
    """Answer requests until SIGINT or SIGTERM; what is under way is answered first."""
    from pipelines.shared.handover.serve.server import listen

    listen(study, job, finished)
