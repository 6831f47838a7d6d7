"""The adapters: what they read, and all that may be wrong with a folder, said at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import compose
from PIL import Image

from pipelines.shared.errors import DataError
from pipelines.skin import data, public_sets
from pipelines.skin.config import SkinConfig

CLASSES = ["MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC"]


def picture(path: Path, value: int = 128, size: tuple[int, int] = (40, 30)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(value)
    Image.fromarray(rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)).save(path)


def ham(folder: Path, rows: list[str], ids: list[str] | None = None) -> SkinConfig:
    """A folder in HAM10000's layout, its pictures in two part folders."""
    folder.mkdir(exist_ok=True)
    head = "lesion_id,image_id,dx,dx_type,age,sex,localization"
    (folder / "HAM10000_metadata.csv").write_text("\n".join([head, *rows]) + "\n")
    for k, name in enumerate(ids if ids is not None else [row.split(",")[1] for row in rows]):
        picture(folder / f"HAM10000_images_part_{1 + k % 2}" / f"{name}.jpg", k)
    return compose("skin", "data=ham10000", f"data.root={folder}")


def test_ham10000_is_read(tmp_path):
    config = ham(
        tmp_path / "h",
        ["L1,I1,mel,histo,60.0,male,back", "L1,I2,mel,histo,60.0,male,back", "L2,I3,nv,follow_up,,unknown,unknown"],
    )
    source = public_sets.ham10000(config)
    records = source.records
    assert source.group_key == "lesion"
    assert records["group"].tolist() == ["L1", "L1", "L2"]
    assert records["path"].tolist() == [f"HAM10000_images_part_{k}/I{i}.jpg" for i, k in ((1, 1), (2, 2), (3, 1))]
    assert records["lineage"][0] == "malignant/malignant_melanoma/mel"
    assert records["nine_way"].tolist() == ["malignant_melanoma"] * 2 + ["benign_melanocytic"]
    assert records["melanoma_vs_nevus"].tolist() == [1, 1, 0]
    assert records["malignant"].tolist() == [1, 1, 0]
    assert records["carcinoma_vs_keratosis"].isna().all()
    assert np.isnan(records["age"][2])
    assert records["sex"][2] is None
    assert records["site"][2] is None
    assert records["stratum"].isna().all(), "two lesions are too few to stratify by"


def test_everything_wrong_with_a_ham10000_folder_is_said_at_once(tmp_path):
    rows = [
        "L1,I1,melanoma,histo,60,male,back", "L1,I2,mell,histo,sixty,male,back", "L2,I2,nv,histo,200,male,back",
        ",I3,nv,histo,50,male,back", "L3,I4,,histo,50,male,back", "L3,../../I5,nv,histo,50,male,back",
    ]  # fmt: skip
    config = ham(tmp_path / "h", rows, ["I1", "I2", "I9"])
    with pytest.raises(DataError) as caught:
        public_sets.ham10000(config)
    said = str(caught.value)
    for part in (
        "row 2: dx=melanoma is no label of the tree. Did you mean mel",
        "row 3: dx=mell is no label of the tree. Did you mean mel",
        "row 3: age=sixty, allowed: a number from 0 to 120", "row 4: age=200", "image_id 'I2' occurs 2 times",
        "row 5: empty lesion_id", "row 6: empty dx", "row 7: ../../I5 leaves the folder", "data.on_bad_row=skip",
    ):  # fmt: skip
        assert part in said, part


def test_bad_rows_may_be_left_out_and_are_named(tmp_path):
    rows = ["L1,I1,mel,histo,60,male,back", "L1,I2,melanom,histo,60,male,back", ",I3,nv,histo,50,male,back",
            "L4,I4,nv,histo,200,male,back", "L5,I5,nv,histo,50,male,back"]  # fmt: skip
    config = ham(tmp_path / "h", rows)
    (tmp_path / "h" / "readers.csv").write_text("image_id,reader,diagnosis\nI1,a,nonsense\nI5,a,nv\nI9,a,nv\n")
    skipping = config.model_copy(update={"data": config.data.model_copy(update={"on_bad_row": "skip"})})
    source = public_sets.ham10000(skipping)
    assert source.records["id"].tolist() == ["I1", "I5"]
    assert source.readers is not None
    assert source.readers["id"].tolist() == ["I5"]
    assert len(source.left_out) == 5
    for part in (
        "row 3: dx=melanom",
        "row 4: empty lesion_id",
        "row 5: age=200",
        "diagnosis=nonsense",
        "I9 has no row",
    ):
        assert any(part in line for line in source.left_out), part


