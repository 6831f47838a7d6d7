"""Where the studies come from: one adapter per source, and how a study becomes the network's input.

Besides the columns that every study has: `critical` (0 or 1: what radiologists or a dataset's labels say, *gold*),
`concepts` (critical concepts in the report), `silver_4`, `silver_8`, `silver_10` (whether they are that many),
`stratum`, and what is known of the series (`archive.COLUMNS`). NaN is unknown.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipelines.head_ct import volumes
from pipelines.head_ct.archive import (
    COLUMNS,
    Archive,
    file_name,
    names_of,
    notes_of,
    open_archive,
    private_folder,
    read_index,
    refuse_faults,
    write_if_changed,
)
from pipelines.head_ct.config import HeadCtConfig
from pipelines.head_ct.labeller import THRESHOLDS, critical_counts, label_reports, silver_columns
from pipelines.head_ct.phantom import PhantomSettings, ensure_phantom
from pipelines.head_ct.pseudonyms import Names
from pipelines.head_ct.stacks import Stack
from pipelines.shared.errors import BadFile, DataError, listed
from pipelines.shared.images import read_image
from pipelines.shared.records import (
    Source,
    Target,
    dataset_folder,
    parse_values,
    raise_problems,
    read_csv,
    read_table,
)
from pipelines.shared.run_folder import write_atomically
from pipelines.shared.screen import cpu_count, parallel_map

PREPARE_VERSION = 1  # raise it whenever `prepare` gives other arrays
SUFFIXES = (".dcm",)
PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
SILVER = [f"silver_{t}" for t in THRESHOLDS]


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
        "strict": config.data.on_bad_file == "error",
    }


def grid_of(settings: Mapping[str, Any]) -> volumes.Grid:
    """The grid in the settings of `prepare`."""
    return volumes.Grid(settings["slices"], settings["thickness"], settings["size"], settings["field"])


def prepare(record: Mapping[str, Any], root: Path, settings: dict[str, Any]) -> tuple[np.ndarray, dict[str, Any]]:
    """One study: int16 HU (slices, size, size) on the grid, `volumes.NO_DATA` where nothing is known, and its facts.

    Raises:
        BadFile: slices that cannot be read (one is enough with `data.on_bad_file=error`).
    """
    index = read_index(root / record["path"])
    grid = grid_of(settings)
    if "picture" in index:
        grey = read_image(Path(index["picture"]))[..., 1]
        volume, facts = volumes.picture_onto_grid(grey, tuple(index["window"]), index["field"], grid)
    else:
        volume, facts = volumes.onto_grid(Stack.from_json(index["stack"]), Path(index["root"]), grid)
    faults = facts.pop("faults")
    if faults and settings["strict"]:
        reasons = sorted({f.reason for f in faults})
        raise BadFile(f"{len(faults)} of its slices cannot be read: {'; '.join(reasons)}")
    facts["pixel_warnings"] = "; ".join(facts.pop("warnings"))
    return volume, facts | {"unreadable_slices": len(faults)}


# --- what all sources share ---


def finish(table: pd.DataFrame) -> pd.DataFrame:
    """The record table with every column of this module's docstring."""
    table = table.drop(columns=["accession"], errors="ignore").reset_index(drop=True)
    for column in ("critical", "concepts", *SILVER):
        table[column] = pd.to_numeric(table[column]).astype(float) if column in table else np.nan
    if "split" not in table:
        table["split"] = None
    table["split"] = table["split"].astype(object).where(table["split"].notna(), None)
    first = table["silver_4"].where(table["silver_4"].notna(), table["critical"])
    table["stratum"] = first + table["silver_8"].fillna(0)
    return table


