"""Where the pictures come from: one adapter per source, and how one file becomes the networks' input."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from pipelines.covid_flannel.config import CLASSES, COVID, CovidConfig
from pipelines.covid_flannel.phantom import PhantomSettings, drawn, ensure_phantom
from pipelines.covid_flannel.rules import Rules, file_name, finding, finding_words, read_rules, view
from pipelines.shared.duplicates import describe
from pipelines.shared.errors import DataError, listed, nearest
from pipelines.shared.images import SUFFIXES, read_picture
from pipelines.shared.records import (
    Source,
    Target,
    check_ids,
    dataset_folder,
    inside,
    raise_problems,
    read_csv,
    read_table,
)
from pipelines.shared.seeds import seed_of

PREPARE_VERSION = 2  # raise it whenever `prepare` gives other arrays or facts
PARTS = ("train", "val", "test")
KINDS = ("NORMAL", "PNEUMONIA")
OLDEST = 120  # years
PA_NOISE = 8.0  # grey levels, standard deviation
REMEDY = "Correct these, or add the word to the table that data.rules names; nothing was guessed or left out."
KEY = "patient"


# --- one file ---


def prepare_settings(config: CovidConfig) -> dict[str, Any]:
    """Everything that a prepared array depends on besides the file."""
    return {"study": "covid_flannel", "version": PREPARE_VERSION, **config.preprocess.model_dump()}


def prepare(record: Mapping[str, Any], root: Path, settings: dict[str, Any]) -> tuple[np.ndarray, dict[str, Any]]:
    """A picture as grey values, scaled to a square: uint8 (size, size, 1), and its facts.

    With `pa_to_ap` a PA view is mirrored and given random noise, a function of the record's id.

    Raises:
        BadFile: the file cannot be read.
    """
    image, warnings = read_picture(root / record["path"])
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    size = settings["size"]
    how = cv2.INTER_AREA if min(grey.shape) >= size else cv2.INTER_CUBIC
    square = cv2.resize(grey, (size, size), interpolation=how)
    # Letters and black frames that a hospital's pictures share must not make two patients one.
    edge = image.shape[0] // 10, image.shape[1] // 10
    facts = describe(image, np.ascontiguousarray(image[edge[0] : -edge[0], edge[1] : -edge[1]]))
    if settings["pa_to_ap"] and record.get("view") == "PA":
        noise = np.random.default_rng(seed_of("pa_to_ap", record["id"])).normal(0, PA_NOISE, square.shape)
        square = np.clip(np.rint(square[:, ::-1] + noise), 0, 255).astype(np.uint8)
    return square[..., None], facts | {"width": image.shape[1], "height": image.shape[0], "warnings": warnings}


# --- sources ---


def phantom(config: CovidConfig) -> Source:
    """The phantom, made on first use, read through the adapters of the two sets whose layouts it has."""
    assert config.data.name == "phantom"
    settings = PhantomSettings(**config.data.phantom.model_dump())
    root = ensure_phantom(Path(config.cache.dir), settings)
    source = _both(config, root)
    records = source.records.assign(truth=drawn(root, source.records["path"]))
    return _chosen(Source("phantom", True, root, records, KEY, notes=source.notes), config)


def ccx(config: CovidConfig) -> Source:
    """covid-chestxray-dataset (CCX), and everything that comes in its layout."""
    root = dataset_folder(config.data.root, "ccx")
    records, notes = read_ccx(root, read_rules(config.data.rules), "ccx")
    return _chosen(Source("ccx", False, root, records, KEY, notes=notes), config)


def kcx(config: CovidConfig) -> Source:
    """The chest X-rays of Kermany et al. (KCX), and everything that comes in their layout."""
    assert config.data.name == "kcx"
    root = dataset_folder(config.data.root, "kcx")
    records, notes = read_kcx(root, read_rules(config.data.rules), config.data.official_test)
    return _chosen(Source("kcx", False, root, records, KEY, notes=notes), config)


def ccx_kcx(config: CovidConfig) -> Source:
    """Both sets together, as the paper has them."""
    return _chosen(_both(config, dataset_folder(config.data.root, "ccx_kcx")), config)


def _both(config: CovidConfig, root: Path) -> Source:
    assert config.data.name in ("phantom", "ccx_kcx")
    rules, parts, notes = read_rules(config.data.rules), [], []
    missing = [n for n in (config.data.ccx, config.data.kcx) if not (root / n).is_dir()]
    if missing:
        raise DataError(
            f"data.root={root} holds no folder {' and no folder '.join(missing)}.",
            "Put both sets into it, or name their folders with data.ccx and data.kcx.",
        )
    for folder in (config.data.ccx, config.data.kcx):
        if folder == config.data.ccx:
            records, said = read_ccx(root / folder, rules, "ccx")
        else:
            records, said = read_kcx(root / folder, rules, config.data.official_test)
        for column in ("id", "path"):
            records[column] = f"{folder}/" + records[column]
        parts.append(records)
        notes += [f"{folder}: {line}" for line in said]
    records = pd.concat(parts, ignore_index=True)
    records["split"] = records["split"].astype(object).where(records["split"].notna(), None)
    return Source("ccx_kcx", False, root, records, KEY, notes=notes)


def read_ccx(root: Path, rules: Rules, name: str) -> tuple[pd.DataFrame, list[str]]:
    """CCX's layout: metadata.csv (patientid or Patientid, finding, view, modality, filename, …) and images/.

    Rows of other modalities and views, and findings without a class here, are left out and counted in the notes. A row
    whose file is absent stays: it is a file that cannot be read, for `data.on_bad_file` to decide.

    Raises:
        DataError: all problems of the table at once: unknown findings, views and modalities, empty cells.
    """
    file = root / "metadata.csv"
    table = read_csv(file, ["finding", "view", "modality", "filename"], name)
    patient = next((c for c in table.columns if c.lower() in ("patientid", "patient_id")), None)
    if patient is None:
        raise DataError(f"{file} has no column 'patientid'; found: {', '.join(table.columns)}.", REMEDY)
    problems, notes, left_out = check_ids(table["filename"], file), [], Counter[str]()
    compound: Counter[str] = Counter()
    absent, rows = [], []
    for number, row in enumerate(table.astype(object).where(table.notna(), None).to_dict("records"), start=2):
        where = f"{file.name} row {number}"
        if row["modality"] in rules.modalities_left_out:
            left_out[f"modality {row['modality']}"] += 1
            continue
        if row["modality"] not in rules.modalities:
            problems.append(f"{where}: modality={row['modality']}. {nearest(str(row['modality']), rules.modalities)}")
            continue
        seen = view(row["view"] or "", rules)
        if seen.name is None and seen.reason is None:
            known = [v for words in rules.views.values() for v in words] + rules.views_left_out
            problems.append(f"{where}: view={row['view']} is not in the table. {nearest(str(row['view']), known)}")
            continue
        if seen.name is None:
            left_out[seen.reason or ""] += 1
            continue
        meaning = finding(row["finding"] or "", rules)
        if meaning.name is None and meaning.reason is None:
            words = nearest(str(row["finding"]).split("/")[-1], finding_words(rules))
            problems.append(f"{where}: finding={row['finding']} is not in the table. {words}")
            continue
        if "," in row["finding"]:
            compound[f"{row['finding']} -> {meaning.name or 'left out'}"] += 1
        if meaning.name is None:
            left_out[f"{row['finding']} ({meaning.reason})"] += 1
            continue
        path = f"images/{row['filename']}"
        if row[patient] is None:
            problems.append(f"{where}: empty {patient}")
        if row["filename"] is None or not inside(path):
            problems.append(f"{where}: filename={row['filename']} is no name of a file in images/")
            continue
        age = _age(row.get("age"))
        if row.get("age") is not None and not 0 <= age <= OLDEST:
            problems.append(f"{where}: age={row['age']}, allowed: a number from 0 to {OLDEST}, or empty")
        if not (root / path).exists():
            absent.append(row["filename"])
        rows.append(
            {"id": row["filename"], "group": f"ccx {row[patient]}", "split": None, "path": path, "label": meaning.name,
             "source": "ccx", "view": seen.name, "finding": row["finding"], "age": age, "sex": row.get("sex"),
             "hospital": row.get("location")}
        )  # fmt: skip
    raise_problems(problems, str(file), REMEDY)
    if left_out:
        notes.append("Rows left out: " + "; ".join(f"{n} with {what}" for what, n in sorted(left_out.items())) + ".")
    if compound:
        said = "; ".join(f"{what} ({n})" for what, n in sorted(compound.items()))
        notes.append(f"Compound findings: {said}.")
    if absent:
        notes.append(f"{len(absent)} rows have no file in images/: {', '.join(absent[:20])}.")
    if not rows:
        raise DataError(f"{file} has no row left.", " ".join(notes))
    return _numbered(pd.DataFrame(rows)), notes


def read_kcx(root: Path, rules: Rules, official_test: bool) -> tuple[pd.DataFrame, list[str]]:
    """KCX's layout: folders train, val, test (those that are there), in each NORMAL and PNEUMONIA.

    Class and patient are in a file's name. All its pictures are AP views of children. Only `official_test` gives
    records of test/ a split of their own.

    Raises:
        DataError: no such folders, or file names that fit no pattern, all of them listed.
    """
    folders = [root / part / kind for part in PARTS for kind in KINDS if (root / part / kind).is_dir()]
    if not folders:
        raise DataError(f"{root} holds no folder train/NORMAL, train/PNEUMONIA, …", "See data_cards/kcx.md.")
    rows, problems = [], []
    for folder in folders:
        for path in sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and p.name[0] != "."):
            relative = str(path.relative_to(root))
            found = file_name(path.stem, rules)
            if found is None or (found[0] == "normal") != (folder.name == "NORMAL"):
                why = "fits no pattern of the table" if found is None else f"says {found[0]}"
                problems.append(f"{relative}: the name {why}")
                continue
            part = "test" if official_test and folder.parent.name == "test" else None
            rows.append(
                {"id": relative, "group": f"kcx {found[1]}", "split": part, "path": relative, "label": found[0],
                 "source": "kcx", "view": "AP", "finding": None, "age": np.nan, "sex": None, "hospital": "kcx"}
            )  # fmt: skip
    raise_problems(problems, str(root), REMEDY)
    if not rows:
        raise DataError(f"{root} holds no pictures.", f"Read are: {', '.join(SUFFIXES)}.")
    records = pd.DataFrame(rows)
    both = records.groupby("group")["label"].nunique()
    notes = []
    if (both > 1).any():
        notes.append(f"{(both > 1).sum()} person numbers occur under several classes; each is taken for one patient.")
    return _numbered(records), notes


def table(config: CovidConfig) -> Source:
    """`data=table`: the user's own table. Columns `source`, `view`, `age`, `sex`, where it has them, serve as in CCX.

    Raises:
        DataError: no column for the label, or all bad rows at once.
    """
    assert config.data.name == "table"
    number = {name: i for i, name in enumerate(CLASSES)}
    words = {str(k): v for k, v in config.data.values.get("label", {}).items()}
    wrong = [f"data.values.label.{k}={v}" for k, v in words.items() if v not in CLASSES]
    if wrong:
        raise DataError(f"No classes of this study:\n{listed(wrong)}", f"Allowed: {', '.join(CLASSES)}.")
    values: Any = {"label": number | {k: number[str(v)] for k, v in words.items()}}
    section = config.data.model_copy(update={"values": values})
    source = read_table(section, [Target("label", range(len(CLASSES)), required=True)])
    records = source.records.assign(label=[CLASSES[int(i)] for i in source.records["label"]])
    if "source" not in records:
        records["source"] = "table"
    records = _numbered(records)
    return _chosen(Source("table", False, source.root, records, source.group_key, notes=source.notes), config)


def _age(cell: Any) -> float:
    try:
        return float(cell) if cell is not None else np.nan
    except ValueError:
        return np.nan


def _numbered(records: pd.DataFrame) -> pd.DataFrame:
    """Add `stratum`: rare and grave classes last, so that a patient with several classes counts as the gravest."""
    return records.assign(stratum=[len(CLASSES) - 1 - CLASSES.index(label) for label in records["label"]])


def _chosen(source: Source, config: CovidConfig) -> Source:
    """`negatives=same_source`: only the source that most COVID-19 pictures come from.

    Raises:
        DataError: that source has no other class.
    """
    if config.negatives == "all":
        return source
    records = source.records
    covid = records.loc[records["label"] == COVID, "source"]
    if covid.empty:
        raise DataError("negatives=same_source: there is no COVID-19 picture.", "Use negatives=all.")
    mine = covid.value_counts().index[0]
    kept = records[records["source"] == mine].reset_index(drop=True)
    if kept["label"].nunique() < 2:
        raise DataError(f"negatives=same_source: {mine} holds COVID-19 only.", "Use negatives=all.")
    note = f"negatives=same_source: {len(records) - len(kept)} records of other sources than {mine} are left out."
    return Source(
        source.name, source.synthetic, source.root, kept, source.group_key, source.readers, [*source.notes, note]
    )


SOURCES = {"phantom": phantom, "ccx_kcx": ccx_kcx, "ccx": ccx, "kcx": kcx, "table": table}
