"""`mode=verify` refuses exactly what `mode=train` refuses, over all studies, whatever is wrong with a folder."""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from conftest import REPOSITORY, compose, phantom_root, smoke

from pipelines.shared.cli import modes
from pipelines.shared.errors import UserError
from pipelines.shared.job import Job

pytestmark = pytest.mark.slow
TABLES = (".csv", ".xml", ".hea", ".json", ".parquet")


class Accepted(Exception):
    """Training began."""


@pytest.fixture(scope="module")
def phantom(smoke_run, tmp_path_factory):
    """A study, its phantom in a cache of its own (links: nothing may be written into), the paths of its records."""
    study, run, _ = smoke_run
    cache = tmp_path_factory.mktemp(f"verify-{study}")
    paths = sorted(set(pd.read_parquet(run / "records.parquet")["path"]))
    shared, root = REPOSITORY / ".cache", phantom_root(run)
    for folder in (root, shared / "prepared", shared / study):
        if folder.exists():
            shutil.copytree(folder, cache / folder.name, copy_function=os.link)
    if study == "head_ct":  # whose files are many: a third of the studies do
        for number, folder in enumerate(sorted((cache / root.name / "dicom").iterdir())):
            if number % 3:
                shutil.rmtree(folder)
    return study, cache, cache / root.name, paths


Damage = tuple[Path, bytes | None, list[str]]  # a file, what it holds then (None: it is gone), overrides


def damages(root: Path, paths: list[str]) -> Iterator[Damage]:
    """A record cut short, with and without leave to skip it, or gone; tables of three kinds, spoiled in turn."""
    first = root / paths[0]
    record = first if first.is_file() else min(root.rglob("*.dcm"))
    half = record.read_bytes()[: record.stat().st_size // 2]
    yield record, half, []
    yield record, half, ["data.on_bad_file=skip"]
    yield record, None, []
    files = [f for f in sorted(root.rglob("*")) if f.suffix in TABLES and "truth" not in f.relative_to(root).parts]
    kinds = {f.suffix: f for f in reversed(files)} | {f.name: f for f in root.glob("*.csv")}
    for number, table in enumerate(sorted(set(kinds.values()))[:3]):
        content = table.read_bytes()
        yield table, (content[: len(content) // 2], b"", None)[number % 3], []


def test_verify_and_train_refuse_the_same(phantom, tmp_path, monkeypatch, capsys):
    name, cache, root, paths = phantom
    study = importlib.import_module(f"pipelines.{name}.study").STUDY

    def begin(*_):
        raise Accepted

    monkeypatch.setattr(type(study), "method", begin)

    def refusal(mode: str, *overrides: str) -> str | None:
        """What a mode answers: None if it accepts."""
        config = compose(name, *smoke(name), f"cache.dir={cache}", f"mode={mode}", *overrides)
        try:
            modes.run(study, Job(config, tmp_path / mode, "a test"))
        except UserError as mistake:
            return mistake.problem
        except SystemExit:  # files that cannot be read
            return capsys.readouterr().out
        except Accepted:
            pass
        finally:
            shutil.rmtree(tmp_path / mode, ignore_errors=True)
        return None

    assert refusal("train") is None
    refused = 0
    for file, content, overrides in damages(root, paths):
        aside = file.with_name(f".{file.name}.aside")
        file.rename(aside)
        if content is not None:
            file.write_bytes(content)
        capsys.readouterr()
        train, verify = refusal("train", *overrides), refusal("verify", *overrides)
        what = f"{file.name}, {'gone' if content is None else f'{len(content)} bytes'}, {overrides}"
        assert (train is None) == (verify is None), f"{what}: train says {train}; verify says {verify}"
        if train is not None and verify is not None:
            refused += 1
            named = [name for name in (file.name, file.stem, file.parent.name) if name in train]
            assert not named or named[0] in verify, f"{what}: train says {train}; verify says {verify}"
        file.unlink(missing_ok=True)
        aside.rename(file)
    assert refused
