"""A map of many numbers per record in two dimensions."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def tsne(embeddings: ArrayLike, seed: int, perplexity: float = 30.0) -> np.ndarray:
    """t-SNE (van der Maaten & Hinton, JMLR 9:2579, 2008) of (n, features), after PCA to 50 dimensions: (n, 2).

    The same input and seed give the same map. Distances between far groups mean nothing.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    values = np.asarray(embeddings, dtype=np.float64)
    if len(values) < 5:  # too few for neighbours to mean anything
        return np.zeros((len(values), 2))
    reduced = PCA(min(50, *values.shape), random_state=seed).fit_transform(values)
    neighbours = min(perplexity, (len(values) - 1) / 3)
    places: np.ndarray = TSNE(2, perplexity=neighbours, init="pca", random_state=seed).fit_transform(reduced)
    return places
