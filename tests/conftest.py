"""What many tests share: toy data for the engine, and where real samples may lie."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the command line does: before torch is imported anywhere
REPOSITORY = Path(__file__).resolve().parents[1]
STUDIES = sorted(p.parent.name for p in (REPOSITORY / "pipelines").glob("*/study.py") if p.parent.name != "shared")


@pytest.hookimpl(tryfirst=True)  # before xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With several workers (-n): tests that share a run or a module's fixtures go to one of them."""
    for item in items:
        study = item.callspec.params.get("smoke_run") if hasattr(item, "callspec") else None
        item.add_marker(pytest.mark.xdist_group(study or item.path.name))


def real_samples(name: str) -> Path:
    """The folder of a real sample, or a skip that says why."""
    root = Path(os.environ.get("REAL_SAMPLES", REPOSITORY.parent / "shared" / "real"))
    if not (root / name).is_dir():
        pytest.skip(f"no real sample {name}: set REAL_SAMPLES to the folder that holds it")
    return root / name


@pytest.fixture
def real_sample():
    return real_samples


def toy_prepared(arrays: np.ndarray) -> Any:
    """Arrays as if they had come out of the cache."""
    from pipelines.shared.cache import Prepared

    n = len(arrays)
    facts = pd.DataFrame({"bad": [None] * n, "unusable": [None] * n, "fingerprint": [str(i) for i in range(n)]})
    return Prepared(
        facts, np.zeros((n, 4), np.uint64), np.zeros((n, 64, 64), np.uint8), [None] * n, list(arrays).__getitem__
    )


@pytest.fixture
def trainer_section():
    """A trainer configuration with every key, some changed."""
    from pipelines.shared.config import TrainerSection

    def make(**changes: Any) -> TrainerSection:
        values: dict[str, Any] = {
            "epochs": 3, "batch_size": 4, "accumulate": 1, "optimizer": "adamw", "learning_rate": 0.01,
            "weight_decay": 0.0, "momentum": 0.9, "optimizer_args": {}, "schedule": "cosine", "warmup_epochs": 0,
            "decay_epochs": 1, "decay_rate": 0.1, "clip_norm": None, "ema_decay": None, "monitor": "val_loss",
            "patience": None, "max_steps": None, "precision": "fp32", "device": "cpu", "deterministic": True,
            "workers": 0, "checkpoint_seconds": 60.0,
        }  # fmt: skip
        return TrainerSection(**(values | changes))

    return make


def compose(study: str, *overrides: str) -> Any:
    """A validated configuration as the command line would compose it."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from omegaconf import OmegaConf

    from pipelines.shared.config import check, conf_folder
    from pipelines.shared.job import config_model

    search = f'hydra.searchpath=["file://{conf_folder() / "shared"}"]'
    with initialize_config_dir(str(conf_folder() / study), version_base="1.3"):
        values = hydra_compose("config", overrides=[*overrides, search])
    return check(config_model(study), OmegaConf.to_container(values, resolve=True))  # type: ignore[arg-type]


def predicted_records(records: pd.DataFrame, split: str) -> pd.DataFrame:
    """The records that a finished run's prediction table of a split is about.

    A cross-validated study (`fold` in its record table) tests every record, and `val` pools what each fold tuned on: by
    the contract its prediction table is that of the pooled folds.
    """
    return records[records["split"] == ("test" if "fold" in records else split)]


def run_study(study: str, *arguments: str, folder: Path = REPOSITORY) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"NO_ALBUMENTATIONS_UPDATE": "1"}
    return subprocess.run(
        [sys.executable, "-m", f"pipelines.{study}", *arguments],
        cwd=folder, capture_output=True, text=True, env=environment, timeout=600,
    )  # fmt: skip


@pytest.fixture(scope="session", params=STUDIES)
def smoke_run(request, tmp_path_factory):
    """A finished run of each study with trainer=smoke, on its phantom."""
    folder = tmp_path_factory.mktemp(request.param) / "run"
    done = run_study(request.param, "trainer=smoke", f"run_dir={folder}")
    assert done.returncode == 0, done.stderr
    return request.param, folder, done
