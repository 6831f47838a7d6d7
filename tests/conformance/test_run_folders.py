"""What every study's run folder promises: the report is written last, damage is named, judging needs no torch."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import REPOSITORY, STUDIES, compose, phantom
from cutting import no_pixels
from pydantic import BaseModel

from pipelines.shared import run_folder
from pipelines.shared.config import UserPath
from pipelines.shared.errors import RunError
from pipelines.shared.judging.evaluator import evaluate, write_results
from pipelines.shared.judging.figures import style
from pipelines.shared.run_folder import RunFolder


@pytest.mark.slow
def test_the_report_is_the_last_file_written(smoke_run):
    _, folder, _ = smoke_run
    last = max((f for f in folder.rglob("*") if f.is_file()), key=lambda f: f.stat().st_mtime_ns)
    assert last == folder / "report.html"


def _copy(run: Path, place: Path) -> RunFolder:
    """A run without what only networks need."""
    shutil.copytree(run, place, ignore=shutil.ignore_patterns("checkpoint", "*.safetensors", "heatmaps", ".lock"))
    return RunFolder(place)


@pytest.mark.slow
def test_damaged_files_are_named_by_a_report(smoke_run, tmp_path, monkeypatch):
    """One file of each kind that a report reads, halved or emptied; none may be a traceback, none go unnoticed."""
    study, whole, _ = smoke_run
    folder = _copy(whole, tmp_path / "run")
    study = importlib.import_module(f"pipelines.{study}.study").STUDY
    read: dict[tuple[Path, str], Path] = {}
    original = run_folder.read_file

    def noting(file: Path, how: Any) -> Any:
        read.setdefault((file.parent, file.stem if file.suffix != ".png" else ".png"), file)
        return original(file, how)

    monkeypatch.setattr(style, "_pixels", no_pixels)
    monkeypatch.setattr(run_folder, "read_file", noting)
    write_results(study, *evaluate(study, folder))
    monkeypatch.setattr(run_folder, "read_file", original)
    names = {f.name for f in read.values()}
    assert {"config.yaml", "records.parquet", "test.parquet", "flow.json", "environment.json"} <= names
    for number, file in enumerate(read.values()):
        content = file.read_bytes()
        file.write_bytes(b"" if number % 2 else content[: len(content) // 2])
        with pytest.raises(RunError, match=file.name):
            write_results(study, *evaluate(study, folder))
        file.write_bytes(content)


@pytest.mark.slow
def test_reports_and_checks_of_data_do_without_torch_and_find_the_same_metrics(smoke_run, tmp_path):
    study, whole, _ = smoke_run
    again = _copy(whole, tmp_path / "run")
    before = json.loads(again.metrics.read_text())
    script = (
        "import sys\nfrom pipelines.shared.cli.app import _answer\n"
        "from pipelines.shared.judging.figures import style\n"
        "style._pixels = lambda figure: style.np.full((1, 1, 3), 128, style.np.uint8)\n"  # drawing takes seconds
        f"checked = _answer('{study}', {['mode=verify', *phantom(study)]})\n"
        f"judged = _answer('{study}', {['mode=report', f'run={again.path}']})\n"
        "print(checked, judged, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.stdout.splitlines()[-1] == "0 0 False", done.stderr
    assert json.loads(again.metrics.read_text()) == before


# --- paths ---


def _paths(model: type[BaseModel], prefix: str = "") -> list[str]:
    """The dotted keys of a configuration that are paths."""
    found = []
    expand = UserPath.__metadata__[0]  # type: ignore[attr-defined]
    for name, field in model.model_fields.items():
        key = f"{prefix}{name}"
        if expand in field.metadata or f"{expand}" in f"{field.annotation}":
            found.append(key)
        found += [p for inner in _sections(field.annotation) for p in _paths(inner, f"{key}.")]
    return found


def _sections(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [s for a in getattr(annotation, "__args__", ()) for s in _sections(a)]


@pytest.mark.slow
@pytest.mark.parametrize("study", STUDIES)
def test_a_users_home_is_expanded_in_every_path(study, monkeypatch):
    from pipelines.shared.job import config_model
    from pipelines.shared.validation import check

    monkeypatch.setenv("HOME", "/at/home")
    model = config_model(study)
    keys = _paths(model)
    sources = sorted(f.stem for f in (REPOSITORY / "conf" / study / "data").glob("*.yaml"))
    assert {"run", "input", "run_dir", "cache.dir", "data.root", "model.weights"} <= set(keys)
    assert ("data.table" in keys) == ("table" in sources)
    for source in sources:
        values = compose(study, f"data={source}").model_dump()
        there = []
        for key in keys:
            *sections, name = key.split(".")
            place: Any = values
            for section in sections:
                place = place.get(section) if isinstance(place, dict) else None
            if isinstance(place, dict) and name in place:
                place[name] = "~/x"
                there.append(key)
        assert "~/x" not in yaml.safe_dump(check(model, values).model_dump()), f"{source}: one of {there}"
