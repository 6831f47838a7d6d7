"""What a node has done so far, in SQLite: every step is committed before the next one counts on it.

A study's `revision` is the number of changes of its files, until they are removed: what comes afterwards is not the
whole study, and is not scored. A score belongs to a revision and is written once, in one transaction with the results
that are to be sent: a process that is killed at any moment, started again, goes on with what is due and does nothing
twice.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipelines.shared.errors import DataError

SCHEMA = """
CREATE TABLE IF NOT EXISTS studies (
    study TEXT PRIMARY KEY, arrived REAL NOT NULL, latest REAL NOT NULL, revision INTEGER NOT NULL,
    complete INTEGER NOT NULL DEFAULT 0, attempts INTEGER NOT NULL DEFAULT 0, read REAL, critical INTEGER
);
CREATE TABLE IF NOT EXISTS instances (
    study TEXT NOT NULL, instance TEXT NOT NULL, digest TEXT NOT NULL, PRIMARY KEY (study, instance)
);
CREATE INDEX IF NOT EXISTS by_instance ON instances (instance);
CREATE TABLE IF NOT EXISTS scores (
    study TEXT NOT NULL, revision INTEGER NOT NULL, at REAL NOT NULL, score REAL, alarm INTEGER, reason TEXT,
    seconds REAL, slices INTEGER, series TEXT, warnings TEXT, left_out TEXT, PRIMARY KEY (study, revision)
);
CREATE TABLE IF NOT EXISTS outbox (
    study TEXT NOT NULL, revision INTEGER NOT NULL, kind TEXT NOT NULL, due REAL NOT NULL,
    tries INTEGER NOT NULL DEFAULT 0, sent REAL, failure TEXT, PRIMARY KEY (study, revision, kind)
);
CREATE TABLE IF NOT EXISTS after_removal (study TEXT PRIMARY KEY);
CREATE INDEX IF NOT EXISTS by_reading ON studies (read);
"""
ATTEMPTS = 3  # at a study that ended the process each time
BY_ARRIVAL = "s.arrived, s.study"
CAPTURE = "sc"  # the kind of result that is made of key slices
PICTURES_TAKE = 600.0  # seconds that a capture waits for its key slices where nobody says that they are there


@dataclass(frozen=True)
class Outcome:
    """What scoring a study found: a score, or the reason why there is none.

    Attributes:
        score: P(critical).
        alarm: whether the score reaches the alarm's threshold; None: the run has none.
        reason: why there is no score; None where there is one.
        seconds: that it took.
        slices: of the series that was chosen.
        series: which one and by what rule.
        warnings: what to read the score with.
        left_out: files that were not used and why.
    """

    score: float | None = None
    alarm: bool | None = None
    reason: str | None = None
    seconds: float | None = None
    slices: int | None = None
    series: str | None = None
    warnings: str | None = None
    left_out: str | None = None


@dataclass(frozen=True)
class Entry:
    """A study in the journal. Times are seconds since 1970.

    Attributes:
        study: its hashed name.
        arrived: when its first slice was stored.
        latest: when its last one was.
        revision: changes of its files so far.
        files: that were stored.
        scored: revision that `outcome` belongs to, the last one scored; None: none yet.
        at: when that was.
        outcome: of that revision.
        read: when a radiologist was done with it; None: it waits.
        critical: what the radiologist found.
        unsent: results that wait to be sent.
        failure: why the last attempt to send one failed.
        after_removal: slices came after its files were removed; they are not scored.
    """

    study: str
    arrived: float
    latest: float
    revision: int
    files: int
    scored: int | None
    at: float | None
    outcome: Outcome | None
    read: float | None
    critical: bool | None
    unsent: int = 0
    failure: str | None = None
    after_removal: bool = False


@dataclass(frozen=True)
class Reading:
    """A study that was read: when it arrived, when it was read (seconds since 1970), and whether it was critical."""

    arrived: float
    read: float
    critical: bool


@dataclass(frozen=True)
class Letter:
    """A result that is to be sent: of which study and revision, what kind, how often it was tried."""

    study: str
    revision: int
    kind: str
    tries: int


class Journal:
    """The journal in a file. Its methods may be called from any thread; each is one transaction on disk.

    Raises:
        DataError: the file is no journal, or cannot be written.
    """

    def __init__(self, file: Path) -> None:
        self._lock = threading.RLock()
        try:
            self._db = sqlite3.connect(file, check_same_thread=False, isolation_level=None, timeout=30)
            try:
                self._open()
            except sqlite3.Error:
                self._db.close()
                raise
        except sqlite3.Error as failure:
            raise DataError(
                f"{file} cannot be used as the node's journal: {failure}.",
                "Restore it from a copy, or give the node another folder: listen.folder=<folder>.",
            ) from None

    def _open(self) -> None:
        """Raises sqlite3.Error for a file that is no journal, or is damaged anywhere."""
        self._db.row_factory = sqlite3.Row
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")  # a commit survives a power cut
        damage = self._db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if damage != "ok":
            raise sqlite3.DatabaseError(" ".join(str(damage).split()))
        self._db.executescript(SCHEMA)

    def close(self) -> None:
        """Nothing may be asked afterwards."""
        with self._lock:
            self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # SQLite may have taken it back itself, as on a full disk
                    self._db.execute("ROLLBACK")
                raise

    def _rows(self, question: str, *values: object) -> list[sqlite3.Row]:
        with self._lock:
            return self._db.execute(question, values).fetchall()

    # --- what arrives ---

    def received(self, study: str, instance: str, digest: str, now: float) -> bool:
        """Note a file that lies on disk; False if it is known just so, as when a sender repeats itself."""
        with self._transaction() as db:
            if self.digest(study, instance) == digest:
                return False
            if self.removed(study):
                db.execute("INSERT OR IGNORE INTO after_removal VALUES (?)", (study,))
            db.execute("INSERT OR REPLACE INTO instances VALUES (?, ?, ?)", (study, instance, digest))
            db.execute(
                "INSERT INTO studies (study, arrived, latest, revision) VALUES (?, ?, ?, 1) ON CONFLICT (study) "
                "DO UPDATE SET latest = excluded.latest, attempts = 0, "
                "revision = revision + (study NOT IN (SELECT study FROM after_removal))",
                (study, now, now),
            )
        return True

    def complete(self, studies: Iterable[str]) -> None:
        """A sender says that it has sent all of these studies: nothing is waited for until a further file comes."""
        with self._transaction() as db:
            db.executemany("UPDATE studies SET complete = revision WHERE study = ?", [(s,) for s in studies])

    def instances(self, study: str) -> dict[str, str]:
        """The hashed names of a study's files -> digest of what they held."""
        rows = self._rows("SELECT instance, digest FROM instances WHERE study = ?", study)
        return {row["instance"]: row["digest"] for row in rows}

    def digest(self, study: str, instance: str) -> str | None:
        """What is known of a file's content; None: no such file is there."""
        rows = self._rows("SELECT digest FROM instances WHERE study = ? AND instance = ?", study, instance)
        return str(rows[0]["digest"]) if rows else None

    def study_of(self, instance: str) -> str | None:
        """The study that a file belongs to; None: no such file is there."""
        rows = self._rows("SELECT study FROM instances WHERE instance = ?", instance)
        return str(rows[0]["study"]) if rows else None

    def removed(self, study: str) -> bool:
        """Whether it was here and its files were removed."""
        gone = "NOT EXISTS (SELECT 1 FROM instances AS i WHERE i.study = s.study)"
        return bool(self._rows(f"SELECT 1 FROM studies AS s WHERE study = ? AND {gone}", study))

    def forget_files(self, study: str) -> None:
        """Its files are to be removed; its scores and what was read stay."""
        with self._transaction() as db:
            db.execute("DELETE FROM instances WHERE study = ?", (study,))

    # --- what is scored ---

    def due(self, now: float, pause: float) -> tuple[str, int] | None:
        """The study that has waited longest to be scored, and its revision.

        It is complete: its sender said so, or nothing came for `pause` seconds. A clock that was set back by more than
        the pause counts as one; a slice may come between the caller's look at the clock and this question.
        """
        rows = self._rows(
            "SELECT study, revision FROM studies AS s WHERE NOT EXISTS "
            "(SELECT 1 FROM scores WHERE study = s.study AND revision = s.revision) "
            "AND (complete = revision OR latest + ? <= ? OR latest > ?) ORDER BY latest, study LIMIT 1",
            pause,
            now,
            now + pause,
        )
        return (str(rows[0]["study"]), int(rows[0]["revision"])) if rows else None

    def attempt(self, study: str) -> int:
        """Count an attempt at scoring before it begins: one that ends the process is not repeated for ever."""
        with self._transaction() as db:
            db.execute("UPDATE studies SET attempts = attempts + 1 WHERE study = ?", (study,))
            return int(db.execute("SELECT attempts FROM studies WHERE study = ?", (study,)).fetchone()["attempts"])

    def scored(self, study: str, revision: int, outcome: Outcome, now: float, send: Sequence[str] = ()) -> bool:
        """Write down an outcome and the results to send, both or neither; False if this revision has one already."""
        values = asdict(outcome)
        names, marks = ", ".join(values), ", ".join("?" * len(values))
        with self._transaction() as db:
            written = db.execute(
                f"INSERT OR IGNORE INTO scores (study, revision, at, {names}) VALUES (?, ?, ?, {marks})",
                (study, revision, now, *values.values()),
            ).rowcount
            if written:
                db.executemany(
                    "INSERT INTO outbox (study, revision, kind, due) VALUES (?, ?, ?, ?)",
                    [(study, revision, kind, now + (PICTURES_TAKE if kind == CAPTURE else 0)) for kind in send],
                )
        return bool(written)

    def pictured(self, study: str, revision: int, now: float) -> None:
        """The key slices of a score are there, or will not be: their capture need not wait for them any longer."""
        with self._transaction() as db:
            db.execute(
                "UPDATE outbox SET due = min(due, ?) WHERE study = ? AND revision = ? AND kind = ? AND sent IS NULL",
                (now, study, revision, CAPTURE),
            )

    # --- what is read ---

    def read(self, study: str, critical: bool, now: float) -> bool:
        """A radiologist has read it; a second answer corrects the finding, not the time. False: no such study."""
        with self._transaction() as db:
            return bool(
                db.execute(
                    "UPDATE studies SET read = coalesce(read, ?), critical = ? WHERE study = ?",
                    (now, int(critical), study),
                ).rowcount
            )

    def entries(self) -> list[Entry]:
        """All studies, by arrival."""
        return self._entries("1")

    def waiting(self) -> list[Entry]:
        """The studies that nobody has read, by arrival."""
        return self._entries("s.read IS NULL")

    def last_read(self, count: int) -> list[Entry]:
        """The studies that were read last, the latest first."""
        return self._entries("s.read IS NOT NULL", "s.read DESC, s.study LIMIT ?", count)

    def kept(self, before: float) -> list[Entry]:
        """The studies with files that nothing came for since, by arrival."""
        return self._entries(
            "s.latest < ? AND EXISTS (SELECT 1 FROM instances WHERE study = s.study)", BY_ARRIVAL, before
        )

    def entry(self, study: str) -> Entry | None:
        """One of them."""
        return next(iter(self._entries("s.study = ?", BY_ARRIVAL, study)), None)

    def last_score(self, study: str) -> Entry | None:
        """The same as of the last revision that has a score; a later one may have none. None: no revision has any."""
        found = self._entries("s.study = ? AND c.score IS NOT NULL", BY_ARRIVAL, study, of="score IS NOT NULL")
        return next(iter(found), None)

    def readings(self) -> list[Reading]:
        """All studies that were read, by arrival."""
        rows = self._rows("SELECT arrived, read, critical FROM studies WHERE read IS NOT NULL ORDER BY arrived, study")
        return [Reading(row["arrived"], row["read"], bool(row["critical"])) for row in rows]

    def _entries(self, which: str, order: str = BY_ARRIVAL, *values: object, of: str = "1") -> list[Entry]:
        """Studies, each with the last of its outcomes that fulfil `of`."""
        rows = self._rows(
            "SELECT s.*, c.revision AS scored, c.at, c.score, c.alarm, c.reason, c.seconds, c.slices, c.series, "
            "c.warnings, c.left_out, (SELECT count(*) FROM instances WHERE study = s.study) AS files, "
            "(SELECT count(*) FROM outbox WHERE study = s.study AND sent IS NULL) AS unsent, "
            "(SELECT failure FROM outbox WHERE study = s.study AND sent IS NULL AND failure IS NOT NULL "
            "ORDER BY revision DESC LIMIT 1) AS failure, "
            "s.study IN (SELECT study FROM after_removal) AS after_removal "
            "FROM studies AS s LEFT JOIN scores AS c ON c.study = s.study AND c.revision = "
            f"(SELECT max(revision) FROM scores WHERE study = s.study AND {of}) WHERE {which} ORDER BY {order}",
            *values,
        )
        return [_entry(row) for row in rows]

    # --- what is sent ---

    def letter(self, now: float) -> Letter | None:
        """The result that has waited longest to be sent."""
        rows = self._rows(
            "SELECT study, revision, kind, tries FROM outbox WHERE sent IS NULL AND due <= ? "
            "ORDER BY due, study LIMIT 1",
            now,
        )
        return Letter(**dict(rows[0])) if rows else None

    def sent(self, letter: Letter, now: float) -> None:
        """The receiver has it."""
        self._letter("sent = ?, failure = NULL, tries = tries + 1", letter, now)

    def unsent(self, letter: Letter, failure: str, due: float) -> None:
        """It could not be sent; it is tried again when it is due."""
        self._letter("failure = ?, due = ?, tries = tries + 1", letter, failure, due)

    def _letter(self, change: str, letter: Letter, *values: object) -> None:
        place = (letter.study, letter.revision, letter.kind)
        with self._transaction() as db:
            db.execute(f"UPDATE outbox SET {change} WHERE study = ? AND revision = ? AND kind = ?", (*values, *place))


def _entry(row: sqlite3.Row) -> Entry:
    values: dict[str, Any] = dict(row)
    found = {name: values[name] for name in Outcome.__dataclass_fields__}
    found["alarm"] = None if found["alarm"] is None else bool(found["alarm"])
    return Entry(
        study=values["study"],
        arrived=values["arrived"],
        latest=values["latest"],
        revision=values["revision"],
        files=values["files"],
        scored=values["scored"],
        at=values["at"],
        outcome=None if values["scored"] is None else Outcome(**found),
        read=values["read"],
        critical=None if values["critical"] is None else bool(values["critical"]),
        unsent=values["unsent"],
        failure=values["failure"],
        after_removal=bool(values["after_removal"]),
    )
