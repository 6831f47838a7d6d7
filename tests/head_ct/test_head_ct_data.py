"""Sources in their own layouts, built from small series; nothing that identifies anybody comes out."""

from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import pandas as pd
import pydicom
import pytest
from conftest import compose
from PIL import Image
from test_head_ct_dicom import HEADER, change, head

from pipelines.head_ct import data
from pipelines.head_ct.archive import read_index
from pipelines.head_ct.measures import volume_measures
from pipelines.head_ct.stacks import Stack
from pipelines.head_ct.study import STUDY
from pipelines.head_ct.volumes import NO_DATA
from pipelines.head_ct.writing import write_slices
from pipelines.shared.data.assemble import UNREADABLE, UNREADABLE_PARTS, Flow, prepared_records
from pipelines.shared.data.ranges import beyond, ranges_of
from pipelines.shared.errors import BadFile, DataError
from pipelines.shared.study import Data

REPORTS = [
    "Large subdural hematoma with mass effect, midline shift and hydrocephalus. Sulcal effacement.",
    "No acute intracranial hemorrhage. No fracture.",
    "Atrophy. No mass effect.",
    "Epidural hematoma, skull fracture, pneumocephalus, contusion.",
]


def archive(root, count=4, names=None):
    """Studies of 12 slices in folders that are called like people."""
    hu, positions, _ = head(n=12, size=32, spacing=5.0, step=10.0)
    for i in range(count):
        header = replace(
            HEADER, patient_id=f"MRN-QZ{11 + i // 2}", patient_name=f"Doe^Jane{i}", accession=f"ACC-{i}",
            study_uid=f"1.2.{i}", series_uid=f"1.2.{i}.1", spacing=(5.0, 5.0), thickness=10.0,
        )  # fmt: skip
        folder = root / (names[i] if names else f"DOE_JANE_{i}") / "scan"
        write_slices(folder, header, list(hu + 3 * i), list(positions), [f"ID_{i}{k:02d}.dcm" for k in range(12)])
    return root


def table(file, rows):
    with file.open("w", newline="") as text:
        csv.writer(text).writerows(rows)
    return file


def config_of(tmp_path, source, *more):
    return compose("head_ct", f"data={source}", f"cache.dir={tmp_path / 'cache'}", *more)


def used(config):
    """The records as training and verify use them, what happened on the way, and the source."""
    source, flow = data.SOURCES[config.data.name](config), Flow()
    return prepared_records(STUDY, config, source, flow)[0], flow, source


@pytest.fixture
def reported(tmp_path):
    root = archive(tmp_path / "in")
    rows = [["accession", "report"], *([f"ACC-{i}", t] for i, t in enumerate(REPORTS))]
    file = table(tmp_path / "reports.csv", rows)
    return root, file


@pytest.mark.slow
def test_reports_are_joined_and_counted(tmp_path, reported):
    root, file = reported
    gold = table(tmp_path / "gold.csv", [["accession", "critical"], ["ACC-3", "1"], ["ACC-2", "0"], ["ACC-77", "1"]])
    readers = [["accession", "reader", "critical"], ["ACC-3", "Dr. House", "1"], ["ACC-2", "Dr. House", "1"]]
    extra = [f"data.gold={gold}", f"data.readers={table(tmp_path / 'readers.csv', readers)}"]
    source = data.reports(config_of(tmp_path, "reports", f"data.root={root}", f"data.reports={file}", *extra))
    records = source.records
    assert sorted(records["concepts"]) == [0, 0, 4, 5]
    assert records["silver_4"].sum() == 2
    assert records["silver_8"].sum() == 0
    assert records["group"].nunique() == 2
    assert set(records["split"].dropna()) == {"test"}
    assert sorted(records["critical"].dropna()) == [0, 1]
    assert source.readers["reader"].unique().tolist() == ["reader 1"]
    assert any("1 reviewed studies are not among" in n for n in source.notes)


@pytest.mark.slow
def test_reports_without_study_studies_without_report_and_empty_ones_are_told(tmp_path, reported):
    root, file = reported
    table(
        file,
        [["accession", "report"], ["ACC-0", REPORTS[0]], ["ACC-1", "  "], ["ACC-9", "Normal."], ["ACC-3", "Normal."]],
    )
    source = data.reports(config_of(tmp_path, "reports", f"data.root={root}", f"data.reports={file}"))
    assert len(source.records) == 2
    text = "\n".join(source.notes)
    assert "1 of 4 reports belong to no study" in text
    assert "1 reports are empty" in text
    assert "2 studies have neither report nor review" in text
    assert "ACC" not in text


