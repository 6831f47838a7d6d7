"""What goes back of a study says what it is, belongs to it, and is the same however often it is made and sent."""

from __future__ import annotations

import io
import threading
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest
from conftest import PATIENCE
from PIL import Image

from pipelines.head_ct.config import ListenSection
from pipelines.head_ct.dicom import CT
from pipelines.head_ct.listen.journal import Journal, Letter, Outcome
from pipelines.head_ct.listen.results import NothingToSend, Results
from pipelines.head_ct.listen.sending import Post, Unsent, sender_of, stow
from pipelines.head_ct.listen.store import Store
from pipelines.head_ct.pseudonyms import Names
from pipelines.head_ct.writing import Header, add_pixels, dataset_of, stored_values, uid_of

pytest.importorskip("highdicom", reason="the extra listen is not installed")

OUTCOME = Outcome(score=0.8125, alarm=True, seconds=0.5, slices=2, series="axial, 5 mm", warnings="thin")
COMPREHENSIVE_SR = "1.2.840.10008.5.1.4.1.1.88.33"


def content_of(number=1, study="1.2.3"):
    header = Header("MRN-4711", "Doe^Jane", "ACC-99", study, f"{study}.4", (2.0, 2.0))
    ds = dataset_of(header, CT, uid_of(study, number), number)
    ds.Rows = ds.Columns = 16
    add_pixels(ds, stored_values(header, np.zeros((16, 16))), header)
    buffer = io.BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return str(ds.SOPInstanceUID), buffer.getvalue()


@pytest.fixture
def results(tmp_path):
    """A node with one study of two slices that has a score."""
    journal = Journal(tmp_path / "journal.sqlite")
    store = Store(tmp_path, journal, Names("salt"), free=0)
    for number in (1, 2):
        store.take("1.2.3", *content_of(number))
    (tmp_path / "pictures").mkdir()
    journal.scored(store.study("1.2.3"), 2, OUTCOME, 1_700_000_000.0, ["sr"])
    yield Results(store, tmp_path / "pictures", "f" * 64, 0.5)
    journal.close()


def letter_of(results, kind="sr", revision=2):
    return Letter(results.store.study("1.2.3"), revision, kind, 0)


def written(ds):
    """As a receiver reads it."""
    import pydicom

    buffer = io.BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    buffer.seek(0)
    return pydicom.dcmread(buffer)


def items(content):
    """All content items below a container, name -> item."""
    for item in content:
        name = item.ConceptNameCodeSequence[0].CodeMeaning if "ConceptNameCodeSequence" in item else ""
        yield name, item
        yield from items(item.get("ContentSequence", []))


def test_the_report_is_a_measurement_report_of_the_study(results):
    report = written(results.make(letter_of(results)))
    assert report.SOPClassUID == COMPREHENSIVE_SR
    assert (report.Modality, report.StudyInstanceUID, report.PatientID) == ("SR", "1.2.3", "MRN-4711")
    assert (report.AccessionNumber, str(report.PatientName)) == ("ACC-99", "Doe^Jane")
    assert report.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    assert report.ConceptNameCodeSequence[0].CodeMeaning == "Imaging Measurement Report"
    assert (report.CompletionFlag, report.VerificationFlag) == ("COMPLETE", "UNVERIFIED")
    assert "not for primary diagnosis" in report.SeriesDescription
    evidence = report.get("CurrentRequestedProcedureEvidenceSequence") or report.PertinentOtherEvidenceSequence
    named = {i.ReferencedSOPInstanceUID for s in evidence[0].ReferencedSeriesSequence for i in s.ReferencedSOPSequence}
    assert named == {uid_of("1.2.3", 1), uid_of("1.2.3", 2)}


