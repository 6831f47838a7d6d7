"""mode=serve against those who mean no good: what they send, how slowly, from where. Everything is seeded."""

from __future__ import annotations

import base64
import io
import logging
import random
import socket
import sys
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import PATIENCE, wait_until
from hypothesis import given, settings
from hypothesis import strategies as st
from made_service import fundus, opened

pytest.importorskip("fastapi", reason="the extra serve is not installed")

from fastapi.testclient import TestClient

from pipelines.retinopathy.study import STUDY
from pipelines.shared.errors import ConfigError, UserError
from pipelines.shared.handover import serve
from pipelines.shared.handover.serve import server
from pipelines.shared.handover.serve.app import make_app
from pipelines.shared.handover.serve.batching import Batcher, Full
from pipelines.shared.handover.serve.service import Service
from pipelines.shared.handover.serve.uploads import Refused, below, safe_name
from pipelines.shared.job import Job
from pipelines.shared.log import log, start_log

LOCAL = "http://127.0.0.1:8000"
LIMITS = {"files": 20, "unpacked_mb": 4.0, "upload_mb": 2.0, "queue": 4}


@pytest.fixture(scope="module")
def service(made_run, tmp_path_factory):
    root = tmp_path_factory.mktemp("root") / "allowed"
    root.mkdir()
    (root / "a.png").write_bytes(fundus(5))
    (root.parent / "secret.png").write_bytes(fundus(6))
    (root / "link.png").symlink_to(root.parent / "secret.png")
    (root / "inner").mkdir()
    (root / "inner" / "link").symlink_to(root.parent)
    service = Service(*opened(made_run, tmp_path_factory.mktemp("serve"), root=str(root), **LIMITS))
    service.check()
    yield service
    service.close()


@pytest.fixture
def client(service):
    yield TestClient(make_app(service), base_url=LOCAL, raise_server_exceptions=False)
    assert service.batcher.inside == 0
    assert list(service.incoming.iterdir()) == [], "files of a request are left"


def post(client, *files: tuple[str, bytes], **more):
    return client.post("/predict", files=[("file", file) for file in files], **more)


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


# --- names and paths ---


@settings(max_examples=50)
@given(st.text(max_size=150))
def test_a_name_never_leads_elsewhere(name):
    safe = safe_name(name, 7)
    assert safe not in ("", ".", "..")
    assert not {"/", "\\", "\0"} & set(safe)
    assert len(safe) <= 120
    assert safe_name(safe) == safe


@pytest.mark.parametrize("name", ["../../evil.png", "/etc/evil.png", "..\\..\\evil.png", "C:\\evil.png", "~/evil.png"])
def test_files_stay_where_they_are_put(client, service, name):
    before = sorted(service.scratch.rglob("*"))
    for content in (("x", fundus(1)), ("x.zip", zipped({name: fundus(1)}))):
        files = (name, content[1]) if content[0] == "x" else content
        done = post(client, files)
        assert done.status_code == 200, done.text
        assert done.json()["predictions"][0]["file"] == "evil.png"
    assert sorted(service.scratch.rglob("*")) == before


TRICKS = [
    "../secret.png",
    "/etc/passwd",
    "inner/../../secret.png",
    "link.png",
    "inner/link/secret.png",
    "inner/link",
    "a\0.png",
    "x" * 5000,
    ".",
    "",
    "none.png",
    "~/.ssh/id_rsa",
    "%2e%2e/secret.png",
    "a.png/../../secret.png",
]


@pytest.mark.slow
@pytest.mark.parametrize("path", TRICKS)
def test_a_path_leads_nowhere_else(client, path):
    done = client.post("/predict", data={"path": path})
    assert done.status_code in (400, 422)
    assert "secret" not in done.text


def test_what_lies_outside_is_not_even_told(service):
    """The same words for a file that is there and one that is not."""
    said = []
    for path in ("../secret.png", "../none.png", "none.png"):
        with pytest.raises(Refused) as refused:
            below(service.settings.root, path)
        said.append(str(refused.value))
    assert len(set(said)) == 1
    with pytest.raises(Refused, match="takes no paths"):
        below(None, "a.png")


def test_a_folder_with_a_link_that_leads_out_is_refused(client):
    assert "leads out" in client.post("/predict", data={"path": "inner"}).json()["reason"]


# --- archives ---


def test_an_archive_that_grows_is_stopped(client):
    bomb = zipped({"a.png": bytes(50_000_000)})
    assert len(bomb) < 100_000
    done = post(client, ("bomb.zip", bomb))
    assert done.status_code == 413
    assert "4 MB" in done.json()["reason"]


