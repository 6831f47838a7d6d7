"""Recordings and their labels: WFDB, MIT .mat, irhythm's raw files, tables and arrays."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import wfdb
from conftest import compose
from fuzzing import Format
from PIL import Image  # noqa: F401 loaded before memory is limited

from pipelines.ecg import signals
from pipelines.ecg.annotations import write_rhythms
from pipelines.ecg.config import CLASSES
from pipelines.ecg.data import SOURCES, prepare, prepare_settings
from pipelines.ecg.labels import NOTES, RATE, Episode, unpack
from pipelines.ecg.predicting import _strips, _summary, episode_table, label_recording, named, whole_records
from pipelines.ecg.taught import Taught
from pipelines.ecg.wfdb_files import write_record
from pipelines.shared.cli.inputs import input_files
from pipelines.shared.data.records import check_records
from pipelines.shared.errors import BadFile, DataError

TAUGHT = Taught(list(CLASSES), np.eye(len(CLASSES)), {})
SUFFIXES = (".hea", ".ecg", ".csv", ".npy")


def sine(seconds: int = 30, seed: int = 0, rate: int = RATE) -> np.ndarray:
    """Something that changes, whole numbers, (seconds * rate,)."""
    rng = np.random.default_rng(seed)
    return np.round(300 * np.sin(np.arange(seconds * rate) / 9) + 30 * rng.standard_normal(seconds * rate))


# --- samples ---


def make_wfdb(folder: Path) -> None:
    """Databases: as the phantom writes them, in other formats of samples, in segments, several samples a frame."""
    plain = folder / "plain"
    plain.mkdir()
    for name, rhythms in (("a01", ("SINUS", "AF")), ("a02", ("AF", "SINUS"))):
        write_record(plain / name, sine(), "MLII", 200.0, ["age: 60"])
        course = [Episode(0, 3000, rhythms[0]), Episode(3000, 6000, rhythms[1])]
        write_rhythms(plain / name, "atr", course, NOTES, RATE)
    (plain / "RECORDS").write_text("a01\na02\n")
    for kind, bits in (("80", 8), ("24", 24), ("16", 16), ("516", 16)):
        other = folder / f"format{kind}"
        other.mkdir()
        digital = np.stack([sine(rate=360), sine(rate=360, seed=1)], axis=1)
        digital = np.clip(digital, -(2 ** (bits - 1)) + 1, 2 ** (bits - 1) - 1).astype(np.int64)
        wfdb.wrsamp(
            "b01", 360, ["mV", "mV"], ["MLII", "V5"], d_signal=digital, fmt=[kind] * 2, adc_gain=[200.0] * 2,
            baseline=[0, 0], write_dir=str(other),
        )  # fmt: skip
        write_rhythms(other / "b01", "atr", [Episode(0, 6000, "AF")], NOTES, 360)
    packed = folder / "format212"
    packed.mkdir()
    a, b = (sine(rate=360, seed=s).astype(int) for s in (0, 1))
    three = np.stack([a & 255, (a >> 8 & 15) | (b >> 8 & 15) << 4, b & 255], axis=1).astype(np.uint8)
    three.tofile(packed / "c.dat")
    lines = ["c 2 360 10800", *(f"c.dat 212 200 11 1024 995 -22131 0 {lead}" for lead in ("MLII", "V5"))]
    (packed / "c.hea").write_text("\n".join([*lines, "# 69 M 1085 1629 x1"]) + "\n")
    write_rhythms(packed / "c", "atr", [Episode(0, 6000, "AF")], NOTES, 360)
    parts = folder / "segments"
    parts.mkdir()
    for name in ("n1", "n2"):
        write_record(parts / name, sine(15), "II", 200.0, [])
    (parts / "night.hea").write_text("night/3 1 200 6500\nn1 3000\n~ 500\nn2 3000\n")
    write_rhythms(parts / "night", "atr", [Episode(0, 6400, "AF")], NOTES, RATE)
    frames = folder / "frames"
    frames.mkdir()
    np.hstack([sine().reshape(-1, 4), np.full((1500, 1), 7)]).astype("<i2").tofile(frames / "f.dat")
    lines = ["f 2 50/360(0) 1500", "f.dat 16x4 200/mV 12 0 0 0 0 II", "f.dat 16 200/mV 12 0 0 0 0 RESP"]
    (frames / "f.hea").write_text("\n".join(lines) + "\n")
    write_rhythms(frames / "f", "atr", [Episode(0, 6000, "AF")], NOTES, 50)


def make_mat(folder: Path) -> None:
    """The challenge of 2017: three recordings and their reference."""
    from scipy.io import savemat

    place = folder / "cinc"
    place.mkdir()
    for i, name in enumerate(("A00001", "A00002", "A00003")):
        values = sine(12, i, 300).astype(np.int16)
        savemat(place / f"{name}.mat", {"val": values[None]}, format="4")
        line = f"{name}.mat 16+24 1000/mV 16 0 {values[0]} 0 0 ECG"
        (place / f"{name}.hea").write_text(f"{name} 1 300 {len(values)}\n{line}\n")
    (place / "REFERENCE-v3.csv").write_text("A00001,N\nA00002,A\nA00003,~\n")


def make_irhythm(folder: Path) -> None:
    """Hannun's test set: two records, the committee and a reader."""
    place = folder / "irhythm"
    place.mkdir()
    for i, name in enumerate(("p1_r1", "p2_r1")):
        sine(seed=i).astype("<i2").tofile(place / f"{name}.ecg")
        episodes = [
            {"onset": 1, "offset": 3000, "rhythm_name": "SINUS", "onset_round": 1},
            {"onset": 3001, "offset": 6000, "rhythm_name": "AFIB", "onset_round": 12},
        ]
        for who, reviewer in (("grp0", None), ("rev0", 17)):
            content = {"episodes": episodes, "reviewer_id": reviewer, "record": name}
            (place / f"{name}_{who}.episodes.json").write_text(json.dumps(content))


