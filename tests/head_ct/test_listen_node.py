"""A sender, the node, and what lies on disk when it says that it has something."""

from __future__ import annotations

import socket
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import PATIENCE, wait_until

from pipelines.head_ct.config import ListenSection
from pipelines.head_ct.dicom import CT
from pipelines.head_ct.listen.journal import Journal, Outcome
from pipelines.head_ct.listen.store import Store
from pipelines.head_ct.pseudonyms import Names
from pipelines.head_ct.writing import Header, add_pixels, dataset_of, stored_values, uid_of
from pipelines.shared.errors import ConfigError

pytest.importorskip("pynetdicom", reason="the extra listen is not installed")

from pynetdicom import AE, association, evt
from pynetdicom.sop_class import (
    ModalityPerformedProcedureStep,
    MRImageStorage,
    StorageCommitmentPushModel,
    Verification,
)

from pipelines.head_ct.listen.node import Node

NAMES = Names("salt")


def slice_of(study="1.2.3", number=1, syntax="explicit"):
    header = Header("MRN-4711", "Doe^Jane", "ACC-99", study, f"{study}.4", (2.0, 2.0), syntax=syntax)
    ds = dataset_of(header, CT, uid_of(study, number), number)
    ds.Rows = ds.Columns = 16
    ds.ImagePositionPatient, ds.ImageOrientationPatient = [0, 0, 5.0 * number], [1, 0, 0, 0, 1, 0]
    ds.PixelSpacing = [2.0, 2.0]
    ds.RescaleSlope, ds.RescaleIntercept = 1, -1024
    add_pixels(ds, stored_values(header, np.zeros((16, 16))), header)
    return ds


@pytest.fixture
def open_node(tmp_path):
    """Makes a node; its `store`, `node`, and an event that is set when something came."""
    nodes, journal = [], Journal(tmp_path / "journal.sqlite")

    def make(free=0.0, **changes):
        store, came = Store(tmp_path, journal, NAMES, free), threading.Event()
        node = Node(ListenSection(**{"port": 0, "timeout": PATIENCE} | changes), store, came.set)
        node.start()
        nodes.append(node)
        return node, store, came

    yield make
    for node in nodes:
        node.stop()
    journal.close()


def associate(node, *contexts, title="SCANNER", called="HEADCT", handlers=()):
    entity = AE(title)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = PATIENCE
    for context in contexts or (CT, Verification):
        entity.add_requested_context(context)
    return entity.associate("127.0.0.1", node.port, ae_title=called, evt_handlers=list(handlers))


def send(node, *datasets, **keywords):
    """The statuses of C-STORE."""
    link = associate(node, **keywords)
    assert link.is_established
    try:
        return [link.send_c_store(ds).Status for ds in datasets]
    finally:
        link.release()


def test_it_answers_an_echo(open_node):
    node, _, _ = open_node()
    link = associate(node)
    assert link.send_c_echo().Status == 0
    link.release()


def test_what_is_acknowledged_lies_on_disk_and_in_the_journal(open_node):
    node, store, came = open_node()
    first, second = slice_of(number=1), slice_of(number=2)
    assert send(node, first, second, first) == [0, 0, 0]
    assert came.is_set()
    (entry,) = store.journal.entries()
    assert (entry.study, entry.files, entry.revision) == (NAMES.of("ct", "1.2.3"), 2, 2)
    import pydicom

    file = store.root / entry.study / f"{NAMES.of('in', first.SOPInstanceUID)}.dcm"
    there = pydicom.dcmread(file)
    assert there.PixelData == first.PixelData
    assert there.StudyInstanceUID == "1.2.3"
    assert there.file_meta.TransferSyntaxUID in ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1")


@pytest.mark.slow
def test_several_senders_at_once_lose_nothing(open_node):
    node, store, _ = open_node()

    def sender(k):
        return send(node, *(slice_of(f"1.2.{k}", number) for number in range(1, 6)))

    with ThreadPoolExecutor(4) as pool:
        assert [status for each in pool.map(sender, range(4)) for status in each] == [0] * 20
    assert [e.files for e in store.journal.entries()] == [5] * 4


