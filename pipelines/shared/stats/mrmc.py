"""A model beside several readers on the same cases, where readers and cases are samples (multi-reader multi-case).

Each reader j has a figure of merit on the same cases. Obuchowski and Rockette take it as mu + R_j + e_j: R_j is how
readers differ, and the errors e_j of two readers covary, as they read the same cases. The mean over readers then has
the variance (MS(R) + J Cov2) / J, with the mean square MS(R) between J readers and the mean covariance Cov2 of two of
them; Hillis' degrees of freedom are (MS(R) + J Cov2)^2 / (MS(R)^2 / (J - 1)). A covariance below 0 counts as 0. The
same holds where readers have not read the same cases: errors covary as far as cases are shared.

Put to the differences model - reader, this compares a model with the readers' mean. Put to the differences of two
modalities, reader by reader, it is their F test for two modalities: t^2 = F, with the same degrees of freedom.

- Obuchowski & Rockette, Commun Stat Simul Comput 24:285 (1995): the model.
- Hillis, Stat Med 26:596 (2007), and Acad Radiol 21:S79 (2014): degrees of freedom, single modality.
- Chakraborty, Observer Performance Methods for Diagnostic Imaging (2017), chapter 22: a model against readers.
- Efron & Tibshirani, An Introduction to the Bootstrap (1993), chapter 11: the jackknife; here groups are left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from pipelines.shared.errors import StatisticsError
from pipelines.shared.stats.bootstrap import BLOCK_ELEMENTS, Statistic, divide, group_codes
from pipelines.shared.stats.checks import as_binary, check_level, same_length
from pipelines.shared.stats.estimate import Estimate


@dataclass(frozen=True)
class OverReaders:
    """A mean over readers with its interval, and the test that it is 0; `df` is infinite where readers are alike.

    All but the estimate are None where the test is undefined; the estimate then says why.
    """

    estimate: Estimate
    standard_error: float | None = None
    t: float | None = None
    df: float | None = None
    p_value: float | None = None


def balanced_accuracies(truth: np.ndarray, answers: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The mean of sensitivity and specificity: of a yes-or-no answer, the area under its ROC curve.

    Args:
        truth: bool (n,).
        answers: (m, n) 0 or 1, one row for each who answers; NaN for a case that was not answered.
        weights: (b, n), how much each case counts.

    Returns:
        (b, m); NaN where a class has no weight.
    """
    answered, called = ~np.isnan(answers), np.nan_to_num(answers)
    positive, negative = weights * truth, weights * ~truth
    sensitivity = divide(positive @ called.T, positive @ answered.T)
    specificity = divide(negative @ (answered - called).T, negative @ answered.T)
    mean: np.ndarray = (sensitivity + specificity) / 2
    return mean


