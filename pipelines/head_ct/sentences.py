"""The sentences of a report, by what it says and not by how its lines were broken or its list was numbered.

What ends a sentence: . ! ; | // and ? (unless it asks about what follows), a blank line, a heading, the next item of a
list, whatever its mark (1. 2) (3) a. iv) - * •), and a capital letter where no sentence was ended, as in "No bleed
Midline shift of 5 mm". A line break is a blank, unless the next line is an item, or begins with a capital where the
words before it can end a statement. Where a part of a report has neither capitals nor full stops (all upper case, all
lower case), every line is a finding, unless its words lead on to the next line.

An item after "no evidence of:" is read with these words before it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import pairwise

from pipelines.head_ct.english import (
    ABBREVIATIONS,
    FOLLOWING,
    LISTING,
    NAMES,
    OPENING,
    PERHAPS_ABBREVIATIONS,
    REACH,
    UNITS_WITH_POINTS,
    Words,
    around,
    last_word,
    leads_on,
    style_of,
)
from pipelines.head_ct.report_text import Tracked, readable

LONGEST = 250  # words; negation reaches no further, also where nobody ended the sentence (NegEx's own reach was five)
END, ITEM = "\x1e", "\x1f"  # put before a new sentence, before a new item of a list
WIDE = 60  # characters; shorter lines were hardly broken by a program

ROMAN = re.findall(r"\w+", "i ii iii iv v vi vii viii ix x xi xii xiii xiv xv xvi xvii xviii xix xx")
UNITS = "mm|cm|ml|cc|hu|x|to|of|by|and|or|year|years|day|days|hour|hours|month|months|week|weeks|fold"


@dataclass(frozen=True)
class Sentence:
    """A sentence in plain characters, the place of each in the report, and the kind of section that it stands in."""

    text: str
    places: list[int]
    section: str


def sentences(report: str, sections: Mapping[str, Collection[str]], words: Words) -> list[Sentence]:
    """The sentences of a report, in order.

    Args:
        report: as stored.
        sections: kind -> headings, in lower case.
        words: of the lexicon and of the term sets.
    """
    kept = []
    for section, part in _parts(readable(report, words.known), sections, words):
        for sentence in _sentences_of(part, words):
            kept += [Sentence(s.text, s.places, section) for s in _cut(sentence)]
    return kept


# --- sections and paragraphs ---


def _parts(text: Tracked, sections: Mapping[str, Collection[str]], words: Words) -> list[tuple[str, Tracked]]:
    """(kind of section, paragraph): cut at headings, which are left out, and at blank lines.

    A paragraph after a blank line belongs to the section before it; but in a report without a heading of findings they
    begin with the blank line after the question, the history or the technique.
    """
    kinds = {name: kind for kind, names in sections.items() for name in names}
    names = "|".join(re.escape(n).replace(r"\ ", r"\s") for n in sorted(kinds, key=len, reverse=True))
    label = rf"(?<![\w-])(?P<name>{names})(?: ?(?:and|&|/) ?(?:{names}))?"
    heading = re.compile(rf"{label}(?:\s?:|(?=\s)) ?-?", re.IGNORECASE)
    cuts: list[tuple[int, int, str]] = []
    for match in heading.finditer(text.text):
        if _is_heading(match, words):
            cuts.append((match.start(), match.end(), kinds[re.sub(r"\s", " ", match.group("name").lower())]))
    parts = []
    starts = [(0, "findings"), *((end, kind) for _, end, kind in cuts)]
    ends = [*(start for start, _, _ in cuts), len(text.text)]
    headed = any(kind == "findings" for _, kind in starts[1:])
    for (start, kind), end in zip(starts, ends, strict=True):
        paragraphs = [m for m in re.finditer(r"(?:[^\n]|\n(?!\n))+", text.text[start:end]) if m.group().strip()]
        for place, match in enumerate(paragraphs):
            own = kind if place == 0 or headed else "findings"
            parts.append((own, text[start + match.start() : start + match.end()]))
    return parts


def _is_heading(match: re.Match[str], words: Words) -> bool:
    (before, after), name = around(match), match.group()
    line = before.rsplit("\n", 1)[-1]
    begins = not re.search(r"[A-Za-z0-9,(/]\s*$", line) or bool(re.fullmatch(r"[ \d.()*•#-]*", line))
    written = name.strip(" :-\n")
    if ":" in name:
        if begins or re.search(r"[.!?;:]\s*$", before):
            return True
        capital = written[0].isupper() and not (written.isupper() and line.isupper())
        return (capital or written.isupper()) and not leads_on(before.rstrip())
    goes_on = re.match(r"\s*([A-Za-z]*)", after)
    following = goes_on.group(1) if goes_on else ""
    if leads_on(before.rstrip()) or following.lower() in FOLLOWING or words.inside_phrase(name, after):
        return False
    if after.startswith("\n"):  # alone on its line
        return not line.strip() and written[0].isupper() and not following[:1].islower()
    # Without a colon, in capitals, and a sentence begins after it: "FINDINGS No bleed".
    starts = re.match(r"\s?(?:[(\[]?\d{1,2}[.)\]]|[-*•])?\s?[A-Z][a-z]", after)
    return written.isupper() and len(written) > 5 and bool(starts)


# --- paragraphs to sentences ---


_ANSWER = re.compile(  # "Fracture - none", "Hydrocephalus ..... not seen", "Bleed? No."
    r"(?<=[A-Za-z)])[ ]?(?:(?<=[ ])-+|--+|\.{3,}|=+)[ ]?(?=(?:none|no|negative|absent|resolved|unlikely|normal)\s*"
    r"(?:[.;,\n]|[ ]-|$)|(?:not|no longer) [a-z]+)|[?][ ]?(?=(?:no|none|yes)\s*(?:[.;,\n]|$))",
    re.IGNORECASE,
)
_SPACES, _STROKES = (
    re.compile(r"\s+"),
    re.compile(r"(?<=\w)[/_](?=[A-Za-z\s])|(?<=\s)[/_]|[\"*#=+&<>~^•]|(?<=[A-Za-z])-(?=[A-Za-z])"),
)
_ENDLESS = re.compile(r"\S{80}(?=\S)")  # the tokeniser takes the square of a word's length
_TOUCHING = re.compile(r"(?<=[,:)\]])(?=[A-Za-z])|(?<=[A-Za-z])(?=[(\[])|(?<=\d)-(?=[A-Za-z])|(?<=[A-Za-z])(?=-\s)")


def _sentences_of(part: Tracked, words: Words) -> list[Tracked]:
    style = style_of(part.text)
    part = part.sub(_ANSWER, ": ")
    part = _items(part)
    part = _lines(part, style, words)
    if style == "sentence":
        part = part.sub(_JOINED_DASH, f" {END}")
    part = part.sub(_POINTS, _ends).sub(_MEASURED, f"{END} ")
    part = part.sub(_RUN_ON, lambda m: _runs_on(m, style, words))
    pieces: list[tuple[str, Tracked]] = []
    begin, kind = 0, END
    for match in re.finditer(f"[{END}{ITEM}]|$", part.text):
        pieces.append((kind, part[begin : match.start()]))
        begin, kind = match.end(), match.group()
    texts: list[Tracked] = []
    lead = before = None
    for kind, piece in pieces:
        if not piece.text.strip():
            before = before if kind == ITEM else None
            continue
        if kind == ITEM and before is not None and _asks_for_more(before.text):
            lead = before[-REACH:]
        elif kind != ITEM:
            lead = None
        texts.append(lead + piece if lead else piece)
        before = piece
    return [s.sub(_TOUCHING, " ").sub(_STROKES, " ").sub(_SPACES, " ").sub(_ENDLESS, _with_blank) for s in texts]


def _with_blank(match: re.Match[str]) -> str:
    return match.group() + " "


def _asks_for_more(text: str) -> bool:
    """ "No evidence of:", "None of the following:": what the items that follow belong to."""
    bare = text.strip().rstrip(":-, ")
    return last_word(bare) in LISTING and not bare.endswith((".", "!", "?"))


_MEASURED = re.compile(  # "No bleed, 5 mm midline shift": what is measured is there
    r"(?<=[A-Za-z]), ?(?=\d[\d.]* ?(?:mm|cm) (?!(?:or|and|in|thick|wide|deep|at|on)\b)[a-z])"
)
_JOINED_DASH = re.compile(r"(?<=[a-z]{5})-(?=[A-Z][a-z])|(?<=[a-z]{4})(?=[A-Z][a-z])|(?<=mm)(?=[A-Z])|(?<=cm)(?=[A-Z])")
_MARK = re.compile(
    r"(?P<bullet>[•*]+|(?<![^\s])(?P<plain>[oO+])(?=[ ]))"
    r"|(?P<dash>-{1,3})(?=[ ]?[A-Za-z?(\d])"
    r"|(?P<open>[(\[#]?)(?P<label>(?<!\d)(?<!\d[.,])\d{1,2}|(?<![A-Za-z])(?:[A-Za-z]|[ivxIVX]{2,5}))[ ]?"
    r"(?P<close>\.?[)\]]|\.-?|-|:)(?=\s*[A-Za-z?(\"'•-])"
    r"|(?P<outline>(?m:^)\d{1,2}(?:\.\d{1,2})+[.)]?)(?=[ ]?[A-Za-z?])"
    r"|(?P<sign>#?)(?P<bare>\d{1,2})(?=[ ][A-Za-z?])"
)


def _items(part: Tracked) -> Tracked:
    """Marks of lists become `ITEM`: at the beginning of a line, and inside of it where they count on."""
    text, last = part.text, dict.fromkeys(("number", "letter", "roman", "o", "O", "+"), 0)
    spans: list[tuple[int, int]] = []
    for match in _MARK.finditer(text):
        start = match.start()
        before, after = around(match)
        since = max(spans[-1][1], start - REACH) if spans else start  # the end of the mark before
        opens = not before.strip() or before.endswith("\n") or (bool(spans) and not text[since:start].strip())
        left = before[-1:] if before else "\n"
        if match["plain"]:  # as a bullet only where the first of them begins a line
            taken = opens or last[match["plain"]] > 0
            last[match["plain"]] += taken
        elif match["bullet"]:
            taken = not (left.isdigit() and after[:1].isdigit()) and (opens or not left.isalnum())
        elif match["dash"]:
            taken = _is_dash(before, after, opens) and not (not spans and _explains(before, after))
        elif match["outline"]:
            taken = opens and not re.match(rf"\s*(?:{UNITS})(?![A-Za-z])", after, re.IGNORECASE)
        else:
            taken = _counts(match, opens, left, last)
        if taken:
            spans.append((match.start(), match.end()))
    places = {start: end for start, end in spans}
    return part.sub(_MARK, lambda m: f" {ITEM}" if m.start() in places else m.group())


def _is_dash(before: str, after: str, opens: bool) -> bool:
    """A dash before an item or another statement; not one of a range, a number or a word."""
    word = re.match(r"\s*([A-Za-z]*)", after)
    following = word.group(1).lower() if word else ""
    left = before.rstrip()[-1:]
    if (left.isdigit() and re.match(r"\s*\d", after)) or following in FOLLOWING | {"and", "or", "to", "with"}:
        return False
    if re.match(r"\d", after):
        return opens
    if opens:
        return True
    if re.search(r"[A-Za-z]\d{1,2}\s*$", before) and re.match(r"\s*[A-Za-z]\d", after):
        return False
    return before[-1:] in " .;:" or (after.startswith(" ") and left.isalnum())


def _explains(before: str, after: str) -> bool:
    """ "No bleed - subdural, epidural or subarachnoid - is seen": what the dash begins is no statement of its own."""
    aside = re.match(r"[^.;\n]+ -+ ?(?:is|are|was|were|or|and|has|have)\b", after)
    kinds = re.search(r"\b(?:no|not|without|negative)\b[^.;\n]*$", before, re.IGNORECASE) and re.match(
        r"(?! ?(?:no|there)\b)[^.;\n\d-]*\b(?:or|nor)\b[^.;\n\d-]*(?:[.;\n]|$)", after
    )
    return bool(aside or kinds)


def _counts(match: re.Match[str], opens: bool, left: str, last: dict[str, int]) -> bool:
    """Whether a number, a letter or a Roman number marks an item; `last` holds where each of them stands."""
    before, after = around(match)
    label = (match["label"] or match["bare"]).lower()
    close = match["close"] or ""
    follows = re.match(rf"\s*(?:{UNITS})(?![A-Za-z])", after, re.IGNORECASE)
    if label.isdigit():
        number = int(label)
        next_one = number == last["number"] + 1
        touches = left.isalpha() and re.search(r"[a-z]{2}$", before, re.IGNORECASE)
        if not (opens or left in " ;:,)" or touches or (next_one and re.search(r"[A-Za-z]\.$", before))):
            return False
        if match["bare"]:
            counted = number > 1 and after[1:2].isupper()
            taken = (opens or bool(match["sign"]) or counted) and next_one and not follows
        elif close == ":":
            taken = opens or (next_one and number > 1)
        elif close == "-":
            taken = (opens or next_one) and not follows
        elif not match["open"] and ")" in close and before.rfind("(") > before.rfind(")"):
            taken = False
        else:
            taken = opens or next_one
        if taken:
            last["number"] = number
        return taken
    if close in (":", "-") or not (opens or left in " .;:)"):
        return False
    index = {
        "roman": ROMAN.index(label) + 1 if label in ROMAN else 0,
        "letter": ord(label) - 96 if not label[1:] else 0,
    }
    starts = opens or left == ":" or before.rstrip().endswith(":")
    for kind in sorted(index, key=lambda k: index[k] == last[k] + 1 > 1, reverse=True):
        if index[kind] and (index[kind] == last[kind] + 1 > 1 or (index[kind] == 1 and starts)):
            last[kind] = index[kind]
            return True
    return False


_BREAK = re.compile(r" ?\n ?")


def _lines(part: Tracked, style: str, words: Words) -> Tracked:
    """Line breaks become blanks, or ends of sentences where the next line is another statement."""
    if "\n" not in part.text:
        return part
    lines = part.text.split("\n")
    bare = [line.strip(f" {ITEM}") for line in lines]
    widest = max(map(len, bare))
    full = widest >= WIDE and all(len(a) + 1 + len(b.split(" ")[0]) > widest for a, b in pairwise(bare))
    body = part.text.strip()
    stops = bool(re.search(r"[A-Za-z\d)][.!;]\s", body))
    denials = sum(bool(re.match(r"no |there ", b, re.IGNORECASE)) for b in bare[1:])
    prose = stops or (body[-1:] in ".!;" and 2 * denials < len(bare) - 1)
    listed = not stops and all(b[:1].isupper() or not b[:1].isalpha() for b in bare)
    leading = False
    number = -1

    def decide(match: re.Match[str]) -> str:
        nonlocal leading, number
        number += 1
        before, after = bare[number], bare[number + 1]
        if lines[number + 1].lstrip().startswith(ITEM) or not before or not after:
            return " "
        if before.endswith(":") and _asks_for_more(before):
            leading = True
            return f" {ITEM}"
        first = re.match(r"[A-Za-z]+", after)
        word = first.group() if first else ""
        if (
            before[-1] in ".!?;:"
            or leads_on(before)
            or (word.lower() in FOLLOWING and not (word[0].isupper() and style == "sentence"))
            or words.inside_phrase(before, after)
        ):
            return " "
        if style == "sentence":
            title = word[:1].isupper() and word[1:].islower() and word.lower() not in NAMES
            begins = title or (listed and bool(word) and word.isupper() and len(before) < WIDE)
        elif prose:
            begins = bool(re.match(r"no |there (?:is|are|was|were) ", after, re.IGNORECASE)) and not re.match(
                "no longer", after, re.IGNORECASE
            )
        else:
            begins = bool(word) and not full
        return (f" {ITEM}" if leading else f" {END}") if begins else " "

    return part.sub(_BREAK, decide)


_POINTS = re.compile(r"[.!;|]+|[?]+|//+")


def _ends(match: re.Match[str]) -> str:
    """A point with `END` after it where it ends a sentence."""
    (before, after), mark = around(match), match.group()
    whole = mark + END
    if mark.strip("!;|/") == "":
        return whole if mark != ";" or after else mark
    left, following = before[-1:], re.match(r"[\s\"')\]]*([A-Za-z]*)", after)
    word = following.group(1) if following else ""
    if "?" in mark:
        if (before.strip().strip(" (\"'") or END)[-1] in f".!;:{END}{ITEM}":
            return mark  # asks about what follows
        if after[:1].isalpha():
            return whole if left.isalpha() and word[:1].isupper() and word[1:].islower() else mark
        if left == " " and word and not (word[0].isupper() and word[1:].islower()):
            return mark
        return mark if after[:1] in ("),") and after else whole
    if mark == "." and after[:1].isdigit() and not left.isalpha():
        return mark  # 5.5 mm, .5 mm
    last = re.search(r"([A-Za-z.]*[A-Za-z])$", before)
    abbreviated = last.group(1).lower() if last else ""
    capital = word[:1].isupper()
    if len(mark) > 1:
        return whole
    if "." in abbreviated and all(len(p) == 1 for p in abbreviated.split(".")):  # S.A.H., e.g.
        return whole if capital and word[1:].islower() and after[:1] == " " else mark
    if len(abbreviated) == 1 and not before[-2:-1].isdigit():  # L. temporal; the first letter of e.g.
        return whole if after[:1] in ("", " ") and word.lower() in OPENING and capital else mark
    if abbreviated in ABBREVIATIONS or (abbreviated == "no" and re.match(r" ?\d", after)):
        return mark
    if abbreviated in UNITS_WITH_POINTS and word in FOLLOWING | {"thick", "wide", "deep", "long", "high", "diameter"}:
        return mark
    if abbreviated in PERHAPS_ABBREVIATIONS and word and not capital and word not in OPENING:
        return mark
    return mark if word in ("or", "nor") else whole


_RUN_ON = re.compile(r"(?<=[A-Za-z\d)%]) (?=([A-Z][a-z]+))")


def _runs_on(match: re.Match[str], style: str, words: Words) -> str:
    """`END` between "no bleed" and "Midline shift"."""
    word = match.group(1).lower()
    before, after = around(match)
    last = re.split(r"[\s(]", before)[-1]
    sentence = re.split(f"[{END}{ITEM}]", before)[-1].strip()
    if style != "sentence" or word in NAMES or leads_on(before) or last.endswith("."):
        return match.group()
    if word not in OPENING:
        adjective = re.search(r"(?:al|ic|ous|ive|oid|ary|ar|ate|ed)$", last) and last not in ("normal", "seen")
        if (last[:1].isupper() and last[1:].islower()) or adjective:
            return match.group()
        if words.inside_phrase(before, after):
            return match.group()
    elif last == sentence and last[:1].isupper() and last[1:].islower() and word not in ("no", "there", "the"):
        return match.group()
    return f" {END}"


def _cut(sentence: Tracked) -> list[Tracked]:
    """A sentence of more than `LONGEST` words in pieces of so many."""
    starts = [m.start() for m in re.finditer(r"\S+", sentence.text)][::LONGEST]
    if not starts:
        return []
    return [sentence[a:b] for a, b in zip(starts, [*starts[1:], len(sentence.text)], strict=True)]
