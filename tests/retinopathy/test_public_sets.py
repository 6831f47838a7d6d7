"""EyePACS, Messidor-2 and IDRiD: each layout rebuilt from one tiny picture, and what is said about a wrong one."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import compose
from test_retinopathy_data import fundus

from pipelines.retinopathy import public_sets
from pipelines.retinopathy.study import STUDY
from pipelines.shared.data.assemble import training_data
from pipelines.shared.errors import DataError


def config(name: str, root, *more: str):
    return compose("retinopathy", f"data={name}", f"data.root={root}", f"cache.dir={root.parent / 'cache'}", *more)


def picture(file, seed: int = 0) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    fundus(seed=seed).save(file)


def rows_of(source, *columns: str) -> list[tuple]:
    return list(source.records[list(columns)].itertuples(index=False, name=None))


# --- EyePACS ---


def write_eyepacs(root, names: dict[str, object], table: str = "trainLabels.csv", folder: str = "train") -> None:
    for seed, name in enumerate(names, start=1000 * (table != "trainLabels.csv")):
        picture(root / folder / f"{name}.jpeg", seed)
    usage = table != "trainLabels.csv"
    head = "image,level,Usage\n" if usage else "image,level\n"
    rows = "".join(f"{n},{g}{',Public' if usage else ''}\n" for n, g in names.items())
    (root / table).write_text(head + rows)


def test_eyepacs_keeps_both_eyes_of_a_patient_together(tmp_path):
    root = tmp_path / "eyepacs"
    write_eyepacs(root, {"10_left": 0, "10_right": 2, "13_left": 4})
    source = public_sets.eyepacs(config("eyepacs", root))
    expected = [("10_left", "10", "left", 0.0), ("10_right", "10", "right", 2.0), ("13_left", "13", "left", 4.0)]
    assert rows_of(source, "id", "group", "eye", "grade") == expected
    assert source.records["path"][1] == "train/10_right.jpeg"
    assert source.records["moderate_or_worse"].tolist() == [0, 1, 1]
    assert source.records[["dme", "gradable", "referable"]].isna().all(axis=None)
    assert source.records["split"].isna().all()


@pytest.mark.slow
def test_the_published_test_labels_are_the_official_test_split(tmp_path):
    root = tmp_path / "eyepacs"
    write_eyepacs(root, {f"{n}_{eye}": n % 5 for n in range(20) for eye in ("left", "right")})
    write_eyepacs(root, {f"{n}_left": n % 5 for n in range(100, 106)}, "retinopathy_solution.csv", "test")
    found = training_data(STUDY, config("eyepacs", root))
    test = found.records[found.records["split"] == "test"]
    assert set(test["id"]) == {f"{n}_left" for n in range(100, 106)}
    assert test["path"].str.startswith("test/").all()
    assert {"train", "val"} == set(found.records.loc[~found.records["id"].isin(test["id"]), "split"])
    assert found.records.groupby("group")["split"].nunique().max() == 1


def test_eyepacs_lists_every_wrong_row(tmp_path):
    root = tmp_path / "eyepacs"
    write_eyepacs(root, {"10_left": 0, "11_middle": 1, "12_right": 7})
    write_eyepacs(root, {"10_left": 0}, "retinopathy_solution.csv", "test")
    with pytest.raises(DataError) as caught:
        public_sets.eyepacs(config("eyepacs", root))
    for part in ("11_middle", "expected <patient>_left or <patient>_right", "level=7", "10_left is in trainLabels.csv"):
        assert part in caught.value.problem


def test_a_resized_copy_has_every_photograph_twice_and_is_asked_which(tmp_path):
    """Kaggle's "diabetic-retinopathy-resized": whole and cropped pictures, each folder inside one of its own name."""
    root = tmp_path / "eyepacs"
    for seed, folder in ((0, "resized_train"), (50, "resized_train_cropped")):
        for n in range(2):
            picture(root / folder / folder / f"{n}_left.jpeg", seed + n)
    root.joinpath("trainLabels.csv").write_text("image,level\n0_left,0\n1_left,3\n")
    root.joinpath("trainLabels_cropped.csv").write_text("Unnamed: 0.1,Unnamed: 0,image,level\n0,0,0_left,0\n")
    with pytest.raises(DataError, match=r"resized_train/resized_train/0_left.jpeg and resized_train_cropped") as caught:
        public_sets.eyepacs(config("eyepacs", root))
    assert "data.images=" in caught.value.remedy
    source = public_sets.eyepacs(config("eyepacs", root, "data.images=resized_train_cropped"))
    assert source.records["path"][1] == "resized_train_cropped/resized_train_cropped/1_left.jpeg"
    with pytest.raises(DataError, match=r"data\.images=resized_trian") as caught:
        public_sets.eyepacs(config("eyepacs", root, "data.images=resized_trian"))
    assert "Did you mean resized_train" in caught.value.remedy