def jackknife_covariance(statistic: Statistic, group: ArrayLike) -> np.ndarray:
    """The covariance (k, k) of a statistic, by leaving out one group after the other.

    Args:
        statistic: weights (b, n) of the rows -> values (b, k).
        group: (n,) keys.

    Raises:
        StatisticsError: one group only, or the statistic is undefined without some group.
    """
    codes, groups = group_codes(group)
    if groups < 2:
        raise StatisticsError("one group only")
    block = max(1, BLOCK_ELEMENTS // len(codes))
    without = np.concatenate(
        [
            statistic((codes != np.arange(start, min(start + block, groups))[:, None]).astype(float))
            for start in range(0, groups, block)
        ]
    )
    if np.isnan(without).any():
        raise StatisticsError("all positives, or all negatives, lie in one group")
    off = without - without.mean(axis=0)
    covariance: np.ndarray = (groups - 1) / groups * (off.T @ off)
    return covariance


def mean_over_readers(values: ArrayLike, covariance: np.ndarray, level: float = 0.95) -> OverReaders:
    """The mean of readers' figures of merit, or of differences, for new readers and new cases.

    Args:
        values: (J,), at least two.
        covariance: (J, J) of these, from the cases.
        level: of the interval.

    Raises:
        StatisticsError: fewer than two readers.
    """
    from scipy.stats import t as student  # half a second that a prediction does without

    check_level(level)
    each = np.asarray(values, float)
    readers = len(each)
    if readers < 2:
        raise StatisticsError("one reader: how readers differ takes at least two")
    mean, between = float(each.mean()), float(each.var(ddof=1))
    shared = max(float(covariance[~np.eye(readers, dtype=bool)].mean()), 0.0)
    total = between + readers * shared
    if total < 1e-15:  # zero but for rounding
        return OverReaders(Estimate(mean, reason="no variation between readers or cases"))
    df = total**2 / (between**2 / (readers - 1)) if between > 0 else math.inf
    error = math.sqrt(total / readers)
    half = float(student.ppf((1 + level) / 2, df)) * error
    method = f"Obuchowski-Rockette, Hillis' degrees of freedom, {100 * level:g} %"
    statistic = mean / error
    return OverReaders(
        Estimate(mean, mean - half, mean + half, method),
        error,
        statistic,
        df,
        float(2 * student.sf(abs(statistic), df)),
    )


@dataclass(frozen=True)
class BesideReaders:
    """A model beside readers, by balanced accuracy.

    Attributes:
        readers: (J,) of each reader, on the cases that this reader read.
        model: (J,) of the model, on the same cases of each reader.
        cases: (J,) how many these are.
        left_out: rows of `answers` without a part in it: they read positives, or negatives, of fewer than two groups.
        difference: model minus reader, mean over the readers.
    """

    readers: np.ndarray
    model: np.ndarray
    cases: np.ndarray
    left_out: np.ndarray
    difference: OverReaders


def model_beside_readers(
    truth: ArrayLike, model: ArrayLike, answers: ArrayLike, group: ArrayLike, level: float = 0.95
) -> BesideReaders:
    """A model's balanced accuracy minus the readers', for new readers and new cases.

    Each reader is compared with the model on the cases that this reader read: not all need have read all.

    Args:
        truth: (n,) 0/1.
        model: (n,) 0/1.
        answers: (J, n) 0/1 of the readers; NaN for a case that was not read.
        group: (n,) keys of what the cases were sampled by.
        level: of the interval.

    Returns:
        The difference null, with the reason, where it is undefined.

    Raises:
        StatisticsError: lengths differ, values that are not 0 or 1, missing keys.
    """
    positive, own, (codes, _) = as_binary(truth), as_binary(model, "model").astype(float), group_codes(group)
    read = np.atleast_2d(np.asarray(answers, float))
    same_length(truth=positive, model=own, group=codes, answers=read[0])
    as_binary(np.where(np.isnan(read), 0, read).ravel(), "answers")
    there = ~np.isnan(read)
    enough = np.array(
        [min(len(np.unique(codes[row & positive])), len(np.unique(codes[row & ~positive]))) > 1 for row in there], bool
    )
    read, there = read[enough], there[enough]
    used = there.any(axis=0)  # by any reader
    positive, read, there, codes = positive[used], read[:, used], there[:, used], codes[used]
    its = np.where(there, own[used], np.nan)  # the model's answers to each reader's cases
    values = [balanced_accuracies(positive, rows, np.ones((1, len(positive))))[0] for rows in (read, its)]

    def differences(weights: np.ndarray) -> np.ndarray:
        its_mean, read_mean = (balanced_accuracies(positive, answers, weights) for answers in (its, read))
        difference: np.ndarray = its_mean - read_mean
        return difference

    n, groups = len(codes), len(np.unique(codes))
    try:
        if len(read) < 2:
            raise StatisticsError(f"{len(read)} readers have read enough: how readers differ takes at least two")
        found = mean_over_readers(values[1] - values[0], jackknife_covariance(differences, codes), level)
    except StatisticsError as error:
        found = OverReaders(Estimate(None, reason=str(error)))
    counted = replace(found.estimate, n=n, groups=groups, positives=int(positive.sum()))
    return BesideReaders(
        values[0], values[1], there.sum(axis=1), np.flatnonzero(~enough), replace(found, estimate=counted)
    )
