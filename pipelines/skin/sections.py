"""What the report shows, in order. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from pipelines.shared.errors import RunError
from pipelines.shared.judging import figures
from pipelines.shared.judging.cohort import Cohort, share
from pipelines.shared.judging.error_gallery import error_sections
from pipelines.shared.judging.readers import AgainstReaders, against_readers_section
from pipelines.shared.judging.report import Block, Cell, Picture, Section, Table, Text, words
from pipelines.shared.judging.sections import (
    Metrics,
    OperatingPoint,
    calibration_section,
    operating_points_section,
    reader_rates,
    roc_blocks,
)
from pipelines.shared.judging.subgroups import SubgroupEstimate, subgroup_section
from pipelines.shared.run_folder import AGAIN, read_array
from pipelines.shared.stats.confusion import balanced_accuracy, confusion_matrix
from pipelines.shared.stats.estimate import Estimate
from pipelines.shared.study import Evidence
from pipelines.skin.config import SkinConfig
from pipelines.skin.labels import LEVELS
from pipelines.skin.metrics import MALIGNANT, OTHER, TASKS, title_of
from pipelines.skin.subgroups import Gap
from pipelines.skin.tsne import tsne

BIOPSY = "A diagnosis under malignant, which means to biopsy or treat, counts as a yes."
MOST_CLASSES = 24  # that a confusion matrix can show
Skin = Evidence[SkinConfig]
Predicted = Mapping[str, Sequence[str]]  # the predicted nodes of test, by level
Paths = Mapping[str, Mapping[str, Sequence[str]]]  # of every node, by level


def report_sections(
    evidence: Skin,
    metrics: Metrics,
    points: Sequence[OperatingPoint],
    predicted: Predicted,
    paths: Paths,
    subgroups: Sequence[SubgroupEstimate],
    gaps: Sequence[Gap],
    saliency: Estimate | None,
    compared: AgainstReaders | None,
) -> list[Section]:
    """The sections of the report."""
    test, tasks = evidence.predictions["test"], list(TASKS.values())
    return [
        _levels(evidence, metrics),
        *_training_classes(evidence),
        _cohort(evidence),
        _binary_tasks(evidence, test, metrics, points),
        operating_points_section(evidence, test, MALIGNANT, points, tasks=tasks),
        _confusions(evidence, test, predicted, paths, metrics),
        *_beside_readers(evidence, test, predicted),
        *against_readers_section(compared, "readers", BIOPSY),
        _calibration(evidence, test, metrics),
        *subgroup_section(
            evidence, subgroups, metrics["test.malignant.auroc"], n=len(test), about=MALIGNANT.inline, more=_gaps(gaps)
        ),
        *_embedding_map(evidence, test),
        *error_sections(evidence, saliency, {"missed": "Missed malignancies", "false_alarm": "False alarms"}),
    ]


def _levels(evidence: Skin, metrics: Metrics) -> Section:
    """What one network answers at every level, beside chance and oracle."""
    keys = [
        (f"{title_of(level, evidence.records)}: {label}", f"test.{level}.{name}")
        for level in LEVELS
        for name, label in (("balanced_accuracy", "balanced accuracy"), ("accuracy", "accuracy"))
    ] + [(f"{task.title}: AUROC", f"test.{task.name}.auroc") for task in TASKS.values()]
    references = ["oracle", "chance"] if evidence.flow["synthetic"] else ["chance"]
    rows: list[list[Cell]] = [
        [label, metrics[key], *(metrics.get(f"{key}_{name}") for name in references), metrics[key].n]
        for label, key in keys
    ]
    text = (
        "Balanced accuracy is the mean of the classes' sensitivities: the paper calls it accuracy, ISIC 2018 ranked by "
        "it. Chance: one over the classes; for accuracy, always answering the commonest class of test; for AUROC 0.5. "
        "Intervals resample lesions (groups)."
    )
    caption = "One network, asked at every level: a node's probability is the sum over the training classes below it."
    undefined = [Text(f"{label}: {metrics[key].reason}.", "note") for label, key in keys if metrics[key].value is None]
    columns = ["Task", "Test", *(name.capitalize() for name in references), "Images"]
    return Section("One network, every level", [Text(text), Table(columns, rows, caption), *undefined])


def _training_classes(evidence: Skin) -> list[Section]:
    """What the network was trained on: the classes of the partitioning algorithm."""
    train = evidence.training
    if train.empty or not evidence.networks:
        return []
    rows: list[list[Cell]] = []
    for name in evidence.networks[0]["classes"]:
        *above, node = name.split("/")
        inside = train[(train["lineage"] + "/").str.startswith(name + "/")]
        labels = ", ".join(words(label) for label in sorted(inside["label"].unique()))
        rows.append([words(node), words(" > ".join(above)), labels, len(inside), inside["group"].nunique()])
    config = evidence.config
    limit = config.data.max_class_size
    how = f"Partitioning algorithm: a node with fewer than {limit:,} training images is one class."
    if limit == 1:
        how = "Every label is a class of its own (data.max_class_size=1)."
    if config.partition.level != "fine":
        how = f"Coarse classes (partition.level={config.partition.level}): the ablation."
    columns = ["Training class", "Below", "Labels in it", "Images", "Groups"]
    return [Section("Training classes", [Table(columns, rows, how, ["left", "left", "left", "right", "right"])])]


def _cohort(evidence: Skin) -> Section:
    """The records by split: counts, age, sex, skin type, coarse levels."""
    cohort, records = Cohort(evidence.records), evidence.records
    cohort.counts("Images", "Lesions (groups)")
    cohort.people()
    if "skin_type" in records and records["skin_type"].notna().any():
        cohort.add("Skin types V and VI", _dark)
    for level in ("three_way", "nine_way"):
        for node in sorted(records[level].unique()):
            cohort.share(f"{title_of(level, records)}: {words(node)}", level, node)
    return Section("Cohort", [cohort.table("The cohort by split; age and sex once per lesion.")])


def _dark(part: pd.DataFrame) -> str:
    return share(int((part["skin_type"] >= 5).sum()), int(part["skin_type"].notna().sum()))


# --- binary tasks ---


def _binary_tasks(evidence: Skin, test: pd.DataFrame, metrics: Metrics, points: Sequence[OperatingPoint]) -> Section:
    """ROC curves of the binary tasks, with every reader's point and the readers' mean."""
    blocks: list[Block] = []
    for task in reversed(TASKS.values()):
        blocks += roc_blocks(
            evidence,
            test,
            [task],
            metrics,
            f"{task.title}, test: {len(task.known(test)):,} images. Crosses: exact binomial intervals at frozen "
            "thresholds.",
            points=points,
            readers=reader_rates(evidence, test, task, "biopsy"),
            about_readers="Each reader is judged on the images that this reader read; a diagnosis under malignant, "
            "which means to biopsy or treat, counts as positive.",
            file=f"roc_{task.name}",
        )
    return Section("Binary tasks", blocks)


def _calibration(evidence: Skin, test: pd.DataFrame, metrics: Metrics) -> Section:
    """Whether the probability of malignancy means what it says."""
    if not MALIGNANT.has_score(test):
        return Section("Calibration", [Text("The network gives no probability of malignancy.", "note")])
    note = "Rare classes weighed more in training, so rare diseases are predicted more often than they occur."
    more = [Text(note, "note")] if evidence.config.loss.class_balance else []
    caption = "Calibration of P(malignant), test."
    return calibration_section(evidence, test, [MALIGNANT], metrics, caption=caption, more=more)


def _gaps(gaps: Sequence[Gap]) -> list[Block]:
    """The largest difference between two subgroups of each column."""
    if not gaps:
        return []
    rows: list[list[Cell]] = [[words(gap.column), f"{gap.better} over {gap.worse}", gap.estimate] for gap in gaps]
    caption = "The largest gap in AUROC between two subgroups of at least 20 images."
    note = "Each pair was chosen because it differs most, so there is always some gap."
    return [Table(["Column", "Subgroups", "Difference"], rows, caption), Text(note, "note")]


# --- levels ---


def _confusions(evidence: Skin, test: pd.DataFrame, predicted: Predicted, paths: Paths, metrics: Metrics) -> Section:
    """Confusion matrices of every level that is answered, and each label's sensitivity and AUROC."""
    blocks: list[Block] = []
    for level, nodes in predicted.items():
        classes = [*paths[level], *([OTHER] if OTHER in nodes else [])]
        if len(classes) > MOST_CLASSES:
            continue
        matrix = confusion_matrix(test[level].to_numpy(), nodes, classes)
        file = f"figures/confusion_{level}.png"
        names = [words(name) for name in classes]
        figures.confusion(evidence.folder.path / file, matrix, names, column_label="Network", note=evidence.note)
        title = title_of(level, evidence.records)
        blocks.append(Picture(file, f"{title}, test.", f"Confusion matrix, {title}."))
    finest = list(predicted)[-1]
    with_auroc = finest == "label"
    rows: list[list[Cell]] = []
    for node in paths[finest]:
        row: list[Cell] = [words(node), int((test[finest] == node).sum())]
        row.append(metrics[f"test.{finest}.sensitivity[{node}]"])
        rows.append([*row, metrics.get(f"test.label.auroc[{node}]")] if with_auroc else row)
    columns = ["Class", "Images", "Sensitivity", *(["AUROC against all others"] if with_auroc else [])]
    blocks.append(
        Table(columns, rows, f"{title_of(finest, evidence.records)}, test; intervals from resampling groups.")
    )
    return Section("Confusion and sensitivity by class", blocks)


