"""Runs compared: what may be compared, what the differences are, what is refused and why."""

from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_runs import make_run

from pipelines.compare.command import main
from pipelines.compare.pairs import holm, paired_differences, why_not
from pipelines.compare.readings import read_metric
from pipelines.compare.runs import differing_keys, read_runs
from pipelines.shared.errors import RunError
from pipelines.shared.stats.auc import auroc


def runs_of(*folders):
    return read_runs(list(folders))[0]


# --- what may be compared ---


def test_what_may_be_compared_and_what_not(tmp_path):
    cases = {
        "other split: 100 test records in common": {"first": 10},
        "other data: no test record in common": {"first": 500},
        "other data: the same ids with other content": {"content": "changed"},
        "other classes: 2 are answered by one run only": {"classes": ["a", "b", "d"]},
        "other classes: another order": {"classes": ["b", "a", "c"]},
        "other headline metrics": {"kind": "matrix"},
        "other studies": {"study": "skin"},
    }
    base = make_run(tmp_path / "base")
    for i, (words, changes) in enumerate(cases.items()):
        other = make_run(tmp_path / f"other{i}", **changes)
        a, b = runs_of(base, other)
        assert why_not(a, b).startswith(words)
        assert why_not(b, a).split(":")[0] == words.split(":")[0]
    a, b = runs_of(base, make_run(tmp_path / "same", skill=2, noise=1, seed=3))
    assert why_not(a, b) is None


def test_other_labels_for_the_same_records_are_refused(tmp_path):
    pairs, refused = paired_differences(
        runs_of(make_run(tmp_path / "a"), make_run(tmp_path / "b", relabel=3)), None, 100, 0, 0.95
    )
    assert not pairs
    assert "other reference labels" in refused[0].reason


def test_runs_of_two_studies_are_not_mentioned_as_pairs(tmp_path):
    runs = runs_of(make_run(tmp_path / "a"), make_run(tmp_path / "b", study="skin"))
    assert paired_differences(runs, None, 100, 0, 0.95) == ([], [])


# --- differences ---


@pytest.mark.parametrize("kind", ["auroc", "matrix"])
def test_readings_give_the_value_of_the_file_and_brute_force_on_resamples(tmp_path, kind):
    run = runs_of(make_run(tmp_path / "a", kind=kind))[0]
    reading = read_metric(run, run.headline)
    test = run.test
    rng = np.random.default_rng(0)
    for _ in range(5):
        counts = rng.integers(0, 3, len(test))
        rows = test.iloc[np.repeat(np.arange(len(test)), counts)]
        if kind == "auroc":
            expected = auroc(rows["referable"], rows["p_referable"])
        else:
            answer = rows[["p_a", "p_b", "p_c"]].to_numpy().argmax(axis=1)
            right = np.array(["a", "b", "c"])[answer] == rows["label"].to_numpy(str)
            expected = pd.Series(right).groupby(rows["label"].to_numpy()).mean().mean()
        assert reading.statistic(counts[None].astype(np.uint8))[0] == pytest.approx(expected, abs=1e-12)


def test_a_metric_that_the_columns_do_not_give_is_not_guessed(tmp_path):
    folder = make_run(tmp_path / "a")
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["metrics"]["test.referable.auroc"]["value"] += 0.001
    (folder / "metrics.json").write_text(json.dumps(metrics))
    run = runs_of(folder)[0]
    assert "cannot be found again" in read_metric(run, run.headline)