@pytest.fixture
def said(monkeypatch):
    """What the node warns of."""
    said = []
    for level in ("warning", "error"):
        monkeypatch.setattr(f"pipelines.head_ct.listen.node.log.{level}", said.append)
    return said


def test_only_ct_is_taken(open_node, said):
    node, _, _ = open_node()
    assert not associate(node, MRImageStorage).is_established
    assert said == ["'SCANNER' offers nothing that is taken here, but MR Image Storage: CT alone is"]


@pytest.mark.slow
def test_an_instance_that_is_not_the_announced_one_is_refused(open_node, said, monkeypatch):
    from pydicom.dataset import Dataset

    node, store, _ = open_node()
    disguised = slice_of()
    link = associate(node)
    # A sender that announces CT and sends something else: pynetdicom's own would not.
    encode = association.encode

    def other(ds, *arguments, **keywords):
        changed = Dataset(ds)
        changed.SOPClassUID = MRImageStorage
        return encode(changed, *arguments, **keywords)

    monkeypatch.setattr(association, "encode", other)
    assert link.send_c_store(disguised).Status == 0xA900
    link.release()
    assert said == ["'SCANNER': an instance without StudyInstanceUID, or not the one announced, was refused"]
    assert store.journal.entries() == []


@pytest.mark.slow
def test_ae_titles_that_are_not_allowed_are_turned_away(open_node, said):
    node, store, _ = open_node(callers=["SCANNER"])
    assert associate(node, title="STRANGER").is_rejected
    assert associate(node, called="OTHER").is_rejected
    assert ["STRANGER" in said[0], "OTHER" in said[1]] == [True, True]
    assert send(node, slice_of()) == [0]
    assert len(store.journal.entries()) == 1


@pytest.mark.slow
def test_a_full_disk_is_said_so_and_what_is_no_study_is_refused(open_node):
    node, store, _ = open_node(free=1e18)
    assert send(node, slice_of()) == [0xA700]
    store.free = 0
    without = slice_of()
    del without.StudyInstanceUID
    assert send(node, without) == [0xA900]
    assert store.journal.entries() == []


def connect(node, data=b""):
    """A bare connection that says something and waits."""
    link = socket.create_connection(("127.0.0.1", node.port), PATIENCE)
    link.sendall(data)
    return link


def closed(link):
    """Whether the node closes it."""
    link.settimeout(PATIENCE)
    try:
        return link.recv(1) == b""
    except ConnectionError:
        return True


def acceptors():
    return [t for t in threading.enumerate() if "AcceptorThread" in t.name]


HALF = b"\x01\x00\x00\x00\x01\x00half"  # of a request for an association


@pytest.mark.slow
def test_who_sends_half_a_message_is_cut_off(open_node):
    node, _, _ = open_node(timeout=0.5)
    with connect(node, HALF) as half:
        assert closed(half)
    wait_until(lambda: not acceptors(), "its thread to end")


@pytest.mark.slow
def test_who_sends_too_much_is_cut_off_and_others_go_on(open_node, said):
    node, store, _ = open_node(instance_mb=0.3, pdu=0)
    half, huge = connect(node, HALF), connect(node, struct.pack(">BBL", 1, 0, 2**32 - 1))
    assert closed(huge)
    assert "was cut off" in said[0]
    large = slice_of(number=9)
    large.PixelData = bytes(400_000)
    link = associate(node)
    assert "Status" not in link.send_c_store(large)
    ordinary = [slice_of(number=k) for k in (1, 2)]
    for ds in ordinary:
        ds.PixelData = bytes(200_000)
    assert send(node, *ordinary) == [0, 0], "a limit of each, not of all"
    assert store.journal.entries()[0].files == 2
    half.close()
    huge.close()


