"""Rates at both levels against sklearn and plain loops; AUROC, averages, recordings, chance, the prediction table."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from conftest import compose
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import precision_recall_fscore_support, roc_auc_score

from pipelines.ecg import metrics
from pipelines.ecg.config import CLASSES
from pipelines.ecg.metrics import SCORES, cells, model_metrics, rate_estimates, rates, recording_metrics
from pipelines.ecg.taught import taught
from pipelines.shared.stats.bootstrap import Bootstrap

BOOTSTRAP = Bootstrap(200, 0, 0.95)


def made_up(windows=60, steps=7, seed=0, classes=5):
    rng = np.random.default_rng(seed)
    truth = np.repeat(rng.integers(0, classes, windows), steps)
    change = rng.random(len(truth)) < 0.2
    truth[change] = rng.integers(0, classes, change.sum())
    p = rng.dirichlet(np.ones(12), len(truth)) + 0.3 * (truth[:, None] == np.arange(12))
    p /= p.sum(axis=1, keepdims=True)
    ids = np.repeat([f"w{i}" for i in range(windows)], steps)
    table = pd.DataFrame({"id": ids, "group": [f"g{int(i[1:]) // 2}" for i in ids], "record": ids})
    table["step"] = np.tile(np.arange(steps), windows)
    table["target"] = np.array(CLASSES, dtype=object)[truth]
    table["record_label"] = None
    return pd.concat([table, pd.DataFrame(p, columns=SCORES)], axis=1)


@given(st.integers(0, 10_000), st.integers(2, 12))
@settings(max_examples=25, deadline=None)
def test_sequence_rates_are_sklearns(seed, classes):
    table = made_up(12, 5, seed, classes)
    truth, answer = metrics.codes_of(table["target"]), metrics.answers(table)
    found = rates(
        cells(truth, answer, table["id"].to_numpy(), table["group"].to_numpy(), "sequence").counts.sum(axis=0)
    )
    ppv, sensitivity, f1, _ = precision_recall_fscore_support(truth, answer, labels=range(12), zero_division=np.nan)
    for column, expected in ((0, f1), (1, ppv), (2, sensitivity)):
        there = ~np.isnan(found[:, column])
        assert np.allclose(found[there, column], expected[there])
    for i in range(12):
        negative = truth != i
        if negative.any():
            assert found[i, 3] == pytest.approx((answer[negative] != i).mean())
        if (answer != i).any():
            assert found[i, 4] == pytest.approx((truth[answer != i] != i).mean())


@pytest.mark.slow
@given(st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_set_level_is_the_set_of_distinct_rhythms(seed):
    table = made_up(10, 6, seed, 4)
    truth, answer = metrics.codes_of(table["target"]), metrics.answers(table)
    counts = cells(truth, answer, table["id"].to_numpy(), table["group"].to_numpy(), "set").counts.sum(axis=0)
    for i in range(12):
        expected = [0, 0, 0, 0]
        for name in table["id"].unique():
            rows = (table["id"] == name).to_numpy()
            there, said = i in set(truth[rows]), i in set(answer[rows])
            expected[{(1, 1): 0, (0, 1): 1, (1, 0): 2, (0, 0): 3}[there, said]] += 1
        assert counts[i].tolist() == expected


def test_duration_matters_at_sequence_level_only():
    truth = np.array([7] * 9 + [0])
    answer = np.array([7] * 5 + [0] * 5)
    window, group = np.zeros(10), np.zeros(10)
    set_level = rates(cells(truth, answer, window, group, "set").counts.sum(axis=0))
    assert set_level[0, 0] == set_level[7, 0] == 1
    assert rates(cells(truth, answer, window, group, "sequence").counts.sum(axis=0))[0, 0] == pytest.approx(1 / 3)


def test_averages_are_sklearns_and_intervals_resample_patients():
    table = made_up(classes=6)
    truth, answer = metrics.codes_of(table["target"]), metrics.answers(table)
    found = model_metrics(table, BOOTSTRAP, areas=True)
    for average in ("weighted",):
        expected = precision_recall_fscore_support(truth, answer, average=average, zero_division=0)
        assert found[average, "f1_sequence"].value == pytest.approx(expected[2])
        assert found[average, "ppv_sequence"].value == pytest.approx(expected[0])
    present = precision_recall_fscore_support(
        truth, answer, labels=sorted(set(truth)), average="macro", zero_division=0
    )
    assert found["macro", "f1_sequence"].value == pytest.approx(present[2])
    estimate = found["weighted", "f1_sequence"]
    assert estimate.groups == 30
    assert estimate.n == estimate.positives == len(table)
    assert estimate.low < estimate.value < estimate.high
    assert found["VT", "f1_sequence"].reason or found["VT", "f1_sequence"].value == 0
    areas = [roc_auc_score(truth == i, table[SCORES[i]]) for i in range(6)]
    assert [found[c, "auroc_sequence"].value for c in CLASSES[:6]] == pytest.approx(areas)
    share = np.bincount(truth, minlength=6)[:6]
    assert found["weighted", "auroc_sequence"].value == pytest.approx((np.array(areas) * share).sum() / share.sum())
    there, best, _ = metrics.level_scores(table, "set")
    by_hand = table.groupby("id")[SCORES].max().sort_index().to_numpy()
    assert np.allclose(best, by_hand)
    assert found["AF", "auroc_set"].value == pytest.approx(roc_auc_score(there[:, 0], best[:, 0]))


@pytest.mark.slow
def test_a_bootstrap_by_hand_gives_the_same_interval():
    from pipelines.shared.stats.bootstrap import cluster_counts

    table = made_up(20, 4)
    truth, answer = metrics.codes_of(table["target"]), metrics.answers(table)
    found = cells(truth, answer, table["id"].to_numpy(), table["group"].to_numpy(), "sequence")
    estimate = rate_estimates(found, "sequence", BOOTSTRAP)["weighted", "f1_sequence"]
    values = []
    for counts in cluster_counts(found.group, 200, 0):
        order = pd.unique(np.sort(table["id"]))
        times = dict(zip(order, counts, strict=True))
        rows = np.repeat(np.arange(len(table)), [times[i] for i in table["id"]])
        values.append(
            precision_recall_fscore_support(truth[rows], answer[rows], average="weighted", zero_division=0)[2]
        )
    assert (estimate.low, estimate.high) == pytest.approx(tuple(np.quantile(values, [0.025, 0.975])))


def test_masked_steps_count_in_no_metric():
    table = made_up(20, 4)
    before = model_metrics(table, BOOTSTRAP, areas=True)
    more = made_up(5, 4, seed=9).assign(target=None)
    more["id"] = "m" + more["id"]
    after = model_metrics(pd.concat([table, more], ignore_index=True), BOOTSTRAP, areas=True)
    assert {k: e.value for k, e in before.items()} == {k: e.value for k, e in after.items()}


def test_chance_is_what_answers_drawn_at_random_reach():
    table = made_up(4000, 5, classes=4)
    truth = metrics.codes_of(table["target"])
    drawn = np.random.default_rng(0).permutation(truth)
    expected = precision_recall_fscore_support(truth, drawn, average="weighted")[2]
    assert metrics.chance(table) == pytest.approx(expected, abs=0.01)


def test_the_challenges_score_is_the_mean_of_three():
    labels = compose("ecg").labels
    rng = np.random.default_rng(3)
    table = made_up(80, 3).assign(target=None)
    table["record"] = [f"r{int(i[1:]) // 2}" for i in table["id"]]  # a recording of two windows
    words = {f"r{i}": "NAO~"[i % 4] for i in range(40)}
    table["record_label"] = table["record"].map(words)
    table[SCORES] = rng.dirichlet(np.ones(12), len(table))
    found = recording_metrics(table, labels, BOOTSTRAP)
    mean = table.groupby("record")[SCORES].mean()
    four = pd.DataFrame({"N": mean["p_SINUS"], "A": mean["p_AF"], "~": mean["p_NOISE"]})
    four["O"] = 1 - four.sum(axis=1)
    answer, truth = four.idxmax(axis=1), pd.Series(words).reindex(four.index)
    scores = []
    for word in "NAO":
        right = ((answer == word) & (truth == word)).sum()
        scores.append(2 * right / ((answer == word).sum() + (truth == word).sum()))
        assert found[word, "f1_record"].value == pytest.approx(scores[-1])
    assert found["challenge", "f1"].value == pytest.approx(np.mean(scores))


def test_what_the_trainer_monitors():
    labels = compose("ecg").labels
    outputs = np.zeros((2, 3, 12))
    outputs[0, :, 0] = outputs[1, :, 7] = 5
    steps = np.array([[0, 0, -1, -1], [7, 0, -3, -1]], np.float32)
    assert metrics.measure(steps, outputs)["val_f1"] == pytest.approx((0.8 + 2 / 3) / 2)
    whole = np.array([[-2, -2, -2, 1], [-2, -2, -3, 0]], np.float32)  # A and N
    assert metrics.measure(whole, outputs, labels)["val_f1"] == 1
    assert np.isnan(metrics.measure(np.full((2, 4), -1.0), outputs)["val_f1"])


def test_the_prediction_table_has_one_row_per_real_step():
    records = pd.DataFrame(
        {
            "id": ["a@0000", "a@0001", "b"], "record": ["a", "a", "b"], "group": ["p", "p", "q"], "start": [0, 2, 0],
            "rhythms": ["AF:4", ".:2 ?:1 VT:1", "-:3"], "record_label": [None, None, "O"], "steps": 4,
        }
    )  # fmt: skip
    p = np.random.default_rng(0).dirichlet(np.ones(12), (3, 4))
    table = metrics.prediction_table(records, p)
    assert table["step"].tolist() == [0, 1, 2, 3, 4, 5, 0, 1, 2]
    assert [t if isinstance(t, str) else None for t in table["target"]] == ["AF"] * 4 + [None, "VT"] + [None] * 3
    assert np.allclose(table[SCORES].to_numpy()[4:6], p[1, 2:])
    assert table["record_label"].isna().tolist() == [True] * 6 + [False] * 3


def test_a_class_that_nothing_taught_has_no_probability_and_is_never_the_answer():
    p = np.full((2, 3, 12), 1 / 11)
    p[..., CLASSES.index("EAR")] = 0
    columns = metrics.predict_columns(p)
    assert columns["p_EAR"].isna().all()
    assert columns.drop(columns="p_EAR").notna().all(axis=None)
    table = made_up()
    expected = metrics.answers(table.assign(p_VT=0.0))
    nothing = table.assign(p_VT=np.nan)
    assert (metrics.answers(nothing) == expected).all()
    areas = model_metrics(nothing, BOOTSTRAP, areas=True)
    assert all(estimate.value is None or np.isfinite(estimate.value) for estimate in areas.values())


def test_classes_that_only_a_sum_taught_have_one_answer_together():
    labels = compose("ecg", "+labels.record={X: [VT, IVR], Y: [IVR, EAR], Z: [SVT, AF]}").labels
    p = np.random.default_rng(0).dirichlet(np.ones(12), 5)
    everything = taught(CLASSES, labels)
    assert everything.names == CLASSES
    assert not everything.missing
    assert (everything.answers(p) == p).all()
    found = taught(["SINUS", "A", "X", "Y", "Z"], labels)
    assert found.names == ["AF", "SINUS", "X/Y", "Z"]
    at = {name: CLASSES.index(name) for name in CLASSES}
    assert found.answers(p)[:, 2] == pytest.approx(p[:, [at["VT"], at["IVR"], at["EAR"]]].sum(axis=1))
    assert found.answers(p)[:, 3] == pytest.approx(p[:, at["SVT"]]), "AF is an answer of its own"
    assert found.missing["SVT"] == "training taught it only as part of Z"
    assert np.isnan(found.answers(np.full((1, 12), np.nan))).all()


def test_an_evaluation_answers_as_a_prediction_does_with_the_sum_where_it_is_the_most_probable():
    known = taught(["N", "A", "O", "~"], compose("ecg").labels)
    p = np.full((3, len(CLASSES)), 0.06)  # nine that only their sum was taught, 0.54 together
    for row, (sinus, af) in zip(p, [(0.3, 0.1), (0.6, 0.1), (0.1, 0.7)], strict=True):
        row[[CLASSES.index(name) for name in ("SINUS", "AF", "NOISE")]] = sinus, af, 0.01
    p[1] /= p[1].sum()  # 0.48 sinus rhythm, 0.43 the nine
    table = pd.DataFrame(p, columns=SCORES)
    assert [CLASSES[code] for code in metrics.answers(table)] == ["SINUS", "SINUS", "AF"]
    said = [CLASSES[code] for code in metrics.answers(metrics.answered(table, known))]
    assert said[1:] == ["SINUS", "AF"]
    assert said[0] in known.missing
    alone = taught(CLASSES, compose("ecg").labels)
    assert (metrics.answers(metrics.answered(table, alone)) == metrics.answers(table)).all()


def test_what_training_never_taught_is_undefined_with_its_reason():
    labels = compose("ecg").labels
    found = taught(["VT", "N", "A", "O"], labels)
    missing = found.missing
    assert found.names == ["AF", "SINUS", "VT", "O"]
    assert missing["NOISE"] == "no training record has it"
    assert missing["BIGEMINY"] == "training taught it only as part of O"
    assert not {"AF", "SINUS", "VT"} & set(missing)
    before = model_metrics(made_up(classes=12), BOOTSTRAP, areas=False)
    after = metrics.without(before, missing)
    for (name, what), estimate in after.items():
        if name in missing:
            assert estimate.value is None
            assert estimate.reason == missing[name]
            assert estimate.positives == before[name, what].positives
        else:
            assert estimate == before[name, what]