def test_join_by_study_uid_and_rows_that_are_wrong(tmp_path, reported):
    root, file = reported
    table(file, [["uid", "text"], *([f"1.2.{i}", t] for i, t in enumerate(REPORTS))])
    keys = ["data.join=study", "data.id_column=uid", "data.text_column=text"]
    common = [f"data.root={root}", f"data.reports={file}"]
    assert len(data.reports(config_of(tmp_path, "reports", *common, *keys)).records) == 4
    table(file, [["accession", "report"], ["ACC-0", "a"], ["ACC-0", "b"], ["", "c"]])
    with pytest.raises(DataError) as failure:
        data.reports(config_of(tmp_path, "reports", *common))
    assert "rows 2, 3: the same accession" in failure.value.problem
    assert "row 4: empty accession" in failure.value.problem
    assert "ACC" not in str(failure.value)


def test_faulty_files_are_named_at_once_without_names(tmp_path, reported):
    root, file = reported
    victims = sorted(root.rglob("*.dcm"))[:2]
    change(victims[0], PixelSpacing=None)
    victims[1].write_bytes(victims[1].read_bytes()[:2000])
    keys = ["data=reports", f"data.root={root}", f"data.reports={file}"]
    with pytest.raises(DataError) as failure:
        used(config_of(tmp_path, "reports", *keys[1:]))
    text = str(failure.value)
    assert "2 files of reports" in text
    assert "PixelSpacing is missing" in text
    assert "truncated" in text
    assert "DOE" not in text
    lookup = next((tmp_path / "cache" / "head_ct").glob("index-*/files.csv")).read_text()
    for line in (line.strip() for line in text.splitlines() if line.startswith("  f-")):
        assert line.split(":")[0] in lookup
    records, flow, source = used(config_of(tmp_path, "reports", *keys[1:], "data.on_bad_file=skip"))
    assert len(records) == 4
    assert len(flow.lists[UNREADABLE_PARTS]) == 2
    assert any("2 of 48 files are faulty" in n for n in source.notes)


def test_prepared_volumes_and_their_faults(tmp_path, reported):
    root, file = reported
    config = config_of(tmp_path, "reports", f"data.root={root}", f"data.reports={file}")
    source = data.reports(config)
    settings = data.prepare_settings(config)
    volume, facts = data.prepare(source.records.iloc[0].to_dict(), source.root, settings)
    assert volume.shape == (16, 64, 64)
    assert volume.dtype == np.int16
    assert len(facts["fingerprint"]) == 64
    index = read_index(source.root / source.records["path"].iloc[0])
    victim = root / index["stack"]["files"][3]
    victim.unlink()
    _, facts = data.prepare(source.records.iloc[0].to_dict(), source.root, settings)
    assert facts["unreadable_slices"] == 1
    assert facts["bad_files"][0].startswith("f-")
    assert facts["warnings"] == ["slices cannot be read"]
    with pytest.raises(BadFile, match="index in the cache"):
        data.prepare({"path": "gone.json"}, source.root, settings)


def test_geometry_and_hounsfield_units_are_compared_with_the_training_set(tmp_path, reported):
    root, file = reported
    config = config_of(tmp_path, "reports", f"data.root={root}", f"data.reports={file}")
    source = data.reports(config)
    records, prepared = prepared_records(STUDY, config, source, Flow())
    every = Data(source, records, prepared, {})
    measured = [STUDY.measures(every, k, config) for k in range(len(records))]
    assert {(m["slices"], m["between slices (mm)"], m["pixel (mm)"]) for m in measured} == {(12, 10, 5)}
    ranges = ranges_of(measured)
    assert -100 < ranges["mean of the head (HU)"][0] < ranges["mean of the head (HU)"][1] < 1000
    stack = Stack.from_json(read_index(source.root / records["path"].iloc[0])["stack"])
    volume = prepared.array(0)
    assert beyond(volume_measures(volume, stack), ranges) is None
    unscaled = np.where(volume == NO_DATA, NO_DATA, volume + 1024)  # a rescale intercept that was lost
    assert "mean of the head (HU)" in beyond(volume_measures(unscaled, stack), ranges)
    thin = replace(stack, files=stack.files * 10, along=list(np.arange(120.0)))
    assert "slices 120 (12 to 12 there)" in beyond(volume_measures(volume, thin), ranges)
    assert set(volume_measures(volume, None)) == {"mean of the head (HU)"}
    assert volume_measures(np.full((2, 4, 4), NO_DATA), None) == {}