def test_the_report_says_score_threshold_algorithm_and_what_it_is_not_for(results):
    found = list(items(results.make(letter_of(results)).ContentSequence))
    numbers = {n: float(i.MeasuredValueSequence[0].NumericValue) for n, i in found if i.ValueType == "NUM"}
    assert numbers == {
        "Probability of a critical finding, not for primary diagnosis": 0.8125,
        "Threshold of the alarm": 0.5,
    }
    texts = {(n, i.TextValue) for n, i in found if i.ValueType == "TEXT"}
    assert ("Algorithm Name", "Head CT triage") in texts
    assert ("Algorithm Parameters", "not for primary diagnosis") in texts
    assert ("Algorithm Parameters", "model " + "f" * 64) in texts
    codes = {n: i.ConceptCodeSequence[0].CodeMeaning for n, i in found if i.ValueType == "CODE"}
    assert codes["Triage, not for primary diagnosis"] == "Alarm"


def test_made_again_it_is_the_same_object_and_of_another_revision_another(results):
    first, again = (results.make(letter_of(results)) for _ in range(2))
    assert first.SOPInstanceUID == again.SOPInstanceUID
    assert (first.ContentDate, first.ContentTime) == (again.ContentDate, again.ContentTime)
    results.store.take("1.2.3", *content_of(3))
    results.store.journal.scored(results.store.study("1.2.3"), 3, OUTCOME, 1_700_000_100.0)
    later = results.make(letter_of(results, revision=3))
    assert later.SOPInstanceUID != first.SOPInstanceUID
    assert later.SeriesInstanceUID == first.SeriesInstanceUID
    with pytest.raises(NothingToSend, match="a later score"):
        results.make(letter_of(results))


def test_a_report_goes_though_a_later_revision_has_no_score(results):
    first, study = results.make(letter_of(results)), results.store.study("1.2.3")
    results.store.take("1.2.3", *content_of(3))
    results.store.journal.scored(study, 3, Outcome(reason="odd"), 1_700_000_100.0)
    receiver, journal = Receiver(), results.store.journal
    assert Post(journal, results, receiver, retry=30).step()
    assert receiver.got == [first.SOPInstanceUID]
    assert (journal.entry(study).outcome.reason, journal.entry(study).unsent) == ("odd", 0)
    assert results.make(letter_of(results)).ContentTime == first.ContentTime, "of its own score"


def test_slices_that_came_after_the_removal_are_no_evidence_of_a_report(results):
    results.store.free = 1e18  # a full disk gives unsent results up
    results.store.remove_old(before=1e12)
    results.store.free = 0
    results.store.take("1.2.3", *content_of(3))
    with pytest.raises(NothingToSend, match="files are gone"):
        results.make(letter_of(results))


def test_key_slices_are_a_secondary_capture(results):
    with pytest.raises(NothingToSend, match="no key slices"):
        results.make(letter_of(results, "sc"))
    picture = np.arange(24 * 72, dtype=np.uint8).reshape(24, 72)
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    (results.pictures / f"{results.store.study('1.2.3')}.png").write_bytes(buffer.getvalue())
    capture = written(results.make(letter_of(results, "sc")))
    assert (capture.Modality, capture.StudyInstanceUID) == ("OT", "1.2.3")
    assert "not for primary diagnosis" in capture.SeriesDescription
    np.testing.assert_array_equal(capture.pixel_array, picture)


class Receiver:
    """A sender that fails as often as it is told."""

    def __init__(self, failures=0):
        self.failures, self.got = failures, []

    def __call__(self, ds):
        if self.failures:
            self.failures -= 1
            raise Unsent("nobody answers")
        self.got.append(str(ds.SOPInstanceUID))


def test_what_is_not_taken_is_tried_again_later_and_later(results, monkeypatch):
    from pipelines.head_ct.listen import sending

    now = [1_800_000_000.0]
    monkeypatch.setattr(sending.time, "time", lambda: now[0])
    receiver, journal = Receiver(failures=2), results.store.journal
    post = Post(journal, results, receiver, retry=30)
    assert post.step()
    assert journal.entries()[0].failure == "nobody answers"
    assert not post.step()
    now[0] += 30
    assert post.step()
    now[0] += 59
    assert not post.step(), "twice as long the second time"
    now[0] += 1
    assert post.step()
    assert len(receiver.got) == 1
    assert not post.step()
    assert journal.entries()[0].unsent == 0