def _beside_readers(evidence: Skin, test: pd.DataFrame, predicted: Predicted) -> list[Section]:
    """Each reader's balanced accuracy at both coarse levels, beside the network's on the same test images."""
    levels = [level for level in ("three_way", "nine_way") if level in predicted]
    if evidence.readers is None or not levels:
        return []
    truth = test.set_index("id")
    network = {level: pd.Series(list(predicted[level]), index=test["id"]) for level in levels}
    rows: list[list[Any]] = []
    for reader, readings in evidence.readers[evidence.readers["id"].isin(truth.index)].groupby("reader"):
        row: list[Any] = [str(reader), len(readings)]
        for level in levels:
            given = readings[readings[level].notna()]
            true = truth[level].reindex(given["id"])
            row += [_balanced_accuracy(true, given[level]), _balanced_accuracy(true, network[level][given["id"]])]
        rows.append(row)
    if not rows:
        return []
    titles = {level: title_of(level, evidence.records) for level in levels}
    means = pd.DataFrame(rows).iloc[:, 1:].astype(float).mean()
    rows.append(["Mean", *(None if np.isnan(mean) else mean for mean in means)])
    columns = ["Reader", "Images", *(f"{titles[level]}, {who}" for level in levels for who in ("reader", "network"))]
    caption = "Balanced accuracy on the test images that each reader read, and the network's on the same images."
    return [Section("Beside the readers", [Table(columns, rows, caption)])]


