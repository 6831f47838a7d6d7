"""Outputs that no training record taught: what is said of them is null, with the reason. No torch.

A network has an output for every class of its study, whatever its training data have labels for. An output that never
saw both sides of its question stays at its random start, or says the same of everything: its numbers mean nothing, nor
does anything that is made from them. `model.json` names them (`untaught`), and everything reads it there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pipelines.shared.stats.estimate import Estimate

NO_LABEL = "no training record has a label for it"
NO_RECORD = "no training record has it"
EVERY_RECORD = "every training record has it"


def find_untaught(classes: Sequence[str], targets: np.ndarray) -> dict[str, str]:
    """The outputs that these targets do not teach, in their order -> why.

    Args:
        classes: the outputs.
        targets: of the training records: (records, outputs) 0 or 1, or (records,) numbers of the classes; NaN where
            unknown.
    """
    if targets.ndim == 1:
        known = targets[~np.isnan(targets)]
        targets = (known[:, None] == np.arange(len(classes))).astype(float)
    untaught = {}
    for name, column in zip(classes, targets.T, strict=True):
        values = column[~np.isnan(column)]
        if len(values) == 0:
            untaught[name] = NO_LABEL
        elif (values == values[0]).all():
            untaught[name] = EVERY_RECORD if values[0] else NO_RECORD
    return untaught


def untaught_of(models: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """The outputs that some of these networks were never taught -> why; `models`: what their model.json say."""
    return {name: why for model in models for name, why in model.get("untaught", {}).items()}


def untaught_lines(untaught: Mapping[str, str]) -> list[str]:
    """One sentence that names the outputs and the reasons, for people; none where everything was taught."""
    if not untaught:
        return []
    by_reason: dict[str, list[str]] = {}
    for name, why in untaught.items():
        by_reason.setdefault(why, []).append(name)
    parts = [f"{', '.join(names)} ({why})" for why, names in by_reason.items()]
    return [f"Never taught, so null, and with it all that is made from it: {'; '.join(parts)}."]


def undefined(estimates: Mapping[str, Estimate], why: str | None) -> dict[str, Estimate]:
    """The estimates without values, for a reason; as they are where there is none."""
    if why is None:
        return dict(estimates)
    return {key: replace(e, value=None, low=None, high=None, method=None, reason=why) for key, e in estimates.items()}


def undefined_classes(estimates: Mapping[str, Estimate], untaught: Mapping[str, str]) -> dict[str, Estimate]:
    """The estimates, those of single classes (`…[<class>]…`) null with the reason where training lacks the class.

    Averages over the classes keep their value: records of such a class are missed, and count as such.
    """
    masked = dict(estimates)
    for name, why in untaught.items():
        masked |= undefined({key: e for key, e in estimates.items() if f"[{name}]" in key}, why)
    return masked


def most_probable(p: np.ndarray) -> np.ndarray:
    """The most probable class (...,) of probabilities (..., classes); never one that is NaN, as nothing taught it."""
    classes: np.ndarray = np.nan_to_num(p, nan=-1.0).argmax(axis=-1)
    return classes