@pytest.mark.slow
def test_what_a_source_gives_names_nobody(tmp_path, reported):
    root, file = reported
    source = data.reports(config_of(tmp_path, "reports", f"data.root={root}", f"data.reports={file}"))
    text = source.records.to_csv() + "\n".join(source.notes) + source.group_key
    for secret in ("DOE", "Doe", "Jane", "JANE", "MRN", "QZ", "ACC", "1.2.0"):
        assert secret not in text, secret
    again = data.reports(config_of(tmp_path, "reports", f"data.root={root}", f"data.reports={file}"))
    assert again.records.equals(source.records)
    other = tmp_path / "salt"
    other.write_text("another")
    third = data.reports(
        config_of(tmp_path, "reports", f"data.root={root}", f"data.reports={file}", f"data.salt_file={other}")
    )
    assert not set(third.records["id"]) & set(source.records["id"])


def test_rsna_studies_have_what_their_slices_have(tmp_path):
    root = tmp_path / "rsna"
    archive(root / "stage_2_train", 3, ["a", "b", "c"])
    rows = [["ID", "Label"]]
    for i in range(3):
        for k in range(12):
            positive = i == 1 and k == 5
            for subtype in ("any", "subdural", "epidural", "intraparenchymal", "intraventricular", "subarachnoid"):
                rows.append([f"ID_{i}{k:02d}_{subtype}", int(positive and subtype in ("any", "subdural"))])
    rows = [r for r in rows if not str(r[0]).startswith("ID_2")]
    rows += [["ID_000_any", "1"]]  # twice, with another label
    table(root / "stage_2_train.csv", rows)
    source = data.rsna_ich(config_of(tmp_path, "rsna_ich", f"data.root={root}"))
    assert sorted(source.records["critical"]) == [1, 1]
    assert sorted(source.records["subdural"]) == [0, 1]
    assert source.records["group"].nunique() == 1
    assert source.records["silver_4"].isna().all()
    assert any("labelled twice" in n for n in source.notes)
    assert any("1 studies have no labelled slice" in n for n in source.notes)
    table(root / "stage_2_train.csv", [["ID", "Label"], ["ID_1_any", "2"], ["nonsense", "1"]])
    with pytest.raises(DataError, match="row 2"):
        data.rsna_ich(config_of(tmp_path, "rsna_ich", f"data.root={root}"))


def test_cq500_majority_and_readers(tmp_path):
    root = archive(tmp_path / "cq", 3, ["CQ500CT0 CQ500CT0", "CQ500CT12 CQ500CT12", "CQ500CT99 CQ500CT99"])
    findings = ["ICH", "Fracture", "MassEffect", "MidlineShift"]
    header = ["name", *(f"R{r}:{f}" for r in (1, 2, 3) for f in findings)]
    rows = [header, ["CQ500-CT-0", *"100000000000"], ["CQ500-CT-12", *"100000010001"], ["CQ500-CT-7", *"0" * 12]]
    table(root / "reads.csv", rows)
    source = data.cq500(config_of(tmp_path, "cq500", f"data.root={root}"))
    records = source.records
    assert len(records) == 2
    # one reader of three is no majority; two readers for midline shift are
    assert sorted(records["critical"]) == [0, 1]
    assert records.loc[records["critical"] == 1, "MidlineShift"].tolist() == [1]
    readings = source.readers.merge(records[["id", "critical"]], on="id", suffixes=("", "_true"))
    assert readings[readings["critical_true"] == 0]["critical"].tolist() == [1, 0, 0]
    assert readings[readings["critical_true"] == 1]["critical"].tolist() == [1, 1, 1]
    text = "\n".join(source.notes)
    assert "1 scans are not in reads.csv" in text
    assert "1 scans of reads.csv are not in the folder" in text


@pytest.mark.slow
def test_a_table_of_folders_files_and_pictures(tmp_path):
    root = archive(tmp_path / "in", 2, ["one", "two"])
    picture = np.zeros((80, 60), np.uint8)
    picture[10:70, 10:50] = 100
    Image.fromarray(picture).save(root / "slice.png")
    rows = [
        ["file", "bleed", "who"],
        ["one", "blood", "A"],
        ["two/scan/ID_105.dcm", "clear", "B"],
        ["slice.png", "blood", "C"],
    ]
    file = table(tmp_path / "t.csv", rows)
    keys = [f"data.table={file}", f"data.root={root}", "data.columns.path=file", "data.columns.group=who",
            "++data.targets={critical: bleed}", "++data.values={critical: {blood: 1, clear: 0}}"]  # fmt: skip
    config = config_of(tmp_path, "table", *keys)
    source = data.table(config)
    assert source.records["critical"].tolist() == [1, 0, 1]
    assert source.records["slices"].tolist()[:2] == [12, 1]
    settings = data.prepare_settings(config)
    shapes = [data.prepare(r, source.root, settings)[1]["coverage"] for r in source.records.to_dict("records")]
    assert shapes[1] == shapes[2] == 1 / 16
    table(file, [*rows, ["nothing", "blood", "D"]])
    (root / "nothing").mkdir()
    with pytest.raises(DataError, match=r"1 of 4 files of table(.|\n)*: No CT slice among the 0 files"):
        used(config_of(tmp_path, "table", *keys))
    records, flow, source = used(config_of(tmp_path, "table", *keys, "data.on_bad_file=skip"))
    assert len(records) == 3
    name = flow.lists[UNREADABLE][0].split(".json")[0]
    assert f"{name},nothing\n" in source.lookup.read_text()


