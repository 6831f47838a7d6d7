"""Run folders and caches: what the project wrote itself, and a disk or a copy has damaged since.

What has a checksum must come back as it was written or be refused; what has none must be refused in words.
"""

from __future__ import annotations

import argparse
import functools
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import torch
from conftest import compose, run_study, smoke
from fuzz_head_ct import KERNELS, NAMES, make_ct
from fuzzing import Format
from made_runs import make_run

from pipelines.camelyon.forest import fit_forest, read_forest, write_forest
from pipelines.camelyon.heatmap import Heatmap, overlay, read_heatmap, write_heatmap
from pipelines.camelyon.slide_features import FEATURES
from pipelines.camelyon.tissue import mask_file, read_tissue
from pipelines.compare.command import compare
from pipelines.ecg.learner import EcgLearner
from pipelines.ecg.study import STUDY as ECG
from pipelines.head_ct.series import choose, scan
from pipelines.shared.cli.finished import read_run_config
from pipelines.shared.cli.inputs import score_in_parts
from pipelines.shared.config import CacheSection
from pipelines.shared.data.cache import prepare_records
from pipelines.shared.errors import RunError
from pipelines.shared.job import config_model
from pipelines.shared.judging.calls import calls
from pipelines.shared.judging.evaluator import evaluate, write_results
from pipelines.shared.learning import checkpoint
from pipelines.shared.learning.distributed import World
from pipelines.shared.learning.method import load_network
from pipelines.shared.learning.model_files import load_weights, save_network
from pipelines.shared.run import Run, open_finished
from pipelines.shared.run_folder import (
    RunFolder,
    read_array,
    read_arrays,
    read_json,
    read_picture,
    read_table,
    read_yaml,
    write_array,
    write_arrays,
    write_csv,
    write_json,
    write_png,
)
from pipelines.shared.validation import check
from pipelines.skin.learner import SkinLearner
from pipelines.skin.study import STUDY as SKIN

STUDY = "skin"  # whose run is made for "report"


# --- files of a run by themselves ---

TABLE = pd.DataFrame({"id": [f"r{i}" for i in range(40)], "group": [f"g{i // 2}" for i in range(40)],
                      "p_a": np.linspace(0, 1, 40), "label": ["a", None] * 20})  # fmt: skip
ARRAY = np.arange(240, dtype=np.float32).reshape(20, 12)


def make_files(folder: Path) -> None:
    """One file of every kind."""
    for name in ("table.parquet", "table.csv", "a.npy", "a.npz", "a.png", "a.json", "a.yaml"):
        (folder / name).mkdir()
    RunFolder(folder).write_table(folder / "table.parquet" / "table.parquet", TABLE)
    write_csv(folder / "table.csv" / "table.csv", TABLE)
    write_array(folder / "a.npy" / "a.npy", ARRAY)
    write_arrays(folder / "a.npz" / "a.npz", {"heat": ARRAY, "origin": np.zeros(2)})
    write_png(folder / "a.png" / "a.png", np.arange(3072, dtype=np.uint8).reshape(32, 32, 3))
    write_json(folder / "a.json" / "a.json", {"source": "phantom", "steps": [{"kind": "kept", "count": 3}]})
    RunFolder(folder / "a.yaml").write_config({"study": "skin", "data": {"name": "phantom"}, "seed": 0})
    (folder / "a.yaml" / "config.yaml").rename(folder / "a.yaml" / "a.yaml")


def read_files(folder: Path) -> None:
    """A file by its own reader; tables in Parquet and .npz files have checksums."""
    (file,) = [f for f in folder.iterdir() if f.is_file()]
    if file.suffix == ".parquet":
        pd.testing.assert_frame_equal(read_table(file, ["id"]), TABLE)
    elif file.suffix == ".csv":
        read_table(file, ["id"])
    elif file.suffix == ".npy":
        assert isinstance(read_array(file), np.ndarray)
    elif file.suffix == ".npz":
        assert np.array_equal(read_arrays(file).get("heat", ARRAY), ARRAY)
    elif file.suffix == ".png":
        assert read_picture(file).dtype == np.uint8
    elif file.suffix == ".json":
        assert "source" in read_json(file, ["source"])
    else:
        assert isinstance(read_yaml(file), dict)


def make_camelyon(folder: Path) -> None:
    """What a run of CAMELYON keeps: a heatmap, a forest, a mask of tissue."""
    for name in ("heatmap", "forest", "tissue"):
        (folder / name).mkdir()
    values = np.linspace(0, 1, 300, dtype=np.float32).reshape(15, 20)
    write_heatmap(folder / "heatmap" / "a.tif", Heatmap(values, 128.0, 0.25))
    rng = np.random.default_rng(0)
    features = pd.DataFrame(rng.random((20, len(FEATURES))), columns=FEATURES)
    write_forest(folder / "forest" / "forest.npz", fit_forest(features, np.arange(20) % 2, 0, trees=3))
    write_png(mask_file(folder / "tissue", "slide"), np.eye(64, dtype=np.uint8) * 255)


