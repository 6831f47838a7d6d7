"""The classifier of slides: a random forest over the features of their heatmaps (Wang et al. 2016; JAMA 2017).

A run keeps its forest as plain arrays, forest.npz, because thresholds are frozen together with what they judge:
fitted again, it could be another one with another version of scikit-learn. Nothing in the file is ever unpickled.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from pipelines.camelyon.slide_features import FEATURES
from pipelines.shared.errors import RunError
from pipelines.shared.run_folder import RunFolder, write_atomically

if TYPE_CHECKING:
    from sklearn.ensemble import RandomForestClassifier

TREES = 500


@dataclass(frozen=True)
class Forest:
    """The nodes of all trees, one tree after the other.

    Attributes:
        roots: (trees,) number of each tree's first node.
        feature: (nodes,) which of `FEATURES` a node asks for; -1: it is a leaf.
        threshold: (nodes,) a slide goes left where its feature is at most that, else right.
        left, right: (nodes,) numbers of the nodes that follow; -1 for a leaf.
        tumour: (nodes,) the weighted share of training slides with metastases that came to a node.
    """

    roots: np.ndarray
    feature: np.ndarray
    threshold: np.ndarray
    left: np.ndarray
    right: np.ndarray
    tumour: np.ndarray

    def probabilities(self, features: pd.DataFrame) -> np.ndarray:
        """(slides,) probability of metastases: the mean over the trees, exactly as scikit-learn computes it.

        Args:
            features: one row per slide, with the columns `FEATURES`.
        """
        x = features[FEATURES].to_numpy(np.float64).astype(np.float32)  # scikit-learn's trees look at single precision
        slide = np.arange(len(x))
        total = np.zeros(len(x))
        for root in self.roots:
            node = np.full(len(x), root)
            while (inner := self.feature[node] >= 0).any():
                is_left = x[slide, self.feature[node]] <= self.threshold[node]
                node = np.where(inner, np.where(is_left, self.left[node], self.right[node]), node)
            total += self.tumour[node]
        return total / len(self.roots)

    def problem(self) -> str | None:
        """Why these arrays are no forest, if they are none."""
        n = len(self.feature)
        arrays = (self.threshold, self.left, self.right, self.tumour)
        if not n or not len(self.roots) or any(a.shape != (n,) for a in arrays):
            return "its arrays are empty or of different length"
        if any(a.dtype.kind != "i" for a in (self.roots, self.feature, self.left, self.right)):
            return "its nodes are not numbered"
        if not (np.isfinite(self.threshold).all() and ((self.tumour >= 0) & (self.tumour <= 1 + 1e-9)).all()):
            return "it holds thresholds or shares that cannot be"
        node = np.arange(n)
        inner = self.feature >= 0
        forward = [(c[inner] > node[inner]) & (c[inner] < n) for c in (self.left, self.right)]  # so every way ends
        if not (all(f.all() for f in forward) and ((self.roots >= 0) & (self.roots < n)).all()):
            return "its nodes do not form trees"
        return "it asks for features that do not exist" if (self.feature >= len(FEATURES)).any() else None


def fit_forest(features: pd.DataFrame, labels: np.ndarray, seed: int, trees: int = TREES) -> Forest:
    """A random forest of training slides.

    Args:
        features: one row per slide, with the columns `FEATURES`.
        labels: (slides,) 0 or 1, both present.
        seed: of the forest.
        trees: how many.

    Raises:
        ValueError: the labels are not both there.
    """
    from sklearn.ensemble import RandomForestClassifier

    if set(np.unique(labels)) != {0, 1}:
        raise ValueError(f"a forest needs slides of both labels, found {np.unique(labels).tolist()}")
    forest = RandomForestClassifier(trees, class_weight="balanced", random_state=seed, n_jobs=1)
    return as_arrays(forest.fit(features[FEATURES].to_numpy(np.float64), np.asarray(labels, int)))


def as_arrays(forest: RandomForestClassifier) -> Forest:
    """The nodes of scikit-learn's forest of the classes 0 and 1."""
    trees = [estimator.tree_ for estimator in forest.estimators_]
    roots = np.cumsum([0, *(tree.node_count for tree in trees)])[:-1]

    def following(name: str) -> np.ndarray:
        parts = [(getattr(tree, name), root) for tree, root in zip(trees, roots, strict=True)]
        return np.concatenate([np.where(part < 0, -1, part + root) for part, root in parts])

    left = following("children_left")
    feature = np.where(left < 0, -1, np.concatenate([tree.feature for tree in trees]))
    threshold = np.concatenate([tree.threshold for tree in trees])
    tumour = np.concatenate([tree.value[:, 0, 1] for tree in trees])
    return Forest(roots, feature, threshold, left, following("children_right"), tumour)


# --- files ---


def forest_file(run: RunFolder) -> Path:
    """forest.npz."""
    return run.path / "forest.npz"


def write_forest(file: Path, forest: Forest) -> None:
    """The arrays, and the names of the features that they count."""

    def write(aside: Path) -> None:
        with aside.open("wb") as stream:
            arrays = {field.name: getattr(forest, field.name) for field in fields(Forest)}
            np.savez_compressed(stream, allow_pickle=False, features=np.array(FEATURES), **arrays)

    write_atomically(file, write)


def read_forest(file: Path) -> Forest:
    """A forest that `write_forest` wrote.

    Raises:
        RunError: damaged (the file keeps checksums), no forest, or one of other features.
    """
    try:
        with np.load(file, allow_pickle=False) as stored:
            features = np.asarray(stored["features"]).tolist()
            forest = Forest(**{field.name: np.asarray(stored[field.name]) for field in fields(Forest)})
        problem = forest.problem()
    except Exception as failure:  # an archive has many ways of being damaged
        features, problem = FEATURES, " ".join(str(failure).split())[:160]
    if features != FEATURES:
        raise RunError(
            f"{file} is a forest of other features than this version computes.",
            "Use the version that made the run (its environment.json names it).",
        )
    if problem is not None:
        raise RunError(f"{file} is damaged: {problem}.", "Copy the whole run folder again.")
    return forest
