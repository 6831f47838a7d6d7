"""From a request's files to its answer, by a finished run: the same rows that `mode=predict` writes, as JSON."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

import pipelines
from pipelines.shared.errors import DataError, UserError, reason_of
from pipelines.shared.files import walk
from pipelines.shared.handover.scorer import Picture
from pipelines.shared.handover.serve.batching import Batcher
from pipelines.shared.handover.serve.uploads import Refused
from pipelines.shared.run import FinishedRun, Run
from pipelines.shared.run_folder import RunFolder, digest, read_json
from pipelines.shared.untaught import untaught_lines

NOTICE = "Research software. Not for medical use: no diagnosis, no treatment may rest on it."
Json = dict[str, Any]


@dataclass(frozen=True)
class Request:
    """Files that wait for their answer: `files` below `root`, called `names` in it."""

    root: Path
    files: list[str]
    names: list[str]
    pictures: bool = False


def rows_of(table: pd.DataFrame) -> list[Json]:
    """The rows of a table as Python's own values; what is missing is None."""
    columns = [
        [None if missing else value for value, missing in zip(column.tolist(), column.isna(), strict=True)]
        for _, column in table.items()
    ]
    names = [str(name) for name in table]
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


def fingerprint(finished: FinishedRun) -> str:
    """The SHA-256 of what a run's answer rests on: its networks' weights and descriptions, its frozen thresholds."""
    whole = hashlib.sha256()
    for folder in finished.networks:
        for file in (folder / "weights.safetensors", folder / "model.json"):
            whole.update(f"{folder.name}/{file.name} {digest(file)}\n".encode())
    whole.update(json.dumps(finished.operating_points, sort_keys=True).encode())
    if finished.prediction_sets:
        whole.update(json.dumps(finished.prediction_sets, sort_keys=True).encode())
    return whole.hexdigest()


