"""Who learns from whom: nobody's label touches their own prediction."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import compose, run_on_cpu, toy_prepared
from safetensors.numpy import load_file

from pipelines.covid_flannel.config import CLASSES
from pipelines.covid_flannel.method import stacked
from pipelines.covid_flannel.protocol import FIXED, divide, fold_numbers, roles
from pipelines.covid_flannel.stage1 import key_of
from pipelines.covid_flannel.study import STUDY
from pipelines.shared.data.ranges import KEY as RANGES
from pipelines.shared.data.records import Source
from pipelines.shared.errors import ConfigError, DataError, RunError
from pipelines.shared.run import FinishedRun
from pipelines.shared.run_folder import RunFolder
from pipelines.shared.study import Data

TINY = [
    "base_learners.efficientnet=null", "base_learners.resnet=null", "base_learners.vovnet=null",
    "base_learners.darknet=null", "base_learners.mobilenet.crop=32", "preprocess.size=32", "trainer.epochs=1",
    "trainer.batch_size=16", "trainer.device=cpu", "trainer.warmup_epochs=0", "ensemble.epochs=5",
]  # fmt: skip


def make_records(patients: int = 48, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    rows = []
    for patient in range(patients):
        for shot in range(int(rng.integers(1, 4))):
            label = CLASSES[patient % 4]
            rows.append(
                {"id": f"{patient}-{shot}", "group": f"p{patient}", "source_group": f"p{patient}", "split": None,
                 "label": label, "stratum": 3 - CLASSES.index(label), "source": "ccx" if patient % 3 else "kcx",
                 "fingerprint": f"f{patient}-{shot}"}
            )  # fmt: skip
    return pd.DataFrame(rows)


def test_a_fold_that_there_is_not_is_refused_with_the_data():
    records = make_records(patients=16)  # four patients of each class
    with pytest.raises(ConfigError, match="folds: 4 is not there"):
        divide(records, compose("covid_flannel", "folds=[0,4]"))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("official", [False, True])
def test_no_patient_is_in_two_parts_of_a_fold(seed, official):
    config = compose("covid_flannel", f"seed={seed}")
    records = make_records(seed=seed)
    if official:
        records.loc[records["group"].isin([f"p{i}" for i in range(8)]), "split"] = "test"
    divided = divide(records, config)
    assert divided.groupby("group")["fold"].nunique().max() == 1
    tested = []
    for fold in fold_numbers(divided):
        parts = roles(divided, fold, config)
        groups = {name: set(divided[mask]["group"]) for name, mask in parts.items()}
        for a, b in itertools.combinations(groups, 2):
            assert not groups[a] & groups[b], (fold, a, b)
        assert all(set(divided[mask]["label"]) == set(CLASSES) for mask in parts.values())
        tested += divided[parts["test"]]["id"].tolist()
    if official:
        assert set(tested) == set(records[records["split"] == "test"]["id"])
        assert set(divided["split"]) == {"train", "test"}
    else:
        assert sorted(tested) == sorted(records["id"])
        assert set(divided["split"]) == {"test"}


def test_the_released_protocol_shares_patients_and_stacks_in_sample():
    config = compose("covid_flannel", "protocol=released")
    divided = divide(make_records(), config)
    parts = roles(divided, 0, config)
    assert (parts["stack"] == parts["train"]).all()
    assert (divided["fold"] == FIXED).mean() == pytest.approx(0.2, abs=0.02)
    assert set(divided[parts["train"]]["group"]) & set(divided[parts["test"]]["group"])
    assert all((roles(divided, k, config)["test"] == parts["test"]).all() for k in range(5))


def test_fewer_patients_mean_fewer_folds_or_a_reason():
    config = compose("covid_flannel")
    records = make_records()
    covid = records[records["label"] == "covid19"]["group"].unique()
    few = records[~records["group"].isin(covid[4:])]
    assert len(fold_numbers(divide(few, config))) == 4
    with pytest.raises(DataError, match="covid19 3; at least 4"):
        divide(records[~records["group"].isin(covid[3:])], config)
    with pytest.raises(DataError, match="only covid19"):
        divide(records[records["label"] == "covid19"], config)


def test_fewer_training_patients_are_part_of_the_more():
    records = divide(make_records(), compose("covid_flannel"))
    small, large = (roles(records, 0, compose("covid_flannel", f"data.train_size={n}"))["train"] for n in (8, 16))
    assert records[small]["group"].nunique() == 8
    assert not (small & ~large).any()


# --- what touches what ---


def toy_data(records: pd.DataFrame, seed: int = 0) -> Data:
    rng = np.random.default_rng(seed)
    arrays = rng.integers(0, 80, (len(records), 32, 32, 1)).astype(np.uint8)
    for i, label in enumerate(records["label"]):
        arrays[i, 8 * CLASSES.index(label) : 8 * CLASSES.index(label) + 8] += 90
    flow = {"source": "toy", "split_fingerprint": "x"}
    return Data(Source("toy", True, None, records, "patient"), records, toy_prepared(arrays), flow)  # type: ignore[arg-type]


def run(tmp_path, name, data, *overrides):
    folder = RunFolder(tmp_path / name)
    folder.path.mkdir()
    config = compose("covid_flannel", *TINY, f"cache.dir={tmp_path}", *overrides)
    STUDY.method(config).fit(run_on_cpu(STUDY, config, folder), data)
    return folder


def weights(folder: RunFolder, name: str) -> dict[str, np.ndarray]:
    return load_file(folder.network(name) / "weights.safetensors")


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all((a[k] == b[k]).all() for k in a)


@pytest.mark.slow
def test_no_label_of_a_test_patient_touches_a_prediction(tmp_path):
    """Fold 0 with its test patients' labels turned round: the same networks, weights, thresholds, predictions, bit for
    bit. With the stacking patients' labels turned round: the same base predictions, another ensemble.
    """
    config = compose("covid_flannel", *TINY)
    records = divide(make_records(), config)
    parts = roles(records, 0, config)
    turned = {"covid19": "normal", "viral": "bacterial", "bacterial": "viral", "normal": "covid19"}
    plain = toy_data(records)
    found = {"plain": run(tmp_path, "plain", plain, "folds=[0]")}
    for part in ("test", "stack"):
        label = records["label"].where(~parts[part], records["label"].map(turned))
        changed = replace(plain, records=records.assign(label=label))
        found[part] = run(tmp_path, part, changed, "folds=[0]")
    base = [pd.read_parquet(f.path / "stage1" / "fold_0-mobilenet" / "predictions.parquet") for f in found.values()]
    pd.testing.assert_frame_equal(base[0], base[1], check_exact=True)
    pd.testing.assert_frame_equal(base[0], base[2], check_exact=True)
    for name in ("fold_0-mobilenet", "fold_0-flannel", "fold_0-constant"):
        assert same(weights(found["plain"], name), weights(found["test"], name)), name
    assert not same(weights(found["plain"], "fold_0-flannel"), weights(found["stack"], "fold_0-flannel"))
    assert found["plain"].operating_points.read_text() == found["test"].operating_points.read_text()
    tables = [pd.read_parquet(found[k].predictions("test")).drop(columns="label") for k in ("plain", "test")]
    pd.testing.assert_frame_equal(*tables, check_exact=True)
    tested = pd.read_parquet(found["plain"].predictions("test"))
    assert set(tested["id"]) == set(records[parts["test"]]["id"])
    validated = pd.read_parquet(found["plain"].predictions("val"))
    assert set(validated["id"]) == set(records[parts["stack"]]["id"])


@pytest.mark.slow
def test_no_picture_outside_its_part_touches_a_base_learner(tmp_path):
    """Other pictures of stacking and test patients leave the base learner as it is, and the ranges of training."""
    config = compose("covid_flannel", *TINY)
    records = divide(make_records(), config)
    parts = roles(records, 1, config)
    data = toy_data(records)
    arrays = np.stack([data.prepared.array(i) for i in range(len(records))])
    arrays[parts["test"] | parts["stack"]] = 255 - arrays[parts["test"] | parts["stack"]]
    other = replace(data, prepared=toy_prepared(arrays))
    a, b = run(tmp_path, "a", data, "folds=[1]"), run(tmp_path, "b", other, "folds=[1]")
    assert same(weights(a, "fold_1-mobilenet"), weights(b, "fold_1-mobilenet"))
    assert not same(weights(a, "fold_1-flannel"), weights(b, "fold_1-flannel"))
    known = [json.loads((f.network("fold_1-mobilenet") / "model.json").read_text())[RANGES] for f in (a, b)]
    assert known[0] == known[1]
    assert known[0]["records"] == parts["train"].sum()


def test_stacking_takes_a_record_of_its_own_part_only():
    p = {f"p_{c}": [0.1, 0.2] for c in CLASSES}
    base = [pd.DataFrame({"id": ["a", "b"], "role": ["stack", "test"]} | p)]
    assert stacked(base, np.array(["a"]), "stack").shape == (1, 1, 4)
    with pytest.raises(KeyError):
        stacked(base, np.array(["b"]), "stack")


@pytest.mark.slow
def test_a_class_that_training_lacks_is_null_in_both_stages_and_for_other_pictures(tmp_path):
    """A fixed test part has the only COVID-19: no fold is taught it, the other three share the whole probability."""
    records = make_records()
    records.loc[records["label"] == "covid19", "split"] = "test"
    config = compose("covid_flannel", *TINY, f"cache.dir={tmp_path}")
    data = toy_data(divide(records, config))
    folder = run(tmp_path, "run", data, "folds=[0]")
    why = {"covid19": "no training record has it"}
    models = {p.name: json.loads((p / "model.json").read_text()) for p in folder.networks()}
    assert {name: m["untaught"] for name, m in models.items()} == dict.fromkeys(models, why)
    files = replace(data, records=data.records[["id"]])
    answer = STUDY.method(config).answer(run_on_cpu(STUDY, config, folder), FinishedRun(folder, models, []), files)
    tables = {split: pd.read_parquet(folder.predictions(split)) for split in ("val", "test")} | {"answer": answer}
    for name, table in tables.items():
        null = [c for c in table if c.endswith((".covid19", "p_covid19"))]
        assert len(null) == 5, "FLANNEL, the base learner, averaging, voting, constant weights"
        assert table[null].isna().all(axis=None), name
        for method in ("p_", "mobilenet.", "average.", "voting.", "constant."):
            three = table[[f"{method}{c}" for c in CLASSES if c != "covid19"]]
            assert three.sum(axis=1).to_numpy() == pytest.approx(1), (name, method)
        assert set(table["class_predicted"]) <= set(CLASSES) - {"covid19"}
    assert (tables["test"]["label"] == "covid19").all()
    assert json.loads(folder.operating_points.read_text()) == []


# --- stage 1 on disk ---


@pytest.mark.slow
def test_a_changed_stage_two_retrains_nothing_and_parts_are_collected(tmp_path, monkeypatch):
    config = compose("covid_flannel", *TINY)
    records = divide(make_records(), config)
    data = toy_data(records)
    whole = run(tmp_path, "whole", data)
    parts = tmp_path / "parts"
    parts.mkdir()
    for k in (0, 1):
        run(parts, f"part{k}", data, f"folds=[{k}]")
    trained: list[str] = []
    from pipelines.covid_flannel import stage1

    original = stage1.fit_network

    def counting(*arguments):
        trained.append(arguments[3])
        original(*arguments)

    monkeypatch.setattr(stage1, "fit_network", counting)
    again = run(tmp_path, "again", data, f"stage1={whole.path}", "ensemble.gamma=0.0")
    assert trained == []
    assert len(again.networks()) == len(whole.networks()) == 15
    assert len(pd.read_csv(again.history)) == len(pd.read_csv(whole.history))
    collected = run(tmp_path, "collected", data, f"stage1={parts}")
    assert trained == ["fold_2-mobilenet", "fold_3-mobilenet", "fold_4-mobilenet"]
    tables = [pd.read_parquet(f.predictions("test")) for f in (whole, collected)]
    pd.testing.assert_frame_equal(*tables, check_exact=True)
    left_out = [p for p in tables[0] if p.startswith("p_")]
    assert (pd.read_parquet(again.predictions("test"))[left_out] != tables[0][left_out]).any().any()

    for change, named in (("seed=5", "seed: 0, here 5"), ("trainer.epochs=3", "trainer")):
        with pytest.raises(RunError, match="belong to another run") as mistake:
            run(tmp_path, change, data, f"stage1={whole.path}", change)
        assert named in str(mistake.value)
    key = whole.path / "stage1" / "fold_0-mobilenet" / "key.json"
    content = json.loads(key.read_text())
    key.write_text(json.dumps(content | {"classes": CLASSES[::-1]}))
    with pytest.raises(RunError, match="classes"):
        run(tmp_path, "order", data, f"stage1={whole.path}")
    key.write_text(json.dumps(content))
    moved = records.assign(fold=(records["fold"] + 1) % 5)
    with pytest.raises(RunError, match="train"):
        run(tmp_path, "split", toy_data(moved), f"stage1={whole.path}")
    with pytest.raises(RunError, match="holds base learners"):
        run(tmp_path, "nothing", data, f"stage1={tmp_path / 'absent'}")
    (whole.network("fold_1-mobilenet") / "weights.safetensors").unlink()
    with pytest.raises(RunError, match=r"fold_1-mobilenet lacks weights\.safetensors") as mistake:
        run(tmp_path, "without weights", data, f"stage1={whole.path}")
    assert "Copy the whole run folder again" in mistake.value.remedy


@pytest.mark.slow
def test_an_interrupted_stage_one_goes_on_where_it_stopped(tmp_path, monkeypatch):
    config = compose("covid_flannel", *TINY)
    data = toy_data(divide(make_records(), config))
    whole = run(tmp_path, "whole", data)
    from pipelines.covid_flannel import stage1

    original, names = stage1.fit_network, []

    def failing(*arguments):
        names.append(arguments[3])
        if len(names) == 3:
            raise KeyboardInterrupt
        original(*arguments)

    monkeypatch.setattr(stage1, "fit_network", failing)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, "cut", data)
    folder = RunFolder(tmp_path / "cut")
    full = compose("covid_flannel", *TINY, f"cache.dir={tmp_path}")
    STUDY.method(full).fit(run_on_cpu(STUDY, full, folder), data)
    assert names == [f"fold_{k}-mobilenet" for k in (0, 1, 2, 2, 3, 4)]
    tables = [pd.read_parquet(f.predictions("test")) for f in (whole, folder)]
    pd.testing.assert_frame_equal(*tables, check_exact=True)


def test_base_learners_from_before_calibration_are_still_those_of_a_run_without():
    config = compose("covid_flannel")
    records = divide(make_records(), config)
    data = Data(Source("table", False, Path(), records, "patient"), records, toy_prepared(np.zeros((1, 1))), {})
    key = key_of(config, data, 0, "resnet")
    assert "calibration" not in key
    other = compose("covid_flannel", "calibration.temperature=true")
    assert key_of(other, data, 0, "resnet") == key | {"calibration": {"temperature": True}}