def labelled_reports(reports: pd.DataFrame, config: HeadCtConfig) -> pd.DataFrame:
    """Mentions in reports (id, text), from the cache where these reports were labelled before by the same terms."""
    lexicon, terms = (Path(f) if f else None for f in (config.labels.lexicon, config.labels.terms))
    from pipelines.head_ct import labeller

    mark = hashlib.sha256()
    for part in (Path(labeller.__file__), lexicon, terms):
        mark.update(part.read_bytes() if part else b"-")
    for file in ("lexicon.yaml", "terms.yaml"):
        mark.update((labeller.conf_folder() / "head_ct" / file).read_bytes())
    for row in reports.itertuples():
        mark.update(f"{row.id}\0{row.text}\0".encode())
    keeper = private_folder(config) / f"mentions-{mark.hexdigest()[:20]}.parquet"
    if keeper.is_file():
        return pd.read_parquet(keeper)
    size = 100
    parts = [reports.iloc[i : i + size] for i in range(0, len(reports), size)]
    work = partial(label_reports, lexicon=lexicon, terms=terms)
    done = parallel_map(work, parts, "Reading reports", 1 if len(reports) < 1000 else cpu_count())
    mentions = pd.concat(done, ignore_index=True) if done else work(reports)
    keeper.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(keeper, lambda aside: mentions.to_parquet(aside, index=False))
    return mentions


# --- reports and pictures: the paper's own setting, and the phantom ---


def phantom(config: HeadCtConfig) -> Source:
    """The synthetic archive, through the same code as `reports`."""
    assert config.data.name == "phantom"
    root = ensure_phantom(Path(config.cache.dir), PhantomSettings(**config.data.phantom.model_dump()))
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
    truth = truth.set_index("id").reindex(source.records["id"])
    source.records["truth_severity"] = truth["severity"].to_numpy(float)
    source.records["truth_critical"] = truth["critical"].to_numpy(float)
    source.records["truth_findings"] = truth["findings"].fillna("").to_numpy()
    return source


def reports(config: HeadCtConfig) -> Source:
    """`data=reports`: DICOM studies and a table of reports, joined by accession number or study UID.

    Raises:
        DataError: tables that cannot be read; files that cannot (`data.on_bad_file=error`), all at once.
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
    archive = open_archive(root, config, names)
    refuse_faults(archive, names, config)
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
    table = tables["reports"]
    problems = _row_problems(table[id_column], file)
    if join == "accession":
        twice = archive.studies["accession"][archive.studies["accession"].duplicated(keep=False)].dropna()
        if len(twice):
            problems.append(f"{len(twice)} studies share {twice.nunique()} accession numbers; join them by study")
    raise_problems(problems, str(file), "One row per report; several parts of a report belong into one row.")
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
        gold, wrong = _decisions(tables["gold"], id_column, "gold table")
        raise_problems(wrong, "The table of reviewed studies", "critical is 0 or 1 in every row.")
        of = pd.Series(gold, index=_ids_of(tables["gold"][id_column], archive, names, join))
        of = of[of.index.notna() & ~of.index.duplicated()]
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
        called, wrong = _decisions(tables["readers"], id_column, "readers' table")
        raise_problems(wrong, "The table of readers", "critical is 0 or 1 in every row.")
        of_rows = _ids_of(tables["readers"][id_column], archive, names, join)
        who = tables["readers"]["reader"].astype(str)
        labels = {r: r if synthetic else f"reader {i + 1}" for i, r in enumerate(sorted(who.unique()))}
        readers = pd.DataFrame({"id": of_rows, "reader": who.map(labels), "critical": called})
        readers = readers[readers["id"].isin(studies["id"])].reset_index(drop=True)
    if studies.empty:
        raise DataError("No study has a report or a review.", f"Do the tables' ids hold the {join}? data.join says so.")
    key = "patient (hashed PatientID)"
    return Source(name, synthetic, archive.folder, finish(studies), key, readers, notes)


def _row_problems(ids: pd.Series, file: Path) -> list[str]:
    """Empty and repeated ids, by row: the ids themselves are nobody's business."""
    problems = [f"{file.name} row {i + 2}: empty {ids.name}" for i in np.flatnonzero(ids.isna())]
    for _, rows in ids[ids.notna() & ids.duplicated(keep=False)].groupby(ids).groups.items():
        problems.append(f"{file.name} rows {', '.join(str(int(r) + 2) for r in rows)}: the same {ids.name}")
    return problems


def _decisions(table: pd.DataFrame, id_column: str, what: str) -> tuple[np.ndarray, list[str]]:
    values, problems = parse_values(table["critical"], [0, 1], Path(what))
    return values.to_numpy(), problems


# --- public sets ---