def test_an_object_that_cannot_be_made_never_ends_the_sending(results, monkeypatch):
    monkeypatch.setattr(results, "report", lambda *a: (_ for _ in ()).throw(ValueError("Doe^Jane")))
    post = Post(results.store.journal, results, Receiver(), retry=30)
    assert post.step()
    assert results.store.journal.entries()[0].failure == "ValueError", "and names nobody"


@pytest.mark.slow
@pytest.mark.parametrize(("status", "fails"), [(0x0000, False), (0xB000, False), (0xA700, True)])
def test_a_node_receives_it_by_c_store(results, status, fails):
    pynetdicom = pytest.importorskip("pynetdicom", reason="the extra listen is not installed")
    got, entity = [], pynetdicom.AE("ARCHIVE")
    entity.add_supported_context(COMPREHENSIVE_SR)

    def store(event):
        got.append(event.dataset)
        return status

    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(pynetdicom.evt.EVT_C_STORE, store)])
    port = server.socket.getsockname()[1]
    try:
        send = sender_of(ListenSection(send=f"ARCHIVE@127.0.0.1:{port}", timeout=PATIENCE))
        report = results.make(letter_of(results))
        if fails:
            with pytest.raises(Unsent, match="0xA700"):
                send(report)
        else:
            send(report)
        assert [ds.SOPInstanceUID for ds in got] == [report.SOPInstanceUID]
    finally:
        server.shutdown()
    with pytest.raises(Unsent, match="nobody answers"):
        send(report)


@pytest.mark.slow
def test_a_service_receives_it_by_stow(results, monkeypatch):
    import pydicom

    monkeypatch.setenv("PIPELINES_SEND_PASSWORD", "se/cret")

    got = []

    answers = {
        "/moved/studies": (302, b""), "/warns/studies": (202, b'{"00081199": {}}'), "/drops/studies": (202, b"{}")
    }  # fmt: skip

    class Archive(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            whole = b"Content-Type: " + self.headers["Content-Type"].encode() + b"\r\n\r\n" + body
            (part,) = BytesParser().parsebytes(whole).get_payload()
            got.append((self.path, self.headers["Authorization"], part.get_content_type()))
            data = body.partition(b"\r\n\r\n")[2].rpartition(b"\r\n--")[0]
            got.append(pydicom.dcmread(io.BytesIO(data)).SOPInstanceUID)
            status, text = answers.get(self.path, (200 if self.headers["Authorization"] else 401, b""))
            self.send_response(status)
            self.send_header("Location", "/")  # which counts for nothing
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *arguments):
            pass

    server = HTTPServer(("127.0.0.1", 0), Archive)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    report = results.make(letter_of(results))
    try:
        sender_of(ListenSection(send=f"http://me@127.0.0.1:{server.server_port}/dicom-web/"))(report)
        with pytest.raises(Unsent, match="status 401"):
            stow(report, f"http://127.0.0.1:{server.server_port}/dicom-web", 5)
        stow(report, f"http://127.0.0.1:{server.server_port}/warns", 5)
        for place, status in (("moved", 302), ("drops", 202)):
            with pytest.raises(Unsent, match=f"status {status}"):
                stow(report, f"http://127.0.0.1:{server.server_port}/{place}", 5)
    finally:
        server.shutdown()
        server.server_close()
    assert got[0] == ("/dicom-web/studies", "Basic bWU6c2UvY3JldA==", "application/dicom")
    assert got[1] == report.SOPInstanceUID
    with pytest.raises(Unsent, match="nobody answers"):
        stow(report, f"http://127.0.0.1:{server.server_port}/dicom-web", 1)
