"""Killed at any moment and started again: no study is lost, none scored twice, no result sent that was not recorded."""

from __future__ import annotations

import sqlite3

import pytest

from pipelines.head_ct.listen.journal import Journal, Outcome, Reading
from pipelines.head_ct.listen.store import NoRoom, Store
from pipelines.head_ct.pseudonyms import Names
from pipelines.shared import run_folder
from pipelines.shared.errors import DataError

NAMES = Names("salt")
FOUND = Outcome(score=0.9, alarm=True, seconds=0.5, slices=2, series="axial")


class Killed(BaseException):
    """As if the process ended here."""


@pytest.fixture
def journal(tmp_path):
    journal = Journal(tmp_path / "journal.sqlite")
    yield journal
    journal.close()


def again(tmp_path):
    """The journal as a new process finds it."""
    return Journal(tmp_path / "journal.sqlite")


def test_a_study_is_due_after_a_pause_or_when_its_sender_says_so(journal):
    journal.received("ct-1", "in-1", "a", now=100)
    journal.received("ct-1", "in-2", "b", now=102)
    assert journal.due(now=104.9, pause=3) is None
    assert journal.due(now=105, pause=3) == ("ct-1", 2)
    journal.received("ct-2", "in-3", "c", now=104)
    journal.complete(["ct-2"])
    assert journal.due(now=104, pause=3) == ("ct-2", 1)
    journal.received("ct-2", "in-4", "d", now=104.5)  # it was not all
    assert journal.due(now=104.6, pause=3) is None
    assert journal.due(now=50, pause=3) == ("ct-1", 2), "the clock was set back"


def test_a_slice_that_comes_while_the_journal_is_asked_ends_no_study(journal):
    journal.received("ct-1", "in-1", "a", now=100.01)
    assert journal.due(now=100, pause=3) is None
    assert journal.due(now=103.01, pause=3) == ("ct-1", 1)


def test_what_is_sent_again_is_known_and_what_changed_is_scored_again(journal):
    assert journal.received("ct-1", "in-1", "a", now=1)
    assert not journal.received("ct-1", "in-1", "a", now=2)
    assert journal.entry("ct-1").latest == 1
    assert journal.scored("ct-1", 1, FOUND, now=3)
    assert journal.due(now=1000, pause=3) is None
    assert journal.received("ct-1", "in-1", "other", now=5)
    assert journal.due(now=8, pause=3) == ("ct-1", 2)
    entry = journal.entry("ct-1")
    assert (entry.files, entry.scored, entry.outcome) == (1, 1, FOUND), "the earlier score stands until then"


def test_a_revision_is_scored_once(journal):
    journal.received("ct-1", "in-1", "a", now=1)
    assert journal.scored("ct-1", 1, FOUND, now=3, send=["sr"])
    assert not journal.scored("ct-1", 1, Outcome(score=0.1), now=4, send=["sr"])
    letter = journal.letter(now=5)
    assert (letter.study, letter.revision, letter.kind, letter.tries) == ("ct-1", 1, "sr", 0)
    journal.sent(letter, now=5)
    assert journal.letter(now=1e9) is None
    assert journal.entry("ct-1").outcome == FOUND


def test_score_and_results_are_written_both_or_neither(tmp_path, journal):
    journal.received("ct-1", "in-1", "a", now=1)
    with pytest.raises(sqlite3.IntegrityError):
        journal.scored("ct-1", 1, FOUND, now=3, send=["sr", None])  # type: ignore[list-item]
    fresh = again(tmp_path)
    assert fresh.due(now=10, pause=3) == ("ct-1", 1)
    assert fresh.letter(now=10) is None
    fresh.close()


def test_a_result_that_could_not_be_sent_waits(journal):
    journal.received("ct-1", "in-1", "a", now=1)
    journal.scored("ct-1", 1, FOUND, now=3, send=["sr"])
    journal.unsent(journal.letter(now=3), "nobody answers", due=33)
    assert journal.letter(now=32) is None
    assert journal.letter(now=33).tries == 1
    assert (journal.entry("ct-1").unsent, journal.entry("ct-1").failure) == (1, "nobody answers")
    journal.sent(journal.letter(now=33), now=34)
    assert (journal.entry("ct-1").unsent, journal.entry("ct-1").failure) == (0, None)


def test_reading_is_noted_and_a_finding_can_be_corrected(journal):
    journal.received("ct-1", "in-1", "a", now=1)
    assert not journal.read("ct-0", True, now=2)
    assert journal.read("ct-1", True, now=2)
    assert journal.read("ct-1", False, now=9)
    assert (journal.entry("ct-1").read, journal.entry("ct-1").critical) == (2, False)


