"""Whole runs: the real sample by lesion and by record, HAM10000 judged on ISIC's layout, the paper's recipe."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import cutting
import pandas as pd
import pytest
import safetensors.torch
import timm
import torch
from conftest import compose, phantom_root, real_samples, run_on_cpu, smoke
from PIL import Image

from pipelines.shared.data.assemble import training_data
from pipelines.shared.run_folder import RunFolder
from pipelines.shared.stats.bootstrap import Bootstrap
from pipelines.shared.study import Data
from pipelines.shared.validation import check
from pipelines.skin.config import SkinConfig
from pipelines.skin.learner import SkinLearner
from pipelines.skin.metrics import level_metrics, level_paths
from pipelines.skin.study import STUDY

CLASSES = {"mel": "MEL", "nv": "NV", "bcc": "BCC", "akiec": "AKIEC", "bkl": "BKL", "df": "DF", "vasc": "VASC"}
QUICK = ["trainer=smoke", "preprocess.size=64", "explain.scored=0", "explain.errors=1", "statistics.resamples=500"]


def run(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = cutting.answer("skin", *arguments)
    assert not check or done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def ham(tmp_path_factory):
    """A run of a few steps on the real sample."""
    root = real_samples("ham10000")
    folder = tmp_path_factory.mktemp("ham") / "run"
    run("data=ham10000", f"data.root={root}", *QUICK, "model.test_time=flips", f"run_dir={folder}")
    return root, folder


def isic_layout(folder: Path, records: pd.DataFrame, root: Path) -> None:
    """HAM10000's records as an ISIC 2018 Task 3 folder."""
    (folder / "ISIC2018_Task3_Test_Input").mkdir(parents=True)
    lines = [",".join(["image", *CLASSES.values()])]
    for record in records.itertuples():
        values = ["1.0" if record.label == label else "0.0" for label in CLASSES]
        lines.append(",".join([record.id, *values]))
        (folder / "ISIC2018_Task3_Test_Input" / f"{record.id}.jpg").write_bytes((root / record.path).read_bytes())
    truth = folder / "ISIC2018_Task3_Test_GroundTruth"
    truth.mkdir()
    (truth / "ISIC2018_Task3_Test_GroundTruth.csv").write_text("\n".join(lines) + "\n")


@pytest.mark.slow
def test_the_real_samples_groups_are_lesions(ham):
    _, folder = ham
    records = pd.read_parquet(folder / "records.parquet")
    assert len(records) == 821
    assert records["source_group"].nunique() == 570
    assert records.groupby("source_group")["split"].nunique().max() == 1
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["headline"] == "test.label.balanced_accuracy"
    assert metrics["source"]["groups"] <= 570
    assert metrics["reference"]["oracle"] is None
    facts = json.loads((folder / "models" / "network" / "model.json").read_text())
    assert facts["classes"][-1] == "malignant/malignant_melanoma/mel"
    assert len(facts["classes"]) == 7
    assert facts["architecture"]["test_time"] == "flips"
    assert "Split by record" not in (folder / "report.html").read_text()


@pytest.mark.slow
def test_resampling_lesions_gives_wider_intervals_than_images(ham):
    _, folder = ham
    table = pd.read_parquet(folder / "predictions" / "test.parquet")
    bootstrap = Bootstrap(1000, 0, 0.95)
    paths = level_paths(table["lineage"].tolist(), "label")
    by_lesion, _ = level_metrics(table, "label", "test", paths, [], bootstrap)
    by_image, _ = level_metrics(table.assign(group=table["id"]), "label", "test", paths, [], bootstrap)
    wide, narrow = by_lesion["test.label.accuracy"], by_image["test.label.accuracy"]
    assert wide.value == narrow.value
    assert wide.groups < narrow.groups
    assert wide.high - wide.low > 1.05 * (narrow.high - narrow.low)


@pytest.mark.slow
def test_a_split_by_record_is_said_in_the_first_lines(ham, tmp_path):
    root, folder = ham
    data = training_data(STUDY, compose("skin", "data=ham10000", f"data.root={root}", *QUICK, "split.by=record"))
    assert data.records.groupby("source_group")["split"].nunique().max() > 1
    assert any(warning.startswith("Split by record, not by group") for warning in data.flow["warnings"])
    shutil.copytree(folder, tmp_path / "r")
    flow = json.loads((folder / "flow.json").read_text())
    (tmp_path / "r" / "flow.json").write_text(json.dumps(flow | {"warnings": data.flow["warnings"]}))
    run("mode=report", f"run={tmp_path / 'r'}")
    page = (tmp_path / "r" / "report.html").read_text()
    assert page.index("Split by record, not by group") < page.index("Contents")


