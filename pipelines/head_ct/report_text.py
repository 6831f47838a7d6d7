"""A report as it was stored, turned into the text that its author meant: characters, stored line breaks, markup, words
divided at the end of a line, and the short forms of the trade.

Every character keeps its place in the report, so that what is found in the text can be shown in the report.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from pipelines.head_ct.english import leads_on


@dataclass(frozen=True)
class Tracked:
    """Text whose characters know their place in the report: `places[i]` is where `text[i]` stood."""

    text: str
    places: list[int]

    def __getitem__(self, part: slice) -> Tracked:
        return Tracked(self.text[part], self.places[part])

    def __add__(self, other: Tracked) -> Tracked:
        return Tracked(self.text + other.text, self.places + other.places)

    def sub(self, pattern: re.Pattern[str], new: str | Callable[[re.Match[str]], str]) -> Tracked:
        """As `re.sub`; what is put in stands where the replaced text began."""
        parts: list[str] = []
        places: list[int] = []
        copied = 0
        for match in pattern.finditer(self.text):
            put = new(match) if callable(new) else match.expand(new) if "\\" in new else new
            start, end = match.span()
            if put == match.group():
                continue
            parts += [self.text[copied:start], put]
            places += self.places[copied:start]
            if put:
                here = self.places[start] if start < len(self.places) else (self.places or [0])[-1]
                places += [here] * len(put)
            copied = end
        if copied == 0 and not parts:
            return self
        return Tracked("".join([*parts, self.text[copied:]]), places + self.places[copied:])


# --- characters ---

# What other programs make of a line break or an apostrophe when they store a report.
STORED = [
    ("\u00ad[ \t]*(?=[\r\n])", "-"), ("â€™|â€˜", "'"), ("â€œ|â€\u009d", '"'), ("â€“|â€”", " - "), ("â€¢", "•"),
    ("Â(?=[ \u00a0])|ï»¿", ""), ("_x000[dD]_", "\r"), (r"\\\.(?:br|sp|in|ti)[+-]?\d*\\", "\n"),
    (r"\\r\\n|\\[rn]", "\n"), (r"<br ?/?>|</?(?:tr|dt|dd)\b[^<>]*>", "\n"), (r"<li\b[^<>]*>", "\n• "),
    (r"</?(?:p|div|ul|ol|li|table|h\d)\b[^<>]*>", "\n\n"), (r"</?(?:b|i|u|strong|em|span|font|td|th)\b[^<>]*>", " "),
    ("&nbsp;|&#160;", " "), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"), ("&quot;|&#34;", '"'),
    ("&apos;|&#39;|&rsquo;|&#8217;", "'"),
]  # fmt: skip
SPECIAL = {
    "œ": "oe", "Œ": "OE", "æ": "ae", "Æ": "AE", "—": " - ", "―": " - ", "−": "-", "‘": "'", "’": "'", "ʼ": "'",
    "´": "'", "`": "'", "′": "'", "“": '"', "”": '"', "„": '"', "№": "#", "\ufffd": " ", "\u00b7": "·", "⁃": "•",
    "\t": "\t", "\n": "\n", "\r": "\r", "\u2029": "\n\n",
} | dict.fromkeys("\x0b\x0c\x85\u2028", "\n") | dict.fromkeys("‣◦▪▫●○◘■□◆◇►▶➢➤❖∙⋅✓✔", "•")  # fmt: skip


@lru_cache(maxsize=4096)
def _plain(character: str) -> str:
    """A character as it is typed on a plain keyboard; nothing for what cannot be seen."""
    if character in SPECIAL:
        return SPECIAL[character]
    if " " <= character <= "~":
        return character
    category = unicodedata.category(character)
    if category == "Cf" or category == "Mn":
        return ""
    if category == "Co":  # private use: the bullets of Word's Symbol and Wingdings
        return "•"
    if category[0] in "ZC":
        if "\x80" <= character <= "\x9f":  # Windows-1252 that was read as Latin-1
            word = character.encode("latin-1").decode("cp1252", "ignore")
            return _plain(word) if word else " "
        return " "
    if category == "Pd":
        return "-"
    if unicodedata.name(character, "").startswith(("CIRCLED DIGIT", "CIRCLED NUMBER", "DINGBAT CIRCLED")):
        return f"{unicodedata.digit(character, 0)}) "
    return "".join(c for c in unicodedata.normalize("NFKD", character) if unicodedata.category(c) != "Mn")


def _characters(report: str) -> Tracked:
    stored = Tracked(report, list(range(len(report))))
    for pattern, new in STORED_PATTERNS:
        stored = stored.sub(pattern, new)
    plain = [_plain(c) for c in stored.text]
    places = [place for place, put in zip(stored.places, plain, strict=True) for _ in put]
    return Tracked("".join(plain), places)


# --- words ---

# Short forms, in the order in which they are spelled out; whole words, any case.
SHORT_FORMS: list[tuple[str, str | Callable[[re.Match[str]], str]]] = [
    (r"(?<![\w'])(is|are|was|were|do|does|did|has|have|had|could|would|should|need)n(?:' ?|[ ?])?t(?!\w)", r"\1 not"),
    (r"(?<![\w'])(?:can[' ?]?t|can ?not)(?!\w)", "cannot"),
    (r"(?<![\w'])won(?:' ?|[ ?])?t(?!\w)", "will not"),
    (r"(?<![\w'])there's(?!\w)", "there is"),
    (r"(?<!\w)w ?[/\\] ?o(?:ut)?(?![\w/])", "without"),
    (r"(?<!\w)w/(?=\s|[a-z]{2})", "with "),
    (r"(?<!\w)e/o(?!\w)", "evidence of"),
    (r"(?<!\w)r ?/ ?o(?!\w)", "rule out"),
    (r"(?<!\w)h/o(?!\w)", "history of"),
    (r"(?<!\w)s/p(?!\w)", "status post"),
    (r"(?<!\w)c/w(?!\w)", "consistent with"),
    (r"(?<!\w)c/f(?!\w)", "concerning for"),
    (r"(?<!\w)s/o(?!\w)", "suggestive of"),
    (r"(?<!\w)d/t(?!\w)", "due to"),
    (r"(?<!\w)and ?/ ?or(?!\w)", "or"),
    (r"(?<![\w.])vs\.?(?!\w)", "versus"),
    (r"(?<![\w(])\(-\)(?= ?[a-z])", "no "),
    (r"(?<!\w)\(-\)", "negative"),
    (r"(?<!\w)-ve(?!\w)", "negative"),
    (r"(?<!\w)\+ve(?!\w)", "positive"),
    (r"(?<![\w%] )(?<![\w%])(?:\+/-|±) ?(?=[a-z])|(?<=[a-z] )(?:\+/-|±) ?(?=[a-z])", "possible "),
    (r"(?<!\w)neg(?:\.(?=\s*(?:(?-i:[a-z])|for\b))|(?!\w))", "negative "),
    (r"(?<!\w)poss(?:\.(?=\s*(?:(?-i:[a-z])|for\b))|(?!\w))", "possible "),
    (r"(?<!\w)prob(?:\.(?=\s*(?:(?-i:[a-z])|for\b))|(?!\w))", "probable "),
    (r"(?<!\w)susp(?:\.(?=\s*(?:(?-i:[a-z])|for\b))|(?!\w))", "suspected "),
    (r"(?<!\w)prev(?:\.(?=\s*(?:(?-i:[a-z])|for\b))|(?!\w))", "previous "),
    (r"(?<!\w)hx(?:\.(?=\s*(?:(?-i:[a-z])|for\b))|(?!\w))(?! of)", "history "),
    (r"(?<!\w)nil(?!\w)", "no"),
    (r"(?-i:(?<!\w)(?:[A-Z]\.){2,6}[A-Z](?!\w)\.?)(?= (?-i:[a-z]))", lambda m: m.group().replace(".", "")),  # S.A.H. is
    (r"(?-i:(?<!\w)(?:[A-Z]\.){2,6}[A-Z](?!\w))(?=\.)", lambda m: m.group().replace(".", "")),
    (r"(?<!\w)[Ø∅⌀](?!\w)\s?", "no "),
    (r"(?<=[a-z])\((?:s|es)\)", "s"),
    (r"\(\s*\?+\s*\)", " ?"),
    (r"\?{2,}", "?"),
]
STORED_PATTERNS = [(re.compile(p), n) for p, n in STORED]
SHORT_PATTERNS = [(re.compile(p, re.IGNORECASE), n) for p, n in SHORT_FORMS]
_DIVIDED = re.compile(r"(?<=[A-Za-z])(?:-[ \n]?|[ \n])(?=[A-Za-z])")
_LAST_WORD, _FIRST_WORD = re.compile("[A-Za-z]+$"), re.compile("[A-Za-z]+")
LINES: list[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]] = [
    (re.compile(r"[ \t]+"), lambda m: "\t" if "\t" in m.group() or len(m.group()) > 2 else " "),  # a gap, or a blank
    (re.compile(r"[ \t]?\n[ \t]?"), "\n"),
    (re.compile(r"(?i)\t(?=(?:no|none|nil|absent|negative)(?:\n(?-i:[A-Z][a-z])|\n\n|\n?$))"), lambda m: _answers(m)),
    (re.compile(r"\t"), " "),
    (re.compile(r"(?m)^[>|]+[ \t]*"), ""),  # as quoted in a mail
    (re.compile(r"(?mi)^(?:[-=_*~#.+ ]{3,}|-* ?page \d+(?: ?(?:of|/) ?\d+)? ?-*)$"), "\n"),
    (re.compile(r"\*\*|__|(?m:^#{1,4} )"), ""),  # Markdown
    (re.compile(r"\n{3,}"), "\n\n"),
]


def _answers(gap: re.Match[str]) -> str:
    """A gap between a finding and what is said of it, as in a form: "Fracture     none"."""
    before = gap.string[max(0, gap.start() - 40) : gap.start()]
    return " " if leads_on(before) or not before[-1:].isalpha() else ": "


def spelled_out(text: str) -> str:
    """Words with their short forms spelled out and hyphens as blanks, as `readable` leaves them."""
    for pattern, new in SHORT_PATTERNS:
        text = pattern.sub(new, text)
    return re.sub(r"(?<=[a-z])-(?=[a-z])", " ", text, flags=re.IGNORECASE)


def readable(report: str, known: Callable[[str], bool]) -> Tracked:
    """The report in plain characters; its lines are parted by a line feed, its paragraphs by two.

    Args:
        report: as stored.
        known: whether a word is one of the lexicon or of the term sets.
    """
    text = _unbroken(_characters(report).sub(re.compile(r"\r*\n|\r+"), "\n"), known)
    for pattern, new in LINES:
        text = text.sub(pattern, new)
    text = _single_spaced(text)

    def mark_kept(match: re.Match[str]) -> str:
        left = _LAST_WORD.search(match.string, max(0, match.start() - 40), match.start())
        right = _FIRST_WORD.match(match.string, match.end())
        assert left is not None
        assert right is not None
        mark, whole = match.group(), left.group() + right.group()
        familiar = known(left.group()), known(right.group())
        whole_parts = "-" in mark or (not all(familiar) and min(len(left.group()), len(right.group())) > 1)
        one = len(whole) >= 7 and known(whole) and whole_parts
        return "" if one or (mark == "-\n" and not any(familiar)) else mark.replace("-\n", "-")

    text = text.sub(_DIVIDED, mark_kept)
    for short, words in SHORT_PATTERNS:
        text = text.sub(short, words)
    return text


def _unbroken(text: Tracked, known: Callable[[str], bool]) -> Tracked:
    """Lines put together that were cut after the same number of characters, wherever that fell: "hemorr", "hage"."""
    lines = text.text.split("\n")
    lengths = [len(line) for line in lines]
    width = max(lengths)
    cut = lengths.count(width)
    if (
        width < 20
        or cut < 2
        or cut + lengths.count(width - 1)
        < 0.8 * sum(len(line) > width - 12 and line[-1] not in ".:!?" for line in lines)
    ):
        return text
    cuts = [(a, b) for a, b in pairwise(lines) if len(a) == width and b]
    if not any(a[-1] == " " or b[0] == " " or _one_word(a, b, known) for a, b in cuts):
        return text

    def put_together(match: re.Match[str]) -> str:
        start = match.string.rfind("\n", 0, match.start()) + 1
        before, after = match.string[match.start() - 1], match.string[match.end()]
        inside = before.isalnum() and (after.islower() or after.isdigit() or (before.isupper() and after.isupper()))
        touches = " " in before + after or after in ".,;:)" or re.match("-[a-z]", match.string[match.end() :][:2])
        return "" if match.start() - start == width and (inside or touches) else "\n"

    return text.sub(re.compile("(?<=[^\n])\n(?=[^\n])"), put_together)


def _one_word(before: str, after: str, known: Callable[[str], bool]) -> bool:
    left, right = _LAST_WORD.search(before), _FIRST_WORD.match(after)
    if left is None or right is None:
        return False
    return known(left.group() + right.group()) and not (known(left.group()) and known(right.group()))


def _single_spaced(text: Tracked) -> Tracked:
    """Blank lines taken out where they part every two lines of one running text, also in the middle of sentences."""
    lines = text.text.strip("\n").split("\n\n")
    if len(lines) < 4 or any("\n" in line for line in lines):
        return text
    inside = sum(len(a) >= 40 and a[-1] not in ".!?;:" and b[:1].islower() for a, b in pairwise(lines))
    return text.sub(re.compile("\n\n"), "\n") if 2 * inside >= len(lines) - 1 else text
