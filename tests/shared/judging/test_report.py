"""The HTML page: what it escapes, how it shows numbers, and that it stands alone."""

from __future__ import annotations

import base64
import re
import struct
import zlib
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.shared.errors import RunError
from pipelines.shared.judging.report import (
    Code,
    Headline,
    HeadlineFigure,
    Picture,
    Report,
    Section,
    Table,
    Text,
    _marked,
    estimate_text,
    number_text,
    render,
)


@dataclass(frozen=True)
class Estimate:
    value: float | None
    low: float | None = None
    high: float | None = None
    reason: str | None = None


class Page(HTMLParser):
    """Parses a page strictly: every element is closed, in order. Keeps tags, attributes and text."""

    VOID = frozenset({"meta", "img", "br", "hr", "input", "link"})

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[tuple[str, ...], str]] = []
        self.feed(html)
        self.close()
        assert self.open == [], f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open[-1] == tag, f"</{tag}> closes <{self.open[-1]}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.texts.append((tuple(self.open), data))

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def text(self, inside: str = "body") -> str:
        return "".join(data for path, data in self.texts if inside in path and "style" not in path)


def png(width: int = 960, height: int = 300) -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + b"\xff" * width for _ in range(height)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "roc.png").write_bytes(png())
    return tmp_path


def full_report(text: str = "some text", synthetic: bool = True) -> Report:
    """Every kind of block, with `text` in every field that takes text."""
    missing = Estimate(None, reason=f"one class {text}")
    return Report(
        title=f"title {text}",
        study=f"study {text}",
        synthetic=synthetic,
        headline=Headline(
            f"sentence {text}",
            [
                HeadlineFigure(f"main {text}", Estimate(0.912, 0.884, 0.936), f"note {text}"),
                HeadlineFigure("words", f"words {text}"),
                HeadlineFigure("missing", missing),
                HeadlineFigure("count", 1234),
                HeadlineFigure("nothing", None),
            ],
            [f"warning {text}"],
        ),
        sections=[
            Section(
                f"first {text}",
                [
                    Text(f"plain {text}"),
                    Text(f"note {text}", "note"),
                    Text(f"warning {text}", "warning"),
                    Picture("figures/roc.png", f"caption {text}", f"alt {text}"),
                ],
            ),
            Section(
                f"second {text}",
                [
                    Table(
                        ["name", f"AUC {text}"], [[f"row {text}", Estimate(0.5, 0.4, 0.6)], ["b", missing]], f"t {text}"
                    ),
                    Code(f"python -m {text}"),
                ],
            ),
            Section("empty", []),
        ],
        footer=f"footer {text}",
    )


def rendered(report: Report, run_folder: Path) -> str:
    return render(report, run_folder).read_text(encoding="utf-8")


def table_page(table: Table, run_folder: Path) -> Page:
    report = Report("t", "s", False, Headline("h", []), [Section("a", [table])])
    return Page(rendered(report, run_folder))


# ---- the page ----


def test_page_is_written_into_the_run_folder_and_nothing_else_is_left(run_folder: Path) -> None:
    path = render(full_report(), run_folder)
    assert path == run_folder / "report.html"
    assert sorted(p.name for p in run_folder.iterdir()) == ["figures", "report.html"]


def test_page_has_balanced_tags_language_and_every_block(run_folder: Path) -> None:
    page = Page(rendered(full_report(), run_folder))
    assert page.named("html") == [{"lang": "en"}]
    assert "title some text (synthetic data)" in page.text("title")
    body = page.text()
    for expected in (
        "study some text",
        "sentence some text",
        "warning some text",
        "plain some text",
        "note some text",
        "Figure 1. caption some text",
        "Table 1. t some text",
        "python -m some text",
        "footer some text",
    ):
        assert expected in body
    assert [a["class"] for a in page.named("div") if a.get("class") in ("note", "warning")] == [
        "warning",
        "note",
        "warning",
    ]