def test_what_waits_and_what_was_read_are_told_apart(journal):
    for k in range(5):
        journal.received(f"ct-{k}", f"in-{k}", "a", now=k)
    for k, now in ((3, 20), (0, 30), (4, 25)):
        journal.read(f"ct-{k}", k == 4, now)
    assert [e.study for e in journal.waiting()] == ["ct-1", "ct-2"]
    assert [e.study for e in journal.last_read(2)] == ["ct-0", "ct-4"]
    assert journal.readings() == [Reading(0, 30, False), Reading(3, 20, False), Reading(4, 25, True)]
    assert [e.study for e in journal.kept(before=3)] == ["ct-0", "ct-1", "ct-2"]
    assert journal.entry("ct-9") is None


def test_a_file_that_is_no_journal_is_said_so(tmp_path):
    (tmp_path / "other.sqlite").write_bytes(b"something else" * 1000)
    with pytest.raises(DataError, match=r"other\.sqlite cannot be used as the node's journal"):
        Journal(tmp_path / "other.sqlite")
    (tmp_path / "folder.sqlite").mkdir()
    with pytest.raises(DataError, match="unable to open"):
        Journal(tmp_path / "folder.sqlite")


def test_a_journal_that_is_damaged_anywhere_is_said_so(tmp_path, journal):
    for k in range(200):
        journal.received(f"ct-{k}", f"in-{k}", "digest" * 20, now=k)
    journal.close()
    file = tmp_path / "journal.sqlite"
    content = bytearray(file.read_bytes())
    for page in range(4096 * 6, len(content), 4096):
        content[page : page + 100] = b"\xff" * 100
    file.write_bytes(content)
    with pytest.raises(DataError, match="cannot be used as the node's journal"):
        Journal(file)


def test_after_a_commit_that_fails_the_journal_goes_on(journal):
    refuses, real = [True], journal._db

    class Full:
        in_transaction = property(lambda self: real.in_transaction)

        def execute(self, text, *values):
            if text == "COMMIT" and refuses.pop(0):
                raise sqlite3.OperationalError("database or disk is full")
            return real.execute(text, *values)

    journal._db = Full()
    with pytest.raises(sqlite3.OperationalError, match="full"):
        journal.received("ct-1", "in-1", "a", now=1)
    journal._db = real
    assert journal.entry("ct-1") is None
    assert journal.received("ct-1", "in-1", "a", now=1)


def test_attempts_are_counted_before_they_begin(tmp_path, journal):
    journal.received("ct-1", "in-1", "a", now=1)
    assert journal.attempt("ct-1") == 1
    fresh = again(tmp_path)
    assert fresh.attempt("ct-1") == 2
    fresh.received("ct-1", "in-2", "b", now=1)
    assert fresh.attempt("ct-1") == 1, "with another slice it may end otherwise"
    fresh.close()


def killed_at(monkeypatch, target, name, before):
    """From now on the process ends as it calls `target.name`: before it has done anything, or just after it."""
    work = getattr(target, name)

    def end(*arguments, **keywords):
        if not before:
            work(*arguments, **keywords)
        raise Killed

    monkeypatch.setattr(target, name, end)


@pytest.mark.parametrize("point", ["before write", "after write", "before journal", "after journal"])
def test_no_file_is_lost_wherever_storing_is_killed(tmp_path, journal, monkeypatch, point):
    from pipelines.head_ct.listen import store as module

    store = Store(tmp_path, journal, NAMES, free=0)
    store.take("1.2", "1.2.1", b"first")
    with monkeypatch.context() as patch:
        when, what = point.split()
        target, name = (module, "write_atomically") if what == "write" else (journal, "received")
        killed_at(patch, target, name, before=when == "before")
        with pytest.raises(Killed):
            store.take("1.2", "1.2.2", b"second")  # never acknowledged
    fresh = again(tmp_path)
    store = Store(tmp_path, fresh, NAMES, free=0)
    store.adopt()
    assert fresh.entry(store.study("1.2")).files == (1 if point == "before write" else 2)
    store.take("1.2", "1.2.2", b"second")  # the sender repeats what was not acknowledged
    entry = fresh.entry(store.study("1.2"))
    assert (entry.files, entry.revision) == (2, 2), "once each"
    files = sorted((store.root / entry.study).iterdir())
    assert sorted(f.read_bytes() for f in files) == [b"first", b"second"]
    fresh.close()