def test_a_picture_that_is_not_there_is_a_file_that_cannot_be_read(tmp_path):
    config = ham(tmp_path / "h", ["L1,I1,mel,histo,60,male,back", "L2,I2,nv,histo,50,male,back"], ["I1", "I7"])
    source = public_sets.ham10000(config)
    assert source.records["path"][1] == "HAM10000_images_part_1/I2.jpg"
    assert not (source.root / source.records["path"][1]).exists()
    assert "1 picture without a row in HAM10000_metadata.csv, not used: HAM10000_images_part_2/I7.jpg." in source.notes


def test_readers_beside_ham10000(tmp_path):
    config = ham(tmp_path / "h", ["L1,I1,mel,histo,60,male,back", "L2,I2,nv,histo,50,male,back"])
    file = tmp_path / "h" / "readers.csv"
    file.write_text("image_id,reader,diagnosis\nI1,a,mel\nI1,b,benign\nI2,a,malignant_epidermal\n")
    readers = public_sets.ham10000(config).readers
    assert readers["biopsy"].tolist() == [1, 0, 1]
    assert readers["three_way"].tolist() == ["malignant", "benign", "malignant"]
    assert readers["nine_way"].tolist()[0] == "malignant_melanoma"
    assert readers["nine_way"].isna().tolist() == [False, True, False]
    assert readers["label"].isna().tolist() == [False, True, True]
    file.write_text("image_id,reader,diagnosis\nI1,a,melanom\nI8,b,nv\n")
    with pytest.raises(DataError) as caught:
        public_sets.ham10000(config)
    assert "row 2: diagnosis=melanom is no node of the tree. Did you mean" in caught.value.problem
    assert "readers.csv: I8 has no row" in caught.value.problem
    file.write_text("image_id,reader,diagnosis\nI1,a,mel\nI1.jpg,a,nv\nI2,,nv\n")
    with pytest.raises(DataError) as caught:
        public_sets.ham10000(config)
    assert "readers.csv: a read I1 2 times" in caught.value.problem
    assert "readers.csv: readings without a reader: 1" in caught.value.problem


@pytest.mark.parametrize("name", ["HAM10000_metadata", "HAM10000_metadata.tab"])
def test_ham10000_as_harvard_dataverse_has_it(tmp_path, name):
    """A table separated by tabs, with or without a suffix, text in quotation marks, masks beside the pictures."""
    config = ham(tmp_path / "h", ["L1,I1,mel,histo,60.0,male,back", "L2,I2,nv,histo,,female,face"])
    table = (tmp_path / "h" / "HAM10000_metadata.csv").read_text().replace("mel", '"mel"').replace(",", "\t")
    (tmp_path / "h" / "HAM10000_metadata.csv").unlink()
    (tmp_path / "h" / name).write_text(table)
    picture(tmp_path / "h" / "HAM10000_segmentations_lesion_tschandl" / "I1_segmentation.png")
    source = public_sets.ham10000(config)
    assert source.records["label"].tolist() == ["mel", "nv"]
    assert source.notes == []


def test_all_pictures_of_ham10000_may_lie_in_one_folder_of_any_name(tmp_path):
    config = ham(tmp_path / "h", ["L1,I1,mel,histo,60.0,male,back", "L2,I2,nv,histo,,female,face"])
    for part in (1, 2):
        (tmp_path / "h" / f"HAM10000_images_part_{part}").rename(tmp_path / "h" / f"skin {part}")
    assert public_sets.ham10000(config).records["path"].tolist() == ["skin 1/I1.jpg", "skin 2/I2.jpg"]


def test_kaggles_ham10000_holds_its_pictures_twice(tmp_path):
    config = ham(tmp_path / "h", ["L1,I1,mel,histo,60.0,male,back", "L2,I2,nv,histo,,female,face"])
    for part, name in ((1, "I1"), (2, "I2")):
        twin = tmp_path / "h" / f"ham10000_images_part_{part}" / f"{name}.jpg"
        twin.parent.mkdir()
        twin.write_bytes((tmp_path / "h" / f"HAM10000_images_part_{part}" / f"{name}.jpg").read_bytes())
    source = public_sets.ham10000(config)
    assert len(source.records) == 2
    assert "2 pictures in a second folder, the same byte for byte, not read again." in source.notes
    picture(twin, 77)
    with pytest.raises(DataError, match="different pictures of one name") as caught:
        public_sets.ham10000(config)
    assert "data.images=" in caught.value.remedy


