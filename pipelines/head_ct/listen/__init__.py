"""`mode=listen`: head CT as a node where scans arrive: the trial of Titano et al. (2018), live. Extra `listen`.

journal.py    what was done so far, in SQLite: a process that is killed goes on and does nothing twice
store.py      the files that arrived, under hashed names; disk and retention
node.py       the DICOM node: C-ECHO, C-STORE, storage commitment
scoring.py    the thread that scores complete studies, by the code of mode=predict
figures.py    the queue, and the figures of the trial
results.py    what goes back: structured report, secondary capture; sending.py: how
page.py       the page; listening.py: the program around all of it
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipelines.shared.errors import UserError

if TYPE_CHECKING:
    from pipelines.shared.job import Job
    from pipelines.shared.study import Study

PACKAGES = {"pynetdicom": "pynetdicom", "highdicom": "highdicom", "fastapi": "fastapi", "uvicorn": "uvicorn"}


def needs_packages() -> None:
    """Refuse before any work where the packages are not there.

    Raises:
        UserError: naming those that are missing.
    """
    from importlib.util import find_spec

    missing = [name for module, name in PACKAGES.items() if find_spec(module) is None]
    if missing:
        raise UserError(
            f"mode=listen needs packages that are not installed: {', '.join(missing)}.",
            "Install the extra: pip install '.[listen]' (make env has it).",
        )


def listen_for_studies(study: Study[Any], job: Job) -> None:
    """Take scans, score them and order the worklist by a finished run, until SIGINT or SIGTERM."""
    from pipelines.shared.run import open_finished

    needs_packages()
    finished = open_finished(study, job.config.run)
    from pipelines.head_ct.listen.listening import listen

    listen(study, job, finished)
