"""`mode=predict`: any folder of DICOM files, one row per study, and a worklist; `mode=label`: reports without pictures.

predict leaves predictions.csv (one row per study by falling score, then one per faulty file), files.csv (one row per
file: used or why not) and worklist.html. Files and studies bear hashed names; which is which stands in the cache. Each
study is written down as soon as it is scored, so a run that was cut off goes on after the last one.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pipelines.head_ct.archive import Archive, file_name, names_of, open_archive, read_index
from pipelines.head_ct.config import HeadCtConfig
from pipelines.head_ct.data import grid_of, prepare_settings
from pipelines.head_ct.labeller import critical_counts, label_reports, silver_columns
from pipelines.head_ct.measures import volume_measures
from pipelines.head_ct.metrics import SCORE, predict_columns
from pipelines.head_ct.page import concepts_page, worklist_page
from pipelines.head_ct.pseudonyms import Names
from pipelines.head_ct.stacks import Stack
from pipelines.head_ct.volumes import onto_grid
from pipelines.shared.cli.environment import stage, start
from pipelines.shared.cli.inputs import Inputs, score_in_parts
from pipelines.shared.data.ranges import beyond
from pipelines.shared.data.tables import read_csv
from pipelines.shared.errors import ConfigError, DataError, counted, nearest, reason_of
from pipelines.shared.handover.scorer import Picture, Scorer, png_of
from pipelines.shared.judging.prediction_sets import with_set_columns
from pipelines.shared.log import log
from pipelines.shared.run import FinishedRun, Run, open_finished
from pipelines.shared.run_folder import RunFolder, read_picture, write_csv, write_png
from pipelines.shared.screen import print_path
from pipelines.shared.stats.operating_points import is_positive
from pipelines.shared.untaught import untaught_lines

if TYPE_CHECKING:
    from pipelines.shared.job import Job
    from pipelines.shared.study import Study

COLUMNS = [
    "study", "file", "reason", SCORE, "p_at_least_8", "p_at_least_10", "alarm", "seconds", "slices", "series",
    "compressed", "warnings",
]  # fmt: skip
SHOWN = 200  # studies with pictures on the worklist, those with the highest scores
LABELLED = 500  # reports on the page


def predict_studies(study: Study[HeadCtConfig], job: Job) -> None:
    """Score every study below a folder. What cannot be scored has its reason."""
    config: Any = job.config
    finished = open_finished(study, config.run)
    path = Path(config.input)
    if not path.exists():
        raise DataError(f"input={path} does not exist.", "Give a folder of DICOM files, or one file.")
    names = names_of(config)
    archive, per_file = _timed_archive(path, config, names)
    run = start(study, job)
    folder = run.folder
    root = (path.parent if path.is_file() else path).resolve()
    for line in untaught_lines(finished.untaught):
        log.warning(line)
    with stage(run, "predict"):
        scoring = _Scoring(Networks(run, finished), archive, root, per_file)
        studies = list(archive.studies["id"])
        size = max(1, len(studies) // 100)  # so much at most is done again after a cut
        table = score_in_parts(folder, studies, scoring.rows, run.world, size) if studies else scoring.rows([])
        predictions = _predictions(table, archive, names, finished)
        scored = predictions[predictions["reason"].isna()]
        pictures = {name: scoring.pictures(name, folder) for name in scored["study"][:SHOWN]}
    unread = dict(pair for text in table["unread"].dropna() for pair in json.loads(text))
    write_csv(folder.path / "predictions.csv", predictions)
    files = _files(archive, unread, names)
    write_csv(folder.path / "files.csv", files)
    made_up = bool((archive.studies["maker"] == "Phantom").any())
    rest = len(predictions) - len(scored)
    worklist_page(folder.path / "worklist.html", _plain(scored), pictures, rest, made_up)
    for reason, count in Counter(files["reason"][files["what"] != "used"]).most_common():
        log.info(f"  {counted(count, 'file')}: {reason}")
    log.info(f"which file is which (may name people): {archive.lookup}")
    log.info(f"{len(scored)} studies scored, {rest} rows that could not be; {archive.files} files, all in files.csv")
    print_path(folder.path / "predictions.csv")


def _timed_archive(path: Path, config: HeadCtConfig, names: Names) -> tuple[Archive, float]:
    """What lies there, and the seconds that reading a file's header took on average."""
    began = time.perf_counter()
    archive = open_archive(path, config, names, again=True)
    return archive, (time.perf_counter() - began) / max(1, archive.files)


def _predictions(table: pd.DataFrame, archive: Archive, names: Names, finished: FinishedRun) -> pd.DataFrame:
    """Rows of predictions.csv: scored studies by falling score, then what could not be scored, with its reason."""
    table = table.assign(file=None).astype({SCORE: float})
    scored = table[table["reason"].isna()].sort_values(SCORE, ascending=False, kind="stable")
    failed = [{"study": s.study, "reason": s.reason or "no usable series"} for s in archive.without]
    failed += [{"file": file_name(names, f.file), "reason": f.reason} for f in archive.faulty()]
    rest = pd.concat([table[table["reason"].notna()], pd.DataFrame(failed, columns=["study", "file", "reason"])])
    predictions = pd.concat([scored, rest])[COLUMNS]
    for column in ("alarm", "slices"):
        predictions[column] = predictions[column].astype("Int64")
    return with_set_columns(predictions, finished.prediction_sets)