def isic(folder: Path, rows: list[str], part: str = "Test", nested: bool = True) -> None:
    """A folder in ISIC 2018 Task 3's layout."""
    truth = folder / f"ISIC2018_Task3_{part}_GroundTruth" if nested else folder
    truth.mkdir(parents=True, exist_ok=True)
    (truth / f"ISIC2018_Task3_{part}_GroundTruth.csv").write_text(
        "\n".join([f"image,{','.join(CLASSES)}", *rows]) + "\n"
    )
    for k, row in enumerate(rows):
        picture(folder / f"ISIC2018_Task3_{part}_Input" / f"{row.split(',')[0]}.jpg", 100 + k)


def one_hot(name: str, *classes: str) -> str:
    return ",".join([name, *("1.0" if c in classes else "0.0" for c in CLASSES)])


@pytest.mark.parametrize("nested", [True, False])
def test_isic2018_is_read(tmp_path, nested):
    isic(tmp_path, [one_hot("A", "MEL"), one_hot("B", "NV")], nested=nested)
    source = public_sets.isic2018(compose("skin", "data=isic2018", f"data.root={tmp_path}"))
    assert source.records["label"].tolist() == ["MEL", "NV"]
    assert source.records["split"].isna().all()
    assert source.records["group"].tolist() == ["A", "B"]
    assert any("partly external" in note for note in source.notes)


@pytest.mark.slow
def test_isic2018s_parts_are_its_split_and_its_groupings_its_groups(tmp_path):
    isic(tmp_path, [one_hot("A", "MEL"), one_hot("B", "MEL")], "Training")
    isic(tmp_path, [one_hot("C", "NV")], "Test")
    groups = "image,lesion_id,diagnosis_confirm_type\nA,L1,x\nB,L1,x\n"
    (tmp_path / "ISIC2018_Task3_Training_LesionGroupings.csv").write_text(groups)
    source = public_sets.isic2018(compose("skin", "data=isic2018", f"data.root={tmp_path}"))
    by_id = source.records.set_index("id")
    assert by_id["split"].to_dict() == {"A": "train", "B": "train", "C": "test"}
    assert by_id["group"].to_dict() == {"A": "L1", "B": "L1", "C": "C"}
    (tmp_path / "ISIC2018_Task3_Training_LesionGroupings.csv").write_text(groups.replace("B,", "Z,"))
    half = public_sets.isic2018(compose("skin", "data=isic2018", f"data.root={tmp_path}"))
    text = " ".join(half.notes)
    assert "1 image not in ISIC2018_Task3_Training_LesionGroupings.csv, each a lesion of its own: B." in text
    assert "1 name of ISIC2018_Task3_Training_LesionGroupings.csv without an image: Z." in text
    only = public_sets.isic2018(compose("skin", "data=isic2018", f"data.root={tmp_path}", "data.part=test"))
    assert only.records["id"].tolist() == ["C"]
    with pytest.raises(DataError, match="Validation_GroundTruth"):
        public_sets.isic2018(compose("skin", "data=isic2018", f"data.root={tmp_path}", "data.part=validation"))


def test_isic2018s_test_part_as_harvard_dataverse_has_it(tmp_path):
    """HAM10000's columns, lesions named, and a folder …_Images."""
    for k, name in enumerate("ABC"):
        picture(tmp_path / "ISIC2018_Task3_Test_Images" / f"{name}.jpg", k)
    rows = (
        "lesion_id,image_id,dx,dx_type,age,sex,localization,dataset\nH1,A,nv,x,5,male,back,d\nH1,B,nv,x,5,male,back,d\n"
    )
    (tmp_path / "ISIC2018_Task3_Test_GroundTruth.csv").write_text(rows + "H2,C,mel,x,5,male,back,d\n")
    source = public_sets.isic2018(compose("skin", "data=isic2018", f"data.root={tmp_path}"))
    assert source.records["label"].tolist() == ["NV", "NV", "MEL"]
    assert source.records["group"].tolist() == ["H1", "H1", "H2"]
    assert source.group_key.startswith("lesion")


def test_rows_that_are_not_one_hot_are_listed(tmp_path):
    isic(
        tmp_path,
        [one_hot("A"), one_hot("B", "MEL", "NV"), one_hot("C", "DF").replace("1.0", "0.7"), one_hot("D", "DF")],
    )
    with pytest.raises(DataError) as caught:
        public_sets.isic2018(compose("skin", "data=isic2018", f"data.root={tmp_path}"))
    said = caught.value.problem
    for part in (
        "row 2: the classes sum to 0 (no class)", "row 3: the classes sum to 2 (NV, MEL)",
        "row 4: DF=0.7, allowed: 0, 1",
    ):  # fmt: skip
        assert part in said, part


