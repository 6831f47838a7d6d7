"""Results on their way back: by C-STORE or by STOW-RS, queued in the journal, tried again when nobody answers."""

from __future__ import annotations

import io
import os
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit, urlunsplit

from pipelines.head_ct.config import PASSWORD, dicom_address
from pipelines.head_ct.listen.journal import Journal
from pipelines.head_ct.listen.results import NothingToSend, Results
from pipelines.shared.errors import reason_of
from pipelines.shared.log import log

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from pipelines.head_ct.config import ListenSection

LOOK = 0.5  # seconds between two looks at the journal
LONGEST = 3600.0  # seconds until a result is tried again
WARNINGS = (0xB000, 0xB006, 0xB007)  # of C-STORE: stored all the same
STORED = b"00081199"  # ReferencedSOPSequence, of what STOW-RS stored with a warning (PS3.18, table 10.5.3-1)
MAX_ANSWER = 1 << 20  # bytes
Sender = Callable[["Dataset"], None]


class _Stay(urllib.request.HTTPRedirectHandler):
    """A redirect is a refusal: followed, it would become a GET that nothing is sent with."""

    def redirect_request(self, *request: object) -> None:
        """Follow none."""


OPENER = urllib.request.build_opener(_Stay)


class Unsent(Exception):
    """The receiver does not have it. The message says why, without anything of the object."""


class Post(threading.Thread):
    """Sends what the journal holds until it is told to stop."""

    def __init__(self, journal: Journal, results: Results, send: Sender, retry: float) -> None:
        super().__init__(name="sending", daemon=True)
        self.journal, self.results, self.send, self.retry = journal, results, send, retry
        self._leave = threading.Event()

    def stop(self) -> None:
        """End after what is being sent."""
        self._leave.set()

    def run(self) -> None:
        """Until it is stopped."""
        while not self._leave.is_set():
            try:
                if not self.step():
                    self._leave.wait(LOOK)
            except Exception as failure:
                log.error(f"sending: {reason_of(failure)}; it is tried again")
                self._leave.wait(10 * LOOK)

    def step(self) -> bool:
        """Send the result that has waited longest, if one is due."""
        letter = self.journal.letter(time.time())
        if letter is None:
            return False
        try:
            self.send(self.results.make(letter))
            log.info(f"{letter.study} ({letter.revision}): {letter.kind} is sent")
        except NothingToSend as reason:
            log.info(f"{letter.study} ({letter.revision}): no {letter.kind} is sent: {reason}")
        except Exception as failure:  # an object that cannot be made is tried again too: nothing is lost without a word
            why = str(failure) if isinstance(failure, Unsent) else type(failure).__name__
            wait = min(LONGEST, self.retry * 2 ** min(letter.tries, 30))
            self.journal.unsent(letter, why, time.time() + wait)
            log.warning(f"{letter.study} ({letter.revision}): {letter.kind} is not sent: {why}; again in {wait:.0f} s")
            return True
        self.journal.sent(letter, time.time())
        return True


def sender_of(settings: ListenSection) -> Sender:
    """How results are sent: to the AE title or the address of `listen.send`."""
    receiver = str(settings.send)
    place = dicom_address(receiver)
    if place is None:
        return lambda ds: stow(ds, receiver, settings.timeout, os.environ.get(PASSWORD, ""))
    called, host, port = place
    return lambda ds: c_store(ds, called, host, port, settings.ae_title, settings.timeout)


def c_store(ds: Dataset, called: str, host: str, port: int, calling: str, timeout: float) -> None:
    """Send an object by C-STORE.

    Raises:
        Unsent: nobody answers, or the object is refused.
    """
    from pynetdicom import AE

    entity: Any = AE(calling)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = entity.connection_timeout = timeout
    entity.add_requested_context(ds.SOPClassUID, str(ds.file_meta.TransferSyntaxUID))
    link = entity.associate(host, port, ae_title=called)
    if not link.is_established:
        raise Unsent("the receiver rejects the association" if link.is_rejected else "nobody answers")
    try:
        status = link.send_c_store(ds)
    except ValueError:
        raise Unsent("the receiver does not take this kind of object") from None
    finally:
        link.release()
    if "Status" not in status:
        raise Unsent("the receiver went away")
    if status.Status != 0 and status.Status not in WARNINGS:
        raise Unsent(f"the receiver refused it with status 0x{status.Status:04X}")


def stow(ds: Dataset, address: str, timeout: float, password: str = "") -> None:
    """Send an object by STOW-RS (PS3.18, 10.5): POST `<address>/studies`. A user's name may stand in the address,
    percent-encoded; the password goes with it.

    Raises:
        Unsent: nobody answers, or the object is refused.
    """
    import base64

    stream = io.BytesIO()
    ds.save_as(stream, enforce_file_format=True)
    mark = uuid.uuid4().hex
    body = (
        f"--{mark}\r\nContent-Type: application/dicom\r\n\r\n".encode() + stream.getvalue() + f"\r\n--{mark}--".encode()
    )
    parts = urlsplit(address)
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2], path=f"{parts.path.rstrip('/')}/studies")
    place = urlunsplit(bare._replace(query="", fragment=""))
    headers = {
        "Content-Type": f'multipart/related; type="application/dicom"; boundary={mark}',
        "Accept": "application/dicom+json",
    }
    if parts.username:
        key = base64.b64encode(f"{unquote(parts.username)}:{password}".encode()).decode()
        headers["Authorization"] = f"Basic {key}"
    try:
        with OPENER.open(urllib.request.Request(place, body, headers), timeout=timeout) as answer:
            stored = answer.status == 200 or (answer.status == 202 and STORED in answer.read(MAX_ANSWER))
            status = int(answer.status)
    except urllib.error.HTTPError as failure:
        raise Unsent(f"the receiver refused it with status {failure.code}") from None
    except OSError:
        raise Unsent("nobody answers") from None
    if not stored:
        raise Unsent(f"the receiver refused it with status {status}")
