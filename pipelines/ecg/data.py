"""Where the recordings come from: one adapter per source, and how one window becomes the network's input.

A row of the record table is one window of `preprocess.steps` steps; a 30 s record is one window, a longer recording is
several. Besides the columns that every study has: `record` (the recording), `start` (its first step), `header` (the
WFDB header, if there is one), `rhythms` (one label per step, packed, see `labels`), `record_label` (where a source
labels recordings as a whole) with `record_code` (its position in `record_words`, -1 without), `steps` (of a window)
and `stratum`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from os.path import commonpath, relpath
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipelines.ecg import signals
from pipelines.ecg.config import EcgConfig
from pipelines.ecg.irhythm import read_irhythm
from pipelines.ecg.labels import (
    MASKED,
    RATE,
    STEP,
    UNLABELLED,
    carried,
    record_words,
    step_labels,
    strata,
    window_labels,
    windows,
)
from pipelines.ecg.phantom import PhantomSettings, ensure_phantom
from pipelines.shared.errors import BadFile, DataError, UnusableRecord, listed, nearest
from pipelines.shared.records import Source, Target, check_ids, dataset_folder, raise_problems, read_csv, read_table
from pipelines.shared.screen import track

PREPARE_VERSION = 1  # raise it whenever `prepare` gives other arrays
SUFFIXES = (".hea", ".ecg", ".csv", ".npy")
CINC_RATE = 300  # Hz
CLIPPED = 0.02  # share of samples at the rails from which a window is called clipped


# --- one window ---


def prepare_settings(config: EcgConfig) -> dict[str, Any]:
    """Everything that a prepared array depends on besides the file."""
    return {
        "study": "ecg",
        "version": PREPARE_VERSION,
        "steps": config.preprocess.steps,
        "scale": config.preprocess.scale,
        "leads": config.data.leads,
        "sampling_rate": getattr(config.data, "sampling_rate", None),
    }


def prepare(record: Mapping[str, Any], root: Path, settings: dict[str, Any]) -> tuple[np.ndarray, dict[str, Any]]:
    """One window: float32 (steps * 256,) at 200 Hz, and its facts.

    Raises:
        BadFile: the file cannot be read, or holds samples that are no numbers.
        UnusableRecord: a flat line.
    """
    header = record.get("header")
    file = root / (header if isinstance(header, str) else record["path"])
    recording = signals.open_recording(file, settings["leads"], settings["sampling_rate"])
    expected = record.get("expected_rate")
    if expected is not None and expected == expected and recording.rate != expected:
        raise BadFile(f"its header says {recording.rate:g} Hz; recordings of this set have {expected:g} Hz")
    start = int(record.get("start", 0)) * STEP
    stop = min(start + settings["steps"] * STEP, recording.steps * STEP)
    mark, clipped = signals.fingerprint(recording, start, stop)
    values = signals.read_stretch(recording, start, stop)
    return scaled(values, settings), {"fingerprint": mark, "clipped": clipped, "lead": recording.lead}


def scaled(values: np.ndarray, settings: dict[str, Any]) -> np.ndarray:
    """Samples (n,) as the network takes them: scaled, and padded to a whole window, float32 (steps * 256,).

    Raises:
        BadFile: samples that are no numbers.
        UnusableRecord: a flat line.
    """
    missing = int(np.isnan(values).sum())
    if missing:
        raise BadFile(f"{missing:,} of {len(values):,} samples are no numbers")
    deviation = float(values.std())
    if deviation <= 1e-9 * max(1.0, float(np.abs(values).max())):
        raise UnusableRecord("flat line: the signal does not change")
    level = float(values.mean())
    values = np.concatenate([values, np.full(settings["steps"] * STEP - len(values), level)])
    if settings["scale"] == "window":
        values = (values - level) / deviation
    return values.astype(np.float32)


# --- what all sources share ---


def window_rows(
    recording: dict[str, Any], steps: int, size: int, labels: Sequence[str], more: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """The rows of one recording, one per window, from its label of every step."""
    places = windows(steps, size)
    name = str(recording["record"])
    rows = []
    for k, (start, counted) in enumerate(places):
        row = {"id": name if len(places) == 1 else f"{name}@{k:04d}", "start": start}
        row["rhythms"] = window_labels(labels, start, counted, size)
        rows.append(row | recording | dict(more or {}))
    return rows


def finish(rows: list[dict[str, Any]], config: EcgConfig) -> pd.DataFrame:
    """The record table from its rows, with every column of `data`'s docstring."""
    table = pd.DataFrame(rows)
    for column in ("split", "header", "record_label"):
        table[column] = table[column].astype(object).where(table[column].notna(), None) if column in table else None
    if "expected_rate" not in table:
        table["expected_rate"] = np.nan
    words = record_words(config.labels)
    table["record_code"] = [words.index(w) if isinstance(w, str) else -1 for w in table["record_label"]]
    table["steps"] = config.preprocess.steps
    table["stratum"] = strata(table)
    return table


