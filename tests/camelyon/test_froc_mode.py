"""`mode=froc` on folders of files: its result, its notes, and every kind of bad input."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import official
import pandas as pd
import pytest
from asap import random_polygons, star, write_asap

from pipelines.camelyon.annotations import Polygon
from pipelines.camelyon.froc_inputs import read_submission
from pipelines.camelyon.froc_mode import score_submission
from pipelines.camelyon.pairing import slide_key
from pipelines.shared.errors import ConfigError, DataError
from pipelines.shared.job import Job

WIDTH, HEIGHT = 6000, 5000
SQUARE = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], float)


@pytest.fixture
def inputs(tmp_path):
    """Eight slides, five with metastases; test_007 has no file of detections, test_008's is empty."""
    rng = np.random.default_rng(5)
    folders = {name: tmp_path / name for name in ("detections", "annotations")}
    for folder in folders.values():
        folder.mkdir()
    rows, polygons, detections = [], {}, {}
    for k in range(1, 9):
        name, tumour = f"test_{k:03d}", k <= 5
        rows.append((name, int(tumour)))
        large = Polygon("large", "Tumor", star(rng, rng.uniform(1000, 4000, 2), 900))
        polygons[name] = [large, *random_polygons(rng, WIDTH, HEIGHT)] if tumour else None
        spots = [p.points.mean(axis=0) for p in polygons[name] or [] if p.tumour]
        points = np.vstack([*spots, rng.uniform(0, 1, (3, 2)) * (WIDTH, HEIGHT)]).clip(0).astype(int)
        detections[name] = [
            (float(p), int(x), int(y)) for p, (x, y) in zip(rng.random(len(points)).round(2), points, strict=True)
        ]
        if tumour:
            write_asap(folders["annotations"] / f"{name}.xml", polygons[name])
        if k == 8:
            detections[name] = []
        if k != 7:
            lines = [f"{p},{x},{y}" for p, x, y in detections[name]]
            (folders["detections"] / f"{name}.csv").write_text("\n".join(lines))
    detections["test_007"] = []
    slides = tmp_path / "slides.csv"
    pd.DataFrame(rows, columns=["slide", "label"]).to_csv(slides, index=False)
    literal = []
    for name, outlines in polygons.items():
        labels = None
        if outlines is not None:
            labels = official.evaluation_mask(official.full_mask(outlines, HEIGHT // 32 + 60, WIDTH // 32 + 60))
        literal.append(official.one_slide(detections[name], labels))
    return SimpleNamespace(**folders, slides=slides, literal=literal)


def run(inputs, folder, **changes):
    """The mode as the command line calls it."""
    places = {key: str(getattr(inputs, key)) for key in ("detections", "annotations", "slides")} | changes
    config = SimpleNamespace(
        study="camelyon",
        mode="froc",
        run=None,
        track=None,
        **({"slide_mpp": None, "annotation_groups": {}} | places),
        seed=0,
        trainer=SimpleNamespace(device="cpu", deterministic=True, compile=False),
        statistics=SimpleNamespace(resamples=300, level=0.95),
        model_dump=lambda: {"mode": "froc", **places},
    )
    study = SimpleNamespace(name="camelyon", title="CAMELYON16")
    score_submission(study, Job(config, folder, "python -m pipelines.camelyon mode=froc"))
    return folder


def read(inputs):
    return read_submission(inputs.detections, inputs.annotations, inputs.slides)


def problems_of(inputs):
    with pytest.raises(DataError) as caught:
        read(inputs)
    assert caught.value.remedy
    return caught.value.problem


def test_a_submission_is_scored_as_the_literal_count_does(inputs, tmp_path, capsys):
    folder = run(inputs, tmp_path / "run")
    printed = capsys.readouterr().out.strip().splitlines()
    assert printed[-1] == str(folder / "report.html")
    expected = official.sensitivities(*official.froc(inputs.literal))
    content = json.loads((folder / "metrics.json").read_text())
    metrics = content["metrics"]
    names = ["1/4", "1/2", "1", "2", "4", "8"]
    found = [metrics[f"test.lesions.sensitivity_at_{n}"]["value"] for n in names]
    np.testing.assert_allclose(found, expected)
    main = metrics["test.lesions.froc"]
    assert main["value"] == pytest.approx(np.mean(expected))
    assert main["low"] <= main["value"] <= main["high"]
    assert main["groups"] == 8
    assert content["schema"] == 1
    assert content["headline"] == "test.lesions.froc"
    assert content["splits"] == {"test": {"records": 8, "groups": 8}}
    assert content["paper"][0]["value"] == 0.807
    assert any("test.lesions.froc" in line for line in printed)
    for file in ("config.yaml", "run.log", "environment.json", "figures/froc.png"):
        assert (folder / file).exists()
    detections = pd.read_parquet(folder / "detections.parquet")
    assert list(detections.columns) == ["slide", "probability", "x", "y", "lesion", "outcome"]
    assert (detections["outcome"] == "false_positive").sum() == sum(len(s[0]) for s in inputs.literal)
    records = pd.read_parquet(folder / "records.parquet")
    assert records["id"].tolist() == [f"test_{k:03d}" for k in range(1, 9)]
    assert records["lesions"].tolist() == [s[3] for s in inputs.literal]
    lesions = pd.read_parquet(folder / "lesions.parquet")
    assert (~lesions["itc"]).sum() == sum(s[3] for s in inputs.literal)
    report = (folder / "report.html").read_text()
    for word in ("8 slides", "5 with metastases", "3 normal", "Slides without a file of detections", "test_007"):
        assert word in report


@pytest.mark.slow
def test_the_same_inputs_give_the_same_numbers(inputs, tmp_path):
    first, second = (json.loads((run(inputs, tmp_path / n) / "metrics.json").read_text()) for n in "ab")
    assert first["metrics"] == second["metrics"]


def test_names_differ_in_case_and_suffix(inputs):
    names = {
        slide_key(n) for n in ("Test_001.tif", "test_001", "images/TEST_001.TIFF", "test_001.csv", "test_001.tif.csv")
    }
    assert names == {"test_001"}
    table = pd.read_csv(inputs.slides)
    labels = table["label"].map({1: "Tumor", 0: "Normal"})
    table.assign(slide=table["slide"].str.title() + ".tif", label=labels).to_csv(inputs.slides, index=False)
    found = read(inputs)
    assert found.slides["slide"].tolist()[0] == "Test_001.tif"
    assert found.slides["label"].tolist() == [1] * 5 + [0] * 3
    assert set(found.maps) == {f"Test_00{k}.tif" for k in range(1, 6)}
    assert found.slides["file"].tolist() == [True] * 6 + [False, True]
    assert set(found.detections["slide"]) == {f"Test_00{k}.tif" for k in range(1, 7)}


@pytest.mark.slow
def test_without_normal_slides_there_is_a_warning(inputs, tmp_path, capsys):
    table = pd.read_csv(inputs.slides)
    table[table["label"] == 1].to_csv(inputs.slides, index=False)
    folder = run(inputs, tmp_path / "run")
    assert "There are no normal slides" in (folder / "report.html").read_text()
    assert "There are no normal slides" in capsys.readouterr().out
    assert json.loads((folder / "metrics.json").read_text())["splits"]["test"]["records"] == 5


def test_outlines_that_cross_themselves_are_scored_and_noted(inputs):
    tie = np.array([[0, 0], [3000, 3000], [3000, 0], [0, 3000]], float)
    write_asap(inputs.annotations / "test_001.xml", [Polygon("tie", "Tumor", tie)])
    found = read(inputs)
    assert any("test_001.xml, tie: crosses itself" in note for note in found.notes)
    assert len(found.maps["test_001"].lesions) == 1


def test_tumour_slides_without_a_lesion_are_a_warning(inputs):
    write_asap(inputs.annotations / "test_001.xml", [Polygon("dot", "Tumor", SQUARE * 5 + 40)])
    write_asap(inputs.annotations / "test_002.xml", [Polygon("A", "None", SQUARE * 3000)])
    found = read(inputs)
    assert any("without a lesion" in w and "test_001, test_002" in w for w in found.warnings)
    for name in ("test_001", "test_002"):
        assert found.maps[name].lesions.empty
    assert "test_003" in found.maps


def test_a_test_without_lesions_is_undefined_with_its_reason(inputs, tmp_path):
    table = pd.read_csv(inputs.slides)
    table[table["label"] == 0].to_csv(inputs.slides, index=False)
    folder = run(inputs, tmp_path / "run")
    entry = json.loads((folder / "metrics.json").read_text())["metrics"]["test.lesions.froc"]
    assert entry["value"] is None
    assert entry["reason"] == "there is no lesion"


@pytest.mark.slow
def test_no_detection_at_all_scores_zero(inputs, tmp_path):
    for file in inputs.detections.iterdir():
        file.write_text("")
    folder = run(inputs, tmp_path / "run")
    assert json.loads((folder / "metrics.json").read_text())["metrics"]["test.lesions.froc"]["value"] == 0
    assert len(pd.read_parquet(folder / "detections.parquet")) == 0


def test_all_problems_are_told_at_once(inputs):
    (inputs.detections / "test_001.csv").write_text("probability,x,y\n0.5,1,2\n")
    (inputs.detections / "test_002.csv").write_text("0.5,1,2\nnan,1,2\n0.5,-4,2\n1.2,1,2\n")
    (inputs.annotations / "test_003.xml").write_text("")
    (inputs.annotations / "test_004.xml").unlink()
    write_asap(inputs.annotations / "test_005.xml", [Polygon("A", "tumour", SQUARE * 3000)])
    write_asap(inputs.annotations / "test_006.xml", [Polygon("A", "Tumor", SQUARE * 3000)])
    found = problems_of(inputs)
    for word in (
        "8 problems",
        "test_001.csv, line 1: 'probability,x,y' is a header",
        "test_002.csv, line 2: probability nan",
        "test_002.csv, line 3: x -4",
        "test_002.csv, line 4: probability 1.2",
        "test_003.xml, is empty",
        "test_004 is a tumour slide without an annotation",
        "test_005.xml, A: unknown group 'tumour'",
        "test_006 is normal, but test_006.xml outlines tumour in it",
    ):
        assert word in found


def test_files_of_slides_that_are_not_listed_are_left_out_and_named(inputs):
    (inputs.detections / "test_049.csv").write_text("0.5,1,2\n")
    write_asap(inputs.annotations / "test_049.xml", [Polygon("A", "Tumor", SQUARE * 3000)])
    found = read(inputs)
    assert "test_049.csv" in found.warnings[0]
    assert "1 of them: test_007" in found.warnings[1]
    assert any("test_049.xml" in note for note in found.notes)
    assert "test_049" not in set(found.detections["slide"])


def test_names_that_fit_nowhere_are_a_mistake(inputs):
    for file in list(inputs.detections.iterdir()):
        file.rename(file.with_stem(f"{file.stem}_result"))
    assert "none of its 7 files is of a slide in slides.csv; files: test_001_result.csv" in problems_of(inputs)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("slide,label\ntest_001,maybe\n", "row 2: label=maybe, allowed: 1, tumor, 0, normal"),
        ("slide,label\ntest_001,1\nTest_001.tif,1\n", "rows 2, 3: slide 'test_001' occurs 2 times"),
        ("slide,label\na.svs,1\nA.SVS,1\n", "rows 2, 3: slide 'a' occurs 2 times"),
        ("slide,label\np/a.svs,1\np/a.tif,1\np\\a,0\n", "rows 2, 3, 4: slide 'p/a' occurs 3 times"),
        ("slide,label\n,1\n", "row 2: empty slide"),
        ("slide,label\ntest_001,\n", "row 2: label=nan"),
        ("slide,label\n", "has a header but no rows"),
        ("test_001,1\n", "has no column 'slide'"),
    ],
)
def test_the_table_of_slides_is_checked(inputs, text, word):
    inputs.slides.write_text(text)
    assert word in problems_of(inputs)


