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

from pipelines.shared.extras import Extra

if TYPE_CHECKING:
    from pipelines.shared.job import Job
    from pipelines.shared.study import Study

LISTEN = Extra(
    "listen", {"pynetdicom": "pynetdicom", "highdicom": "highdicom", "fastapi": "fastapi", "uvicorn": "uvicorn"}
)


def listen_for_studies(study: Study[Any], job: Job) -> None:
    """Take scans, score them and order the worklist by a finished run, until SIGINT or SIGTERM."""
    from pipelines.shared.run import open_finished

    LISTEN.require("mode=listen")
    finished = open_finished(study, job.config.run)
    from pipelines.head_ct.listen.listening import listen

    listen(study, job, finished)
