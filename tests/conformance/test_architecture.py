"""Arrows that must never exist, held by the syntax tree and by what an import really loads."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import NOT_IN_A_PREDICTION, REPOSITORY

PACKAGE = REPOSITORY / "pipelines"
FILES = sorted(PACKAGE.rglob("*.py"))
STUDIES = sorted(p.parent.name for p in PACKAGE.glob("*/study.py") if p.parent.name != "shared")
ONLY_IN = {
    "hydra": "shared/cli/app.py",
    "omegaconf": "shared/cli/app.py",
    "albumentations": "shared/learning/augment.py",
}
FORMATS = {"pydicom", "openslide", "wfdb", "spacy", "negspacy", "h5py", "gdcm", "imagecodecs", "tifffile"}
RIGHT_OF_THE_PREDICTOR = [
    "pipelines.shared.judging.evaluator",
    "pipelines.shared.judging.report",
    "pipelines.shared.judging.sections",
    "pipelines.shared.judging.subgroups",
    "pipelines.shared.judging.tasks",
    "pipelines.shared.judging.figures",
    "pipelines.shared.stats.auc",
    "pipelines.shared.stats.delong",
    "pipelines.shared.stats.readers",
]


def imports(file: Path) -> list[tuple[str, bool]]:
    """(module, whether at the top level and really executed) of every import in a file."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    inside = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, (ast.FunctionDef, ast.AsyncFunctionDef))
        for node in ast.walk(block)
    }
    found = []
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        found += [(name, id(node) not in inside) for name in names]
    return found


def relative(file: Path) -> str:
    return file.relative_to(PACKAGE).as_posix()


@pytest.mark.parametrize("file", FILES, ids=relative)
def test_nothing_points_the_wrong_way(file):
    room = relative(file).split("/")[0]
    for name, top in imports(file):
        parts = name.split(".")
        if parts[0] == "pipelines" and len(parts) > 1 and parts[1] in STUDIES:
            assert room == parts[1], f"{relative(file)} imports {name}"
        if parts[0] in ONLY_IN:
            assert relative(file) == ONLY_IN[parts[0]], f"{relative(file)} imports {name}"
        if parts[0] in FORMATS:
            assert not top, f"{relative(file)} imports {name} before it is needed"


def loaded(code: str, whole: bool = False) -> set[str]:
    """Modules that are loaded after running `code` in a fresh process; with `whole` those within packages too."""
    name = "m" if whole else "m.split('.')[0]"
    script = f"import sys\n{code}\nprint(*{{{name} for m in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("module", RIGHT_OF_THE_PREDICTOR)
def test_judging_needs_no_torch(module):
    assert not {"torch", "timm", "albumentations", "hydra"} & loaded(f"import {module}")


@pytest.mark.parametrize("study", STUDIES)
def test_a_studys_judgement_needs_no_torch(study):
    for module in ("metrics", "evaluation"):
        if (PACKAGE / study / f"{module}.py").exists():
            assert "torch" not in loaded(f"import pipelines.{study}.{module}")


@pytest.mark.parametrize("study", STUDIES)
def test_a_prediction_does_not_import_what_it_does_not_need(study):
    """What the imports at the top of its modules load; test_files_are_predicted sees those within functions too."""
    modules = f"pipelines.shared.cli.modes, pipelines.{study}.study, pipelines.{study}.method"
    needless = NOT_IN_A_PREDICTION - ({"matplotlib.figure"} if study == "ecg" else set())  # which draws strips
    found = loaded(f"import {modules}", whole=True)
    assert "torch" in found
    assert not needless & found
    assert ("timm" in found) == (study != "ecg")
    assert "scipy.stats" not in found


@pytest.mark.parametrize("study", STUDIES)
def test_a_configuration_is_checked_without_anything_heavy(study):
    heavy = {"torch", "numpy", "pandas", "matplotlib", "cv2", "scipy"}
    assert not heavy & loaded(f"import pipelines.shared.cli.app, pipelines.{study}.config")


def test_paths_are_expanded_where_the_configuration_is_checked():
    """And by the three commands that have no configuration."""
    assert {relative(f) for f in FILES if "expanduser" in f.read_text()} == {
        "shared/config.py", "networks/command.py", "compare/command.py", "publish/command.py"
    }  # fmt: skip


WRITERS = {
    "write_text", "write_bytes", "to_csv", "to_parquet", "save", "savez", "savez_compressed", "savefig", "imwrite",
    "tofile", "save_file", "save_as", "wrsamp", "wrann", "copyfile", "copytree",
}  # fmt: skip
# What makes a phantom writes into a folder that is renamed when it is complete; what writes a checkpoint is `save` too.
WHOLE_FOLDERS = ("shared/data/phantoms.py", "head_ct/writing.py", "ecg/wfdb_files.py", "ecg/annotations.py")


def test_every_file_is_written_aside_and_renamed():
    """By a function of `run_folder` or with `write_atomically`, whose argument is called `aside`."""
    direct = []
    for file in FILES:
        if relative(file).endswith(WHOLE_FOLDERS) or file.parent.name == "phantom":
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in WRITERS:
                text = ast.unparse(node)
                whole = ("aside", "stream", "buffer", "run.save(", "self.save(", "checkpoint.save(", "marks.")
                if not any(word in text for word in whole):
                    direct.append(f"{relative(file)}:{node.lineno} {text[:80]}")
    assert not direct


def test_every_file_is_short_enough_to_read():
    long = {relative(f): n for f in FILES if (n := len(f.read_text().splitlines())) > 900}
    assert not long
    assert len((PACKAGE / "shared" / "learning" / "trainer.py").read_text().splitlines()) <= 300


def test_nothing_names_an_address_or_a_path_of_this_machine():
    tracked = subprocess.run(["git", "ls-files"], capture_output=True, text=True, cwd=REPOSITORY).stdout.split()
    kinds = (".py", ".yaml", ".toml", ".txt", ".md", "Makefile", "run")
    for name in tracked:
        if name.endswith(kinds) and not name.startswith("tests/"):
            text = (REPOSITORY / name).read_text(encoding="utf-8").replace("file://", "").replace("env://", "")
            for word in ("://", f"{REPOSITORY}", f"{Path.home()}/"):
                assert word not in text, f"{name}: {word}"
