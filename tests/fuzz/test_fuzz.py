"""A small part of the fuzz target, always the same; `make fuzz` is the whole of it."""

from __future__ import annotations

import os
import signal
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

if sys.platform != "linux":
    pytest.skip("limits of processes as Linux has them", allow_module_level=True)

from conftest import slow
from formats import FORMATS
from fuzzing import Case, Format, Worker, outcome_of, samples_of
from mutations import mutated, with_checksums
from PIL import Image

from pipelines.shared.errors import BadFile, DataError

EACH = 12  # cases of a format
SLOW = {"cache", "camelyon_run", "ct", "ct_cache", "mat", "reports", "tables", "wfdb", "yaml"}
LEFT_OUT = {"report", "compare", "networks", "slides"}  # seconds to make or to read: `make fuzz` alone


@pytest.mark.parametrize("name", [slow(n) if n in SLOW else n for n in FORMATS if n not in LEFT_OUT])
def test_damaged_files_are_read_or_refused_in_words(tmp_path, name):
    format_ = FORMATS[name]
    samples_of(format_, tmp_path)
    for number in range(EACH):
        case = Case(name, 0, number)
        folder = tmp_path / f"{number}"
        case.build(tmp_path / name, format_.files, folder)
        kind, words = outcome_of(format_.read, folder)
        assert kind != "fault", f"{case}\n{words}"


# --- the target itself ---


def make(folder: Path) -> None:
    for name in ("a", "b"):
        (folder / name).mkdir()
        (folder / name / "file.txt").write_text("12 words, 34 numbers\n" * 5)


def read(folder: Path, wanted: str) -> None:
    """Does what is wanted, where the file is damaged."""
    text = (folder / "file.txt").read_bytes()
    if text == b"12 words, 34 numbers\n" * 5:
        return
    if wanted == "promised":
        raise DataError("no", "do")
    if wanted == "two lines":
        raise_ = BadFile("a")
        raise_.args = ("a\nb",)
        raise raise_
    if wanted == "bug":
        raise KeyError("column")
    if wanted == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if wanted == "memory":
        np.ones(1 << 28)
    while wanted == "hang":
        pass


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wanted", "kind", "words"),
    [
        ("", "accepted", ""), ("promised", "refused", "DataError: no"), ("two lines", "fault", "several lines"),
        ("bug", "fault", "KeyError: 'column'"), ("crash", "fault", "crash: exit status -11"),
        ("memory", "fault", "MemoryError"), ("hang", "fault", "hang: more than 1 s"),
    ],
)  # fmt: skip
def test_what_a_reader_does_wrong_is_a_fault_and_the_next_case_is_read(tmp_path, wanted, kind, words):
    format_ = Format("words", make, partial(read, wanted=wanted))
    samples_of(format_, tmp_path)
    with Worker([format_], tmp_path, seconds=1, memory=1 << 30) as worker:
        outcome = worker.run(Case("words", 0, 0))
        assert (outcome.kind, words in outcome.words) == (kind, True), outcome.words
        again = worker.run(Case("words", 0, 1))
        assert again.kind == kind


def test_a_case_follows_from_format_seed_and_number(tmp_path):
    make(tmp_path)
    contents = []
    for place, case in (("x", Case("t", 3, 7)), ("y", Case("t", 3, 7)), ("z", Case("t", 4, 7))):
        contents.append(case.build(tmp_path, ("*",), tmp_path.parent / f"{tmp_path.name}{place}").read_bytes())
    assert contents[0] == contents[1] != contents[2]


@pytest.mark.parametrize(
    "content", [b"", b"a", b"\0" * 40, b"1,2\n3,4\n" * 30, "größer \U0001fac0".encode(), bytes(range(256))]
)
def test_anything_can_be_damaged(content):
    found = [mutated(content, np.random.default_rng(seed)) for seed in range(300)]
    assert sum(f != content for f in found) > (200 if len(content) > 1 else 0)
    assert max(map(len, found)) < 12_000_000


def test_checksums_of_a_png_can_be_mended(tmp_path):
    Image.new("L", (20, 20), 7).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    assert with_checksums(content) == content
    damaged = bytearray(content)
    damaged[-1] ^= 1  # of the last chunk's checksum
    assert with_checksums(bytes(damaged)) == content
