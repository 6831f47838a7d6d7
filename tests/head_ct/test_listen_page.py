"""The page shows the queue as the journal has it, notes what was read, and lets nobody else in."""

from __future__ import annotations

import os
import sys

import pytest

pytest.importorskip("fastapi", reason="the extra listen is not installed")
pytest.importorskip("pynetdicom", reason="the extra listen is not installed")

from conftest import compose
from fastapi.testclient import TestClient

from pipelines.head_ct import listen
from pipelines.head_ct.config import ListenSection
from pipelines.head_ct.listen.journal import Journal, Outcome
from pipelines.head_ct.listen.listening import check, owned, private
from pipelines.head_ct.listen.page import make_app
from pipelines.head_ct.listen.store import Store
from pipelines.head_ct.pseudonyms import Names
from pipelines.shared.cli.finished import with_finished_run
from pipelines.shared.config import ServeSection
from pipelines.shared.errors import ConfigError, UserError
from pipelines.shared.learning.method import training_keys
from pipelines.shared.run_folder import RunFolder, write_text

ABOUT = {
    "title": "Head CT", "run": "run<1>", "model": "abc", "threshold": 0.5, "notes": ["synthetic"], "node": "HEADCT@x:1",
}  # fmt: skip


@pytest.fixture
def store(tmp_path):
    """Three studies: a low score, a high one with an alarm, one that cannot be scored."""
    journal = Journal(tmp_path / "journal.sqlite")
    store = Store(tmp_path, journal, Names("salt"), free=0)
    for k, outcome in enumerate([Outcome(0.2, False), Outcome(0.9, True), Outcome(reason="no axial slices")]):
        store.take(f"1.{k}", f"1.{k}.1", b"x")
        journal.scored(store.study(f"1.{k}"), 1, outcome, 1e9)
    yield store
    journal.close()


def client_of(store, tmp_path, token=None, alive=True, host="127.0.0.1"):
    (tmp_path / "pictures").mkdir(exist_ok=True)
    app = make_app(store, tmp_path / "pictures", ServeSection(), token, lambda: alive, ABOUT)
    return TestClient(app, base_url=f"http://{host}")


def names(store):
    return [store.study(f"1.{k}") for k in range(3)]


def test_the_queue_is_ordered_and_what_has_no_score_keeps_its_place(store, tmp_path):
    low, high, without = names(store)
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / f"{high}.png").write_bytes(b"png")
    client = client_of(store, tmp_path)
    now = client.get("/queue").json()
    assert [(s["study"], s["place"], s["arrival"]) for s in now["waiting"]] == [
        (high, 1, 2), (low, 2, 1), (without, 3, 3)
    ]  # fmt: skip
    assert [s["reason"] for s in now["waiting"]] == [None, None, "no axial slices"]
    assert [s["picture"] for s in now["waiting"]] == [True, False, False]
    assert client.get(f"/pictures/{high}.png").content == b"png"
    assert client.get(f"/pictures/{low}.png").status_code == 404
    assert now["warnings"] == []


def test_slices_that_come_after_the_files_were_removed_are_told(store, tmp_path):
    _, high, _ = names(store)
    store.remove_old(before=1e12)
    store.take("1.1", "1.1.2", b"late")
    now = {s["study"]: s for s in client_of(store, tmp_path).get("/queue").json()["waiting"]}
    assert [study for study, s in now.items() if s["after_removal"]] == [high]
    assert (now[high]["place"], now[high]["score"], now[high]["late"], now[high]["to_score"]) == (1, 0.9, False, None)


def test_what_is_marked_as_read_leaves_the_queue_and_counts_in_the_trial(store, tmp_path):
    client, (low, high, _) = client_of(store, tmp_path), names(store)
    assert client.post(f"/studies/{high}/read", json={"critical": True}).status_code == 200
    assert client.post(f"/studies/{low}/read", json={"critical": False}).status_code == 200
    now = client.get("/queue").json()
    assert [s["study"] for s in now["read"]] == [low, high]
    assert len(now["waiting"]) == 1
    figures = now["figures"]
    assert (figures["critical"], figures["others"]) == (1, 1)
    assert (figures["critical_place"], figures["critical_arrival"]) == (1.0, 2.0)
    assert figures["p_wait"] == 1.0


