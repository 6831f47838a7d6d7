"""Prediction sets of yes or no, and of cases of several rows: chosen, as columns, judged; every study has some."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from conftest import STUDIES, compose, study_of
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.ecg.config import CLASSES
from pipelines.ecg.rhythm_sets import recording_sets, set_columns, set_tasks
from pipelines.shared.cli.recalibration import _sets
from pipelines.shared.judging.coverage import with_prediction_sets
from pipelines.shared.judging.prediction_sets import (
    SetTask,
    choose_sets,
    freeze_sets,
    frozen_sets,
    members,
    pooled_sets,
    with_set_columns,
)
from pipelines.shared.judging.report import Table, Text
from pipelines.shared.judging.tasks import BinaryTask
from pipelines.shared.learning.cross_validation import FoldFolder, _pool, fold_path
from pipelines.shared.learning.method import choose_and_freeze
from pipelines.shared.run_folder import RunFolder, write_json
from pipelines.shared.stats.bootstrap import Bootstrap
from pipelines.shared.stats.conformal import group_weights
from pipelines.shared.study import Results

SICK = BinaryTask("sick", "Sick", target="sick", score="p_sick")


def patients(seed, groups=60, each=2, skill=1.0, share=0.4):
    """A table of patients with some visits; the score is a bad probability."""
    rng = np.random.default_rng(seed)
    sick = np.repeat(rng.random(groups) < share, each)
    group = np.repeat(np.arange(groups), each)
    logit = rng.normal(size=len(sick)) + rng.normal(size=groups)[group] + skill * (2 * sick - 1)
    score = 1 / (1 + np.exp(-3 * logit - 2))
    about = {"id": [f"{seed}-{i}" for i in range(len(sick))], "group": group}
    return pd.DataFrame(about | {"sick": sick.astype(float), "p_sick": score})


def judged(test, sets, tasks=(SICK.set_task,)):
    evidence = SimpleNamespace(
        predictions={"test": test}, bootstrap=Bootstrap(200), networks=[{}], config=None, prediction_sets=sets
    )
    bare = Results({}, "test.x", "", 0.0, None, [], [], [], [])
    return with_prediction_sets(SimpleNamespace(set_tasks=lambda model, config: list(tasks)), evidence, bare)


def texts(results):
    return " ".join(block.text for block in results.sections[0].blocks if isinstance(block, Text))


@given(st.integers(0, 10_000), st.sampled_from([0.5, 0.7, 0.8]))
@settings(max_examples=15)
def test_sets_are_those_of_a_brute_force_search(seed, level):
    """Of every candidate the largest threshold of either side that covers enough patients."""
    val = patients(seed, groups=25, each=3)
    (sets,) = choose_sets([SICK.set_task], val, level)
    best = []
    for truth, score in ((0, 1 - val["p_sick"]), (1, val["p_sick"])):
        rows = val["sick"] == truth
        p, visits = score[rows].to_numpy(), val[rows].groupby("group")["id"].transform("size").to_numpy()
        n = val.loc[rows, "group"].nunique()
        best.append(max((t for t in p if (1 / visits)[p >= t].sum() >= level * (n + 1) - 1e-9), default=0.0))
    column = with_set_columns(val, [sets]).get("sick@set_" + f"{100 * level:g}")
    for p, text in zip(val["p_sick"], column if any(best) else [], strict=bool(any(best))):
        names = [name for name, there in (("no", 1 - p >= best[0]), ("yes", p >= best[1])) if there]
        assert text == ("|".join(names) or "neither")


@pytest.mark.parametrize("skill", [0.3, 3.0])
def test_new_patients_are_covered_on_either_side(skill):
    """Over 40 times 50 patients, with a weak score (many are both) and a strong one (some are neither)."""
    covered, sizes = {0.0: [], 1.0: []}, []
    for seed in range(40):
        val, test = patients(2 * seed, groups=50, skill=skill), patients(2 * seed + 1, skill=skill)
        (sets,) = choose_sets([SICK.set_task], val, 0.8)
        inside = members(test, sets)
        hit = inside[np.arange(len(test)), test["sick"].astype(int)]
        weights = group_weights(test["group"], test["sick"])
        for truth, values in covered.items():
            rows = (test["sick"] == truth).to_numpy()
            values.append(np.average(hit[rows], weights=weights[rows]))
        sizes.append([(inside.sum(axis=1) == k).mean() for k in (0, 2)])
    for values in covered.values():
        error = np.std(values) / np.sqrt(len(values))
        assert 0.8 - 3 * error <= np.mean(values) <= 0.8 + 2 / 15 + 3 * error
    neither, both = np.mean(sizes, axis=0)
    assert both > 0.2 if skill < 1 else neither > 0.05


def test_the_section_tells_coverage_and_who_is_unsure():
    val, test = patients(0), patients(1)
    test.loc[0, "sick"], test.loc[1, "p_sick"] = np.nan, np.nan
    (sets,) = choose_sets([SICK.set_task], val, 0.8)
    results = judged(test, [sets])
    inside = members(test, sets)
    rows = np.arange(len(test)) > 1
    size = inside.sum(axis=1)[rows]
    e = {key.removeprefix("test.sick.").removesuffix("@set_80"): v for key, v in results.metrics.items()}
    assert set(e) == {
        "coverage", "coverage[no]", "coverage[yes]", "single[no]", "single[yes]", "both", "neither", "single",
        "single_right",
    }  # fmt: skip
    assert e["both"].value == pytest.approx((size == 2).mean(), abs=0.01)
    assert e["neither"].value == pytest.approx((size == 0).mean(), abs=0.01)
    parts = [e[key].value for key in ("single[no]", "single[yes]", "both", "neither")]
    assert sum(parts) == pytest.approx(1)
    assert e["single"].value == pytest.approx(parts[0] + parts[1])
    ill = rows & (test["sick"] == 1).to_numpy()
    assert e["coverage[yes]"].value == pytest.approx(inside[ill, 1].mean())
    assert e["coverage[yes]"].low < e["coverage[yes]"].value < e["coverage[yes]"].high
    named = [row[0] for block in results.sections[0].blocks if isinstance(block, Table) for row in block.rows]
    assert named[:3] == ["no", "yes", "All answers"]
    assert {"No alone", "Yes alone", "Both: unsure", "Neither"} <= set(named)
    assert "1 test records have no known class" in texts(results)
    column = with_set_columns(test, [sets])["sick@set_80"]
    assert column.isna().tolist() == [False, True, *[False] * (len(test) - 2)]


def test_with_too_few_patients_there_is_no_set_and_the_section_says_so():
    """Six patients of each kind where nine are needed: no column, no metrics. With few sick ones alone: never no."""
    few = patients(0, groups=12, share=0.5)
    few["sick"] = (few["group"] % 2).astype(float)
    sets = choose_sets([SICK.set_task], few, 0.9)
    assert "sick@set_90" not in with_set_columns(few, sets)
    results = judged(few, sets)
    assert results.metrics == {}
    assert "No prediction sets. A threshold at 90 % takes 9 groups" in texts(results)
    assert "no 6, yes 6" in texts(results)
    one_sided = few.assign(sick=(few["group"] == 0).astype(float))
    sets = choose_sets([SICK.set_task], one_sided, 0.9)
    assert sets[0]["thresholds"][1] == 0
    assert with_set_columns(few, sets)["sick@set_90"].isin(["yes", "no|yes"]).all()
    assert "Too few groups in val for a threshold at 90 %, which takes 9: yes (1)." in texts(judged(few, sets))
    assert choose_sets([SICK.set_task], few.assign(sick=np.nan), 0.9) == []


def test_folds_and_a_new_site_have_their_own():
    folds = {k: choose_sets([SICK.set_task], patients(k), 0.8) for k in range(2)}
    (pooled,) = pooled_sets(folds)
    test = patients(9, groups=2).assign(fold=[0, 0, 1, 1])
    for k in range(2):
        own = test[test["fold"] == k]
        assert np.array_equal(members(own, pooled), members(own.drop(columns="fold"), folds[k][0]))
    other = [folds[1][0] | {"classes": ["yes", "no"]}]
    apart = pooled_sets({0: folds[0], 1: other})
    assert "sick@set_80" not in with_set_columns(with_set_columns(test, folds[0]), apart)
    results = judged(test, apart)
    assert results.metrics == {}
    assert "No prediction sets: the folds of the cross-validation learned different classes." in texts(results)
    one = SetTask("one", "One", {"sick": "p_sick"}, lambda table: table["sick"].map({1.0: "sick"}))
    assert choose_sets([one], patients(0), 0.8) == []
    study = SimpleNamespace(
        set_tasks=lambda model, config: [SICK.set_task],
        recalibrate=lambda part, rest, config, models: SimpleNamespace(predictions=rest),
    )
    site = patients(5).assign(p_sick=lambda table: table["p_sick"] / 2)
    for sets, expected in ((folds[0], choose_sets([SICK.set_task], site, 0.8)), ([], [])):
        run = SimpleNamespace(prediction_sets=sets, models={"network": {}})
        anew = _sets(study, None, run, site)
        assert [s["thresholds"] for s in anew] == [s["thresholds"] for s in expected]


def test_the_pooled_table_has_the_sets_that_the_report_counts(tmp_path):
    """Nobody of fold 1's val has a label, or its networks another class: its records still have what is judged."""
    whole, own = RunFolder(tmp_path), choose_sets([SICK.set_task], patients(0), 0.8)
    for other, kept in (([], True), ([own[0] | {"classes": ["yes", "no"], "scores": ["p_no", "p_sick"]}], False)):
        for k, sets in enumerate([own, other]):
            folder = FoldFolder(fold_path(whole, k), whole, k)
            for split in ("val", "test"):
                folder.predictions(split).parent.mkdir(parents=True, exist_ok=True)
                folder.write_table(folder.predictions(split), with_set_columns(patients(2 + k), own if k == 0 else []))
            pd.DataFrame({"network": ["network"]}).to_csv(folder.history, index=False)
            write_json(folder.operating_points, [])
            freeze_sets(folder, sets)
        _pool(whole, 2)
        table, (pooled,) = pd.read_parquet(whole.predictions("test")), frozen_sets(whole)
        assert ("sick@set_80" in table) == kept
        results = judged(table, [pooled])
        if kept:
            column = table["sick@set_80"]
            assert (column[table["fold"] == 1] == "no|yes").all()
            both = results.metrics["test.sick.both@set_80"].value
            assert both == pytest.approx((column == "no|yes").mean(), abs=0.02)
        else:
            assert results.metrics == {}


