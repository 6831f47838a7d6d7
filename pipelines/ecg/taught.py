"""What training taught a network to tell apart: classes by themselves, or only the sum of several of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.ecg.config import CLASSES, LabelSection


@dataclass(frozen=True)
class Taught:
    """What a network's answer may be.

    A label of whole recordings that allows one class teaches that class; one that allows several teaches their sum
    only, and how it is divided among those that nothing else taught is left to chance: they have one answer together,
    the label.

    Attributes:
        names: the possible answers: classes, then labels that stand for several.
        members: which classes each of them sums, float64 (names, 12), 0 or 1.
        missing: class that is no answer of its own -> why.
    """

    names: list[str]
    members: np.ndarray
    missing: dict[str, str]

    def answers(self, p: np.ndarray) -> np.ndarray:
        """Probabilities of the names (..., names) from those of the classes (..., 12); NaN stays NaN."""
        answers: np.ndarray = np.asarray(p) @ self.members.T
        return answers

    def sentence(self) -> str | None:
        """The missing classes by their reasons; None if nothing is missing."""
        reasons = dict.fromkeys(self.missing.values())
        parts = [f"{', '.join(c for c, r in self.missing.items() if r == reason)}: {reason}" for reason in reasons]
        return "; ".join(parts) or None


def taught(trained: Sequence[str], labels: LabelSection) -> Taught:
    """What a network was taught.

    Args:
        trained: the labels that training held (`Architecture.trained`).
        labels: of the run's configuration.
    """
    allowed = {word: labels.record.get(word, [word]) for word in trained}
    alone = {names[0] for names in allowed.values() if len(names) == 1}
    groups = {name: {name} for name in CLASSES if name in alone}
    missing = {name: "no training record has it" for name in CLASSES if name not in alone}
    for word, names in allowed.items():
        rest = set(names) - alone
        for other in [name for name, group in groups.items() if group & rest]:  # labels that share a class
            rest |= groups.pop(other)
            word = f"{other}/{word}"
        if rest:
            groups[word] = rest
    for word, group in groups.items():
        missing |= {name: f"training taught it only as part of {word}" for name in CLASSES if name in group - alone}
    members = np.array([[float(name in group) for name in CLASSES] for group in groups.values()])
    return Taught(list(groups), members.reshape(-1, len(CLASSES)), missing)