def test_folders_that_cannot_be_used_say_why(tmp_path):
    with pytest.raises(DataError, match=r"needs data\.root"):
        data.rsna_ich(config_of(tmp_path, "rsna_ich"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "r.csv").write_text("accession,report\nx,y\n")
    with pytest.raises(DataError, match="No CT slice among the 0 files"):
        data.reports(
            config_of(tmp_path, "reports", f"data.root={tmp_path / 'empty'}", f"data.reports={tmp_path / 'r.csv'}")
        )
    with pytest.raises(DataError, match=r"needs data\.reports"):
        data.reports(config_of(tmp_path, "reports", f"data.root={tmp_path / 'empty'}"))


def test_a_record_table_is_finished_with_what_is_unknown():
    found = data.finish(pd.DataFrame({"id": ["a", "b"], "critical": [1, None]}))
    assert found["stratum"].tolist()[0] == 1
    assert np.isnan(found["stratum"][1])
    assert found["silver_10"].isna().all()


# --- what verify and train refuse, and what both tell ---


def rsna(tmp_path, positive=("ID_105",)):
    root = tmp_path / "rsna"
    archive(root / "stage_2_train", 4, list("abcd"))
    kinds = ("any", "subdural", "epidural", "intraparenchymal", "intraventricular", "subarachnoid")
    rows = [[f"ID_{i}{k:02d}_{kind}", int(f"ID_{i}{k:02d}" in positive)]
            for i in range(4) for k in range(12) for kind in kinds]  # fmt: skip
    table(root / "stage_2_train.csv", [["ID", "Label"], *rows])
    return root, ["rsna_ich", f"data.root={root}"]


def cq(tmp_path):
    root = archive(tmp_path / "cq", 4, [f"CQ500CT{i} CQ500CT{i}" for i in range(4)])
    header = ["name", *(f"R{r}:{f}" for r in (1, 2, 3) for f in ("ICH", "Fracture", "MassEffect", "MidlineShift"))]
    table(root / "reads.csv", [header, *([f"CQ500-CT-{i}", *"100010001000"] for i in range(4))])
    return root, ["cq500", f"data.root={root}"]


def typed(tmp_path):
    root = archive(tmp_path / "in")
    file = table(tmp_path / "reports.csv", [["accession", "report"], *([f"ACC-{i}", t] for i, t in enumerate(REPORTS))])
    return root, ["reports", f"data.root={root}", f"data.reports={file}"]


def own(tmp_path):
    root = archive(tmp_path / "in")
    file = table(tmp_path / "t.csv", [["folder", "bleed"], *([f"DOE_JANE_{i}", i % 2] for i in range(4))])
    return root, ["table", f"data.table={file}", f"data.root={root}", "data.columns.path=folder",
                  "++data.targets={critical: bleed}"]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("layout", [rsna, cq, typed, own])
def test_verify_and_train_refuse_the_same_files_in_every_source(tmp_path, layout):
    root, keys = layout(tmp_path)
    first, second, third = sorted(root.rglob("ID_*.dcm"))[:36:12]
    first.write_bytes(first.read_bytes()[:-300])  # the header says so
    ds = pydicom.dcmread(second)
    ds.compress(pydicom.uid.RLELossless, generate_instance_uid=False)
    ds.save_as(second)
    second.write_bytes(second.read_bytes()[:-300])  # only who decodes the pixels sees it
    third.unlink()
    third.symlink_to(tmp_path / "nowhere")
    for mode in ("train", "verify"):
        config = config_of(tmp_path, *keys, f"mode={mode}")
        with pytest.raises(DataError) as failure:
            used(config)
        assert f"3 files of {keys[0]}" in failure.value.problem
        for reason in ("truncated: 50 bytes", "broken link", "its pixels cannot be decoded"):
            assert reason.split(":")[0] in failure.value.problem
        assert "files.csv says which file is which" in failure.value.remedy
        records, flow, source = used(config_of(tmp_path, *keys, f"mode={mode}", "data.on_bad_file=skip"))
        assert len(records) == 4
        assert len(flow.lists[UNREADABLE_PARTS]) == 3
        assert records["warnings"].str.contains("slices cannot be read").fillna(False).sum() == 1
        names = {line.split(":")[0].split(", ")[-1] for line in flow.lists[UNREADABLE_PARTS]}
        assert names <= set(pd.read_csv(source.lookup)["name"])


@pytest.mark.slow
@pytest.mark.parametrize("layout", [rsna, cq, typed, own])
def test_warnings_are_counted_in_every_source(tmp_path, layout):
    root, keys = layout(tmp_path)
    for k, file in enumerate(sorted(root.rglob("ID_1*.dcm"))):
        change(file, SeriesInstanceUID=f"7.7.{k}")
    for file in sorted(root.rglob("ID_2*.dcm")):
        change(file, RescaleIntercept=3000)
    records, flow, _ = used(config_of(tmp_path, *keys, "preprocess.field=500"))
    said = flow.warned(records)
    assert "1 record of 4: one slice only." in said
    assert "1 record of 4: every slice has a series of its own, one of them is used." in said
    assert any("rescale intercept" in sentence for sentence in said)
    assert not any(c.isdigit() for sentence in said for c in sentence.split(": ", 1)[1])


@pytest.mark.slow
def test_rows_that_cannot_be_understood_may_be_left_out(tmp_path):
    root, keys = rsna(tmp_path)
    with (root / "stage_2_train.csv").open("a") as text:
        text.write("nonsense,1\nID_105_epidural,maybe\n")
    with pytest.raises(DataError, match=r"row 290(.|\n)*row 291"):
        used(config_of(tmp_path, *keys))
    records, flow, source = used(config_of(tmp_path, *keys, "data.on_bad_row=skip"))
    assert len(source.left_out) == len(flow.lists["Rows that cannot be understood"]) == 2
    assert sorted(records["critical"]) == [0, 0, 0, 1]

    root, keys = cq(tmp_path)
    with (root / "reads.csv").open("a") as text:
        text.write("CQ500-CT-9,0,0,0,0,0,yes,0,0,0,0,0,0\nCQ500CT0" + ",0" * 12 + "\n")
    with pytest.raises(DataError, match=r"row 6: R2:Fracture=yes(.|\n)*|rows 2, 7"):
        used(config_of(tmp_path, *keys))
    records, _, source = used(config_of(tmp_path, *keys, "data.on_bad_row=skip"))
    assert len(source.left_out) == 3
    assert len(records) == 3  # of the scan with two rows nobody knows which is right

    root, keys = typed(tmp_path / "typed")
    with (tmp_path / "typed" / "reports.csv").open("a") as text:
        text.write(",Normal.\nACC-0,Normal.\n")
    gold = table(tmp_path / "gold.csv", [["accession", "critical"], ["ACC-1", "1"], ["ACC-2", "0"], ["ACC-2", "1"]])
    readers = table(tmp_path / "r.csv", [["accession", "reader", "critical"], ["ACC-1", "A", "x"], ["ACC-1", "B", "1"]])
    keys += [f"data.gold={gold}", f"data.readers={readers}"]
    with pytest.raises(DataError, match="row 6: empty accession"):
        used(config_of(tmp_path, *keys))
    records, _, source = used(config_of(tmp_path, *keys, "data.on_bad_row=skip"))
    assert len(source.left_out) == 6
    assert sorted(records["critical"].dropna()) == [1]
    assert len(source.readers) == 1
    assert "ACC" not in "".join(source.left_out)


def test_folders_that_are_links_and_what_a_mac_leaves(tmp_path):
    root, keys = cq(tmp_path)
    elsewhere = (root / "CQ500CT1 CQ500CT1").rename(tmp_path / "other disk")
    (root / "CQ500CT1 CQ500CT1").symlink_to(elsewhere)
    (root / "unpacked").mkdir()
    (root / "CQ500CT2 CQ500CT2").rename(root / "unpacked" / "CQ500CT2 CQ500CT2")
    (root / "back").symlink_to(root)
    for name in (".DS_Store", "._ID_000.dcm", "Thumbs.db", "__MACOSX/ID_000.dcm", "CQ500CT0 CQ500CT0/._scan"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"\0\5\x16\7")
    records, _, source = used(config_of(tmp_path, *keys))
    assert len(records) == 4
    assert not any("not in the folder" in note or "not used" in note for note in source.notes[1:])
