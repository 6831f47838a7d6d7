"""The thread that scores the studies that are complete, by the code of `mode=predict`, one after the other."""

from __future__ import annotations

import shutil
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pandas as pd

from pipelines.head_ct.listen.journal import ATTEMPTS, Journal, Outcome
from pipelines.head_ct.metrics import SCORE
from pipelines.shared.errors import UserError, reason_of
from pipelines.shared.log import log
from pipelines.shared.run_folder import RunFolder, write_atomically

if TYPE_CHECKING:
    from pipelines.head_ct.config import HeadCtConfig
    from pipelines.head_ct.listen.store import Store
    from pipelines.head_ct.predicting import StudyScorer
    from pipelines.shared.handover.scorer import Picture
    from pipelines.shared.run import FinishedRun, Run

LOOK = 0.1  # seconds between two looks at the journal when nothing comes


class Scores(Protocol):
    """What scores a folder: `predicting.StudyScorer`."""

    def rows(self, root: Path, files: list[str]) -> pd.DataFrame: ...  # noqa: D102
    def pictures(self, root: Path, file: str) -> list[Picture]: ...  # noqa: D102
    def left_out(self) -> str | None: ...  # noqa: D102


def scorer_of(run: Run[HeadCtConfig], finished: FinishedRun, scratch: Path) -> StudyScorer:
    """The scorer of `mode=predict`; what it writes of a study goes below `scratch`."""
    from pipelines.head_ct.predicting import StudyScorer

    return StudyScorer(replace(run, folder=RunFolder(scratch)), finished)


class Desk(threading.Thread):
    """Scores what is due until it is told to stop.

    Args:
        store: where the studies lie.
        scorer: what scores them.
        pause: seconds without a further slice after which a study is complete.
        send: kinds of results to send of each study that has a score.
        pictures: the folder of the key slices, `<study>.png`.
        scratch: what the scorer writes; emptied after each study.
    """

    def __init__(
        self, store: Store, scorer: Scores, pause: float, send: list[str], pictures: Path, scratch: Path
    ) -> None:
        super().__init__(name="scoring", daemon=True)
        self.store, self.scorer, self.pause, self.send = store, scorer, pause, send
        self.pictures, self.scratch = pictures, scratch
        self.came, self._leave = threading.Event(), threading.Event()
        self._unwritten: dict[str, str] = {}  # study -> why this process could not write down its outcome

    @property
    def journal(self) -> Journal:
        """Where outcomes are written."""
        return self.store.journal

    def stop(self) -> None:
        """End after the study that is being scored."""
        self._leave.set()
        self.came.set()

    def run(self) -> None:
        """Until it is stopped. Whatever happens here, images are taken and the queue is shown."""
        while not self._leave.is_set():
            try:
                if not self.step():
                    self.came.wait(LOOK)
                    self.came.clear()
            except Exception as failure:
                log.error(f"scoring: {reason_of(failure)}; it is tried again")
                self._leave.wait(10 * LOOK)

    def step(self) -> bool:
        """Score the study that is due, if there is one."""
        due = self.journal.due(time.time(), self.pause)
        if due is None:
            return False
        study, revision = due
        if self.journal.attempt(study) > ATTEMPTS:
            why = self._unwritten.get(study)
            said = f"what scoring it gave could not be written down: {why}" if why else "scoring it ended the program"
            outcome = Outcome(reason=f"given up after {ATTEMPTS} attempts: {said}")
        else:
            outcome = self.outcome(study)
        kinds = self.send if outcome.reason is None else []
        if outcome.reason is None:
            with suppress(OSError):  # the key slices of an earlier revision must not go with this score
                (self.pictures / f"{study}.png").unlink(missing_ok=True)
        try:
            new = self.journal.scored(study, revision, outcome, time.time(), kinds)
        except Exception as failure:
            self._unwritten[study] = f"{type(failure).__name__}: {failure}"
            raise
        self._unwritten.pop(study, None)
        if new:
            said = f"no score: {outcome.reason}" if outcome.reason else f"{outcome.score:.4f}"
            log.info(f"{study} ({revision}): {said}{', alarm' if outcome.alarm else ''}")
        self._picture(study, outcome)
        self.journal.pictured(study, revision, time.time())
        shutil.rmtree(self.scratch, ignore_errors=True)
        return True

    def outcome(self, study: str) -> Outcome:
        """What `mode=predict` would say of its files; a reason whatever goes wrong."""
        try:
            table = self.scorer.rows(self.store.root, [study])
        except UserError as failure:
            return Outcome(reason=failure.problem)
        except Exception as failure:
            return Outcome(reason=reason_of(failure))
        left_out = self.scorer.left_out()
        scored = table[(table["study"] == study) & table["reason"].isna() & table[SCORE].notna()]
        if scored.empty:
            reasons = [str(r) for r in table["reason"].dropna()]
            return Outcome(reason=reasons[0] if reasons else "no usable series", left_out=left_out)
        row: Any = scored.astype(object).where(scored.notna(), None).iloc[0].to_dict()
        return Outcome(
            score=float(row[SCORE]),
            alarm=None if row["alarm"] is None else bool(row["alarm"]),
            seconds=row["seconds"],
            slices=None if row["slices"] is None else int(row["slices"]),
            series=row["series"],
            warnings=row["warnings"],
            left_out=left_out,
        )

    def _picture(self, study: str, outcome: Outcome) -> None:
        """Key slices, after the score is written down: the alarm does not wait for them."""
        try:
            shown = self.scorer.pictures(self.store.root, study) if outcome.reason is None else []
            if shown:
                write_atomically(self.pictures / f"{study}.png", lambda aside: aside.write_bytes(shown[0].png))
        except Exception as failure:  # its score stands
            log.warning(f"{study}: no key slices: {reason_of(failure)}")