class StudyScorer(Scorer[HeadCtConfig]):
    """A finished run, ready for folders of DICOM files; what is written of them goes into the folder of `run`.

    The studies' names are those of `mode=predict`; the table that tells whose files they are is not kept.
    """

    together = False

    def __init__(self, run: Run[HeadCtConfig], finished: FinishedRun) -> None:
        super().__init__(run, finished)
        self.names, self.networks = names_of(run.config), Networks(run, finished)
        self._last: tuple[_Scoring, list[str]] | None = None

    def inputs(self, path: Path) -> Inputs:
        """A folder, or a file, as a whole."""
        return Inputs(path.parent, [path.name], [])

    def rows(self, root: Path, files: list[str]) -> pd.DataFrame:
        """Rows of all studies below one folder.

        Raises:
            DataError: there is no CT slice.
        """
        self._last, path = None, root / files[0]
        cache = self.run.config.cache.model_copy(update={"dir": str(self.run.folder.path / "index")})
        config = self.run.config.model_copy(update={"cache": cache})
        archive, per_file = _timed_archive(path, config, self.names)
        scoring = _Scoring(self.networks, archive, (root if path.is_file() else path).resolve(), per_file)
        table = scoring.rows(list(archive.studies["id"]))
        predictions = _predictions(table, archive, self.names, self.finished)
        self._last = scoring, list(predictions.loc[predictions["reason"].isna(), "study"])
        return predictions

    def left_out(self) -> str | None:
        """The files that `rows` did not use the last time, counted by their reason; None where it used all."""
        if self._last is None:
            return None
        reasons = Counter(fault.reason for fault in self._last[0].archive.faults)
        return "; ".join(f"{counted(n, 'file')}: {reason}" for reason, n in reasons.most_common()) or None

    def pictures(self, root: Path, file: str) -> list[Picture]:
        """The key slices of the study with the highest score, of those that `rows` scored last."""
        if self._last is None or not self._last[1]:
            return []
        scoring, studies = self._last
        shown = scoring.pictures(studies[0], self.run.folder)
        title = "Key slices: without them the score would fall most"
        return [Picture(title, png_of(np.concatenate(shown, axis=1)))] if shown else []


class Networks:
    """The networks of a finished run, loaded, and the threshold of its alarm."""

    def __init__(self, run: Run[HeadCtConfig], finished: FinishedRun) -> None:
        from pipelines.head_ct.learner import HeadCtLearner
        from pipelines.head_ct.scoring import Scorer as VolumeScorer
        from pipelines.shared.learning.hardware import uses_bf16
        from pipelines.shared.learning.method import load_network

        learner = HeadCtLearner.from_model(run.config, next(iter(finished.models.values())))
        networks = [load_network(run, learner, path) for path in finished.networks]
        bf16 = uses_bf16(run.config.trainer, run.world)
        self.scorer = VolumeScorer(networks, run.world.device, bf16, learner.probabilities)
        self.grid = grid_of(prepare_settings(run.config))
        points = finished.operating_points
        grid = self.grid
        self.scorer.score(np.zeros((grid.slices, grid.size, grid.size), np.int16))  # the first call also sets it up
        self.ranges = finished.training_ranges
        self.threshold = next((p["threshold"] for p in points if p.get("alarm")), None)
        self.no_alarm = (
            "" if points else "no alarm: the run has no threshold, as its training or val part lacked a class"
        )


