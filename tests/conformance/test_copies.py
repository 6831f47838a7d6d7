"""Public sets as people have them: what differs between copies and means nothing changes nothing, for all pictures.

Each set is written with a few tiny pictures in the layout in which it is distributed (`SETS`), then the same again as
copies are: with blanks in cells, other suffixes, a folder more, litter of operating systems.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import compose
from PIL import Image

from pipelines.shared.data.records import Source
from pipelines.shared.errors import DataError

Rows = list[dict[str, object]]


@dataclass
class Layout:
    """How a copy is written: everything that may differ from what is distributed."""

    root: Path
    cell: Callable[[str], str] = str
    separator: str = ","
    suffix: str | None = None  # of pictures
    named: str = ""  # what tables write behind a picture's name
    columns: dict[str, str] = field(default_factory=dict)
    spoiled: bool = False  # the second row's label means nothing

    def table(self, name: str, rows: Rows, label: str | None = None) -> None:
        """A table; the words of `label` are what a row is spoiled in."""
        file = self.root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        rows = [dict(row) for row in rows]
        if self.spoiled and label:
            rows[1][label] = "nonsense"
        lines = [
            [self.cell(self.columns.get(c, c)) for c in rows[0]],
            *([self.cell(str(v)) for v in r.values()] for r in rows),
        ]
        file.write_text(
            "\ufeff" * (self.cell is not str) + "".join(self.separator.join(line) + "\n" for line in lines), "utf-8"
        )

    def pictures(self, *names: str) -> None:
        """Tiny pictures, each another one."""
        for name in names:
            file = self.root / name
            file = file.with_suffix(self.suffix) if self.suffix else file
            file.parent.mkdir(parents=True, exist_ok=True)
            rng = np.random.default_rng(sum(file.stem.encode()) + len(file.stem))
            kind = {".jpg": "JPEG", ".jpeg": "JPEG"}.get(file.suffix.lower(), "PNG")
            Image.fromarray(rng.integers(0, 255, (12, 12), dtype=np.uint8)).save(file, kind)


def aptos2019(to: Layout) -> None:
    to.pictures(*(f"train_images/a{i}.png" for i in range(3)))
    to.table("train.csv", [{"id_code": f"a{i}{to.named}", "diagnosis": i} for i in range(3)], "diagnosis")


def eyepacs(to: Layout) -> None:
    names = ["10_left", "10_right", "13_left"]
    to.pictures(*(f"train/{name}.jpeg" for name in names))
    to.table("trainLabels.csv", [{"image": name + to.named, "level": i} for i, name in enumerate(names)], "level")


def idrid(to: Layout) -> None:
    for letter, title in (("a", "Training"), ("b", "Testing")):
        names = [f"IDRiD_00{i}" for i in range(1, 4)]
        to.pictures(*(f"1. Original Images/{letter}. {title} Set/{name}.jpg" for name in names))
        rows = [
            {"Image name": n + to.named, "Retinopathy grade": i, "Risk of macular edema": i}
            for i, n in enumerate(names)
        ]
        label = "Retinopathy grade" if letter == "a" else None
        to.table(f"2. Groundtruths/{letter}. IDRiD_Disease Grading_{title} Labels.csv", rows, label)


def messidor2(to: Layout) -> None:
    names = ["20051020_0100_PP", "20051020_0200_PP", "IM000005", "IM000006"]
    to.pictures(*(f"IMAGES/{name}.png" for name in names))
    rows = [
        {"image_id": n + to.named, "adjudicated_dr_grade": 1, "adjudicated_dme": 0, "adjudicated_gradable": 1}
        for n in names
    ]
    to.table("messidor_data.csv", rows, "adjudicated_dr_grade")
    to.table("messidor-2.csv", [{"left": a + ".png", "right": b + ".png"} for a, b in (names[:2], names[2:])])


def ham10000(to: Layout) -> None:
    to.pictures(*(f"HAM10000_images_part_{1 + i % 2}/ISIC_{i}.jpg" for i in range(4)))
    rows = [
        {"lesion_id": f"H{i // 2}", "image_id": f"ISIC_{i}{to.named}", "dx": ("nv", "mel")[i // 2], "dx_type": "histo",
         "age": 50.0, "sex": "male", "localization": "back"} for i in range(4)
    ]  # fmt: skip
    to.table("HAM10000_metadata.csv", rows, "dx")


def isic2018(to: Layout) -> None:
    classes = ["MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC"]
    for k, part in enumerate(("Training", "Test")):
        names = [f"ISIC_{k}{i}" for i in range(3)]
        to.pictures(*(f"ISIC2018_Task3_{part}_Input/{name}.jpg" for name in names))
        rows: Rows = [
            {"image": n + to.named, **{c: float(c == classes[i]) for c in classes}} for i, n in enumerate(names)
        ]
        folder = f"ISIC2018_Task3_{part}_GroundTruth"
        to.table(f"{folder}/{folder}.csv", rows, "NV" if k == 0 else None)
    to.table(
        "ISIC2018_Task3_Training_LesionGroupings.csv", [{"image": f"ISIC_0{i}", "lesion_id": "L"} for i in range(2)]
    )


def fitzpatrick17k(to: Layout) -> None:
    to.pictures(*(f"images/{name * 4}.jpg" for name in "abc"))
    rows: Rows = [{"md5hash": n * 4 + to.named, "fitzpatrick_scale": 3, "label": "psoriasis"} for n in "abc"]
    to.table("fitzpatrick17k.csv", rows, "label")


def ccx(to: Layout) -> None:
    names = [f"x{i}.{(to.suffix or '.png')[1:]}" for i in range(3)]
    to.pictures(*(f"images/{name}" for name in names))
    rows = [
        {"patientid": i // 2, "finding": "COVID-19", "view": "PA", "modality": "X-ray", "filename": name}
        for i, name in enumerate(names)
    ]
    to.table("metadata.csv", rows, "finding")


def kcx(to: Layout) -> None:
    to.pictures(
        "train/NORMAL/IM-0001-0001.jpeg",
        "train/PNEUMONIA/person7_bacteria_1.jpeg",
        "test/PNEUMONIA/person7_virus_2.jpeg",
    )
    if to.spoiled:
        to.pictures("train/NORMAL/odd.jpeg")


def ccx_kcx(to: Layout) -> None:
    for folder, write in (("covid-chestxray-dataset", ccx), ("chest_xray", kcx)):
        inner = Layout(**{**vars(to), "root": to.root / folder, "spoiled": to.spoiled and write is ccx})
        write(inner)


def own_table(target: str, word: str) -> Callable[[Layout], None]:
    def write(to: Layout) -> None:
        to.pictures(*(f"p{i}.png" for i in range(3)))
        to.table("mine.csv", [{"path": f"p{i}.png", "who": f"P{i // 2}", target: word} for i in range(3)], target)

    return write


SETS: dict[tuple[str, str], Callable[[Layout], None]] = {
    ("retinopathy", "aptos2019"): aptos2019,
    ("retinopathy", "eyepacs"): eyepacs,
    ("retinopathy", "idrid"): idrid,
    ("retinopathy", "messidor2"): messidor2,
    ("skin", "ham10000"): ham10000,
    ("skin", "isic2018"): isic2018,
    ("skin", "fitzpatrick17k"): fitzpatrick17k,
    ("covid_flannel", "ccx"): ccx,
    ("covid_flannel", "kcx"): kcx,
    ("covid_flannel", "ccx_kcx"): ccx_kcx,
}
TABLES = {
    ("retinopathy", "table"): own_table("grade", "2"),
    ("skin", "table"): own_table("diagnosis", "mel"),
    ("covid_flannel", "table"): own_table("label", "viral"),
}
WITH_A_TABLE = [key for key in SETS if key[1] not in ("kcx", "ccx_kcx")]


@cache
def configuration(study: str, name: str) -> Any:
    target = next((t for t in ("grade", "diagnosis", "label") if name == "table" and t in TARGET[study]), None)
    more = ["data.columns.group=who", f"++data.targets={{{target}: {target}}}"] if target else []
    return compose(study, f"data={name}", *more)


TARGET = {"retinopathy": "grade", "skin": "diagnosis", "covid_flannel": "label"}


def read(key: tuple[str, str], root: Path, **changes: object) -> Source:
    study, name = key
    keys = {"root": str(root), **changes} | ({"table": str(root / "mine.csv")} if name == "table" else {})
    config = configuration(study, name)
    config = config.model_copy(update={"data": config.data.model_copy(update=keys)})
    return importlib.import_module(f"pipelines.{study}.study").STUDY.sources[name](config)


def written(key: tuple[str, str], root: Path, **changes: Any) -> Path:
    root.mkdir(parents=True)
    (SETS | TABLES)[key](Layout(root, **changes))
    return root


def same(a: Source, b: Source, *but: str) -> None:
    """The same records, wherever and under which suffix the pictures lie."""
    columns = [c for c in a.records if c not in ("path", *but)]
    pd.testing.assert_frame_equal(a.records[columns], b.records[columns])
    for source in (a, b):
        assert all((source.root / path).is_file() for path in source.records["path"])


def keys(which: Any) -> Any:
    return pytest.mark.parametrize("key", which, ids=[f"{s}-{n}" for s, n in which])


@keys([*SETS, *TABLES])
def test_blanks_around_cells_mean_nothing(tmp_path, key):
    ends = iter(range(10**6))
    blank = ("\u00a0", " ", "\u2003", "\u200b", "")
    padded = written(key, tmp_path / "b", cell=lambda text: text + blank[next(ends) % 5])
    same(read(key, written(key, tmp_path / "a")), read(key, padded))


@pytest.mark.slow
@keys([*SETS, *TABLES])
def test_a_row_without_sense_is_named_or_left_out(tmp_path, key):
    good, root = read(key, written(key, tmp_path / "a")), written(key, tmp_path / "b", spoiled=True)
    with pytest.raises(DataError) as caught:
        read(key, root)
    where = "odd.jpeg" if key[1] == "kcx" else "row 3"
    assert where in caught.value.problem
    assert "data.on_bad_row=skip" in caught.value.remedy
    left = read(key, root, on_bad_row="skip")
    assert len(left.records) == len(good.records) - (key[1] != "kcx")
    assert len(left.left_out) == 1
    assert where in left.left_out[0]


@keys(list(SETS))
def test_links_litter_and_a_folder_more_change_nothing(tmp_path, key):
    real = written(key, tmp_path / "second disk")
    for file in [f for f in real.rglob("*") if f.is_file()]:
        (file.parent / f"._{file.name}").write_bytes(b"\0\5\x16\7" + bytes(99))
        (file.parent / ".DS_Store").write_bytes(b"")
        (file.parent / "Thumbs.db").write_bytes(b"")
        twin = tmp_path / "set" / "__MACOSX" / file.relative_to(real)
        twin.parent.mkdir(parents=True, exist_ok=True)
        twin.write_bytes(b"Mac OS X")
    if key[1] == "ccx_kcx":  # its folders are named in the configuration
        for part in real.iterdir():
            (tmp_path / "set" / part.name).mkdir(exist_ok=True)
            (tmp_path / "set" / part.name / "download").symlink_to(part, target_is_directory=True)
    else:
        (tmp_path / "set" / "download").symlink_to(real, target_is_directory=True)
    (real / "circle").symlink_to(real, target_is_directory=True)
    same(read(key, written(key, tmp_path / "a")), read(key, tmp_path / "set"))


@pytest.mark.slow
@keys(list(SETS))
def test_pictures_of_another_suffix_are_the_same_pictures(tmp_path, key):
    but = ("id", "path") if key[0] == "covid_flannel" else ()
    for suffix in (".png", ".JPG"):
        root = written(key, tmp_path / suffix, suffix=suffix)
        same(read(key, written(key, tmp_path / f"{suffix}a")), read(key, root), *but)


@pytest.mark.slow
@keys([key for key in WITH_A_TABLE if key[1] != "ccx"])
def test_names_of_pictures_may_have_a_suffix_in_tables(tmp_path, key):
    named = written(key, tmp_path / "b", named=".jpeg")
    same(read(key, written(key, tmp_path / "a")), read(key, named), *(["id"] if key[1] == "messidor2" else []))


@pytest.mark.slow
@keys(WITH_A_TABLE)
def test_tables_may_be_separated_by_tabs_or_semicolons(tmp_path, key):
    plain = read(key, written(key, tmp_path / "a"))
    same(plain, read(key, written(key, tmp_path / "b", separator="\t")))
    same(plain, read(key, written(key, tmp_path / "c", separator=";")))


@pytest.mark.slow
@keys(WITH_A_TABLE)
def test_columns_of_other_names_are_mapped(tmp_path, key):
    first = {
        "aptos2019": "id_code", "eyepacs": "image", "idrid": "Image name", "messidor2": "adjudicated_dr_grade",
        "ham10000": "dx", "isic2018": "NV", "fitzpatrick17k": "md5hash", "ccx": "finding",
    }[key[1]]  # fmt: skip
    root = written(key, tmp_path / "b", columns={first: "Spalte 7"})
    with pytest.raises(DataError) as caught:
        read(key, root)
    assert f"data.columns={{{first}: <column>}}" in caught.value.remedy
    same(read(key, written(key, tmp_path / "a")), read(key, root, columns={first: "Spalte 7"}))
    with pytest.raises(DataError, match=r"data\.columns\..*: .* has no such column"):
        read(key, root, columns={"spelt wrong": "Spalte 7"})


@pytest.mark.slow
@keys([key for key in SETS if key[1] not in ("ccx_kcx", "isic2018", "idrid")])
def test_what_lies_there_twice_is_read_once_and_two_that_differ_are_not_chosen_between(tmp_path, key):
    plain = read(key, written(key, tmp_path / "a"))
    root = written(key, tmp_path / "b")
    twin = {"kcx": "chest_xray"}.get(key[1], "images")
    written(key, root / twin / "again")
    same(plain, read(key, root))
    picture = next(f for f in sorted((root / twin).rglob("*")) if f.suffix in (".png", ".jpg", ".jpeg"))
    picture.write_bytes(picture.read_bytes() + b"another")
    if key[1] == "ccx":  # names a file, images/<filename>
        return
    with pytest.raises(DataError) as caught:
        read(key, root)
    assert picture.stem in caught.value.problem or key[1] == "kcx"
    assert "data.root" in caught.value.remedy
