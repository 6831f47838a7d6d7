"""The program: node, scoring, sending and page around one journal, until it is stopped."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from filelock import FileLock, Timeout

from pipelines.head_ct.archive import names_of, private_folder
from pipelines.head_ct.config import PASSWORD, dicom_address
from pipelines.head_ct.listen.journal import CAPTURE, Journal
from pipelines.head_ct.listen.node import Node
from pipelines.head_ct.listen.page import make_app
from pipelines.head_ct.listen.results import Results
from pipelines.head_ct.listen.scoring import Desk, scorer_of
from pipelines.head_ct.listen.sending import Post, sender_of
from pipelines.head_ct.listen.store import Store
from pipelines.shared.cli.environment import start
from pipelines.shared.errors import ConfigError, counted
from pipelines.shared.handover.serve.guard import LOOPBACK
from pipelines.shared.handover.serve.server import Server, bound, keep_quiet, server_config, token_of
from pipelines.shared.handover.serve.service import NOTICE, fingerprint, notes_of
from pipelines.shared.log import log

if TYPE_CHECKING:
    from pipelines.head_ct.config import HeadCtConfig, ListenSection
    from pipelines.shared.job import Job
    from pipelines.shared.run import FinishedRun
    from pipelines.shared.study import Study

SWEEP = 60.0  # seconds between two looks for files that are to be removed


def check(settings: ListenSection) -> None:
    """Refuse a node that anybody could send to, or that could send nothing.

    Raises:
        ConfigError: it listens to other machines and takes any AE title, or has a user's name without a password.
    """
    if settings.host not in LOOPBACK and not settings.callers:
        raise ConfigError(
            f"listen.host={settings.host} lets others than this machine send, and listen.callers names nobody.",
            "Name the AE titles that may: listen.callers=[SCANNER1,PACS]; or keep listen.host=127.0.0.1.",
        )
    send = settings.send or ""
    if dicom_address(send) is None and urlsplit(send).username and PASSWORD not in os.environ:
        raise ConfigError(
            f"listen.send={send} names a user, and no password is set.",
            f"Set it: {PASSWORD}=<secret> in the environment; or leave the user's name out.",
        )


@contextmanager
def private() -> Iterator[None]:
    """What is written is for its owner's eyes, also in a folder that others may look into."""
    usual = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(usual)


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Be the only process that works in a node's folder.

    Raises:
        ConfigError: another one does, or it cannot be written.
    """
    lock = FileLock(folder / ".lock")
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock.acquire(blocking=False)
    except Timeout:
        raise ConfigError(
            f"listen.folder={folder}: another node works there at this moment.",
            "Stop it first, or give this one a folder of its own: listen.folder=<folder>.",
        ) from None
    except OSError as failure:
        raise ConfigError(
            f"listen.folder={folder} cannot be written: {failure.strerror}.", "Give another: listen.folder=<folder>."
        ) from None
    try:
        yield
    finally:
        lock.release()


def listen(study: Study[HeadCtConfig], job: Job, finished: FinishedRun) -> None:
    """Take, score, order, send, show until SIGINT or SIGTERM.

    Raises:
        ConfigError: an address or a folder that cannot be had, or an address that is open to anybody.
    """
    config: Any = job.config
    settings: ListenSection = config.listen
    check(settings)
    token = token_of(config.serve)
    folder = Path(settings.folder) if settings.folder else private_folder(config) / "listen"
    with private(), owned(folder):
        for file in folder.glob("journal.sqlite*"):  # of an earlier version
            file.chmod(0o600)
        door = bound(config.serve.host, config.serve.port)
        try:
            run = start(study, job)
            if not run.world.main:
                return  # work for one process
            keep_quiet()
            scratch, pictures = folder / "scratch", folder / "pictures"
            shutil.rmtree(scratch, ignore_errors=True)
            pictures.mkdir(exist_ok=True, mode=0o700)
            scorer = scorer_of(run, finished, scratch)
            journal = Journal(folder / "journal.sqlite")
            store = Store(folder, journal, names_of(config), settings.free_gb * 1e9)
            found = store.adopt()
            if found:
                log.info(f"{counted(found, 'file')} on disk but not in the journal, taken up now")
            threshold = scorer.networks.threshold
            results = Results(store, pictures, fingerprint(finished), threshold)
            kinds = ["sr", *([CAPTURE] if settings.capture else [])] if settings.send else []
            desk = Desk(store, scorer, settings.pause, kinds, pictures, scratch)
            post = Post(journal, results, sender_of(settings), settings.retry) if settings.send else None
            node = Node(settings, store, desk.came.set)
            about = {
                "title": study.title, "run": finished.folder.path.name, "model": fingerprint(finished)[:16],
                "threshold": threshold, "notes": notes_of(finished, str(run.world.device)), "node": "",
            }  # fmt: skip
            leave = threading.Event()
            sweeper = threading.Thread(target=_sweep, args=(store, pictures, settings.keep_hours, leave), daemon=True)
            threads: list[threading.Thread] = [desk, *([post] if post else []), sweeper]
            try:
                node.start()
                about["node"] = f"{settings.ae_title}@{settings.host}:{node.port}"
                for thread in threads:
                    thread.start()
                door.listen()
                print(f"Scans are sent to {about['node']}; the page is at {config.serve.host}:{door.getsockname()[1]}")
                print("(Ctrl-C ends it)", flush=True)
                log.info(f"{len(journal.entries()):,} studies in the journal. {NOTICE}")
                app = make_app(store, pictures, config.serve, token, desk.is_alive, about)
                Server(server_config(app, config.serve.queue)).run(sockets=[door])
            finally:
                node.stop()
                leave.set()
                desk.stop()
                if post:
                    post.stop()
                for thread in threads:
                    if thread.is_alive():
                        thread.join()
                journal.close()
        finally:
            door.close()
    log.info("stopped")


def _sweep(store: Store, pictures: Path, hours: float, leave: threading.Event) -> None:
    """Remove files that are old, again and again."""
    while not leave.wait(SWEEP):
        try:
            for study in store.remove_old(time.time() - hours * 3600):
                (pictures / f"{study}.png").unlink(missing_ok=True)
        except Exception as failure:
            log.error(f"old files could not be removed: {type(failure).__name__}")