@pytest.mark.slow
def test_a_run_of_ham10000_is_judged_on_isics_layout(ham, tmp_path):
    root, folder = ham
    records = pd.read_parquet(folder / "records.parquet")
    test = records[records["split"] == "test"]
    isic_layout(tmp_path / "isic", test, root)
    arguments = ["mode=evaluate", f"run={folder}", "data=isic2018", f"data.root={tmp_path / 'isic'}"]
    run(*arguments, f"run_dir={tmp_path / 'judged'}")
    judged = json.loads((tmp_path / "judged" / "metrics.json").read_text())["metrics"]
    own = json.loads((folder / "metrics.json").read_text())["metrics"]
    accuracy = judged["test.label.balanced_accuracy"]
    assert accuracy["value"] == pytest.approx(own["test.label.balanced_accuracy"]["value"], abs=1e-9)
    assert accuracy["low"] < accuracy["value"] < accuracy["high"]
    for label, theirs in CLASSES.items():
        mine = own[f"test.label.sensitivity[{label}]"]["value"]
        assert judged[f"test.label.sensitivity[{theirs}]"]["value"] == pytest.approx(mine)
    assert judged["test.melanoma_vs_nevus.auroc"]["value"] == pytest.approx(
        own["test.melanoma_vs_nevus.auroc"]["value"]
    )
    assert (tmp_path / "judged" / "figures" / "roc_melanoma_vs_nevus.png").exists()
    assert "partly external" in (tmp_path / "judged" / "report.html").read_text()
    points = json.loads((tmp_path / "judged" / "metrics.json").read_text())["operating_points"]
    assert all(point["chosen_on"] == "val" for point in points)

    # the pictures that the run learned from are recognised and left out
    isic_layout(tmp_path / "all", records, root)
    run("mode=evaluate", f"run={folder}", "data=isic2018", f"data.root={tmp_path / 'all'}", f"run_dir={tmp_path / 'k'}")
    assert set(pd.read_parquet(tmp_path / "k" / "predictions" / "test.parquet")["id"]) == set(test["id"])


@pytest.mark.slow
def test_files_are_predicted_at_every_level(ham, tmp_path):
    root, folder = ham
    records = pd.read_parquet(folder / "records.parquet")
    test = records[records["split"] == "test"].head(3)
    (tmp_path / "in").mkdir()
    for record in test.itertuples():
        (tmp_path / "in" / f"{record.id}.jpg").write_bytes((root / record.path).read_bytes())
    (tmp_path / "in" / "broken.jpg").write_bytes(b"nothing")
    run("mode=predict", f"run={folder}", f"input={tmp_path / 'in'}", f"run_dir={tmp_path / 'out'}")
    table = pd.read_csv(tmp_path / "out" / "predictions.csv").set_index("file")
    wanted = pd.read_parquet(folder / "predictions" / "test.parquet").set_index("id")
    for record in test.itertuples():
        row = table.loc[f"{record.id}.jpg"]
        assert row["p_mel"] == pytest.approx(wanted.loc[record.id, "p_mel"], abs=1e-5)
        assert row["p_benign"] + row["p_malignant"] == pytest.approx(1, abs=1e-5)
        assert row["class_predicted"].split("/")[0] in ("benign", "malignant")
    assert isinstance(table.loc["broken.jpg", "reason"], str)


