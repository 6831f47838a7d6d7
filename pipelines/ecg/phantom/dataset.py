"""A synthetic ambulatory ECG database with a committee and six cardiologists, whose truth is known.

Beats (`beats`) under rhythm processes (`rhythms`), recorded by a patch that is worn badly now and then: baseline
wander, mains hum, muscle and electrode noise, reversed polarity, varied gain.

    RECORDS                    one record per line
    <record>.hea, .dat         WFDB, one lead, 200 Hz, 30 s
    <record>.atr               the committee's rhythms, as changes in aux_note
    <record>.reva … .revf      the same by each of six cardiologists
    patients.csv               record, patient, age, sex
    truth/truth.csv            record, main, rhythms: the true rhythm of every step
    SYNTHETIC.txt              says that all is synthetic, and by which settings it was made

Nothing in truth/ may serve as a feature.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.random import Generator

from pipelines.ecg.annotations import write_rhythms
from pipelines.ecg.config import CLASSES, PhantomSettings
from pipelines.ecg.labels import NOTES, RATE, STEP, Episode, pack, step_labels
from pipelines.ecg.phantom.beats import Heart, draw_heart, render
from pipelines.ecg.rhythms import MISTAKEN, NEIGHBOURS, RHYTHMS
from pipelines.ecg.wfdb_files import WFDB, write_record
from pipelines.shared.data.phantoms import ensure_folder, write_notice
from pipelines.shared.screen import parallel_map

PHANTOM_VERSION = 1  # raise it whenever the same settings give other files
SECONDS = 30
SAMPLES = SECONDS * RATE
SHORTEST = 3.0  # s, of a rhythm within a record
GAIN = 200.0  # units per mV in the files
READERS = {"reva": 0.7, "revb": 0.9, "revc": 1.1, "revd": 1.3, "reve": 1.6, "revf": 2.1}  # errors, relative
READER_ERROR = 0.14  # of a reader of 1.0, per episode of a rhythm of average difficulty


# Separate random streams, so that changing (say) the noise changes neither rhythms nor readings.
STREAMS = {"heart": 1, "course": 2, "beats": 3, "noise": 4, "committee": 5, "readers": 6, "person": 7}


def _rng(settings: PhantomSettings, stream: str, patient: int, record: int = 0) -> Generator:
    return np.random.default_rng([settings.seed, STREAMS[stream], patient, record])


# --- one record ---


def draw_course(rng: Generator, main: str) -> list[Episode]:
    """The true rhythms of a record, without gaps: `main` throughout, or with one or two changes."""
    pieces = int(rng.choice([1, 2, 3], p=[0.45, 0.3, 0.25]))
    if main in ("VT", "SVT") and pieces == 1 and rng.random() < 0.6:
        pieces = 3  # these come in runs
    if pieces == 1:
        return [Episode(0, SAMPLES, main)]
    other = str(rng.choice(NEIGHBOURS[main]))
    names = [other, main, other] if pieces == 3 or rng.random() < 0.5 else [main, other]
    names = names[:pieces]
    while True:
        cuts = np.sort(rng.uniform(0, SECONDS, pieces - 1))
        bounds = np.concatenate([[0], cuts, [SECONDS]])
        if np.diff(bounds).min() >= SHORTEST:
            break
    edges = np.round(bounds * RATE).astype(int).tolist()
    return [Episode(a, b, name) for a, b, name in zip(edges, edges[1:], names, strict=False)]


def draw_signal(
    beats: Generator, noise: Generator, heart: Heart, course: Sequence[Episode], settings: PhantomSettings
) -> np.ndarray:
    """The signal in mV, float64 (6000,)."""
    signal = np.zeros(SAMPLES)
    for episode in course:
        waves = RHYTHMS[episode.rhythm](beats, heart, episode.start / RATE, episode.end / RATE, settings.subtlety)
        part = render(waves, SAMPLES)
        signal += part * (noise.uniform(0.0, 0.5) if episode.rhythm == "NOISE" else 1.0)
    signal += settings.noise * _disturbance(noise)
    for episode in course:
        if episode.rhythm == "NOISE":
            signal[episode.start : episode.end] += _loose_electrode(noise, episode.end - episode.start)
    gain = float(np.exp(noise.uniform(np.log(0.5), np.log(1.7))))
    polarity = -1.0 if noise.random() < 0.06 else 1.0
    return polarity * gain * signal


def _band(rng: Generator, samples: int, low: float, high: float) -> np.ndarray:
    """Noise of one band (Hz), of standard deviation 1."""
    from scipy.signal import butter, sosfilt  # needed when the phantom is drawn, not in every prediction

    spare = 2 * RATE  # the filter needs time to settle
    filtered = sosfilt(butter(2, [low, high], "band", fs=RATE, output="sos"), rng.standard_normal(samples + spare))
    unit: np.ndarray = filtered[spare:] / filtered[spare:].std()
    return unit


def _disturbance(rng: Generator) -> np.ndarray:
    """What disturbs any ambulatory recording, in mV: wander, hum, muscle, now and then a bump of the electrode."""
    time_ = np.arange(SAMPLES) / RATE
    wander = rng.uniform(0.03, 0.25) * _band(rng, SAMPLES, 0.08, 0.5)
    hum = rng.uniform(0, 0.035) * np.sin(2 * np.pi * rng.choice([50, 60]) * time_ + rng.uniform(0, 2 * np.pi))
    muscle = float(np.exp(rng.uniform(np.log(0.008), np.log(0.07)))) * _band(rng, SAMPLES, 5, 80)
    bumps = np.zeros(SAMPLES)
    for _ in range(int(rng.poisson(0.8))):
        peak, width = rng.uniform(0, SECONDS), rng.uniform(0.1, 0.5)
        bumps += rng.normal(0, 0.4) * np.exp(-0.5 * ((time_ - peak) / width) ** 2)
    noise: np.ndarray = wander + hum + muscle + bumps
    return noise


def _loose_electrode(rng: Generator, samples: int) -> np.ndarray:
    """An electrode that hardly holds, in mV: nothing can be read below it."""
    from scipy.signal import butter, sosfilt

    motion = rng.uniform(0.3, 0.9) * _band(rng, samples, 0.5, 12)
    muscle = rng.uniform(0.1, 0.4) * _band(rng, samples, 10, 80)
    steps = np.zeros(samples)
    for _ in range(int(rng.poisson(samples / RATE / 6))):
        steps[int(rng.integers(samples)) :] += rng.normal(0, 0.7)
    loose: np.ndarray = motion + muscle + sosfilt(butter(1, 0.3, "high", fs=RATE, output="sos"), steps)
    return loose


def read_course(rng: Generator, course: Sequence[Episode], error: float, jitter: float) -> list[Episode]:
    """What somebody says who sees the true rhythms: some mistaken, borders moved, short ones overlooked.

    Args:
        rng: of this reader and record.
        course: the true rhythms.
        error: chance of mistaking an episode of average difficulty.
        jitter: standard deviation of the borders, s.
    """
    seen: list[Episode] = []
    for episode in course:
        name, (wrong, difficulty) = episode.rhythm, MISTAKEN[episode.rhythm]
        if rng.random() < error * difficulty:
            name = str(rng.choice(wrong))
        short = (episode.end - episode.start) / RATE < 5
        if seen and short and rng.random() < error:
            name = seen[-1].rhythm
        start = 0
        if seen:
            start = round(episode.start + jitter * RATE * rng.standard_normal())
            start = int(np.clip(start, seen[-1].start + STEP // 2, SAMPLES - STEP // 2))
            seen[-1] = Episode(seen[-1].start, start, seen[-1].rhythm)
        if seen and seen[-1].rhythm == name:
            seen[-1] = Episode(seen[-1].start, SAMPLES, name)
        else:
            seen.append(Episode(start, SAMPLES, name))
    return seen


# --- the folder ---


def _make_patient(patient: int, root: Path, settings: PhantomSettings) -> list[dict[str, Any]]:
    """Draw and write the records of one patient, numbered from 0; returns their rows of the tables."""
    heart = draw_heart(_rng(settings, "heart", patient), settings.subtlety)
    person = _rng(settings, "person", patient)
    age, sex = int(np.clip(person.normal(68, 14), 18, 95)), str(person.choice(["female", "male"]))
    rows = []
    for number in range(1 + int(person.random() < 0.5)):
        course_rng = _rng(settings, "course", patient, number)
        # The first record's main rhythm goes round the classes, so that each has its share of patients.
        main = CLASSES[patient % len(CLASSES)] if number == 0 else str(course_rng.choice(CLASSES))
        course = draw_course(course_rng, main)
        noise = _rng(settings, "noise", patient, number)
        signal = draw_signal(_rng(settings, "beats", patient, number), noise, heart, course, settings)
        name = f"p{patient + 1:04d}_{'ab'[number]}"
        digital = np.clip(np.round(signal * GAIN), -32000, 32000)
        write_record(root / name, digital, "ECG", GAIN, ["synthetic: made by a program"])
        committee = read_course(_rng(settings, "committee", patient, number), course, settings.committee_error, 0.25)
        write_rhythms(root / name, "atr", committee, NOTES, RATE)
        readers = _rng(settings, "readers", patient, number)
        for extension, clumsiness in READERS.items():
            read = read_course(readers, course, READER_ERROR * clumsiness, 0.5 * clumsiness)
            write_rhythms(root / name, extension, read, NOTES, RATE)
        steps = step_labels([e.start for e in course], [e.rhythm for e in course], SAMPLES // STEP)
        rows.append(
            {
                "record": name,
                "patient": f"p{patient + 1:04d}",
                "age": age,
                "sex": sex,
                "main": main,
                "rhythms": pack(steps),
            }
        )
    return rows


def make_phantom(root: Path, settings: PhantomSettings, workers: int | None = None) -> None:
    """Fill an empty folder. Every record is a function of settings and patient alone, whatever the `workers`."""
    WFDB.require("The phantom")
    (root / "truth").mkdir(parents=True)
    make = partial(_make_patient, root=root, settings=settings)
    made = parallel_map(make, range(settings.patients), "Drawing synthetic recordings", workers)
    table = pd.DataFrame([row for rows in made for row in rows])
    (root / "RECORDS").write_text("\n".join(table["record"]) + "\n")
    table[["record", "patient", "age", "sex"]].to_csv(root / "patients.csv", index=False)
    table[["record", "main", "rhythms"]].to_csv(root / "truth" / "truth.csv", index=False)
    write_notice(
        root,
        "no signal is from a heart, no patient or cardiologist exists.\nRare rhythms are as frequent as common ones.",
        f"pipelines.ecg.phantom.dataset, version {PHANTOM_VERSION}",
        settings.model_dump(),
    )


def ensure_phantom(cache_dir: Path, settings: PhantomSettings, workers: int | None = None) -> Path:
    """The folder of the phantom of these settings, made if it is not there."""
    return ensure_folder(
        cache_dir, "ecg", PHANTOM_VERSION, settings.model_dump(), lambda folder: make_phantom(folder, settings, workers)
    )
