"""The adapters on folders as people have them: copies of the challenge, tables of one's own, PatchCamelyon."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from asap import write_asap
from conftest import compose

from pipelines.camelyon import data, pcam
from pipelines.camelyon.annotations import Polygon
from pipelines.shared.errors import DataError

SQUARE = np.array([[100, 100], [900, 100], [900, 900], [100, 900]], float)
TUMOUR, FAT = [Polygon("A", "Tumor", SQUARE)], [Polygon("A", "None", SQUARE)]


def made(root, *files, xml=TUMOUR):
    """Empty slides, tables by their text, and annotations."""
    for file in files:
        file, _, text = file.partition("=")
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        if file.endswith(".xml"):
            write_asap(root / file, xml)
        else:
            (root / file).write_text(text)
    return root


def challenge(root, *changes):
    return data.camelyon16(compose("camelyon", "data=camelyon16", f"data.root={root}", *changes))


def problem_of(root, *changes):
    with pytest.raises(DataError) as caught:
        challenge(root, *changes)
    return caught.value.problem


# --- CAMELYON16 ---


@pytest.mark.parametrize(
    "files",
    [
        ["training/normal/Normal_001.tif", "training/tumor/Tumor_001.tif", "training/lesion_annotations/Tumor_001.xml",
         "testing/images/Test_001.tif", "testing/reference.csv=Test_001,Normal,None,None"],
        ["images/normal_001.tif", "images/tumor_001.tif", "annotations/tumor_001.xml", "images/test_001.tif",
         "evaluation/reference.csv=test_001,Normal", "masks/tumor_001_mask.tif", "background_tissue/tumor_001.tif"],
        ["Normal/normal_001.svs", "TUMOR/tumor_001.ndpi", "lesion_annotations/Lesion_annotations/tumor_001.xml",
         "Testset/Images/test_001.svs", "Testset/REFERENCE.CSV=image;class\n test_001.svs\u00a0; normal\u200b "],
        ["normal_1.tiff", "tumor-001.tif", "tumor 001.xml", "__MACOSX/tumor_001.tif", "._tumor_001.tif",
         ".Trash/normal_001.tif", "test_001.tif", "my_labels.csv=slide,label\ntest_001.tif,Normal",
         "sizes.csv=test_001.tif,97792,221184"],
    ],
)  # fmt: skip
def test_copies_of_the_challenge_give_the_same_slides(tmp_path, files):
    records = challenge(made(tmp_path, *files)).records
    assert sorted(records["tumor"]) == [0, 0, 1]
    assert sorted(records["split"]) == ["test", "train", "train"]
    assert records.set_index("tumor").loc[1, "annotation"].endswith(".xml")
    assert not records["path"].str.contains("background|mask|MACOSX|Trash").any()


def test_linked_folders_are_entered(tmp_path):
    made(tmp_path / "disk", "tumor/tumor_001.tif", "xml/tumor_001.xml")
    root = made(tmp_path / "set", "normal/normal_001.tif")
    for name in ("tumor", "xml"):
        (root / name).symlink_to(tmp_path / "disk" / name)
    assert sorted(challenge(root).records["id"]) == ["normal_001", "tumor_001"]


@pytest.mark.slow
def test_two_files_of_one_slide_are_named_and_identical_annotations_are_one(tmp_path):
    root = made(tmp_path, "a/tumor_001.tif", "b/Tumor_001.svs", "normal_001.tif", "x/tumor_001.xml", "y/tumor_001.xml")
    assert "a/tumor_001.tif and b/Tumor_001.svs are both tumor_001" in problem_of(root)
    (root / "b/Tumor_001.svs").unlink()
    assert len(challenge(root).records) == 2
    made(root, "y/tumor_001.xml", xml=FAT)
    assert "x/tumor_001.xml and y/tumor_001.xml are both tumor_001" in problem_of(root)


@pytest.mark.slow
def test_bad_rows_are_left_out_and_named_if_that_is_wanted(tmp_path):
    root = made(tmp_path, "tumor_001.tif", "tumor_002.tif", "tumor_002.xml", "normal_001.tif", "normal_002.tif",
                "normal_002.xml", "test_001.tif", "test_002.tif", "reference.csv=test_001,Normal",
                "annotations.zip=packed")  # fmt: skip
    found = problem_of(root)
    for words in (
        "tumor_001: a tumour slide without an annotation (tumor_001.xml)",
        "annotations.zip is still packed",
        "normal_002 is normal, but normal_002.xml outlines tumour in it",
        "test_002: the reference table does not name it",
    ):
        assert words in found
    (root / "annotations.zip").unlink()
    source = challenge(root, "data.on_bad_row=skip")
    assert sorted(source.records["id"]) == ["normal_001", "test_001", "tumor_002"]
    assert len(source.left_out) == 3
    made(root, "normal_002.xml", xml=FAT)  # what is no tumour may be outlined in a normal slide
    assert "normal_002" not in problem_of(root)


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        (["reference.csv=test_001,Normal", "old/reference.csv=test_001,Tumor"], "contradict each other about test_001"),
        (["reference.csv=test_001,Normal\ntest_001,Tumor"], "reference.csv line 1 and reference.csv line 2 contradict"),
        (["reference.csv=test_001,maybe"], "line 1: test_001 is neither Tumor nor Normal"),
        (["reference.csv="], "names no test slide"),
    ],
)
def test_labels_that_cannot_be_are_named(tmp_path, tables, words):
    assert words in problem_of(made(tmp_path, "test_001.tif", "normal_001.tif", *tables))


def test_a_reference_table_in_another_encoding_is_named(tmp_path):
    root = made(tmp_path, "test_001.tif", "normal_001.tif")
    (root / "reference.csv").write_bytes("test_001,Normal,größer".encode("latin-1"))
    assert "reference.csv is no text in UTF-8" in problem_of(root)


def test_strangers_on_both_sides_are_notes(tmp_path):
    root = made(
        tmp_path, "normal_001.tif", "tumor_009.xml", "test_001.tif", "reference.csv=test_001,Normal\ntest_002,Tumor"
    )
    notes = " ".join(challenge(root, "data.partly_annotated=[tumor_010]").notes)
    for words in (
        "1 annotations belong to no slide here: tumor_009.xml",
        "1 slides of the reference table are not here: test_002",
        "1 slides of data.partly_annotated are not here: tumor_010",
    ):
        assert words in notes


# --- a table ---


def table(root, rows, *changes, annotations="xml"):
    pd.DataFrame(rows, columns=["file", "tumor"]).to_csv(root / "slides.csv", index=False)
    words = [
        "data=table",
        f"data.table={root / 'slides.csv'}",
        "data.columns.path=file",
        "++data.targets={tumor: tumor}",
    ]
    return data.table(compose("camelyon", *words, f"data.annotations={annotations}", *changes))


@pytest.mark.slow
def test_one_annotation_for_two_slides_is_an_error_that_names_both(tmp_path):
    rows = [("p1/s.tif", 1), ("p3/s.tif", 1), ("n.tif", 0)]
    made(tmp_path, "xml/s.xml")
    with pytest.raises(DataError, match=r"s\.xml could belong to p1/s\.tif or p3/s\.tif"):
        table(tmp_path, rows)
    made(tmp_path, "xml/p1/s.xml", "xml/p3/s.xml")
    (tmp_path / "xml/s.xml").unlink()
    assert table(tmp_path, rows).records["annotation"].tolist()[:2] == ["xml/p1/s.xml", "xml/p3/s.xml"]
    (tmp_path / "xml/p3/s.xml").unlink()
    with pytest.raises(DataError, match=r"p3/s\.tif: a tumour slide without an annotation"):
        table(tmp_path, rows)
    source = table(tmp_path, rows, "data.on_bad_row=skip")
    assert source.records["id"].tolist() == ["p1/s.tif", "n.tif"]
    assert "p3/s.tif" in source.left_out[0]


def test_annotations_lie_in_any_folder_and_beside_the_slides(tmp_path):
    made(tmp_path, "p1/s.xml", "p3/deeper/t.xml", "p9/u.xml", "._s.xml")
    source = table(tmp_path, [("p1/s.tif", 1), ("p3/t.svs", 1)], annotations=".")
    assert source.records["annotation"].tolist() == ["p1/s.xml", "p3/deeper/t.xml"]
    assert any("1 annotation of no slide of the table: p9/u.xml" in note for note in source.notes)


def test_a_normal_slide_has_no_tumour(tmp_path):
    made(tmp_path, "xml/a.xml", "xml/b.xml")
    with pytest.raises(DataError, match=r"b\.tif is normal, but b\.xml outlines tumour in it"):
        table(tmp_path, [("a.tif", 1), ("b.tif", 0)])
    made(tmp_path, "xml/b.xml", xml=[Polygon("A", "adipose", SQUARE)])
    assert table(tmp_path, [("a.tif", 1), ("b.tif", 0)], "++data.annotation_groups={adipose: other}").left_out == []


def test_partly_annotated_slides_must_be_there(tmp_path):
    rows = [("p1/s.tif", 1), ("p3/s.tif", 1), ("t.tif", 1)]
    made(tmp_path, "xml/p1/s.xml", "xml/p3/s.xml", "xml/t.xml")
    assert table(tmp_path, rows, "data.partly_annotated=[p3/s.tif,T]").records["partly"].tolist() == [0, 1, 1]
    with pytest.raises(DataError) as caught:
        table(tmp_path, rows, "data.partly_annotated=[s,v]")
    assert "'s' names 2 slides: p1/s.tif, p3/s.tif of the table" in caught.value.problem
    assert "'v' names no slide of the table" in caught.value.problem


# --- what training needs is asked before it begins ---


def parts(train, val):
    rows = [
        (f"{split}{i}", split, tumor)
        for split, kinds in (("train", train), ("val", val))
        for i, tumor in enumerate(kinds)
    ]
    records = pd.DataFrame(rows, columns=["id", "split", "tumor"])
    return records.assign(group=records["id"], partly=0)


@pytest.mark.parametrize(
    ("records", "words"),
    [
        (parts([0, 0, 1, 1], [1, 1]), "it has tumour slides only"),
        (parts([0, 0, 1, 1], []), "it has none"),
        (parts([0, 0, 1], [0, 1]), "folds"),
        (parts([1, 1, 0, 0], [0, 1]).assign(partly=1), "no normal tissue to learn from"),
    ],
)
def test_slides_that_cannot_be_learned_from_are_refused_before_training(records, words):
    with pytest.raises(DataError, match=words):
        data.check_parts(compose("camelyon"), records)
    data.check_parts(compose("camelyon"), parts([0, 0, 1, 1], [0, 1]))


# --- PatchCamelyon ---


def write_pcam(root, names=pcam.NAME + "_{kind}", x=None, count=4, wsi="s", labels=None):
    import h5py

    for split in pcam.PARTS:
        for kind, key in (("x.h5", "x"), ("y.h5", "y"), ("meta.csv", None)):
            name = x[split] if x and kind == "x.h5" else names.format(split=split, kind=kind)
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            if key is None:
                rows = "".join(f"{i},{wsi if wsi != 's' else f'{split}_{i // 2}'}\n" for i in range(count))
                (root / name).write_text("coord_x,wsi\n" + rows)
                continue
            with h5py.File(root / name, "w") as file:
                shape = (count, 96, 96, 3) if key == "x" else (count, 1, 1, 1)
                file[key] = (
                    np.zeros(shape, np.uint8) if key == "x" else np.reshape(labels or [0, 1] * (count // 2), shape)
                )
    return root


def patches(root, *changes):
    return pcam.pcam(compose("camelyon", "data=pcam", f"data.root={root}", *changes))


def test_copies_of_pcam_are_read_from_their_folders(tmp_path):
    kaggle = {split: f"pcam/{name}" for split, name in pcam.KAGGLE.items()}
    write_pcam(tmp_path, "Labels/Labels/" + pcam.NAME + "_{kind}", kaggle)
    records = patches(tmp_path).records
    assert records["split"].value_counts().to_dict() == {"train": 4, "val": 4, "test": 4}
    array, _ = data.prepare(records.iloc[5].to_dict(), tmp_path, {"source": "pcam"})
    assert array.shape == (96, 96, 3)


@pytest.mark.slow
def test_patches_without_slide_or_label_are_no_group_of_their_own(tmp_path):
    blank, third = write_pcam(tmp_path / "a", wsi="\u00a0"), write_pcam(tmp_path / "b", labels=[0, 1, 2, 1])
    with pytest.raises(DataError, match=r"meta\.csv: rows without wsi, the slide, 4 \(first: train_0\)"):
        patches(blank)
    with pytest.raises(DataError, match="labels other than 0 and 1"):
        patches(third)
    source = patches(third, "data.on_bad_row=skip")
    assert len(source.records) == 9
    assert len(source.left_out) == 3
