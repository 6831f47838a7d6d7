"""From the records' lineages to training classes and back. No torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from pipelines.shared.errors import DataError
from pipelines.skin.config import SkinConfig
from pipelines.skin.taxonomy import NINE_WAY, THREE_WAY, Taxonomy, level, partition
from pipelines.skin.trees import ROOT

DEPTHS = {"nine_way": NINE_WAY, "three_way": THREE_WAY}


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


def training_classes(lineages: Sequence[str], config: SkinConfig) -> list[str]:
    """The training classes of some training images, as the configuration wants them.

    Raises:
        DataError: all images fall into one class.
    """
    classes = find_classes(lineages, config.data.max_class_size, DEPTHS.get(config.partition.level))
    if len(classes) < 2:
        raise DataError(
            f"All {len(lineages)} training images fall into {len(classes)} class (data.max_class_size="
            f"{config.data.max_class_size}, partition.level={config.partition.level}).",
            "Lower data.max_class_size, or take data with more than one diagnosis.",
        )
    return classes


def class_numbers(lineages: Iterable[str], classes: Sequence[str]) -> np.ndarray:
    """float32 (records,): which class each lineage lies in; NaN where in none."""
    number = {name: i for i, name in enumerate(classes)}
    numbers = []
    for lineage in lineages:
        path = lineage.split("/")
        above = ("/".join(path[:k]) for k in range(len(path), 0, -1))
        numbers.append(next((float(number[name]) for name in above if name in number), np.nan))
    return np.array(numbers, np.float32)
