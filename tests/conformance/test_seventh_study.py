"""A study is added by adding files: the seventh passes what the first six pass, and no file of theirs is touched.

`seventh_study/` holds what such a study adds to a checkout: a toy on a folder of pictures, written as "Adding a
study" in pipelines/shared/README.md says. It is laid over a copy of this checkout, in which the conformance tests run
for it.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY, run_command

SEVENTH = Path(__file__).parent / "seventh_study"


@pytest.mark.slow
def test_a_seventh_study_passes_what_the_six_pass(tmp_path):
    not_copied = shutil.ignore_patterns("__pycache__", "seventh_study", "test_seventh_study.py")
    for name in ("pipelines", "conf", "data_cards", "tests/conformance"):
        shutil.copytree(REPOSITORY / name, tmp_path / name, ignore=not_copied)
    for file in [*(REPOSITORY / "tests").glob("*.py"), REPOSITORY / "pyproject.toml"]:
        shutil.copy(file, tmp_path / file.relative_to(REPOSITORY))
    for file in SEVENTH.rglob("*"):
        if file.is_file() and "__pycache__" not in file.parts:
            place = tmp_path / file.relative_to(SEVENTH)
            assert not place.exists(), f"{place} is a file of the six"
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, place)
    command = [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", "tests/conformance"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")} | {"PYTHONPATH": f"{tmp_path}"}
    # Its report has the template of the six, so it needs no browser.
    done = run_command([*command, "-k", "nodules and not accessible"], 400, tmp_path, environment)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout
