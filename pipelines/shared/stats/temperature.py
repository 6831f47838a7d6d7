"""Temperature scaling: one number that makes a softmax as sure as it is right.

Guo et al., On calibration of modern neural networks, ICML 2017, section 4.2.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from pipelines.shared.errors import StatisticsError

RANGE = (0.05, 20.0)  # of temperatures that are looked at
LEAST = 1e-12  # a probability of 0 that is to be tempered counts as this


def best_temperature(outputs: ArrayLike, truth: ArrayLike) -> float:
    """The T at which softmax(outputs / T) makes the true classes most likely; above 1 where outputs are too sure.

    The likelihood is concave in 1 / T, so there is one such T; it is looked for within `RANGE`.

    Args:
        outputs: (n, classes); -inf for a class that cannot be. Logarithms of probabilities will do.
        truth: (n,) numbers of the classes; NaN where unknown. A record of a class that cannot be does not count.

    Raises:
        StatisticsError: fewer than two classes among the records that count, outputs that are no numbers, or outputs
            that are highest for the true class everywhere: the lower T, the better then.
    """
    values, number = np.asarray(outputs, np.float64), np.asarray(truth, np.float64)
    if np.isnan(values).any() or (values == np.inf).any():
        raise StatisticsError("outputs must be numbers")
    values, number = values[~np.isnan(number)], number[~np.isnan(number)].astype(int)
    own = values[np.arange(len(values)), number]
    values, number, own = (x[own > -np.inf] for x in (values, number, own))
    if len(np.unique(number)) < 2:
        raise StatisticsError("a temperature needs records of two classes")
    behind = values - own[:, None]  # by how much each class is ahead of the true one; the true one is 0
    if (behind <= 0).all():
        raise StatisticsError("every record is answered rightly, so the lower the temperature, the better")

    from scipy.optimize import minimize_scalar  # half a second that a prediction does without
    from scipy.special import logsumexp

    def loss(log_temperature: float) -> float:
        return float(logsumexp(behind / math.exp(log_temperature), axis=1).mean())

    bounds = tuple(math.log(end) for end in RANGE)
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-8})
    return math.exp(found.x) if found.fun < loss(0.0) else 1.0


def tempered(probabilities: ArrayLike, temperature: float) -> np.ndarray:
    """Probabilities (n, classes), each row to the power of 1 / temperature and summing to 1 again; NaN stays NaN."""
    p = np.asarray(probabilities, np.float64)
    powers = (p / np.nanmax(p, axis=-1, keepdims=True)) ** (1 / temperature)
    return np.asarray(powers / np.nansum(powers, axis=-1, keepdims=True))