class _Scoring:
    """The networks of a finished run over the studies of an archive."""

    def __init__(self, networks: Networks, archive: Archive, root: Path, per_file: float) -> None:
        self.networks, self.scorer, self.grid = networks, networks.scorer, networks.grid
        self.known = {row["id"]: row for row in archive.studies.to_dict("records")}
        self.archive, self.root, self.per_file = archive, root, per_file

    def _index(self, name: str) -> tuple[Stack, dict[str, str]]:
        """A study's stack, and the hashed names of its files."""
        index = read_index(self.archive.folder / self.known[name]["path"])
        return Stack.from_json(index["stack"]), {file: hashed for file, hashed, *_ in index["files"]}

    def rows(self, studies: list[str]) -> pd.DataFrame:
        """A row per study; one that cannot be scored, whatever is wrong with it, has its reason."""
        found = []
        for name in studies:
            try:
                found.append(self._row(name))
            except Exception as failure:  # one study never ends a batch
                found.append({"study": name, "reason": reason_of(failure)})
        table = pd.DataFrame(found, columns=[*COLUMNS, "unread"])
        return table.assign(file=table["study"])

    def _row(self, name: str) -> dict[str, Any]:
        from pipelines.head_ct.scoring import score_study

        known, (stack, names) = self.known[name], self._index(name)
        volume, values, metadata = score_study(stack, self.root, self.grid, self.scorer)
        scores = dict(predict_columns(values[None]).iloc[0])
        threshold = self.networks.threshold
        alarm = None if threshold is None else int(is_positive(scores[SCORE], threshold))
        seconds = self.per_file * len(names) + metadata["volume_s"] + metadata["network_s"]
        odd = beyond(volume_measures(volume, stack), self.networks.ranges)
        said = [known["details"], *metadata["warnings"], self.networks.no_alarm, odd]
        return {
            "study": name, "reason": None, **scores, "alarm": alarm, "seconds": round(seconds, 4),
            "slices": len(stack.files), "series": known["series"], "compressed": stack.compressed,
            "warnings": "; ".join(w for w in said if w) or None,
            "unread": json.dumps([[names[f.file], f.reason] for f in metadata["faults"]]),
        }  # fmt: skip

    def pictures(self, name: str, folder: RunFolder) -> list[np.ndarray]:
        """A study's key slices, from the run folder where they were made before."""
        from pipelines.head_ct.scoring import KEY_SIZE, key_slices

        file = folder.path / "key_slices" / f"{name}.png"
        if not file.exists():
            stack, _ = self._index(name)
            try:
                volume, _ = onto_grid(stack, self.root, self.grid)
                slices = key_slices(stack, self.root, self.grid, self.scorer.importance(volume))
            except Exception as failure:  # its score stands
                log.info(f"no key slices of {name}: {reason_of(failure)}")
                return []
            if not slices:
                return []
            write_png(file, np.concatenate(slices, axis=1))
        whole = read_picture(file)
        return np.split(whole, whole.shape[1] // KEY_SIZE, axis=1)


def _plain(table: pd.DataFrame) -> list[dict[str, Any]]:
    return table.astype(object).where(table.notna(), None).to_dict("records")  # type: ignore[return-value]


def _files(archive: Archive, unread: dict[str, str], names: Names) -> pd.DataFrame:
    """One row per file: its hashed name, whether it is used, and why not."""
    every = pd.read_csv(archive.lookup, dtype=str, keep_default_na=False)
    why = {file_name(names, f.file): ("faulty" if f.faulty else "left out", f.reason) for f in archive.faults}
    why |= {name: ("faulty", reason) for name, reason in unread.items()}
    pairs = [why.get(n, ("used", "")) for n in every["name"]]
    return pd.DataFrame({"file": every["name"], "what": [p[0] for p in pairs], "reason": [p[1] for p in pairs]})


# --- mode=label ---


def table_of_reports(file: Path, text_column: str) -> pd.DataFrame:
    """The reports of a table, `id` ("row 2" is the first) and `text` (empty where there is none).

    Args:
        file: CSV or Parquet.
        text_column: the column of reports; one named report or text, in upper or lower case, serves as well.

    Raises:
        DataError: no such table or column, or no report in it.
    """
    table = read_csv(file, [])
    named = [c for c in table if str(c).lower() in ("report", "text")]
    column = next((c for c in [text_column, *named] if c in table), None)
    if column is None:
        raise DataError(
            f"{file} has no column of reports; found: {', '.join(table.columns)}.",
            nearest("report", list(table.columns)),
        )
    if table[column].isna().all():
        raise DataError(f"{file}: the column '{column}' is empty in every row.", "Give a table with reports in it.")
    return pd.DataFrame({"id": [f"row {i + 2}" for i in range(len(table))], "text": table[column].fillna("")})


def label_table(study: Study[HeadCtConfig], job: Job) -> None:
    """`mode=label input=<CSV>`: concepts in a table of reports, without pictures and without a trained network.

    Leaves mentions.csv, labels.csv (one row per report, by the row of the table) and reports.html.

    Raises:
        ConfigError: no input.
        DataError: no such table, or it lacks the column of reports, or no report has a text, or one is no report.
    """
    config: Any = job.config
    if config.input is None:
        raise ConfigError("mode=label needs input=<CSV of reports>.", "Its column of reports is named report or text.")
    reports = table_of_reports(Path(config.input), getattr(config.data, "text_column", "report"))
    run = start(study, job)
    folder = run.folder
    with stage(run, "label"):
        lexicon, terms = (Path(f) if f else None for f in (config.labels.lexicon, config.labels.terms))
        mentions = label_reports(reports, lexicon, terms)
        counts = critical_counts(mentions, list(reports["id"]))
        empty = reports["text"].str.strip() == ""
        labels = pd.DataFrame({"row": reports["id"], "concepts": counts, **silver_columns(counts)})
        labels.loc[empty, labels.columns[1:]] = np.nan
        write_csv(folder.path / "mentions.csv", mentions.rename(columns={"id": "row"}))
        write_csv(folder.path / "labels.csv", labels)
        concepts_page(folder.path / "reports.html", reports.iloc[:LABELLED], mentions, False)
    log.info(f"{len(reports)} reports, {int(empty.sum())} of them empty; {len(mentions)} mentions")
    print_path(folder.path / "reports.html")
