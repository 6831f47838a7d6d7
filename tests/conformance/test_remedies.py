"""Every key that a message tells people to set exists, and is taken in the mode that shows the message."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from conftest import REPOSITORY, STUDIES, compose

from pipelines.shared.cli.app import FREE_WITH_RUN
from pipelines.shared.config import allowed_keys
from pipelines.shared.job import config_model, predict_keys

KEY = re.compile(r"(?<![\w.])([a-z][a-z0-9_]*(?:\.[a-z][a-z0-9_]*)+)=")
# What reads a single file: what is wrong with one is a reason in mode=predict too.
READERS = {
    "camelyon": ["slides", "tissue", "predicting"],
    "covid_flannel": [],
    "ecg": ["formats", "recording", "signals", "wfdb_files", "predicting"],
    "head_ct": ["dicom", "elements", "jpeg12", "pixels", "series", "stacks", "volumes", "predicting"],
    "retinopathy": ["fundus"],
    "skin": [],
}
SHARED_READERS = ["data/images", "data/dicom_files", "cli/inputs"]


def keys_in(file: Path, name: str | None = None) -> set[str]:
    """The keys (`data.mpp=`) in the texts of a module, or of one of its functions; what is documentation aside."""
    tree: ast.AST = ast.parse(file.read_text())
    if name is not None:
        tree = next(n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == name)
    documentation = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    texts = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation
    ]
    return {key for text in texts for key in KEY.findall(text)}


def keys_of(study: str) -> set[str]:
    """All keys of a study, whichever source is chosen."""
    sources = [f.stem for f in (REPOSITORY / "conf" / study / "data").glob("*.yaml")]
    return {k for s in sources for k in allowed_keys(config_model(study), compose(study, f"data={s}").model_dump())}


def files_of(package: str) -> list[Path]:
    return sorted((REPOSITORY / "pipelines" / package).rglob("*.py"))


@pytest.mark.parametrize("study", STUDIES)
def test_messages_of_a_study_name_keys_that_it_has(study):
    known = keys_of(study)
    for file in files_of(study):
        assert not {k for k in keys_in(file) if not _has(known, k)}, file


def test_messages_that_all_studies_share_name_keys_that_one_has_at_least():
    known = set().union(*map(keys_of, STUDIES))
    named = {key: file for file in files_of("shared") for key in keys_in(file) if not key.startswith("hydra.")}
    assert len(named) > 10
    assert not {k: f for k, f in named.items() if not _has(known, k)}


@pytest.mark.parametrize("study", STUDIES)
def test_what_is_said_of_a_file_helps_at_prediction_too(study):
    taken = {*FREE_WITH_RUN["predict"], *predict_keys(study)}
    places = [REPOSITORY / "pipelines" / study / f"{name}.py" for name in READERS[study]]
    places += [REPOSITORY / "pipelines" / "shared" / f"{name}.py" for name in SHARED_READERS]
    named = {key for file in places for key in keys_in(file)}
    named |= keys_in(REPOSITORY / "pipelines" / "shared" / "errors.py", "reason_of")
    assert not {k for k in named if not any(k == t or k.startswith(f"{t}.") for t in taken)}


def _has(known: set[str], key: str) -> bool:
    return key in known or f"{key.rpartition('.')[0]}.*" in known
