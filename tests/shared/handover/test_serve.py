"""mode=serve: the answers of mode=predict over HTTP, and refusals in words."""

from __future__ import annotations

import base64
import io
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor

import pandas as pd
import pytest
import torch
from made_service import CARD, POINTS, fundus, opened
from PIL import Image

pytest.importorskip("fastapi", reason="the extra serve is not installed")

from fastapi.testclient import TestClient

from pipelines.retinopathy.study import STUDY
from pipelines.shared.handover.serve.app import make_app
from pipelines.shared.handover.serve.service import Service
from pipelines.shared.run_folder import write_csv

LOCAL = "http://127.0.0.1:8000"


@pytest.fixture(scope="module")
def service(made_run, tmp_path_factory):
    root = tmp_path_factory.mktemp("root")
    (root / "eyes").mkdir()
    (root / "eyes" / "a.png").write_bytes(fundus(5))
    service = Service(
        *opened(made_run, tmp_path_factory.mktemp("serve"), root=str(root), files=20, unpacked_mb=4.0, threads=3)
    )
    service.check()
    yield service
    service.close()
    assert not service.scratch.exists()


@pytest.fixture(scope="module")
def client(service):
    return TestClient(make_app(service), base_url=LOCAL, raise_server_exceptions=False)


def post(client, *files: tuple[str, bytes], **more):
    return client.post("/predict", files=[("file", file) for file in files], **more)


