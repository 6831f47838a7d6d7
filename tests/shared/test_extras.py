"""Extras: what is said where a package is missing, and that pyproject.toml has what the code asks for."""

from __future__ import annotations

import re
import sys
import tomllib

import pandas as pd
import pytest
from conftest import REPOSITORY, phantom_settings

from pipelines.camelyon.data import prepare as prepare_slide
from pipelines.camelyon.pcam import HDF5, _open
from pipelines.camelyon.phantom import dataset as camelyon
from pipelines.camelyon.slides import WSI
from pipelines.ecg.phantom import dataset as ecg
from pipelines.ecg.wfdb_files import WFDB, open_record
from pipelines.head_ct import labeller
from pipelines.head_ct.listen import LISTEN
from pipelines.head_ct.phantom import dataset as head_ct
from pipelines.publish.croissant import CROISSANT
from pipelines.shared import extras
from pipelines.shared.cli.app import SWEEP, _checked_arguments
from pipelines.shared.data.cache import prepare_in_memory
from pipelines.shared.data.dicom_files import DICOM, decoder_missing
from pipelines.shared.errors import MissingPackage
from pipelines.shared.handover.exporting import ONNX
from pipelines.shared.handover.serve import SERVE
from pipelines.shared.handover.tracking import EXTRAS as TRACKERS
from pipelines.shared.learning.backbones import BACKBONES

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
OPTIONAL = PROJECT["optional-dependencies"]


def packages(extra: str) -> set[str]:
    """The packages of an extra, with those of extras that it names."""
    names: set[str] = set()
    for requirement in OPTIONAL[extra]:
        of_ours = re.fullmatch(r"imaging-pipelines\[(.*)\]", requirement)
        others = of_ours.group(1).split(",") if of_ours else []
        names |= set().union(*map(packages, others)) if others else {re.split(r"[<>=~!]", requirement)[0]}
    return names


@pytest.mark.parametrize(
    "extra",
    [
        WSI, HDF5, WFDB, labeller.REPORTS, DICOM, ONNX, SERVE, LISTEN, BACKBONES, SWEEP, *TRACKERS.values(), CROISSANT,
    ],
    ids=lambda extra: extra.name,
)  # fmt: skip
def test_what_the_code_asks_for_is_in_the_extra_and_installed_here(extra):
    assert set(extra.packages.values()) <= packages(extra.name)
    if extra.in_env:
        assert extra.missing == []
        extra.require("This")


def test_all_is_every_extra_but_wandb_and_the_tools_of_developers():
    others = [extra for extra in OPTIONAL if extra not in ("wandb", "croissant", "dev")]
    assert packages("all") == set().union(*map(packages, others))
    assert packages("all") < packages("dev")


def test_core_has_nothing_of_one_modality():
    core = {re.split(r"[<>=~!]", requirement)[0] for requirement in PROJECT["dependencies"]}
    assert not core & set().union(*(packages(extra) for extra in ("dicom", "wsi", "ecg", "reports")))


def hide(monkeypatch, *modules):
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)


def test_a_missing_package_is_answered_with_its_extra_here_and_in_an_installed_package(monkeypatch):
    hide(monkeypatch, "wfdb")
    with pytest.raises(MissingPackage) as found:
        WFDB.require("A WFDB record")
    assert found.value.problem == "A WFDB record needs packages that are not installed: wfdb."
    assert found.value.remedy == "Install the extra: pip install '.[ecg]' (make env has it)."
    monkeypatch.setattr(extras, "in_checkout", lambda: False)
    assert WFDB.remedy == "Install the extra: pip install 'imaging-pipelines[ecg]'."


def test_each_modality_says_what_it_misses(monkeypatch, tmp_path):
    (tmp_path / "a.hea").write_text("a 1 200 100\na.dat 16 200(0)/mV 16 0 0 0 0 ECG\n")
    hide(monkeypatch, "openslide", "h5py", "wfdb", "gdcm", "spacy", "hydra_plugins.hydra_joblib_launcher")
    labeller.pipeline.cache_clear()
    for extra, use in {
        "wsi": lambda: camelyon.make_phantom(tmp_path, phantom_settings("camelyon")),
        "wsi]": lambda: _open(str(tmp_path / "a.h5")),
        "ecg": lambda: ecg.make_phantom(tmp_path, phantom_settings("ecg")),
        "ecg]": lambda: open_record(tmp_path / "a.hea", []),
        "dicom": lambda: head_ct.make_phantom(tmp_path, phantom_settings("head_ct")),
        "reports": labeller.pipeline,
        "sweep": lambda: _checked_arguments("skin", ["-m", "seed=0,1", "hydra/launcher=joblib"]),
    }.items():
        with pytest.raises(MissingPackage, match=rf"\[{extra}"):
            use()
    assert [file.name for file in tmp_path.iterdir()] == ["a.hea"]
    _checked_arguments("skin", ["-m", "seed=0,1", "hydra/launcher=basic"])


def test_a_missing_package_stops_a_run_and_is_not_the_fault_of_every_file(monkeypatch, tmp_path):
    hide(monkeypatch, "openslide")
    records = pd.DataFrame({"id": ["a", "b"], "path": ["a.tif", "b.tif"]})
    with pytest.raises(MissingPackage, match="openslide-python"):
        prepare_in_memory(records, tmp_path, lambda row, root: prepare_slide(row, root, {"source": "slides"}))


def test_compressed_dicom_without_its_decoder_is_a_bad_file_that_names_the_extra(monkeypatch):
    from pydicom.pixels.decoders import JPEGLSLosslessDecoder

    monkeypatch.setattr(JPEGLSLosslessDecoder, "_available", {})
    with pytest.raises(RuntimeError) as failure:
        JPEGLSLosslessDecoder._validate_plugins()
    assert decoder_missing(failure.value) is None  # all are installed: it is something else
    hide(monkeypatch, "gdcm")
    reason = decoder_missing(failure.value)
    assert reason is not None
    assert reason.endswith("decoders that are not installed: python-gdcm. " + DICOM.remedy)
    assert decoder_missing(ValueError("broken")) is None
