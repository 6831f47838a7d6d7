"""Public sets of head CT: RSNA 2019 (labels per slice) and CQ500 (three readers per scan)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from pipelines.head_ct.archive import bad_files_of, finish, names_of, notes_of, read_index, studies_below
from pipelines.head_ct.config import HeadCtConfig
from pipelines.shared.data.records import Source, dataset_folder
from pipelines.shared.data.tables import RowProblem, parse_values, read_csv, without_bad_rows
from pipelines.shared.errors import DataError
from pipelines.shared.files import find_files

REMEDY = "Copy the table again, or drop and report these rows with data.on_bad_row=skip."


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
    problems = [RowProblem(f"{file.name} row {i + 2}: not ID_<slice>_<subtype>,0 or 1", i) for i in table.index[bad]]
    table, left_out = without_bad_rows(table, problems, config.data.on_bad_row, str(file), REMEDY)
    table["label"] = table["label"].astype(int)
    both = table.groupby(["slice", "subtype"])["label"].agg(["min", "max"])
    contradicting = int((both["min"] != both["max"]).sum())
    wide = both["max"].unstack()
    names = names_of(config)
    folder = next((root / n for n in ("stage_2_train", "stage_1_train") if (root / n).is_dir()), root)
    archive = studies_below(folder, config, names)
    studies, notes = archive.studies, notes_of(archive)
    stacks = {r: read_index(archive.folder / p)["stack"] for r, p in zip(studies["id"], studies["path"], strict=True)}
    rows = []
    for name, stack in stacks.items():
        stems = [Path(f).stem for f in stack["files"]]
        labelled = wide.reindex(stems)
        labels = {f"slice_{k}": labelled[k].max() if k in labelled else np.nan for k in known}
        unlabelled = int(labelled["any"].isna().sum())
        rows.append({"id": name, "critical": labels["slice_any"], "unlabelled_slices": unlabelled} | labels)
    labelled_studies = studies.merge(pd.DataFrame(rows), on="id")
    without = labelled_studies["critical"].isna()
    if contradicting:
        notes.append(f"{contradicting} slices are labelled twice with different labels; the positive one counts.")
    if without.any():
        notes.append(f"{int(without.sum())} studies have no labelled slice and are left out.")
    key = "patient (hashed PatientID); studies of one patient overlap"
    labelled_studies = labelled_studies[~without].rename(columns={f"slice_{k}": k for k in known})
    if labelled_studies.empty:
        raise DataError(f"No study below {folder.name} has a slice in {file.name}.", "Slices are ID_<sop>.dcm.")
    return Source(
        "rsna_ich", False, archive.folder, finish(labelled_studies), key, notes=notes, left_out=left_out,
        bad_files=bad_files_of(archive, names), lookup=archive.lookup,
    )  # fmt: skip


def cq500(config: HeadCtConfig) -> Source:
    """CQ500: `reads.csv` with three readers per scan (`R1:ICH`, …); the majority is gold, the readers are kept.

    Raises:
        DataError: no table, other columns, cells that are not 0 or 1.
    """
    assert config.data.name == "cq500"
    root = dataset_folder(config.data.root, "cq500")
    tables = [root / f for f in find_files(root, {".csv"}) if f.name == "reads.csv"]
    file = tables[0] if tables else root / "reads.csv"
    wanted = [f"R{r}:{f}" for r in (1, 2, 3) for f in config.data.findings]
    table = read_csv(file, ["name", *wanted], "cq500")
    values: dict[str, pd.Series] = {}
    problems: list[str] = _names_twice(table["name"], file)
    for column in wanted:
        values[column], wrong = parse_values(table[column], [0, 1], file)
        problems += wrong
    good, left_out = without_bad_rows(table, problems, config.data.on_bad_row, str(file), REMEDY)
    reads = pd.DataFrame(values).loc[good.index]
    votes = {f: reads[[f"R{r}:{f}" for r in (1, 2, 3)]].sum(axis=1) >= 2 for f in config.data.findings}
    called = {r: reads[[f"R{r}:{f}" for f in config.data.findings]].max(axis=1) for r in (1, 2, 3)}
    keys = good["name"].map(_cq_key)
    names = names_of(config)
    archive = studies_below(root, config, names)
    studies, notes = archive.studies.copy(), notes_of(archive)
    keys_of = [_scan_of(read_index(archive.folder / p)["stack"]["files"][0]) for p in studies["path"]]
    place = {k: i for i, k in enumerate(keys)}
    matched = np.array([place.get(k, -1) for k in keys_of], int)
    missing = int((matched < 0).sum())
    if missing:
        notes.append(f"{missing} scans are not in {file.name} and are left out.")
    if len(set(keys) - set(keys_of)):
        notes.append(f"{len(set(keys) - set(keys_of))} scans of {file.name} are not in the folder.")
    studies, matched = studies[matched >= 0].reset_index(drop=True), matched[matched >= 0]
    if studies.empty:
        raise DataError(f"No scan's folder is named in {file.name}.", "Folders begin with CQ500CT<number>.")
    studies["critical"] = np.column_stack(list(votes.values())).astype(float).max(axis=1)[matched]
    for finding, vote in votes.items():
        studies[finding] = vote.to_numpy(float)[matched]
    rows = [
        pd.DataFrame({"id": studies["id"], "reader": f"R{r}", "critical": called[r].to_numpy()[matched]})
        for r in (1, 2, 3)
    ]
    if len(tables) > 1:
        notes.append(f"{len(tables)} files are called reads.csv; {file.relative_to(root)} is used.")
    return Source(
        "cq500", False, archive.folder, finish(studies), "patient (hashed PatientID)",
        pd.concat(rows, ignore_index=True), notes, left_out,
        bad_files=bad_files_of(archive, names), lookup=archive.lookup,
    )  # fmt: skip


def _names_twice(names: pd.Series, file: Path) -> list[str]:
    """Empty names, and scans that have several rows."""
    problems: list[str] = [RowProblem(f"{file.name} row {i + 2}: empty name", i) for i in names.index[names.isna()]]
    keys = names.dropna().map(_cq_key)
    for key, rows in keys[keys.duplicated(keep=False)].groupby(keys).groups.items():
        where = ", ".join(str(int(r) + 2) for r in rows)
        problems.append(RowProblem(f"{file.name} rows {where}: {key} more than once", *rows))
    return problems


def _scan_of(file: str) -> str:
    """The scan that a file belongs to: the first folder on its way that is named like one."""
    folders = [_cq_key(part) for part in Path(file).parts]
    return next((key for key in folders if key.startswith("CQ500CT")), folders[0])


def _cq_key(name: object) -> str:
    """ "CQ500-CT-12" and the folder "CQ500CT12 CQ500CT12" as the same word."""
    return "".join(c for c in str(name).split(" ")[0].upper() if c.isalnum())