def make_signals(folder: Path) -> None:
    """Signals of one's own: arrays, and tables with and without times and names."""
    values = sine(12) / 200
    for name in ("own.npy", "time.csv", "leads.csv", "bare.csv", "raw.ecg"):
        (folder / name).mkdir()
    np.save(folder / "own.npy" / "own.npy", values.astype(np.float32))
    rows = [f"{i / RATE:.3f},{v:.4f},{-v:.4f}" for i, v in enumerate(values)]
    (folder / "time.csv" / "time.csv").write_text("\n".join(["time,II,V5", *rows]) + "\n")
    quoted = [f'"{v:.4f}",' for v in values]
    (folder / "leads.csv" / "leads.csv").write_text("\n".join(['"II","note"', *quoted]) + "\n")
    (folder / "bare.csv" / "bare.csv").write_text("\n".join(f"{v:.4f}" for v in values) + "\n")
    sine(12).astype("<i2").tofile(folder / "raw.ecg" / "raw.ecg")


# --- readers ---


@functools.cache
def configuration(name: str) -> Any:
    """The configuration of a source, or of `predict`'s."""
    return compose("ecg", f"data={name}")


def read_source(name: str, folder: Path) -> None:
    """The source of a folder with bad rows refused, else left out; every window; then what `predict` makes of it."""
    for rows in ("error", "skip"):
        config = configuration(name)
        keys = {"root": str(folder), "on_bad_row": rows}
        config = config.model_copy(update={"data": config.data.model_copy(update=keys)})
        try:
            source = SOURCES[name](config)
            break
        except DataError:
            if rows == "skip":
                read_files(folder)
                raise
    check_records(source.records)
    settings = prepare_settings(config)
    for row in source.records.to_dict("records"):
        labels = unpack(row["rhythms"])
        assert len(labels) <= settings["steps"], labels
        try:
            array, facts = prepare(row, source.root, settings)
        except BadFile:
            continue
        assert labels, "a recording without a step is used"
        assert array.dtype == np.float32
        assert np.isfinite(array).all()
        assert 0 <= facts["clipped"] <= 1
    read_files(folder)


def read_files(folder: Path) -> None:
    """Every recording below a folder as `predict` labels it, by a network that has no opinion."""
    try:
        inputs, _ = whole_records(input_files(folder, SUFFIXES))
    except DataError:
        return
    config: Any = configuration("wfdb")
    settings = prepare_settings(config)
    even = np.full((settings["steps"], len(CLASSES)), 1 / len(CLASSES))
    for file in inputs.files:
        try:
            recording = signals.open_recording(folder / file, settings["leads"], RATE)
            p = label_recording(recording, lambda windows: np.stack([even] * len(windows)), settings, 0, 8, "")
            if np.isnan(p).all():
                continue
            labels = named(p)
            _summary(recording, labels, p, TAUGHT)
            strips = _strips(recording, labels, p)
        except BadFile:
            continue
        assert len(labels) == recording.steps
        assert strips
        assert len(episode_table(file, labels, p))


def read_signals(folder: Path) -> None:
    """A signal file of one's own as one window, with a rate and without."""
    (file,) = [f for f in folder.iterdir() if f.is_file()]
    settings = prepare_settings(configuration("wfdb")) | {"sampling_rate": 200.0}
    array, _ = prepare({"path": file.name}, folder, settings)
    assert array.dtype == np.float32
    assert np.isfinite(array).all()
    read_files(folder)


FORMATS = [
    Format("wfdb", make_wfdb, functools.partial(read_source, "wfdb")),
    Format("mat", make_mat, functools.partial(read_source, "cinc2017")),
    Format("irhythm", make_irhythm, functools.partial(read_source, "irhythm")),
    Format("signals", make_signals, read_signals),
]
