"""The DICOM node: verification (C-ECHO), storage of CT (C-STORE), storage commitment (N-ACTION).

What is acknowledged lies on disk and in the journal. Storage commitment is also the explicit signal that a study is
complete: whoever asks whether all is safe has sent it all. (DICOM PS3.4, annexes A, B and J.)
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pipelines.head_ct.listen.store import NoRoom, Store
from pipelines.shared.errors import ConfigError, UserError, reason_of
from pipelines.shared.log import log

if TYPE_CHECKING:
    from pipelines.head_ct.config import ListenSection

SUCCESS = 0x0000
OUT_OF_RESOURCES = 0xA700
NOT_OF_THIS_CLASS = 0xA900
NOT_UNDERSTOOD = 0xC000
NO_SUCH_ACTION = 0x0123
COMMITTED, FAILURES = 1, 2  # event types of a storage commitment's answer
NO_SUCH_INSTANCE = 0x0112
VERIFICATION, STORAGE_COMMITMENT = "1.2.840.10008.1.1", "1.2.840.10008.1.20.1"
CT_CLASSES = ("1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1")  # CT, Enhanced CT Image Storage
SYNTAXES = (  # those that pixels.py decodes, without loss first
    "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99",
    "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81",
    "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91", "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.50",
    "1.2.840.10008.1.2.4.51",
)  # fmt: skip


class Node:
    """Takes what scanners send until it is stopped.

    Args:
        settings: address, AE titles, limits.
        store: where it goes.
        arrived: called when something new is there, from any thread.
    """

    def __init__(self, settings: ListenSection, store: Store, arrived: Callable[[], object]) -> None:
        self.settings, self.store, self.arrived = settings, store, arrived
        self._server: Any = None

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
        for kind in CT_CLASSES:
            entity.add_supported_context(kind, list(SYNTAXES))
        handlers: list[Any] = [
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_N_ACTION, self._commit),
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
        """Take nothing more; associations are aborted, and their senders repeat what was not acknowledged."""
        if self._server is not None:
            self._server.shutdown()
            self._server = None

    def _rejected(self, event: Any) -> None:
        log.warning(
            f"an association was rejected: calling AE title {event.assoc.requestor.ae_title!r}, called "
            f"{event.assoc.requestor.primitive.called_ae_title!r} (listen.callers, listen.ae_title)"
        )

    def _store(self, event: Any) -> int:
        """C-STORE: the file is written and noted, then acknowledged."""
        from pydicom import dcmread

        try:
            content: bytes = event.encoded_dataset()
            header = dcmread(
                io.BytesIO(content), stop_before_pixels=True, specific_tags=["StudyInstanceUID", "SOPInstanceUID"]
            )
            study, instance = (str(header.get(name) or "") for name in ("StudyInstanceUID", "SOPInstanceUID"))
        except Exception as failure:  # whatever a sender brings
            log.warning(f"an instance that cannot be read was refused: {type(failure).__name__}")
            return NOT_UNDERSTOOD
        if not study or instance != str(event.request.AffectedSOPInstanceUID):
            log.warning("an instance without Study Instance UID, or of another SOP Instance UID, was refused")
            return NOT_OF_THIS_CLASS
        try:
            new = self.store.take(study, instance, content)
        except NoRoom:
            log.error(f"refused: less than listen.free_gb={self.settings.free_gb:g} GB of the disk are free")
            return OUT_OF_RESOURCES
        except UserError as failure:
            log.error(f"refused: {failure.problem}")
            return OUT_OF_RESOURCES
        except Exception as failure:  # the sender keeps it, and repeats it
            log.error(f"refused: {reason_of(failure)}")
            return OUT_OF_RESOURCES
        if new:
            self.arrived()
        return SUCCESS

    def _commit(self, event: Any) -> tuple[int, None]:
        """N-ACTION: answered at once; which instances are safe is reported after it."""
        from pydicom.dataset import Dataset

        if event.action_type != 1:
            return NO_SUCH_ACTION, None
        wanted = event.action_information
        safe, lost, studies = [], [], set()
        for item in wanted.get("ReferencedSOPSequence", []):
            study = self.store.journal.study_of(self.store.instance(str(item.ReferencedSOPInstanceUID)))
            answer = Dataset()
            answer.ReferencedSOPClassUID = item.ReferencedSOPClassUID
            answer.ReferencedSOPInstanceUID = item.ReferencedSOPInstanceUID
            if study is None:
                answer.FailureReason = NO_SUCH_INSTANCE
                lost.append(answer)
            else:
                safe.append(answer)
                studies.add(study)
        if not lost:
            self.store.journal.complete(studies)
            self.arrived()
        report = Dataset()
        report.TransactionUID = wanted.TransactionUID
        if safe:
            report.ReferencedSOPSequence = safe
        if lost:
            report.FailedSOPSequence = lost
        kind = FAILURES if lost else COMMITTED
        threading.Thread(target=_report, args=(event, report, kind), daemon=True).start()
        return SUCCESS, None


def _report(event: Any, report: Any, kind: int) -> None:
    """N-EVENT-REPORT, on the association that asked; one that has gone asks again."""
    try:
        event.assoc.send_n_event_report(
            report, kind, event.request.RequestedSOPClassUID, event.request.RequestedSOPInstanceUID
        )
    except Exception as failure:
        log.warning(f"a storage commitment could not be reported: {type(failure).__name__}")