def test_an_archive_that_lies_about_its_size_is_stopped(client):
    bomb = bytearray(zipped({"a.png": bytes(50_000_000)}))
    for signature, offset in ((b"PK\3\4", 22), (b"PK\1\2", 24)):
        at = bomb.find(signature) + offset
        bomb[at : at + 4] = (100).to_bytes(4, "little")
    assert post(client, ("bomb.zip", bytes(bomb))).status_code in (413, 422)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (zipped({f"{k}.png": b"x" for k in range(21)}), "more than 20 files"),
        (zipped({"a/x.png": b"1", "b/x.png": b"2"}), "the same name"),
        (zipped({}), "no file that this study reads"),
        (zipped({"a.txt": b"x", "b.txt": b"y"}), "no file that this study reads"),
        (zipped({"a.png": fundus(0)})[:-30], "archive"),
        (zipped({"inner.zip": zipped({"a.png": fundus(0)})}), "is not a JPEG"),
        (b"PK\3\4" + bytes(200), "archive"),
    ],
)
def test_archives_that_are_refused(client, content, words):
    done = post(client, ("a.zip", content))
    assert done.status_code in (413, 422)
    assert words in done.json()["reason"]
    assert done.json()["remedy"]


def test_an_encrypted_archive(client):
    content = bytearray(zipped({"a.png": b"x"}))
    content[content.find(b"PK\1\2") + 8] |= 1
    assert "encrypted" in post(client, ("a.zip", bytes(content))).json()["reason"]


# --- bodies ---


def test_a_request_that_is_too_large(client):
    assert post(client, ("a.png", bytes(2_100_000))).status_code == 413

    def pieces():
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
        for _ in range(30):
            yield bytes(100_000)

    headers = {"content-type": "multipart/form-data; boundary=x"}
    assert client.post("/predict", content=pieces(), headers=headers).status_code == 413


def test_a_table_names_no_files(client):
    assert "table" in post(client, ("a.csv", b"path\n../secret.png\n")).json()["reason"]


def fuzzed(rng: random.Random, body: bytes) -> bytes:
    """A body with some of its bytes changed, cut out, doubled or cut off."""
    text = bytearray(body)
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(text))
        kind = rng.randrange(4)
        if kind == 0:
            text[at] = rng.randrange(256)
        elif kind == 1:
            del text[at : at + rng.randint(1, 40)]
        elif kind == 2:
            text[at:at] = text[at : at + rng.randint(1, 40)]
        else:
            text = text[: max(1, at)]
        text = text or bytearray(b"-")
    return bytes(text)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [*range(3), *(pytest.param(k, marks=pytest.mark.slow) for k in range(3, 10))])
def test_fuzzed_bodies_are_refused_or_answered(client, seed):
    rng = random.Random(seed)
    part = b'Content-Disposition: form-data; name="file"; filename="a.%s"\r\nContent-Type: image/png\r\n\r\n%s\r\n'
    bodies = [
        b"--b\r\n" + part % (b"png", fundus(1)) + b"--b--\r\n",
        b"--b\r\n" + part % (b"zip", zipped({"a.png": fundus(2), "b.png": b"x"})) + b"--b--\r\n",
        b'--b\r\nContent-Disposition: form-data; name="path"\r\n\r\na.png\r\n--b--\r\n',
    ]
    seen = set()
    for _ in range(100):
        content = fuzzed(rng, rng.choice(bodies))
        done = client.post("/predict", content=content, headers={"content-type": "multipart/form-data; boundary=b"})
        seen.add(done.status_code)
        assert done.status_code in (200, 400, 413, 422), done.text
        assert done.status_code == 200 or done.json()["reason"]
    assert 422 in seen
    assert post(client, ("a.png", fundus(0))).status_code == 200, "whatever came before"


# --- who may ask ---


def test_a_token(service):
    client = TestClient(make_app(service, "geheim"), base_url=LOCAL)
    basic = base64.b64encode(b"anyone:geheim").decode()
    for path in ("/", "/model", "/metrics", "/docs", "/openapi.json", "/static/page.js", "/none"):
        assert client.get(path).status_code == 401
        assert client.get(path, headers={"authorization": "Bearer wrong"}).status_code == 401
        assert client.get(path, headers={"authorization": "Basic !!"}).status_code == 401
        for known in ("Bearer geheim", f"Basic {basic}"):
            assert client.get(path, headers={"authorization": known}).status_code in (200, 404)
    assert "Basic" in client.get("/").headers["www-authenticate"]
    assert post(client, ("a.png", fundus(0))).status_code == 401
    assert client.get("/healthz").status_code == 200


def test_other_sites_pages_are_not_answered(client):
    assert client.get("/", headers={"host": "evil.example"}).status_code == 403
    assert client.get("/", headers={"host": "localhost:8000"}).status_code == 200
    assert client.get("/", headers={"host": "[::1]:8000"}).status_code == 200
    done = post(client, ("a.png", fundus(0)), headers={"origin": "http://evil.example"})
    assert done.status_code == 403
    assert post(client, ("a.png", fundus(0)), headers={"origin": LOCAL}).status_code == 200