def test_contents_link_to_every_section(run_folder: Path) -> None:
    page = Page(rendered(full_report(), run_folder))
    links = [str(a["href"]) for a in page.named("a")]
    assert links == ["#section-1", "#section-2", "#section-3"]
    assert [f"#{a['id']}" for a in page.named("section")] == links


def test_page_without_anything_optional(run_folder: Path) -> None:
    page = Page(rendered(Report("t", "s", False, Headline("h", []), []), run_folder))
    assert not {"nav", "dl", "footer", "table", "img"} & {tag for tag, _ in page.tags}


def test_page_needs_nothing_from_outside(run_folder: Path) -> None:
    html = rendered(full_report(), run_folder)
    page = Page(html)
    assert not re.search(r"https?:|//[a-z]|url\(|@import", re.sub(r'base64,[^"]+', "", html))
    assert not {"script", "link", "iframe", "object", "base", "form"} & {tag for tag, _ in page.tags}
    for tag, attributes in page.tags:
        assert not any(name.startswith("on") or name == "srcset" for name in attributes), tag
        if "src" in attributes:
            assert str(attributes["src"]).startswith("data:image/png;base64,")
        if "href" in attributes:
            assert str(attributes["href"]).startswith("#")
    policy = next(str(a["content"]) for a in page.named("meta") if "http-equiv" in a)
    assert "default-src 'none'" in policy


def test_same_report_gives_same_bytes(run_folder: Path) -> None:
    first = render(full_report(), run_folder).read_bytes()
    assert render(full_report(), run_folder).read_bytes() == first


@pytest.mark.parametrize("synthetic", [True, False])
def test_synthetic_data_is_said_only_where_it_is_true(run_folder: Path, synthetic: bool) -> None:
    html = rendered(full_report(synthetic=synthetic), run_folder)
    assert ("Synthetic data" in html) == synthetic
    assert ("(synthetic data)</title>" in html) == synthetic


def test_markup_in_any_text_is_shown_not_interpreted(run_folder: Path) -> None:
    attack = """</p></title><script>alert(1)</script><img src=x onerror="alert(1)"> "q" 'q' & &lt;"""
    page = Page(rendered(full_report(attack), run_folder))
    plain = Page(rendered(full_report(), run_folder))
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in plain.tags]
    assert page.named("img")[0]["alt"] == f"alt {attack}"
    # one attack for every field that shows its text: nothing is lost either
    whole = page.text() + page.text("title")
    assert whole.count(attack) == (plain.text() + plain.text("title")).count("some text")


def test_unicode_survives(run_folder: Path) -> None:
    text = "Größe ≥ 5 µm, 病変, Ω, é, 👁"
    page = Page(rendered(full_report(text), run_folder))
    plain = Page(rendered(full_report(), run_folder))
    assert page.text().count(text) == plain.text().count("some text") > 15
    assert page.named("meta")[0] == {"charset": "utf-8"}


def test_unknown_block_is_refused(run_folder: Path) -> None:
    report = Report("t", "s", False, Headline("h", []), [Section("a", ["just text"])])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="Not a block of a report: str"):
        render(report, run_folder)
    assert not (run_folder / "report.html").exists()


def test_a_failing_report_leaves_the_old_page(run_folder: Path) -> None:
    old = render(full_report(), run_folder).read_bytes()
    (run_folder / "figures" / "roc.png").unlink()
    with pytest.raises(RunError):
        render(full_report(), run_folder)
    assert (run_folder / "report.html").read_bytes() == old


# ---- emphasis ----


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("a **b** c", "a <strong>b</strong> c"),
        ("`x=1` and `y`", "<code>x=1</code> and <code>y</code>"),
        ("**<b>**", "<strong>&lt;b&gt;</strong>"),
        ("2 ** 3 ** 4", "2 <strong> 3 </strong> 4"),
        ("`a**b**c`", "<code>a**b**c</code>"),
        ("**a `b** c`", "**a <code>b** c</code>"),
        ("** no end", "** no end"),
        ("95 % of 5 %", "95\u00a0% of 5\u00a0%"),
    ],
)
def test_emphasis(text: str, html: str) -> None:
    assert _marked(text) == html


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="ab*`<>&\"' \n5%é"))
def test_emphasis_never_breaks_the_page(text: str) -> None:
    page = Page(f"<body>{_marked(text)}</body>")
    assert {tag for tag, _ in page.tags} <= {"body", "strong", "code"}
    shown, given_text = (re.sub(r"[*`]", "", t).replace("\u00a0", " ") for t in (page.text(), text))
    assert shown == given_text