def test_bad_rows_of_eyepacs_may_be_left_out(tmp_path):
    root = tmp_path / "eyepacs"
    write_eyepacs(root, {"10_left": 0, "11_middle": 1, "12_right": 7, "13_left": 2})
    write_eyepacs(root, {"10_left": 0, "14_left": 1}, "retinopathy_solution.csv", "test")
    source = public_sets.eyepacs(config("eyepacs", root, "data.on_bad_row=skip"))
    assert rows_of(source, "id", "group", "split") == [("13_left", "13", None), ("14_left", "14", "test")]
    assert len(source.left_out) == 4
    assert sum("10_left is in trainLabels.csv and in retinopathy_solution.csv" in line for line in source.left_out) == 2


# --- APTOS ---


def test_a_copy_of_aptos_that_was_divided_keeps_its_split(tmp_path):
    """Kaggle's "aptos2019" by others: the labelled part divided in three, each folder inside one of its own name."""
    root, seed = tmp_path / "aptos", iter(range(99))
    for table, folder, names in (
        ("train_1.csv", "train_images", "abc"), ("valid.csv", "val_images", "de"), ("test.csv", "test_images", "f")
    ):  # fmt: skip
        for name in names:
            picture(root / folder / folder / f"{name}.png", next(seed))
        (root / table).write_text("id_code,diagnosis\n" + "".join(f"{name},1\n" for name in names))
    source = public_sets.aptos2019(config("aptos2019", root))
    assert "".join(source.records["id"]) == "abcdef"
    assert source.records["split"].tolist() == ["train"] * 3 + ["val"] * 2 + ["test"]
    assert source.records["path"][5] == "test_images/test_images/f.png"
    assert any("this copy's" in note for note in source.notes)


def test_the_competitions_own_test_table_has_no_labels_and_is_not_read(tmp_path):
    root = tmp_path / "aptos"
    picture(root / "train_images" / "a.png")
    picture(root / "test_images" / "t.png", 1)
    (root / "train.csv").write_text("id_code,diagnosis\na,1\n")
    (root / "test.csv").write_text("id_code\nt\n")
    assert public_sets.aptos2019(config("aptos2019", root)).records["id"].tolist() == ["a"]


def test_the_copy_of_2015_and_2019_together_serves_both_sets(tmp_path):
    root = tmp_path / "both"
    (root / "labels").mkdir(parents=True)
    for seed, (kind, table, head, name) in enumerate((
        ("train 15", "trainLabels15", "image,level", "10_left"),
        ("test 15", "testLabels15", "image,level,Usage", "11_left"),
        ("train 19", "trainLabels19", "id_code,diagnosis", "abc"),
    )):  # fmt: skip
        picture(root / f"resized {kind}" / f"{name}.jpg", seed)
        (root / "labels" / f"{table}.csv").write_text(f"{head}\n{name},1{',Public' if 'Usage' in head else ''}\n")
    found = public_sets.eyepacs(config("eyepacs", root))
    assert rows_of(found, "path", "split") == [
        ("resized train 15/10_left.jpg", None), ("resized test 15/11_left.jpg", "test")
    ]  # fmt: skip
    assert rows_of(public_sets.aptos2019(config("aptos2019", root)), "path") == [("resized train 19/abc.jpg",)]