def _open(file: Path, config: EcgConfig) -> signals.Recording | None:
    """A recording, or None where it cannot be read: `prepare` will say why."""
    with suppress(BadFile):
        return signals.open_recording(file, config.data.leads, getattr(config.data, "sampling_rate", None))
    return None


def _beyond(recording: signals.Recording | None) -> int:
    """Samples at 200 Hz after the last whole step."""
    return recording.samples % STEP if recording else 0


def _rest(samples: int, recordings: int) -> list[str]:
    """A note on what lies beyond the last whole step."""
    if not samples:
        return []
    return [
        f"Only whole steps of {STEP / RATE:g} s are used: {samples / RATE:,.1f} s at the ends of {recordings:,} "
        "recordings are left out."
    ]


# --- WFDB with rhythm annotations: the phantom, mitdb, and any other ---


def wfdb_database(
    root: Path,
    config: EcgConfig,
    name: str,
    patients: pd.DataFrame | None = None,
    same_patient: Sequence[Sequence[str]] = (),
) -> Source:
    """A WFDB database whose `.atr` files hold rhythm changes in `aux_note`.

    Records are those that RECORDS names, else all. Files `.reva`, `.revb`, … are the readings of single readers.

    Raises:
        DataError: no records; every annotation that is unknown, unordered or beyond its record's end.
    """
    size, notes_to_classes = config.preprocess.steps, config.labels.wfdb
    stems, unannotated = _wfdb_stems(root)
    readers_of: dict[Path, list[str]] = {}
    for file in root.rglob("*.rev[a-z]"):
        readers_of.setdefault(file.with_suffix(""), []).append(file.suffix[1:])
    person = {member: "+".join(members) for members in same_patient for member in members}
    about = {} if patients is None else patients.set_index("record").to_dict("index")
    rows: list[dict[str, Any]] = []
    readings: list[dict[str, Any]] = []
    problems: list[str] = []
    unmapped: Counter[str] = Counter()
    rest = 0
    for stem in track(stems, f"Reading annotations of {name}", len(stems)):
        header = stem.with_suffix(".hea")
        recording = _open(header, config)
        steps, rate = (recording.steps, recording.rate) if recording else (0, 0.0)
        rest += _beyond(recording)
        record = str(stem.relative_to(root))
        more = {str(k): v for k, v in about.get(record, {}).items()}
        group = str(more.pop("patient", person.get(stem.name, record)))
        place = {
            "record": record,
            "group": group,
            "path": str((recording.file if recording else header).relative_to(root)),
            "header": str(header.relative_to(root)),
        }
        labels, other, found = wfdb_labels(stem, "atr", steps, rate, notes_to_classes)
        problems += [f"{record}.atr: {p}" for p in found]
        unmapped.update(other)
        mine = window_rows(place, steps, size, labels, more)
        rows += mine
        for extension in sorted(readers_of.get(stem, [])):
            read, _, found = wfdb_labels(stem, extension, steps, rate, notes_to_classes)
            problems += [f"{record}.{extension}: {p}" for p in found]
            for row, (start, counted) in zip(mine, windows(steps, size), strict=True):
                texts = window_labels(read, start, counted, size)
                readings.append({"id": row["id"], "reader": extension, "rhythms": texts})
    known = ", ".join(f"{note} {target or 'masked'}" for note, target in notes_to_classes.items())
    raise_problems(problems, str(root), f"Correct the files, or name the rhythm in labels.wfdb. Known: {known}.")
    notes = _rest(rest, len(stems))
    if unannotated:
        notes.append(f"{unannotated} recordings have no .atr file and are not used.")
    if unmapped:
        shown = ", ".join(f"{note} {count * STEP / RATE:,.0f} s" for note, count in sorted(unmapped.items()))
        notes.append(f"Rhythms that are none of the twelve classes are masked: {shown}.")
    readers = pd.DataFrame(readings) if readings else None
    return Source(name, name == "phantom", root, finish(rows, config), "patient", readers, notes)