def test_what_is_written_of_val_and_test(tmp_path):
    folder = RunFolder(tmp_path)
    model = {"schema": 1, "study": "toy", "classes": ["sick"], "architecture": {}, "preprocessing": {}}
    (tmp_path / "models" / "network").mkdir(parents=True)
    write_json(tmp_path / "models" / "network" / "model.json", model)
    for level in (0.8, None):
        run = SimpleNamespace(
            folder=folder,
            config=SimpleNamespace(conformal=SimpleNamespace(level=level)),
            study=SimpleNamespace(
                name="toy", set_tasks=lambda model, config: [SICK.set_task], choose_points=lambda val, config: []
            ),
        )
        choose_and_freeze(run, patients(0), patients(1))
        assert [s["task"] for s in frozen_sets(folder)] == (["sick"] if level else [])
        assert ("sick@set_80" in pd.read_parquet(folder.predictions("test"))) == bool(level)
        assert list(pd.read_parquet(folder.predictions("val"))) == list(patients(0))


# --- cases of several rows: recordings ---


def recordings(seed, groups=40, most=6):
    """Steps of one or two recordings of each patient, all with the label of their recording."""
    rng = np.random.default_rng(seed)
    rows = []
    for patient in range(groups):
        for k in range(int(rng.integers(1, 3))):
            label = ["N", "A", "O"][int(rng.integers(3))]
            steps = int(rng.integers(1, most))
            p = rng.dirichlet(np.ones(12), steps)
            at = {"N": "SINUS", "A": "AF", "O": "SVT"}[label]
            p[:, CLASSES.index(at)] += rng.random()
            table = pd.DataFrame(p / p.sum(axis=1, keepdims=True), columns=[f"p_{name}" for name in CLASSES])
            rows.append(table.assign(group=patient, record=f"{patient}-{k}", record_label=label, target=None))
    return pd.concat(rows, ignore_index=True)


