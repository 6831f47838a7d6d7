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


def loads_first(modules: list[str], heavy: set[str]) -> str:
    """Imports modules one after the other in a fresh process; the first one that loads something heavy, and what."""
    script = (
        "import importlib, sys\nmodules, heavy = (argument.split() for argument in sys.argv[1:])\n"
        "for module in modules:\n    importlib.import_module(module)\n"
        "    loaded = set(heavy) & set(sys.modules)\n    if loaded:\n        sys.exit(f'{module}: {loaded}')"
    )
    command = [sys.executable, "-c", script, " ".join(modules), " ".join(heavy)]
    return subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY).stderr


@pytest.mark.slow
def test_judging_needs_no_torch():
    parts = [f"{study}.{part}" for study in STUDIES for part in ("metrics", "evaluation", "study")]
    modules = [f"pipelines.{part}" for part in parts if (PACKAGE / f"{part.replace('.', '/')}.py").exists()]
    assert len(modules) >= 2 * len(STUDIES)
    assert not loads_first([*RIGHT_OF_THE_PREDICTOR, *modules], {"torch", "timm", "albumentations", "hydra"})


@pytest.mark.slow
def test_predictions_import_no_more_than_they_use():
    """At the top of their modules; test_files_are_predicted sees what functions import too."""
    modules = [f"pipelines.{study}.{part}" for study in STUDIES for part in ("study", "method")]
    heavy = (NOT_IN_A_PREDICTION | {"scipy.stats"}) - {"matplotlib.figure"}  # ECG's draw strips
    assert not loads_first(["pipelines.shared.cli.modes", *modules], heavy)


def test_configurations_are_checked_without_anything_heavy():
    heavy = {"torch", "numpy", "pandas", "matplotlib", "cv2", "scipy"}
    assert not loads_first(["pipelines.shared.cli.app", *(f"pipelines.{s}.config" for s in STUDIES)], heavy)


def test_paths_are_expanded_where_sections_are_checked():
    """And by the three commands that have no configuration, and for Python, which is told where a run's folder is."""
    assert {relative(f) for f in FILES if "expanduser" in f.read_text()} == {
        "shared/sections.py", "networks/command.py", "compare/command.py", "publish/command.py", "interface.py"
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
    long = {relative(f): n for f in FILES if (n := len(f.read_text().splitlines())) > 400}
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
