"""What many tests share: toy data for the engine, and where real samples may lie."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

from pipelines.shared.screen import cpu_count

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the command line does: before torch is imported anywhere
# The same examples at every run: a failure is there again when somebody looks. HYPOTHESIS_PROFILE=search: others.
settings.register_profile("suite", derandomize=True, deadline=None)
settings.register_profile("search", max_examples=2000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))
REPOSITORY = Path(__file__).resolve().parents[1]
STUDIES = sorted(p.parent.name for p in (REPOSITORY / "pipelines").glob("*/study.py") if p.parent.name != "shared")

PATIENCE = 300.0  # seconds for what comes at once: of a busy machine a test may get a small part

# What takes long to import and answers nothing about a file: training, saliency, figures, torch's compiler.
NOT_IN_A_PREDICTION = {
    "albumentations", "captum", "captum.attr", "matplotlib.figure", "onnx", "pipelines.shared.judging.evaluator",
    "pipelines.shared.learning.trainer", "sympy", "timm.optim", "torch._dynamo", "torch._inductor",
}  # fmt: skip


class ByRun(LoadScopeScheduling):
    """With several workers (-n): tests of one file, or of one study's smoke run, share their fixtures in one."""

    def _split_scope(self, nodeid: str) -> str:
        file, _, test = nodeid.partition("::")
        for study in STUDIES:
            if file.endswith(f"test_{study}_run.py") or ("conformance" in file and f"[{study}]" in test):
                return study
        return file


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests first: of several workers none is to begin with minutes of work when the others are done."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def forget_the_disk() -> None:
    """Do not wait for the disk, as runs do after every file: it may take milliseconds, and no test cuts the power."""
    os.fsync = os.fstat  # which also refuses what is no open file
    os.sync = lambda: None


def pytest_configure() -> None:
    """Each of several workers (-n) has its share of the processors, for what it starts as well.

    With one processor each nothing starts processes, a second or more each, for phantoms of a hundred pictures.
    """
    forget_the_disk()
    if "PYTEST_XDIST_WORKER" in os.environ:
        share = cpu_count() // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
        os.environ["PYTHON_CPU_COUNT"] = str(max(1, share))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByRun:
    return ByRun(config, log)


def real_samples(name: str) -> Path:
    """The folder of a real sample, or a skip that says why."""
    root = Path(os.environ.get("REAL_SAMPLES", REPOSITORY.parent / "shared" / "real"))
    if not (root / name).is_dir():
        pytest.skip(f"no real sample {name}: set REAL_SAMPLES to the folder that holds it")
    return root / name


@pytest.fixture
def real_sample():
    return real_samples


def slow(case: Any) -> Any:
    """A case of a parametrised test that `make quick` leaves out."""
    return pytest.param(case, marks=pytest.mark.slow)


def toy_prepared(arrays: np.ndarray) -> Any:
    """Arrays as if they had come out of the cache."""
    from pipelines.shared.data.cache import Prepared

    n = len(arrays)
    facts = pd.DataFrame({"bad": [None] * n, "unusable": [None] * n, "fingerprint": [str(i) for i in range(n)]})
    return Prepared(facts, np.zeros((n, 4), np.uint64), np.zeros((n, 64, 64), np.uint8), None, list(arrays).__getitem__)


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


def study_of(name: str) -> Any:
    """The study of this name."""
    return importlib.import_module(f"pipelines.{name}.study").STUDY


def compose(study: str, *overrides: str) -> Any:
    """A validated configuration as the command line would compose it."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from omegaconf import OmegaConf

    from pipelines.shared.config import conf_folder
    from pipelines.shared.job import config_model
    from pipelines.shared.validation import check

    search = f'hydra.searchpath=["file://{conf_folder() / "shared"}"]'
    with initialize_config_dir(str(conf_folder() / study), version_base="1.3"):
        values = hydra_compose("config", overrides=[*overrides, search])
    return check(config_model(study), OmegaConf.to_container(values, resolve=True))  # type: ignore[arg-type]


def phantom_settings(study: str, **changes: Any) -> Any:
    """A phantom's settings with some changed, unchecked: a test's phantom may be too small for a study."""
    return compose(study).data.phantom.model_copy(update=changes)


def predicted_records(records: pd.DataFrame, split: str) -> pd.DataFrame:
    """The records that a finished run's prediction table of a split is about.

    A cross-validated study (`fold` in its record table) tests every record, and `val` pools what each fold tuned on: by
    the contract its prediction table is that of the pooled folds.
    """
    return records[records["split"] == ("test" if "fold" in records else split)]


def wait_until(condition: Callable[[], object], what: str, seconds: float = PATIENCE) -> None:
    """Ask again and again until it is so."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds:g} s in vain for {what}"
        time.sleep(0.01)