def test_a_recording_counts_once_and_all_its_steps_have_one_set():
    labels = compose("ecg").labels
    tasks = set_tasks(["N", "A", "O"], labels)
    assert [task.name for task in tasks] == ["rhythm", "recording"]
    assert list(tasks[0].scores) == ["AF", "SINUS"]  # what O allows was taught only as a sum
    val, test = recordings(0), recordings(1)
    (sets,) = choose_sets(tasks, val, 0.8)  # no step has a label
    assert (sets["task"], sets["unit"], sets["classes"]) == ("recording", "record", ["N", "A", "O"])

    def one_row_each(table):
        """The same by hand."""
        means = table.groupby("record", sort=False)[[f"p_{name}" for name in CLASSES]].mean()
        sums = {w: means[[f"p_{name}" for name in labels.record[w]]].sum(axis=1).to_numpy() for w in sets["classes"]}
        first = table.drop_duplicates("record")
        return first[["group", "record", "record_label"]].assign(**{f"p_{w}": p for w, p in sums.items()})

    by_hand = one_row_each(val)
    for name, threshold in zip(sets["classes"], sets["thresholds"], strict=True):
        own = by_hand[by_hand["record_label"] == name]
        covered = (own[f"p_{name}"] >= threshold - 1e-12).groupby(own["group"]).mean()
        assert covered.sum() >= 0.8 * (len(covered) + 1) - 1e-9
        higher = (own[f"p_{name}"] > threshold + 1e-12).groupby(own["group"]).mean()
        assert higher.sum() < 0.8 * (len(covered) + 1)
    column = with_set_columns(test, [sets])["recording@set_80"]
    assert (column.groupby(test["record"]).nunique() == 1).all()
    metrics = judged(test, [sets], tasks).metrics
    hits = [label in text.split("|") for label, text in zip(test["record_label"], column, strict=True)]
    table = test.assign(hit=hits).drop_duplicates("record")
    weights = group_weights(table["group"], table["record_label"])
    value = metrics["test.recording.coverage@set_80"]
    assert (value.value, value.n) == (pytest.approx(np.average(table["hit"], weights=weights)), len(table))
    record, steps = next(iter(test.groupby("record")))  # as mode=predict answers, with steps of a flat line
    p = np.vstack([steps[[f"p_{name}" for name in CLASSES]].to_numpy(), np.full((2, 12), np.nan)])
    assert recording_sets(p, [sets]) == {"recording@set_80": column[test["record"] == record].iloc[0]}