def test_blank_lines_part_paragraphs(run_folder: Path) -> None:
    report = Report("t", "s", False, Headline("h", []), [Section("a", [Text("one\n \n\ntwo\nstill two\n")])])
    html = rendered(report, run_folder)
    assert "<p>one</p>" in html
    assert "<p>two\nstill two</p>" in html


# ---- numbers ----


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (34023, "34,023"),
        (-5, "−5"),
        (0, "0"),
        (0.91249, "0.912"),
        (0.0, "0.000"),
        (-0.0, "0.000"),
        (-0.00049, "−0.0005"),
        (0.00012, "0.0001"),
        (3e-7, "3e−07"),
        (54.32, "54.3"),
        (1234.5, "1,234"),
        (float("inf"), "∞"),
        (float("-inf"), "−∞"),
        (float("nan"), "–"),
    ],
)
def test_number_text(value: float, text: str) -> None:
    assert number_text(value) == text


@given(st.floats(min_value=-1e6, max_value=1e6, allow_nan=False))
def test_number_text_is_close_to_the_number(value: float) -> None:
    shown = float(number_text(value).replace("−", "-").replace(",", ""))
    tolerance = 0.0005 if abs(value) < 10 else 0.05 if abs(value) < 1000 else 0.5
    assert abs(shown - value) <= tolerance * (1 + 1e-9)
    assert (shown == 0) == (value == 0)  # a small number never looks like zero


@pytest.mark.parametrize(
    ("estimate", "text"),
    [
        (Estimate(0.912, 0.884, 0.936), "0.912 (0.884 to 0.936)"),
        (Estimate(-0.012, -0.03, 0.00001), "−0.012 (−0.030 to 0.000)"),
        (Estimate(9.9, 8.0, 12.25), "9.9 (8.0 to 12.2)"),
        (Estimate(0.5), "0.500"),
        (Estimate(0.5, reason="no interval"), "0.500"),
        (Estimate(None, reason="one class"), "–"),
        (None, "–"),
    ],
)
def test_estimate_text(estimate: Estimate | None, text: str) -> None:
    assert estimate_text(estimate) == text


# ---- tables ----


def test_table_has_caption_scopes_and_alignment(run_folder: Path) -> None:
    rows = [["a", 1, 0.5, "x", None], ["b", 22, None, "y", Estimate(0.5, 0.4, 0.6)]]
    page = table_page(Table(["name", "n", "p", "word", "auc"], rows, "What it shows"), run_folder)
    assert page.text("caption") == "Table 1. What it shows"
    heads = page.named("th")
    assert [a["scope"] for a in heads] == ["col"] * 5 + ["row"] * 2
    assert [a["class"] for a in heads[:5]] == ["left", "right", "right", "left", "right"]
    assert [a["class"] for a in page.named("td")] == ["right", "right", "left", "right"] * 2
    shown = [text.strip() for path, text in page.texts if "tbody" in path and text.strip()]
    assert shown == ["a", "1", "0.500", "x", "–", "b", "22", "–", "y", "0.500", "(0.400 to 0.600)"]
    region = next(a for a in page.named("div") if a.get("class") == "scroll")
    assert region["tabindex"] == "0"
    assert region["aria-labelledby"] == page.named("caption")[0]["id"]


def test_given_alignment_is_used(run_folder: Path) -> None:
    page = table_page(Table(["a", "b"], [["x", "5 (3 %)"]], "c", ["right", "center"]), run_folder)
    assert [a["class"] for a in page.named("th") + page.named("td")] == ["right", "center", "right", "center"]


