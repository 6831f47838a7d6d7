"""`mode=predict`: recordings of any length, window by window with overlap, in bounded memory.

Leaves predictions.csv (one row per file), episodes.csv, steps.parquet, and per file a WFDB annotation file
`annotations/<file>.rhy` and a picture of strips `figures/<file>.png`, where <file> is the whole relative path; of a
recording of an hour or more also a page, `holter/<file>/report.html`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pipelines.ecg import signals
from pipelines.ecg.annotations import write_rhythms
from pipelines.ecg.architecture import Architecture
from pipelines.ecg.config import CLASSES, EcgConfig
from pipelines.ecg.data import SUFFIXES, prepare_settings, scaled
from pipelines.ecg.holter import LONG, clock, write_summary
from pipelines.ecg.labels import MASKED, NOTES, RATE, STEP, episodes
from pipelines.ecg.measures import recording_measures
from pipelines.ecg.metrics import SCORES
from pipelines.ecg.plots import Strip, strips
from pipelines.ecg.recording import Recording
from pipelines.ecg.rhythm_sets import recording_sets, set_columns
from pipelines.ecg.taught import Taught, taught
from pipelines.ecg.wfdb_files import WFDB, beside, read_header
from pipelines.shared.cli.environment import stage, start
from pipelines.shared.cli.inputs import Inputs, input_files, score_in_parts
from pipelines.shared.data.ranges import warned
from pipelines.shared.errors import BadFile, UnusableRecord, counted, reason_of
from pipelines.shared.files import output_name, shown_name
from pipelines.shared.handover.scorer import Picture, Scorer
from pipelines.shared.judging.prediction_sets import FrozenSets
from pipelines.shared.log import log
from pipelines.shared.run import FinishedRun, Run, open_finished
from pipelines.shared.run_folder import RunFolder, write_atomically, write_csv
from pipelines.shared.screen import print_path, track
from pipelines.shared.stats.bootstrap import Bootstrap

if TYPE_CHECKING:
    from pipelines.shared.job import Job
    from pipelines.shared.study import Study

# A batch of prepared windows, float32 (windows, steps * 256) -> probabilities (windows, steps, 12).
Answer = Callable[[np.ndarray], np.ndarray]
SHOWN = 7  # steps of a strip
STRIPS = 8  # in a picture
COUNTS = ("steps", "missing_samples", "episodes")  # the whole numbers of predictions.csv


def plan(steps: int, size: int, overlap: int) -> list[tuple[int, int, int]]:
    """Windows over a recording: (first step, first kept, last kept + 1), kept parts touching and covering all steps.

    Every kept step has `overlap` steps of context on either side, except at the ends of the recording.
    """
    if steps <= size:
        return [(0, 0, steps)]
    found, kept, k = [], 0, 0
    while kept < steps:
        first = min(k * (size - 2 * overlap), steps - size)
        last = steps if first + size == steps else first + size - overlap
        found.append((first, kept, last))
        kept, k = last, k + 1
    return found


def label_recording(
    recording: Recording, answer: Answer, settings: dict[str, Any], overlap: int, at_once: int, what: str
) -> np.ndarray:
    """Probabilities of every step, float64 (steps, 12); NaN where the signal is a flat line or has a gap.

    At most `at_once` windows of signal are in memory, whatever the recording's length.

    Raises:
        BadFile: the file turns out to be truncated or damaged, or holds infinite samples.
    """
    size = settings["steps"]
    windows = plan(recording.steps, size, overlap)
    result = np.full((recording.steps, len(CLASSES)), np.nan)
    lost, flat = np.zeros(recording.steps, bool), np.zeros(recording.steps, bool)
    groups = [windows[i : i + at_once] for i in range(0, len(windows), at_once)]
    for group in track(groups, what, len(groups)):
        begin, end = group[0][0] * STEP, min(group[-1][0] + size, recording.steps) * STEP
        signal = signals.read_stretch(recording, begin, end)
        arrays, places = [], []
        for first, kept, last in group:
            of_its_own = signal[kept * STEP - begin : last * STEP - begin]
            lost[kept:last], flat[kept:last] = signals.lost_steps(of_its_own), signals.flat_steps(of_its_own)
            try:
                arrays.append(scaled(signal[first * STEP - begin :][: size * STEP], settings))
            except UnusableRecord:  # nothing but a flat line or gaps
                continue
            places.append((first, kept, last))
        if arrays:
            for p, (first, kept, last) in zip(answer(np.stack(arrays)), places, strict=True):
                result[kept:last] = p[kept - first : last - first]
    result[lost | signals.flat_lines(flat)] = np.nan
    return result


def named(probabilities: np.ndarray, names: Sequence[str] = CLASSES) -> list[str]:
    """The most probable of the names for every step, from (steps, names); `MASKED` where there is no answer."""
    known = ~np.isnan(probabilities).any(axis=1)
    best = np.where(known, np.nan_to_num(probabilities).argmax(axis=1), len(names))
    return [[*names, MASKED][i] for i in best]


def score_columns(p: np.ndarray, known: Taught) -> pd.DataFrame:
    """`p_<class>` of every step, null where training taught no such answer; then `p_<label>` of sums that it taught."""
    columns = pd.DataFrame(p, columns=SCORES)
    columns[[f"p_{name}" for name in known.missing]] = np.nan
    sums = [name for name in known.names if name not in CLASSES]
    answers = pd.DataFrame(known.answers(p), columns=known.names)[sums]
    return columns.join(answers.add_prefix("p_"))


def episode_table(
    file: str, labels: list[str], probabilities: np.ndarray, names: Sequence[str] = CLASSES
) -> pd.DataFrame:
    """One row per episode: file, start_s, end_s, rhythm, mean probability of that rhythm, steps."""
    rows = []
    for episode in episodes(labels):
        first, last = episode.start // STEP, episode.end // STEP
        known = episode.rhythm != MASKED
        mean = probabilities[first:last, names.index(episode.rhythm)].mean() if known else None
        rows.append(
            {
                "file": file,
                "start_s": round(episode.start / RATE, 2),
                "end_s": round(episode.end / RATE, 2),
                "rhythm": episode.rhythm if known else "unreadable",
                "probability": mean,
                "steps": last - first,
            }
        )
    return pd.DataFrame(rows)


def predict_recordings(study: Study[EcgConfig], job: Job) -> None:
    """Label recordings. Every file is a row of predictions.csv; one that cannot be read has its reason there.

    What is known of each file is kept as soon as it is labelled: a run that was cut off goes on after it (mode=resume).
    """
    WFDB.require("mode=predict")  # every answer is an annotation file too
    config: Any = job.config
    finished = open_finished(study, config.run)
    inputs, segments = recordings(Path(config.input))
    run = start(study, job)
    folder = run.folder
    scorer = RecordingScorer(run, finished)
    known = scorer.known
    with stage(run, "predict"):
        table = score_in_parts(folder, inputs.files, partial(scorer.courses, inputs.root), run.world, size=1)
        labelled = [
            (str(file), np.reshape(np.stack(p), (-1, len(CLASSES))))
            for file, p in zip(table["file"], table.pop("steps_p"), strict=True)
            if p is not None
        ]
        _write_steps(folder, labelled, known, finished.prediction_sets)
        file = folder.path / "predictions.csv"
        write_csv(file, table)
    more = f"; {counted(segments, 'segment')} read with their records" if segments else ""
    log.info(inputs.closing(int(table["reason"].isna().sum())) + more)
    print_path(file)


def recordings(path: Path) -> tuple[Inputs, int]:
    """The recordings of a file or folder, and how many segments are read with them."""
    return whole_records(input_files(signals.signal_file(path), SUFFIXES))


def whole_records(inputs: Inputs) -> tuple[Inputs, int]:
    """The inputs as recordings: what belongs to a WFDB record is no file of its own. And how many segments do."""
    headers = {f for f in inputs.files if Path(f).suffix.lower() == ".hea"}
    stems = {str(Path(f).with_suffix("")) for f in headers}
    belonging: set[str] = set()
    for file in headers:
        try:
            header = read_header(inputs.root / file)
        except BadFile:
            continue  # its row will say why
        names = [signal.file for signal in header.signals]
        names += [beside(Path(name), "hea").name for name, _ in header.segments or ()]
        belonging.update(str(Path(file).with_name(name)) for name in names)
    tables = [f for f in inputs.files if Path(f).suffix.lower() == ".csv" and str(Path(f).with_suffix("")) in stems]
    files = [f for f in inputs.files if f not in belonging and f not in tables]
    others = [f for f in inputs.others if str(f) not in belonging and str(f.with_suffix("")) not in stems]
    whole = replace(inputs, files=files, others=[*others, *map(Path, tables)])
    return whole, len(headers & belonging)


class RecordingScorer(Scorer[EcgConfig]):
    """A finished run, ready for recordings. `in_memory`: annotations and strips are not written.

    Raises:
        MissingPackage: without the extra `ecg` no WFDB record can be read.
    """

    together = False

    def __init__(self, run: Run[EcgConfig], finished: FinishedRun, in_memory: bool = False) -> None:
        WFDB.require("Labelling recordings")  # said once, and not of each file
        super().__init__(run, finished)
        self.answer, self.in_memory = _answer(run, finished), in_memory
        self.known = taught(Architecture.of(next(iter(finished.models.values()))).trained, run.config.labels)

    def inputs(self, path: Path) -> Inputs:
        """Whole records."""
        return recordings(path)[0]

    def rows(self, root: Path, files: list[str]) -> pd.DataFrame:
        """One row per recording."""
        return self.courses(root, files).drop(columns="steps_p")

    def courses(self, root: Path, files: list[str]) -> pd.DataFrame:
        """The same with `steps_p`, a recording's probabilities, step after step."""
        folder = None if self.in_memory else self.run.folder
        found = [self._row(root, file, folder) for file in files]
        table = pd.DataFrame(found)
        return table.astype({column: "Int64" for column in COUNTS if column in table})  # whole also beside a bad file

    def _row(self, root: Path, file: str, folder: RunFolder | None, page: bool = True) -> dict[str, Any]:
        """Label one recording; if there is a folder for them, write its annotations, its picture and, if it is long,
        its `page`."""
        config: Any = self.run.config
        name, settings, known = shown_name(file), prepare_settings(config), self.known
        row: dict[str, Any] = {"file": name, "reason": None, "warnings": None, "steps_p": None}
        try:
            recording = signals.open_recording(root / file, settings["leads"], settings["sampling_rate"])
            what, predict = f"Labelling {name}", config.predict
            p = label_recording(recording, self.answer, settings, predict.overlap, predict.windows, what)
            if np.isnan(p).all():
                raise BadFile("nothing but flat lines and gaps")
            labels = named(known.answers(p), known.names)
            row |= _summary(recording, labels, p, known) | recording_sets(p, self.finished.prediction_sets)
            if ranges := self.finished.training_ranges:
                row["warnings"] = warned(row["warnings"], recording_measures(recording, settings["steps"]), ranges)
            shown = _strips(recording, labels, p) if folder is not None else []
        except Exception as failure:  # whatever one file does, every other gets its row
            return row | {"reason": reason_of(failure)}
        if folder is not None:
            _write_annotations(folder.path / "annotations", output_name(file), labels, recording)
            picture = strips(folder.figures / f"{output_name(file)}.png", shown)
            if page and len(labels) * STEP >= LONG * RATE:
                bootstrap = Bootstrap(config.statistics.resamples, config.seed, config.statistics.level)
                write_summary(folder.path / "holter" / output_name(file), name, labels, known.names, picture, bootstrap)
        return row | {"steps_p": p.ravel()}

    def pictures(self, root: Path, file: str) -> list[Picture]:
        """Strips with their rhythms."""
        self._row(root, file, self.run.folder, page=False)
        shown = self.run.folder.figures / f"{output_name(file)}.png"
        return [Picture("Strips with the rhythm of every step", shown.read_bytes())] if shown.exists() else []


