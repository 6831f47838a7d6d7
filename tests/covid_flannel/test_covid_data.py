"""Rules, adapters, files, and the real samples."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from conftest import compose, run_study
from PIL import Image

from pipelines.covid_flannel import data
from pipelines.covid_flannel.measures import spine_against_all
from pipelines.covid_flannel.public_sets import read_ccx, read_kcx
from pipelines.covid_flannel.rules import file_name, finding, read_rules
from pipelines.shared.data.copies import Copy
from pipelines.shared.data.ranges import beyond, ranges_of
from pipelines.shared.data.records import Source
from pipelines.shared.data.tables import OnBadRow
from pipelines.shared.errors import BadFile, DataError

ROW = {"patientid": "1", "finding": "COVID-19", "view": "PA", "modality": "X-ray", "filename": "a.png", "age": "50",
       "sex": "F", "location": "Here"}  # fmt: skip


def ccx_folder(folder: Path, *rows: dict[str, str | None], patient: str = "patientid") -> Path:
    (folder / "images").mkdir(parents=True)
    table = pd.DataFrame([ROW | row for row in rows]).rename(columns={"patientid": patient})
    table.to_csv(folder / "metadata.csv", index=False)
    for name in {(ROW | row)["filename"] for row in rows}:
        if name and not name.startswith("absent"):
            (folder / "images" / name).parent.mkdir(exist_ok=True)
            Image.fromarray(np.full((40, 40), 90, np.uint8)).save(folder / "images" / name)
    return folder


def kcx_folder(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((40, 40), 90, np.uint8)).save(path)
    return folder


# --- words ---


@pytest.mark.parametrize(
    ("text", "default", "released"),
    [
        ("COVID-19", "covid19", "covid19"),
        ("COVID-19, ARDS", "covid19", None),
        ("Pneumonia/Viral/COVID-19", "covid19", "covid19"),
        ("SARS", "viral", "viral"),
        ("Pneumonia/Viral/Influenza", "viral", None),
        ("Streptococcus", "bacterial", "bacterial"),
        ("Pneumonia/Bacterial/Klebsiella", "bacterial", None),
        ("Pneumocystis", None, "bacterial"),
        ("Pneumonia/Fungal/Pneumocystis", None, "bacterial"),
        ("ARDS", None, None),
        ("Pneumonia", None, None),
        ("No Finding", "normal", "normal"),
        ("COVID-19, SARS", "covid", None),
    ],
)
def test_what_a_finding_means(text, default, released):
    found = [finding(text, read_rules(name)) for name in ("default", "released")]
    expected = None if default == "covid" else default  # two causes: left out
    assert [f.name for f in found] == [expected, released]
    assert all(f.name or f.reason for f in found)


def test_a_word_that_is_nowhere_in_the_table_has_no_meaning():
    assert finding("Pneumonia/Viral/Hantavirus", read_rules("default")) == finding("COVD-19", read_rules("default"))
    assert finding("COVD-19", read_rules("default")).reason is None


@pytest.mark.parametrize(
    ("stem", "expected"),
    [
        ("person123_bacteria_456", ("bacterial", "person123")),
        ("person123_virus_7", ("viral", "person123")),
        ("IM-0001-0001", ("normal", "normal1")),
        ("NORMAL2-IM-0001-0001-0002", ("normal", "normal1")),
        ("IM-0666-0001-0001", ("normal", "normal666")),
        ("person447_virus_921_1", ("viral", "person447")),
        ("BACTERIA-1008087-0001", ("bacterial", "patient1008087")),
        ("VIRUS-1980593-0002", ("viral", "patient1980593")),
        ("NORMAL-1049278-0001", ("normal", "patient1049278")),
        ("person1_fungus_2", None),
        ("scan", None),
    ],
)
def test_what_a_file_name_means(stem, expected):
    assert file_name(stem, read_rules("default")) == expected


def test_a_table_of_ones_own_is_checked(tmp_path):
    text = (Path(__file__).parents[2] / "conf/covid_flannel/rules/default.yaml").read_text()
    (tmp_path / "mine.yaml").write_text(text.replace("Pneumocystis: a fungus", "Dragon pox: magic"))
    assert finding("Dragon pox", read_rules(str(tmp_path / "mine.yaml"))).reason == "magic"
    for change, message in (
        (("covid19: [COVID-19]", "covid: [COVID-19]"), "no classes of this study: covid"),
        (("compound: parts", "compund: parts"), "compound"),
        (("bacteria_", "bacteria_("), "cannot be read"),
        (("bacteria_", "(" * 5000 + ")" * 5000), "cannot be read: maximum recursion"),
        (("bacteria_", "a{99999999999}"), "cannot be read: the repetition number is too large"),
        (("findings:", "findings: ["), "cannot be read"),
    ):
        file = tmp_path / f"bad{len(message)}.yaml"  # a file that was read is not read again
        file.write_text(text.replace(*change))
        with pytest.raises(DataError, match=message):
            read_rules(str(file))
    with pytest.raises(DataError, match="no such table"):
        read_rules("relesed")


# --- CCX ---


def read(root: Path, rules: str = "default", on_bad_row: OnBadRow = "error") -> Source:
    return read_ccx(Copy(root, "ccx"), read_rules(rules), on_bad_row)


def test_ccx_is_read_with_both_headers(tmp_path):
    for patient in ("patientid", "Patientid"):
        root = ccx_folder(
            tmp_path / patient, {}, {"filename": "b.png", "view": "AP Supine", "age": None}, patient=patient
        )
        source = read(root)
        assert source.records["group"].tolist() == ["ccx 1", "ccx 1"]
        assert source.records["view"].tolist() == ["PA", "AP"]
        assert np.isnan(source.records["age"][1])
        assert source.notes == []


def test_a_name_that_no_disk_takes_is_a_file_that_is_not_there(tmp_path):
    root = ccx_folder(tmp_path, {}, {"filename": "b.png"})
    table = root / "metadata.csv"
    table.write_text(table.read_text().replace("b.png", "x" * 5000 + ".png"))
    assert "rows have no file in images/" in " ".join(read(root).notes)


def test_what_ccx_leaves_out_is_counted_and_named(tmp_path):
    root = ccx_folder(
        tmp_path / "x", {}, {"filename": "b.png", "finding": "COVID-19, ARDS"}, {"filename": "c.png", "view": "L"},
        {"filename": "absent.nii.gz", "modality": "CT", "view": "Axial"}, {"filename": "d.png", "finding": "ARDS"},
        {"filename": "absent.png"},
    )  # fmt: skip
    source = read(root)
    assert source.records["id"].tolist() == ["a.png", "b.png", "absent.png"]
    assert source.excluded == {
        "Finding: a complication, cause unknown": ["d.png: ARDS"],
        "Modality CT": ["absent.nii.gz"],
        "View L": ["c.png"],
    }
    text = " ".join(source.notes)
    for said in ("COVID-19, ARDS -> covid19 (1)", "1 rows have no file in images/: absent.png"):
        assert said in text
    assert "COVID-19, ARDS -> left out (1)" in " ".join(read(root, "released").notes)


def test_of_a_row_that_is_left_out_anyway_nothing_else_is_asked(tmp_path):
    """The releases of summer 2020 have rows that nobody has labelled yet, without view, modality or patient."""
    todo = {"finding": "todo", "view": None, "modality": None, "patientid": None, "filename": None, "age": "x"}
    root = ccx_folder(
        tmp_path / "x", {}, todo, todo | {"view": "?"}, {"filename": "e.png", "view": "L", "finding": "?"}
    )
    source = read(root)
    assert source.records["id"].tolist() == ["a.png"]
    assert {why: len(rows) for why, rows in source.excluded.items()} == {
        "Finding: not labelled yet": 2,
        "View L": 1,
    }


def test_files_of_ccx_are_found_where_a_copy_keeps_them(tmp_path):
    root = ccx_folder(tmp_path / "x", {}, {"filename": "images/b.png"})
    (root / "images" / "images").rename(root / "more")
    assert read(root).records["path"].tolist() == ["images/a.png", "more/b.png"]


def test_a_cell_that_stops_the_run_says_what_would_leave_its_row_out(tmp_path):
    root = ccx_folder(
        tmp_path / "x", {}, {"filename": "b.png", "view": None}, {"filename": "c.png", "view": "?"},
        {"filename": "d.png", "modality": None}, {"filename": "e.png", "finding": "Dragon pox"},
    )  # fmt: skip
    with pytest.raises(DataError) as mistake:
        read(root)
    for said in ('row 3: empty view (written as "" under views_left_out', "row 4: view=? is not in the table",
                 'row 5: empty modality (written as "" under modalities_left_out', "row 6: finding=Dragon pox",
                 "data.on_bad_row=skip"):  # fmt: skip
        assert said in str(mistake.value), said
    skipped = read(root, on_bad_row="skip")
    assert skipped.records["id"].tolist() == ["a.png"]
    assert [line.partition(":")[0] for line in skipped.left_out] == [f"metadata.csv row {n}" for n in (3, 4, 5, 6)]
    text = (Path(__file__).parents[2] / "conf/covid_flannel/rules/default.yaml").read_text()
    text = text.replace("views_left_out: [", 'views_left_out: ["", "?", ').replace("_out: [CT]", '_out: ["", CT]')
    (tmp_path / "mine.yaml").write_text(text.replace("  todo:", "  Dragon pox: magic\n  todo:"))
    assert sorted(read(root, str(tmp_path / "mine.yaml")).excluded) == [
        "An empty modality", "An empty view", "Finding: magic", "View ?",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Mycoplasma Bacterial Pneumonia", "bacterial"),
        ("Swine-Origin Influenza A (H1N1) Viral Pneumonia", "viral"),
        ("Herpes pneumonia, ARDS", "viral"),
        ("Cryptogenic organizing pneumonia", None),
        ("Round pneumonia", None),
        ("covid-19", "covid19"),
    ],
)
def test_words_of_the_releases_of_2020_are_known(text, expected):
    meaning = finding(text, read_rules("default"))
    assert (meaning.name, meaning.unknown) == (expected, False)


def test_all_mistakes_of_a_ccx_table_are_listed_at_once(tmp_path):
    root = ccx_folder(
        tmp_path / "x", {"finding": "COVD-19"}, {"filename": "b.png", "view": "Posterior"},
        {"filename": "c.png", "modality": "MR"}, {"filename": "d.png", "patientid": None},
        {"filename": "e.png", "age": "x"}, {"filename": "b.png"},
    )  # fmt: skip
    with pytest.raises(DataError) as mistake:
        read(root)
    text = str(mistake.value)
    for said in ("row 2: finding=COVD-19", "Did you mean COVID-19", "row 3: view=Posterior", "row 4: modality=MR",
                 "row 5: empty patientid", "row 6: age=x", "'b.png' occurs 2 times"):  # fmt: skip
        assert said in text, said
    bare = tmp_path / "bare"
    bare.mkdir()
    with pytest.raises(DataError, match=r"metadata\.csv does not exist"):
        read(bare)


# --- KCX ---


def test_kcx_patients_are_one_whatever_the_class(tmp_path):
    root = kcx_folder(
        tmp_path, "train/NORMAL/IM-0001-0001.jpeg", "train/NORMAL/NORMAL2-IM-0001-0001.jpeg",
        "train/PNEUMONIA/person7_bacteria_1.jpeg", "test/PNEUMONIA/person7_virus_2.jpeg",
    )  # fmt: skip
    (root / "train" / "NORMAL" / ".DS_Store").write_text("")
    source = read_kcx(Copy(root, "kcx"), read_rules("default"), True, "error")
    records, notes = source.records, source.notes
    by_id = records.set_index("id")["group"]
    assert by_id["train/PNEUMONIA/person7_bacteria_1.jpeg"] == by_id["test/PNEUMONIA/person7_virus_2.jpeg"]
    assert records["group"].nunique() == 2
    assert records.set_index("id")["split"].dropna().to_dict() == {"test/PNEUMONIA/person7_virus_2.jpeg": "test"}
    assert "1 person numbers occur under several classes" in notes[0]
    assert read_kcx(Copy(root, "kcx"), read_rules("default"), False, "error").records["split"].isna().all()


def test_names_that_fit_no_pattern_are_all_listed(tmp_path):
    root = kcx_folder(
        tmp_path, "train/PNEUMONIA/person7_bacteria_1.jpeg", "train/PNEUMONIA/person8.jpeg", "val/NORMAL/scan 3.jpeg",
        "val/NORMAL/person9_virus_1.jpeg",
    )  # fmt: skip
    with pytest.raises(DataError) as mistake:
        read_kcx(Copy(root, "kcx"), read_rules("default"), False, "error")
    for said in (
        "3 problems",
        "person8.jpeg: the name fits no",
        "scan 3.jpeg: the name fits",
        "virus_1.jpeg: the name says",
    ):
        assert said in str(mistake.value)


def test_kaggles_archive_holds_kcx_twice(tmp_path):
    names = ["NORMAL/IM-0001-0001.jpeg", "PNEUMONIA/person7_bacteria_1.jpeg"]
    kcx_folder(tmp_path, *(f"train/{n}" for n in names), *(f"chest_xray/train/{n}" for n in names), "sample.png")
    source = read_kcx(Copy(tmp_path, "kcx"), read_rules("default"), False, "error")
    assert source.records["path"].tolist() == [f"train/{n}" for n in names]
    assert "chest_xray holds 2 pictures of . again and is not read." in source.notes
    assert "1 picture outside of train, val and test, not read: sample.png, …" in source.notes


def test_pictures_of_a_part_that_lie_in_neither_folder_are_named(tmp_path):
    kcx_folder(tmp_path, "train/NORMAL/IM-0001-0001.jpeg", "train/VIRUS/person7_virus_1.jpeg", "val/loose.jpeg")
    with pytest.raises(DataError) as mistake:
        read_kcx(Copy(tmp_path, "kcx"), read_rules("default"), False, "error")
    for said in ("train/VIRUS/person7_virus_1.jpeg: lies in neither", "val/loose.jpeg: lies in neither"):
        assert said in mistake.value.problem
    left = read_kcx(Copy(tmp_path, "kcx"), read_rules("default"), False, "skip")
    assert left.records["id"].tolist() == ["train/NORMAL/IM-0001-0001.jpeg"]
    assert len(left.left_out) == 2


# --- sources ---


def both(tmp_path, **changes) -> list[str]:
    ccx_folder(tmp_path / "covid-chestxray-dataset", {}, {"filename": "b.png", "finding": "SARS", "patientid": "2"})
    kcx_folder(tmp_path / "chest_xray", "train/NORMAL/IM-0001-0001.jpeg", "train/PNEUMONIA/person7_bacteria_1.jpeg")
    return ["data=ccx_kcx", f"data.root={tmp_path}"]


def test_both_sets_together_and_one_alone(tmp_path):
    arguments = both(tmp_path)
    source = data.ccx_kcx(compose("covid_flannel", *arguments))
    assert source.records["label"].tolist() == ["covid19", "viral", "normal", "bacterial"]
    assert source.records["stratum"].tolist() == [3, 2, 0, 1]
    assert all((source.root / p).is_file() for p in source.records["path"])
    one = data.ccx_kcx(compose("covid_flannel", *arguments, "negatives=same_source"))
    assert set(one.records["source"]) == {"ccx"}
    assert "2 records of other sources than ccx are left out" in one.notes[-1]
    with pytest.raises(DataError, match="no folder elsewhere"):
        data.ccx_kcx(compose("covid_flannel", *arguments, "data.kcx=elsewhere"))


def test_bad_rows_of_both_sets_are_named_with_their_set(tmp_path):
    ccx_folder(
        tmp_path / "covid-chestxray-dataset-master",
        {},
        {"filename": "b.png", "finding": "COVD"},
        {"finding": "todo", "filename": "c.png"},
    )
    kcx_folder(tmp_path / "chest_xray", "train/NORMAL/IM-0001-0001.jpeg", "train/PNEUMONIA/odd.jpeg")
    source = data.ccx_kcx(compose("covid_flannel", "data=ccx_kcx", f"data.root={tmp_path}", "data.on_bad_row=skip"))
    assert source.records["id"].tolist() == [
        "covid-chestxray-dataset-master/a.png",
        "chest_xray/train/NORMAL/IM-0001-0001.jpeg",
    ]
    assert [line.partition(":")[0] for line in source.left_out] == [
        "covid-chestxray-dataset-master/metadata.csv row 3", "chest_xray/train/PNEUMONIA/odd.jpeg"
    ]  # fmt: skip
    assert source.excluded == {"Finding: not labelled yet": ["c.png: todo"]}


def test_a_table_names_classes_by_word(tmp_path):
    for i in range(3):
        Image.fromarray(np.full((40, 40), 90, np.uint8)).save(tmp_path / f"{i}.png")
    table = pd.DataFrame(
        {"path": [f"{i}.png" for i in range(3)], "who": list("aab"), "dx": ["COVID", "viral", "normal"]}
    )
    table.to_csv(tmp_path / "mine.csv", index=False)
    arguments = [
        "data=table",
        f"data.table={tmp_path / 'mine.csv'}",
        "data.columns.group=who",
        "++data.targets.label=dx",
    ]
    source = data.table(compose("covid_flannel", *arguments, "++data.values.label.COVID=covid19"))
    assert source.records["label"].tolist() == ["covid19", "viral", "normal"]
    with pytest.raises(DataError, match="dx=COVID"):
        data.table(compose("covid_flannel", *arguments))
    with pytest.raises(DataError, match=r"data\.values\.label\.COVID=corona"):
        data.table(compose("covid_flannel", *arguments, "++data.values.label.COVID=corona"))


# --- files ---


def dicom(path: Path, pixels: np.ndarray, photometric: str) -> None:
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1", generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    file.Rows, file.Columns = pixels.shape
    file.SamplesPerPixel, file.PhotometricInterpretation, file.PixelRepresentation = 1, photometric, 0
    file.BitsAllocated = file.BitsStored = 16
    file.HighBit, file.PixelData = 15, pixels.astype(np.uint16).tobytes()
    file.save_as(path, enforce_file_format=True)


def test_a_picture_is_the_same_in_every_file_format(tmp_path):
    rng = np.random.default_rng(0)
    grey = cv2.GaussianBlur(rng.integers(0, 256, (90, 80)).astype(np.uint8), (0, 0), 2)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(np.dstack([grey] * 3 + [np.full_like(grey, 255)]), "RGBA").save(tmp_path / "rgba.png")
    Image.fromarray(grey).convert("P").save(tmp_path / "palette.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    dicom(tmp_path / "two.dcm", grey.astype(np.uint16) * 257, "MONOCHROME2")
    dicom(tmp_path / "one.dcm", 65535 - grey.astype(np.uint16) * 257, "MONOCHROME1")
    settings = data.prepare_settings(compose("covid_flannel"))
    arrays = {
        name: data.prepare({"id": name, "path": name}, tmp_path, settings)[0]
        for name in ("grey.png", "rgba.png", "palette.png", "deep.png", "two.dcm", "one.dcm")
    }
    assert arrays["grey.png"].shape == (72, 72, 1)
    for name, array in arrays.items():
        assert np.abs(array.astype(int) - arrays["grey.png"]).max() <= 1, name
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    with pytest.raises(BadFile):
        data.prepare({"id": "x", "path": "broken.png"}, tmp_path, settings)


def test_only_pa_views_are_turned_towards_ap(tmp_path):
    Image.fromarray(np.tile(np.arange(80, dtype=np.uint8), (80, 1))).save(tmp_path / "a.png")
    settings = data.prepare_settings(compose("covid_flannel", "preprocess.pa_to_ap=true"))
    ap, pa, again = (
        data.prepare({"id": "a", "path": "a.png", "view": v}, tmp_path, settings)[0][..., 0] for v in ("AP", "PA", "PA")
    )
    assert ap[0, 0] < ap[0, -1]
    assert pa[:, :10].mean() > pa[:, -10:].mean()
    assert (pa == again).all()
    assert pa.std(axis=0).mean() > 3


# --- the real samples ---


@pytest.mark.slow
def test_the_real_samples_are_verified(real_sample):
    real_sample("chest_xray")
    root = real_sample("covid-chestxray-dataset").parent
    done = run_study("covid_flannel", "mode=verify", "data=ccx_kcx", f"data.root={root}")
    assert done.returncode == 0, done.stderr
    for said in ("289 records of 248 source groups form 248 components", "COVID-19, ARDS -> covid19 (4)",
                 "Finding: a complication, cause unknown (4)", "Finding: a fungus (1)",
                 "3 person numbers occur under several classes"):  # fmt: skip
        assert said in done.stdout, said


@pytest.mark.slow
def test_the_real_samples_run_with_five_folds_and_one_alone_with_four(real_sample, tmp_path):
    real_sample("chest_xray")
    root = real_sample("covid-chestxray-dataset").parent
    quick = ["trainer=smoke", "learners=[mobilenet]", "statistics.resamples=100", f"cache.dir={tmp_path / 'c'}"]
    done = run_study("covid_flannel", *quick, "data=ccx_kcx", f"data.root={root}", f"run_dir={tmp_path / 'both'}")
    assert done.returncode == 0, done.stderr
    test = pd.read_parquet(tmp_path / "both" / "predictions" / "test.parquet")
    assert len(test) == 289
    assert test["fold"].nunique() == 5
    ccx = root / "covid-chestxray-dataset"
    done = run_study("covid_flannel", *quick, "data=ccx", f"data.root={ccx}", f"run_dir={tmp_path / 'one'}")
    assert done.returncode == 0, done.stderr
    assert "4 folds instead of 5" in (tmp_path / "one" / "report.html").read_text()


def test_a_negative_is_told_by_its_spine(real_sample):
    pictures = sorted(real_sample("chest_xray").rglob("*.j*g"))[:60]
    assert len(pictures) == 60
    settings = data.prepare_settings(compose("covid_flannel"))
    arrays = [data.prepare({"id": f.stem, "path": f.name}, f.parent, settings)[0] for f in pictures]
    ranges = ranges_of({"spine": spine_against_all(array)} for array in arrays[:40])
    assert not any(beyond({"spine": spine_against_all(array)}, ranges) for array in arrays[40:])
    assert all(beyond({"spine": spine_against_all(255 - array)}, ranges) for array in arrays[40:])


def test_the_spine_is_the_middle_sixth():
    array = np.full((24, 24, 1), 100, np.uint8)
    array[:, 10:14] = 220
    assert spine_against_all(array) == pytest.approx(120 * 5 / 6)