@pytest.mark.slow
def test_a_flood_is_turned_away_and_leaves_no_thread_behind(open_node, said):
    node, _, _ = open_node(associations=1)
    watchdog = connect(node)  # that looks whether somebody listens
    wait_until(acceptors, "its thread")
    watchdog.close()
    wait_until(lambda: not acceptors(), "its end")
    silent = [connect(node) for _ in range(4)]
    wait_until(lambda: len(acceptors()) == 4, "four threads")
    silent.append(connect(node))
    assert closed(silent[-1])
    assert said == ["a connection was closed: 4 times listen.associations are open"]
    for link in silent:
        link.close()
    wait_until(lambda: not acceptors(), "the end of all")
    busy = associate(node)
    assert associate(node).is_rejected
    assert said[-1] == "'SCANNER' was asked to come again: listen.associations=1"
    busy.release()
    wait_until(lambda: not acceptors(), "its end")
    assert send(node, slice_of()) == [0]
    waiting, began = connect(node, b"\x01"), time.monotonic()
    wait_until(acceptors, "its thread")
    node.stop()
    assert time.monotonic() - began < PATIENCE, "what a sender may stay silent is not waited for"
    assert acceptors() == []
    waiting.close()


@pytest.mark.slow
def test_what_is_no_dataset_is_not_understood(open_node, said, monkeypatch):
    import pydicom

    node, _, _ = open_node()
    monkeypatch.setattr(pydicom, "dcmread", lambda *a, **k: (_ for _ in ()).throw(RecursionError("Doe^Jane")))
    assert send(node, slice_of()) == [0xC000]
    assert said == ["'SCANNER': an instance that cannot be read was refused: RecursionError"]


@pytest.mark.slow
def test_a_commitment_that_says_nothing_is_refused(open_node, said):
    from pydicom.dataset import Dataset

    node, _, _ = open_node()
    link = associate(node, StorageCommitmentPushModel)
    question = Dataset()
    question.TransactionUID = "1.9"
    status, _ = link.send_n_action(question, 1, StorageCommitmentPushModel, "1.2.840.10008.1.20.1.1")
    assert status.Status == 0x0115
    assert said == ["'SCANNER': a storage commitment was not understood: AttributeError"]
    link.release()


def test_storage_that_fails_is_not_acknowledged(open_node, monkeypatch):
    node, store, came = open_node()
    monkeypatch.setattr(store.journal, "received", lambda *a: (_ for _ in ()).throw(RuntimeError("journal")))
    assert send(node, slice_of()) == [0xA700]
    assert not came.is_set()


@pytest.mark.slow
@pytest.mark.parametrize("missing", [False, True])
def test_storage_commitment_completes_a_study_only_if_all_is_there(open_node, missing):
    from pydicom.dataset import Dataset

    node, store, _ = open_node()
    sent, absent = slice_of(number=1), slice_of(number=2)
    send(node, sent)
    reports, told = [], threading.Event()

    def report(event):
        reports.append((event.event_type, event.event_information))
        return 0x0000, None

    def answered(event):
        if reports:  # and so this message is the answer to it
            told.set()

    handlers = [(evt.EVT_N_EVENT_REPORT, report), (evt.EVT_DIMSE_SENT, answered)]
    link = associate(node, StorageCommitmentPushModel, handlers=handlers)
    question = Dataset()
    question.TransactionUID = "1.9"
    question.ReferencedSOPSequence = []
    for ds in (sent, absent)[: 2 if missing else 1]:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
        question.ReferencedSOPSequence.append(item)
    status, _ = link.send_n_action(question, 1, StorageCommitmentPushModel, "1.2.840.10008.1.20.1.1")
    assert status.Status == 0
    assert told.wait(PATIENCE)
    link.release()
    kind, information = reports[0]
    assert information.TransactionUID == "1.9"
    assert [i.ReferencedSOPInstanceUID for i in information.ReferencedSOPSequence] == [sent.SOPInstanceUID]
    entry = store.journal.entries()[0]
    due = store.journal.due(now=entry.latest, pause=60)
    if missing:
        assert kind == 2
        assert [i.ReferencedSOPInstanceUID for i in information.FailedSOPSequence] == [absent.SOPInstanceUID]
        assert due is None
    else:
        assert (kind, due) == (1, (entry.study, 1))


def step_of(*datasets, status="COMPLETED", kind=None):
    """What N-SET says of a step that has made these images."""
    from pydicom.dataset import Dataset

    said, series = Dataset(), Dataset()
    said.PerformedProcedureStepStatus, said.PerformedSeriesSequence = status, [series]
    series.SeriesInstanceUID, series.ReferencedImageSequence = "1.2.3.4", []
    for ds in datasets:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = kind or ds.SOPClassUID, ds.SOPInstanceUID
        series.ReferencedImageSequence.append(item)
    return said