def _write_steps(folder: RunFolder, labelled: list[tuple[str, np.ndarray]], known: Taught, sets: FrozenSets) -> None:
    """episodes.csv and steps.parquet of all recordings that have an answer."""
    courses = [(file, named(known.answers(p), known.names), p) for file, p in labelled]
    found = [episode_table(file, labels, known.answers(p), known.names) for file, labels, p in courses]
    write_csv(folder.path / "episodes.csv", pd.concat(found) if found else pd.DataFrame())
    of_steps = [frozen for frozen in sets if frozen.get("unit") is None]
    tables = [
        score_columns(p, known).join(set_columns(p, of_steps)).assign(file=file, step=range(len(p)), rhythm=labels)
        for file, labels, p in courses
    ]
    if tables:
        every = pd.concat(tables, ignore_index=True)
        first = ["file", "step", "rhythm"]
        every = every[[*first, *(c for c in every if c not in first)]]
        folder.write_table(folder.path / "steps.parquet", every)


def _answer(run: Run[EcgConfig], finished: FinishedRun) -> Answer:
    """The ensemble of a finished run as a function of prepared windows."""
    import torch

    from pipelines.ecg.learner import EcgLearner
    from pipelines.shared.learning.hardware import uses_bf16
    from pipelines.shared.learning.method import load_network

    learner, device = EcgLearner(run.config), run.world.device
    networks = [load_network(run, learner, path).eval() for path in finished.networks]
    bf16 = uses_bf16(run.config.trainer, run.world)

    def answer(windows: np.ndarray) -> np.ndarray:
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            batch = torch.from_numpy(windows).to(device)
            parts = [learner.probabilities(network(batch).float().cpu().numpy()) for network in networks]
        mean: np.ndarray = np.mean(parts, axis=0)
        return mean

    return answer


