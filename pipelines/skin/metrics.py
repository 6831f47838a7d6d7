"""What is predicted and how it is judged: columns of the prediction table, operating points, metrics. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from pipelines.shared.judging.prediction_sets import SetTask
from pipelines.shared.judging.tasks import BinaryTask
from pipelines.shared.stats.agreement import agreement_estimates
from pipelines.shared.stats.auc import auroc_estimate
from pipelines.shared.stats.bootstrap import Bootstrap
from pipelines.shared.stats.estimate import Estimate
from pipelines.shared.stats.operating_points import choose_two_points
from pipelines.shared.stats.proportions import both_estimates
from pipelines.shared.stats.temperature import tempered
from pipelines.skin.config import SkinConfig
from pipelines.skin.labels import BINARY, LEVELS, binary_scores
from pipelines.skin.taxonomy import NINE_WAY, THREE_WAY, answers, infer
from pipelines.skin.training_classes import class_numbers

OTHER = "other"  # predicted: a class that does not occur in the dataset
DEPTHS = {"three_way": THREE_WAY, "nine_way": NINE_WAY, "label": None}
WAYS = ["", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine"]
TASKS = BinaryTask.by_name(
    {
        "malignant": "Malignant vs all else",
        "carcinoma_vs_keratosis": "Keratinocyte carcinoma vs benign seborrheic keratosis",
        "melanoma_vs_nevus": "Malignant melanoma vs benign naevus",
    }
)
MALIGNANT = TASKS["malignant"]


def title_of(level: str, records: pd.DataFrame) -> str:
    """What a level is called: by its number of classes, which is the paper's three and nine in the paper's tree."""
    if level == "label":
        return "The dataset's own classes"
    classes = records[level].nunique()
    return f"{WAYS[classes] if classes < len(WAYS) else classes}-way"


def predict_columns(probabilities: np.ndarray, classes: Sequence[str]) -> pd.DataFrame:
    """The prediction columns from the training classes' probabilities (n, classes).

    `p_<node>` for every training class and every node above one (the inference algorithm), `p_<task>` for the binary
    tasks that these nodes answer, and `class_predicted`, the most probable training class as a path of nodes. A node
    above all of them has no column: training had nothing else, so its probability of 1 would mean nothing.

    Args:
        probabilities: of the classes, in their order.
        classes: their paths, nodes joined by "/".
    """
    paths = [name.split("/") for name in classes]
    nodes = infer(probabilities, paths)
    nodes = {node: p for node, p in nodes.items() if not all(node in path for path in paths)}
    columns = {f"p_{node}": np.clip(values, 0, 1) for node, values in nodes.items()}
    columns |= {f"p_{task}": np.clip(values, 0, 1) for task, values in binary_scores(nodes).items()}
    best = [classes[i] for i in probabilities.argmax(axis=1)]
    return pd.DataFrame(columns | {"class_predicted": best})


def class_columns(classes: Sequence[str]) -> list[str]:
    """The columns of the training classes' own probabilities in a prediction table, in the order of `classes`."""
    return [f"p_{name.split('/')[-1]}" for name in classes]


def set_tasks(classes: Sequence[str]) -> list[SetTask]:
    """The question for one of the training classes, each named by its last node."""
    columns = class_columns(classes)
    names = [column.removeprefix("p_") for column in columns]

    def truth(predictions: pd.DataFrame) -> pd.Series:
        numbers = class_numbers(predictions["lineage"], classes)
        known = [None if np.isnan(number) else names[int(number)] for number in numbers]
        return pd.Series(known, index=predictions.index, dtype=object)

    return [SetTask("class", "Disease", dict(zip(names, columns, strict=True)), truth)]


def tempered_table(predictions: pd.DataFrame, classes: Sequence[str], temperature: float) -> pd.DataFrame:
    """A prediction table as it is when the classes' probabilities are tempered, see `stats.temperature`."""
    p = tempered(predictions[class_columns(classes)], temperature)
    return predictions.assign(**{str(name): values.to_numpy() for name, values in predict_columns(p, classes).items()})


# --- the levels ---


def level_paths(lineages: Sequence[str], level: str) -> dict[str, list[str]]:
    """The nodes of a level that a dataset has, each with its path, in the order of their names along the tree."""
    paths = (lineage.split("/")[: DEPTHS[level]] for lineage in sorted(set(lineages)))
    return {path[-1]: path for path in paths}


def answer_level(
    predictions: pd.DataFrame, paths: Mapping[str, Sequence[str]], untrained: Sequence[str] = ()
) -> tuple[list[str], list[str | None]] | str:
    """The most probable node of a level for each row.

    Args:
        predictions: with the `p_<node>` columns and `class_predicted`.
        paths: the level's nodes in this dataset, each with its path.
        untrained: nodes that the run's own training part lacks: they are never predicted, so always missed.

    Returns:
        Per row the predicted node, `OTHER` where the most probable class is none of the dataset's; and per node of
        `paths` the network's node that answers for it. Or, where the network does not tell the nodes apart, why.
    """
    asked = {node: path for node, path in paths.items() if node not in untrained}
    columns = [str(column) for column in predictions if str(column).startswith("p_")]
    # "malignant" is both a binary task and a node.
    nodes = [c.removeprefix("p_") for c in columns if c == "p_malignant" or c.removeprefix("p_") not in BINARY]
    answering: dict[str, str | None] = dict(zip(asked, answers(list(asked.values()), nodes), strict=True))
    lacking = [node for node, answer in answering.items() if answer is None]
    if lacking or not answering:
        shown = ", ".join(lacking[:5]) + (" …" if len(lacking) > 5 else "")
        return f"the network's classes do not tell {len(lacking)} of {len(asked)} classes from others: {shown}"
    names = list(answering)
    scores = predictions[[f"p_{answering[name]}" for name in names]].to_numpy()
    best = [names[i] for i in scores.argmax(axis=1)]
    inside = set(answering.values())
    rows = zip(best, scores.max(axis=1), predictions["class_predicted"].str.split("/"), predictions.index, strict=True)
    predicted = []
    for name, score, path, row in rows:
        elsewhere = not inside & set(path) and predictions.at[row, f"p_{path[-1]}"] > score
        predicted.append(OTHER if elsewhere else name)
    return predicted, [answering.get(node) for node in paths]