def test_a_folder_without_the_table_says_which_tables_it_holds(tmp_path):
    (tmp_path / "aptos").mkdir()
    (tmp_path / "aptos" / "labels_2019.csv").write_text("id_code,diagnosis\na,1\n")
    with pytest.raises(DataError, match=r"train\.csv does not exist\. Tables there: labels_2019\.csv") as caught:
        public_sets.aptos2019(config("aptos2019", tmp_path / "aptos"))
    assert "data=table" in caught.value.remedy


# --- IDRiD ---


def write_idrid(root, train: list[str], test: list[str]) -> None:
    """As distributed: a blank after a column's name, and empty columns, in the training table."""
    truths = root / "2. Groundtruths"
    truths.mkdir(parents=True)
    for letter, title, rows, head, tail in (
        ("a", "Training", train, "Image name,Retinopathy grade,Risk of macular edema ,,,", ",,,"),
        ("b", "Testing", test, "Image name,Retinopathy grade,Risk of macular edema ", ""),
    ):
        file = truths / f"{letter}. IDRiD_Disease Grading_{title} Labels.csv"
        file.write_text("\n".join([head, *(row + tail for row in rows)]) + "\n")
        for seed, row in enumerate(rows):
            folder = root / "1. Original Images" / f"{letter}. {title} Set"
            picture(folder / f"{row.split(',')[0]}.jpg", seed + 50 * (letter == "b"))


def test_idrid_has_an_official_split_and_referable_oedema_at_risk_two(tmp_path):
    root = tmp_path / "idrid"
    write_idrid(root / "B. Disease Grading", ["IDRiD_001,3,2", "IDRiD_002,1,2", "IDRiD_003,0,1"], ["IDRiD_001,4,0"])
    source = public_sets.idrid(config("idrid", root))
    assert rows_of(source, "id", "split", "grade", "dme", "referable") == [
        ("train_IDRiD_001", "train", 3.0, 1.0, 1.0),
        ("train_IDRiD_002", "train", 1.0, 1.0, 1.0),
        ("train_IDRiD_003", "train", 0.0, 0.0, 0.0),
        ("test_IDRiD_001", "test", 4.0, 0.0, 1.0),
    ]
    assert source.records["dme_risk"].tolist() == [2, 2, 1, 0]
    assert source.records["path"][3] == "B. Disease Grading/1. Original Images/b. Testing Set/IDRiD_001.jpg"
    assert source.records["group"].is_unique


@pytest.mark.slow
def test_idrids_val_comes_from_its_training_part(tmp_path):
    root = tmp_path / "idrid"
    train = [f"IDRiD_{i:03d},{i % 5},{i % 3}" for i in range(1, 31)]
    write_idrid(root, train, [f"IDRiD_{i:03d},{i % 5},{i % 3}" for i in range(1, 7)])
    found = training_data(STUDY, config("idrid", root)).records
    assert (found["split"] == "test").sum() == 6
    assert found.loc[found["split"] == "val", "id"].str.startswith("train_").all()


def test_idrid_says_what_is_wrong(tmp_path):
    root = tmp_path / "idrid"
    write_idrid(root, ["IDRiD_001,9,2", "IDRiD_002,1,3"], ["IDRiD_001,,0"])
    with pytest.raises(DataError) as caught:
        public_sets.idrid(config("idrid", root))
    for part in ("Retinopathy grade=9", "edema=3, allowed: 0, 1, 2", "Testing Labels.csv row 2: empty Retinopathy"):
        assert part in caught.value.problem
    (root / "2. Groundtruths" / "b. IDRiD_Disease Grading_Testing Labels.csv").unlink()
    with pytest.raises(DataError, match=r"Testing Labels\.csv; found: none"):
        public_sets.idrid(config("idrid", root))


