"""The DICOM node: verification (C-ECHO), storage of CT (C-STORE), storage commitment (N-ACTION), procedure steps.

What is acknowledged lies on disk and in the journal. Two signals say that a study is complete: storage commitment, as
whoever asks whether all is safe has sent it all, and a performed procedure step that has ended (`procedure`). (DICOM
PS3.4, annexes A, B, F and J.)
"""

from __future__ import annotations

import io
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pipelines.head_ct.elements import text_of
from pipelines.head_ct.listen.procedure import STEP, Steps
from pipelines.head_ct.listen.store import NoRoom, Store
from pipelines.shared.errors import ConfigError, UserError, reason_of
from pipelines.shared.log import log

if TYPE_CHECKING:
    from pipelines.head_ct.config import ListenSection

SUCCESS = 0x0000
OUT_OF_RESOURCES = 0xA700
NOT_OF_THIS_CLASS = 0xA900
NOT_UNDERSTOOD = 0xC000
NO_SUCH_ACTION, INVALID_ARGUMENT = 0x0123, 0x0115
COMMITTED, FAILURES = 1, 2  # event types of a storage commitment's answer
NO_SUCH_INSTANCE = 0x0112
TRANSIENT = 2  # result of an A-ASSOCIATE: come again
UIDS = ("StudyInstanceUID", "SOPInstanceUID", "SOPClassUID")
VERIFICATION, STORAGE_COMMITMENT = "1.2.840.10008.1.1", "1.2.840.10008.1.20.1"
CT_CLASSES = ("1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1")  # CT, Enhanced CT Image Storage
# Those that pixels.py decodes, without loss first; deflated is left out: a small one may fill the memory.
SYNTAXES = (
    "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.4.70",
    "1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81", "1.2.840.10008.1.2.4.90",
    "1.2.840.10008.1.2.4.91", "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51",
)  # fmt: skip
SMALLEST_PDU = 1 << 20  # bytes that any PDU may have: a request for an association has no limit of its own
CONNECTIONS = 4  # times listen.associations; more are closed at once


class Door:
    """What one connection may send: its sender is known later, and may neither fill the memory nor wait for ever.

    Args:
        link: pynetdicom's `AssociationSocket`.
        settings: limits.
    """

    def __init__(self, link: Any, settings: ListenSection) -> None:
        self.message = int(settings.instance_mb * 1e6)
        self.pdu = max(settings.pdu or self.message, SMALLEST_PDU)
        self.taken, self._read = 0, link.recv
        link.socket.settimeout(settings.timeout)  # pynetdicom's own is for what comes between two PDUs
        link.recv = self.recv

    def recv(self, wanted: int) -> bytearray:
        """So many bytes from the sender.

        Raises:
            OSError: they would be too many; the connection is closed.
        """
        self.taken += wanted
        if wanted > self.pdu or self.taken > self.message:
            log.warning("a sender was cut off: its PDU or its instance is larger than listen.pdu or listen.instance_mb")
            raise OSError("too large")
        read: bytearray = self._read(wanted)
        return read

    def answered(self, event: Any) -> None:
        """A message was answered: nothing of it is kept in memory."""
        self.taken = 0


