"""Logistic recalibration, logit P(y = 1) = intercept + slope * logit(p), on many weightings of the rows at once.

Cox, Biometrika 45:562 (1958); Steyerberg, Clinical Prediction Models (2nd ed., 2019), ch. 15.

Newton's method on two parameters (iteratively reweighted least squares), halving a step that does not improve the
likelihood. The likelihood is concave, so this finds its maximum wherever that is finite.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from pipelines.shared.errors import StatisticsError
from pipelines.shared.stats.bootstrap import STANDARD, Bootstrap, bootstrap_estimates
from pipelines.shared.stats.checks import as_binary, as_probabilities, same_length, two_classes
from pipelines.shared.stats.estimate import Estimate

# p is clipped to [CLIP, 1 - CLIP] before its logit is taken; float32 sigmoids reach exactly 0 and 1.
CLIP = 1e-6
MAX_ITERATIONS = 100
TOLERANCE = 1e-9


def recalibration_estimates(
    y: ArrayLike, p: ArrayLike, group: ArrayLike, *, bootstrap: Bootstrap = STANDARD
) -> dict[str, Estimate]:
    """How to recalibrate, with clustered bootstrap intervals.

    Args:
        y: (n,) 0/1.
        p: (n,) probabilities, clipped to [CLIP, 1 - CLIP].
        group: (n,) keys.
        bootstrap: resamples, seed and level.

    Returns:
        `slope` and `intercept` of the regression: 1 and 0 where calibrated; a slope below 1 means that the
        probabilities are too extreme. `in_the_large`: the intercept with the slope fixed to 1, above 0 if the
        probabilities are too low overall. Null with the reason where undefined: one class, classes that p separates,
        p without spread, no convergence; NaN, p outside [0, 1], no rows, lengths differ.
    """

    def estimates(fixed_slope: bool) -> list[Estimate]:
        """Intercept and slope."""
        try:
            truth, logit = _checked(y, p)
            start = _fit_all(truth, logit, fixed_slope)
        except StatisticsError as error:
            return [Estimate(None, n=np.size(y), reason=str(error))] * 2

        def statistic(counts: np.ndarray) -> np.ndarray:
            fits = np.full((len(counts), 2), np.nan)
            possible = _both_classes(truth, counts) if fixed_slope else _overlap(truth, logit, counts)
            # the fits of resamples lie near that of all rows: starting there takes fewer iterations
            fits[possible] = _fit(truth, logit, counts[possible], start, fixed_slope)
            return fits

        return bootstrap_estimates(
            start,
            statistic,
            group,
            n=len(truth),
            bootstrap=bootstrap,
            undefined="with one class" if fixed_slope else "with separated classes",
            positives=int(truth.sum()),
        )

    intercept, slope = estimates(fixed_slope=False)
    return {"slope": slope, "intercept": intercept, "in_the_large": estimates(fixed_slope=True)[0]}


def _checked(y: ArrayLike, p: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """y (n,) bool with both classes, and logit(p) (n,)."""
    truth, probability = as_binary(y), as_probabilities(p)
    same_length(y=truth, p=probability)
    two_classes(truth)
    clipped = np.clip(probability, CLIP, 1 - CLIP)
    return truth, np.log(clipped) - np.log1p(-clipped)


def _fit_all(y: np.ndarray, logit: np.ndarray, fixed_slope: bool) -> tuple[float, float]:
    """Intercept and slope (1 if fixed) of all rows."""
    counts = np.ones((1, len(y)))
    if not fixed_slope and not _overlap(y, logit, counts)[0]:
        equal = logit.min() == logit.max()
        raise StatisticsError("all probabilities are equal" if equal else "the probabilities separate the classes")
    intercept, slope = _fit(y, logit, counts, (0.0, 1.0), fixed_slope)[0]
    if np.isnan(slope):
        raise StatisticsError(f"logistic recalibration did not converge in {MAX_ITERATIONS} iterations")
    return float(intercept), float(slope)


def _both_classes(y: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return np.logical_and(counts[:, y].any(axis=1), counts[:, ~y].any(axis=1))


def _overlap(y: np.ndarray, logit: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(b,) whether the ranges of the two classes overlap; only then is the slope finite.

    Albert & Anderson, Biometrika 71:1 (1984), for one covariate.
    """

    def span(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        present = counts[:, rows] > 0
        values = np.broadcast_to(logit[rows], present.shape)
        return (
            values.min(axis=1, where=present, initial=np.inf),
            values.max(axis=1, where=present, initial=-np.inf),
        )

    (low_positive, high_positive), (low_negative, high_negative) = span(y), span(~y)
    # an absent class has the span (inf, -inf), which overlaps nothing
    return (high_negative > low_positive) & (high_positive > low_negative)


def _fit(
    y: np.ndarray, logit: np.ndarray, counts: np.ndarray, start: tuple[float, float], fixed_slope: bool
) -> np.ndarray:
    """(b, 2) intercept and slope for each row of counts (b, n); NaN without convergence."""
    fits = np.full((len(counts), 2), np.nan)
    running = np.arange(len(counts))  # rows of `counts` that have not converged
    weights = counts.astype(np.float64)
    best = np.tile(np.asarray(start, dtype=np.float64), (len(counts), 1))
    loss, gradient, hessian = _derivatives(y, logit, weights, best)
    step = _newton_step(gradient, hessian, fixed_slope)
    for _ in range(MAX_ITERATIONS):
        done = (np.abs(step) < TOLERANCE * (1 + np.abs(best))).all(axis=1)
        fits[running[done]] = best[done]
        running, weights, best, loss, step = (x[~done] for x in (running, weights, best, loss, step))
        if not running.size:
            break
        new_loss, gradient, hessian = _derivatives(y, logit, weights, best + step)
        better = new_loss <= loss * (1 + 1e-12)
        best = np.where(better[:, None], best + step, best)
        loss = np.where(better, new_loss, loss)
        step = np.where(better[:, None], _newton_step(gradient, hessian, fixed_slope), step / 2)
    return fits


def _derivatives(
    y: np.ndarray, logit: np.ndarray, weights: np.ndarray, fit: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Negative log likelihood (b,), minus its gradient (b, 2), and its Hessian as (b, 3): 00, 01, 11."""
    eta = fit[:, :1] + fit[:, 1:] * logit
    small = np.exp(-np.abs(eta))  # never overflows
    probability = np.where(eta >= 0, 1.0, small) / (1 + small)
    loss = ((np.maximum(eta, 0) + np.log1p(small) - y * eta) * weights).sum(axis=1)
    powers = np.stack([np.ones_like(logit), logit, logit**2], axis=1)
    gradient = (weights * (y - probability)) @ powers[:, :2]
    hessian = (weights * probability * (1 - probability)) @ powers
    return loss, gradient, hessian


def _newton_step(gradient: np.ndarray, hessian: np.ndarray, fixed_slope: bool) -> np.ndarray:
    """Hessian^-1 gradient, (b, 2), the slope's part zero if it is fixed; a gradient step where that is singular."""
    h00, h01, h11 = hessian.T
    g0, g1 = gradient.T
    if fixed_slope:
        fallback, determinant, singular = np.stack([g0, 0 * g1], axis=1), h00, h00 <= 1e-300
        solved = fallback
    else:
        fallback, determinant = gradient, h00 * h11 - h01**2
        singular = determinant <= 1e-14 * h00 * h11
        solved = np.stack([h11 * g0 - h01 * g1, h00 * g1 - h01 * g0], axis=1)
    step: np.ndarray = np.divide(solved, determinant[:, None], out=fallback.copy(), where=~singular[:, None])
    return step
