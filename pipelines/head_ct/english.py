"""The English of reports: words with which a statement goes on or begins, and the phrases that are looked for."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass

REACH = 80  # characters looked at on either side of a place that may be the end of a sentence


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# After these a statement goes on.
LEADING = _words(
    "a an the this that these those any some no not non without neither nor and or but with of in on at to from by for "
    "into within along about over under between versus as than if is are was were be been being has have had may might "
    "can could will would should must does do did there which whose both either each every all such very more most "
    "less due secondary up per via plus including measuring measures approximately approx circa consistent compatible "
    "suspicious concerning suggestive cannot only further other additional obvious definite gross acute subacute "
    "hyperacute small large tiny intracranial underlying associated adjacent dr mr mrs prof"
)
# After these a list goes on: "no evidence of: 1. bleed 2. fracture".
LISTING = _words("of for no not without any with and or nor following including negative excluding excludes denies")
# With these a statement goes on.
FOLLOWING = _words(
    "and or nor of in on at to by for from is are was were be has have had which that than seen noted measuring "
    "extending involving along due secondary consistent compatible mm cm ml cc hu x per"
)
# With these a statement begins, also where the one before was not ended.
OPENING = _words(
    "no there the this these those it without neither negative status history cannot possible previously findings "
    "evidence again also however interval unchanged stable normal mild moderate marked small large new old"
)
# Written with a capital in the middle of a sentence.
NAMES = _words(
    "sylvian sylvius monro willis galen chiari arnold dandy walker virchow robin hounsfield wernicke rathke duret "
    "evans fisher fazekas marshall rotterdam magendie luschka kernohan meckel labbe trolard rolandic broca heubner "
    "percheron charcot alzheimer parkinson moyamoya jefferson lefort rosenthal heschl hunt hess glasgow ommaya doctor "
    "dr mr mrs ms prof monday tuesday wednesday thursday friday saturday sunday january february march april may june "
    "july august september october november december jan feb mar apr jun jul aug sep sept oct nov dec ct mri"
)
ABBREVIATIONS = _words("approx ca cf dr mr mrs ms prof fig im img ser incl esp resp st eg ie min max")
UNITS_WITH_POINTS = _words("mm cm ml cc hr hrs")
PERHAPS_ABBREVIATIONS = _words("etc post ant lat inf sup mod sig assoc temp occ par am pm")


@dataclass(frozen=True)
class Words:
    """What is known of the language: words, and where the phrases of the lexicon and of the term sets can be cut.

    Attributes:
        known: whether a word is one of theirs.
        cuts: (words before, words after), in plain form, for every place inside every phrase.
        plain: the plain form of a word.
    """

    known: Callable[[str], bool]
    cuts: Collection[tuple[tuple[str, ...], tuple[str, ...]]]
    plain: Callable[[str], str]

    def inside_phrase(self, before: str, after: str) -> bool:
        """Whether a phrase begins at the end of `before` and ends at the beginning of `after`."""
        left = [self.plain(w) for w in re.findall(r"[A-Za-z]+", before[-60:])][-5:]
        right = [self.plain(w) for w in re.findall(r"[A-Za-z]+", after[:60])][:5]
        return any(
            (tuple(left[-i:]), tuple(right[:j])) in self.cuts
            for i in range(1, len(left) + 1)
            for j in range(1, len(right) + 1)
        )


def around(match: re.Match[str]) -> tuple[str, str]:
    """The text before and after a match, as far as it matters (all of it would take the square of its length)."""
    return match.string[max(0, match.start() - REACH) : match.start()], match.string[match.end() : match.end() + REACH]


def last_word(text: str) -> str:
    """The last word of a text, in lower case; empty where it has none."""
    match = re.search(r"([A-Za-z]+)\W*$", text[-40:])
    return match.group(1).lower() if match else ""


def leads_on(text: str) -> bool:
    """Whether a statement cannot end with this text."""
    if re.search(r": ?no$", text, re.IGNORECASE):  # "Fracture: no"
        return False
    return (bool(re.search(r"[A-Za-z]$", text)) and last_word(text) in LEADING) or text.endswith((",", "(", "/"))


def style_of(text: str) -> str:
    """`sentence` where capitals begin sentences; `flat` where they tell nothing (all upper, all lower, All Capital)."""
    letters = [c for c in text if c.isalpha()]
    if not letters or sum(c.isupper() for c in letters) > 0.6 * len(letters):
        return "flat"
    long = re.findall(r"(?<![A-Za-z])[A-Za-z]{4,}", text)
    if len(long) >= 4 and sum(w[0].isupper() for w in long) > 0.6 * len(long):
        return "flat"
    starts = re.findall(r"(?:^|[.!?]\s)\W*([A-Za-z])", text)
    return "flat" if starts and sum(s.islower() for s in starts) > len(starts) / 2 else "sentence"