def test_places_that_are_not_there_are_named(inputs, tmp_path):
    (tmp_path / "empty").mkdir()
    wrong = SimpleNamespace(detections=tmp_path / "nowhere", annotations=tmp_path / "empty", slides=inputs.slides)
    found = problems_of(wrong)
    assert "detections=" in found
    assert "does not exist" in found
    assert "empty holds no .xml file" in found
    with pytest.raises(DataError, match="does not exist"):
        read_submission(inputs.detections, inputs.annotations, tmp_path / "no.csv")
    with pytest.raises(ConfigError, match="slides=<CSV: slide,label>"):
        run(inputs, tmp_path / "run", slides=None)
    assert not (tmp_path / "run").exists()


def test_only_normal_slides_need_no_annotation_of_their_own(inputs):
    """A normal slide may have a file that outlines no tumour."""
    write_asap(inputs.annotations / "test_006.xml", [Polygon("A", "None", SQUARE * 3000)])
    assert "test_006" not in read(inputs).maps


@pytest.fixture
def own(tmp_path):
    """Slides of 0.5 microns per pixel: two metastases of 250 microns, with their growth 375; both are found."""
    for folder in ("detections", "annotations"):
        (tmp_path / folder).mkdir()
    for k in (1, 2):
        write_asap(tmp_path / f"annotations/own_{k}.xml", [Polygon("A", "Tumor", SQUARE * 500 + (3000 * k, 4000))])
        (tmp_path / f"detections/own_{k}.csv").write_text(f"0.{9 - k},{3000 * k + 250},4250\n")
    (tmp_path / "detections/own_3.csv").write_text("0.4,2000,2000\n")
    slides = tmp_path / "slides.csv"
    slides.write_text("slide,label\nown_1,1\nown_2,1\nown_3,0\n")
    return SimpleNamespace(detections=tmp_path / "detections", annotations=tmp_path / "annotations", slides=slides)