@pytest.mark.slow
def test_the_ablation_is_one_override(tmp_path):
    """Its finished network looks at every picture twice; maps are of the network that sees one picture."""
    run(*smoke("skin"), "partition.level=three_way", "model.test_time=mirror", f"run_dir={tmp_path / 'coarse'}")
    metrics = json.loads((tmp_path / "coarse" / "metrics.json").read_text())
    assert metrics["headline"] == "test.three_way.balanced_accuracy"
    assert metrics["metrics"]["test.label.balanced_accuracy"]["value"] is None
    assert "do not tell" in metrics["metrics"]["test.label.balanced_accuracy"]["reason"]
    assert metrics["reference"]["chance"] == pytest.approx(1 / 3)
    facts = json.loads((tmp_path / "coarse" / "models" / "network" / "model.json").read_text())
    assert facts["classes"] == ["benign", "malignant", "non_neoplastic"]

    # a dataset whose tree shares no node with the run's cannot be judged, and that is said
    (tmp_path / "tree.yaml").write_text("good: {a: {b: [x]}}\nbad: {c: {d: [y]}}\n")
    lines = ["path,dx"]
    for k, record in enumerate(pd.read_parquet(tmp_path / "coarse" / "records.parquet").head(4).itertuples()):
        # mirrored: a picture that the run has not learned from
        with Image.open(phantom_root(tmp_path / "coarse") / record.path) as picture:
            picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / f"{k}.jpg")
        lines.append(f"{k}.jpg,{'xy'[k % 2]}")
    (tmp_path / "mine.csv").write_text("\n".join(lines) + "\n")
    done = run(
        "mode=evaluate", f"run={tmp_path / 'coarse'}", "data=table", f"data.table={tmp_path / 'mine.csv'}",
        "data.targets={diagnosis: dx}", f"data.taxonomy={tmp_path / 'tree.yaml'}", "data.near_duplicates=false",
        f"run_dir={tmp_path / 'refused'}", check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "cannot be judged on table" in done.stderr


def test_a_partition_of_one_class_is_refused():
    from pipelines.shared.errors import DataError

    config = compose("skin", "data.max_class_size=100000")
    lineages = ["benign/b/x", "malignant/m/y"] * 20
    groups = [str(i) for i in range(40)]
    records = pd.DataFrame({"id": groups, "group": groups, "split": None, "stratum": lineages, "lineage": lineages})
    with pytest.raises(DataError, match="fall into 1 class"):
        STUDY.split(records, config)


def test_a_run_of_an_earlier_version_says_flips_in_its_own_way():
    values = compose("skin").model_dump()
    del values["model"]["test_time"]
    for flips, expected in ((True, "flips"), (False, "none")):
        old = values | {"model": values["model"] | {"test_time_flips": flips}}
        assert check(SkinConfig, old).model.test_time == expected
    assert check(SkinConfig, values).model.test_time == "none"


def test_class_weights_even_out_the_classes():
    config = compose("skin", "loss.class_balance=1.0")
    records = pd.DataFrame({"split": "train", "lineage": ["benign/b/c/x"] * 90 + ["malignant/m/n/y"] * 10})
    learner = SkinLearner.from_data(config, Data(None, records, None, {}))  # type: ignore[arg-type]
    weights = learner.loss().keywords["weights"]
    assert (weights * torch.tensor([90.0, 10.0])).tolist() == pytest.approx([50, 50])
    assert learner.classes == ["benign/b/c/x", "malignant"], "30 images and more are tried further, down to the leaf"


def test_the_recipe_is_the_papers():
    config = compose("skin", "experiment=esteva2017")
    assert config.model.backbone == "inception_v3"
    assert config.preprocess.size == 299
    assert config.data.max_class_size == 1000
    trainer = config.trainer
    assert (trainer.optimizer, trainer.momentum, trainer.learning_rate) == ("rmsproptf", 0.9, 0.001)
    assert trainer.optimizer_args == {"alpha": 0.9, "eps": 0.1}
    assert (trainer.schedule, trainer.decay_epochs, trainer.decay_rate) == ("step", 30, 1 / 16)
    assert config.augment.inscribed
    assert (config.augment.rotate, config.augment.vertical_flip) == (180, 0.5)
    over = compose("skin", "experiment=esteva2017", "data=ham10000")
    assert over.data.max_class_size == 1000


@pytest.mark.slow
def test_the_papers_recipe_trains_one_step(tmp_path):
    torch.manual_seed(0)
    weights = tmp_path / "inception_v3.safetensors"
    safetensors.torch.save_file(timm.create_model("inception_v3", pretrained=False).state_dict(), weights)
    config = compose(
        "skin", "experiment=esteva2017", f"model.weights={weights}", "trainer.epochs=1", "trainer.max_steps=1",
        "trainer.batch_size=2", "data.phantom.lesions=200", "data.phantom.size=96", "trainer.device=cpu",
        "data.max_class_size=2", "data.near_duplicates=false", f"cache.dir={tmp_path / 'cache'}",
    )  # fmt: skip
    folder = RunFolder(tmp_path / "run")
    data = training_data(STUDY, config)
    keep = data.records.groupby("split").sample(6, random_state=0).index.sort_values().to_numpy()
    data = type(data)(data.source, data.records.loc[keep].reset_index(drop=True), data.prepared.take(keep), data.flow)
    STUDY.method(config).fit(run_on_cpu(STUDY, config, folder), data)
    facts = json.loads((folder.networks()[0] / "model.json").read_text())
    assert facts["architecture"]["backbone"] == "inception_v3"
    assert facts["preprocessing"]["size"] == 299
    assert facts["classes"] == SkinLearner.from_data(config, data).classes
    table = pd.read_parquet(folder.predictions("test"))
    assert len(table) == 6
    top = table.filter(regex="^p_(benign|malignant|non_neoplastic)$")  # those that six records taught
    assert top.sum(axis=1).to_numpy() == pytest.approx(1)
