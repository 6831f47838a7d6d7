"""The tables of conf/covid_flannel/rules: what a finding, a view and a file's name mean."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from pipelines.covid_flannel.config import CLASSES
from pipelines.shared.config import conf_folder, read_settings_file
from pipelines.shared.errors import DataError, nearest


class Rules(BaseModel):
    """One table; its comments say what each key means."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    compound: str
    findings: dict[str, list[str]]
    complications: list[str]
    left_out: dict[str, str]
    views: dict[str, list[str]]
    views_left_out: list[str]
    modalities: list[str]
    modalities_left_out: list[str]
    file_names: dict[str, list[str]]


@dataclass(frozen=True)
class Meaning:
    """What a word of a source means: a class (or view), else why it is left out; neither where it is unknown."""

    name: str | None = None
    reason: str | None = None

    @property
    def unknown(self) -> bool:
        """Whether the word is nowhere in the table."""
        return self.name is None and self.reason is None


@lru_cache
def read_rules(name: str) -> Rules:
    """A table by its name in conf/covid_flannel/rules, or from a YAML file.

    Raises:
        DataError: no such table, no YAML, or a key that is missing, unknown or of another kind.
    """
    folder = conf_folder() / "covid_flannel" / "rules"
    file = Path(name) if name.endswith((".yaml", ".yml")) else folder / f"{name}.yaml"
    if not file.is_file():
        remedy = nearest(name, sorted(f.stem for f in folder.glob("*.yaml"))) + " Or give a .yaml file of your own."
        raise DataError(f"data.rules={name}: there is no such table.", remedy)
    how = "See conf/covid_flannel/rules/default.yaml."
    content = read_settings_file(file, how)
    try:
        rules = Rules.model_validate(content)
        for pattern in (p for patterns in rules.file_names.values() for p in patterns):
            re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as failure:
        raise DataError(f"{file} cannot be read: {failure}.", how) from None
    except ValidationError as failure:
        first = failure.errors()[0]
        key = ".".join(map(str, first["loc"])) or "the file"
        raise DataError(f"{file}: {key}: {first['msg']}.", how) from None
    unknown = sorted({*rules.findings, *rules.file_names} - set(CLASSES))
    if unknown:
        raise DataError(f"{file}: no classes of this study: {', '.join(unknown)}.", f"Allowed: {', '.join(CLASSES)}.")
    return rules


def finding(text: str, rules: Rules) -> Meaning:
    """The class of a finding, such as "COVID-19, ARDS" or "Pneumonia/Viral/SARS"; words in any case."""
    parts = [part.split("/")[-1].strip() for part in text.split(",")]
    meanings = [_word(part, rules) for part in parts]
    if any(m.unknown for m in meanings):
        return Meaning()
    if len(parts) > 1 and rules.compound == "left_out":
        return Meaning(reason="compound finding")
    decisive = [m for part, m in zip(parts, meanings, strict=True) if not _among(part, rules.complications)] or meanings
    classes = {m.name for m in decisive}
    if len(classes) > 1:
        return Meaning(reason="causes of several classes")
    return decisive[0]


def _word(word: str, rules: Rules) -> Meaning:
    for name, words in rules.findings.items():
        if _among(word, words):
            return Meaning(name)
    if _among(word, rules.complications):
        return Meaning(reason="a complication, cause unknown")
    return Meaning(reason=next((why for known, why in rules.left_out.items() if _among(word, [known])), None))


def _among(word: str, words: Iterable[str]) -> bool:
    return word.casefold() in {known.casefold() for known in words}


def finding_words(rules: Rules) -> list[str]:
    """All words of findings that a table knows."""
    return [*(w for words in rules.findings.values() for w in words), *rules.complications, *rules.left_out]


def view(text: str, rules: Rules) -> Meaning:
    """The view, PA or AP."""
    for name, words in rules.views.items():
        if _among(text, words):
            return Meaning(name)
    shown = f"view {text}" if text else "an empty view"
    return Meaning(reason=shown if _among(text, rules.views_left_out) else None)


def modality(text: str, rules: Rules) -> Meaning:
    """The modality, an X-ray or nothing that is read here."""
    if _among(text, rules.modalities):
        return Meaning(text)
    shown = f"modality {text}" if text else "an empty modality"
    return Meaning(reason=shown if _among(text, rules.modalities_left_out) else None)


def file_name(stem: str, rules: Rules) -> tuple[str, str] | None:
    """(class, patient) of a file's name without suffix; None where no pattern fits.

    The patient is the name of the pattern's group with the number, as in person123: one key whatever the class.
    """
    for name, patterns in rules.file_names.items():
        for pattern in patterns:
            match = re.fullmatch(pattern, stem, re.IGNORECASE)
            if match:
                kind, number = next((k, v) for k, v in match.groupdict().items() if v is not None)
                return name, f"{kind}{int(number)}"
    return None