def test_listening_for_others_needs_a_token(made_run, tmp_path, monkeypatch):
    monkeypatch.delenv("PIPELINES_TOKEN", raising=False)
    run, finished = opened(made_run, tmp_path / "s", host="0.0.0.0")
    with pytest.raises(ConfigError, match="PIPELINES_TOKEN"):
        server.listen(STUDY, Job(run.config, tmp_path / "s", ""), finished)
    run, finished = opened(made_run, tmp_path / "s", root=str(tmp_path / "none"))
    with pytest.raises(ConfigError, match=r"serve\.root"):
        server.listen(STUDY, Job(run.config, tmp_path / "s", ""), finished)
    with server.bound("127.0.0.1", 0) as door:
        door.listen()
        run, finished = opened(made_run, tmp_path / "s", port=door.getsockname()[1])
        with pytest.raises(ConfigError, match=r"serve\.port"):
            server.listen(STUDY, Job(run.config, tmp_path / "s", ""), finished)
    assert not (tmp_path / "s").exists(), "nothing was begun"


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "python_multipart", None)
    with pytest.raises(UserError, match=r"mode=serve needs .*: python-multipart\.(?s:.*)\.\[serve\]"):
        serve.SERVE.require("mode=serve")


# --- too many, too slow ---


def test_a_full_house_says_when_to_come_again(service):
    gate, app = threading.Event(), make_app(service)
    score = service.scorer.rows

    def slowly(root, files):
        gate.wait(PATIENCE)
        return score(root, files)

    service.scorer.rows = slowly
    try:
        with ThreadPoolExecutor(4) as pool:
            clients = [TestClient(app, base_url=LOCAL) for _ in range(5)]
            waiting = [pool.submit(post, c, ("a.png", fundus(0))) for c in clients[:4]]
            while service.batcher.inside < 4:
                time.sleep(0.01)
            done = post(clients[4], ("a.png", fundus(0)))
            gate.set()
            assert done.status_code == 503
            assert int(done.headers["retry-after"]) >= 1
            assert [w.result().status_code for w in waiting] == [200] * 4
    finally:
        gate.set()
        service.scorer.rows = score
    assert service.batcher.inside == 0


def test_what_waits_is_worked_on_together():
    gate = threading.Event()
    seen = []

    def work(tasks):
        seen.append(list(tasks))
        gate.wait(PATIENCE)
        return [ValueError(task) if task == 13 else 2 * task for task in tasks]

    batcher = Batcher(work, places=50, batch=5)
    futures = [batcher.submit(0)]
    while not seen:
        time.sleep(0.001)
    futures += [batcher.submit(task) for task in range(1, 15)]
    assert futures[3].cancel()
    gate.set()
    assert [f.result() for k, f in enumerate(futures) if k not in (3, 13)] == [
        2 * k for k in range(15) if k not in (3, 13)
    ]
    with pytest.raises(ValueError, match="13"):
        futures[13].result()
    assert seen == [[0], [1, 2, 4, 5, 6], [7, 8, 9, 10, 11], [12, 13, 14]]
    batcher.close()
    assert not batcher.alive
    with pytest.raises(Full):
        batcher.submit(1)


def test_several_threads_share_what_waits():
    gate, together = threading.Event(), threading.Barrier(3)
    seen = []

    def work(tasks):
        seen.append(list(tasks))
        if not gate.is_set():
            together.wait(PATIENCE)  # passed only if each of the three has work at once
            gate.wait(PATIENCE)
        return [-task for task in tasks]

    batcher = Batcher(work, places=50, batch=5, threads=3)
    futures = []
    for task in range(3):
        futures.append(batcher.submit(task))
        while len(seen) <= task:
            time.sleep(0.001)
    futures += [batcher.submit(task) for task in range(3, 12)]
    gate.set()
    assert [f.result(PATIENCE) for f in futures] == [-task for task in range(12)]
    assert sorted(task for tasks in seen for task in tasks) == list(range(12))
    assert max(map(len, seen)) <= 3  # a third of the nine that waited
    assert sum(size * times for size, times in batcher.sizes.items()) == 12
    batcher.close()
    assert not batcher.alive


def test_one_bad_request_of_a_batch_does_not_spoil_the_others(service, monkeypatch):
    score = service.scorer.rows

    def fails(root, files):
        if any("bad" in file for file in files):
            raise ValueError("Max Mustermann")
        return score(root, files)

    monkeypatch.setattr(service.scorer, "rows", fails)
    requests = []
    for name in ("a.png", "bad.png", "c.png"):
        folder = service.folder()
        (folder / name).write_bytes(fundus(1))
        requests.append(service.request(service.incoming, folder.relative_to(service.incoming), False))
    answers = service._work(requests)
    assert [isinstance(a, Exception) for a in answers] == [False, True, False]
    for folder in service.incoming.iterdir():
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()