def test_a_rhythm_of_a_step_counts_its_patients():
    rng = np.random.default_rng(0)
    target = np.array(["SINUS", "AF", "VT"], dtype=object)[rng.integers(0, 3, 600)]
    table = pd.DataFrame(rng.dirichlet(np.ones(12), 600), columns=[f"p_{name}" for name in CLASSES])
    table = table.assign(group=np.arange(600) // 20, record="r", target=target, record_label=None)
    table.loc[:3, "target"] = [None, "SVT", "AF", "AF"]  # unknown; never taught
    (sets,) = choose_sets(set_tasks(["SINUS", "AF", "VT"], compose("ecg").labels), table, 0.8)
    assert (sets["task"], sets["classes"]) == ("rhythm", ["AF", "SINUS", "VT"])
    assert sets["groups"] == [30, 30, 30]
    columns = set_columns(table[[f"p_{name}" for name in CLASSES]].to_numpy(), [sets])
    assert list(columns) == ["rhythm@set_80"]
    assert columns.equals(with_set_columns(table, [sets])[["rhythm@set_80"]])


def test_one_taught_label_is_no_question():
    assert set_tasks(["SINUS"], compose("ecg").labels) == []


# --- every study ---

MODELS = {
    "skin": {"classes": ["benign/naevus", "malignant/melanoma"]},
    "ecg": {"architecture": {"filters": 8, "drop_rate": 0, "mean": 0, "std": 1, "trained": CLASSES, "classes": []}},
}
ASKED = {
    "retinopathy": {"grade", "referable", "moderate_or_worse"},
    "skin": {"class"},
    "head_ct": {"critical", "silver_4"},
    "camelyon": {"tumor"},
    "ecg": {"rhythm", "recording"},
    "covid_flannel": {"class"},
}


@pytest.mark.parametrize("study", STUDIES)
def test_the_level_works_in_every_study(study):
    config = compose(study)
    assert config.conformal.level == 0.9
    tasks = study_of(study).set_tasks(MODELS.get(study, {}), config)
    assert {task.name for task in tasks} == ASKED[study]
    assert all(len(task.classes) > 1 for task in tasks)