def wfdb_labels(
    stem: Path, extension: str, steps: int, rate: float, classes: Mapping[str, str | None]
) -> tuple[list[str], Counter[str], list[str]]:
    """Labels of all steps from an annotation file.

    Args:
        stem: the record without suffix.
        extension: of the annotation file.
        steps: of the record.
        rate: Hz, of the record: annotation files count its samples.
        classes: rhythm note -> class, None for a rhythm that is none of the twelve.

    Returns:
        One label per step; how many steps have a rhythm that is none of the twelve, by its note; what is wrong.
    """
    if not rate:  # the record cannot be read, and that will be said
        return [MASKED] * steps, Counter(), []
    try:
        samples, notes, _ = signals.read_rhythms(stem, extension)
    except BadFile as reason:
        return [MASKED] * steps, Counter(), [str(reason)]
    problems = [
        f"unknown rhythm {note} at {sample / rate:.1f} s"
        for sample, note in zip(samples, notes, strict=True)
        if note not in classes
    ]
    if (np.diff(samples) < 0).any():
        problems.append("its rhythm changes are not in the order of time")
    onsets = np.round(samples * RATE / rate).astype(int).tolist()
    if onsets and onsets[-1] >= (steps + 1) * STEP:
        problems.append(f"a rhythm begins at {onsets[-1] / RATE:.1f} s, beyond the end of the recording")
    labels = step_labels(onsets, [classes.get(note) or note for note in notes], steps)
    other = Counter(label for label in labels if label.startswith("("))
    return [MASKED if label.startswith("(") else label for label in labels], other, problems


def _wfdb_stems(root: Path) -> tuple[list[Path], int]:
    """The records of a database without their suffix, and how many were passed over for want of annotations."""
    listing = root / "RECORDS"
    if listing.is_file():
        names = [line.strip() for line in listing.read_text(encoding="utf-8").splitlines() if line.strip()]
        stems = [root / name for name in names]
    else:
        stems = sorted({f.with_suffix("") for kind in ("hea", "atr") for f in root.rglob(f"*.{kind}")})
    annotated = [stem for stem in stems if stem.with_suffix(".atr").is_file()]
    if not annotated:
        raise DataError(
            f"{root} holds no WFDB record with an .atr file.",
            "Give the folder that holds the .hea, .dat and .atr files of a database with rhythm annotations.",
        )
    return annotated, len(stems) - len(annotated)


def mitdb(config: EcgConfig, root: str | None = None) -> Source:
    """`data=mitdb` and `data=wfdb`."""
    keys = config.data
    own = keys.name in ("mitdb", "wfdb")
    name = keys.name if own and root is None else "mitdb"
    folder = dataset_folder(root or keys.root, name)
    patients = None
    listing = getattr(keys, "patients", None)
    if listing is not None:
        patients = read_csv(Path(listing).expanduser(), ["record", "patient"])
        raise_problems(check_ids(patients["record"], Path(listing)), listing, "Name each record once.")
    same = getattr(keys, "same_patient", [["201", "202"]])
    return wfdb_database(folder, config, name, patients, same)


def phantom(config: EcgConfig) -> Source:
    """The phantom, made on first use, read through the adapter of its native layout."""
    assert config.data.name == "phantom"
    keys = config.data.phantom
    settings = PhantomSettings(keys.patients, keys.seed, keys.noise, keys.subtlety, keys.committee_error)
    root = ensure_phantom(Path(config.cache.dir), settings)
    patients = read_csv(root / "patients.csv", ["record", "patient", "age", "sex"])
    patients["age"] = pd.to_numeric(patients["age"])
    source = wfdb_database(root, config, "phantom", patients)
    truth = pd.read_csv(root / "truth" / "truth.csv", dtype=str).set_index("record")["rhythms"]
    records = source.records.assign(truth=truth.reindex(source.records["record"]).to_numpy())
    return Source("phantom", True, root, records, source.group_key, source.readers, source.notes)


