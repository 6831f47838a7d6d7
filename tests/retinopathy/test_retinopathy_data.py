"""The adapters: what they read, and what they say about what they cannot."""

from __future__ import annotations

import io
import shutil
import warnings

import numpy as np
import pandas as pd
import pytest
from conftest import compose
from PIL import Image

from pipelines.retinopathy import data, public_sets
from pipelines.retinopathy.config import LabelRules
from pipelines.retinopathy.learner import RetinopathyLearner
from pipelines.retinopathy.study import STUDY
from pipelines.shared.data.assemble import training_data
from pipelines.shared.errors import BadFile, DataError, UnusableRecord


def fundus(size: int = 160, colour=(190, 90, 40), seed: int = 0) -> Image.Image:
    """A disc on black with some texture: enough for the circle to be found."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] - size / 2 + 0.5
    inside = x**2 + y**2 < (0.46 * size) ** 2
    texture = np.kron(rng.normal(0, 12, (size // 8, size // 8)), np.ones((8, 8)))
    picture = np.clip(np.array(colour) + texture[..., None], 20, 255) * inside[..., None]
    return Image.fromarray(picture.astype(np.uint8))


def write_aptos(root, grades: dict[str, object]) -> None:
    (root / "train_images").mkdir(parents=True)
    for i, name in enumerate(grades):
        fundus(seed=i).save(root / "train_images" / f"{name}.png")
    rows = "".join(f"{name},{grade}\n" for name, grade in grades.items())
    (root / "train.csv").write_text(f"id_code,diagnosis\n{rows}")


def aptos(root, *more: str):
    return compose("retinopathy", "data=aptos2019", f"data.root={root}", f"cache.dir={root.parent / 'cache'}", *more)


def test_aptos_is_read_from_one_tiny_image(tmp_path):
    write_aptos(tmp_path / "aptos", {"abc": 3})
    source = public_sets.aptos2019(aptos(tmp_path / "aptos"))
    row = source.records.iloc[0]
    assert (row["id"], row["group"], row["path"]) == ("abc", "abc", "train_images/abc.png")
    assert row["grade"] == 3
    assert row[["mild_or_worse", "moderate_or_worse", "severe_or_worse", "proliferative"]].tolist() == [1, 1, 1, 0]
    assert row[["dme", "gradable", "referable"]].isna().all()
    assert not source.synthetic


@pytest.mark.slow
def test_the_real_sample_has_its_four_pairs(real_sample, tmp_path):
    config = compose("retinopathy", "data=aptos2019", f"data.root={real_sample('aptos2019')}", f"cache.dir={tmp_path}")
    found = training_data(STUDY, config)
    gate = found.flow["gate_findings"]
    assert len(gate["identical"]) == 4
    assert all(len(pair) == 2 for pair in gate["identical"])
    assert len(gate["conflicts"]) == 2
    dropped = {d["id"] for d in gate["dropped"]}
    assert dropped == {name for conflict in gate["conflicts"] for name in conflict}
    assert len(found.records) == 62 - 4
    assert found.records.groupby("group").size().max() == 2, "identical images that agree are one group"
    assert found.records.groupby("group")["split"].nunique().max() == 1
    for policy, kept in (("keep", 62), ("drop", 58)):
        again = training_data(
            STUDY, config.model_copy(update={"data": config.data.model_copy(update={"conflicting_labels": policy})})
        )
        assert len(again.records) == kept
    strict = config.model_copy(update={"data": config.data.model_copy(update={"conflicting_labels": "error"})})
    with pytest.raises(DataError, match="2 sets of identical images with different labels"):
        training_data(STUDY, strict)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("id_code,diagnosis\nabc,5\n", "row 2: diagnosis=5, allowed: 0, 1, 2, 3, 4"),
        ("id_code,diagnosis\nabc,\n", "row 2: empty diagnosis"),
        ("id_code,diagnosis\nabc,1\nabc,2\n", "rows 2, 3: id_code 'abc' occurs 2 times"),
        ("id_code,diagnosis\n../../abc,1\n", "leaves the folder"),
        ("id,diagnosis\nabc,1\n", "no column 'id_code'"),
    ],
)
def test_bad_tables(tmp_path, text, said):
    write_aptos(tmp_path / "aptos", {"abc": 1})
    (tmp_path / "aptos" / "train.csv").write_text(text)
    with pytest.raises(DataError) as caught:
        public_sets.aptos2019(aptos(tmp_path / "aptos"))
    assert said in caught.value.problem


def test_missing_root_and_table_quote_the_card(tmp_path):
    with pytest.raises(DataError, match="Kaggle"):
        public_sets.aptos2019(compose("retinopathy", "data=aptos2019"))
    (tmp_path / "aptos").mkdir()
    with pytest.raises(DataError, match="Kaggle"):
        public_sets.aptos2019(aptos(tmp_path / "aptos"))


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def exif_rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(fundus(), "JPEG", exif=exif, quality=95)


GOOD_FILES = {
    "grey.png": lambda: encoded(fundus(colour=(120, 120, 120)).convert("L"), "PNG"),
    "rgba.png": lambda: encoded(fundus().convert("RGBA"), "PNG"),
    "palette.png": lambda: encoded(fundus().quantize(64), "PNG"),
    "cmyk.jpg": lambda: encoded(fundus().convert("CMYK"), "JPEG", quality=95),
    "sixteen.png": lambda: encoded(Image.fromarray(np.asarray(fundus().convert("L")).astype(np.uint16) * 257), "PNG"),
    "rotated.jpg": exif_rotated,
}
BAD_FILES = {
    "empty.png": lambda: b"",
    "truncated.jpg": lambda: encoded(fundus(), "JPEG", quality=95)[:1500],
    "dot.png": lambda: encoded(Image.new("RGB", (1, 1)), "PNG"),
    "text.png": lambda: b"I am not a picture.\n" * 20,
}


@pytest.mark.parametrize("name", GOOD_FILES)
def test_all_sorts_of_pictures_are_prepared(tmp_path, name):
    (tmp_path / name).write_bytes(GOOD_FILES[name]())
    settings = STUDY.prepare_settings(compose("retinopathy"))
    array, facts = data.prepare({"id": "x", "path": name}, tmp_path, settings)
    assert array.shape == (128, 128, 3)
    assert array.dtype == np.uint8
    assert facts["circle_radius"] == pytest.approx(0.46 * 160, rel=0.04)
    assert len(facts["fingerprint"]) == 64


@pytest.mark.parametrize("name", BAD_FILES)
def test_what_is_no_picture_is_a_bad_file(tmp_path, name):
    (tmp_path / name).write_bytes(BAD_FILES[name]())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(BadFile) as caught:
            data.prepare({"id": "x", "path": name}, tmp_path, STUDY.prepare_settings(compose("retinopathy")))
    assert not isinstance(caught.value, UnusableRecord)
    assert str(tmp_path) not in str(caught.value)


def test_a_picture_without_a_fundus_is_ungradable_not_cropped(tmp_path):
    Image.new("RGB", (200, 200), (90, 90, 90)).save(tmp_path / "blank.png")
    with pytest.raises(UnusableRecord, match="no fundus circle"):
        data.prepare({"id": "x", "path": "blank.png"}, tmp_path, STUDY.prepare_settings(compose("retinopathy")))


def make_set(tmp_path, groups: int = 30):
    grades = {f"i{n:03d}": n % 5 for n in range(groups)}
    write_aptos(tmp_path / "aptos", grades)
    return tmp_path / "aptos"


def test_bad_files_stop_a_run_all_at_once_or_are_left_out(tmp_path):
    root = make_set(tmp_path)
    for target, name in (("i003", "empty.png"), ("i004", "text.png")):
        (root / "train_images" / f"{target}.png").write_bytes(BAD_FILES[name]())
    (root / "train_images" / "i005.png").unlink()
    Image.new("RGB", (200, 200), (90, 90, 90)).save(root / "train_images" / "i006.png")
    with pytest.raises(DataError) as caught:
        training_data(STUDY, aptos(root))
    for name in ("i003", "i004", "i005"):
        assert name in caught.value.problem
    assert "3 of 30 files" in caught.value.problem
    assert "on_bad_file=skip" in caught.value.remedy
    found = training_data(STUDY, aptos(root, "data.on_bad_file=skip"))
    assert len(found.records) == 26
    unreadable = sorted(found.flow["lists"]["Files that cannot be read"])
    assert [line.split(":")[0] for line in unreadable] == [f"train_images/i00{k}.png" for k in (3, 4, 5)]
    assert found.flow["lists"]["Ungradable: no fundus circle found"] == ["i006"]


def test_a_class_with_too_few_groups_is_named(tmp_path):
    root = make_set(tmp_path)
    table = pd.read_csv(root / "train.csv")
    table.loc[table["diagnosis"] == 4, "diagnosis"] = [4] + [3] * 5
    table.to_csv(root / "train.csv", index=False)
    with pytest.raises(DataError, match=r"grade=4\.0: 1 group"):
        training_data(STUDY, aptos(root))


def test_a_table_without_grades_cannot_train_and_unknown_dme_is_unknown(tmp_path):
    for i in range(3):
        fundus(seed=i).save(tmp_path / f"{i}.png")
    (tmp_path / "mine.csv").write_text("path,dr,me\n0.png,3,\n1.png,0,\n2.png,0,1\n")
    base = ["data=table", f"data.table={tmp_path / 'mine.csv'}", f"cache.dir={tmp_path / 'cache'}"]
    with pytest.raises(DataError, match="names no column for grade"):
        data.table(compose("retinopathy", *base, "++data.targets={dme: me}"))
    data.table(compose("retinopathy", *base, "++data.targets={dme: me}", "mode=evaluate"))
    source = data.table(compose("retinopathy", *base, "++data.targets={grade: dr, dme: me}"))
    assert source.records["referable"].isna().tolist() == [True, True, False]
    assert source.records["referable"][2] == 1
    assert any("2 images have no DME label" in note for note in source.notes)


def test_filtered_copies_train_a_network_that_raw_photographs_are_filtered_for(tmp_path):
    filtering = ["preprocess.local_average=true", "preprocess.local_average_sigma=0.05"]
    copies = data.prepare_settings(compose("retinopathy", *filtering, "data.local_average_applied=true"))
    raw = data.prepare_settings(compose("retinopathy", *filtering))
    plain = data.prepare_settings(compose("retinopathy"))
    assert (copies["local_average"], copies["local_average_applied"]) == (False, True)
    assert (raw["local_average"], raw["local_average_sigma"]) == (True, 0.05)
    assert set(plain) == {"study", "version", "size", "local_average"}  # as before: what is cached stays
    fundus().save(tmp_path / "raw.png")
    array, facts = data.prepare({"path": "raw.png"}, tmp_path, raw)
    assert facts["warnings"] == []
    assert (array[0] == 128).all()
    assert "does not look" in data.prepare({"path": "raw.png"}, tmp_path, copies)[1]["warnings"][0]
    Image.fromarray(np.where(np.array(fundus()) == 0, 128, 140).astype(np.uint8)).save(tmp_path / "copy.png")
    assert data.prepare({"path": "copy.png"}, tmp_path, copies)[1]["warnings"] == []
    assert "looks local-average filtered" in data.prepare({"path": "copy.png"}, tmp_path, raw)[1]["warnings"][0]


@pytest.mark.slow
def test_records_and_arrays_keep_their_order(tmp_path):
    root = make_set(tmp_path)
    found = training_data(STUDY, aptos(root))
    settings = STUDY.prepare_settings(aptos(root))
    for i in (0, 7, 29):
        row = found.records.iloc[i].to_dict()
        assert np.array_equal(found.prepared.array(i), data.prepare(row, root, settings)[0])


def test_nothing_is_written_into_the_dataset(tmp_path):
    root = make_set(tmp_path)
    before = sorted((str(p), p.stat().st_mtime_ns) for p in root.rglob("*"))
    training_data(STUDY, aptos(root))
    assert sorted((str(p), p.stat().st_mtime_ns) for p in root.rglob("*")) == before


def test_a_users_own_table(tmp_path):
    for i in range(24):
        fundus(seed=i).save(tmp_path / f"{i}.png")
    table = pd.DataFrame(
        {"file": [f"{i}.png" for i in range(24)], "who": [i // 2 for i in range(24)], "dr": ["none", "mild"] * 12,
         "me": [0, 1] * 12, "ok": [1] * 22 + [0, 0]}
    )  # fmt: skip
    table.to_csv(tmp_path / "mine.csv", index=False)
    config = compose(
        "retinopathy", "data=table", f"data.table={tmp_path / 'mine.csv'}", "data.columns.path=file",
        "data.columns.group=who", "++data.targets={grade: dr, dme: me, gradable: ok}",
        "++data.values={grade: {none: 0, mild: 1}}", f"cache.dir={tmp_path / 'cache'}",
    )  # fmt: skip
    source = data.table(config)
    assert source.records["referable"].tolist()[:2] == [0, 1]
    assert source.records["grade"].tail(2).isna().all(), "an ungradable image has no grade"
    found = training_data(STUDY, config)
    assert set(found.records["split"]) == {"train", "val", "test"}
    assert found.records.groupby("group")["split"].nunique().max() == 1


RULES = LabelRules(ties="lower", referable="binary_majority")


def multi_grader_set(tmp_path):
    root = tmp_path / "panel"
    (root / "images").mkdir(parents=True)
    names = ["p1_left", "p1_right", "p2_left"]
    for i, name in enumerate(names):
        fundus(seed=i).save(root / "images" / f"{name}.png")
    pd.DataFrame({"image_id": names, "patient_id": ["p1", "p1", "p2"], "age": [50, 50, 60]}).to_csv(
        root / "metadata.csv", index=False
    )
    rows = [
        (n, f"g{g}", grade, 0, 1)
        for n, grades in zip(names, [(0, 0, 2), (3, 3, 1), (4, 2, 2)], strict=True)
        for g, grade in enumerate(grades)
    ]
    pd.DataFrame(rows, columns=["image_id", "grader", "grade", "dme", "gradable"]).to_csv(
        root / "grades.csv", index=False
    )
    return root


def test_several_graders(tmp_path):
    root = multi_grader_set(tmp_path)
    source = data.multi_grader(root, RULES, None, 0)
    assert source.records["grade"].tolist() == [0, 3, 2]
    assert source.records["group"].tolist() == ["p1", "p1", "p2"]
    assert source.readers is not None
    assert len(source.readers) == 9
    few = data.multi_grader(root, RULES, 1, 0).records
    assert few["grade"].tolist() == [0, 3, 2], "the reference stays the whole panel's"
    few["split"] = ["train", "val", "test"]
    values = RetinopathyLearner(compose("retinopathy")).targets(few)
    assert values[1:, 1].tolist() == [1, 1]
    assert values[0, 0] == float(few["grade_few"].iloc[0] >= 1)


def test_several_graders_bad_rows(tmp_path):
    root = multi_grader_set(tmp_path)
    text = (root / "grades.csv").read_text()
    (root / "grades.csv").write_text(text.replace("p1_left,g0,0", "p1_left,g0,7").replace("p2_left", "p9_left"))
    with pytest.raises(DataError) as caught:
        data.multi_grader(root, RULES, None, 0)
    assert "grade=7" in caught.value.problem
    assert "p9_left: only in one of" in caught.value.problem
    shutil.rmtree(root)


def test_measure_masks_and_survives_one_class():
    learner = RetinopathyLearner(compose("retinopathy"))
    truth = np.full((4, 6), np.nan, np.float32)
    truth[:3, 1] = [0, 1, 1]
    outputs = np.zeros((4, 6))
    outputs[:, 1] = [0.1, 0.2, 0.3, -5]
    assert learner.measure(truth, outputs)["val_auroc"] == 1.0
    truth[0, 1] = 1
    assert np.isnan(learner.measure(truth, outputs)["val_auroc"])