def test_fitzpatrick17k_is_read(tmp_path):
    rows = [
        "md5hash,fitzpatrick_scale,fitzpatrick_centaur,label,nine_partition_label,three_partition_label,qc,url,alphanum",
        "aa,3,3,psoriasis,inflammatory,non-neoplastic,,,",
        "bb,-1,2,basal cell carcinoma,malignant epidermal,malignant,,,",
        "cc,6,5,nevocytic nevus,benign melanocyte,benign,,,", "dd,1,1,keloid,inflammatory,non-neoplastic,,,",
        "ee,1,1,melanoma,malignant melanoma,malignant,,,",
    ]  # fmt: skip
    (tmp_path / "fitzpatrick17k.csv").write_text("\n".join(rows) + "\n")
    for k, name in enumerate(["aa", "bb", "cc", "dd"]):
        picture(tmp_path / "images" / f"{name}.jpg", k)
    source = public_sets.fitzpatrick17k(compose("skin", "data=fitzpatrick17k", f"data.root={tmp_path}"))
    by_id = source.records.set_index("id")
    assert list(by_id.index) == ["aa", "bb", "cc", "dd"]
    assert by_id["three_way"].tolist() == ["non_neoplastic", "malignant", "benign", "benign"]
    assert np.isnan(by_id.loc["bb", "skin_type"])
    assert by_id.loc["cc", "skin_type"] == 6
    assert source.excluded == {"Rows without a picture": ["ee"]}
    placed = [note for note in source.notes if "elsewhere" in note]
    assert len(placed) == 2
    assert all("keloid" in note for note in placed)
    (tmp_path / "fitzpatrick17k.csv").write_text("\n".join([*rows, "ff,7,1,psoriasys,,,,,"]) + "\n")
    with pytest.raises(DataError) as caught:
        public_sets.fitzpatrick17k(compose("skin", "data=fitzpatrick17k", f"data.root={tmp_path}"))
    assert "label=psoriasys is no label of the tree. Did you mean psoriasis" in caught.value.problem
    assert "fitzpatrick_scale=7" in caught.value.problem


def test_a_table_of_ones_own_with_a_tree_of_ones_own(tmp_path):
    (tmp_path / "tree.yaml").write_text("benign: {b: {c: [mole]}}\nmalignant: {m: {n: [bad, worse]}}\n")
    pd.DataFrame({"file": ["x.png", "y.png", "z.png"], "dx": ["mole", "bad", "Worse one"], "who": list("pqr")}).to_csv(
        tmp_path / "mine.csv", index=False
    )
    keys = [
        "data=table", f"data.table={tmp_path / 'mine.csv'}", "data.columns.path=file", "data.columns.group=who",
        "++data.targets={diagnosis: dx}", f"data.taxonomy={tmp_path / 'tree.yaml'}",
    ]  # fmt: skip
    with pytest.raises(DataError, match=r"dx=Worse one is unknown\. Did you mean worse"):
        data.table(compose("skin", *keys))
    source = data.table(compose("skin", *keys, "++data.values={diagnosis: {Worse one: worse}}"))
    assert source.records["label"].tolist() == ["mole", "bad", "worse"]
    assert source.records["lineage"][2] == "malignant/m/n/worse"
    with pytest.raises(DataError, match=r"diagnosis\.x=y"):
        data.table(compose("skin", *keys, "++data.values={diagnosis: {x: y}}"))


def test_a_picture_is_cut_to_its_middle_square(tmp_path):
    picture(tmp_path / "a.png", 3, (64, 48))
    array, facts = data.prepare({"path": "a.png"}, tmp_path, {"size": 32})
    assert array.shape == (32, 32, 3)
    assert (facts["width"], facts["height"]) == (64, 48)
    striped = np.zeros((48, 64), np.uint8)
    striped[:, 8:56] = 255
    assert data.centre_square(striped, 32).min() == 255
    assert data.centre_square(striped, 96).shape == (96, 96)


def test_the_real_sample_is_read_by_lesion(real_sample):
    source = public_sets.ham10000(compose("skin", "data=ham10000", f"data.root={real_sample('ham10000')}"))
    assert len(source.records) == 821
    assert source.records["group"].nunique() == 570
    assert source.records["label"].value_counts().to_dict() == {
        "nv": 280, "mel": 161, "bkl": 138, "bcc": 94, "akiec": 76, "df": 40, "vasc": 32,
    }  # fmt: skip
