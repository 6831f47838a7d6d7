"""What the Markdown files and the headers of configurations say exists: links, commands, targets of make, recipes."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import REPOSITORY, STUDIES

from pipelines import __version__
from pipelines.shared.cli.app import _checked_arguments
from pipelines.shared.errors import UserError
from pipelines.shared.mode import modes_of

ROOMS = ("*.md", ".github/**/*.md", "conf/**/*.md", "data_cards/*.md", "pipelines/**/*.md", "tests/**/*.md")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
COMMAND = re.compile(r"(?:^|\s)-m pipelines\.(\w+)([^\n]*)")
MAKE = re.compile(r"(?:^|`)make ([a-z_]+)(?: ARGS=\"([^\"]*)\")?", re.MULTILINE)
TOOLS = ("compare", "networks", "publish")


def pages() -> list[Path]:
    return sorted({file for room in ROOMS for file in REPOSITORY.glob(room)})


def named(file: Path) -> str:
    return file.relative_to(REPOSITORY).as_posix()


def anchors(text: str) -> set[str]:
    """Of a page's headings, as hosts of Git repositories make them."""
    titles = re.findall(r"^#+ (.*)$", BLOCK.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def dead_links(file: Path) -> Iterator[str]:
    for target in LINK.findall(BLOCK.sub("", file.read_text(encoding="utf-8"))):
        path, _, anchor = target.partition("#")
        place = (file.parent / path).resolve() if path else file
        if not place.exists():
            yield f"{named(file)}: {target} does not exist"
        elif anchor and anchor not in anchors(place.read_text(encoding="utf-8")):
            yield f"{named(file)}: {target}: no such heading"


def written(file: Path) -> str:
    """The lines that people may type: a page's code blocks, or the comments of a configuration; whole lines."""
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".md":
        text = "\n".join(block for _, block in BLOCK.findall(text))
    else:  # two blanks and more begin a remark
        lines = [line.lstrip("# ") for line in text.splitlines() if line.startswith("#")]
        text = "\n".join(re.sub(r"(?<=\S) {2,}.*(?<!\\)$", "", line) for line in lines)
    return re.sub(r"\\\n\s*", " ", text)


def commands(file: Path) -> Iterator[tuple[str, str]]:
    """(study or tool, arguments) of every command line."""
    text = written(file)
    yield from COMMAND.findall(text)
    yield from ((target, arguments) for target, arguments in MAKE.findall(text) if target in (*STUDIES, *TOOLS))


def mistake_in(name: str, arguments: str) -> str | None:
    """Why a command line cannot be composed: its keys, choices of groups and mode."""
    if "…" in arguments or name == "":
        return None
    arguments = re.sub(r"<[^<>]*>", "x", arguments.replace("data=<source>", "data=table"))
    words = shlex.split(arguments, comments=True)
    if name in TOOLS:
        try:
            importlib.import_module(f"pipelines.{name}.command")._parser().parse_args(words)
        except SystemExit:
            return "its arguments are refused"
        return None
    if name not in STUDIES:
        return "no such study"
    try:
        _checked_arguments(name, words)
    except UserError as mistake:
        return mistake.problem
    mode = next((word.removeprefix("mode=") for word in words if word.startswith("mode=")), "train")
    return None if mode in modes_of(name) else f"no mode {mode}"


def test_every_link_leads_to_a_file_and_a_heading():
    assert len(pages()) > 30
    assert [link for file in pages() for link in dead_links(file)] == []


def test_every_command_line_composes():
    files = [*pages(), *sorted((REPOSITORY / "conf").rglob("*.yaml"))]
    found = [(file, *command) for file in files for command in commands(file)]
    assert {name for _, name, _ in found} >= {*STUDIES, *TOOLS}
    wrong = [
        f"{named(file)}: {name} {arguments}: {mistake}"
        for file, name, arguments in found
        if (mistake := mistake_in(name, arguments)) is not None
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("name", "arguments", "what"),
    [
        ("skin", "trainer.epoch=5", "trainer.epoch"),
        ("skin", "data=ham1000", "ham1000"),
        ("skin", "experiment=hamm", "hamm"),
        ("skin", "mode=listen run=<run>", "listen"),
        ("dermatology", "", "study"),
        ("publish", "", "refused"),
    ],
)
def test_a_wrong_command_line_is_noticed(name, arguments, what):
    assert what in str(mistake_in(name, arguments))


def test_a_dead_link_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "REPOSITORY", tmp_path)
    (tmp_path / "a.md").write_text("# One\n[b](b.md) [one](#one) [two](#two) [self](a.md#one)\n```\n[c](c.md)\n```\n")
    assert [link.split(": ")[1] for link in dead_links(tmp_path / "a.md")] == ["b.md does not exist", "#two"]


def test_the_version_is_the_same_wherever_it_is_written():
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"version += \{(.*?)\}", readme) == [__version__]
    assert set(re.findall(r"imaging_pipelines-(.*?)-py3", readme)) == {__version__}
    changes = (REPOSITORY / ".github" / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (\S+)", changes, re.MULTILINE)[0] == __version__


def test_every_target_of_make_exists():
    makefile = (REPOSITORY / "Makefile").read_text()
    targets = {*re.findall(r"^([a-z]+):", makefile, re.MULTILINE), *STUDIES}
    asked = {(named(file), target) for file in pages() for target, _ in MAKE.findall(file.read_text(encoding="utf-8"))}
    assert len(asked) > 10
    assert {(file, target) for file, target in asked if target not in targets} == set()


def test_every_study_has_a_page_that_names_its_recipes_and_sources():
    front = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    for study in sorted(file.parent.parent.name for file in (REPOSITORY / "conf").glob("*/trainer/default.yaml")):
        page = f"pipelines/{study}/README.md"
        assert page in front
        text = (REPOSITORY / page).read_text(encoding="utf-8")
        for recipe in (REPOSITORY / "conf" / study / "experiment").glob("*.yaml"):
            assert f"`{recipe.stem}`" in text, f"{page} does not name experiment={recipe.stem}"
        for source in (REPOSITORY / "conf" / study / "data").glob("*.yaml"):
            card = f"{study}_phantom" if source.stem == "phantom" else source.stem
            assert f"data_cards/{card}.md" in text, f"{page} does not name data={source.stem}"


def test_every_card_is_listed():
    text = (REPOSITORY / "data_cards" / "README.md").read_text(encoding="utf-8")
    cards = {file.name for file in (REPOSITORY / "data_cards").glob("*.md")} - {"README.md"}
    assert {card for card in cards if f"({card})" not in text} == set()


def test_examples_in_python_are_python_and_call_run_with_keys_that_exist():
    blocks = [(f, b) for f in pages() for kind, b in BLOCK.findall(f.read_text(encoding="utf-8")) if kind == "python"]
    assert blocks
    for file, block in blocks:
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "run":
                study, *overrides = (ast.literal_eval(argument) for argument in node.args)
                assert mistake_in(study, shlex.join(overrides)) is None, named(file)
