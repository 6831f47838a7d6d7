"""Every key that a message tells people to set exists, and is taken in the mode that shows the message."""

from __future__ import annotations

import ast
import errno
import re
from functools import cache
from pathlib import Path

import pytest
from conftest import REPOSITORY, STUDIES, compose

from pipelines.shared.cli.finished import KEY as NAMED
from pipelines.shared.cli.finished import free_keys, is_free, remedy_in, with_finished_run
from pipelines.shared.errors import ConfigError, disk_failure
from pipelines.shared.job import config_model
from pipelines.shared.mode import COMMON_MODES, PREDICT
from pipelines.shared.run_folder import RunFolder
from pipelines.shared.validation import allowed_keys

KEY = re.compile(r"(?<![\w.])([a-z][a-z0-9_]*(?:\.[a-z][a-z0-9_]*)+)=")
# What reads a single file, besides what all studies share: what is wrong with one is a reason in mode=predict too.
READERS = {
    "camelyon": ["slides", "tissue", "predicting"],
    "ecg": ["formats", "recording", "signals", "wfdb_files", "predicting"],
    "head_ct": ["dicom", "elements", "jpeg12", "pixels", "series", "stacks", "volumes", "predicting"],
    "retinopathy": ["fundus"],
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


@cache
def keys_of(study: str) -> set[str]:
    """All keys of a study, whichever source is chosen."""
    sources = [f.stem for f in (REPOSITORY / "conf" / study / "data").glob("*.yaml")]
    return {k for s in sources for k in allowed_keys(config_model(study), compose(study, f"data={s}").model_dump())}


def files_of(package: str) -> list[Path]:
    return sorted((REPOSITORY / "pipelines" / package).rglob("*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("study", STUDIES)
def test_messages_of_a_study_name_keys_that_it_has(study):
    known = keys_of(study)
    for file in files_of(study):
        assert not {k for k in keys_in(file) if not _has(known, k)}, file


@pytest.mark.slow
def test_messages_that_all_studies_share_name_keys_that_one_has_at_least():
    known = set().union(*map(keys_of, STUDIES))
    named = {key: file for file in files_of("shared") for key in keys_in(file) if not key.startswith("hydra.")}
    assert len(named) > 10
    assert not {k: f for k, f in named.items() if not _has(known, k)}


@pytest.mark.slow
@pytest.mark.parametrize("study", STUDIES)
def test_what_is_said_of_a_file_helps_at_prediction_too(study):
    taken = set(free_keys(study, PREDICT))
    places = [REPOSITORY / "pipelines" / study / f"{name}.py" for name in READERS.get(study, [])]
    places += [REPOSITORY / "pipelines" / "shared" / f"{name}.py" for name in SHARED_READERS]
    named = {key for file in places for key in keys_in(file)}
    named |= keys_in(REPOSITORY / "pipelines" / "shared" / "errors.py", "reason_of")
    assert not {k for k in named if not any(k == t or k.startswith(f"{t}.") for t in taken)}


def _has(known: set[str], key: str) -> bool:
    return key in known or f"{key.rpartition('.')[0]}.*" in known


# --- in the modes that work on a finished run ---

MISTAKES = {"UserError", "ConfigError", "DataError", "RunError", "WeightsError"}


@cache
def messages_of(package: str) -> list[str]:
    """The texts of every mistake that a package tells of; what is filled in is an ellipsis."""
    calls = [
        node
        for file in files_of(package)
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in MISTAKES
    ]
    return [text_of(argument) for call in calls for argument in call.args]


def text_of(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(v) if isinstance(v, ast.Constant) else "…" for v in node.values)
    if isinstance(node, ast.BinOp):
        return text_of(node.left) + text_of(node.right)
    if isinstance(node, ast.IfExp):
        return f"{text_of(node.body)} {text_of(node.orelse)}"
    return "…"


@pytest.mark.parametrize("study", STUDIES)
@pytest.mark.parametrize("mode", [mode for mode in COMMON_MODES if mode.beside_run is not None], ids=lambda m: m.name)
def test_a_remedy_can_be_taken_or_says_that_it_takes_a_new_run(study, mode):
    free, sections, named = [*free_keys(study, mode), "run_dir"], config_model(study).model_fields, 0
    for message in [*messages_of(study), *messages_of("shared")]:
        said = remedy_in(mode.name, study, message).removeprefix(message)
        for key in NAMED.findall(message):
            named += 1
            fixed = key.split(".")[0] in sections and not is_free(key, free)
            assert fixed == (key in re.split(r"[ :]", said)), message
    assert named > 50, "the messages were not found"


def test_what_a_remedy_says_in_which_mode():
    disk = disk_failure(OSError(errno.EROFS, "Read-only file system"))
    assert disk is not None
    assert "cache.dir=" in disk[1]
    for mode in ("train", "verify", "predict", "evaluate", "resume"):
        assert remedy_in(mode, "ecg", disk[1]) == disk[1]
    rhythms = "Name its rhythms in labels.wfdb."
    assert remedy_in("verify", "ecg", rhythms) == rhythms
    assert remedy_in("evaluate", "ecg", rhythms).endswith("keeps the run's own labels.wfdb: that needs a new run.)")


@pytest.mark.slow
def test_a_run_goes_on_with_another_cache_or_device_and_with_nothing_else(tmp_path):
    begun = compose("retinopathy", f"run_dir={tmp_path}", "trainer.device=cpu", f"cache.dir={tmp_path / 'full'}")
    RunFolder(tmp_path).write_config(begun.model_dump())

    def resumed(*given: str):
        wanted = compose("retinopathy", "mode=resume", f"run={tmp_path}", *given)
        return with_finished_run("retinopathy", wanted, ["mode", "run", *(g.partition("=")[0] for g in given)])

    same = resumed()
    assert same.model_dump() == begun.model_dump() | {"mode": "resume", "run": str(tmp_path)}
    other = resumed(f"cache.dir={tmp_path / 'free'}", "trainer.workers=2")
    assert other.cache.dir == str(tmp_path / "free")
    assert (other.trainer.workers, other.trainer.device) == (2, "cpu")
    off = resumed("cache=off")
    assert (off.cache.enabled, off.cache.dir) == (False, str(tmp_path / "full"))
    with pytest.raises(ConfigError, match=r"trainer\.epochs' cannot be changed"):
        resumed("trainer.epochs=9")
    RunFolder(tmp_path).write_config(begun.model_dump() | {"mode": "predict", "run": "a", "input": "b"})
    predicting = resumed("cache=off")
    assert (predicting.mode, predicting.run, predicting.input, predicting.cache.enabled) == ("predict", "a", "b", False)
