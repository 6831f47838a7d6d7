"""Modality Performed Procedure Step: the scanner says that it has finished a study (DICOM PS3.4, annex F).

It begins a step (N-CREATE, with the study) and ends it (N-SET, COMPLETED, with the images that it made). Some say so
before all of these are sent: the study is complete when the last of them is here.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from pipelines.shared.log import log

if TYPE_CHECKING:
    from pipelines.head_ct.listen.store import Store

STEP = "1.2.840.10008.3.1.2.3.3"  # Modality Performed Procedure Step
SUCCESS, NO_SUCH_INSTANCE, INVALID_ARGUMENT, DUPLICATE = 0x0000, 0x0112, 0x0115, 0x0111
KEPT = 1000  # steps that are remembered; of one that is forgotten, or from before a restart, the pause decides


class Steps:
    """The steps that scanners have begun, and the images that are still to come."""

    def __init__(self, store: Store, kinds: Collection[str]) -> None:
        """`kinds`: SOP classes that the node takes; others of a step, such as its dose report, are not waited for."""
        self.store, self.kinds = store, kinds
        self._lock = threading.Lock()
        self._begun: OrderedDict[str, set[str]] = OrderedDict()  # step -> hashed names of its studies
        self._awaited: OrderedDict[str, set[str]] = OrderedDict()  # study -> hashed names of images

    def create(self, event: Any) -> tuple[int, Any]:
        """N-CREATE: a step begins."""
        try:
            said = event.attribute_list
            step = str(event.request.AffectedSOPInstanceUID or "")
            studies = {self.store.study(str(s.StudyInstanceUID)) for s in said.ScheduledStepAttributesSequence}
        except Exception as failure:  # whatever a sender brings
            return _not_understood(failure)
        if not step or not studies:
            return INVALID_ARGUMENT, None
        with self._lock:
            if step in self._begun:
                return DUPLICATE, None
            _keep(self._begun, step, studies)
        return SUCCESS, said

    def set(self, event: Any) -> tuple[int, Any]:
        """N-SET: it ends. Whatever else changes is acknowledged, and means nothing here."""
        try:
            said = event.modification_list
            step, status = str(event.request.RequestedSOPInstanceUID), str(said.get("PerformedProcedureStepStatus", ""))
            images = {
                self.store.instance(str(image.ReferencedSOPInstanceUID))
                for series in said.get("PerformedSeriesSequence") or []
                for image in series.get("ReferencedImageSequence") or []
                if str(image.ReferencedSOPClassUID) in self.kinds
            }
        except Exception as failure:
            return _not_understood(failure)
        with self._lock:
            if step not in self._begun:
                return NO_SUCH_INSTANCE, None
            if status == "COMPLETED":
                missing = {image for image in images if self.store.journal.study_of(image) is None}
                for study in self._begun.pop(step):
                    if missing:
                        _keep(self._awaited, study, set(missing))
                    else:
                        self.store.journal.complete([study])
        return SUCCESS, said

    def arrived(self, study: str, instance: str) -> None:
        """An image, by hashed names, is in the journal: a study that its scanner has finished may be complete now."""
        with self._lock:
            if study in self._awaited:
                self._awaited[study].discard(instance)
                if not self._awaited[study]:
                    del self._awaited[study]
                    self.store.journal.complete([study])


def _not_understood(failure: Exception) -> tuple[int, None]:
    log.warning(f"a performed procedure step was not understood: {type(failure).__name__}")
    return INVALID_ARGUMENT, None


def _keep(known: OrderedDict[str, set[str]], name: str, value: set[str]) -> None:
    known[name] = value
    if len(known) > KEPT:
        known.popitem(last=False)
