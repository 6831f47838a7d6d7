"""Where the recordings come from: one adapter per source, and how one window becomes the network's input.

A row of the record table is one window of `preprocess.steps` steps; a 30 s record is one window, a longer recording is
several. Besides the columns that every study has: `record` (the recording), `start` (its first step), `header` (the
WFDB header, if there is one), `rhythms` (one label per step, packed, see `labels`), `record_label` (where a source
labels recordings as a whole) with `record_code` (its position in `record_words`, -1 without), `steps` (of a window)
and `stratum`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from os.path import commonpath, relpath
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipelines.ecg import signals
from pipelines.ecg.annotations import Labels, wfdb_labels
from pipelines.ecg.cinc import cinc2017
from pipelines.ecg.config import CLASSES, EcgConfig
from pipelines.ecg.databases import label_notes, wfdb_database
from pipelines.ecg.irhythm import read_irhythm
from pipelines.ecg.labels import MASKED, STEP, UNLABELLED, carried, record_words, strata, window_labels, windows
from pipelines.ecg.patients import read_patients
from pipelines.ecg.phantom.dataset import ensure_phantom
from pipelines.ecg.rows import beyond, finish, good_rows, open_or_none, rest_note, window_rows
from pipelines.ecg.wfdb_files import is_there
from pipelines.shared.data.records import Source, Target, dataset_folder, read_table
from pipelines.shared.data.tables import RowProblem, read_csv
from pipelines.shared.errors import BadFile, DataError, UnusableRecord, listed, nearest

PREPARE_VERSION = 2  # raise it whenever `prepare` gives other arrays
SUFFIXES = (".hea", ".ecg", ".csv", ".npy")


# --- one window ---


def prepare_settings(config: EcgConfig) -> dict[str, Any]:
    """Everything that a prepared array depends on besides the file."""
    return {
        "study": "ecg",
        "version": PREPARE_VERSION,
        "steps": config.preprocess.steps,
        "scale": config.preprocess.scale,
        "leads": config.data.leads,
        "sampling_rate": config.data.sampling_rate,
    }


def prepare(record: Mapping[str, Any], root: Path, settings: dict[str, Any]) -> tuple[np.ndarray, dict[str, Any]]:
    """One window: float32 (steps * 256,) at 200 Hz, and its metadata.

    Raises:
        BadFile: the file cannot be read, or holds infinite samples.
        UnusableRecord: a flat line, or every step has a gap.
    """
    header = record.get("header")
    file = root / (header if isinstance(header, str) else record["path"])
    recording = signals.open_recording(file, settings["leads"], settings["sampling_rate"])
    expected = record.get("expected_rate")
    if expected is not None and expected == expected and recording.rate != expected:
        raise BadFile(f"its header says {recording.rate:g} Hz; recordings of this set have {expected:g} Hz")
    start = int(record.get("start", 0)) * STEP
    stop = min(start + settings["steps"] * STEP, recording.steps * STEP)
    if start >= stop:
        raise BadFile("it has become shorter since its windows were counted")
    quality = signals.quality(recording, start, stop)
    values = signals.read_stretch(recording, start, stop)
    array = scaled(values, settings)
    lost = np.flatnonzero(signals.lost_steps(values))
    metadata = {
        "fingerprint": quality.fingerprint,
        "clipped": quality.clipped,
        "lead": recording.lead,
        "missing": quality.missing,
        "lost_steps": " ".join(map(str, lost)) or None,
    }
    if quality.missing:
        metadata["warnings"] = [signals.MISSING]
    return array, metadata


def scaled(values: np.ndarray, settings: dict[str, Any]) -> np.ndarray:
    """Samples (n,) as the network takes them: scaled, and padded to a whole window, float32 (steps * 256,).

    NaN, a gap, becomes a straight line; mean and standard deviation are those of the rest.

    Raises:
        UnusableRecord: a flat line, or every step has a gap.
        BadFile: values beyond what can be computed with.
    """
    if signals.lost_steps(values).all():
        raise UnusableRecord("no step is without a gap")
    known = ~np.isnan(values)
    with np.errstate(over="ignore", invalid="ignore"):
        deviation, level = float(values[known].std()), float(values[known].mean())
    if not np.isfinite([deviation, level]).all():
        raise BadFile(f"values of up to {np.nanmax(np.abs(values)):.3g} are no signal")
    if deviation <= 1e-9 * max(1.0, float(np.abs(values[known]).max())):
        raise UnusableRecord("flat line: the signal does not change")
    samples = np.arange(len(values))
    values = np.interp(samples, samples[known], values[known])
    values = np.concatenate([values, np.full(settings["steps"] * STEP - len(values), level)])
    if settings["scale"] == "window":
        values = (values - level) / deviation
    if np.abs(values).max() > np.finfo(np.float32).max:
        raise BadFile(f"values of up to {np.abs(values).max():.3g} are no signal")
    return values.astype(np.float32)


# --- the sources ---


def mitdb(config: EcgConfig, root: str | None = None) -> Source:
    """`data=mitdb`, and as one of `data.also`."""
    return _wfdb(config, "mitdb", root, known=[["201", "202"]])  # the database's own description


def wfdb(config: EcgConfig, root: str | None = None) -> Source:
    """`data=wfdb`; in `data.also` every recording is its own patient."""
    return _wfdb(config, "wfdb", root)


def _wfdb(config: EcgConfig, name: str, root: str | None, known: Sequence[Sequence[str]] = ()) -> Source:
    keys = config.data
    if root is not None:  # one of data.also
        return wfdb_database(dataset_folder(root, name), config, name, known=known)
    assert keys.name in ("mitdb", "wfdb")
    folder = dataset_folder(keys.root, name)
    if keys.patients is None:
        return wfdb_database(folder, config, name, None, keys.same_patient, known)
    patients, left_out = read_patients(Path(keys.patients), keys.on_bad_row)
    source = wfdb_database(folder, config, name, patients, keys.same_patient, known)
    return replace(source, left_out=[*left_out, *source.left_out])


def phantom(config: EcgConfig) -> Source:
    """The phantom, made on first use, read through the adapter of its native layout."""
    assert config.data.name == "phantom"
    root = ensure_phantom(Path(config.cache.dir), config.data.phantom)
    patients = read_csv(root / "patients.csv", ["record", "patient", "age", "sex"])
    patients["age"] = pd.to_numeric(patients["age"])
    source = wfdb_database(root, config, "phantom", patients)
    truth = pd.read_csv(root / "truth" / "truth.csv", dtype=str).set_index("record")["rhythms"]
    records = source.records.assign(truth=truth.reindex(source.records["record"]).to_numpy())
    return replace(source, records=records)


def irhythm(config: EcgConfig, root: str | None = None) -> Source:
    """`data=irhythm`: the 328 records that a committee and six cardiologists labelled.

    Raises:
        DataError: every file that is missing, every episode that is unknown, overlapping or beyond its record's end.
    """
    folder = dataset_folder(root or config.data.root, "irhythm")
    dataset = read_irhythm(folder, config.labels.irhythm)
    size = config.preprocess.steps
    rows: list[dict[str, Any]] = []
    readings: list[dict[str, Any]] = []
    for record in dataset.records:
        labels = dataset.committee[record]
        place = {"record": record, "group": Path(record).name.rsplit("_", 1)[0], "path": f"{record}.ecg", "split": None}
        record_rows = window_rows(place, len(labels), size, labels)
        rows += record_rows
        for reader, read in dataset.readers[record].items():
            for row, (start, counted) in zip(record_rows, windows(len(labels), size), strict=True):
                text = window_labels(read, start, counted, size)
                readings.append({"id": row["id"], "reader": reader, "rhythms": text})
    names = ", ".join(sorted({*CLASSES, *config.labels.irhythm}))
    remedy = f"Correct the files, or name the rhythm in labels.irhythm. Known: {names}."
    rows, left_out = good_rows(rows, dataset.problems, config, str(folder), remedy)
    records = finish(rows, config)
    readers = pd.DataFrame(readings) if readings else None
    if readers is not None:
        readers = readers[readers["id"].isin(records["id"])].reset_index(drop=True)
    return Source("irhythm", False, folder, records, "patient", readers, dataset.notes, left_out)


def table(config: EcgConfig) -> Source:
    """`data=table`: signals of the user's own, with a rhythm per recording or, in WFDB, per episode.

    The target `rhythm` names a class or one of `labels.record`. Without it, WFDB records need an `.atr` beside them.
    """
    assert config.data.name == "table"
    words = record_words(config.labels)
    codes = {word: i for i, word in enumerate(words)}
    given = {str(word): value for word, value in config.data.values.get("rhythm", {}).items()}
    for word, value in given.items():
        if value not in codes:
            raise DataError(f"data.values.rhythm.{word}={value} is no rhythm.", nearest(str(value), words))
    mapping: dict[str, int | float | str] = {**codes, **{word: codes[str(value)] for word, value in given.items()}}
    keys = config.data.model_copy(update={"values": {**config.data.values, "rhythm": mapping}})
    source = read_table(keys, [Target("rhythm", range(len(words)))])
    rows: list[dict[str, Any]] = []
    problems: list[str] = []
    labels_of: dict[str, Labels] = {}
    rest, opened = 0, False
    for record in source.records.to_dict("records"):
        file = signals.signal_file(source.root / str(record["path"]))
        recording = open_or_none(file, config)
        steps = recording.steps if recording else 0
        rest, opened = rest + beyond(recording), opened or recording is not None
        code = record.pop("rhythm")
        place: dict[str, Any] = {"record": record.pop("id")} | {str(k): v for k, v in record.items()}
        is_wfdb = file.suffix.lower() in (".hea", ".dat", ".mat")
        if is_wfdb and recording:
            place |= {
                "path": str(recording.file.relative_to(source.root)),
                "header": str(file.with_suffix(".hea").relative_to(source.root)),
            }
        labels = [UNLABELLED if code == code else MASKED] * steps
        if code == code:
            place["record_label"] = words[int(code)]
        elif is_wfdb and is_there(file.with_suffix(""), "atr"):
            labels_of[str(place["record"])] = read = wfdb_labels(file.with_suffix(""), "atr", steps, config.labels.wfdb)
            text = file.with_suffix(".atr").name
            problems += [RowProblem(f"{text}: {p}", place["record"]) for p in read.problems]
            labels = read.steps
        rows += window_rows(place, steps, config.preprocess.steps, labels)
    remedy = "Correct the files, or name the rhythm in labels.wfdb."
    rows, left_out = good_rows(rows, problems, config, str(source.root), remedy)
    records = finish(rows, config)
    if opened and not any(carried(records)):
        raise DataError(
            "No record of the table carries a rhythm of the twelve classes: data.targets names no column for rhythm or "
            "its cells are empty, and no WFDB record has rhythm annotations beside it. "
            + " ".join(label_notes(labels_of)),
            f"Give one, such as 'data.targets={{rhythm: diagnosis}}'; its words: {', '.join(words)}.",
        )
    notes = [*source.notes, *rest_note(rest, len(rows)), *label_notes(labels_of)]
    left_out = [*source.left_out, *left_out]
    return Source("table", False, source.root, records, source.group_key, notes=notes, left_out=left_out)


# --- several sources at once ---

ALSO: dict[str, Callable[[EcgConfig, str], Source]] = {
    "irhythm": irhythm,
    "cinc2017": cinc2017,
    "mitdb": mitdb,
    "wfdb": wfdb,
}


def with_others(adapter: Callable[[EcgConfig], Source]) -> Callable[[EcgConfig], Source]:
    """The adapter of a source, joined by those that `data.also` names."""

    def joined(config: EcgConfig) -> Source:
        first = adapter(config)
        if not config.data.also:
            return first
        others = [ALSO[also.name](config, also.root) for also in config.data.also]
        return join([first, *others])

    return joined


def join(sources: Sequence[Source]) -> Source:
    """Several sources as one: records keep their own label rule; those of the later ones are named after their source.

    Raises:
        DataError: the same folder twice.
    """
    folders = [source.root.resolve() for source in sources]
    twice = sorted({str(f) for f in folders if folders.count(f) > 1})
    if twice:
        raise DataError(f"data.also names a folder that is in use already:\n{listed(twice)}", "Name each folder once.")
    root = Path(commonpath(folders))
    names = [source.name for source in sources]
    tables, readers, notes = [], [], []
    for i, (source, folder) in enumerate(zip(sources, folders, strict=True)):
        moved = source.records.copy()
        for column in ("path", "header"):
            moved[column] = [relpath(folder / p, root) if isinstance(p, str) else None for p in moved[column]]
        readings = source.readers
        if i:  # ids and groups mean something only within one source
            prefix = f"{source.name}{'' if names.index(source.name) == i else i}/"
            for column in ("id", "record", "group"):
                moved[column] = prefix + moved[column].astype(str)
            readings = None if readings is None else readings.assign(id=prefix + readings["id"].astype(str))
        tables.append(moved.assign(source=source.name))
        readers += [] if readings is None else [readings]
        notes += [f"{source.name}: {note}" for note in source.notes]
    records = pd.concat(tables, ignore_index=True)
    for column in ("split", "header", "record_label"):
        records[column] = records[column].astype(object).where(records[column].notna(), None)
    records["stratum"] = strata(records)
    parts = ", ".join(f"{len(t):,} windows of {s.name}" for t, s in zip(tables, sources, strict=True))
    return Source(
        sources[0].name,
        any(source.synthetic for source in sources),
        root,
        records,
        " / ".join(dict.fromkeys(source.group_key for source in sources)),
        pd.concat(readers, ignore_index=True) if readers else None,
        [f"Joined for training: {parts}.", *notes],
        [f"{source.name}: {text}" for source in sources for text in source.left_out],
    )


SOURCES = {
    "phantom": with_others(phantom),
    "irhythm": with_others(irhythm),
    "cinc2017": with_others(cinc2017),
    "mitdb": with_others(mitdb),
    "wfdb": with_others(wfdb),
    "table": with_others(table),
}