@pytest.mark.parametrize("body", ["", "{}", '{"critical": "yes"}', '{"critical": 1}', "[]", "nonsense", "[" * 100_000])
def test_a_finding_that_is_none_is_refused(store, tmp_path, body):
    client, study = client_of(store, tmp_path), names(store)[0]
    answer = client.post(f"/studies/{study}/read", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422
    assert store.journal.entry(study).read is None


def test_nobody_else_marks_a_study(store, tmp_path):
    client, study = client_of(store, tmp_path), names(store)[0]
    url, good = f"/studies/{study}/read", {"critical": True}
    assert client.post(url, json=good, headers={"origin": "http://elsewhere"}).status_code == 403
    assert client.post(url, content='{"critical": true}', headers={"content-type": "text/plain"}).status_code == 422
    assert client_of(store, tmp_path, host="elsewhere").post(url, json=good).status_code == 403
    locked = client_of(store, tmp_path, token="secret")
    assert locked.post(url, json=good).status_code == 401
    assert store.journal.entry(study).read is None
    assert locked.post(url, json=good, headers={"authorization": "Bearer secret"}).status_code == 200


@pytest.mark.parametrize("name", ["..%2Fjournal", "ct-00", "ct-000000000000"])
def test_what_is_no_study_is_not_found(store, tmp_path, name):
    client = client_of(store, tmp_path)
    assert client.get(f"/pictures/{name}.png").status_code == 404
    assert client.post(f"/studies/{name}/read", json={"critical": True}).status_code == 404


def test_the_page_needs_no_network_and_says_what_it_is_not_for(store, tmp_path):
    client = client_of(store, tmp_path)
    page = client.get("/")
    assert "run&lt;1&gt;" in page.text
    assert "Not for medical use" in page.text
    assert "http" not in page.text.replace("http-equiv", "")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    for name, kind in (("queue.js", "text/javascript"), ("queue.css", "text/css"), ("page.css", "text/css")):
        assert client.get(f"/static/{name}").headers["content-type"].startswith(kind)
    assert client.get("/static/queue.html.j2").status_code == 404


def test_a_node_that_no_longer_scores_says_so(store, tmp_path):
    client = client_of(store, tmp_path, alive=False)
    assert "Scoring has stopped" in client.get("/queue").json()["warnings"][0]
    assert client.get("/healthz").status_code == 503
    assert client_of(store, tmp_path).get("/healthz").status_code == 200


# --- configuration ---


@pytest.mark.parametrize(
    "address", ["A@host:104", "A@[::1]:104", "http://host/dicom-web", "https://me@host:8042/dicom-web"]
)
def test_addresses_for_results(address):
    assert compose("head_ct", f"listen.send='{address}'").listen.send == address


@pytest.mark.parametrize(
    "wrong",
    [
        "listen.send=host:104",
        "listen.send='@host:104'",
        "listen.send=A@host",
        "listen.send=A@host:99999",
        "listen.send=SEVENTEEN_LETTERS@host:104",
        "listen.send='ftp://host/a'",
        "listen.send='http://'",
        "listen.ae_title=SEVENTEEN_LETTERS",
    ],
)
def test_mistakes_name_their_key(wrong):
    with pytest.raises(ConfigError, match=wrong.partition("=")[0].replace(".", r"\.")):
        compose("head_ct", wrong)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["http", "https", "HTTPS"])
def test_a_password_in_an_address_is_refused_and_not_repeated(scheme):
    with pytest.raises(ConfigError, match=r"listen\.send holds a password") as said:
        compose("head_ct", f"listen.send='{scheme}://me:s3@t@host:8042/a'")
    assert "PIPELINES_SEND_PASSWORD" in said.value.remedy
    assert "s3" not in str(said.value)


def test_a_user_of_an_archive_has_a_password_in_the_environment(monkeypatch):
    settings = ListenSection(send="https://me@host/a")
    monkeypatch.delenv("PIPELINES_SEND_PASSWORD", raising=False)
    with pytest.raises(ConfigError, match="names a user, and no password is set"):
        check(settings)
    check(ListenSection(send="ARCHIVE@host:104"))
    monkeypatch.setenv("PIPELINES_SEND_PASSWORD", "secret")
    check(settings)


def test_a_node_for_other_machines_names_who_may_send():
    with pytest.raises(ConfigError, match=r"listen\.callers names nobody"):
        check(ListenSection(host="0.0.0.0"))
    check(ListenSection(host="0.0.0.0", callers=["SCANNER"]))


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(UserError, match=r"not installed: highdicom\.") as said:
        listen.LISTEN.require("mode=listen")
    assert "'.[listen]'" in said.value.remedy


def test_two_nodes_do_not_share_a_folder(tmp_path):
    with owned(tmp_path), pytest.raises(ConfigError, match="another node works there"), owned(tmp_path):
        pass


def test_what_a_node_writes_is_for_its_owners_eyes_also_in_a_folder_that_was_there(tmp_path):
    folder = tmp_path / "node"
    folder.mkdir(mode=0o755)
    usual = os.umask(0o022)
    try:
        with private(), owned(folder):
            Journal(folder / "journal.sqlite").close()
            write_text(folder / "scratch" / "index" / "files.csv", "name,file\n")
        write_text(tmp_path / "report", "of another")
    finally:
        os.umask(usual)
    written = [f for f in folder.rglob("*") if f.is_file()]
    assert {f.name for f in written} >= {"journal.sqlite", "files.csv"}
    assert {f.stat().st_mode & 0o777 for f in written} == {0o600}
    assert (tmp_path / "report").stat().st_mode & 0o777 == 0o644, "as usual again"


def test_a_run_from_before_is_listened_with_and_keeps_what_is_its_own(tmp_path):
    values = compose("head_ct", f"run_dir={tmp_path}").model_dump()
    del values["listen"]
    RunFolder(tmp_path).write_config(values)

    def listening(*given):
        wanted = compose("head_ct", "mode=listen", f"run={tmp_path}", *given)
        return with_finished_run("head_ct", wanted, ["mode", "run", *(g.partition("=")[0] for g in given)])

    config = listening("listen.pause=1.5")
    assert (config.mode, config.listen.pause, config.preprocess.size) == ("listen", 1.5, values["preprocess"]["size"])
    with pytest.raises(ConfigError, match=r"'preprocess\.size' cannot be changed here"):
        listening("preprocess.size=96")


def test_how_a_node_listens_is_no_key_of_the_weights():
    base = training_keys(compose("head_ct"))
    assert training_keys(compose("head_ct", "listen.pause=9", "serve.port=1")) == base