def test_reasons_become_shared_footnotes(run_folder: Path) -> None:
    rows = [
        ["a", Estimate(None, reason="one <class>"), Estimate(None, reason="no cases")],
        ["b", Estimate(None, reason="one <class>"), Estimate(0.7, reason="one group")],
        ["c", Estimate(None), Estimate(0.7, 0.6, 0.8, reason="ignored: there is an interval")],
    ]
    page = table_page(Table(["", "x", "y"], rows, "c"), run_folder)
    marks = [text for path, text in page.texts if "tbody" in path and "sup" in path]
    assert marks == ["a", "b", "a", "c"]
    assert [line.strip() for line in page.text("ul").strip().splitlines()] == [
        "a one <class>",
        "b no cases",
        "c one group",
    ]


def test_more_reasons_than_letters(run_folder: Path) -> None:
    rows = [[str(i), Estimate(None, reason=f"reason {i}")] for i in range(28)]
    page = table_page(Table(["", "x"], rows, "c"), run_folder)
    marks = [text for path, text in page.texts if "tbody" in path and "sup" in path]
    assert marks[-3:] == ["z", "aa", "bb"]
    assert len(set(marks)) == 28


def test_numpy_numbers_are_numbers(run_folder: Path) -> None:
    row = ["a", np.int64(1234), np.float32(0.25), np.float64("nan")]
    page = table_page(Table(["", "n", "p", "q"], [row], "c"), run_folder)
    assert [text.strip() for path, text in page.texts if "td" in path] == ["1,234", "0.250", "–"]


def test_table_without_rows(run_folder: Path) -> None:
    page = table_page(Table(["a", "b"], [], "empty"), run_folder)
    assert len(page.named("th")) == 2


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (Table(["a", "b"], [["x", 1], ["y"]], "cohort"), "Table 'cohort': row 2 has 1 cells, the table 2 columns"),
        (Table(["a", "b"], [["x", 1]], "cohort", ["left"]), "Table 'cohort': 1 alignments for 2 columns"),
        (Table(["a", "b"], [["x", [1]]], "cohort"), "not list"),  # type: ignore[list-item]
        (Table(["a", "b"], [["x", True]], "cohort"), "not bool"),
    ],
)
def test_malformed_tables_are_refused(run_folder: Path, table: Table, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        table_page(table, run_folder)


# ---- pictures ----


def test_picture_is_embedded_whole_at_its_printed_size(run_folder: Path) -> None:
    page = Page(rendered(full_report(), run_folder))
    image = page.named("img")[0]
    assert base64.b64decode(str(image["src"]).removeprefix("data:image/png;base64,")) == png()
    assert (image["width"], image["height"]) == ("614", "192")  # 960 x 300 dots at 150 per inch, in 1/96 inch


@pytest.mark.parametrize("content", [None, b"", b"GIF89a" + b"\0" * 40, b"\x89PNG\r\n\x1a\n"])
def test_missing_or_unreadable_picture_is_named(run_folder: Path, content: bytes | None) -> None:
    path = run_folder / "figures" / "roc.png"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RunError, match=r"^figures/roc\.png: ") as caught:
        render(full_report(), run_folder)
    assert caught.value.remedy
    assert not (run_folder / "report.html").exists()


def test_pictures_and_tables_are_numbered_over_the_page(run_folder: Path) -> None:
    picture, table = Picture("figures/roc.png", "c", "a"), Table(["a"], [["x"]], "c")
    sections = [Section("one", [picture, table]), Section("two", [table, picture])]
    body = Page(rendered(replace(full_report(), sections=sections), run_folder)).text()
    assert re.findall(r"(?:Figure|Table) \d", body) == ["Figure 1", "Table 1", "Table 2", "Figure 2"]


# ---- headline ----


def test_headline_cards(run_folder: Path) -> None:
    html = rendered(full_report(), run_folder)
    page = Page(html)
    shown = [" ".join(text.split()) for path, text in page.texts if "dd" in path and text.strip()]
    assert shown == [
        "0.912",
        "95 % interval",
        "0.884 to 0.936",
        "note some text",
        "words some text",
        "–",
        "one class some text",
        "1,234",
        "–",
    ]
