"""From the records' lineages to training classes and back. No torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from pipelines.skin.taxonomy import Taxonomy, level, partition
from pipelines.skin.trees import ROOT


def tree_of(lineages: Iterable[str]) -> Taxonomy:
    """The tree that some lineages ("malignant/malignant_melanoma/mel") span, in alphabetical order."""
    children: dict[str, list[str]] = {ROOT: []}
    for lineage in sorted(set(lineages)):
        above = ROOT
        for node in lineage.split("/"):
            if node not in children[above]:
                children[above].append(node)
            above = node
            children.setdefault(node, [])
    return Taxonomy(ROOT, children)


def find_classes(lineages: Iterable[str], max_class_size: int, depth: int | None = None) -> list[str]:
    """The training classes of some images, as paths joined by "/": by the partitioning algorithm, or (`depth`) the
    nodes of one level.
    """
    lineages = list(lineages)
    tree = tree_of(lineages)
    images = Counter(lineage.rpartition("/")[2] for lineage in lineages)
    nodes = partition(tree, images, max_class_size) if depth is None else level(tree, images, depth)
    return ["/".join(tree.paths[node]) for node in nodes]


def class_numbers(lineages: Iterable[str], classes: Sequence[str]) -> np.ndarray:
    """float32 (records,): which class each lineage lies in; NaN where in none."""
    number = {name: i for i, name in enumerate(classes)}
    found = []
    for lineage in lineages:
        path = lineage.split("/")
        above = ("/".join(path[:k]) for k in range(len(path), 0, -1))
        found.append(next((float(number[name]) for name in above if name in number), np.nan))
    return np.array(found, np.float32)