class Service:
    """A finished run that answers requests, a few batches at a time.

    Args:
        run: its configuration says what is allowed (`serve`), its folder takes the log.
        finished: whose networks answer.
    """

    def __init__(self, run: Run[Any], finished: FinishedRun) -> None:
        self.settings, self.finished, self.study = run.config.serve, finished, run.study
        self.scratch = Path(tempfile.mkdtemp(prefix="serve-"))  # for its owner's eyes alone
        self.scratch = self.scratch.resolve()
        self.incoming, written = self.scratch / "in", RunFolder(self.scratch / "out")
        self.incoming.mkdir()
        self.scorer = run.study.scorer(replace(run, folder=written), finished, in_memory=True)
        self.fingerprint = fingerprint(finished)
        self.device = str(run.world.device)
        self.notes = notes_of(finished, self.device)
        self._count, self._lock = 0, threading.Lock()
        self.batcher: Batcher[Request, Json] = Batcher(
            self._work, self.settings.queue, self.settings.batch, alike=self._alike, threads=self.scorer.threads
        )

    def close(self) -> None:
        """Answer what waits, then remove all that was left on disk."""
        self.batcher.close()
        shutil.rmtree(self.scratch, ignore_errors=True)

    def folder(self) -> Path:
        """A new folder for the files of a request."""
        with self._lock:
            self._count += 1
            place = self.incoming / f"{self._count:09d}"
        place.mkdir()
        return place

    def request(self, root: Path, path: Path, pictures: bool) -> Request:
        """A request for all that there is to score in a file or folder (`path`, below `root`).

        Raises:
            Refused: nothing, or a file there is a link that leads out of `root`.
        """
        place = root / path
        if place.is_dir() and len(found := list(place.iterdir())) == 1 and found[0].is_file():
            place = found[0]  # whatever it is called
        if place.is_file() and place.suffix.lower() in {".csv", ".parquet"} - set(self.study.suffixes):
            raise Refused("A table of files is no file to score.", "Send the files themselves.")
        try:
            inputs = self.scorer.inputs(place)
        except UserError:
            reads = ", ".join(self.study.suffixes)
            raise Refused("The request holds no file that this study reads.", f"It reads: {reads}.") from None
        linked = root != self.incoming and place.is_dir()  # what is sent holds no links
        if linked and not all((place / file).resolve().is_relative_to(root) for file in walk(place)):
            raise Refused("A link there leads out of the service's folder.", "Name the files one by one.")
        if not self.scorer.together:
            return Request(inputs.root, inputs.files, inputs.files, pictures)
        here = inputs.root.relative_to(root)
        return Request(root, [str(here / file) for file in inputs.files], list(inputs.files), pictures)

    def _alike(self, request: Request) -> object:
        """What requests must share to be scored in one go: the folder above all uploads, or the allowed root."""
        return request.root if self.scorer.together else object()

    def _work(self, requests: Sequence[Request]) -> list[Json | Exception]:
        """Score requests that have a root in common; one table for all of them. Several threads do so at once.

        If that fails, each is scored by itself, so that nobody pays for another's file.
        """
        try:
            return self._together(requests)
        except Exception as failure:
            return [failure] if len(requests) == 1 else [self._work([request])[0] for request in requests]
        finally:
            shutil.rmtree(self.scratch / "out", ignore_errors=True)

    def _together(self, requests: Sequence[Request]) -> list[Json | Exception]:
        table = self.scorer.rows(requests[0].root, [file for request in requests for file in request.files])
        rows, columns = rows_of(table), [str(column) for column in table]
        if not self.scorer.together:
            return [self.answer(requests[0], rows, columns)]
        answers: list[Json | Exception] = []
        for request in requests:
            part, rows = rows[: len(request.files)], rows[len(request.files) :]
            named = [row | {"file": name} for row, name in zip(part, request.names, strict=True)]
            answers.append(self.answer(request, named, columns))
        return answers

    def answer(self, request: Request, rows: list[Json], columns: list[str]) -> Json:
        """What is said of one request."""
        decided = [
            {key: point.get(key) for key in ("task", "name", "score", "threshold", "chosen_on")}
            | {"decisions": [row.get(f"{point['task']}@{point['name']}") for row in rows]}
            for point in self.finished.operating_points
        ]
        shown: list[Picture] = []
        if request.pictures and rows and rows[0].get("reason") is None:
            shown = self.scorer.pictures(request.root, request.files[0])
        return {
            "study": self.study.name,
            "run": self.finished.folder.path.name,
            "model": self.fingerprint,
            "version": pipelines.__version__,
            "device": self.device,
            "notice": NOTICE,
            "warnings": [*self.notes, *dict.fromkeys(str(row["warnings"]) for row in rows if row.get("warnings"))],
            "columns": columns,
            "predictions": rows,
            "operating_points": decided,
            "pictures": [
                {"title": p.title, "overlay": p.overlay, "png": base64.b64encode(p.png).decode()} for p in shown
            ],
        }

    def check(self) -> None:
        """Answer a file that cannot be read, so that what is slow the first time is over before anybody waits."""
        began = time.perf_counter()
        folder = self.folder()
        (folder / "nothing").touch()
        try:
            self.batcher.submit(Request(self.incoming, [f"{folder.name}/nothing"], ["nothing"])).result()
        except DataError:  # it is refused, as it should be
            pass
        except Exception as failure:
            raise RuntimeError(f"The service cannot answer: {reason_of(failure)}") from failure
        finally:
            shutil.rmtree(folder)
        self.batcher.seconds = time.perf_counter() - began


def notes_of(finished: FinishedRun, device: str) -> list[str]:
    """What every answer should be read with."""
    notes = untaught_lines(finished.untaught)
    if finished.folder.flow.exists() and read_json(finished.folder.flow).get("synthetic"):
        notes.append("The networks were trained on synthetic data: what they say of a person means nothing.")
    trained = str(read_json(finished.folder.environment).get("device")) if finished.folder.environment.exists() else ""
    if trained and (trained == "CPU") != (device == "cpu"):
        notes.append(f"Thresholds were chosen on another device ({trained}): scores may differ in their last digits.")
    return notes
