"""Who learns from whom: the folds, and for each test fold the part that every record plays. No torch.

strict: folds by patient. For test fold k the base learners learn from the folds that are neither k nor k + 1, a few of
their patients choosing the best epoch; the ensemble learns on fold k + 1, which no base learner has seen; the score is
that of fold k. So no label of a test patient has touched anything behind its prediction.

released: what the authors' code did. Pictures are shuffled, not patients; the last 20 % are the test part of all
folds; fold k chooses the base learners' best epoch, the others train them; and the ensemble learns from the base
learners' predictions on their own training pictures.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from pipelines.covid_flannel.config import CLASSES, CovidConfig
from pipelines.shared.data.given_splits import GIVEN_FOLD
from pipelines.shared.data.splits import folds, grouped_split, subsample_groups
from pipelines.shared.errors import ConfigError, DataError
from pipelines.shared.seeds import seed_of

FIXED = -1  # the fold of records that are the test part of every fold
FEWEST = 4  # patients of every class that the strict protocol needs: two to train and tune, one to stack, one to test
RELEASED_TEST = 0.2


def divide(records: pd.DataFrame, config: CovidConfig) -> pd.DataFrame:
    """The records with `fold` (0 …, or FIXED) and `split`.

    Where every record is tested once `split` is test for all. Where there is a fixed test part, the others are train;
    so are records of folds that this run does not do (`folds`).

    Raises:
        DataError: a class has too few patients.
        ConfigError: `folds` names one that there is not.
    """
    records = records.copy()
    fixed = (records["split"] == "test").to_numpy()
    if GIVEN_FOLD in records:  # of split.file
        records["fold"] = records[GIVEN_FOLD].astype(int)
    elif config.protocol == "released":
        _check_classes(records[~fixed], 2)
        records["fold"] = _shuffled(records, fixed, config)
    else:
        most = _check_classes(records[~fixed], FEWEST - int(fixed.any()))
        rest = records[~fixed].assign(split=None)
        fold = folds(rest, min(config.fold_count, most), "stratum", config.seed)
        records["fold"] = fold.reindex(records.index).fillna(FIXED).astype(int)
    there = fold_numbers(records)
    beyond = [k for k in config.chosen_folds or [] if k not in there]
    if beyond:
        raise ConfigError(
            f"folds: {beyond[0]} is not there.", f"The rarest class allows {len(there)}: 0 to {there[-1]}."
        )
    fixed = (records["fold"] == FIXED).to_numpy()
    tested = fixed if fixed.any() else np.ones(len(records), bool)
    if config.chosen_folds is not None and not fixed.any():
        tested = records["fold"].isin(config.chosen_folds).to_numpy()
    records["split"] = np.where(tested, "test", "train")
    return records


def _check_classes(records: pd.DataFrame, needed: int) -> int:
    """How many patients the rarest class has (a patient with several classes counts as the gravest)."""
    gravest = records.groupby("group")["stratum"].max()
    numbers, sizes = np.unique(gravest.to_numpy(int), return_counts=True)
    counts = {CLASSES[len(CLASSES) - 1 - int(s)]: int(n) for s, n in zip(numbers, sizes, strict=True)}
    short = [f"{name} {n}" for name, n in counts.items() if n < needed]
    if short or len(counts) < 2:
        present = ", ".join(short) if short else f"only {', '.join(counts)}"
        raise DataError(
            f"Too few patients for cross-validation: {present}; at least {needed} of every class that occurs and two "
            "classes are needed.",
            "Add patients of these classes, take another source beside this one (data=ccx_kcx), or leave the class out "
            "(data.rules=<your table>).",
        )
    return min(counts.values())


def _shuffled(records: pd.DataFrame, fixed: np.ndarray, config: CovidConfig) -> np.ndarray:
    """Folds by picture, patients not looked at."""
    order = np.argsort([seed_of(config.seed, "released", name) for name in records["id"]])
    order = order[~fixed[order]]
    fold = np.full(len(records), FIXED)
    free = order if fixed.any() else order[: round((1 - RELEASED_TEST) * len(order))]
    for k, part in enumerate(np.array_split(free, config.fold_count)):
        fold[part] = k
    return fold


def fold_numbers(records: pd.DataFrame) -> list[int]:
    """The folds that there are."""
    return sorted(int(k) for k in records["fold"].unique() if k != FIXED)


def roles(records: pd.DataFrame, fold: int, config: CovidConfig) -> dict[str, np.ndarray]:
    """For one test fold, who plays which part.

    Returns:
        Masks (records,) by name: `train` and `val` (base learners: gradients, best epoch), `stack` (the ensemble learns
        from the base learners' predictions for these, and thresholds are chosen on them), `test`. Under the strict
        protocol no patient is in two of train + val, stack and test; under the released one stack is train.
    """
    number = records["fold"].to_numpy()
    count = len(fold_numbers(records))
    has_fixed = bool((number == FIXED).any())
    test = number == (FIXED if has_fixed else fold)
    if config.protocol == "released":
        train = (number != FIXED) & (number != fold)
        return {"train": _fewer(records, train, config), "val": number == fold, "stack": train, "test": test}
    stack = number == (fold if has_fixed else (fold + 1) % count)
    rest = records[~(test | stack)].assign(split=None)
    shares = {"train": 1 - config.cross_validation.tune, "val": config.cross_validation.tune}
    part = grouped_split(rest, shares, "stratum", seed_of(config.seed, "tune", fold)).reindex(records.index)
    train = (part == "train").to_numpy()
    return {"train": _fewer(records, train, config), "val": (part == "val").to_numpy(), "stack": stack, "test": test}


def _fewer(records: pd.DataFrame, train: np.ndarray, config: CovidConfig) -> np.ndarray:
    """`data.train_size`: only so many of a fold's training patients."""
    size = config.data.train_size
    if size is None or size >= records[train]["group"].nunique():
        return train
    chosen = set(subsample_groups(records[train], size, config.seed)["id"])
    return train & records["id"].isin(chosen).to_numpy()
