"""Modality Performed Procedure Step: the scanner says that it has finished a study (DICOM PS3.4, annex F).

It begins a step (N-CREATE, with the studies) and ends it (N-SET, COMPLETED or DISCONTINUED, with the images that it
made). Some say so before all of these are sent, and a study may have several steps, such as plain and contrast: it is
complete when all images that its ended steps named are here and no other step of it has begun.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, TypeVar

from pipelines.shared.log import log

if TYPE_CHECKING:
    from pipelines.head_ct.listen.store import Store

STEP = "1.2.840.10008.3.1.2.3.3"  # Modality Performed Procedure Step
SUCCESS, NO_SUCH_INSTANCE, INVALID_ARGUMENT, DUPLICATE = 0x0000, 0x0112, 0x0115, 0x0111
NO_LONGER_UPDATED = 0x0110  # of a step that has ended (PS3.4, F.7.2.2)
ENDS = ("COMPLETED", "DISCONTINUED")  # states after which nothing more comes of a step
KEPT = 1000  # steps that are remembered; of one that is forgotten, or from before a restart, the pause decides

Value = TypeVar("Value")


class Steps:
    """The steps that scanners have begun, and the images that are still to come."""

    def __init__(self, store: Store, kinds: Collection[str]) -> None:
        """`kinds`: SOP classes that the node takes; others of a step, such as its dose report, are not waited for."""
        self.store, self.kinds = store, kinds
        self._lock = threading.Lock()
        self._begun: OrderedDict[str, set[str]] = OrderedDict()  # step -> hashed names of its studies
        self._ended: OrderedDict[str, int] = OrderedDict()  # step -> a hash of what ended it
        # Study -> hashed names of images that its ended steps made and that are not here. A step of several studies
        # does not say whose its images are: each of these studies awaits them all.
        self._awaited: OrderedDict[str, set[str]] = OrderedDict()

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
            if step in self._begun or step in self._ended:
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
        told = hash((status, frozenset(images)))
        with self._lock:
            if step in self._ended:
                if told == self._ended[step]:  # said again, as when the answer was lost
                    return SUCCESS, said
                log.warning("a performed procedure step that has ended was to be changed: refused")
                return NO_LONGER_UPDATED, None
            if step not in self._begun:
                return NO_SUCH_INSTANCE, None
            if status in ENDS:
                missing = {image for image in images if self.store.journal.study_of(image) is None}
                for study in self._begun.pop(step):
                    _keep(self._awaited, study, self._awaited.get(study, set()) | missing)
                _keep(self._ended, step, told)
                self._complete()
        return SUCCESS, said

    def arrived(self, instance: str) -> None:
        """An image, by its hashed name, is in the journal: studies that await no other may be complete now."""
        with self._lock:
            for images in self._awaited.values():
                images.discard(instance)
            self._complete()

    def _complete(self) -> None:
        """Say so of each study with ended steps that awaits nothing more and that no begun step names."""
        whole = {study for study, images in self._awaited.items() if not images}.difference(*self._begun.values())
        if whole:
            self.store.journal.complete(whole)
        for study in whole:
            del self._awaited[study]


def _not_understood(failure: Exception) -> tuple[int, None]:
    log.warning(f"a performed procedure step was not understood: {type(failure).__name__}")
    return INVALID_ARGUMENT, None


def _keep(known: OrderedDict[str, Value], name: str, value: Value) -> None:
    known[name] = value
    if len(known) > KEPT:
        known.popitem(last=False)
