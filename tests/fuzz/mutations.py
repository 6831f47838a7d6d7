"""Damaged files: what disks, networks, spreadsheets and malice do to a file, from a random generator alone.

Bytes are flipped, overwritten, moved, repeated, cut off. In text also what means something is changed: numbers become
extreme, quotation marks stay open, brackets nest, lines and words change places, encodings change.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

Rng = np.random.Generator
Item = TypeVar("Item")

LONGEST_TEXT = 2_000_000  # characters; text that grows beyond is cut off
INTEGERS = [0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF]
NUMBERS = [
    "", "0", "-0", "-1", "1", "2", "0.5", "1e-320", "1e308", "-1e308", "1e5000", "inf", "-Infinity", "nan", "NaN",
    "2147483648", "-2147483649", "9223372036854775808", "18446744073709551616", "9" * 400, "0x10", "1_0", "1,5",
    "1.2.3", "+5", "1e", "٣", "½", "1 000", "null", "true", "TRUE", "None", "#N/A", "1/0",
]  # fmt: skip
NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
WORD = re.compile(r"[^\W\d_]{2,}|[-+]?\d+(?:\.\d+)?")
SIGNS = [
    '"', "'", ",", ";", "\t", "|", ":", "=", "/", "\\", "..", "../", "%", "#", "~", "(", ")", "[", "]", "{", "}", "<",
    ">", "&", "&amp;", "&#0;", "<!--", "]]>", "\0", "\x1a", "\x7f", "\r", "\n", "\r\n", "\u2028", "\u00a0", "\u200b",
    "\ufeff", "\ud800", "é", "中文", "🫀", "- ", "? ", "!!python/object:os.system", "*a", "&a ",
]  # fmt: skip
NESTS = ["[", "{", "(", '{"a":', "[[", "<a>", "<Annotation>", "'", "- ", "&a [", "((((", "no evidence of ", "a, "]


def mutated(content: bytes, rng: Rng) -> bytes:
    """One to four changes of a file's content, those of text if it is text."""
    text = _as_text(content)
    for _ in range(1 + min(int(rng.geometric(0.6)) - 1, 3)):
        if text is not None and rng.random() < 0.7:
            text = _pick(TEXT_CHANGES, rng)(text, rng)[:LONGEST_TEXT]
            content = text.encode("utf-8", "surrogatepass" if rng.random() < 0.5 else "replace")
        else:
            content = _pick(BYTE_CHANGES, rng)(content, rng)
            text = None if text is None else content.decode("utf-8", "replace")
    if text is not None and rng.random() < 0.03:
        return text.encode(str(_pick(["utf-16", "latin-1", "utf-8-sig", "cp1252"], rng)), "replace")
    if content.startswith(b"\x89PNG") and rng.random() < 0.5:
        return with_checksums(content)
    return content


def with_checksums(png: bytes) -> bytes:
    """A PNG whose chunks have the checksums that belong to them, so that a decoder looks at what is in them."""
    at, found = 8, png[:8]
    while at + 12 <= len(png):
        size = int.from_bytes(png[at : at + 4], "big")
        body = png[at + 4 : at + 8 + size]
        found += png[at : at + 4] + body + zlib.crc32(body).to_bytes(4, "big")
        at += 12 + size
    return found


def _as_text(content: bytes) -> str | None:
    if b"\0" in content:
        return None
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _pick(items: Sequence[Item], rng: Rng) -> Item:
    return items[int(rng.integers(len(items)))]


def _place(length: int, rng: Rng) -> int:
    """A place in a file; half of them near its beginning or end, where formats keep what decides."""
    if length == 0:
        return 0
    if rng.random() < 0.5:
        near = int(np.exp(rng.uniform(0, np.log(length + 1)))) - 1
        return min(near, length - 1) if rng.random() < 0.7 else max(length - 1 - near, 0)
    return int(rng.integers(length))


def _stretch(length: int, rng: Rng) -> tuple[int, int]:
    """First and last + 1 of a stretch, mostly short."""
    begin = _place(length, rng)
    return begin, min(length, begin + int(np.exp(rng.uniform(0, np.log(max(2, length))))))


# --- bytes ---


def _flip(content: bytes, rng: Rng) -> bytes:
    found = bytearray(content)
    for _ in range(int(rng.integers(1, 9)) if found else 0):
        found[_place(len(found), rng)] ^= 1 << int(rng.integers(8))
    return bytes(found)


def _overwrite(content: bytes, rng: Rng) -> bytes:
    begin, end = _stretch(len(content), rng)
    filling = _pick([b"\0", b"\xff", b" ", None], rng)
    run = rng.bytes(end - begin) if filling is None else filling * (end - begin)
    return content[:begin] + run + content[end:]