def begin(link, step, *studies):
    """The status of N-CREATE: a step of these studies begins."""
    from pydicom.dataset import Dataset

    start = Dataset()
    start.ScheduledStepAttributesSequence, start.PerformedProcedureStepStatus = [], "IN PROGRESS"
    for study in studies:
        scheduled = Dataset()
        scheduled.StudyInstanceUID = study
        start.ScheduledStepAttributesSequence.append(scheduled)
    return link.send_n_create(start, ModalityPerformedProcedureStep, step)[0].Status


def begun(node, step="1.7", *studies):
    """An association on which a step has begun."""
    link = associate(node, CT, ModalityPerformedProcedureStep)
    assert begin(link, step, *(studies or ["1.2.3"])) == 0
    return link


def end(link, step, *datasets, status="COMPLETED"):
    """The status of N-SET: a step has ended."""
    return link.send_n_set(step_of(*datasets, status=status), ModalityPerformedProcedureStep, step)[0].Status


def is_complete(store):
    """Whether some study is due that no pause is over for."""
    return store.journal.due(now=time.time(), pause=3600) is not None


@pytest.mark.slow
def test_a_procedure_step_that_has_ended_completes_its_study_when_all_of_it_is_here(open_node):
    node, store, came = open_node()
    first, second = slice_of(number=1), slice_of(number=2)
    link = begun(node)

    def due():
        entry = store.journal.entries()[0]
        return store.journal.due(now=entry.latest, pause=60)

    def ended(said, step="1.7"):
        return link.send_n_set(said, ModalityPerformedProcedureStep, step)[0].Status

    assert link.send_c_store(first).Status == 0
    assert ended(step_of(status="IN PROGRESS")) == 0
    assert due() is None
    assert ended(step_of(first, second, slice_of(number=9)), "1.8") == 0x0112, "which nobody has begun"
    dose = slice_of(number=3)
    said = step_of(first, second)
    report = step_of(dose, kind="1.2.840.10008.5.1.4.1.1.88.67")  # a dose report, which is not taken here
    said.PerformedSeriesSequence += report.PerformedSeriesSequence
    assert ended(said) == 0
    assert due() is None, "the second slice is on its way"
    came.clear()
    assert link.send_c_store(second).Status == 0
    assert due() == (NAMES.of("ct", "1.2.3"), 2)
    assert came.is_set()
    assert link.send_c_store(dose).Status == 0
    assert due() is None, "a slice that the step did not name"
    link.release()


def test_a_procedure_step_whose_images_came_first_completes_at_once(open_node):
    node, store, came = open_node()
    link = begun(node)
    assert link.send_c_store(slice_of()).Status == 0
    came.clear()
    assert link.send_n_set(step_of(slice_of()), ModalityPerformedProcedureStep, "1.7")[0].Status == 0
    entry = store.journal.entries()[0]
    assert store.journal.due(now=entry.latest, pause=60) == (entry.study, 1)
    assert came.is_set()
    link.release()


@pytest.mark.slow
@pytest.mark.parametrize("last", ["a2", "b1"])
def test_a_study_awaits_the_images_of_all_its_steps(open_node, last):
    node, store, _ = open_node()
    images = {name: slice_of(number=k) for k, name in enumerate(("a1", "a2", "b1"), 1)}
    link = begun(node, "1.7")
    assert begin(link, "1.8", "1.2.3") == 0
    assert end(link, "1.7", images["a1"], images["a2"]) == 0
    assert end(link, "1.8", images["b1"]) == 0
    for name in (name for name in images if name != last):
        assert link.send_c_store(images[name]).Status == 0
        assert not is_complete(store)
    assert link.send_c_store(images[last]).Status == 0
    assert is_complete(store)
    link.release()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["COMPLETED", "DISCONTINUED"])