def read_camelyon(folder: Path) -> None:
    """One of them by its own reader."""
    (file,) = [f for f in folder.rglob("*") if f.is_file()]
    if file.suffix == ".tif":
        heatmap = read_heatmap(file)
        overlay(np.zeros((40, 40, 3), np.uint8), heatmap, (2560, 1920))
    elif file.suffix == ".npz":
        features = pd.DataFrame(np.full((2, len(FEATURES)), 0.5), columns=FEATURES)
        assert np.isfinite(read_forest(file).probabilities(features)).all()
    else:
        size = SimpleNamespace(at=lambda mpp: (64, 64), properties=SimpleNamespace(width=64, height=64))
        settings = compose("camelyon").tissue
        assert read_tissue(folder, "slide", size, settings).mask.shape == (64, 64)  # type: ignore[arg-type]


# --- networks and training states ---


def _small() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))


def make_weights(folder: Path) -> None:
    """A small network, and two training states of it."""
    save_network(folder / "network", _small(), {"study": "skin", "classes": ["a"], "architecture": {}})
    for step in (1, 2):
        state = {"step": step, "network": _small().state_dict(), "belongs_to": {"world": 1}, "rng": [1, 2, 3]}
        (folder / "checkpoint").mkdir(exist_ok=True)
        checkpoint.save(folder / "checkpoint" / "network.pt", state)


def read_weights(folder: Path) -> None:
    """Weights and states are those that were written, or refused."""
    expected = _small().state_dict()
    if (folder / "network.pt").exists():
        state = checkpoint.load(folder / "network.pt", {"world": 1})
        assert state is not None, "the other state is sound"
        assert state["step"] in (1, 2)
        found = state["network"]
    else:
        network = _small()
        for parameter in network.parameters():
            torch.nn.init.zeros_(parameter)
        found = load_weights(folder, network).state_dict()
    for name, value in expected.items():
        assert torch.equal(found[name], value), f"{name} is not what was written"


@functools.cache
def _studies() -> dict[str, tuple[Any, Any, Any]]:
    """Study -> itself, its configuration, the learner of a small network."""
    skin = compose("skin", "model.backbone=mobilenetv3_small_050", "model.weights=none")
    ecg = compose("ecg", "model.filters=8")
    return {"skin": (SKIN, skin, SkinLearner(skin, ["melanoma", "nevus"])), "ecg": (ECG, ecg, EcgLearner(ecg))}


def make_networks(folder: Path) -> None:
    """A finished network of two studies, with operating points."""
    for name, (study, config, learner) in _studies().items():
        run = RunFolder(folder / name)
        network = learner.build()
        column = learner.columns(np.full((1, *_shape(name, learner)), 0.5)).filter(like="p_").columns[0]
        facts = {
            "study": name, "name": "network", "classes": learner.classes, "architecture": learner.architecture(network),
            "preprocessing": study.prepare_settings(config),
        }  # fmt: skip
        save_network(run.network("network"), network, facts)
        points = [{"name": "sensitive", "task": "t", "score": column, "threshold": 0.3, "chosen_on": "val"}]
        write_json(run.operating_points, points)


def _shape(study: str, learner: Any) -> tuple[int, ...]:
    return (23, len(learner.classes)) if study == "ecg" else (len(learner.classes),)


def read_networks(folder: Path) -> None:
    """Open a finished run, build its network again, call its operating points."""
    for name, (study, config, learner) in _studies().items():
        try:
            finished = open_finished(study, folder)
        except RunError as failure:
            if "is a network of the study" in failure.problem:
                continue
            raise
        run = Run(study, config, RunFolder(folder), World(0, 1, torch.device("cpu")))
        again = type(learner).from_model(config, next(iter(finished.models.values())))
        for place in finished.networks:
            load_network(run, again, place)
        if name == "skin":
            calls(again.columns(np.full((2, len(again.classes)), 0.5)), finished.operating_points)
        return
    raise RunError("of no study", "")


# --- whole runs ---


def make_report(folder: Path) -> None:
    """A finished run of a study on its phantom."""
    done = run_study(STUDY, *smoke(STUDY), "statistics.resamples=100", f"run_dir={folder / 'run'}")
    assert done.returncode == 0, done.stderr
    for name in ("weights.safetensors", "checkpoint", "saliency"):
        for place in (folder / "run").rglob(name):
            shutil.rmtree(place) if place.is_dir() else place.unlink()


def read_report(folder: Path) -> None:
    """`mode=report`: configuration, tables, metrics, figures, page."""
    values = read_run_config(folder, STUDY)
    check(config_model(STUDY), values)
    write_results(SKIN, *evaluate(SKIN, RunFolder(folder)))
    metrics = json.loads((folder / "metrics.json").read_text())
    assert "NaN" not in json.dumps(metrics)