def _summary(recording: Recording, labels: list[str], p: np.ndarray, known: Taught) -> dict[str, Any]:
    """What predictions.csv says of one file. `p_<class>` is the mean over its steps; `untaught`: why one is empty."""
    beyond = recording.samples - recording.steps * STEP
    means = score_columns(p[~np.isnan(p).any(axis=1)], known).mean()
    clipped, missing = _quality(recording)
    return {
        "warnings": signals.MISSING if missing else None,
        "lead": recording.lead,
        "seconds": round(recording.length / recording.rate, 2),
        "steps": len(labels),
        "unlabelled_s": round((labels.count(MASKED) * STEP + beyond) / RATE, 2),
        "missing_samples": missing,
        "clipped": round(clipped, 4),
        "episodes": len(episodes(labels)),
        "rhythms": " ".join(name for name in known.names if name in labels),
        "untaught": known.sentence(),
        **{str(name): float(value) for name, value in means.items()},
    }


def _quality(recording: Recording) -> tuple[float, int]:
    """The largest share of clipped samples in any stretch of ten minutes, and how many samples are missing."""
    length = int(600 * recording.rate)
    shares, missing = [0.0], 0
    for begin in range(0, recording.length, length):
        values = recording.read(begin, min(begin + length, recording.length))
        shares.append(signals.clipped_share(values))
        missing += int(np.isnan(values).sum())
    return max(shares), missing