def test_a_step_with_all_its_images_here_completes_no_study_that_awaits_others_or_is_in_another_step(open_node, how):
    node, store, _ = open_node()
    a1, a2, b1 = (slice_of(number=k) for k in (1, 2, 3))
    link = begun(node, "1.7")
    assert begin(link, "1.8", "1.2.3") == 0
    assert [link.send_c_store(image).Status for image in (a1, b1)] == [0, 0]
    assert end(link, "1.8", b1, status=how) == 0
    assert not is_complete(store), "the first step goes on"
    assert end(link, "1.7", a1, a2) == 0
    assert begin(link, "1.9", "1.2.3") == 0
    assert link.send_c_store(a2).Status == 0
    assert not is_complete(store), "a third step has begun"
    assert end(link, "1.9", status=how) == 0
    assert is_complete(store)
    link.release()


@pytest.mark.slow
def test_a_step_of_two_studies_completes_both_when_the_images_of_both_are_here(open_node):
    node, store, _ = open_node()
    a, b = slice_of("1.2.3"), slice_of("1.2.4")
    link = begun(node, "1.7", "1.2.3", "1.2.4")
    assert end(link, "1.7", a, b) == 0
    assert link.send_c_store(a).Status == 0
    assert not is_complete(store), "whose the other image is, nobody has said"
    assert link.send_c_store(b).Status == 0
    studies = set()
    for entry in store.journal.entries():
        study, revision = store.journal.due(now=entry.latest, pause=60)
        assert store.journal.scored(study, revision, Outcome(reason="seen"), entry.latest)
        studies.add(study)
    assert studies == {NAMES.of("ct", "1.2.3"), NAMES.of("ct", "1.2.4")}
    link.release()


@pytest.mark.slow
def test_a_step_that_has_ended_may_be_ended_again_and_not_be_changed(open_node):
    node, store, _ = open_node()
    first, second = slice_of(number=1), slice_of(number=2)
    link = begun(node)
    for _ in range(2):
        assert end(link, "1.7", first) == 0
    assert end(link, "1.7", first, second) == 0x0110
    assert end(link, "1.7", first, status="DISCONTINUED") == 0x0110
    assert end(link, "1.7", status="IN PROGRESS") == 0x0110
    assert begin(link, "1.7", "1.2.3") == 0x0111
    assert link.send_c_store(first).Status == 0
    assert is_complete(store), "the second image was never taken for awaited"
    assert end(link, "1.7", first) == 0
    link.release()


@pytest.mark.slow
def test_procedure_steps_that_say_nothing_are_refused_and_forgotten_ones_are_no_harm(open_node, monkeypatch):
    from pydicom.dataset import Dataset

    node, store, _ = open_node()
    monkeypatch.setattr("pipelines.head_ct.listen.procedure.KEPT", 2)
    link = begun(node, "1.7")
    silent = Dataset()
    silent.PerformedProcedureStepStatus = "IN PROGRESS"
    assert link.send_n_create(silent, ModalityPerformedProcedureStep, "1.8")[0].Status == 0x0115
    again = Dataset()
    again.ScheduledStepAttributesSequence = [Dataset()]
    again.ScheduledStepAttributesSequence[0].StudyInstanceUID = "1.2.3"
    assert link.send_n_create(again, ModalityPerformedProcedureStep, "1.7")[0].Status == 0x0111
    for step in ("1.9", "1.10"):
        assert link.send_n_create(again, ModalityPerformedProcedureStep, step)[0].Status == 0
    assert link.send_n_set(step_of(slice_of()), ModalityPerformedProcedureStep, "1.7")[0].Status == 0x0112
    odd = Dataset()
    odd.PerformedSeriesSequence = [Dataset()]
    odd.PerformedSeriesSequence[0].ReferencedImageSequence = [Dataset()]
    assert link.send_n_set(odd, ModalityPerformedProcedureStep, "1.9")[0].Status == 0x0115
    link.release()
    assert store.journal.entries() == []


@pytest.mark.slow
def test_a_port_that_is_taken_is_two_lines(open_node):
    node, store, came = open_node()
    with pytest.raises(ConfigError, match=r"listen\.port=\d+ cannot be listened on"):
        Node(ListenSection(port=node.port), store, came.set).start()