def make_compare(folder: Path) -> None:
    """Two runs to compare, of two kinds of metrics."""
    for kind in ("auroc", "accuracy"):
        for seed in (0, 1):
            make_run(folder / kind / str(seed), seed=seed, kind=kind)


def read_compare(folder: Path) -> None:
    """`pipelines.compare` of the two."""
    settings = argparse.Namespace(
        folders=[str(folder / "0"), str(folder / "1")], against=None, skip_unfinished=False, resamples=100, seed=0,
        level=0.95, out=str(folder / "out"),
    )  # fmt: skip
    assert compare(settings).is_file()


# --- caches ---


def prepare(record: Mapping[str, Any], root: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """What a file holds, over and over."""
    number = int((root / record["path"]).read_text())
    facts = {
        "fingerprint": f"f{number}",
        "hash": np.full(4, number, np.uint64),
        "thumbnail": np.full((64, 64), number, np.uint8),
    }
    return np.full((number + 1, 3), number, np.int16), facts


def _prepared(folder: Path) -> None:
    records = pd.DataFrame({"id": [f"r{i}" for i in range(6)], "path": [f"{i}.txt" for i in range(6)]})
    section = CacheSection(enabled=True, dir=str(folder / "cache"), max_gb=1.0)
    found = prepare_records(records, folder / "data", prepare, {"version": 1}, section)
    for i in range(6):
        assert np.array_equal(found.array(i), np.full((i + 1, 3), i)), "another array than was prepared"
        assert found.metadata["fingerprint"][i] == f"f{i}"
        assert found.metadata["bad"][i] is None
        assert (found.hashes[i] == i).all()


def make_cache(folder: Path) -> None:
    """The cache of six records."""
    data = folder / "records" / "data"
    data.mkdir(parents=True)
    for i in range(6):
        (data / f"{i}.txt").write_text(str(i))
    _prepared(folder / "records")


def read_cache(folder: Path) -> None:
    """A damaged shard is made again: the answer is the same. (A copy has another place: its shards are moved there.)"""
    cache = folder / "cache" / "prepared"
    (old,) = cache.iterdir()
    files = {f.suffix: f.read_bytes() for f in old.iterdir() if f.suffix in (".bin", ".parquet")}
    shutil.rmtree(folder / "cache")
    _prepared(folder)
    (new,) = cache.iterdir()
    for suffix, content in files.items():
        next(new.glob(f"*{suffix}")).write_bytes(content)
    _prepared(folder)


def make_ct_cache(folder: Path) -> None:
    """What head_ct keeps of a scanned folder."""
    make_ct(folder / "all")
    for name in ("explicit", "enhanced"):
        shutil.copytree(folder / "all" / name, folder / name / "dicom")
        scan(folder / name / "dicom", NAMES, folder / name / "cache")
    shutil.rmtree(folder / "all")


def read_ct_cache(folder: Path) -> None:
    """A damaged list of what was scanned is made again."""
    (kept,) = (folder / "cache").glob("scan-*.json")
    content = kept.read_bytes()
    expected = scan(folder / "dicom", NAMES)
    kept.unlink()
    scan(folder / "dicom", NAMES, folder / "cache")
    next((folder / "cache").glob("scan-*.json")).write_bytes(content)
    slices, faults = scan(folder / "dicom", NAMES, folder / "cache")
    assert (slices, faults) == expected, "another list than was written"
    choose(slices, faults, KERNELS, 5.0)


def make_parts(folder: Path) -> None:
    """A prediction that was cut off after its first parts."""
    _score(RunFolder(folder / "run"), ["a", "b", "c"])


def _score(folder: RunFolder, files: list[str]) -> pd.DataFrame:
    def score(names: list[str]) -> pd.DataFrame:
        return pd.DataFrame({"file": names, "reason": None, "p": [float(ord(n[0])) for n in names]})

    return score_in_parts(folder, files, score, World(0, 1, torch.device("cpu")), size=1)


def read_parts(folder: Path) -> None:
    """It goes on, and every file has its own row."""
    table = _score(RunFolder(folder), ["a", "b", "c", "d"])
    assert table["file"].tolist() == ["a", "b", "c", "d"]
    assert table["p"].tolist() == [97.0, 98.0, 99.0, 100.0]


FORMATS = [
    Format("run_files", make_files, read_files),
    Format("camelyon_run", make_camelyon, read_camelyon),
    Format("weights", make_weights, read_weights),
    Format("networks", make_networks, read_networks, ("*.json",)),
    Format("report", make_report, read_report, ("*.json", "*.yaml", "*.csv", "*.parquet", "*.npy")),
    Format("compare", make_compare, read_compare),
    Format("cache", make_cache, read_cache, ("*.bin", "prepared/*/*.parquet")),
    Format("ct_cache", make_ct_cache, read_ct_cache, ("scan-*.json",)),
    Format("parts", make_parts, read_parts),
]
