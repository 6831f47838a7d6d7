"""Where the studies come from: one adapter per source, and how a study becomes the network's input.

Besides the columns that every study has: `critical` (0 or 1: what radiologists or a dataset's labels say, *gold*),
`concepts` (critical concepts in the report), `silver_4`, `silver_8`, `silver_10` (whether they are that many),
`stratum`, and what is known of the series (`archive.COLUMNS`). NaN is unknown.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipelines.head_ct import volumes
from pipelines.head_ct.archive import (
    COLUMNS,
    Archive,
    bad_files_of,
    file_name,
    finish,
    names_of,
    notes_of,
    open_archive,
    private_folder,
    read_index,
    studies_below,
    write_if_changed,
    write_lookup,
)
from pipelines.head_ct.config import HeadCtConfig
from pipelines.head_ct.labeller import MENTIONS, REPORTS, critical_counts, label_reports, silver_columns
from pipelines.head_ct.phantom.dataset import TRIAL, ensure_phantom
from pipelines.head_ct.pseudonyms import Names
from pipelines.head_ct.public_sets import cq500, rsna_ich
from pipelines.head_ct.stacks import Fault, Stack, kind_of
from pipelines.shared.config import conf_folder
from pipelines.shared.data.images import read_image
from pipelines.shared.data.kept import keep_table, kept_table
from pipelines.shared.data.records import Source, Target, dataset_folder, read_table
from pipelines.shared.data.tables import RowProblem, parse_values, read_csv, without_bad_rows
from pipelines.shared.errors import BadFile, DataError
from pipelines.shared.screen import cpu_count, parallel_map, track

PREPARE_VERSION = 2  # raise it whenever `prepare` gives other arrays
SUFFIXES = (".dcm",)
PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
CORRECT = "Correct these rows, or drop and report them with data.on_bad_row=skip."


# --- one study ---


def prepare_settings(config: HeadCtConfig) -> dict[str, Any]:
    """Everything that a prepared volume depends on besides the files."""
    grid = config.preprocess
    return {
        "study": "head_ct",
        "version": PREPARE_VERSION,
        "slices": grid.slices,
        "thickness": grid.thickness,
        "size": grid.size,
        "field": grid.field,
    }


def grid_of(settings: Mapping[str, Any]) -> volumes.Grid:
    """The grid in the settings of `prepare`."""
    return volumes.Grid(settings["slices"], settings["thickness"], settings["size"], settings["field"])


def prepare(record: Mapping[str, Any], root: Path, settings: dict[str, Any]) -> tuple[np.ndarray, dict[str, Any]]:
    """One study: int16 HU (slices, size, size) on the grid, `volumes.NO_DATA` where nothing is known, and its metadata.

    Slices that cannot be read are missing in it and named as `bad_files`.

    Raises:
        BadFile: too many of its slices cannot be read.
    """
    index = read_index(root / record["path"])
    grid = grid_of(settings)
    if "bad" in index:
        raise BadFile(index["bad"])
    if "picture" in index:
        grey = read_image(Path(index["picture"]))[..., 1]
        volume, metadata = volumes.picture_onto_grid(grey, tuple(index["window"]), index["field"], grid)
    else:
        volume, metadata = volumes.onto_grid(Stack.from_json(index["stack"]), Path(index["root"]), grid)
    names = {file: name for file, name, *_ in index.get("files", [])}
    metadata["bad_files"] = sorted({f"{names[f.file]}: {f.reason}" for f in metadata.pop("faults")})
    metadata["warnings"] = [kind_of(warning) for warning in metadata["warnings"]]
    return volume, metadata | {"unreadable_slices": len(metadata["bad_files"])}


# --- reports ---


def labelled_reports(reports: pd.DataFrame, config: HeadCtConfig) -> pd.DataFrame:
    """Mentions in reports (id, text), from the cache where these reports were labelled before by the same terms."""
    lexicon, terms = (Path(f) if f else None for f in (config.labels.lexicon, config.labels.terms))
    from pipelines.head_ct import english, labeller, report_text, sentences

    mark = hashlib.sha256()
    for part in (*(Path(str(m.__file__)) for m in (labeller, english, report_text, sentences)), lexicon, terms):
        mark.update(part.read_bytes() if part else b"-")
    for file in ("lexicon.yaml", "terms.yaml"):
        mark.update((conf_folder() / "head_ct" / file).read_bytes())
    for row in reports.itertuples():
        mark.update(f"{row.id}\0{row.text}\0".encode())
    keeper = private_folder(config) / f"mentions-{mark.hexdigest()[:20]}.parquet"
    known = kept_table(keeper, MENTIONS)
    if known is not None:
        return known
    REPORTS.require("Labelling reports")
    size = 100
    parts = [reports.iloc[i : i + size] for i in range(0, len(reports), size)]
    work = partial(label_reports, lexicon=lexicon, terms=terms)
    done = parallel_map(work, parts, "Reading reports", 1 if len(reports) < 1000 else cpu_count())
    mentions = pd.concat(done, ignore_index=True) if done else work(reports)
    keep_table(keeper, mentions)
    return mentions


# --- reports and pictures: the paper's own setting, and the phantom ---


def phantom_folder(config: HeadCtConfig) -> Path:
    """The folder of the synthetic archive, which is made if it is not there: a small one for a trial run."""
    assert config.data.name == "phantom"
    settings = config.data.phantom.model_copy(update=TRIAL if config.trial else {})
    return ensure_phantom(Path(config.cache.dir), settings)


def phantom(config: HeadCtConfig) -> Source:
    """The synthetic archive, through the same code as `reports`."""
    root = phantom_folder(config)
    names = names_of(config)
    archive = open_archive(root / "dicom", config, names)
    tables = {
        "reports": read_csv(root / "reports.csv", ["accession", "report"]),
        "gold": read_csv(root / "gold.csv", ["accession", "critical"]),
        "readers": read_csv(root / "readers.csv", ["accession", "reader", "critical"]),
    }
    keys = ("accession", "report", "accession")
    source = _joined("phantom", True, archive, tables, keys, config, names, Path("reports.csv"))
    truth = pd.read_csv(root / "truth" / "truth.csv")
    truth["id"] = _ids_of(truth["accession"], archive, names, "accession")
    truth = truth.dropna(subset="id").set_index("id").reindex(source.records["id"])
    source.records["truth_severity"] = truth["severity"].to_numpy(float)
    source.records["truth_critical"] = truth["critical"].to_numpy(float)
    source.records["truth_findings"] = truth["findings"].fillna("").to_numpy()
    if config.trial:
        source.notes.append(
            f"A trial run: {TRIAL['studies']} studies, whatever data.phantom.studies says. Its numbers mean nothing."
        )
    return source


def reports(config: HeadCtConfig) -> Source:
    """`data=reports`: DICOM studies and a table of reports, joined by accession number or study UID.

    Raises:
        DataError: tables that cannot be read, or rows of them (`data.on_bad_row=error`), all at once.
    """
    data = config.data
    assert data.name == "reports"
    root = dataset_folder(data.root, "reports")
    if data.reports is None:
        raise DataError("data=reports needs data.reports=<CSV of reports>.", "See data_cards/reports.md.")
    names = names_of(config)
    file = Path(data.reports)
    tables = {"reports": read_csv(file, [data.id_column, data.text_column])}
    for name, needed in (("gold", ["critical"]), ("readers", ["reader", "critical"])):
        given = getattr(data, name)
        if given is not None:
            tables[name] = read_csv(Path(given), [data.id_column, *needed])
    archive = studies_below(root, config, names)
    keys = (data.id_column, data.text_column, data.join)
    return _joined("reports", False, archive, tables, keys, config, names, file)


def _ids_of(column: pd.Series, archive: Archive, names: Names, join: str) -> pd.Series:
    """The study of each row of a table; None where the archive has none."""
    if join == "study":
        keys = {i: i for i in archive.studies["id"]}
        hashed = column.map(lambda v: names.of("ct", v))
    else:
        keys = dict(zip(archive.studies["accession"], archive.studies["id"], strict=True))
        hashed = column.map(lambda v: names.of("ac", v))
    return hashed.map(lambda v: keys.get(v)).astype(object)


def _joined(
    name: str, synthetic: bool, archive: Archive, tables: dict[str, pd.DataFrame], keys: tuple[str, str, str],
    config: HeadCtConfig, names: Names, file: Path,
) -> Source:  # fmt: skip
    id_column, text_column, join = keys
    notes = notes_of(archive)
    problems = _row_problems(tables["reports"][id_column], file.name)
    if join == "accession":
        twice = archive.studies["accession"][archive.studies["accession"].duplicated(keep=False)].dropna()
        if len(twice):
            problems.append(f"{len(twice)} studies share {twice.nunique()} accession numbers; join them by study")
    remedy = f"One row per report; several parts of a report belong into one row. {CORRECT}"
    table, left_out = without_bad_rows(tables["reports"], problems, config.data.on_bad_row, str(file), remedy)
    text = table[text_column].fillna("").astype(str).str.strip()
    ids = _ids_of(table[id_column], archive, names, join)
    lost = int(ids.isna().sum())
    if lost:
        notes.append(f"{lost} of {len(table)} reports belong to no study with a usable series; they are not used.")
    empty = ids[(text == "") & ids.notna()]
    if len(empty):
        notes.append(f"{len(empty)} reports are empty, so their studies have no label: {', '.join(empty[:20])}.")
    read = pd.DataFrame({"id": ids, "text": text})[(text != "") & ids.notna()].reset_index(drop=True)
    mentions = labelled_reports(read, config)
    counts = pd.Series(critical_counts(mentions, list(read["id"])), index=read["id"])
    studies = archive.studies.copy()
    studies["concepts"] = studies["id"].map(counts)
    silver = silver_columns(studies["concepts"].fillna(-1).to_numpy())
    for column, values in silver.items():
        studies[column] = np.where(studies["concepts"].isna(), np.nan, values)
    readers = None
    if "gold" in tables:
        gold, skipped = _decisions(tables["gold"], id_column, "gold table", config)
        left_out += skipped
        of = gold["critical"].set_axis(_ids_of(gold[id_column], archive, names, join))
        of = of[of.index.notna()]
        studies["critical"] = studies["id"].map(of)
        studies["split"] = ["test" if known else None for known in studies["critical"].notna()]
        if len(of) < len(gold):
            notes.append(f"{len(gold) - len(of)} reviewed studies are not among those with a usable series.")
    without = studies["concepts"].isna() & (studies["critical"].isna() if "critical" in studies else True)
    if without.any():
        shown = ", ".join(studies["id"][without][:20])
        notes.append(f"{int(without.sum())} studies have neither report nor review and are left out: {shown}.")
        studies = studies[~without]
    if "readers" in tables:
        called, skipped = _decisions(tables["readers"], [id_column, "reader"], "readers' table", config)
        left_out += skipped
        of_rows = _ids_of(called[id_column], archive, names, join)
        who = called["reader"].astype(str)
        labels = {r: r if synthetic else f"reader {i + 1}" for i, r in enumerate(sorted(who.unique()))}
        readers = pd.DataFrame({"id": of_rows, "reader": who.map(labels), "critical": called["critical"]})
        readers = readers[readers["id"].isin(studies["id"])].reset_index(drop=True)
    if studies.empty:
        raise DataError("No study has a report or a review.", f"Do the tables' ids hold the {join}? data.join says so.")
    key = "patient (hashed PatientID)"
    return Source(
        name, synthetic, archive.folder, finish(studies), key, readers, notes, left_out,
        bad_files=bad_files_of(archive, names), lookup=archive.lookup,
    )  # fmt: skip


def _row_problems(ids: pd.Series, file: str) -> list[str]:
    """Empty and repeated ids, by row: the ids themselves are nobody's business."""
    problems: list[str] = [RowProblem(f"{file} row {i + 2}: empty {ids.name}", i) for i in ids.index[ids.isna()]]
    for rows in ids[ids.notna() & ids.duplicated(keep=False)].groupby(ids).groups.values():
        where = ", ".join(str(int(r) + 2) for r in rows)
        problems.append(RowProblem(f"{file} rows {where}: the same {ids.name}", *rows))
    return problems


