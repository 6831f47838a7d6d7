"""Other people's programs as counterparts: dcmtk and Orthanc, where they are installed."""

from __future__ import annotations

import io
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from conftest import PATIENCE

from pipelines.head_ct.config import ListenSection
from pipelines.head_ct.dicom import CT
from pipelines.head_ct.listen.journal import Journal, Letter, Outcome
from pipelines.head_ct.listen.results import Results
from pipelines.head_ct.listen.sending import sender_of
from pipelines.head_ct.listen.store import Store
from pipelines.head_ct.pseudonyms import Names
from pipelines.head_ct.writing import Header, add_pixels, dataset_of, stored_values, uid_of

pytest.importorskip("pynetdicom", reason="the extra listen is not installed")
pytest.importorskip("highdicom", reason="the extra listen is not installed")

from pipelines.head_ct.listen.node import Node


def program(name):
    """The system's program: with the environment active, pynetdicom's of the same names come first."""
    folders = os.environ["PATH"].split(os.pathsep)
    own = Path(sys.executable).parent
    return shutil.which(name, path=os.pathsep.join(folder for folder in folders if Path(folder) != own))


def needs(*programs):
    missing = [p for p in programs if program(p) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)} (Debian: dcmtk, orthanc)")


def slice_file(folder, number=1):
    header = Header("MRN-4711", "Doe^Jane", "ACC-99", "1.2.3", "1.2.3.4", (2.0, 2.0))
    ds = dataset_of(header, CT, uid_of("1.2.3", number), number)
    ds.Rows = ds.Columns = 16
    ds.ImagePositionPatient, ds.ImageOrientationPatient = [0, 0, 5.0 * number], [1, 0, 0, 0, 1, 0]
    ds.PixelSpacing, ds.RescaleSlope, ds.RescaleIntercept = [2.0, 2.0], 1, -1024
    add_pixels(ds, stored_values(header, np.zeros((16, 16))), header)
    buffer = io.BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    file = folder / f"{number}.dcm"
    file.write_bytes(buffer.getvalue())
    return file, str(ds.SOPInstanceUID)


@pytest.fixture
def store(tmp_path):
    journal = Journal(tmp_path / "journal.sqlite")
    yield Store(tmp_path, journal, Names("salt"), free=0)
    journal.close()


@pytest.fixture
def node(store):
    node = Node(ListenSection(port=0, timeout=PATIENCE), store, threading.Event().set)
    node.start()
    yield node
    node.stop()


@pytest.fixture
def report(store, tmp_path):
    file, instance = slice_file(tmp_path)
    store.take("1.2.3", instance, file.read_bytes())
    study = store.study("1.2.3")
    store.journal.scored(study, 1, Outcome(0.75, True, slices=1, series="axial"), 1_700_000_000.0)
    return Results(store, tmp_path, "f" * 64, 0.5).make(Letter(study, 1, "sr", 0))


@pytest.mark.slow
@needs("storescu", "echoscu")
def test_dcmtk_sends(node, store, tmp_path):
    place = ["-aec", "HEADCT", "127.0.0.1", str(node.port)]
    subprocess.run([program("echoscu"), *place], check=True, timeout=PATIENCE)
    files = [str(slice_file(tmp_path, number)[0]) for number in (1, 2, 3)]
    subprocess.run([program("storescu"), *place, *files], check=True, timeout=PATIENCE)
    assert [e.files for e in store.journal.entries()] == [3]


@pytest.mark.slow
@needs("dsrdump", "dcmdump")
def test_dcmtk_reads_the_report(report, tmp_path):
    buffer = io.BytesIO()
    report.save_as(buffer, enforce_file_format=True)
    file = tmp_path / "sr.dcm"
    file.write_bytes(buffer.getvalue())
    subprocess.run([program("dcmdump"), str(file)], check=True, timeout=PATIENCE, capture_output=True)
    said = subprocess.run([program("dsrdump"), str(file)], check=True, timeout=PATIENCE, capture_output=True, text=True)
    assert "Imaging Measurement Report" in said.stdout
    assert "not for primary diagnosis" in said.stdout


def free_port():
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        return door.getsockname()[1]


def asked(address, data=None):
    with urllib.request.urlopen(address, data, timeout=PATIENCE) as answer:
        return json.load(answer)


@contextmanager
def orthanc(folder, modality_port):
    """An empty Orthanc that knows the node; its address and DICOM port."""
    http, dicom = free_port(), free_port()
    settings = {
        "Name": "test", "HttpPort": http, "DicomPort": dicom, "DicomAet": "ORTHANC",
        "StorageDirectory": str(folder / "db"), "IndexDirectory": str(folder / "db"), "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False, "DicomModalities": {"node": ["HEADCT", "127.0.0.1", modality_port]},
    }  # fmt: skip
    file = folder / "orthanc.json"
    file.write_text(json.dumps(settings))
    process = subprocess.Popen([program("Orthanc"), str(file)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + PATIENCE
        while True:
            try:
                asked(f"http://127.0.0.1:{http}/system")
                break
            except OSError:
                assert time.monotonic() < end
                time.sleep(0.1)
        yield f"http://127.0.0.1:{http}", dicom
    finally:
        process.kill()
        process.wait()


@needs("Orthanc")
def test_orthanc_sends_a_study_and_stores_its_report(node, store, report, tmp_path):
    with orthanc(tmp_path, node.port) as (address, port):
        file, _ = slice_file(tmp_path, 2)
        instance = asked(f"{address}/instances", file.read_bytes())["ID"]
        asked(f"{address}/modalities/node/store", instance.encode())
        assert [e.files for e in store.journal.entries()] == [2]
        sender_of(ListenSection(send=f"ORTHANC@127.0.0.1:{port}"))(report)
        stored = [asked(f"{address}/instances/{i}/simplified-tags") for i in asked(f"{address}/instances")]
        assert {tags["Modality"] for tags in stored} == {"CT", "SR"}
        assert len(asked(f"{address}/studies")) == 1, "the report belongs to the study"
