"""The wheel, installed outside the checkout in an environment of its own, beside the libraries that are here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import REPOSITORY, run_command
from PIL import Image

import pipelines

pytestmark = pytest.mark.slow
ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
MODALITIES = [
    "openslide",
    "openslide_bin",
    "h5py",
    "wfdb",
    "spacy",
    "gdcm",
    "pylibjpeg",
    "imagecodecs",
    "fastapi",
    "onnx",
]
NO_NETWORK = ["--no-deps", "--no-index"]


def ran(*command: object, folder: Path, seconds: float = 400) -> subprocess.CompletedProcess[str]:
    done = run_command([str(word) for word in command], seconds, folder, ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    place = tmp_path_factory.mktemp("dist")
    ran(*PIP, "wheel", "--no-build-isolation", *NO_NETWORK, "-w", place, REPOSITORY, folder=place)
    return next(place.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The folder with the environment's programs. It lies in somebody's repository, beside somebody's `conf`."""
    place = tmp_path_factory.mktemp("elsewhere")
    ran("git", "init", "-q", folder=place)
    ran("git", "-c", "user.name=a", "-c", "user.email=a", "commit", "-q", "--allow-empty", "-m", "a", folder=place)
    ran(sys.executable, "-m", "venv", "--without-pip", "venv", folder=place)
    ran(*PIP, "--python", place / "venv", "install", *NO_NETWORK, wheel, folder=place)
    site = next(place.glob("venv/lib/python*/site-packages"))
    (site / "conf" / "skin").mkdir(parents=True)
    libraries = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    hidden = f"import sys; sys.modules |= dict.fromkeys({MODALITIES})"
    (site / "libraries.pth").write_text("\n".join([*libraries, hidden]))  # what .pth files there say is not followed
    return place / "venv" / "bin"


def test_the_wheel_holds_all_that_a_run_reads(wheel):
    inside = set(zipfile.ZipFile(wheel).namelist())
    tracked = subprocess.run(
        ["git", "ls-files", "pipelines", "conf", "data_cards"], capture_output=True, text=True, cwd=REPOSITORY
    ).stdout.split()  # fmt: skip
    assert len(tracked) > 300
    assert {f"pipelines/{name.removeprefix('pipelines/')}" for name in tracked} - inside == set()


def test_a_study_runs_from_the_wheel_in_an_empty_folder(installed, tmp_path):
    done = ran(installed / "imaging-pipelines", "--version", folder=tmp_path)
    assert done.stdout.strip() == pipelines.__version__
    settings = [
        "trainer=smoke", "statistics.resamples=100", "data.phantom.lesions=200", "data.phantom.size=96",
        "data.max_class_size=7", "preprocess.size=32", "explain.scored=0", "explain.errors=0",
        "model.backbone=test_efficientnet", "model.weights=none",
    ]  # fmt: skip
    done = ran(installed / "imaging-pipelines", "skin", *settings, "run_dir=run", folder=tmp_path)
    assert done.stdout.splitlines()[-1] == "run/report.html"
    assert (tmp_path / "run" / "report.html").is_file()
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment["commit"] is None
    assert environment["version"].endswith(pipelines.__version__)
    assert sorted(file.name for file in tmp_path.iterdir()) == [".cache", "run"]


def test_a_study_whose_extra_is_not_installed_says_so_in_two_lines(installed, tmp_path):
    done = run_command([str(installed / "imaging-pipelines"), "ecg", "mode=verify"], 400, tmp_path, ENVIRONMENT)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "The phantom needs packages that are not installed: wfdb.",
        "Install the extra: pip install 'imaging-pipelines[ecg]'.",
    ]


def test_a_pretrained_run_comes_with_the_wheel(installed, tmp_path):
    picture = np.random.default_rng(0).integers(90, 220, (300, 400, 3), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "a.png")
    command = [installed / "python", "-m", "pipelines.skin", "mode=predict", "run=pretrained", "input=a.png"]
    ran(*command, "run_dir=run", folder=tmp_path)
    answers = pd.read_csv(tmp_path / "run" / "predictions.csv")
    assert answers["reason"].isna().all()
    assert answers.filter(regex="^p_").to_numpy().sum() > 0