def _decisions(
    table: pd.DataFrame, keys: str | list[str], file: str, config: HeadCtConfig
) -> tuple[pd.DataFrame, list[str]]:
    """A table of decisions whose `critical` is 0 or 1, one row per id (or id and reader), and the rows left out."""
    values, problems = parse_values(table["critical"], [0, 1], Path(file))
    for key in [keys] if isinstance(keys, str) else keys:
        problems += [RowProblem(f"{file} row {i + 2}: empty {key}", i) for i in table.index[table[key].isna()]]
    twice = table.index[table.duplicated(keys, keep=False)]
    problems += [RowProblem(f"{file} row {i + 2}: decided more than once", i) for i in twice]
    remedy = f"critical is 0 or 1, once for each. {CORRECT}"
    return without_bad_rows(table.assign(critical=values), problems, config.data.on_bad_row, f"The {file}", remedy)


# --- one's own table ---


def table(config: HeadCtConfig) -> Source:
    """`data=table`: a folder of DICOM files, a DICOM file or a picture per row, with the target `critical`.

    Raises:
        DataError: bad rows. A path that holds no series, or several studies, is a bad record.
    """
    assert config.data.name == "table"
    names = names_of(config)
    needed = config.mode in ("train", "resume", "verify")
    source = read_table(config.data, [Target("critical", [0, 1], required=needed)])
    folder = (
        private_folder(config) / f"index-table-{hashlib.sha256(str(source.root.resolve()).encode()).hexdigest()[:12]}"
    )
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    bad_files: list[str] = []
    real: dict[str, str] = {}
    for record in track(source.records.to_dict("records"), "Reading studies", len(source.records)):
        name, path = names.of("ct", record["id"]), str(record["path"])
        real[name] = path

        def hashed(file: str, path: str = path) -> str:  # files of two rows may have the same name in their folders
            whole = f"{path}/{file}"
            real[file_name(names, whole)] = whole
            return file_name(names, whole)

        index, metadata, faults = _row(source.root / path, config, names)
        for entry in index.get("files", []):
            entry[1] = hashed(entry[0])
        write_if_changed(folder / f"{name}.json", json.dumps(index, indent=1))
        bad_files += [f"{name}, {hashed(fault.file)}: {fault.reason}" for fault in faults]
        own = {str(k): v for k, v in record.items()} | {"id": name, "group": names.of("pt", record["group"])}
        of_the_series = {k: metadata.pop(k) for k in ("warnings", "details") if k in metadata}
        rows.append(metadata | own | of_the_series | {"path": f"{name}.json"})
    write_lookup(folder / "files.csv", real)
    records = finish(pd.DataFrame(rows))
    return replace(source, root=folder, records=records, bad_files=bad_files, lookup=folder / "files.csv")