class Node:
    """Takes what scanners send until it is stopped.

    Args:
        settings: address, AE titles, limits.
        store: where it goes.
        arrived: called when something new is there, from any thread.
    """

    def __init__(self, settings: ListenSection, store: Store, arrived: Callable[[], object]) -> None:
        self.settings, self.store, self.arrived = settings, store, arrived
        self.steps = Steps(store, CT_CLASSES)
        self._server: Any = None
        self._reports: list[threading.Thread] = []

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self._server.socket.getsockname()[1])

    def start(self) -> None:
        """Listen.

        Raises:
            ConfigError: the address cannot be had.
        """
        from pynetdicom import AE, evt

        settings = self.settings
        entity = AE(ae_title=settings.ae_title)
        entity.maximum_associations = settings.associations
        entity.maximum_pdu_size = settings.pdu
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = settings.timeout
        entity.require_called_aet = True
        entity.require_calling_aet = list(settings.callers)
        entity.add_supported_context(VERIFICATION)
        entity.add_supported_context(STORAGE_COMMITMENT)
        entity.add_supported_context(STEP)
        for kind in CT_CLASSES:
            entity.add_supported_context(kind, list(SYNTAXES))
        handlers: list[Any] = [
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_N_ACTION, self._commit),
            (evt.EVT_N_CREATE, self.steps.create),
            (evt.EVT_N_SET, self._step),
            (evt.EVT_CONN_OPEN, self._opened),
            (evt.EVT_CONN_CLOSE, _closed),
            (evt.EVT_ACCEPTED, self._accepted),
            (evt.EVT_REJECTED, self._rejected),
        ]
        try:
            self._server = entity.start_server((settings.host, settings.port), block=False, evt_handlers=handlers)
        except OSError as failure:
            raise ConfigError(
                f"listen.host={settings.host} listen.port={settings.port} cannot be listened on: {failure.strerror}.",
                "Choose another with listen.port=<number>; listen.port=0 takes any that is free.",
            ) from None

    def stop(self) -> None:
        """Take nothing more; senders are cut off, and repeat what was not acknowledged. No thread is left."""
        server, self._server = self._server, None
        if server is None:
            return
        server.shutdown()
        links = server.active_associations
        for link in links:
            with suppress(OSError, AttributeError):  # it has gone
                link.dul.socket.socket.shutdown(socket.SHUT_RDWR)
        for thread in (*links, *self._reports):
            thread.join(self.settings.timeout)

    def _opened(self, event: Any) -> None:
        """A connection, before it says anything."""
        from pynetdicom import evt

        link = event.assoc.dul.socket
        if len(event.assoc.ae.active_associations) >= CONNECTIONS * self.settings.associations:
            log.warning(f"a connection was closed: {CONNECTIONS} times listen.associations are open")
            link.close()
            return
        event.assoc.bind(evt.EVT_DIMSE_SENT, Door(link, self.settings).answered)

    def _accepted(self, event: Any) -> None:
        if not event.assoc.accepted_contexts:
            kinds = sorted({str(c.abstract_syntax.name) for c in event.assoc.rejected_contexts})
            log.warning(f"{_title(event)} offers nothing that is taken here, but {', '.join(kinds[:3])}: CT alone is")

    def _rejected(self, event: Any) -> None:
        answer = event.assoc.acceptor.primitive
        if answer.result == TRANSIENT:
            log.warning(f"{_title(event)} was asked to come again: listen.associations={self.settings.associations}")
        else:
            log.warning(
                f"{_title(event)} was rejected; it called {event.assoc.requestor.primitive.called_ae_title!r} "
                "(listen.callers, listen.ae_title)"
            )

    def _store(self, event: Any) -> int:
        """C-STORE: the file is written and noted, then acknowledged."""
        from pydicom import dcmread

        try:
            content: bytes = event.encoded_dataset()
            header = dcmread(io.BytesIO(content), stop_before_pixels=True, specific_tags=list(UIDS))
            study, instance, kind = (text_of(header, name) for name in UIDS)
        except Exception as failure:  # whatever a sender brings
            log.warning(f"{_title(event)}: an instance that cannot be read was refused: {type(failure).__name__}")
            return NOT_UNDERSTOOD
        request = event.request
        if not study or (instance, kind) != (str(request.AffectedSOPInstanceUID), str(request.AffectedSOPClassUID)):
            log.warning(f"{_title(event)}: an instance without {UIDS[0]}, or not the one announced, was refused")
            return NOT_OF_THIS_CLASS
        try:
            new = self.store.take(study, instance, content)
        except NoRoom:
            return _full(event, f"less than listen.free_gb={self.settings.free_gb:g} GB of the disk are free")
        except UserError as failure:
            return _full(event, failure.problem)
        except Exception as failure:  # the sender keeps it, and repeats it
            return _full(event, reason_of(failure))
        if new:
            self.steps.arrived(self.store.instance(instance))
            self.arrived()
        return SUCCESS

    def _step(self, event: Any) -> tuple[int, Any]:
        """N-SET of a procedure step."""
        answer = self.steps.set(event)
        self.arrived()
        return answer

    def _commit(self, event: Any) -> tuple[int, None]:
        """N-ACTION: answered at once; which instances are safe is reported after it."""
        from pydicom.dataset import Dataset

        if event.action_type != 1:
            return NO_SUCH_ACTION, None
        try:
            wanted = event.action_information
            transaction = wanted.TransactionUID
            asked = [(i.ReferencedSOPClassUID, i.ReferencedSOPInstanceUID) for i in wanted.ReferencedSOPSequence]
        except Exception as failure:  # whatever a sender brings
            log.warning(f"{_title(event)}: a storage commitment was not understood: {type(failure).__name__}")
            return INVALID_ARGUMENT, None
        safe, lost, studies = [], [], set()
        for kind, uid in asked:
            instance = self.store.instance(str(uid))
            study = self.store.journal.study_of(instance)
            answer = Dataset()
            answer.ReferencedSOPClassUID, answer.ReferencedSOPInstanceUID = kind, uid
            if study is None or not self.store.has(study, instance):
                answer.FailureReason = NO_SUCH_INSTANCE
                lost.append(answer)
            else:
                safe.append(answer)
                studies.add(study)
        if not lost:
            self.store.journal.complete(studies)
            self.arrived()
        report = Dataset()
        report.TransactionUID = transaction
        if safe:
            report.ReferencedSOPSequence = safe
        if lost:
            report.FailedSOPSequence = lost
        thread = threading.Thread(target=_report, args=(event, report, FAILURES if lost else COMMITTED), daemon=True)
        thread.start()
        self._reports = [t for t in self._reports if t.is_alive()] + [thread]
        return SUCCESS, None


def _closed(event: Any) -> None:
    """pynetdicom would wait on for what a connection that has gone may ask, and count it as an association."""
    if event.assoc.requestor.primitive is None:
        event.assoc.dul.to_user_queue.put(None)


def _title(event: Any) -> str:
    """The sender as it calls itself."""
    return repr(event.assoc.requestor.ae_title)


def _full(event: Any, why: str) -> int:
    log.error(f"{_title(event)}: an instance was refused: {why}")
    return OUT_OF_RESOURCES


def _report(event: Any, report: Any, kind: int) -> None:
    """N-EVENT-REPORT, on the association that asked; one that has gone asks again."""
    try:
        event.assoc.send_n_event_report(
            report, kind, event.request.RequestedSOPClassUID, event.request.RequestedSOPInstanceUID
        )
    except Exception as failure:
        log.warning(f"a storage commitment could not be reported: {type(failure).__name__}")
