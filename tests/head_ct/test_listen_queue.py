"""Complete studies are scored once, whatever happens; the queue and the trial's figures follow from the journal."""

from __future__ import annotations

import sqlite3
import time

import numpy as np
import pandas as pd
import pytest
from scipy.stats import mannwhitneyu

from pipelines.head_ct.listen.figures import figures, queue
from pipelines.head_ct.listen.journal import ATTEMPTS, Entry, Journal, Outcome, Reading
from pipelines.head_ct.listen.scoring import Desk
from pipelines.head_ct.listen.store import Store
from pipelines.head_ct.metrics import SCORE
from pipelines.head_ct.pseudonyms import Names
from pipelines.shared.errors import DataError
from pipelines.shared.handover.scorer import Picture


class Killed(BaseException):
    """As if the process ended here."""


class Scripted:
    """A scorer that answers what a test says; `failure` is raised instead."""

    def __init__(self):
        self.calls, self.failure, self.reason = [], None, None

    def rows(self, root, files):
        self.calls.append(files[0])
        if self.failure is not None:
            raise self.failure
        found = len(list((root / files[0]).glob("*.dcm")))
        row = {"study": files[0], "file": None, "reason": self.reason, SCORE: found / 10, "alarm": int(found > 5)}
        return pd.DataFrame([row | {"seconds": 0.1, "slices": found, "series": "axial", "warnings": None}])

    def left_out(self):
        return "1 file: is a scout"

    def pictures(self, root, file):
        return [Picture("key slices", b"png")]


@pytest.fixture
def desk(tmp_path):
    journal = Journal(tmp_path / "journal.sqlite")
    store = Store(tmp_path, journal, Names("salt"), free=0)
    yield Desk(store, Scripted(), 0.0, ["sr"], tmp_path / "pictures", tmp_path / "scratch")
    journal.close()


def test_a_complete_study_is_scored_once_and_a_late_slice_scores_it_again(desk):
    desk.store.take("1.2", "1.2.1", b"first")
    study = desk.store.study("1.2")
    assert desk.step()
    assert not desk.step()
    outcome = desk.journal.entry(study).outcome
    assert outcome == Outcome(0.1, False, None, 0.1, 1, "axial", None, "1 file: is a scout")
    assert (desk.pictures / f"{study}.png").read_bytes() == b"png"
    desk.store.take("1.2", "1.2.2", b"late")
    assert desk.step()
    assert desk.journal.entry(study).outcome.score == 0.2
    assert desk.scorer.calls == [study] * 2


def test_a_capture_waits_for_the_key_slices_of_its_own_score(desk):
    desk.send, study, seen = ["sr", "sc"], desk.store.study("1.2"), []

    def pictures(root, file):
        seen.append(((desk.pictures / f"{study}.png").exists(), sent_now(desk.journal)))
        return [Picture("key slices", b"png")]

    def sent_now(journal):
        kinds = []
        while letter := journal.letter(time.time()):
            kinds.append((letter.revision, letter.kind))
            journal.sent(letter, 1)
        return kinds

    desk.scorer.pictures = pictures
    for number in (1, 2):
        desk.store.take("1.2", f"1.2.{number}", b"slice")
        assert desk.step()
        assert seen.pop() == (False, [(number, "sr")]), "the report does not wait; no earlier key slices are sent"
        assert sent_now(desk.journal) == [(number, "sc")]


def test_key_slices_stay_for_the_capture_when_a_later_revision_has_no_score(desk):
    desk.store.take("1.2", "1.2.1", b"first")
    assert desk.step()
    desk.scorer.failure = ValueError("odd")
    desk.store.take("1.2", "1.2.2", b"late")
    assert desk.step()
    assert (desk.pictures / f"{desk.store.study('1.2')}.png").exists()


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_while_scoring_it_is_scored_by_the_next_process(desk, monkeypatch, tmp_path, when):
    desk.store.take("1.2", "1.2.1", b"first")
    work = desk.journal.scored

    def end(*arguments):
        if when == "after":
            work(*arguments)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(desk.journal, "scored", end)
        with pytest.raises(Killed):
            desk.step()
    journal = Journal(tmp_path / "journal.sqlite")
    again = Desk(Store(tmp_path, journal, Names("salt"), 0), Scripted(), 0.0, ["sr"], desk.pictures, desk.scratch)
    assert again.step() == (when == "before")
    assert not again.step()
    letters = [journal.letter(1e12)]
    journal.sent(letters[0], 1)
    assert journal.letter(1e12) is None, "its result is to be sent once"
    journal.close()