def rsna_ich(config: HeadCtConfig) -> Source:
    """RSNA 2019: `stage_2_train.csv` (ID_<sop>_<subtype>, Label) and the slices; a study has what a slice of it has.

    Raises:
        DataError: no table, rows of another form, contradicting rows.
    """
    root = dataset_folder(config.data.root, "rsna_ich")
    file = next((root / n for n in ("stage_2_train.csv", "stage_1_train.csv") if (root / n).is_file()), None)
    table = read_csv(file or root / "stage_2_train.csv", ["ID", "Label"], "rsna_ich")
    assert file is not None
    parts = table["ID"].astype(str).str.rsplit("_", n=1)
    table = pd.DataFrame({"slice": parts.str[0], "subtype": parts.str[-1], "label": table["Label"]})
    known = ["any", "epidural", "intraparenchymal", "intraventricular", "subarachnoid", "subdural"]
    bad = ~table["subtype"].isin(known) | ~table["label"].isin(["0", "1"])
    problems = [f"{file.name} row {i + 2}: not ID_<slice>_<subtype>,0 or 1" for i in np.flatnonzero(bad)]
    raise_problems(problems[:200], str(file), "Copy the table again.")
    table["label"] = table["label"].astype(int)
    both = table.groupby(["slice", "subtype"])["label"].agg(["min", "max"])
    contradicting = int((both["min"] != both["max"]).sum())
    wide = both["max"].unstack()
    names = names_of(config)
    folder = next((root / n for n in ("stage_2_train", "stage_1_train") if (root / n).is_dir()), root)
    archive = open_archive(folder, config, names)
    refuse_faults(archive, names, config)
    studies, notes = archive.studies, notes_of(archive)
    stacks = {r: read_index(archive.folder / p)["stack"] for r, p in zip(studies["id"], studies["path"], strict=True)}
    rows = []
    for name, stack in stacks.items():
        stems = [Path(f).stem for f in stack["files"]]
        mine = wide.reindex(stems)
        labels = {f"slice_{k}": mine[k].max() if k in mine else np.nan for k in known}
        rows.append(
            {"id": name, "critical": labels["slice_any"], "unlabelled_slices": int(mine["any"].isna().sum())} | labels
        )
    found = studies.merge(pd.DataFrame(rows), on="id")
    without = found["critical"].isna()
    if contradicting:
        notes.append(f"{contradicting} slices are labelled twice with different labels; the positive one counts.")
    if without.any():
        notes.append(f"{int(without.sum())} studies have no labelled slice and are left out.")
    key = "patient (hashed PatientID); studies of one patient overlap"
    found = found[~without].rename(columns={f"slice_{k}": k for k in known})
    if found.empty:
        raise DataError(f"No study below {folder.name} has a slice in {file.name}.", "Slices are ID_<sop>.dcm.")
    return Source("rsna_ich", False, archive.folder, finish(found), key, notes=notes)


def cq500(config: HeadCtConfig) -> Source:
    """CQ500: `reads.csv` with three readers per scan (`R1:ICH`, …); the majority is gold, the readers are kept.

    Raises:
        DataError: no table, other columns, cells that are not 0 or 1.
    """
    assert config.data.name == "cq500"
    root = dataset_folder(config.data.root, "cq500")
    file = next(iter(sorted(root.rglob("reads.csv"))), root / "reads.csv")
    wanted = [f"R{r}:{f}" for r in (1, 2, 3) for f in config.data.findings]
    table = read_csv(file, ["name", *wanted], "cq500")
    values, problems = {}, []
    for column in wanted:
        values[column], wrong = parse_values(table[column], [0, 1], file)
        problems += wrong
    raise_problems(problems, str(file), "Copy the table again.")
    reads = pd.DataFrame(values)
    votes = {f: reads[[f"R{r}:{f}" for r in (1, 2, 3)]].sum(axis=1) >= 2 for f in config.data.findings}
    called = {r: reads[[f"R{r}:{f}" for f in config.data.findings]].max(axis=1) for r in (1, 2, 3)}
    keys = table["name"].map(_cq_key)
    names = names_of(config)
    archive = open_archive(root, config, names)
    refuse_faults(archive, names, config)
    studies, notes = archive.studies.copy(), notes_of(archive)
    keys_of = [_cq_key(read_index(archive.folder / p)["stack"]["files"][0].split("/")[0]) for p in studies["path"]]
    place = {k: i for i, k in enumerate(keys)}
    at = np.array([place.get(k, -1) for k in keys_of], int)
    missing = int((at < 0).sum())
    if missing:
        notes.append(f"{missing} scans are not in {file.name} and are left out.")
    if len(set(keys) - set(keys_of)):
        notes.append(f"{len(set(keys) - set(keys_of))} scans of {file.name} are not in the folder.")
    studies, at = studies[at >= 0].reset_index(drop=True), at[at >= 0]
    if studies.empty:
        raise DataError(f"No scan's folder is named in {file.name}.", "Folders begin with CQ500CT<number>.")
    studies["critical"] = np.column_stack(list(votes.values())).astype(float).max(axis=1)[at]
    for finding, vote in votes.items():
        studies[finding] = vote.to_numpy(float)[at]
    rows = [
        pd.DataFrame({"id": studies["id"], "reader": f"R{r}", "critical": called[r].to_numpy()[at]}) for r in (1, 2, 3)
    ]
    key = "patient (hashed PatientID)"
    return Source("cq500", False, archive.folder, finish(studies), key, pd.concat(rows, ignore_index=True), notes)