def _row(path: Path, config: HeadCtConfig, names: Names) -> tuple[dict[str, Any], dict[str, Any], list[Fault]]:
    """What a path of the table holds: its index (`read_index`), what is known of its series, and its faulty files."""
    if path.suffix.lower() in PICTURES:
        return _picture_index(path, config), {}, []
    try:
        archive = open_archive(path, config, names)
    except DataError as failure:
        return {"bad": failure.problem}, {}, []
    if len(archive.studies) != 1:
        why = [f"it holds {len(archive.studies)} studies with a usable series, not one"]
        why += sorted({str(study.reason) for study in archive.without})
        return {"bad": "; ".join(why)}, {}, archive.faulty()
    metadata = archive.studies.iloc[0].to_dict()
    index = read_index(archive.folder / metadata["path"])
    return index, {k: metadata[k] for k in COLUMNS if k not in ("accession", "path")}, archive.faulty()


def _picture_index(path: Path, config: HeadCtConfig) -> dict[str, Any]:
    assert config.data.name == "table"
    status = path.stat() if path.exists() else None
    stamp = [status.st_size, status.st_mtime_ns] if status else None
    content = {"picture": str(path.resolve()), "window": config.data.picture_window, "stamp": stamp}
    return content | {"field": config.data.picture_field}


SOURCES: dict[str, Callable[[HeadCtConfig], Source]] = {
    "phantom": phantom,
    "reports": reports,
    "rsna_ich": rsna_ich,
    "cq500": cq500,
    "table": table,
}
