"""Levels, binary tasks and their references; resampling by lesion; what cannot be answered."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from conftest import compose

from pipelines.shared.errors import RunError
from pipelines.shared.run_folder import RunFolder, write_array
from pipelines.shared.stats.bootstrap import Bootstrap
from pipelines.shared.stats.operating_points import point_estimates
from pipelines.shared.stats.probabilities import softmax
from pipelines.skin import sections
from pipelines.skin.labels import BINARY, add_levels, binary_scores, decision
from pipelines.skin.learner import SkinLearner
from pipelines.skin.metrics import (
    OTHER,
    TASKS,
    answer_level,
    binary_metrics,
    choose_points,
    level_metrics,
    level_paths,
    predict_columns,
    reference_metrics,
    title_of,
)
from pipelines.skin.training_classes import find_classes
from pipelines.skin.trees import read_tree

BOOTSTRAP = Bootstrap(300, 0, 0.95)


def toy(
    tree_name: str = "ham10000",
    trained_on: str | None = None,
    depth: int | None = None,
    n: int = 420,
    skill: float = 1.5,
    without: str = "",
):
    """Prediction table of a network of known skill: three pictures of each lesion, which are alike."""
    rng = np.random.default_rng(0)
    tree = read_tree(tree_name)
    lesions = n // 3
    label = np.repeat(rng.choice(tree.leaves, lesions), 3)
    records = pd.DataFrame(
        {"id": [f"i{k}" for k in range(n)], "group": np.repeat([f"g{k}" for k in range(lesions)], 3), "label": label}
    )
    records = add_levels(records, tree)
    other = read_tree(trained_on or tree_name)
    classes = find_classes(["/".join(other.paths[leaf]) for leaf in other.leaves if leaf != without], 1, depth)
    logits = np.repeat(rng.normal(size=(lesions, len(classes))), 3, axis=0) + 0.3 * rng.normal(size=(n, len(classes)))
    last = [set(name.split("/")) for name in classes]
    for row, lineage in enumerate(records["lineage"]):
        shared = [len(nodes & set(lineage.split("/"))) for nodes in last]
        logits[row] += skill * (np.array(shared) == max(shared))
    table = pd.concat(
        [records[["id", "group"]], records[list(SkinLearner.targets_shown)], predict_columns(softmax(logits), classes)],
        axis=1,
    )
    return table, classes


def test_columns_hold_every_node_and_the_binary_scores():
    classes = ["benign/a/melanocytic_nevus", "malignant/malignant_melanoma/mel", "malignant/e/bcc"]
    table = predict_columns(np.array([[0.5, 0.2, 0.3], [0.0, 0.0, 1.0]]), classes)
    assert table["p_malignant"].tolist() == pytest.approx([0.5, 1])
    assert table["p_mel"].tolist() == table["p_malignant_melanoma"].tolist() == [0.2, 0]
    assert table["p_melanoma_vs_nevus"].tolist() == pytest.approx([0.2 / 0.7, 0.5]), "0 / 0 is no opinion"
    assert "p_carcinoma_vs_keratosis" not in table
    assert table["class_predicted"].tolist() == [classes[0], classes[2]]


@pytest.mark.parametrize(("classes", "title"), [(2, "Two-way"), (3, "Three-way"), (9, "Nine-way"), (12, "12-way")])
def test_a_level_is_called_by_its_number_of_classes(classes, title):
    records = pd.DataFrame({"three_way": [str(k % classes) for k in range(30)], "label": "a"})
    assert title_of("three_way", records) == title
    assert title_of("label", records) == "The dataset's own classes"


def test_what_every_training_picture_is_has_no_probability():
    """Trained on malignant diseases alone a network would call everything malignant, with certainty."""
    classes = ["malignant/malignant_melanoma/mel", "malignant/e/bcc"]
    table = predict_columns(np.array([[0.4, 0.6]]), classes)
    assert "p_malignant" not in table
    assert table["p_mel"].tolist() == [0.4]
    about = table.assign(**dict.fromkeys(BINARY, 1.0), group="a")
    assert choose_points(about, compose("skin")) == []
    (auroc,) = binary_metrics(about, TASKS["malignant"], "test", BOOTSTRAP).values()
    assert auroc.value is None
    assert auroc.reason


def test_softmax_does_not_overflow():
    assert softmax(np.array([[1000.0, 0.0], [-1000.0, -1000.0]])).tolist() == [[1, 0], [0.5, 0.5]]


def test_decisions_follow_the_tree():
    tree = read_tree("ham10000")
    found = {leaf: [decision(tree.paths[leaf], task) for task in BINARY] for leaf in tree.leaves}
    np.testing.assert_equal(found["mel"], [1, np.nan, 1])
    np.testing.assert_equal(found["nv"], [0, np.nan, 0])
    np.testing.assert_equal(found["bcc"], [1, 1, np.nan])
    np.testing.assert_equal(found["bkl"], [0, 0, np.nan])
    np.testing.assert_equal(found["akiec"], [1, np.nan, np.nan])


def test_binary_scores_need_both_nodes():
    assert set(binary_scores({"malignant_melanoma": np.ones(1)})) == set()
    assert set(binary_scores({"malignant": np.ones(1)})) == {"malignant"}


@pytest.mark.parametrize("level", ["three_way", "nine_way", "label"])
def test_resampling_lesions_gives_wider_intervals_than_rows(level):
    table, _ = toy()
    paths = level_paths(table["lineage"].tolist(), level)
    by_lesion, _ = level_metrics(table, level, "test", paths, [], BOOTSTRAP)
    by_row, _ = level_metrics(table.assign(group=table["id"]), level, "test", paths, [], BOOTSTRAP)
    for name in ("accuracy", "balanced_accuracy"):
        wide, narrow = by_lesion[f"test.{level}.{name}"], by_row[f"test.{level}.{name}"]
        assert wide.value == narrow.value
        assert wide.high - wide.low > 1.3 * (narrow.high - narrow.low)
    assert by_lesion[f"test.{level}.accuracy"].groups == 140


def test_sensitivity_of_a_class_rests_on_its_own_images_and_lesions():
    table, _ = toy()
    metrics, predicted = level_metrics(
        table, "label", "test", level_paths(table["lineage"].tolist(), "label"), [], BOOTSTRAP
    )
    for name, rows in table.assign(predicted=predicted).groupby("label"):
        estimate = metrics[f"test.label.sensitivity[{name}]"]
        assert estimate.value == pytest.approx((rows["predicted"] == name).mean())
        assert (estimate.n, estimate.groups) == (len(rows), rows["group"].nunique())


def test_a_level_is_the_argmax_of_summed_probabilities():
    table, classes = toy()
    paths = level_paths(table["lineage"].tolist(), "three_way")
    predicted, by = answer_level(table, paths)
    malignant = table[[f"p_{c.split('/')[-1]}" for c in classes if c.startswith("malignant")]].sum(axis=1)
    assert predicted == np.where(malignant > 0.5, "malignant", "benign").tolist()
    assert by == ["benign", "malignant"]


def test_isics_classes_are_answered_by_a_network_of_ham10000():
    table, _ = toy("isic2018", trained_on="ham10000")
    paths = level_paths(table["lineage"].tolist(), "label")
    metrics, predicted = level_metrics(table, "label", "test", paths, [], BOOTSTRAP)
    assert set(predicted) <= {"MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC"}
    assert metrics["test.label.balanced_accuracy"].low > 1 / 7
    assert metrics["test.label.auroc[MEL]"].value > 0.6
    assert len([k for k in metrics if "sensitivity" in k]) == 7


def test_coarse_classes_answer_coarse_levels_only():
    table, _ = toy(depth=1)
    paths = {level: level_paths(table["lineage"].tolist(), level) for level in ("three_way", "nine_way", "label")}
    coarse, predicted = level_metrics(table, "three_way", "test", paths["three_way"], [], BOOTSTRAP)
    assert predicted is not None
    assert coarse["test.three_way.balanced_accuracy"].value > 0.5
    fine, predicted = level_metrics(table, "label", "test", paths["label"], [], BOOTSTRAP)
    assert predicted is None
    assert fine["test.label.balanced_accuracy"].value is None
    assert "do not tell 7 of 7" in fine["test.label.balanced_accuracy"].reason
    assert binary_metrics(table, TASKS["melanoma_vs_nevus"], "test", BOOTSTRAP)["test.melanoma_vs_nevus.auroc"].reason
    assert [p["task"] for p in choose_points(table, compose("skin"))] == ["malignant"] * 2


def test_a_class_that_the_dataset_lacks_is_a_wrong_answer():
    table, _ = toy("ham10000", trained_on="phantom", skill=0.0)
    paths = level_paths(table["lineage"].tolist(), "three_way")
    predicted, _ = answer_level(table, paths)
    elsewhere = table["class_predicted"].str.startswith("non_neoplastic").to_numpy()
    assert elsewhere.any()
    assert (np.array(predicted)[~elsewhere] != OTHER).all()
    best = table[["p_benign", "p_malignant"]].to_numpy().max(axis=1)
    single = table["class_predicted"].str.split("/").str[-1]
    top = np.array([table.at[i, f"p_{name}"] for i, name in enumerate(single)])
    assert ((np.array(predicted) == OTHER) == (elsewhere & (top > best))).all()
    metrics, _ = level_metrics(table.assign(p_benign=0.0, p_malignant=0.0), "three_way", "test", paths, [], BOOTSTRAP)
    assert metrics["test.three_way.accuracy"].value == pytest.approx(
        (~elsewhere * (table["three_way"] == "benign")).mean()
    )


def test_a_label_without_training_images_is_missed_not_undefined():
    table, _ = toy(without="df")
    paths = level_paths(table["lineage"].tolist(), "label")
    assert isinstance(answer_level(table, paths), str)
    predicted, _ = answer_level(table, paths, untrained=["df"])
    assert "df" not in predicted
    metrics, _ = level_metrics(table, "label", "test", paths, ["df"], BOOTSTRAP)
    assert metrics["test.label.sensitivity[df]"].value == 0
    assert "test.label.auroc[df]" not in metrics


def test_chance_and_oracle():
    table, _ = toy()
    latent = table[["three_way", "nine_way", "label", *BINARY]].add_prefix("truth_").assign(id=table["id"])
    paths = {level: level_paths(table["lineage"].tolist(), level) for level in ("three_way", "nine_way", "label")}
    metrics = {}
    for level in paths:
        metrics |= level_metrics(table, level, "test", paths[level], [], BOOTSTRAP)[0]
    for task in TASKS.values():
        metrics |= binary_metrics(table, task, "test", BOOTSTRAP)
    found = reference_metrics(table, latent, metrics, paths, BOOTSTRAP)
    assert found["test.label.balanced_accuracy_chance"].value == pytest.approx(1 / 7)
    assert found["test.label.accuracy_chance"].value == pytest.approx(table["label"].value_counts(normalize=True).max())
    assert found["test.label.balanced_accuracy_oracle"].value == 1
    assert found["test.melanoma_vs_nevus.auroc_oracle"].value == 1


def test_points_reach_their_targets_where_they_are_chosen():
    table, _ = toy()
    config = compose("skin")
    points = choose_points(table, config)
    assert len(points) == 6
    filled, metrics = point_estimates(table, points, BOOTSTRAP)
    for point in filled:
        ((rate, target),) = point["target"].items()
        assert point[rate]["value"] >= target
        assert metrics[f"test.{point['task']}.{rate}@{point['name']}"].value == point[rate]["value"]


@pytest.mark.parametrize("embeddings", [np.ones((2, 4)), np.ones(3), np.full((3, 4), np.nan)])
def test_damaged_embeddings_are_named(tmp_path, embeddings):
    folder = RunFolder(tmp_path)
    write_array(folder.predictions("test").with_name("embeddings.npy"), embeddings)
    test = pd.DataFrame({"nine_way": ["a", "b", "c"]})
    with pytest.raises(RunError, match=r"embeddings\.npy does not hold a row of numbers for each test record"):
        sections._embedding_map(SimpleNamespace(folder=folder), test)


def test_the_balanced_loss_is_the_mean_over_taught_classes_of_their_log_loss():
    outputs = np.array(
        [[2, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 3, 0, 0], [1, 0, 0, 0, 0], *np.ones((2, 5))], np.float32
    )
    truth = np.array([0, 0, 1, 2, 4, np.nan], np.float32)  # no record of class 3, one of a class that no training had
    each = -np.log(softmax(outputs[:4])[np.arange(4), [0, 0, 1, 2]])
    learner = SkinLearner(compose("skin"), list("abcde"), np.array([9, 8, 7, 6, 0]))
    measured = learner.measure(truth, outputs)
    assert measured["val_balanced_loss"] == pytest.approx(np.mean([each[:2].mean(), each[2], each[3]]))
    assert measured["val_accuracy"] == 0.2
    assert np.isnan(learner.measure(truth[4:], outputs[4:])["val_balanced_loss"])
    assert np.isnan(list(learner.measure(truth[5:], outputs[5:]).values())).all()