def _integer(content: bytes, rng: Rng) -> bytes:
    """An extreme integer of one, two, four or eight bytes, mostly where one may have stood."""
    width = int(_pick([1, 2, 4, 8], rng))
    at = _place(len(content), rng)
    at = at // width * width if rng.random() < 0.5 else at
    value = _pick(INTEGERS, rng) & ((1 << 8 * width) - 1)
    return content[:at] + value.to_bytes(width, "little" if rng.random() < 0.5 else "big") + content[at + width :]


def _cut(content: bytes, rng: Rng) -> bytes:
    return content[: _place(len(content), rng)]


def _without(content: bytes, rng: Rng) -> bytes:
    begin, end = _stretch(len(content), rng)
    return content[:begin] + content[end:]


def _repeat(content: bytes, rng: Rng) -> bytes:
    begin, end = _stretch(len(content), rng)
    return content[:end] + content[begin:end] * int(rng.integers(1, 4)) + content[end:]


def _insert(content: bytes, rng: Rng) -> bytes:
    at = _place(len(content), rng)
    return content[:at] + rng.bytes(int(rng.integers(1, 65))) + content[at:]


def _exchange(content: bytes, rng: Rng) -> bytes:
    (a, b), (c, d) = sorted([_stretch(len(content), rng), _stretch(len(content), rng)])
    if b > c:
        return content[c:d] + content[:c] + content[d:]
    return content[:a] + content[c:d] + content[b:c] + content[a:b] + content[d:]


BYTE_CHANGES: list[Callable[[bytes, Rng], bytes]] = [
    _flip, _flip, _flip, _overwrite, _integer, _integer, _cut, _without, _repeat, _insert, _exchange,
]  # fmt: skip


# --- text ---


def _replaced(text: str, pattern: re.Pattern[str], by: Callable[[str], str], rng: Rng) -> str:
    """One of the pattern's matches, replaced."""
    places = [m.span() for m in pattern.finditer(text)]
    if not places:
        return text
    begin, end = places[_place(len(places), rng)]
    return text[:begin] + by(text[begin:end]) + text[end:]


def _number(text: str, rng: Rng) -> str:
    return _replaced(text, NUMBER, lambda _: _pick(NUMBERS, rng), rng)


def _scaled(text: str, rng: Rng) -> str:
    return _replaced(text, NUMBER, lambda n: n + "0" * int(rng.integers(1, 12)), rng)


def _word(text: str, rng: Rng) -> str:
    """A word by another one of the file, in another case, twice, or gone."""
    words = WORD.findall(text) or [""]
    changes: list[Callable[[str], str]] = [
        lambda w: _pick(words, rng), str.upper, str.swapcase, lambda w: w + w, lambda w: "", lambda w: w[::-1],
        lambda w: w * 5000,
    ]  # fmt: skip
    return _replaced(text, WORD, _pick(changes, rng), rng)


def _sign(text: str, rng: Rng) -> str:
    at = _place(len(text), rng)
    return text[:at] + _pick(SIGNS, rng) * int(_pick([1, 1, 1, 2, 40], rng)) + text[at:]


def _unsigned(text: str, rng: Rng) -> str:
    return _replaced(text, re.compile(r"[^\w\s]"), lambda _: "", rng)


def _nest(text: str, rng: Rng) -> str:
    at = _place(len(text), rng)
    return text[:at] + _pick(NESTS, rng) * int(_pick([3, 200, 20_000], rng)) + text[at:]


def _lines(text: str, rng: Rng) -> str:
    """Lines in another order, twice, gone, joined, or one of them over and over."""
    lines = text.splitlines(keepends=True) or [""]
    i, j = int(rng.integers(len(lines))), int(rng.integers(len(lines)))
    kind = int(rng.integers(6))
    if kind == 0:
        lines[i], lines[j] = lines[j], lines[i]
    elif kind == 1:
        lines.insert(j, lines[i])
    elif kind == 2:
        del lines[i]
    elif kind == 3:
        lines[i] = lines[i].rstrip("\r\n")
    elif kind == 4:
        lines[i:i] = [lines[i]] * int(_pick([10, 3000], rng))
    else:
        lines[i] = "\n" + lines[i]
    return "".join(lines)


def _ends(text: str, rng: Rng) -> str:
    return text.replace("\n", str(_pick(["\r\n", "\r", " ", "\n\n", "\0", "\u2028"], rng)))


def _separators(text: str, rng: Rng) -> str:
    return text.replace(_pick([",", ":", '"', " ", "."], rng), _pick([";", "\t", "|", ",", " ", ""], rng))


TEXT_CHANGES: list[Callable[[str, Rng], str]] = [
    _number, _number, _number, _number, _scaled, _word, _word, _sign, _sign, _sign, _unsigned, _nest, _lines, _lines,
    _ends, _separators,
]  # fmt: skip
