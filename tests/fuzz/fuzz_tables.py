"""Tables of every adapter, and the settings that people write in YAML."""

from __future__ import annotations

import functools
import importlib
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from asap import write_asap
from conftest import REPOSITORY, compose
from fuzz_ecg import sine
from fuzzing import Format
from test_copies import SETS, TABLES, TARGET, Layout

from pipelines.camelyon.annotations import Polygon
from pipelines.covid_flannel.rules import file_name, finding, modality, read_rules, view
from pipelines.ecg.annotations import write_rhythms
from pipelines.ecg.labels import NOTES, RATE, Episode
from pipelines.ecg.wfdb_files import write_record
from pipelines.head_ct.labeller import read_lexicon, read_terms
from pipelines.head_ct.writing import Header, write_slices
from pipelines.shared.config import conf_folder
from pipelines.shared.data.records import SPLITS, check_records
from pipelines.shared.errors import DataError
from pipelines.skin.trees import read_tree

# (study, source) -> keys of `data` that name files below the folder, and overrides.
KEYS: dict[tuple[str, str], tuple[dict[str, str], tuple[str, ...]]] = {
    ("head_ct", "rsna_ich"): ({}, ()),
    ("head_ct", "cq500"): ({}, ()),
    ("head_ct", "reports"): ({"reports": "reports.csv", "gold": "gold.csv", "readers": "readers.csv"}, ()),
    ("head_ct", "table"): (
        {"table": "mine.csv"}, ("data.columns.group=who", "data.columns.split=part", "++data.targets={critical: c}")
    ),
    ("camelyon", "camelyon16"): ({}, ()),
    ("camelyon", "pcam"): ({}, ()),
    ("camelyon", "table"): (
        {"table": "mine.csv", "annotations": "xml"}, ("data.columns.group=who", "++data.targets={tumor: tumor}")
    ),
    ("ecg", "wfdb"): ({"patients": "patients.csv"}, ()),
    ("ecg", "table"): (
        {"table": "mine.csv"},
        ("data.columns.group=who", "data.columns.id=name", "++data.targets={rhythm: r}", "data.sampling_rate=200"),
    ),
}  # fmt: skip