def test_kaggles_idrid_has_one_table_and_names_its_test_part(tmp_path):
    root = tmp_path / "idrid"
    for seed, name in enumerate(("IDRiD_001", "IDRiD_002", "IDRiD_001test")):
        picture(root / "Imagenes" / "Imagenes" / f"{name}.jpg", seed)
    head, rows = "id_code,diagnosis,Risk of macular edema ,,", "IDRiD_001,3,2,,\nIDRiD_002,1,,,\nIDRiD_001test,0,0,,\n"
    (root / "idrid_labels.csv").write_text(f"{head}\n{rows},,,,\n,,,,\n")
    source = public_sets.idrid(config("idrid", root))
    assert rows_of(source, "id", "split", "grade") == [
        ("train_IDRiD_001", "train", 3), ("train_IDRiD_002", "train", 1), ("test_IDRiD_001", "test", 0)
    ]  # fmt: skip
    assert np.array_equal(source.records["dme"], [1, np.nan, 0], equal_nan=True), "no risk is unknown, not negative"
    assert source.records["path"][2] == "Imagenes/Imagenes/IDRiD_001test.jpg"


# --- Messidor-2 ---

ADJUDICATED = (
    "image_id,adjudicated_dr_grade,adjudicated_dme,adjudicated_gradable\n"
    "20051020_0100_PP.png,0,0,1\n20051020_0200_PP.png,1,1,1\nIM000005.jpg,2,0,1\nIM000006.jpg,,,0\n"
)
PAIRS = "left;right\n20051020_0100_PP.png;20051020_0200_PP.png\nIM000005.JPG;IM000006.JPG\n"
NAMES = ["20051020_0100_PP.png", "20051020_0200_PP.png", "IM000005.JPG", "IM000006.JPG"]


def write_messidor(root, **tables: str) -> None:
    for seed, name in enumerate(NAMES):
        picture(root / "IMAGES" / name, seed)
    for name, text in tables.items():
        (root / f"{name.replace('__', '-')}.csv").write_text(text)


@pytest.mark.parametrize("pairs", [PAIRS, PAIRS.replace(";", ",")])
def test_messidor2_per_image(tmp_path, pairs):
    root = tmp_path / "messidor2"
    write_messidor(root, messidor_data=ADJUDICATED, messidor__2=pairs)
    source = public_sets.messidor2(config("messidor2", root))
    found = source.records
    assert found["path"].tolist() == [f"IMAGES/{name}" for name in NAMES]
    assert found["group"].tolist() == ["20051020_0100_pp"] * 2 + ["im000005"] * 2
    assert found["gradable"].tolist() == [1, 1, 1, 0]
    assert np.array_equal(found["grade"], [0, 1, 2, np.nan], equal_nan=True)
    assert np.array_equal(found["referable"], [0, 1, 1, np.nan], equal_nan=True), "oedema alone is referable"
    assert not source.notes


def test_kaggles_messidor2_calls_its_columns_as_aptos_does(tmp_path):
    root = tmp_path / "messidor2"
    head = "id_code,diagnosis,adjudicated_dme,adjudicated_gradable"
    write_messidor(root, messidor_data=ADJUDICATED.replace(ADJUDICATED.splitlines()[0], head))
    (root / "IMAGES").rename(root / "preprocess")
    (root / "messidor-2" / "messidor-2").mkdir(parents=True)
    (root / "preprocess").rename(root / "messidor-2" / "messidor-2" / "preprocess")
    source = public_sets.messidor2(config("messidor2", root))
    assert source.records["path"][3] == "messidor-2/messidor-2/preprocess/IM000006.JPG"
    assert source.records["grade"].tolist()[:3] == [0, 1, 2]


def test_pairs_that_belong_to_other_images_are_not_passed_over(tmp_path):
    root = tmp_path / "messidor2"
    write_messidor(
        root, messidor_data=ADJUDICATED, messidor__2="left;right\nIM000005.JPG;IM000006.JPG\nIM7.JPG;IM8.JPG\n"
    )
    notes = " ".join(public_sets.messidor2(config("messidor2", root)).notes)
    assert "2 images not in messidor-2.csv, each a patient of its own: 20051020_0100_pp, 20051020_0200_pp." in notes
    assert "2 names of messidor-2.csv without an image: im7, im8." in notes
    (root / "messidor-2.csv").write_text("left;right\nIM7.JPG;IM8.JPG\n")
    with pytest.raises(
        DataError, match=r"names none of the 4 images: it names im7, im8; the images are 20051020_0100_pp"
    ):
        public_sets.messidor2(config("messidor2", root))