def _cq_key(name: object) -> str:
    """ "CQ500-CT-12" and the folder "CQ500CT12 CQ500CT12" as the same word."""
    return "".join(c for c in str(name).split(" ")[0].upper() if c.isalnum())


def table(config: HeadCtConfig) -> Source:
    """`data=table`: a folder of DICOM files, a DICOM file or a picture per row, with the target `critical`.

    Raises:
        DataError: bad rows; paths that hold no series, or several studies.
    """
    assert config.data.name == "table"
    names = names_of(config)
    needed = config.mode in ("train", "resume")
    source = read_table(config.data, [Target("critical", [0, 1], required=needed)])
    folder = (
        private_folder(config) / f"index-table-{hashlib.sha256(str(source.root.resolve()).encode()).hexdigest()[:12]}"
    )
    folder.mkdir(parents=True, exist_ok=True)
    rows, problems = [], []
    for place, record in enumerate(source.records.to_dict("records"), start=2):
        path = source.root / str(record["path"])
        name = names.of("ct", record["id"])
        row = {str(k): v for k, v in record.items()} | {"id": name, "group": names.of("pt", record["group"])}
        if path.suffix.lower() in PICTURES:
            text = _picture_index(path, config)
            write_if_changed(folder / f"{name}.json", text)
            rows.append(row | {"path": f"{name}.json"})
            continue
        try:
            archive = open_archive(path, config, names)
        except DataError as failure:
            problems.append(f"row {place}: {failure.problem}")
            continue
        faulty = archive.faulty()
        if len(archive.studies) != 1 or (faulty and config.data.on_bad_file == "error"):
            reasons = sorted({f"{file_name(names, f.file)}: {f.reason}" for f in faulty})
            why = "; ".join(reasons[:5]) or f"it holds {len(archive.studies)} studies with a usable series, not one"
            problems.append(f"row {place}: {why}")
            continue
        own = archive.studies.iloc[0].to_dict()
        index = (archive.folder / own["path"]).read_text(encoding="utf-8")
        write_if_changed(folder / f"{name}.json", index)
        rows.append({**{k: own[k] for k in COLUMNS if k != "accession"}, **row, "path": f"{name}.json"})
    if problems and config.data.on_bad_file == "error":
        raise_problems(problems, str(config.data.table), "Correct them, or leave them out with data.on_bad_file=skip.")
    notes = list(source.notes)
    if problems:
        notes.append(f"{len(problems)} rows are left out:\n{listed(problems)}")
    if not rows:
        raise DataError(f"{config.data.table}: no row can be used.", "; ".join(problems[:3]) + ".")
    return Source("table", False, folder, finish(pd.DataFrame(rows)), source.group_key, notes=notes)


def _picture_index(path: Path, config: HeadCtConfig) -> str:
    import json

    assert config.data.name == "table"
    status = path.stat() if path.exists() else None
    stamp = [status.st_size, status.st_mtime_ns] if status else None
    content = {"picture": str(path.resolve()), "window": config.data.picture_window, "stamp": stamp}
    return json.dumps(content | {"field": config.data.picture_field}, indent=1)


SOURCES: dict[str, Callable[[HeadCtConfig], Source]] = {
    "phantom": phantom,
    "reports": reports,
    "rsna_ich": rsna_ich,
    "cq500": cq500,
    "table": table,
}