def _lines(file: Path, *lines: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _scan(folder: Path, number: int, names: list[str]) -> None:
    header = Header(f"P{number}", "Doe", f"A{number}", f"1.2.{number}", f"1.2.{number}.1", (16.0, 16.0))
    hu = [np.full((16, 16), float(i)) for i in range(len(names))]
    write_slices(folder, header, hu, [(-120.0, -120.0, 10.0 * i) for i in range(len(names))], names)


def _head_ct(to: Path) -> None:
    subtypes = ["any", "epidural", "intraparenchymal", "intraventricular", "subarachnoid", "subdural"]
    names = [[f"ID_{s}{i}" for i in range(3)] for s in range(3)]
    rsna = to / "head_ct-rsna_ich"
    for s, slices in enumerate(names):
        _scan(rsna / "stage_2_train", s, [f"{n}.dcm" for n in slices])
    rows = [f"{n}_{k},{int(k in ('any', 'subdural') and n == 'ID_00')}" for group in names for n in group
            for k in subtypes]  # fmt: skip
    _lines(rsna / "stage_2_train.csv", "ID,Label", *rows)
    cq500 = to / "head_ct-cq500"
    for s in range(3):
        _scan(cq500 / f"CQ500CT{s} CQ500CT{s}", s, ["a", "b", "c"])
    findings = [f"R{r}:{f}" for r in (1, 2, 3) for f in ("ICH", "Fracture", "MassEffect", "MidlineShift")]
    rows = [f"CQ500-CT-{s},B1," + ",".join(str((s + i) % 2) for i in range(12)) for s in range(3)]
    _lines(cq500 / "reads.csv", "name,Category," + ",".join(findings), *rows)
    own = to / "head_ct-reports"
    for s in range(3):
        _scan(own / "dicom" / str(s), s, ["a", "b", "c"])
    _lines(own / "reports.csv", "accession,report", 'A0,"No haemorrhage.', 'Midline shift, 9 mm."', "A1,Normal.", "A2,")
    _lines(own / "gold.csv", "accession,critical", "A0,1", "A1,0", "A2,0")
    _lines(own / "readers.csv", "accession,reader,critical", "A0,r1,1", "A1,r1,0", "A0,r2,0")
    table = to / "head_ct-table"
    for s in range(3):
        _scan(table / str(s), s, ["a", "b", "c"])
    _lines(table / "mine.csv", "path,who,part,c", "0,P0,train,1", "1,P1,val,0", "2,P2,,0")


def _camelyon(to: Path) -> None:
    square = [Polygon("A", "Tumor", np.array([[100, 100], [900, 100], [900, 900], [100, 900]], float))]
    root = to / "camelyon-camelyon16"
    slides = ["images/normal_001.tif", "images/tumor_001.tif", "images/test_001.tif", "images/test_002.tif"]
    for file in slides:
        _lines(root / file, file)
    (root / "annotations").mkdir()
    for name in ("tumor_001", "test_002"):
        write_asap(root / "annotations" / f"{name}.xml", square)
    _lines(root / "reference.csv", "test_001,Normal,None,None", "test_002,Tumor,IDC,Macro")
    table = to / "camelyon-table"
    for name in ("a/s1.tif", "a/s2.tif", "b/s1.tif"):
        _lines(table / name, name)
    for name in ("a", "b"):
        (table / "xml" / name).mkdir(parents=True)
        write_asap(table / "xml" / name / "s1.xml", square)
    _lines(table / "mine.csv", "path,who,tumor", "a/s1.tif,P1,1", "a/s2.tif,P1,0", "b/s1.tif,P2,1")
    pcam = to / "camelyon-pcam"
    pcam.mkdir()
    for split in ("train", "valid", "test"):
        stem = f"camelyonpatch_level_2_split_{split}"
        for kind, values in (("x", np.zeros((4, 96, 96, 3), np.uint8)), ("y", np.arange(4, dtype=np.uint8) % 2)):
            with h5py.File(pcam / f"{stem}_{kind}.h5", "w") as file:
                file.create_dataset(kind, data=values if kind == "x" else values.reshape(4, 1, 1, 1))
        _lines(pcam / f"{stem}_meta.csv", ",tumor_patch,wsi", *(f"{i},{i % 2},w{i // 2}" for i in range(4)))


def _ecg(to: Path) -> None:
    wfdb = to / "ecg-wfdb"
    wfdb.mkdir()
    for i, name in enumerate(("a1", "a2", "a3")):
        write_record(wfdb / name, sine(6, i), "II", 200.0, [])
        write_rhythms(wfdb / name, "atr", [Episode(0, 1200, "AF")], NOTES, RATE)
    _lines(wfdb / "RECORDS", "a1", "a2", "a3")
    _lines(wfdb / "patients.csv", "record,patient,age", "a1,P1,50", "a2,P1,50", "a3,P2,61")
    table = to / "ecg-table"
    table.mkdir()
    for i in range(3):
        np.save(table / f"{i}.npy", sine(6, i))
    _lines(table / "mine.csv", "name,path,who,r", "x,0.npy,P1,AF", "y,1.npy,P1,SINUS", "z,2.npy,P2,")


def make(folder: Path) -> None:
    """A sample of every source that has a table, each in a folder named after study and source."""
    made = folder / "made"
    made.mkdir()
    for (study, name), write in (SETS | TABLES).items():
        if name != "kcx":
            root = made / f"{study}-{name}"
            root.mkdir()
            write(Layout(root))
    _head_ct(made)
    _camelyon(made)
    _ecg(made)
    for root in sorted(made.iterdir()):
        (folder / root.name).mkdir()
        shutil.move(root, folder / root.name / root.name)
    made.rmdir()


def make_parquet(folder: Path) -> None:
    """The tables of one's own as Parquet."""
    make(folder)
    for sample in sorted(folder.iterdir()):
        table = sample / sample.name / "mine.csv"
        if not table.is_file():
            shutil.rmtree(sample)
            continue
        pd.read_csv(table).to_parquet(table.with_suffix(".parquet"))
        table.unlink()


@functools.cache
def configuration(study: str, name: str) -> Any:
    """The configuration of a source as it is composed for training."""
    _, more = KEYS.get((study, name), ({}, ()))
    if (study, name) in TABLES:
        target = TARGET[study]
        more = ("data.columns.group=who", f"++data.targets={{{target}: {target}}}")
    return compose(study, f"data={name}", *more)


def read_source(folder: Path) -> None:
    """A source; where its rows are refused, with bad rows left out."""
    (root,) = [f.absolute() for f in folder.iterdir() if "-" in f.name]
    study, _, name = root.name.partition("-")
    config = configuration(study, name)
    files, _ = KEYS.get((study, name), ({"table": "mine.csv"} if name == "table" else {}, ()))
    keys: dict[str, Any] = {"root": str(root)} | {k: str(root / f) for k, f in files.items()}
    if "table" in keys and not Path(keys["table"]).is_file():
        keys["table"] = str(root / "mine.parquet")
    cache = config.cache.model_copy(update={"dir": str(folder / "cache")})
    adapter = importlib.import_module(f"pipelines.{study}.data").SOURCES[name]
    for rows in ("error", "skip"):
        data = config.data.model_copy(update={**keys, "on_bad_row": rows})
        try:
            source = adapter(config.model_copy(update={"data": data, "cache": cache}))
            break
        except DataError:
            if rows == "skip":
                raise
    check_records(source.records)
    for column in ("id", "group", "path"):
        assert all(isinstance(v, str) and v for v in source.records[column]), (column, list(source.records[column]))
    assert set(source.records["split"].dropna()) <= set(SPLITS)
    if source.readers is not None:
        assert set(source.readers["id"]) <= set(source.records["id"])


# --- YAML ---

YAML = {
    "lexicon": conf_folder() / "head_ct" / "lexicon.yaml",
    "terms": conf_folder() / "head_ct" / "terms.yaml",
    "rules": conf_folder() / "covid_flannel" / "rules" / "default.yaml",
    "tree": REPOSITORY / "conf" / "skin" / "taxonomy" / "ham10000.yaml",
}


def make_yaml(folder: Path) -> None:
    """The project's own settings, as people copy and change them."""
    for name, file in YAML.items():
        (folder / name).mkdir()
        shutil.copy(file, folder / name / f"{name}.yaml")


def read_yaml(folder: Path) -> None:
    """Settings by their own readers."""
    (file,) = [f for f in folder.iterdir() if f.is_file()]
    if file.stem == "lexicon":
        assert all(isinstance(c.name, str) and c.synonyms for c in read_lexicon(file))
    elif file.stem == "terms":
        assert read_terms(file)["termination"] is not None
    elif file.stem == "tree":
        assert read_tree(str(file)).leaves
    else:
        read_rules.cache_clear()
        rules = read_rules(str(file))
        for text in ("Pneumonia/Viral/COVID-19", "COVID-19, ARDS", "", "?"):
            finding(text, rules)
            view(text, rules)
            modality(text, rules)
        file_name("person12_virus_3", rules)


FORMATS = [
    Format("tables", make, read_source, ("*.csv", "RECORDS", "*_y.h5", "*_x.h5")),
    Format("parquet", make_parquet, read_source, ("*.parquet",)),
    Format("yaml", make_yaml, read_yaml),
]
