"""Concepts in radiology reports with their assertion status: present, absent, uncertain or historical.

A report becomes plain characters (`report_text`) and sentences (`sentences`): its labels do not depend on how its lines
were broken or its list was numbered. Each sentence goes through spaCy's blank pipeline: spelling (British forms,
plurals, typing errors), concepts of the lexicon, three negspacy components (NegEx: Chapman et al., J Biomed Inform
2001;34:301-310) with term sets of ours for absence, doubt and the past. Rules say what NegEx does not know: sections,
and which status wins.

A *label* is the number of distinct critical concepts that a report says are present. (Titano et al. learned theirs with
a lasso on the report's words.)
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pipelines.head_ct.english import Words
from pipelines.head_ct.report_text import spelled_out
from pipelines.head_ct.sentences import sentences
from pipelines.shared.config import conf_folder, read_settings_file
from pipelines.shared.errors import DataError, listed
from pipelines.shared.extras import Extra

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.tokens import Doc, Span

REPORTS = Extra("reports", {"spacy": "spacy", "negspacy": "negspacy"})
LONGEST = 200_000  # characters of a report; a book page has 3,000
STATUSES = ["present", "absent", "uncertain", "historical"]
THRESHOLDS = [4, 8, 10]  # critical concepts that make a report critical (Titano 2018)
MENTIONS = ["id", "start", "end", "text", "concept", "group", "critical", "status"]  # a row of `label_reports`
FUZZY = 7  # letters from which a single typing error is forgiven
BRITISH = [
    ("haem", "hem"), ("oedema", "edema"), ("ischaem", "ischem"), ("tumour", "tumor"), ("grey", "gray"),
    ("oedematous", "edematous"), ("anaemi", "anemi"), ("leucoaraiosis", "leukoaraiosis"), ("colour", "color"),
]  # fmt: skip
PLURALS = [
    ("metastases", "metastasis"),
    ("abscesses", "abscess"),
    ("masses", "mass"),
    ("hemorrhages", "hemorrhage"),
    ("ies", "y"),
]


@dataclass(frozen=True)
class Concept:
    """An entry of the lexicon."""

    name: str
    umls: str | None
    group: str
    critical: bool
    synonyms: tuple[str, ...]


@dataclass(frozen=True)
class Mention:
    """A concept in a report: characters `start` to `end` of its text, and what the report says about it."""

    start: int
    end: int
    concept: str
    status: str


# --- lexicon and term sets ---


def read_lexicon(file: Path | None = None) -> list[Concept]:
    """The lexicon (null: the project's own).

    Raises:
        DataError: no such file, or entries of another form; all named at once.
    """
    file = file or conf_folder() / "head_ct" / "lexicon.yaml"
    how = "See conf/head_ct/lexicon.yaml: concepts: {<name>: {umls, group, critical, synonyms}}."
    content = read_settings_file(file, how)
    try:
        items = list(content["concepts"].items())
    except (KeyError, TypeError, AttributeError) as failure:
        raise DataError(f"{file} cannot be read as a lexicon: {type(failure).__name__}.", how) from None
    problems: list[str] = []
    concepts: list[Concept] = []
    owner: dict[str, str] = {}
    for name, entry in items:
        if not isinstance(entry, dict) or set(entry) != {"umls", "group", "critical", "synonyms"}:
            problems.append(f"{name}: wants the keys umls, group, critical, synonyms")
            continue
        if not isinstance(entry["critical"], bool) or not isinstance(entry["synonyms"], list) or not entry["synonyms"]:
            problems.append(f"{name}: critical is true or false, synonyms a list that is not empty")
            continue
        words = tuple(str(s).lower().strip() for s in entry["synonyms"])
        for word in words:
            if owner.setdefault(word, name) != name:
                problems.append(f"{name}: '{word}' also belongs to {owner[word]}")
        concepts.append(Concept(str(name), entry["umls"], str(entry["group"]), entry["critical"], words))
    if problems:
        raise DataError(f"{file}: {len(problems)} problems: " + "; ".join(problems), how)
    return concepts


def read_terms(file: Path | None = None) -> dict[str, Any]:
    """The term sets (null: the project's own).

    Raises:
        DataError: no such file, or of another form.
    """
    file = file or conf_folder() / "head_ct" / "terms.yaml"
    how = "See conf/head_ct/terms.yaml."
    terms: dict[str, Any] = read_settings_file(file, how)
    try:
        for status in STATUSES[1:]:
            for kind in ("preceding", "following", "pseudo"):
                terms[status][kind] = [str(t).lower() for t in terms[status][kind]]
        terms["termination"] = [str(t).lower() for t in terms["termination"]]
        terms["sections"] = {k: [str(t).lower() for t in v] for k, v in terms["sections"].items()}
    except (KeyError, TypeError, AttributeError) as failure:
        raise DataError(f"{file} cannot be read as term sets: {type(failure).__name__} {failure}.", how) from None
    return terms


# --- spelling ---


def plain_form(word: str) -> str:
    """A word in American spelling and the singular, lower case."""
    word = word.lower()
    for british, american in BRITISH:
        word = word.replace(british, american)
    for plural, singular in PLURALS:
        if (word.endswith(plural) and len(word) > len(plural) + 1) or word == plural:
            return word[: -len(plural)] + singular
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word


def one_error_apart(a: str, b: str) -> bool:
    """Whether one letter more, less, changed, or two neighbours swapped make one word of the other."""
    if a == b or abs(len(a) - len(b)) > 1:
        return a == b
    first = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    if len(a) == len(b):
        swapped = a[first + 1 : first + 2] == b[first : first + 1] and a[first : first + 1] == b[first + 1 : first + 2]
        return a[first + 1 :] == b[first + 1 :] or (swapped and a[first + 2 :] == b[first + 2 :])
    longer, shorter = (a, b) if len(a) > len(b) else (b, a)
    return longer[first + 1 :] == shorter[first:]


class Speller:
    """Sets each token's `norm_` to its plain form; a long unknown word one error away from a known one becomes it."""

    def __init__(self, words: Iterable[str], familiar: Iterable[str]) -> None:
        self.words = sorted({w for w in words if len(w) >= FUZZY})
        self.known = {*words, *familiar}
        self.seen: dict[str, str] = {}

    def correct(self, word: str) -> str:
        """The plain form of a word, a single typing error put right."""
        if word not in self.seen:
            plain = plain_form(word)
            if plain not in self.known and len(plain) >= FUZZY and plain.isalpha():
                near = [w for w in self.words if w[0] == plain[0] and one_error_apart(plain, w)]
                plain = near[0] if len(near) == 1 else plain
            self.seen[word] = plain
        return self.seen[word]

    def __call__(self, doc: Doc) -> Doc:
        """As a component of the pipeline."""
        for token in doc:
            token.norm_ = self.correct(token.lower_)
        return doc


# --- the pipeline ---

_numbers = count()


def _one_sentence(doc: Doc) -> Doc:
    """Tells NegEx that the whole text is one sentence."""
    from spacy.attrs import SENT_START

    starts: Any = np.full((len(doc), 1), -1, np.int64)
    starts[:1] = 1
    return doc.from_array([SENT_START], starts.astype(np.uint64))


@dataclass(frozen=True)
class Pipeline:
    """spaCy's pipeline for a sentence, the concepts by name, headings by kind, and what is known of the language."""

    nlp: Language
    concepts: dict[str, Concept]
    sections: dict[str, list[str]]
    words: Words


@lru_cache(maxsize=4)
def pipeline(lexicon: Path | None = None, terms: Path | None = None) -> Pipeline:
    """What labels reports by this lexicon and these terms."""
    REPORTS.require("Labelling reports")
    import spacy
    from negspacy.negation import Negex
    from spacy.language import Language as Factory
    from spacy.matcher import PhraseMatcher
    from spacy.tokens import Span as SpanType
    from spacy.util import filter_spans

    concepts = {c.name: c for c in read_lexicon(lexicon)}
    synonyms = {name: {spelled_out(s) for s in concept.synonyms} for name, concept in concepts.items()}
    sets = read_terms(terms)
    lists = [sets[status][kind] for status in STATUSES[1:] for kind in ("preceding", "following", "pseudo")]
    lists.append(sets["termination"])
    for each in lists:
        each[:] = sorted({*each, *map(spelled_out, each)})
    nlp = spacy.blank("en")
    assert Negex is not None  # importing it registers the factory "negex"
    phrases = [[plain_form(w) for w in re.findall(r"[a-z]+", s)] for each in synonyms.values() for s in each]
    familiar = [re.findall(r"[a-z]+", term) for each in lists[:-1] for term in each]
    speller = Speller({w for p in phrases for w in p}, {w for p in familiar for w in p})
    cut = [*phrases, *([plain_form(w) for w in p] for p in familiar)]
    words = Words(
        lambda word: plain_form(word) in speller.known,
        {(tuple(p[:i]), tuple(p[i:j])) for p in cut for i in range(1, len(p)) for j in range(i + 1, len(p) + 1)},
        plain_form,
    )
    matcher = PhraseMatcher(nlp.vocab, attr="NORM")
    for name, forms in synonyms.items():
        matcher.add(name, [speller(nlp.make_doc(form)) for form in sorted(forms)])

    def find(doc: Doc) -> Doc:
        spans = [SpanType(doc, start, end, label=key) for key, start, end in matcher(doc)]
        doc.ents = filter_spans(spans)  # the longest wins
        return doc

    number = next(_numbers)  # spaCy's register of components is global: each pipeline needs names of its own
    for name, function in (("spelling", speller), ("sentence", _one_sentence), ("concepts", find)):
        Factory.component(f"head_ct_{name}_{number}", func=function)
        nlp.add_pipe(f"head_ct_{name}_{number}")
    for status in STATUSES[1:]:
        own = sets[status]
        nlp.add_pipe(
            "negex",
            name=f"negex_{status}",
            config={
                "extension_name": status,
                "neg_termset": {
                    "pseudo_negations": own["pseudo"],
                    "preceding_negations": own["preceding"],
                    "following_negations": own["following"],
                    "termination": sets["termination"],
                },
            },
        )
    return Pipeline(nlp, concepts, sets["sections"], words)


def label_text(text: str, lexicon: Path | None = None, terms: Path | None = None) -> list[Mention]:
    """All mentions in a report, in order."""
    tools = pipeline(lexicon, terms)
    read = [s for s in sentences(text, tools.sections, tools.words) if s.section != "ignored"]
    mentions: dict[tuple[int, int, str], Mention] = {}
    for sentence, doc in zip(read, tools.nlp.pipe(s.text for s in read), strict=True):
        for span in doc.ents:
            start, end = sentence.places[span.start_char], sentence.places[span.end_char - 1] + 1
            mention = Mention(start, end, span.label_, _status(span, sentence.section))
            mentions.setdefault((start, end, span.label_), mention)  # the words before a list are read with each item
    return list(mentions.values())


def _status(span: Span, section: str) -> str:
    """Absent beats doubt beats the past beats presence: "no history of bleeding", "possible old infarct"."""
    if span._.absent and not _doubly_negated(span):
        return "absent"
    if span._.uncertain or section == "uncertain":
        return "uncertain"
    if span._.historical or section == "historical":
        return "historical"
    return "present"


def _doubly_negated(span: Span) -> bool:
    """ "No evidence that the haematoma has resolved": two negations of the same clause that cancel out."""
    before, after = span.doc.text[: span.start_char].lower(), span.doc.text[span.end_char :].lower()
    return bool(re.search(r"\bno (evidence|sign) that\b", before) and re.search(r"\b(resolved|cleared)\b", after))


# --- reports ---


def label_reports(reports: pd.DataFrame, lexicon: Path | None = None, terms: Path | None = None) -> pd.DataFrame:
    """Mentions in a table of reports.

    Args:
        reports: `id`, `text`.
        lexicon: another lexicon.
        terms: other term sets.

    Returns:
        One row per mention: id, start, end, text, concept, group, critical, status.

    Raises:
        DataError: texts of more than `LONGEST` characters, which are no reports; all named at once.
    """
    long = [
        f"{i}: {len(t):,} characters"
        for i, t in zip(reports["id"], reports["text"].map(str), strict=True)
        if len(t) > LONGEST
    ]
    if long:
        raise DataError(
            f"{len(long)} reports have more than {LONGEST:,} characters:\n{listed(long)}",
            "Is a quotation mark missing, so that many rows became one? Shorten them, or leave them out.",
        )
    concepts = pipeline(lexicon, terms).concepts
    rows = []
    for name, text in zip(reports["id"], reports["text"], strict=True):
        for m in label_text(str(text), lexicon, terms):
            concept = concepts[m.concept]
            rows.append(
                (name, m.start, m.end, str(text)[m.start : m.end], m.concept, concept.group, concept.critical, m.status)
            )
    return pd.DataFrame(rows, columns=MENTIONS)


def critical_counts(mentions: pd.DataFrame, ids: Sequence[str]) -> np.ndarray:
    """(ids,) int: distinct critical concepts that each report says are present."""
    present = mentions[mentions["critical"].astype(bool) & (mentions["status"] == "present")]
    counts = present.groupby("id")["concept"].nunique() if len(present) else pd.Series(dtype=int)
    return counts.reindex(list(ids)).fillna(0).to_numpy(int)


def silver_columns(counts: np.ndarray) -> dict[str, np.ndarray]:
    """`silver_<threshold>` -> (n,) float 0 or 1."""
    return {f"silver_{t}": (counts >= t).astype(float) for t in THRESHOLDS}


# --- how good it is ---


def agreement(labelled: pd.DataFrame, truth: pd.DataFrame) -> pd.DataFrame:
    """Found against true statements, one per report, concept and status.

    Args:
        found: id, concept, status.
        truth: id, concept, status, and if there is one `known` (whether the phrasing is in the lexicon).

    Returns:
        Per (concept, status): true positives, false positives, false negatives, precision, recall (NaN without rows),
        and of those missed how many had a phrasing that the lexicon does not hold (`unseen_missed`).
    """
    keys = ["id", "concept", "status"]
    a, b = labelled[keys].drop_duplicates(), truth.drop_duplicates(keys)
    both = b.merge(a.assign(labelled=True), on=keys, how="outer", indicator=True)
    known = both["known"].fillna(True).astype(bool) if "known" in both else pd.Series(True, index=both.index)
    both = both.assign(
        tp=both["_merge"] == "both", fn=both["_merge"] == "left_only", fp=both["_merge"] == "right_only"
    ).assign(unseen_missed=lambda t: t["fn"] & ~known)
    table = both.groupby(["concept", "status"])[["tp", "fp", "fn", "unseen_missed"]].sum().astype(int).reset_index()
    table["precision"] = table["tp"] / (table["tp"] + table["fp"]).replace(0, np.nan)
    table["recall"] = table["tp"] / (table["tp"] + table["fn"]).replace(0, np.nan)
    return table
