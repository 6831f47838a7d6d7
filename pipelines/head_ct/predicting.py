"""`mode=predict`: any folder of DICOM files, one row per study, and a worklist; `mode=label`: reports without pictures.

predict leaves predictions.csv (one row per study by falling score, then one per faulty file), files.csv (one row per
file: used or why not) and worklist.html. Files and studies bear hashed names; which is which stands in the cache.
"""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pipelines.head_ct.archive import Archive, file_name, names_of, open_archive
from pipelines.head_ct.data import grid_of, prepare_settings
from pipelines.head_ct.labeller import critical_counts, label_reports, silver_columns
from pipelines.head_ct.metrics import SCORE, predict_columns
from pipelines.head_ct.page import concepts_page, worklist_page
from pipelines.head_ct.pseudonyms import Names
from pipelines.head_ct.stacks import Fault, Stack
from pipelines.shared.environment import stage, start
from pipelines.shared.errors import BadFile, ConfigError, DataError, RunError, nearest
from pipelines.shared.log import log
from pipelines.shared.records import read_csv
from pipelines.shared.run_folder import RunFolder, read_json, write_atomically
from pipelines.shared.screen import track

if TYPE_CHECKING:
    from pipelines.shared.job import Job
    from pipelines.shared.study import Study

SHOWN = 200  # studies with pictures on the worklist
LABELLED = 500  # reports on the page


def predict_studies(study: Study, job: Job) -> None:
    """Score every study below a folder. What cannot be scored has its reason."""
    config: Any = job.config
    finished = RunFolder(Path(str(config.run)))
    if not finished.networks() or not finished.operating_points.exists():
        raise RunError(f"run={finished.path} holds no finished network.", "Finish it first: mode=resume run=<folder>.")
    points = read_json(finished.operating_points)
    path = Path(config.input)
    if not path.exists():
        raise DataError(f"input={path} does not exist.", "Give a folder of DICOM files, or one file.")
    names = names_of(config)
    began = time.perf_counter()
    archive = open_archive(path, config, names, again=True)
    per_file = (time.perf_counter() - began) / max(1, archive.files)
    world, folder = start(study.title, job)
    if not world.main:
        return  # a worklist is made by one process
    root = (path.parent if path.is_file() else path).resolve()
    with stage(folder, "predict", world):
        rows, pictures, faults = _score_all(study, config, finished, archive, root, world, per_file, points)
    left = [*archive.faults, *faults]
    rows += [_failed("", s.study, s.reason or "no usable series") for s in archive.without]
    rows += [_failed(file_name(names, f.file), "", f.reason) for f in archive.faulty()]
    scored = [r for r in rows if r["reason"] is None]
    scored.sort(key=lambda r: -r[SCORE])
    rest = [r for r in rows if r["reason"] is not None]
    order = ["study", "file", "reason", SCORE, "p_at_least_8", "p_at_least_10", "alarm", "seconds", "slices", "series",
             "compressed", "warnings"]  # fmt: skip
    table = pd.DataFrame([*scored, *rest], columns=order)
    for column in ("alarm", "slices"):
        table[column] = table[column].astype("Int64")
    _write(folder.path / "predictions.csv", table)
    _write(folder.path / "files.csv", _files(archive, left, names))
    made_up = bool((archive.studies["maker"] == "Phantom").any())
    worklist_page(folder.path / "worklist.html", scored, pictures, len(rest), made_up)
    log.info(f"{len(scored)} studies scored, {len(rest)} rows that could not be; {archive.files} files")
    for reason, count in Counter(f.reason for f in left).most_common(12):
        log.info(f"  {count} {'file' if count == 1 else 'files'}: {reason}")
    log.info(f"which file is which (may name people): {archive.lookup}")
    print(folder.path / "predictions.csv")


