"""Elements of a DICOM header as plain values: what is missing or of another form is None, or a problem in words."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydicom import Dataset


def text_of(header: Any, tag: str) -> str:
    """The (first) text of a tag, without blanks around it; empty if there is none."""
    value = header.get(tag)
    if value is None:
        return ""
    if not isinstance(value, str) and isinstance(value, Sequence):
        value = value[0] if len(value) else ""
    return str(value).strip().strip("\0").strip()


def words_of(header: Any, tag: str) -> list[str]:
    """All texts of a tag."""
    value = header.get(tag)
    if value is None:
        return []
    return [value] if isinstance(value, str) else [str(v) for v in value]


def number_of(header: Any, tag: str) -> float | None:
    """The (first) finite number of a tag; None if there is none."""
    value = header.get(tag)
    if value is None or value == "":
        return None
    if not isinstance(value, (str, int, float)):
        with suppress(TypeError, IndexError, KeyError):
            value = value[0]
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def numbers_of(header: Any, tag: str, count: int, problems: list[str]) -> list[float] | None:
    """`count` finite numbers of a tag; else None, and a problem more."""
    value = header.get(tag)
    if value is None or value == "" or (hasattr(value, "__len__") and not isinstance(value, str) and len(value) == 0):
        problems.append(f"{tag} is missing")
        return None
    values = [value] if isinstance(value, (str, int, float)) or not hasattr(value, "__len__") else list(value)
    try:
        numbers = [float(v) for v in values]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        problems.append(f"{tag} is not {count} number{'s' if count > 1 else ''}")
        return None
    return numbers


def whole_of(header: Dataset, tag: str, problems: list[str]) -> int | None:
    """A whole number of at least 1; else None, and a problem more."""
    value = number_of(header, tag)
    if value is None or value < 1:
        problems.append(f"{tag} is missing")
        return None
    return int(value)


def seconds_of(header: Any) -> float | None:
    """The time of day at which a slice was acquired, s; None if the header does not say."""
    for tag, begin in (("FrameAcquisitionDateTime", 8), ("AcquisitionDateTime", 8), ("AcquisitionTime", 0)):
        match = re.match(r"(\d\d):?(\d\d):?(\d\d(?:\.\d+)?)", text_of(header, tag)[begin:])
        if match:
            hours, minutes, seconds = map(float, match.groups())
            return hours * 3600 + minutes * 60 + seconds
    return None