@pytest.mark.parametrize(
    ("failure", "said"),
    [(DataError("No CT slice among the 1 files there.", "Give others."), "No CT slice"), (ValueError("odd"), "odd")],
)
def test_what_cannot_be_scored_is_in_the_queue_with_its_reason(desk, failure, said):
    desk.scorer.failure = failure
    desk.store.take("1.2", "1.2.1", b"first")
    assert desk.step()
    assert not desk.step()
    (entry,) = queue(desk.journal.entries())
    assert said in entry.outcome.reason
    assert desk.journal.letter(1e12) is None


def test_a_study_that_ends_the_process_is_given_up(desk):
    desk.scorer.failure = Killed()
    desk.store.take("1.2", "1.2.1", b"first")
    for _ in range(ATTEMPTS):
        with pytest.raises(Killed):
            desk.step()
    assert desk.step()
    said = f"given up after {ATTEMPTS} attempts: scoring it ended the program"
    assert desk.journal.entries()[0].outcome.reason == said


def test_an_outcome_that_cannot_be_written_is_given_up_for_what_it_is(desk, monkeypatch):
    def full(*arguments):
        raise sqlite3.OperationalError("database or disk is full")

    desk.store.take("1.2", "1.2.1", b"first")
    with monkeypatch.context() as patch:
        patch.setattr(desk.journal, "scored", full)
        for _ in range(ATTEMPTS):
            with pytest.raises(sqlite3.OperationalError):
                desk.step()
    assert desk.step()
    assert desk.journal.entries()[0].outcome.reason == (
        f"given up after {ATTEMPTS} attempts: what scoring it gave could not be written down: "
        "OperationalError: database or disk is full"
    )
    desk.store.take("1.2", "1.2.2", b"second")
    assert desk.step()
    assert desk.journal.entries()[0].outcome.score is not None, "a further slice is a new beginning"


def entry(study, arrived, score=None, scored=True):
    outcome = Outcome(score=score, reason=None if score is not None else "odd") if scored else None
    return Entry(study, arrived, arrived, 1, 1, 1 if scored else None, arrived, outcome, None, None)


def test_scores_order_the_queue_and_what_has_none_keeps_its_place():
    entries = [
        entry("a", 1, 0.2), entry("b", 2), entry("c", 3, 0.9), entry("d", 4, scored=False), entry("e", 5, 0.5),
        entry("g", 8, 0.5),
    ]  # fmt: skip
    assert [e.study for e in queue(entries)] == ["c", "b", "e", "d", "g", "a"]


def test_the_figures_are_those_of_the_trial():
    rng = np.random.default_rng(0)
    truth = rng.random(40) < 0.3
    reads = 1000 + rng.permutation(40) * 60.0 - 500 * truth
    found = figures([Reading(10.0 * k, reads[k], bool(truth[k])) for k in range(40)])
    waits = reads - 10.0 * np.arange(40)
    assert (found.critical, found.others) == (truth.sum(), (~truth).sum())
    assert found.critical_wait == pytest.approx(waits[truth].mean())
    assert found.others_wait == pytest.approx(waits[~truth].mean())
    assert found.p_wait == pytest.approx(mannwhitneyu(waits[truth], waits[~truth]).pvalue)
    places = np.argsort(np.argsort(reads, kind="stable")) + 1
    assert found.critical_place == pytest.approx(places[truth].mean())
    assert found.p_arrival == pytest.approx(mannwhitneyu(np.flatnonzero(truth) + 1, np.flatnonzero(~truth) + 1).pvalue)


def test_figures_of_nothing_and_of_one_class_are_none():
    assert figures([]).critical_wait is None
    only = figures([Reading(1, 5, True), Reading(1, 9, True)])
    assert (only.critical_wait, only.others_wait, only.p_wait) == (6.0, None, None)