@pytest.mark.slow
def test_the_scale_is_a_key_and_stands_in_the_result(own, tmp_path, capsys):
    assert read(own).scale == "0.243 microns per level-0 pixel (the challenge's scale, as no other is given)"
    assert read(own).maps["own_1"].lesions["itc"].tolist() == [True]
    folder = run(own, tmp_path / "run", slide_mpp=0.5)
    content = json.loads((folder / "metrics.json").read_text())
    assert content["metrics"]["test.lesions.froc"]["n"] == 2
    assert content["scale"] == "0.5 microns per level-0 pixel (data.mpp)"
    assert content["scale"] in capsys.readouterr().out
    report = (folder / "report.html").read_text()
    assert report.count("0.5 microns per level-0 pixel (data.mpp)") >= 3
    assert "0.243" not in report
    lesions = pd.read_parquet(folder / "lesions.parquet")
    assert lesions["mpp"].tolist() == [0.5, 0.5]
    assert lesions["length"].between(350, 400).all()
    assert pd.read_parquet(folder / "records.parquet")["mpp"].tolist() == [0.5] * 3


def test_slides_may_have_a_scale_and_a_size_of_their_own(own):
    own.slides.write_text("slide,label,mpp,width,height\nown_1,1,0.5,5000,5000\nown_2,1,,,\nown_3,0,1,,\n")
    found = read(own)
    assert [m.lesions["itc"].tolist() for m in found.maps.values()] == [[False], [True]]
    assert found.scale.startswith("0.243 to 1 microns per level-0 pixel (column mpp of slides.csv; else the challenge")
    own.slides.write_text("slide,label,mpp,width,height\nown_1,1,500,5000,\nown_2,1,x,-1,9\nown_3,0,1,,\n")
    problems = problems_of(own)
    for words in ("row 2: mpp=500", "row 3: mpp=x", "row 3: width=-1", "row 2: width and height belong together"):
        assert words in problems