# --- the published test set ---


def irhythm(config: EcgConfig, root: str | None = None) -> Source:
    """`data=irhythm`: the 328 records that a committee and six cardiologists labelled.

    Raises:
        DataError: every file that is missing, every episode that is unknown, overlapping or beyond its record's end.
    """
    folder = dataset_folder(root or config.data.root, "irhythm")
    found = read_irhythm(folder, config.labels.irhythm)
    size = config.preprocess.steps
    rows: list[dict[str, Any]] = []
    readings: list[dict[str, Any]] = []
    for record in found.records:
        labels = found.committee[record]
        place = {"record": record, "group": record.rsplit("_", 1)[0], "path": f"{record}.ecg", "split": None}
        mine = window_rows(place, len(labels), size, labels)
        rows += mine
        for reader, read in found.readers[record].items():
            for row, (start, counted) in zip(mine, windows(len(labels), size), strict=True):
                text = window_labels(read, start, counted, size)
                readings.append({"id": row["id"], "reader": reader, "rhythms": text})
    readers = pd.DataFrame(readings) if readings else None
    return Source("irhythm", False, folder, finish(rows, config), "patient", readers, found.notes)


# --- one label per recording ---


def cinc2017(config: EcgConfig, root: str | None = None) -> Source:
    """The PhysioNet/CinC Challenge 2017: REFERENCE-v3.csv (record, label) and WFDB records in any subfolder.

    Where a folder of validation records (named validation, or below sample2017) lies beside the training records, it
    is the test part. Those 300 records are training records too: the leakage gate finds them by their signal.

    Raises:
        DataError: no reference, every row that is no label or names no file.
    """
    folder = dataset_folder(root or config.data.root, "cinc2017")
    references = sorted(folder.rglob("REFERENCE*.csv"), reverse=True)  # v3 before v2 before the first
    if not references:
        raise DataError(
            f"{folder} holds no REFERENCE-v3.csv.", "It lists one record and its label (N, A, O, ~) per line."
        )
    stems = sorted({f.with_suffix("") for kind in ("mat", "hea") for f in folder.rglob(f"*.{kind}")})
    validation = [s for s in stems if _of_validation(s.relative_to(folder))]
    both = 0 < len(validation) < len(stems)
    label_of, problems = _cinc_labels(references, folder, list(config.labels.record))
    rows: list[dict[str, Any]] = []
    without, rest = [], 0
    used: set[str] = set()
    for stem in track(stems, "Reading headers of cinc2017", len(stems)):
        record = str(stem.relative_to(folder))
        # A folder's own reference first, then any other that knows the name.
        near = [labels for parent, labels in label_of if stem.is_relative_to(parent)]
        known = [labels for labels in [*near, *(labels for _, labels in label_of)] if stem.name in labels]
        label = known[0][stem.name] if known else None
        if label is None:
            without.append(record)
            continue
        used.add(stem.name)
        header = stem.with_suffix(".hea")
        recording = _open(header, config)
        steps = recording.steps if recording else 0
        rest += _beyond(recording)
        place = {
            "record": record,
            "group": record,
            "path": f"{record}.mat",
            "header": f"{record}.hea",
            "record_label": label,
            "expected_rate": float(CINC_RATE),
            "split": ("test" if stem in validation else "train") if both else None,
        }
        rows += window_rows(place, steps, config.preprocess.steps, [UNLABELLED] * steps)
    named = {name for _, labels in label_of for name in labels}
    missing = sorted(named - {s.name for s in stems})
    problems += [f"{name}: no such recording below {folder}" for name in missing]
    raise_problems(problems, str(folder), "Correct the reference, or copy the missing files.")
    notes = _rest(rest, len(used))
    notes.append("One label per recording: it is learned through the mean of the step probabilities of each window.")
    if without:
        notes.append(f"{len(without)} recordings have no label and are not used: {', '.join(without[:5])}.")
    key = "recording (the set has no patient ids); identical signals are one group"
    return Source("cinc2017", False, folder, finish(rows, config), key, notes=notes)


