"""`mode=predict`: recordings of any length, window by window with overlap, in bounded memory.

Leaves predictions.csv (one row per file), episodes.csv, steps.parquet, and per file a WFDB annotation file
`annotations/<record>.rhy` and a picture of strips.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pipelines.ecg import signals
from pipelines.ecg.annotations import write_rhythms
from pipelines.ecg.config import CLASSES, EcgConfig
from pipelines.ecg.data import SUFFIXES, prepare_settings, scaled
from pipelines.ecg.drawing import Strip, strips
from pipelines.ecg.labels import MASKED, NOTES, RATE, STEP, episodes
from pipelines.ecg.metrics import SCORES
from pipelines.shared.environment import stage, start
from pipelines.shared.errors import BadFile
from pipelines.shared.inputs import input_files
from pipelines.shared.log import log
from pipelines.shared.run import FinishedRun, Run, open_finished
from pipelines.shared.run_folder import write_atomically
from pipelines.shared.screen import track

if TYPE_CHECKING:
    from pipelines.shared.job import Job
    from pipelines.shared.study import Study

# A batch of prepared windows, float32 (windows, steps * 256) -> probabilities (windows, steps, 12).
Answer = Callable[[np.ndarray], np.ndarray]
SHOWN = 7  # steps of a strip
STRIPS = 8  # in a picture


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
    recording: signals.Recording, answer: Answer, settings: dict[str, Any], overlap: int, at_once: int, what: str
) -> np.ndarray:
    """Probabilities of every step, float64 (steps, 12); NaN where the signal is flat or has no numbers.

    At most `at_once` windows of signal are in memory, whatever the recording's length.

    Raises:
        BadFile: the file turns out to be truncated or damaged.
    """
    size = settings["steps"]
    windows = plan(recording.steps, size, overlap)
    result = np.full((recording.steps, len(CLASSES)), np.nan)
    groups = [windows[i : i + at_once] for i in range(0, len(windows), at_once)]
    for group in track(groups, what, len(groups)):
        begin, end = group[0][0] * STEP, min(group[-1][0] + size, recording.steps) * STEP
        signal = signals.read_stretch(recording, begin, end)
        arrays, places = [], []
        for first, kept, last in group:
            piece = signal[first * STEP - begin : first * STEP - begin + size * STEP]
            try:
                arrays.append(scaled(piece, settings))
            except BadFile:  # a flat line or a gap: these steps stay without an answer
                continue
            places.append((first, kept, last))
        if arrays:
            for p, (first, kept, last) in zip(answer(np.stack(arrays)), places, strict=True):
                result[kept:last] = p[kept - first : last - first]
    return result


def named(probabilities: np.ndarray) -> list[str]:
    """The most probable rhythm of every step; `MASKED` where there is no answer."""
    known = ~np.isnan(probabilities[:, 0])
    best = np.where(known, np.nan_to_num(probabilities).argmax(axis=1), len(CLASSES))
    return [[*CLASSES, MASKED][i] for i in best]


def episode_table(file: str, labels: list[str], probabilities: np.ndarray) -> pd.DataFrame:
    """One row per episode: file, start_s, end_s, rhythm, mean probability of that rhythm, steps."""
    rows = []
    for episode in episodes(labels):
        first, last = episode.start // STEP, episode.end // STEP
        known = episode.rhythm != MASKED
        mean = probabilities[first:last, CLASSES.index(episode.rhythm)].mean() if known else None
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
    """Label recordings. Every file is a row of predictions.csv; one that cannot be read has its reason there."""
    config: Any = job.config
    finished = open_finished(study, config.run)
    path = Path(config.input).expanduser()
    record = path.with_name(f"{path.name}.hea")  # WFDB names a record without its suffix
    inputs = input_files(record if not path.exists() and record.is_file() else path, SUFFIXES)
    root, files = inputs.root, inputs.files
    files = [f for f in files if Path(f).suffix != ".csv" or not Path(root, f).with_suffix(".hea").is_file()]
    run = start(study, job)
    folder = run.folder
    if not run.world.main:
        return  # a recording is labelled in its order, by one process
    answer = _answer(run, finished)
    settings = prepare_settings(config)
    rows: list[dict[str, Any]] = []
    found: list[pd.DataFrame] = []
    tables: list[pd.DataFrame] = []
    with stage(run, "predict"):
        for file in files:
            row: dict[str, Any] = {"file": file, "reason": None}
            rows.append(row)
            try:
                recording = signals.open_recording(root / file, settings["leads"], settings["sampling_rate"])
                what = f"Labelling {file}"
                p = label_recording(recording, answer, settings, config.predict.overlap, config.predict.windows, what)
                if np.isnan(p).all():
                    raise BadFile("flat line, or no sample is a number")
            except BadFile as reason:
                row["reason"] = str(reason)
                continue
            labels = named(p)
            mine = episode_table(file, labels, p)
            found.append(mine)
            tables.append(pd.DataFrame(p, columns=SCORES).assign(file=file, step=range(len(p)), rhythm=labels))
            row |= _summary(recording, labels, p, mine)
            _write_annotations(folder.path / "annotations", file, labels, recording.rate)
            picture = folder.figures / f"{_plain(file)}.png"
            strips(picture, _strips(recording, labels, p))
    columns = ["file", "reason", *dict.fromkeys(k for row in rows for k in row if k not in ("file", "reason"))]
    file_ = folder.path / "predictions.csv"
    _write(folder.path / "episodes.csv", pd.concat(found) if found else pd.DataFrame())
    if tables:
        every = pd.concat(tables, ignore_index=True)[["file", "step", "rhythm", *SCORES]]
        folder.write_table(folder.path / "steps.parquet", every)
    _write(file_, pd.DataFrame(rows, columns=columns))
    good = sum(row["reason"] is None for row in rows)
    log.info(f"{good} of {len(rows)} files labelled" + ("" if good == len(rows) else "; the others say why not"))
    print(file_)


def _answer(run: Run[EcgConfig], finished: FinishedRun) -> Answer:
    """The ensemble of a finished run as a function of prepared windows."""
    import torch

    from pipelines.ecg.learner import EcgLearner
    from pipelines.shared.method import load_network
    from pipelines.shared.trainer import uses_bf16

    learner, device = EcgLearner(run.config), run.world.device
    networks = [load_network(run, learner, path).eval() for path in finished.networks]
    bf16 = uses_bf16(run.config.trainer, run.world)

    def answer(windows: np.ndarray) -> np.ndarray:
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            batch = torch.from_numpy(windows).to(device)
            parts = [learner.probabilities(network(batch).float().cpu().numpy()) for network in networks]
        return np.mean(parts, axis=0)

    return answer


def _summary(recording: signals.Recording, labels: list[str], p: np.ndarray, mine: pd.DataFrame) -> dict[str, Any]:
    """What predictions.csv says of one file. `p_<class>` is the mean over its steps."""
    beyond = recording.samples - recording.steps * STEP
    means = np.nanmean(p, axis=0)
    return {
        "lead": recording.lead,
        "seconds": round(recording.length / recording.rate, 2),
        "steps": len(labels),
        "unlabelled_s": round((labels.count(MASKED) * STEP + beyond) / RATE, 2),
        "clipped": round(_clipped(recording), 4),
        "episodes": len(mine),
        "rhythms": " ".join(name for name in CLASSES if name in labels),
        **{name: float(value) for name, value in zip(SCORES, means, strict=True)},
    }


def _clipped(recording: signals.Recording) -> float:
    """The largest share of clipped samples in any stretch of ten minutes."""
    length = int(600 * recording.rate)
    shares = (
        signals.clipped_share(recording.read(a, min(a + length, recording.length)))
        for a in range(0, recording.length, length)
    )
    return max(shares, default=0.0)


def _write_annotations(folder: Path, file: str, labels: list[str], rate: float) -> None:
    """`annotations/<folder of the file>/<record>.rhy`: rhythm changes in aux_note, samples at the file's own rate."""
    place = folder / Path(file).parent
    place.mkdir(parents=True, exist_ok=True)
    write_rhythms(place / _plain(Path(file).stem), "rhy", episodes(labels), NOTES, rate)


def _strips(recording: signals.Recording, labels: list[str], p: np.ndarray) -> list[Strip]:
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
            f"{_clock(longest[name].start)} to {_clock(longest[name].end)}"
            for name in order
        ]
    rows = []
    for title, first in zip(titles, firsts, strict=True):
        last = min(first + SHOWN, len(labels))
        signal = signals.read_stretch(recording, first * STEP, last * STEP)
        shown = [None if name == MASKED else name for name in labels[first:last]]
        rows.append(Strip(title, signal, first * STEP / RATE, shown))
    return rows


def _clock(sample: int) -> str:
    seconds = sample // RATE
    return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


def _plain(name: str) -> str:
    """A name that WFDB and every file system take."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", str(Path(name).with_suffix("")))


def _write(file: Path, table: pd.DataFrame) -> None:
    write_atomically(file, lambda aside: table.to_csv(aside, index=False))
