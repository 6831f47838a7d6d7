"""One lead of one recording, whatever file it comes from, read piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipelines.ecg.labels import RATE, STEP
from pipelines.shared.errors import BadFile


@dataclass(frozen=True)
class Recording:
    """One lead of one recording.

    Attributes:
        rate: sampling rate of the lead, Hz.
        length: samples of the lead.
        lead: the lead's name.
        unit: of the values.
        file: in which the samples are; the header of a record in segments.
        read: (first, last + 1) -> float64 samples at the lead's rate; NaN where the file marks a sample as missing.
        frame_rate: Hz, in which the annotations of a WFDB record count; None: as `rate`.
    """

    rate: float
    length: int
    lead: str
    unit: str
    file: Path
    read: Callable[[int, int], np.ndarray]
    frame_rate: float | None = None

    @property
    def samples(self) -> int:
        """Length at 200 Hz."""
        return int(self.length * RATE / self.rate)

    @property
    def steps(self) -> int:
        """Whole steps of 256 samples."""
        return self.samples // STEP


def choose(names: Sequence[str], leads: Sequence[str]) -> int:
    """Which lead is taken: the first that is asked for; names are compared without case and blanks.

    Raises:
        BadFile: none of them among several; a single one is taken whatever its name.
    """
    plain = [plain_name(name) for name in names]
    if len(plain) == 1:
        return 0
    for wanted in map(plain_name, leads):
        if wanted in plain:
            return plain.index(wanted)
    raise BadFile(f"none of data.leads ({', '.join(leads)}) among its leads {', '.join(names)}")


def plain_name(lead: str) -> str:
    """A lead's name as it is compared."""
    return lead.strip().lower()