def _balanced_accuracy(truth: pd.Series, answers: pd.Series) -> float | None:
    if truth.empty:
        return None
    classes = sorted({*truth, *answers})
    return float(balanced_accuracy(confusion_matrix(truth.to_numpy(), answers.to_numpy(), classes)))


# --- pictures ---


def _embedding_map(evidence: Skin, test: pd.DataFrame) -> list[Section]:
    """t-SNE of the last hidden layer on test, coloured by the nine-way disease group."""
    file = evidence.folder.path / "predictions" / "embeddings.npy"
    if not file.exists():
        return []
    embeddings = read_array(file)
    if embeddings.ndim != 2 or len(embeddings) != len(test) or not np.isfinite(embeddings).all():
        raise RunError(f"{file} does not hold a row of numbers for each test record: it is damaged.", AGAIN)
    places = tsne(embeddings, evidence.config.seed % 2**32)
    groups = [words(node) for node in test["nine_way"]]
    figures.embedding(
        evidence.folder.figures / "embedding.png", places, groups, sorted(set(groups)), note=evidence.note
    )
    caption = "t-SNE of the last hidden layer, test images by disease group. Distances between far groups mean nothing."
    return [Section("What the last hidden layer holds", [Picture("figures/embedding.png", caption, "t-SNE map.")])]