def test_a_far_outline_may_lie_there_if_the_size_says_so(own):
    polygons = [Polygon("A", "Tumor", SQUARE * 500), Polygon("B", "Tumor", SQUARE * 500 + (300_000, 0))]
    write_asap(own.annotations / "own_1.xml", polygons)
    assert "own_1.xml, B: lies far from all others" in problems_of(own)
    own.slides.write_text("slide,label,width,height\nown_1,1,310000,9000\nown_2,1,,\nown_3,0,,\n")
    assert len(read(own).maps["own_1"].lesions) == 2


def test_detections_that_share_one_probability_score_zero_and_the_result_says_why(own, tmp_path, capsys):
    for k in (1, 2):
        (own.detections / f"own_{k}.csv").write_text(f"1,{3000 * k + 250},4250\n")
    (own.detections / "own_3.csv").write_text("")
    folder = run(own, tmp_path / "run", slide_mpp=0.5)
    content = json.loads((folder / "metrics.json").read_text())
    assert content["metrics"]["test.lesions.froc"]["value"] == 0
    why = "All detections share one probability (1) and every lesion is found"
    assert why in content["metrics"]["test.lesions.froc"]["reason"]
    assert any(why in warning for warning in content["warnings"])
    assert why in (folder / "report.html").read_text()
    assert why in capsys.readouterr().out