@pytest.mark.slow
def test_differences_of_a_matrix_metric_agree_with_brute_force(tmp_path):
    """The same resamples of patients, drawn one by one; both runs recomputed on each."""
    a, b = runs_of(
        make_run(tmp_path / "a", kind="matrix", skill=2), make_run(tmp_path / "b", kind="matrix", skill=0.7, noise=1)
    )
    (pair,), _ = paired_differences([a, b], None, 400, 3, 0.9)
    people = sorted(set(a.test["group"]))
    rows = {p: np.flatnonzero((a.test["group"] == p).to_numpy()) for p in people}

    def value(run, at):
        part = run.test.iloc[at]
        right = part[["p_a", "p_b", "p_c"]].to_numpy().argmax(axis=1) == np.searchsorted(["a", "b", "c"], part["label"])
        return pd.Series(right).groupby(part["label"].to_numpy()).mean().mean()

    rng = np.random.default_rng(3)
    drawn = rng.integers(len(people), size=(400, len(people)))
    differences = []
    for choice in drawn:
        at = np.concatenate([rows[people[i]] for i in choice])
        differences.append(value(a, at) - value(b, at))
    differences = np.array(differences)
    found = pair.comparison
    assert found.difference.value == pytest.approx(value(a, range(len(a.test))) - value(b, range(len(a.test))))
    low, high = np.quantile(differences, [0.05, 0.95])
    assert (found.difference.low, found.difference.high) == pytest.approx((low, high))
    side = min((differences <= 0).sum(), (differences >= 0).sum())
    assert found.p_value == pytest.approx(min(1, 2 * (side + 1) / 401))


def test_aurocs_are_compared_by_the_clustered_test(tmp_path):
    a, b = runs_of(make_run(tmp_path / "a", skill=3), make_run(tmp_path / "b", skill=0.3, noise=1))
    (pair,), _ = paired_differences([a, b], None, 100, 0, 0.95)
    assert "Obuchowski" in pair.comparison.difference.method
    assert pair.comparison.difference.value > 0
    assert pair.adjusted == pair.comparison.p_value < 0.05
    (turned,), _ = paired_differences([a, b], b, 100, 0, 0.95)
    assert (turned.first.name, turned.second.name) == ("b", "a")
    assert turned.comparison.difference.value == pytest.approx(-pair.comparison.difference.value)


@pytest.mark.slow
@settings(max_examples=50, deadline=None)
@given(st.lists(st.one_of(st.none(), st.floats(0, 1)), max_size=8))
def test_holm_by_its_definition(p_values):
    """Reject, from the smallest p upwards, while p <= alpha / (number left); adjusted p is the least such alpha."""
    adjusted = holm(p_values)
    known = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    for alpha in (0.01, 0.05, 0.2, 0.7):
        rejected = set()
        for rank, (p, i) in enumerate(known):
            if p * (len(known) - rank) > alpha:
                break
            rejected.add(i)
        assert {i for i, q in enumerate(adjusted) if q is not None and q <= alpha} == rejected
    assert [q is None for q in adjusted] == [p is None for p in p_values]


def test_keys_that_differ_leave_out_where_a_run_lies(tmp_path):
    a, b = runs_of(make_run(tmp_path / "a"), make_run(tmp_path / "b", seed=1, keys={"model.backbone": "lenet"}))
    assert differing_keys([a, b]) == {"seed": [0, 1], "model.backbone": [None, "lenet"]}


def test_runs_from_before_a_key_are_those_in_which_it_is_off(tmp_path):
    off = {"track": "mlflow", "conformal.level": 0.9, "calibration.prior": False, "recalibrate": None, "trial": False}
    a, b = runs_of(make_run(tmp_path / "a"), make_run(tmp_path / "b", seed=1, keys=off))
    assert differing_keys([a, b]) == {"seed": [0, 1]}
    a, b = runs_of(make_run(tmp_path / "c"), make_run(tmp_path / "d", keys={"calibration.prior": True}))
    assert differing_keys([a, b]) == {"calibration.prior": [None, True]}


# --- bad input: all at once, in words ---