def run_command(
    command: list[str], seconds: float, folder: Path = REPOSITORY, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """A command with what it printed. One that hangs is ended with all that it started, and what it said is shown.

    (`subprocess.run` ends the command alone, then waits for ever for the output of what that had started.)
    """
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=errors
        )  # fmt: skip
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            for pid in reversed(_with_descendants(process.pid)):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGABRT)  # Python's faulthandler, where it is on, says where it hangs
            status = None
            process.wait()
        for file in (output, errors):
            file.seek(0)
        said, complained = output.read(), errors.read()
    assert status is not None, f"{command} hangs after {seconds} s:\n{said[-3000:]}\n{complained[-6000:]}"
    return subprocess.CompletedProcess(command, status, said, complained)


def _with_descendants(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children")
    found = children.read_text().split() if children.exists() else []
    return [pid, *(further for child in found for further in _with_descendants(int(child)))]


def run_study(study: str, *arguments: str, draws: bool = False) -> subprocess.CompletedProcess[str]:
    """`python -m pipelines.<study> arguments`, in a process that has torch loaded already, its figures drawn or not."""
    from cutting import answer

    return answer(study, *arguments, draws=draws)


# A smoke run on a small phantom, with less of what else takes long; `make smoke` leaves everything in.
SMALL = {
    "camelyon": [  # those of `trial`, which trainer=smoke sets, for the modes that know no trainer
        "data.phantom.slides=16", "data.phantom.test=6", "data.phantom.smallest=2560", "data.phantom.largest=3072",
        "model.backbone=test_efficientnet", "model.weights=none",
    ],
    "covid_flannel": [
        "data.phantom.patients=120", "data.phantom.size=96", "learners=[efficientnet,mobilenet]",
        "base_learners.efficientnet.backbone=test_efficientnet", "base_learners.efficientnet.weights=none",
    ],
    "ecg": ["data.phantom.patients=120"],
    "head_ct": [
        "data.phantom.studies=100", "data.phantom.gold=36",  # as above
        "data.phantom.size=64", "preprocess.size=32", "trainer.batch_size=8",
        "model.backbone=test_efficientnet", "model.weights=none",
    ],
    "retinopathy": [
        "data.phantom.patients=120", "data.phantom.size=128", "preprocess.size=64", "explain.scored=4",
        "explain.errors=2", "model.backbone=test_efficientnet", "model.weights=none",
    ],
    "skin": [
        "data.phantom.lesions=200", "data.phantom.size=96", "data.max_class_size=7", "preprocess.size=64",
        "explain.scored=4", "explain.errors=2",
    ],
}  # fmt: skip


def smoke(study: str) -> list[str]:
    """The arguments of a study's run of a few steps."""
    return ["trainer=smoke", "statistics.resamples=200", *SMALL.get(study, [])]


def phantom(study: str) -> list[str]:
    """The data of a smoke run, for the modes that are told their data."""
    return ["data=phantom", *(argument for argument in SMALL.get(study, []) if argument.startswith("data."))]


def phantom_root(run: Path) -> Path:
    """The folder of the phantom that a run was made on."""
    import yaml

    from pipelines.shared.job import config_model
    from pipelines.shared.validation import check

    values = yaml.safe_load((run / "config.yaml").read_text())
    study = study_of(values["study"])
    root = study.sources["phantom"](check(config_model(study.name), values)).root
    if study.name == "head_ct":  # whose records are an index of stacks: where these lie
        return Path(json.loads(next(root.glob("ct-*.json")).read_text())["root"]).parent
    return root


@pytest.fixture(scope="session")
def smoke_run_of(tmp_path_factory) -> Callable[[str], tuple[Path, subprocess.CompletedProcess[str]]]:
    """A study's finished smoke run and what it printed, made once. It is for all tests: change a copy."""

    @cache
    def make(study: str) -> tuple[Path, subprocess.CompletedProcess[str]]:
        folder = tmp_path_factory.mktemp(study) / "run"
        done = run_study(study, *smoke(study), f"run_dir={folder}", draws=True)
        assert done.returncode == 0, done.stderr
        return folder, done

    return make


@pytest.fixture(scope="session", params=STUDIES)
def smoke_run(request, smoke_run_of):
    """The smoke run of each study."""
    return request.param, *smoke_run_of(request.param)


@pytest.fixture(scope="session")
def made_run(tmp_path_factory):
    """A finished run of retinopathy that nobody trained, for what only needs one that answers."""
    from made_service import make_run

    return make_run(tmp_path_factory.mktemp("made") / "run")


def run_on_cpu(study, config, folder):
    """A run of one process, for the functions that make one."""
    import torch

    from pipelines.shared.learning.distributed import World
    from pipelines.shared.run import Run

    return Run(study, config, folder, World(0, 1, torch.device("cpu")))
