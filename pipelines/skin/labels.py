"""From a dataset's own labels to every level of its tree: columns of the record table. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from pipelines.shared.data.tables import RowProblem, row_of
from pipelines.shared.errors import nearest
from pipelines.skin.taxonomy import NINE_WAY, THREE_WAY, Taxonomy

LEVELS = ["three_way", "nine_way", "label"]  # from coarse to fine
# Binary tasks: the positive node, and the negative one (None: everything else). The last two are the paper's.
BINARY: dict[str, tuple[str, str | None]] = {
    "malignant": ("malignant", None),
    "carcinoma_vs_keratosis": ("keratinocyte_carcinoma", "seborrheic_keratosis"),
    "melanoma_vs_nevus": ("malignant_melanoma", "melanocytic_nevus"),
}
MINIMUM_STRATUM = 6  # groups; a rarer label is not stratified by, as it may not reach all three splits


def check_labels(labels: pd.Series, tree: Taxonomy, file_name: str) -> list[str]:
    """Problems of a column of labels: empty cells, and labels that are no leaf of the tree, with near matches."""
    problems: list[str] = []
    leaves = set(tree.leaves)
    for row, label in labels.items():
        where = f"{file_name} row {row_of(row)}"
        if pd.isna(label):
            problems.append(RowProblem(f"{where}: empty {labels.name}", row))
        elif label not in leaves:
            close = nearest(label, tree.leaves)
            problems.append(RowProblem(f"{where}: {labels.name}={label} is no label of the tree. {close}", row))
    return problems


def add_levels(records: pd.DataFrame, tree: Taxonomy) -> pd.DataFrame:
    """Add what follows from `label` (a leaf): `lineage`, the three-way and nine-way node, the binary tasks, `stratum`.

    `lineage` is the path from below the root to the leaf, joined by "/". A binary task is NaN for a record that lies
    under neither of its nodes. `stratum` is the label, or None where fewer than six groups have it.
    """
    paths = [tree.paths[label] for label in records["label"]]
    added = {
        "lineage": ["/".join(path) for path in paths],
        "three_way": [path[THREE_WAY - 1] for path in paths],
        "nine_way": [path[NINE_WAY - 1] for path in paths],
    }
    binary = {task: [decision(path, task) for path in paths] for task in BINARY}
    groups = records.groupby("label")["group"].nunique()
    stratum = [label if groups[label] >= MINIMUM_STRATUM else None for label in records["label"]]
    return records.assign(**added, **binary, stratum=pd.Series(stratum, index=records.index, dtype=object))


def decision(path: Sequence[str], task: str) -> float:
    """1 if a disease lies under the task's positive node, 0 if under its negative one, else NaN."""
    positive, negative = BINARY[task]
    if positive in path:
        return 1.0
    return 0.0 if negative is None or negative in path else np.nan


def binary_scores(nodes: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Score of each binary task from nodes' probabilities (n,): P(positive node), over the sum of both nodes where the
    task has two. Tasks with a node that is not known are left out.
    """
    scores = {}
    for task, (positive, negative) in BINARY.items():
        if positive in nodes and negative is None:
            scores[task] = nodes[positive]
        elif positive in nodes and negative in nodes:
            both = nodes[positive] + nodes[str(negative)]
            scores[task] = np.where(both > 0, nodes[positive] / np.maximum(both, 1e-300), 0.5)
    return scores


def read_diagnoses(readings: pd.DataFrame, tree: Taxonomy, file_name: str) -> tuple[pd.DataFrame, list[str]]:
    """Readers' diagnoses at the levels that they reach.

    A diagnosis is any node of the tree below its root: a reader who says "benign" answers the three-way task only. The
    paper asked whether to biopsy or treat the lesion, or to reassure the patient. The diagnosis answers that: `biopsy`
    is 1 where it lies under `malignant` and 0 elsewhere.

    Args:
        readings: id, reader, diagnosis.
        tree: the dataset's.
        file_name: for the problems.

    Returns:
        The readings with three_way, nine_way, label (None where not reached) and biopsy; and the problems.
    """
    problems: list[str] = []
    rows = []
    for row, name in readings["diagnosis"].items():
        path = () if pd.isna(name) else tree.paths.get(str(name), ())
        if not path:
            names = [node for node in tree.paths if node != tree.root]
            text = f"{file_name} row {row_of(row)}: diagnosis={name} is no node of the tree. {nearest(name, names)}"
            problems.append(RowProblem(text, row))
        reached = [path[depth - 1] if len(path) >= depth else None for depth in (THREE_WAY, NINE_WAY)]
        leaf = path[-1] if path and not tree.children[path[-1]] else None
        rows.append((*reached, leaf, float("malignant" in path)))
    columns = pd.DataFrame(rows, columns=["three_way", "nine_way", "label", "biopsy"], index=readings.index)
    return readings.join(columns), problems