def test_all_that_is_wrong_is_said_at_once(tmp_path):
    missing = make_run(tmp_path / "missing")
    (missing / "predictions" / "test.parquet").unlink()
    old = make_run(tmp_path / "old")
    metrics = json.loads((old / "metrics.json").read_text())
    (old / "metrics.json").write_text(json.dumps(metrics | {"schema": 0}))
    broken = make_run(tmp_path / "broken")
    (broken / "metrics.json").write_text("{")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError) as failure:
        read_runs([missing, old, broken, tmp_path / "empty", tmp_path / "nowhere"])
    said = str(failure.value)
    for words in (
        "5 problems", "predictions/test.parquet missing", "schema 0, this version reads 1",
        "metrics.json cannot be read", "holds no config.yaml", "no such folder",
    ):  # fmt: skip
        assert words in said
    for key in ("reference", "splits", "study"):
        lacking = {k: v for k, v in metrics.items() if k != key}
        (broken / "metrics.json").write_text(json.dumps(lacking))
        with pytest.raises(RunError, match=f"lacks keys of its schema .KeyError: '{key}'"):
            read_runs([broken])
    estimates = {key: fields | {"vaule": 0.5} for key, fields in metrics["metrics"].items()}
    (broken / "metrics.json").write_text(json.dumps(metrics | {"metrics": estimates}))
    with pytest.raises(RunError, match="unexpected keyword argument 'vaule'"):
        read_runs([broken])
    damaged = make_run(tmp_path / "damaged")
    (damaged / "records.parquet").write_bytes(b"not a table")
    with pytest.raises(RunError, match=r"records\.parquet cannot be read"):
        read_runs([damaged])
    unnamed = make_run(tmp_path / "unnamed")
    table = pd.read_parquet(unnamed / "records.parquet")
    table.rename(columns={"fingerprint": "fingerprnit"}).to_parquet(unnamed / "records.parquet")
    with pytest.raises(RunError, match=r"records\.parquet has no column fingerprint"):
        read_runs([unnamed])
    with pytest.raises(RunError, match="given twice"):
        read_runs([make_run(tmp_path / "a"), tmp_path / "a"])


def test_a_sweep_with_failed_jobs_is_refused_or_named(tmp_path):
    sweep = tmp_path / "sweep"
    make_run(sweep / "0-0123abcd")
    make_run(sweep / "3-0123abcf", skill=2)
    failed = make_run(sweep / "1-0123abce")
    (failed / "metrics.json").unlink()
    with pytest.raises(RunError) as failure:
        read_runs([sweep])
    assert "job 2 of the sweep left no folder" in str(failure.value)
    assert "1-0123abce: metrics.json missing" in str(failure.value)
    runs, left_out = read_runs([sweep], skip_unfinished=True)
    assert [r.name for r in runs] == ["sweep/0-0123abcd", "sweep/3-0123abcf"]
    assert len(left_out) == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--resamples", "10"], "at least 100"),
        (["--level", "95"], "out of range"),
        (["--against", "bse"], "Did you mean base"),
        (["--out", "{folder}"], "not empty"),
    ],
)
def test_mistakes_are_two_lines(tmp_path, arguments, words, capsys):
    folder = make_run(tmp_path / "base")
    out = ["--out", str(tmp_path / "out")] if "--out" not in arguments else []
    with pytest.raises(SystemExit) as stop:
        main([str(folder), *[a.format(folder=folder) for a in arguments], *out])
    said = capsys.readouterr().err
    assert stop.value.code == 2
    assert words in said
    assert len(said.strip().splitlines()) == 2


# --- the page ---


@pytest.mark.slow
def test_the_page_and_the_tables(tmp_path, capsys):
    folders = [
        make_run(tmp_path / "a", skill=2), make_run(tmp_path / "b", skill=0.5, noise=1, keys={"model.x": 1}),
        make_run(tmp_path / "c", skill=2, seed=1, first=10), make_run(tmp_path / "d", study="skin", kind="matrix"),
    ]  # fmt: skip
    main([*map(str, folders), "--resamples", "100", "--out", str(tmp_path / "out")])
    said = capsys.readouterr().out
    assert said.strip().splitlines()[-1] == str(tmp_path / "out" / "report.html")
    page = (tmp_path / "out" / "report.html").read_text()
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page)
    assert "other split" in page
    assert "Synthetic" in page or "synthetic" in page
    differences = pd.read_csv(tmp_path / "out" / "differences.csv")
    assert len(differences) == 3
    assert differences["p_holm"].notna().sum() == 1
    assert len(pd.read_csv(tmp_path / "out" / "runs.csv")) == 4
    seeds = pd.read_csv(tmp_path / "out" / "seeds.csv")
    values = pd.read_csv(tmp_path / "out" / "runs.csv").set_index("run")["value"]
    assert len(seeds) == 1
    assert seeds["configuration"].iloc[0] == "model.x=None"
    assert seeds["sd"].iloc[0] == pytest.approx(values[["a", "c"]].std())