def test_a_half_written_file_is_no_file(tmp_path, journal, monkeypatch):
    store = Store(tmp_path, journal, NAMES, free=0)
    with monkeypatch.context() as patch:
        patch.setattr(run_folder.os, "fsync", lambda number: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            store.take("1.2", "1.2.1", b"first")
    assert store.adopt() == 0
    assert [f for f in store.root.rglob("*") if f.is_file()] == []


def test_names_on_disk_and_in_the_journal_are_hashed(tmp_path, journal):
    store = Store(tmp_path, journal, NAMES, free=0)
    store.take("1.2.840.99999", "1.2.840.77777", b"content")
    (file,) = store.root.rglob("*.dcm")
    assert file.relative_to(store.root).as_posix() == f"{NAMES.of('ct', '1.2.840.99999')}/{file.name}"
    dump = "\n".join(sqlite3.connect(tmp_path / "journal.sqlite").iterdump())
    assert "99999" not in dump
    assert "77777" not in dump
    assert NAMES.of("in", "1.2.840.77777") in dump


def test_a_disk_that_is_nearly_full_takes_nothing(tmp_path, journal):
    store = Store(tmp_path, journal, NAMES, free=1e18)
    with pytest.raises(NoRoom):
        store.take("1.2", "1.2.1", b"first")
    assert journal.entries() == []


def test_files_go_when_they_are_old_scored_and_sent(tmp_path, journal):
    store = Store(tmp_path, journal, NAMES, free=0)
    for uid in ("1.1", "1.2", "1.3"):
        store.take(uid, f"{uid}.1", b"content")
    sent, unsent, unscored = (store.study(uid) for uid in ("1.1", "1.2", "1.3"))
    journal.scored(sent, 1, FOUND, now=3)
    journal.scored(unsent, 1, FOUND, now=3, send=["sr"])
    assert store.remove_old(before=0) == []
    assert store.remove_old(before=1e12) == [sent]
    assert {f.name for f in store.root.iterdir()} == {unsent, unscored}
    assert journal.entry(sent).outcome == FOUND
    assert store.adopt() == 0


def test_what_comes_after_the_files_were_removed_takes_no_score_away(tmp_path, journal, monkeypatch):
    said = []
    monkeypatch.setattr("pipelines.head_ct.listen.store.log.warning", said.append)
    store = Store(tmp_path, journal, NAMES, free=0)
    study = store.study("1.1")
    store.take("1.1", "1.1.1", b"content")
    journal.scored(study, 1, FOUND, now=3)
    assert not journal.entry(study).after_removal
    for again in (1, 2):
        assert store.remove_old(before=1e12) == [study], "late slices are removed too"
        for number in (1, 2):
            store.take("1.1", f"1.1.{number}", b"late")
        assert journal.due(now=1e12, pause=3) is None
        entry = journal.entry(study)
        assert (entry.after_removal, entry.outcome, entry.files) == (True, FOUND, 2)
        assert len(said) == again, "once, not for each slice"
    store.take("1.2", "1.2.1", b"another study")
    assert journal.due(now=1e12, pause=3) == (store.study("1.2"), 1)


def test_results_that_nobody_takes_do_not_fill_the_disk(tmp_path, journal):
    store = Store(tmp_path, journal, NAMES, free=0)
    store.take("1.1", "1.1.1", b"content")
    study = store.study("1.1")
    journal.scored(study, 1, FOUND, now=3, send=["sr"])
    assert store.remove_old(before=1e12) == []
    store.free = 1e18
    assert store.remove_old(before=1e12) == [study]


def test_a_slice_with_other_content_takes_the_place_of_the_earlier_and_is_said(tmp_path, journal, monkeypatch):
    said = []
    monkeypatch.setattr("pipelines.head_ct.listen.store.log.warning", said.append)
    store = Store(tmp_path, journal, NAMES, free=0)
    for content in (b"first", b"first", b"other"):
        store.take("1.1", "1.1.1", content)
    (file,) = store.root.rglob("*.dcm")
    assert file.read_bytes() == b"other"
    assert journal.entry(store.study("1.1")).revision == 2
    assert len(said) == 1
    assert "came again with other content" in said[0]


def test_a_removal_that_is_killed_is_finished_later(tmp_path, journal, monkeypatch):
    store = Store(tmp_path, journal, NAMES, free=0)
    store.take("1.1", "1.1.1", b"content")
    study = store.study("1.1")
    journal.scored(study, 1, FOUND, now=3)
    with monkeypatch.context() as patch:
        killed_at(patch, journal, "forget_files", before=True)
        with pytest.raises(Killed):
            store.remove_old(before=1e12)
    store = Store(tmp_path, journal, NAMES, free=0)
    assert store.adopt() == 0
    assert store.remove_old(before=1e12) == [study]
    assert journal.entry(study).files == 0
    assert not list(tmp_path.rglob("*.dcm"))