def zipped(**files: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


def predicted(made_run, folder, names) -> pd.DataFrame:
    """What mode=predict writes of these files, each asked for by itself."""
    rows = []
    for name in names:
        run, finished = opened(made_run, folder / "predict")
        scorer = STUDY.scorer(run, finished)
        inputs = scorer.inputs(folder / name)
        write_csv(folder / "predictions.csv", scorer.rows(inputs.root, inputs.files))
        rows.append(pd.read_csv(folder / "predictions.csv"))
    return pd.concat(rows, ignore_index=True)


def test_the_answer_is_that_of_predict_bit_for_bit(client, made_run, tmp_path):
    files = {f"{k}.png": fundus(k) for k in range(3)}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    expected = predicted(made_run, tmp_path, files)
    together = post(client, *files.items()).json()
    assert together["columns"] == list(expected.columns)
    alone = [post(client, item).json()["predictions"][0] for item in files.items()]
    for rows in (together["predictions"], alone):
        for row, (_, wanted) in zip(rows, expected.iterrows(), strict=True):
            wanted = {k: None if pd.isna(v) else v for k, v in wanted.items()}
            assert row == wanted
    assert len({row["p_referable"] for row in alone}) == 3


def test_answers_do_not_depend_on_who_else_asks(client, service, monkeypatch):
    items = [(f"{k}.png", fundus(k)) for k in range(12)]
    alone = [post(client, item).json() for item in items]
    names, score = set(), service.scorer.rows

    def rows(root, files):
        names.add(threading.current_thread().name)
        time.sleep(0.05)  # so that the others take what waits
        return score(root, files)

    monkeypatch.setattr(service.scorer, "rows", rows)
    with ThreadPoolExecutor(12) as pool:
        together = list(pool.map(lambda item: post(client, item).json(), items))
    assert together == alone
    assert len(names) == 3


def test_a_picture_by_itself_is_one_threads_work(made_run, tmp_path, monkeypatch):
    """How sums are divided among threads decides their last digits, and a service gives each picture one thread."""
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(fundus(3))
    scorer = STUDY.scorer(*opened(made_run, tmp_path / "predict"))
    used, answer = [], scorer.method.answer

    def noted(*given):
        used.append(torch.get_num_threads())
        return answer(*given)

    monkeypatch.setattr(scorer.method, "answer", noted)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        scorer.rows(tmp_path, ["a.png"])
        scorer.rows(tmp_path, ["a.png", "b.png"])
        assert used == [1, 2]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_what_an_answer_says_besides(client, service):
    answer = post(client, ("a.png", fundus(0))).json()
    assert answer["run"] == "run"
    assert answer["model"] == service.fingerprint
    assert len(answer["model"]) == 64
    assert "Not for medical use" in answer["notice"]
    assert any("synthetic" in line for line in answer["warnings"])
    score = answer["predictions"][0]["p_referable"]
    for point, said in zip(POINTS, answer["operating_points"], strict=True):
        assert said["chosen_on"] == "val"
        assert said["threshold"] == point["threshold"]
        assert said["decisions"] == [int(score >= point["threshold"])]
    assert answer["pictures"] == []


def test_pictures_for_a_page(client):
    shown = client.post("/predict?pictures=true", files=[("file", ("a.png", fundus(0)))]).json()["pictures"]
    assert [p["overlay"] for p in shown] == [False, True]
    network, looked = (Image.open(io.BytesIO(base64.b64decode(p["png"]))) for p in shown)
    assert network.size == looked.size == (64, 64)
    assert (network.mode, looked.mode) == ("RGB", "RGBA")
    assert looked.getextrema()[3] == (0, 255), "nothing outside the eye, and something inside"


def test_a_bad_file_is_a_reason_and_a_remedy(client):
    done = post(client, ("a.png", b"no picture"))
    assert done.status_code == 422
    assert "is not a JPEG" in done.json()["reason"]
    assert ".png" in done.json()["remedy"]
    some = post(client, ("a.png", b"no picture"), ("b.png", fundus(1))).json()["predictions"]
    assert [row["file"] for row in some] == ["a.png", "b.png"]
    assert some[0]["reason"]
    assert some[1]["reason"] is None
    assert client.post("/predict").status_code in (400, 422)
    assert client.post("/predict", data={"x": "1"}).json()["reason"] == "The request holds no file."


@pytest.mark.filterwarnings("error::DeprecationWarning:pipelines")
def test_decisions_stay_whole_beside_a_bad_file(made_run, tmp_path):
    (tmp_path / "in").mkdir()
    for name, content in (("a.png", b"no picture"), ("b.png", fundus(1))):
        (tmp_path / "in" / name).write_bytes(content)
    predicted(made_run, tmp_path, ["in"])
    table = pd.read_csv(tmp_path / "predictions.csv", dtype=str)
    assert table["reason"].notna().tolist() == [True, False]
    whole = [c for c in table if "@" in c or c == "grade"]
    assert whole
    assert all(table[column][1].isdecimal() for column in whole)


def test_an_archive_is_its_files(client):
    content = zipped(**{"eyes/a.png": fundus(1), "__MACOSX/a.png": b"x", "b.png": fundus(2)})
    rows = post(client, ("all.zip", content)).json()["predictions"]
    assert [row["file"] for row in rows] == ["a.png", "b.png"]
    assert all(row["reason"] is None for row in rows)


def test_a_path_below_the_root(client, service):
    done = client.post("/predict", data={"path": "eyes/a.png"})
    assert done.status_code == 200, done.text
    assert done.json()["predictions"][0]["file"] == "a.png"
    assert (
        done.json()["predictions"][0]["p_referable"]
        == (post(client, ("a.png", fundus(5))).json()["predictions"][0]["p_referable"])
    )
    whole = client.post("/predict", data={"path": "eyes"}).json()["predictions"]
    assert [row["file"] for row in whole] == ["a.png"]


def test_health_metrics_card_and_interface(client, service):
    assert client.get("/healthz").json() == {"status": "ok"}
    before = client.get("/metrics").text
    post(client, ("a.png", fundus(0)))
    after = client.get("/metrics").text
    assert 'pipelines_requests_total{path="/predict",status="200"}' in after
    assert after != before
    model = client.get("/model").json()
    assert model["metrics"]["test.referable.auroc"]["low"] == 0.87
    assert model["card"] == CARD
    page = client.get("/model", headers={"accept": "text/html"}).text
    assert "<td>0.9</td>" in page
    assert "<script>" not in page
    assert "/predict" in client.get("/openapi.json").json()["paths"]
    assert "POST /predict" in client.get("/docs").text


@pytest.mark.parametrize("path", ["/", "/docs", "/model?format=html"])
def test_pages_fetch_nothing_from_elsewhere(client, path):
    done = client.get(path)
    assert done.status_code == 200
    assert "not for medical use" in done.text.lower()
    assert "default-src 'none'" in done.headers["content-security-policy"]
    assert "http://" not in done.text.replace(LOCAL, "")
    assert "https://" not in done.text
    assert "style=" not in done.text, "the policy forbids it"


def test_pages_own_files(client):
    assert client.get("/static/page.css").headers["content-type"].startswith("text/css")
    assert client.get("/static/page.js").status_code == 200
    for name in ("..%2fapp.py", "page.py", "%2e%2e%2f%2e%2e%2fetc%2fpasswd"):
        assert client.get(f"/static/{name}").status_code == 404