def _of_validation(path: Path) -> bool:
    return any(part.lower().startswith(("validation", "sample")) for part in path.parts[:-1])


def _cinc_labels(
    references: Sequence[Path], folder: Path, allowed: Sequence[str]
) -> tuple[list[tuple[Path, dict[str, str]]], list[str]]:
    """Labels by reference file (the folder it speaks of, name -> label), the newest version of each folder first."""
    found: list[tuple[Path, dict[str, str]]] = []
    problems: list[str] = []
    done: set[Path] = set()
    for file in references:
        if file.parent in done:
            continue
        done.add(file.parent)
        labels: dict[str, str] = {}
        for number, line in enumerate(file.read_text(encoding="utf-8-sig").splitlines(), start=1):
            name, _, label = (part.strip().strip('"') for part in line.partition(","))
            if not line.strip() or (number == 1 and label not in allowed and not name[-1:].isdigit()):
                continue  # an empty line, or a header
            where = f"{file.relative_to(folder)} line {number}"
            if label not in allowed:
                problems.append(f"{where}: label '{label}' of {name}, allowed: {', '.join(allowed)}")
            elif name in labels and labels[name] != label:
                problems.append(f"{where}: {name} has two labels, {labels[name]} and {label}")
            else:
                labels[name] = label
        found.append((file.parent, labels))
    return sorted(found, key=lambda item: -len(item[0].parts)), problems


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
    rest = 0
    for record in source.records.to_dict("records"):
        file = source.root / str(record["path"])
        recording = _open(file, config)
        steps, rate = (recording.steps, recording.rate) if recording else (0, 0.0)
        rest += _beyond(recording)
        code = record.pop("rhythm")
        place: dict[str, Any] = {"record": record.pop("id")} | {str(k): v for k, v in record.items()}
        labels = [UNLABELLED if code == code else MASKED] * steps
        if code == code:
            place["record_label"] = words[int(code)]
        elif file.with_suffix(".atr").is_file() and file.suffix in (".hea", ".dat", ".mat"):
            labels, _, wrong = wfdb_labels(file.with_suffix(""), "atr", steps, rate, config.labels.wfdb)
            problems += [f"{file.with_suffix('.atr').name}: {p}" for p in wrong]
        rows += window_rows(place, steps, config.preprocess.steps, labels)
    raise_problems(problems, str(source.root), "Correct the files, or name the rhythm in labels.wfdb.")
    records = finish(rows, config)
    if config.mode in ("train", "resume") and not any(carried(records)):
        raise DataError(
            "data.targets names no column for rhythm, and no WFDB record has rhythm annotations beside it.",
            f"Give one, such as 'data.targets={{rhythm: diagnosis}}'; its words: {', '.join(words)}.",
        )
    return Source(
        "table", False, source.root, records, source.group_key, notes=[*source.notes, *_rest(rest, len(rows))]
    )


# --- several sources at once ---

ALSO: dict[str, Callable[[EcgConfig, str], Source]] = {
    "irhythm": irhythm,
    "cinc2017": cinc2017,
    "mitdb": mitdb,
    "wfdb": mitdb,
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
    tables, readers, notes = [], [], []
    for i, (source, folder) in enumerate(zip(sources, folders, strict=True)):
        moved = source.records.copy()
        for column in ("path", "header"):
            moved[column] = [relpath(folder / p, root) if isinstance(p, str) else None for p in moved[column]]
        mine = source.readers
        if i:  # ids and groups mean something only within one source
            prefix = f"{source.name}{'' if sources.index(source) == i else i}/"
            for column in ("id", "record", "group"):
                moved[column] = prefix + moved[column].astype(str)
            mine = None if mine is None else mine.assign(id=prefix + mine["id"].astype(str))
        tables.append(moved.assign(source=source.name))
        readers += [] if mine is None else [mine]
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
    )


SOURCES = {
    "phantom": with_others(phantom),
    "irhythm": with_others(irhythm),
    "cinc2017": with_others(cinc2017),
    "mitdb": with_others(mitdb),
    "wfdb": with_others(mitdb),
    "table": with_others(table),
}