def _score_all(
    study: Study, config: Any, finished: RunFolder, archive: Archive, root: Path, world: Any, per_file: float,
    points: list[dict[str, Any]],
) -> tuple[list[dict[str, Any]], dict[str, list[np.ndarray]], list[Fault]]:  # fmt: skip
    from pipelines.head_ct.archive import read_index
    from pipelines.head_ct.scoring import Scorer, key_slices, score_study
    from pipelines.shared.fitting import load_network

    networks = [load_network(study, p) for p in finished.networks()]
    precision = config.trainer.precision
    bf16 = precision == "bf16" or (precision == "auto" and world.device.type == "cuda")
    scorer = Scorer(networks, world.device, bf16)
    grid = grid_of(prepare_settings(config))
    scorer.score(np.zeros((grid.slices, grid.size, grid.size), np.int16))  # the first call also sets the network up
    threshold = next((p["threshold"] for p in points if p.get("alarm")), None)
    rows: list[dict[str, Any]] = []
    pictures: dict[str, list[np.ndarray]] = {}
    faults: list[Fault] = []
    table = archive.studies.to_dict("records")
    for place, known in enumerate(track(table, "Scoring studies", len(table))):
        stack = Stack.from_json(read_index(archive.folder / known["path"])["stack"])
        try:
            volume, values, facts = score_study(stack, root, grid, scorer)
            mine = dict(predict_columns(values[None]).iloc[0])
            faults += facts["faults"]
            warnings = [w for w in [known["warnings"], *facts["warnings"]] if w]
            files = len(set(stack.files))
            rows.append(
                {
                    "study": known["id"], "file": "", "reason": None, **mine,
                    "alarm": None if threshold is None else int(mine[SCORE] >= threshold),
                    "seconds": round(per_file * files + facts["volume_s"] + facts["network_s"], 4),
                    "slices": len(stack.files), "series": known["series"], "compressed": stack.compressed,
                    "warnings": "; ".join(warnings),
                }
            )  # fmt: skip
            if place < SHOWN:
                pictures[known["id"]] = key_slices(stack, root, grid, scorer.importance(volume))
        except BadFile as reason:
            rows.append(_failed("", known["id"], str(reason)))
    return rows, pictures, faults


def _failed(file: str, study: str, reason: str) -> dict[str, Any]:
    return {"study": study, "file": file, "reason": reason}


def _files(archive: Archive, left: list[Fault], names: Names) -> pd.DataFrame:
    """One row per file: its hashed name, whether it is used, and why not."""
    every = pd.read_csv(archive.lookup, dtype=str, keep_default_na=False, encoding_errors="surrogateescape")
    why = {}
    for f in left:
        why[file_name(names, f.file)] = ("faulty" if f.faulty else "left out", f.reason)
    pairs = [why.get(n, ("used", "")) for n in every["name"]]
    return pd.DataFrame({"file": every["name"], "what": [p[0] for p in pairs], "reason": [p[1] for p in pairs]})


def _write(file: Path, table: pd.DataFrame) -> None:
    write_atomically(file, lambda aside: table.to_csv(aside, index=False))


# --- mode=label ---


def label_table(study: Study, job: Job) -> None:
    """`mode=label input=<CSV>`: concepts in a table of reports, without pictures and without a trained network.

    Leaves mentions.csv, labels.csv (one row per report, by the row of the table) and reports.html.

    Raises:
        ConfigError: no input.
        DataError: no such table, or it lacks the column of reports.
    """
    config: Any = job.config
    if config.input is None:
        raise ConfigError("mode=label needs input=<CSV of reports>.", "Its column of reports is named report or text.")
    file = Path(config.input)
    table = read_csv(file, [])
    wanted = [getattr(config.data, "text_column", "report"), "report", "text", "Report", "Text"]
    column = next((c for c in wanted if c in table), None)
    if column is None:
        raise DataError(
            f"{file} has no column of reports; found: {', '.join(table.columns)}.", nearest("report", map(str, table))
        )
    world, folder = start(study.title, job)
    if not world.main:
        return
    with stage(folder, "label", world):
        reports = pd.DataFrame({"id": [f"row {i + 2}" for i in range(len(table))], "text": table[column].fillna("")})
        lexicon, terms = (Path(f) if f else None for f in (config.labels.lexicon, config.labels.terms))
        mentions = label_reports(reports, lexicon, terms)
        counts = critical_counts(mentions, list(reports["id"]))
        empty = reports["text"].str.strip() == ""
        labels = pd.DataFrame({"row": reports["id"], "concepts": counts, **silver_columns(counts)})
        labels.loc[empty, labels.columns[1:]] = np.nan
        _write(folder.path / "mentions.csv", mentions.rename(columns={"id": "row"}))
        _write(folder.path / "labels.csv", labels)
        concepts_page(folder.path / "reports.html", reports.iloc[:LABELLED], mentions, False)
    log.info(f"{len(reports)} reports, {int(empty.sum())} of them empty; {len(mentions)} mentions")
    print(folder.path / "reports.html")