def level_metrics(
    rows: pd.DataFrame,
    level: str,
    split: str,
    paths: Mapping[str, Sequence[str]],
    untrained: Sequence[str],
    bootstrap: Bootstrap,
) -> tuple[dict[str, Estimate], list[str] | None]:
    """Accuracy and balanced accuracy at one level, and the predicted nodes (None where it cannot be answered).

    The paper's "accuracy" is the mean of the classes' accuracies, which here is called balanced accuracy. On test also
    each class's sensitivity and its AUROC against all others.
    """
    answer = answer_level(rows, paths, untrained)
    if isinstance(answer, str):
        undefined = Estimate(None, n=len(rows), reason=answer)
        return {f"{split}.{level}.{name}": undefined for name in ("accuracy", "balanced_accuracy")}, None
    predicted, nodes = answer
    classes = [*paths, *([OTHER] if OTHER in predicted else [])]
    truth, group = rows[level].to_numpy(), rows["group"].to_numpy()
    measures = agreement_estimates(truth, predicted, classes, group, weights="none", bootstrap=bootstrap)
    metrics = {f"{split}.{level}.{name}": measures[name] for name in ("accuracy", "balanced_accuracy", "macro_f1")}
    if split == "test":
        for name in paths:
            positive = truth == name
            right = np.array(predicted, dtype=object)[positive] == name
            sensitivity = both_estimates(
                right, group[positive], bootstrap=bootstrap, no_rows="the class does not occur"
            )
            metrics[f"test.{level}.sensitivity[{name}]"] = sensitivity.clustered
        if level == "label":
            for name, node in zip(paths, nodes, strict=True):
                if node is not None:
                    metrics[f"test.label.auroc[{name}]"] = auroc_estimate(
                        truth == name, rows[f"p_{node}"].to_numpy(), group, bootstrap=bootstrap
                    )
    return metrics, predicted


def reference_metrics(
    rows: pd.DataFrame,
    records: pd.DataFrame,
    metrics: Mapping[str, Estimate],
    paths: Mapping[str, Mapping[str, Sequence[str]]],
    bootstrap: Bootstrap,
) -> dict[str, Estimate]:
    """Chance beside each defined metric of a level or binary task, and on a phantom the oracle.

    Chance is, for accuracy, always answering the commonest class of test; for balanced accuracy one over the classes.
    The oracle's answers (`truth_<level>`, `truth_<task>`) are judged by the same reference as the model's.

    Args:
        rows: test predictions.
        records: the record table.
        metrics: of test.
        paths: the nodes of each level.
        bootstrap: resamples, seed and level.
    """
    references: dict[str, Estimate] = {}
    latent = records.set_index("id").reindex(rows["id"])
    for level in LEVELS:
        if metrics[f"test.{level}.balanced_accuracy"].value is None:
            continue
        counts = rows[level].value_counts()
        references[f"test.{level}.accuracy_chance"] = Estimate(counts.iloc[0] / counts.sum(), n=len(rows))
        references[f"test.{level}.balanced_accuracy_chance"] = Estimate(1 / len(counts), n=len(rows))
        if f"truth_{level}" in latent:
            drawn = latent[f"truth_{level}"].to_numpy()
            classes = list(dict.fromkeys([*paths[level], *drawn]))
            oracle = agreement_estimates(
                rows[level].to_numpy(), drawn, classes, rows["group"].to_numpy(), weights="none", bootstrap=bootstrap
            )
            for name in ("accuracy", "balanced_accuracy"):
                references[f"test.{level}.{name}_oracle"] = oracle[name]
    for task in TASKS.values():
        auroc = metrics.get(f"test.{task.name}.auroc")
        if auroc is None or auroc.value is None:
            continue
        references[f"test.{task.name}.auroc_chance"] = Estimate(0.5, n=auroc.n)
        oracle_auroc = task.oracle(rows, records, f"truth_{task.name}", bootstrap)
        if oracle_auroc is not None:
            references[f"test.{task.name}.auroc_oracle"] = oracle_auroc
    return references


# --- the binary tasks ---


def choose_points(predictions: pd.DataFrame, config: SkinConfig) -> list[dict[str, Any]]:
    """Two operating points of each binary task, chosen on these predictions (those of `val`).

    A task that the network does not answer, or without both classes, has none.
    """
    points: list[dict[str, Any]] = []
    for task in TASKS.values():
        if task.has_both_classes(predictions):
            points += choose_two_points(task.known(predictions), task.name, config.operating_points)
    return points


def binary_metrics(rows: pd.DataFrame, task: BinaryTask, split: str, bootstrap: Bootstrap) -> dict[str, Estimate]:
    """AUROC and average precision of a binary task; calibration too of the probability of malignancy."""
    if not task.has_score(rows):
        reason = "the network's classes do not tell the two apart"
        return {f"{split}.{task.name}.auroc": Estimate(None, n=len(task.known(rows)), reason=reason)}
    return task.metrics(rows, split, bootstrap, average_precision=True, calibration=task == MALIGNANT)