def test_bad_pairs_of_messidor2_may_be_left_out(tmp_path):
    root = tmp_path / "messidor2"
    write_messidor(root, messidor_data=ADJUDICATED, messidor__2=PAIRS + "IM000005.JPG;\n")
    source = public_sets.messidor2(config("messidor2", root, "data.on_bad_row=skip"))
    assert len(source.records) == 4
    assert source.records["group"].nunique() == 2
    assert len(source.left_out) == 1


def test_messidor2_without_its_pairs_says_so(tmp_path):
    root = tmp_path / "messidor2"
    write_messidor(root, messidor_data=ADJUDICATED)
    source = public_sets.messidor2(config("messidor2", root))
    assert source.records["group"].is_unique
    assert "counts as its own patient" in source.notes[0]


@pytest.mark.parametrize(
    ("standard", "pairs"),
    [
        ("examid,rDR\n20051020_0100_PP,0\nIM000005,1\n", PAIRS),
        ("examid,rDR\n20051020_0200_PP.png,0\nIM000006.JPG,1\n", PAIRS),
        ("examid,rDR\n20051020,0\n", None),
    ],
)
def test_messidor2_per_examination(tmp_path, standard, pairs):
    root = tmp_path / "messidor2"
    write_messidor(root, abramoff__refstandard=standard, **({"messidor__2": pairs} if pairs else {}))
    with pytest.raises(DataError, match="no grades to learn from"):
        public_sets.messidor2(config("messidor2", root))
    source = public_sets.messidor2(config("messidor2", root, "mode=evaluate"))
    first = source.records[source.records["path"].str.contains("20051020")]
    assert len(first) == 2
    assert first["referable"].tolist() == [0, 0]
    if pairs:
        assert source.records["referable"].tolist() == [0, 0, 1, 1]
        assert source.records["group"].nunique() == 2
    assert source.records["grade"].isna().all()
    assert "both of its images carry it" in source.notes[0]


def test_messidor2_says_what_is_wrong(tmp_path):
    root = tmp_path / "messidor2"
    bad = ADJUDICATED.replace("PP.png,0,0,1", "PP.png,5,0,1").replace("IM000005.jpg,2", "IM000005.jpg,")
    write_messidor(root, messidor_data=bad, messidor__2=PAIRS + "IM000005.JPG;\n")
    with pytest.raises(DataError) as caught:
        public_sets.messidor2(config("messidor2", root))
    for part in ("grade=5", "row 4: gradable, but without a grade", "has two images", "another examination too"):
        assert part in caught.value.problem
    (root / "messidor_data.csv").unlink()
    with pytest.raises(DataError, match="images come without grades"):
        public_sets.messidor2(config("messidor2", root))
    (root / "abramoff-refstandard.csv").write_text("examid,rDR\nIM00000,1\nnowhere,0\n")
    (root / "messidor-2.csv").unlink()
    with pytest.raises(DataError) as caught:
        public_sets.messidor2(config("messidor2", root, "mode=evaluate"))
    assert "examid nowhere has 0 images, expected 2" in caught.value.problem


@pytest.mark.parametrize("name", ["eyepacs", "messidor2", "idrid"])
def test_a_folder_without_the_set_is_answered_with_the_layout(tmp_path, name):
    with pytest.raises(DataError) as caught:
        public_sets.__dict__[name](config(name, tmp_path / "nowhere"))
    assert "does not exist" in caught.value.problem
    assert "Expected there:" in caught.value.remedy


def test_two_pictures_of_one_name_are_not_chosen_between(tmp_path):
    root = tmp_path / "eyepacs"
    write_eyepacs(root, {"10_left": 0})
    picture(root / "train" / "10_left.png")
    with pytest.raises(DataError, match=r"10_left\.jpeg and train/10_left\.png"):
        public_sets.eyepacs(config("eyepacs", root))