def test_an_empty_annotation_is_a_note(own):
    outlines = [Polygon("A", "Tumor", SQUARE * 500), Polygon("click", "Tumor", np.empty((0, 2)))]
    write_asap(own.annotations / "own_1.xml", outlines)
    found = read(own)
    assert len(found.maps["own_1"].lesions) == 1
    assert any("own_1.xml, click: has no point at all" in note for note in found.notes)
    write_asap(own.annotations / "own_2.xml", outlines[1:])
    assert any("without a lesion" in w and "own_2" in w for w in read(own).warnings)


def test_groups_of_other_names_are_what_the_configuration_says(own):
    write_asap(own.annotations / "own_1.xml", [Polygon("A", "metastases", SQUARE * 500)])
    assert "data.annotation_groups={metastases: tumor}" in problems_of(own)
    found = read_submission(own.detections, own.annotations, own.slides, None, {"metastases": "tumor"})
    assert len(found.maps["own_1"].lesions) == 1


def test_slides_of_one_name_are_told_apart_by_their_folders(own):
    own.slides.write_text("slide,label\na/s.tif,1\nb/s.tif,1\nown_3,0\n")
    for k, name in ((1, "a"), (2, "b")):
        for folder, suffix in ((own.detections, "csv"), (own.annotations, "xml")):
            (folder / name).mkdir()
            (folder / f"own_{k}.{suffix}").rename(folder / name / f"s.{suffix}")
    assert read(own).detections["slide"].tolist() == ["a/s.tif", "b/s.tif", "own_3"]
    own.slides.write_text("slide,label\na/s.tif,1\nb/s.tif,1\nown_3.svs,0\nown_3.tif,0\n")
    assert "detections: own_3.csv could belong to own_3.svs or own_3.tif" in problems_of(own)
    (own.annotations / "a/s.xml").rename(own.annotations / "s.xml")
    (own.annotations / "b/s.xml").unlink()
    assert "annotations: s.xml could belong to a/s.tif or b/s.tif" in problems_of(own)