def _write_annotations(folder: Path, name: str, labels: list[str], recording: Recording) -> None:
    """`<name>.rhy`: rhythm changes in aux_note, counted in the frames of the recording's own file."""
    folder.mkdir(parents=True, exist_ok=True)
    notes = {name: f"({name}" for name in labels} | NOTES
    with tempfile.TemporaryDirectory() as place:  # wfdb takes no names with points
        stem = Path(place) / "record"
        write_rhythms(stem, "rhy", episodes(labels), notes, recording.frame_rate or recording.rate)
        content = beside(stem, "rhy").read_bytes()
    write_atomically(folder / f"{name}.rhy", lambda aside: aside.write_bytes(content))


def _strips(recording: Recording, labels: list[str], p: np.ndarray) -> list[Strip]:
    """The longest episode of every rhythm around its middle, the most frequent rhythms first; one row after the other
    for a recording that is short enough."""
    if len(labels) <= SHOWN * STRIPS:
        firsts = list(range(0, len(labels), SHOWN))
        titles = [""] * len(firsts)
    else:
        runs = sorted(episodes(labels), key=lambda e: (e.start - e.end, e.start))
        longest = {e.rhythm: e for e in reversed(runs) if e.rhythm != MASKED}
        order = sorted(longest, key=lambda name: -labels.count(name))[:STRIPS]
        middles = [(longest[name].start + longest[name].end) // 2 // STEP for name in order]
        firsts = [int(np.clip(m - SHOWN // 2, 0, len(labels) - SHOWN)) for m in middles]
        titles = [
            f"{name}: longest of its {sum(e.rhythm == name for e in runs)} episodes, "
            f"{clock(longest[name].start)} to {clock(longest[name].end)}"
            for name in order
        ]
    rows = []
    for title, first in zip(titles, firsts, strict=True):
        last = min(first + SHOWN, len(labels))
        signal = signals.read_stretch(recording, first * STEP, last * STEP)
        shown = [None if name == MASKED else name for name in labels[first:last]]
        rows.append(Strip(title, signal, first * STEP / RATE, shown))
    return rows
