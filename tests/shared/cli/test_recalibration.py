"""Recalibration for a new site: who is set aside, that nobody of them is judged, what is chosen, what is refused."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from conftest import REPOSITORY, compose, toy_prepared

from pipelines.covid_flannel.config import CLASSES
from pipelines.covid_flannel.study import STUDY as COVID
from pipelines.retinopathy.metrics import HEADS, grade_kappa, predict_columns
from pipelines.retinopathy.study import STUDY as RETINOPATHY
from pipelines.shared.cli import modes
from pipelines.shared.cli.finished import with_finished_run
from pipelines.shared.cli.recalibration import FEWEST, recalibrate, set_aside, site_split
from pipelines.shared.data.records import RECALIBRATION, Source
from pipelines.shared.errors import ConfigError, DataError, RunError
from pipelines.shared.job import Job
from pipelines.shared.judging.prediction_sets import choose_sets, members
from pipelines.shared.judging.recalibration import RECALIBRATED
from pipelines.shared.run import FinishedRun
from pipelines.shared.run_folder import RunFolder, read_json
from pipelines.shared.stats.operating_points import is_positive
from pipelines.shared.stats.probabilities import softmax
from pipelines.shared.stats.temperature import tempered
from pipelines.shared.study import Data
from pipelines.skin.metrics import class_columns, tempered_table
from pipelines.skin.metrics import predict_columns as skin_columns
from pipelines.skin.study import STUDY as SKIN


def site(groups=60, rare=6) -> pd.DataFrame:
    """Two records a group; `rare` groups are of grade 4, one of grade 3."""
    grade = np.where(np.arange(groups) < rare, 4.0, 0.0)
    grade[-1] = 3.0
    group = np.repeat([f"p{n}" for n in range(groups)], 2)
    return pd.DataFrame(
        {"id": [f"r{n}" for n in range(2 * groups)], "group": group, "split": "test", "grade": np.repeat(grade, 2)}
    )


def data_of(records: pd.DataFrame) -> Data:
    source = Source("table", False, Path(), records, "patient")
    flow = {"notes": [], "warnings": [], "split_fingerprint": "x"}
    return Data(source, records, toy_prepared(np.zeros((len(records), 1))), flow)


FINISHED = FinishedRun(RunFolder(Path("run")), {"network": {}}, [{"name": "high_sensitivity"}])


def config_of(share, seed=0):
    return SimpleNamespace(recalibrate=share, seed=seed)


# --- who is set aside ---


def test_whole_groups_are_set_aside_alike_in_their_classes_and_by_seed_alone():
    records = site()
    split = site_split(records, 1 / 3, "grade", 0)
    assert set(split) == {"test", RECALIBRATION}
    assert records.assign(split=split).groupby("group")["split"].nunique().max() == 1
    aside = records[split == RECALIBRATION]
    assert aside["group"].nunique() == 20
    assert aside.loc[aside["grade"] == 4, "group"].nunique() == 2, "a third of the rare class"
    shuffled = records.sample(frac=1, random_state=1)
    assert site_split(shuffled, 1 / 3, "grade", 0).sort_index().equals(split)
    assert not site_split(records, 1 / 3, "grade", 1).equals(split)
    assert set(site_split(records.drop(columns="grade"), 1 / 3, "grade", 0)) == {"test", RECALIBRATION}


def test_counts_are_said_and_the_split_has_its_own_fingerprint():
    data = set_aside(RETINOPATHY, config_of(0.25), FINISHED, data_of(site()))
    counts = data.records.groupby("split")["group"].nunique()
    assert counts.to_dict() == {RECALIBRATION: 15, "test": 45}
    assert "30 records of 15 groups, a random 25% (seed 0)" in data.flow["notes"][-1]
    assert data.flow["split_fingerprint"] != "x"
    most = set_aside(RETINOPATHY, config_of(0.9), FINISHED, data_of(site(100)))
    assert most.records.groupby("split")["group"].nunique().to_dict() == {RECALIBRATION: 90, "test": 10}
    assert most.flow["warnings"] == ["Fewer than 100 groups in test: the intervals say how little this proves."]
    assert set_aside(RETINOPATHY, config_of(0.1), FINISHED, data_of(site(120))).flow["warnings"] == []


@pytest.mark.parametrize(("groups", "share"), [(60, 0.1), (60, 0.9), (2 * FEWEST - 1, 0.5), (1, 0.5)])
def test_too_few_groups_on_either_side_are_refused_in_words(groups, share):
    with pytest.raises(DataError) as refused:
        set_aside(RETINOPATHY, config_of(share), FINISHED, data_of(site(groups, rare=0)))
    assert f"recalibrate={share:g} of {groups} groups" in refused.value.problem
    assert ("another share" in refused.value.remedy) == (groups == 60)


def test_records_of_one_class_alone_are_refused_before_they_are_answered():
    with pytest.raises(DataError, match=r"the 30 records of table that are set aside lack a second class") as refused:
        set_aside(RETINOPATHY, config_of(0.25), FINISHED, data_of(site().assign(grade=0.0)))
    assert refused.value.remedy.startswith("Both parts need records of two classes")


def test_a_run_in_which_nothing_was_chosen_has_nothing_to_recalibrate():
    for models, points, sets, refused in (
        ({"a": {}}, [], [], True),
        ({"a": {"chosen_on_val": {}}}, [], [], True),
        ({"a": {}}, [{}], [], False),
        ({"a": {}}, [], [{}], False),  # ECG's only thresholds are those of its sets
        ({"a": {"chosen_on_val": {"cut_points": [1.0]}}}, [], [], False),
        ({"a": {"calibration": {"temperature": 2.0}}}, [], [], False),
    ):
        finished = FinishedRun(RunFolder(Path("run")), models, points, sets)
        with pytest.raises(RunError, match="run has no thresholds") if refused else nullcontext():
            set_aside(RETINOPATHY, config_of(0.5), finished, data_of(site()))


# --- what is chosen ---


def test_thresholds_reach_their_targets_on_the_part_alone():
    rng = np.random.default_rng(0)
    grade = rng.integers(0, 5, 300)
    shifted = 0.3 / (1 + np.exp(-(grade - 2 + rng.normal(size=300))))  # this site's scores are low
    part = pd.DataFrame({"moderate_or_worse": (grade >= 2).astype(float), "p_moderate_or_worse": shifted})
    part = part.assign(referable=np.nan, p_referable=shifted, group="g", grade=grade.astype(float))
    config = compose("retinopathy")
    rest = part.head(5)
    made = RETINOPATHY.recalibrate(part, rest, config, {"network": {}})
    assert made.predictions is rest
    assert made.chosen == {}
    point = next(p for p in made.operating_points if p["name"] == "high_sensitivity")
    called = is_positive(part["p_moderate_or_worse"], point["threshold"])
    assert called[grade >= 2].mean() >= config.operating_points.high_sensitivity
    assert point["threshold"] < 0.3


@pytest.mark.parametrize(("referable", "judged"), [(4, True), (1, False)])
def test_a_task_that_one_part_cannot_judge_keeps_its_threshold(tmp_path, referable, judged):
    records = site(60, rare=20).assign(split=np.repeat(["recalibration", "test"], 60))
    score = np.linspace(0.1, 0.9, 120)
    table = records.drop(columns="split").assign(
        moderate_or_worse=np.tile([0.0, 1.0], 60), p_moderate_or_worse=score,
        referable=np.where(np.arange(120) % 60 < referable, 1.0, 0.0), p_referable=score,
    )  # fmt: skip
    if not judged:
        table.loc[records["split"] == "test", "referable"] = 0.0
    points = [{"name": "high_sensitivity", "task": task} for task in ("moderate_or_worse", "referable")]
    finished, folder = FinishedRun(RunFolder(Path("run")), {"network": {}}, points), RunFolder(tmp_path)
    config = compose("retinopathy", "recalibrate=0.5")
    rest = recalibrate(RETINOPATHY, config, folder, finished, data_of(records), table)
    assert set(rest["id"]) == set(records.loc[records["split"] == "test", "id"])
    made = read_json(tmp_path / "recalibration.json")
    assert {p["task"] for p in made["operating_points"]} == {"moderate_or_worse", *(["referable"] if judged else [])}
    assert made["not_chosen"] == ([] if judged else ["referable"])
    with pytest.raises(DataError, match=r"of moderate_or_worse, referable the records set aside, or the others, lack"):
        recalibrate(
            RETINOPATHY, config, folder, finished, data_of(records),
            table.assign(referable=0.0, moderate_or_worse=(records["split"] == "test") * 1.0),
        )  # fmt: skip


def graded_table(seed, bias):
    rng = np.random.default_rng(seed)
    grade = rng.integers(0, 5, 400)
    score = grade + bias + rng.normal(size=400)
    heads = 1 / (1 + np.exp(-(score[:, None] - np.array([0.5, 1.5, 2.5, 3.5]))))
    p = np.column_stack([heads, np.full((400, 2), 0.1)])
    about = pd.DataFrame({"group": [str(i) for i in range(400)], "grade": grade.astype(float)})
    about = about.assign(moderate_or_worse=(grade >= 2) * 1.0, referable=np.nan)
    return pd.concat([about, predict_columns(p, [0.5, 1.5, 2.5, 3.5])], axis=1)


def test_cut_points_of_the_grade_are_chosen_anew_where_the_run_has_some():
    part, rest = graded_table(0, bias=1.5), graded_table(1, bias=1.5)
    models = {"network": {"chosen_on_val": {"cut_points": [0.5, 1.5, 2.5, 3.5]}}}
    made = RETINOPATHY.recalibrate(part, rest, compose("retinopathy"), models)
    cuts = made.chosen["cut_points"]
    assert all(np.diff(cuts) >= 0)
    truth = rest["grade"].to_numpy()
    assert grade_kappa(truth, made.predictions) > grade_kappa(truth, rest) + 0.05
    p = [f"p_{head}" for head in HEADS]
    pd.testing.assert_frame_equal(made.predictions[p], rest[p])
    one_grade = RETINOPATHY.recalibrate(part.assign(grade=2.0), rest, compose("retinopathy"), models)
    assert str(one_grade.chosen["cut_points"]).startswith("none (")
    assert one_grade.predictions is rest


def skin_table(seed, sharpened):
    classes = ["benign/nevus", "malignant/melanoma", "malignant/basal"]
    rng = np.random.default_rng(seed)
    outputs = 2 * rng.normal(size=(1500, 3))
    truth = np.array([rng.choice(3, p=p) for p in softmax(outputs)])
    about = pd.DataFrame({"lineage": [classes[k] for k in truth], "malignant": (truth > 0) * 1.0, "group": "g"})
    about = about.assign(carcinoma_vs_keratosis=np.nan, melanoma_vs_nevus=np.nan)
    return pd.concat([about, skin_columns(softmax(sharpened * outputs), classes)], axis=1), classes


@pytest.mark.parametrize("temperature", ["true", "false"])
def test_prediction_sets_are_chosen_anew_as_the_site_is_answered(tmp_path, temperature):
    """Networks that are six times too sure at a new site: the frozen sets cover less, the recalibrated 90 % again."""
    (own, classes), (site_table, _) = skin_table(0, 1.0), skin_table(1, 6.0)
    ids = {"id": [str(i) for i in range(1500)], "group": np.arange(1500) // 2}
    table = site_table.assign(**ids)
    records = table[["id", "group"]].assign(split=np.where(np.arange(1500) < 750, RECALIBRATION, "test"))
    config = compose("skin", "recalibrate=0.5", f"calibration.temperature={temperature}")
    frozen = choose_sets(SKIN.set_tasks({"classes": classes}, config), own.assign(**ids), 0.9)
    models = {"network": {"classes": classes}}
    points, folder = SKIN.choose_points(own, config), RunFolder(tmp_path)
    for sets in (frozen, []):  # the second is a run from before there were any
        finished = FinishedRun(RunFolder(Path("run")), models, points, sets)
        rest = recalibrate(SKIN, config, folder, finished, data_of(records), table)
        made = read_json(tmp_path / "recalibration.json")
        assert ("prediction_sets" in made) == bool(sets)
        if not sets:
            continue
        (anew,) = made["prediction_sets"]
        assert (anew["chosen_on"], anew["level"]) == (RECALIBRATION, 0.9)
        answered = pd.read_parquet(folder.predictions(RECALIBRATED))
        truth = SKIN.set_tasks({"classes": classes}, config)[0].truth(rest).map(anew["classes"].index).to_numpy(int)
        rows = np.arange(len(rest))
        before, after = members(rest, frozen[0])[rows, truth].mean(), members(answered, anew)[rows, truth].mean()
        assert before < after - 0.05
        assert abs(after - 0.9) < 0.04
        assert answered["class@set_90"].notna().all()


def test_a_run_with_a_temperature_gets_one_for_the_site():
    (part, classes), (rest, _) = skin_table(0, 3.0), skin_table(1, 3.0)
    models = {"network": {"classes": classes}}
    made = SKIN.recalibrate(part, rest, compose("skin", "calibration.temperature=true"), models)
    assert made.chosen["temperature"] == pytest.approx(3, rel=0.15)
    p = rest[class_columns(classes)].to_numpy()
    np.testing.assert_allclose(
        made.predictions[class_columns(classes)], tempered(p, made.chosen["temperature"]), atol=1e-9
    )
    malignant = made.predictions["p_malignant"]
    assert ((malignant - rest["malignant"]) ** 2).mean() < ((rest["p_malignant"] - rest["malignant"]) ** 2).mean()
    np.testing.assert_allclose(malignant, made.predictions[class_columns(classes)[1:]].sum(axis=1), atol=1e-9)
    pd.testing.assert_frame_equal(tempered_table(rest, classes, 1.0), rest)
    frozen = SKIN.recalibrate(part, rest, compose("skin"), models)
    assert frozen.predictions is rest
    assert frozen.chosen == {}


def test_covid_gets_one_threshold_whichever_fold_answered():
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(4), 200)
    part = pd.DataFrame(p, columns=[f"p_{c}" for c in CLASSES])
    part = part.assign(label=[rng.choice(CLASSES, p=row) for row in p], fold=pd.array([None] * 200, dtype="Int64"))
    made = COVID.recalibrate(part, part, compose("covid_flannel"), {})
    assert [point["name"] for point in made.operating_points] == ["high_specificity", "high_sensitivity"]
    assert not any({"fold", "thresholds"} & set(point) for point in made.operating_points)


# --- on the command line ---


def merged(folder, *given, mode="evaluate"):
    config = compose("retinopathy", f"mode={mode}", f"run={folder}", *given)
    return with_finished_run("retinopathy", config, ["mode", "run", *(g.partition("=")[0].lstrip("+") for g in given)])


@pytest.mark.slow
def test_the_key_is_for_mode_evaluate_alone(tmp_path):
    begun = compose("retinopathy", f"run_dir={tmp_path}").model_dump()
    assert begun.pop("recalibrate") is None
    RunFolder(tmp_path).write_config(begun)  # as runs from before are
    assert merged(tmp_path, "data=phantom").recalibrate is None
    assert merged(tmp_path, "data=phantom", "recalibrate=0.3").recalibrate == 0.3
    for mode in ("train", "predict", "report"):
        with pytest.raises(ConfigError, match=rf"recalibrate=0\.3 counts for nothing in mode={mode}") as refused:
            merged(tmp_path, "recalibrate=0.3", "input=x", mode=mode)
        assert "mode=evaluate" in refused.value.remedy
    for share in (0, 1.5):
        with pytest.raises(ConfigError, match="recalibrate"):
            compose("retinopathy", f"recalibrate={float(share)}")


@pytest.mark.slow
def test_an_evaluation_judges_both_on_the_same_rest_and_reports_again(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(REPOSITORY / "tests" / "shared" / "handover")
    from made_service import fundus, make_run

    trained, photos = make_run(tmp_path / "run"), tmp_path / "photos"
    columns = {"id": "a", "group": "a", "split": "train", "path": "a", "fingerprint": "a", "source_group": "a"}
    pd.DataFrame([columns]).to_parquet(trained / "records.parquet")
    photos.mkdir()
    for i in range(30):
        (photos / f"{i}.png").write_bytes(fundus(i, 96))
    rows = pd.DataFrame({"path": [f"{i}.png" for i in range(30)], "patient": range(30), "grade": np.arange(30) % 5})
    rows.to_csv(tmp_path / "site.csv", index=False)
    given = [
        "data=table", f"data.root={photos}", f"data.table={tmp_path / 'site.csv'}", "data.columns.group=patient",
        "++data.targets={grade: grade}", "data.near_duplicates=false", "statistics.resamples=100", "recalibrate=0.4",
        f"cache.dir={tmp_path / 'cache'}", f"run_dir={tmp_path / 'site'}",
    ]  # fmt: skip
    modes.run(RETINOPATHY, Job(merged(trained, *given), tmp_path / "site", "a test"))
    folder = RunFolder(tmp_path / "site")
    records = folder.read_table(folder.records)
    made = read_json(folder.path / "recalibration.json")
    split = dict(records.groupby("split")["id"].agg(set))
    assert {name: len(ids) for name, ids in split.items()} == {RECALIBRATION: 12, "test": 18}
    assert (made["records"], made["groups"]) == (12, 12)
    for name, part in ((RECALIBRATION, RECALIBRATION), ("test", "test"), (RECALIBRATED, "test")):
        assert set(folder.read_table(folder.predictions(name))["id"]) == split[part]
    result = json.loads(folder.metrics.read_text())
    assert result["splits"][RECALIBRATION] == {"records": 12, "groups": 12}
    names = {(p["name"], p["chosen_on"]) for p in result["operating_points"] if p["task"] == "moderate_or_worse"}
    assert names == {("recalibrated_high_sensitivity", RECALIBRATION), ("recalibrated_high_specificity", RECALIBRATION)}
    rates = [key for key in result["metrics"] if key.startswith("recalibrated.moderate_or_worse.sensitivity@")]
    assert len(rates) == 2
    assert all(result["metrics"][key]["n"] <= 18 for key in rates)
    assert result["metrics"]["test.moderate_or_worse.auroc"]["n"] == 18
    page = folder.report.read_text()
    assert "Recalibrated for this site" in page
    assert "12 records of 12 groups" in page
    assert "thresholds chosen anew on 12 records of 12 groups" in (folder.path / "reporting_checklist.md").read_text()
    modes.run(RETINOPATHY, Job(merged(folder.path, mode="report"), folder.path, "a test"))
    again = json.loads(folder.metrics.read_text())
    assert again["metrics"] == result["metrics"]
    assert again["operating_points"] == result["operating_points"]