@pytest.fixture
def listening(request, service, monkeypatch):
    """The service's port; a request may take 0.3 s to arrive, or as many as a test says."""
    import asyncio

    seconds = getattr(request, "param", 0.3)
    monkeypatch.setattr(server, "HEAD_SECONDS", seconds)
    monkeypatch.setattr(service, "settings", service.settings.model_copy(update={"seconds": seconds}))
    door = server.bound("127.0.0.1", 0)
    running = server.Server(server.server_config(make_app(service), 4))
    thread = threading.Thread(target=lambda: asyncio.run(running._serve([door])), daemon=True)
    thread.start()
    while not running.started:
        time.sleep(0.01)
    yield door.getsockname()[1]
    running.should_exit = True
    thread.join(PATIENCE)
    assert not thread.is_alive()


def sent(port: int, *pieces: bytes) -> bytes:
    """What comes back for some bytes, until the other side closes; nothing more is sent."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as line:
        for piece in pieces:
            line.sendall(piece)
        answer = b""
        while part := line.recv(65536):
            answer += part
        return answer


def answered(port: int, status: bytes, *pieces: bytes) -> bool:
    """Whether it answered, which must be with this status; it hangs up on a client that a busy machine slows."""
    answer = sent(port, *pieces)
    assert answer == b"" or answer.split(b" ")[1] == status, answer
    return answer != b""


def is_well(port: int) -> bool:
    return answered(port, b"200", b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")


@pytest.mark.slow
def test_slow_clients_are_cut_off(listening):
    head = b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    assert sent(listening) == b""
    assert sent(listening, head) == b""
    body = b"Content-Length: 100000\r\n\r\n", b"--b\r\n"
    wait_until(lambda: answered(listening, b"408", head, *body), "the end of a request whose body does not come")
    wait_until(lambda: is_well(listening), "an answer")


@pytest.mark.parametrize("listening", [PATIENCE], indirect=True)
def test_clients_that_leave_leave_nothing_behind(listening, service, tmp_path, monkeypatch):
    start_log(tmp_path)
    begun, enter = [], service.batcher.enter
    monkeypatch.setattr(service.batcher, "enter", lambda: begun.append(enter()))
    part = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n' + fundus(1)
    head = b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    for count, length in enumerate((len(part) + 9, 100_000), 1):  # gone before the answer, and before the body's end
        with socket.create_connection(("127.0.0.1", listening)) as line:
            line.sendall(head + f"Content-Length: {length}\r\n\r\n".encode() + part + b"\r\n--b--\r\n")
            wait_until(lambda: len(begun) == count, "its request to be let in")  # noqa: B023
    wait_until(lambda: not service.batcher.inside and not list(service.incoming.iterdir()), "the end of both")
    assert "defect" not in (tmp_path / "run.log").read_text()


def test_what_is_no_http_is_refused(listening):
    rng = random.Random(0)
    for _ in range(30):
        sent(listening, rng.randbytes(rng.randint(1, 2000)), b"\r\n\r\n")
    wait_until(lambda: is_well(listening), "an answer")


# --- logs ---


def test_no_name_gets_into_a_log(service, tmp_path, capfd, monkeypatch):
    root = logging.getLogger()
    handlers, filters = list(root.handlers), list(__import__("warnings").filters)
    start_log(tmp_path)
    server.keep_quiet()
    client = TestClient(make_app(service), base_url=LOCAL, raise_server_exceptions=False)
    name = "Mustermann_Max"
    post(client, (f"{name}.png", fundus(0)))
    post(client, (f"{name}.png", name.encode()))
    post(client, (f"{name}.zip", zipped({f"{name}.png": b"x", f"{name}2.png": b"x"})[:-20]))
    client.post("/predict", data={"path": f"{name}/a.png"})
    client.get(f"/{name}?{name}")
    gone = logging.StreamHandler((tmp_path / "gone").open("w"))
    gone.stream.close()
    root.addHandler(gone)
    root.error("%s", name)  # to a log that cannot be written any more

    def fails(root, files):
        raise ValueError(f"{name} {files}")

    monkeypatch.setattr(service.scorer, "rows", fails)
    done = post(client, (f"{name}.png", fundus(0)))
    assert done.status_code == 500
    assert name not in done.text
    logged = (tmp_path / "run.log").read_text() + "".join(capfd.readouterr())
    assert "defect: ValueError at test_serve_hostile.py" in logged
    assert name not in logged
    assert name not in client.get("/metrics").text
    for handler in list(log.handlers):
        log.removeHandler(handler)
        handler.close()
    root.handlers[:], __import__("warnings").filters[:] = handlers, filters
    logging.raiseExceptions = True
