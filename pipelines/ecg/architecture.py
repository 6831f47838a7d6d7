"""What a network's model.json says of it, read where the network itself (torch) is not needed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from pipelines.shared.errors import RunError
from pipelines.shared.run_folder import AGAIN


@dataclass(frozen=True)
class Architecture:
    """All that is needed to build an `EcgNetwork` again.

    Attributes:
        filters: of the first convolution; they double every fourth block.
        drop_rate: before each block's second convolution.
        mean: of the training signals, subtracted from the input (0 with windows that are scaled already).
        std: of the training signals.
        trained: the labels that training held: classes, and the labels of whole recordings.
        classes: those of the twelve that may be answered: trained by themselves, or as part of a sum.
    """

    filters: int
    drop_rate: float
    mean: float
    std: float
    trained: list[str]
    classes: list[str]

    @classmethod
    def of(cls, model: dict[str, Any]) -> Self:
        """That of a model.json.

        Raises:
            RunError: it lacks a key, or has one too many.
        """
        try:
            return cls(**model["architecture"])
        except TypeError as failure:
            raise RunError(f"model.json: its architecture cannot be built: {failure}.", AGAIN) from None
