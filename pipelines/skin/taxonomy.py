"""The two algorithms of Esteva et al. 2017 (Methods): which nodes of a disease tree become training classes, and what
the probabilities of these say about every other node.

A tree's leaves are a dataset's own labels. The nodes below its root are the three-way partition (benign, malignant,
non-neoplastic), those one level deeper the nine-way partition.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

THREE_WAY, NINE_WAY = 1, 2  # levels below the root


@dataclass(frozen=True)
class Taxonomy:
    """A tree of diseases: every node's children in their order, none for a leaf. Names are unique."""

    root: str
    children: Mapping[str, Sequence[str]]

    @cached_property
    def paths(self) -> dict[str, tuple[str, ...]]:
        """Every node's path from below the root to the node itself; the root's is empty."""
        path_of: dict[str, tuple[str, ...]] = {self.root: ()}
        queue = [self.root]
        while queue:
            node = queue.pop()
            for child in self.children[node]:
                path_of[child] = (*path_of[node], child)
                queue.append(child)
        return path_of

    @cached_property
    def leaves(self) -> list[str]:
        """All leaves, from left to right."""
        return self.leaves_below(self.root)

    def leaves_below(self, node: str) -> list[str]:
        """The leaves below a node; a leaf's own name for a leaf."""
        if not self.children[node]:
            return [node]
        return [leaf for child in self.children[node] for leaf in self.leaves_below(child)]


def partition(tree: Taxonomy, images: Mapping[str, int], max_class_size: int) -> list[str]:
    """The disease-partitioning algorithm: recursively from the root, a node with fewer than `max_class_size` images
    below it becomes one training class, otherwise its children are tried; a leaf is a class in any case.

    Args:
        tree: the taxonomy.
        images: how many images each leaf has; leaves that are not named have none.
        max_class_size: the paper's is 1,000; 1 makes every leaf a class of its own.

    Returns:
        The nodes that are training classes, from left to right. Every leaf with images lies below exactly one of
        them (or is it); classes without images are left out.
    """

    def size(node: str) -> int:
        return sum(images.get(leaf, 0) for leaf in tree.leaves_below(node))

    def descend(node: str) -> list[str]:
        if size(node) < max_class_size or not tree.children[node]:
            return [node]
        return [part for child in tree.children[node] for part in descend(child)]

    return [node for node in descend(tree.root) if size(node) > 0]


def level(tree: Taxonomy, images: Mapping[str, int], depth: int) -> list[str]:
    """The nodes with images at one level: coarse training classes, for the ablation (three-way 1, nine-way 2)."""
    seen = [tree.paths[leaf][:depth][-1] for leaf in tree.leaves if images.get(leaf, 0) > 0]
    return list(dict.fromkeys(seen))


def infer(probabilities: np.ndarray, classes: Sequence[Sequence[str]]) -> dict[str, np.ndarray]:
    """The inference algorithm: the probability of a node is the sum over the training classes below it.

    Args:
        probabilities: (n, classes), of the training classes.
        classes: the path of each training class, from below the root to the class itself.

    Returns:
        (n,) for every node that is a training class or lies above one. Nodes inside a training class are not there:
        the network does not tell them apart.
    """
    of_node: dict[str, np.ndarray] = {}
    for column, path in enumerate(classes):
        for node in path:
            of_node[node] = of_node.get(node, 0.0) + probabilities[:, column]
    return of_node


def answers(paths: Sequence[Sequence[str]], known: Sequence[str]) -> list[str | None]:
    """Which known node answers for each of a dataset's leaves, whose tree may be another than the network's.

    Two trees speak of the same disease where a node has the same name. A leaf is answered by its own name, else by the
    nearest node above it that is known, provided no other leaf of the dataset lies below that node.

    Args:
        paths: of the dataset's leaves, each from below the root to the leaf.
        known: names of the nodes whose probability the network gives.

    Returns:
        For each leaf a known node, or None: the network does not tell it from another leaf, or has not seen it.
    """
    names = set(known)
    chosen: list[str | None] = []
    for path in paths:
        node = next((n for n in reversed(path) if n in names), None)
        shared = sum(node in other for other in paths) if node else 0
        chosen.append(node if shared == 1 else None)
    return chosen
