"""A finished run of retinopathy that nobody trained: a tiny network with random weights, and pictures that it reads."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from conftest import compose, run_on_cpu
from PIL import Image, ImageDraw

from pipelines.retinopathy.learner import RetinopathyLearner
from pipelines.retinopathy.metrics import HEADS
from pipelines.retinopathy.study import STUDY
from pipelines.shared.learning.backbones import Architecture, ImageNetwork
from pipelines.shared.learning.model_files import save_network
from pipelines.shared.run import Run, open_finished
from pipelines.shared.run_folder import RunFolder, write_json, write_text

POINTS = [
    {"task": "referable", "name": "high_sensitivity", "score": "p_referable", "threshold": 0.6, "chosen_on": "val"},
    {"task": "referable", "name": "high_specificity", "score": "p_referable", "threshold": 0.8, "chosen_on": "val"},
]
CARD = "# Model card: made\n\n| metric | value |\n|---|---|\n| auroc | 0.9 |\n\n<script>alert(1)</script>\n"


def make_run(folder: Path, backbone: str = "test_resnet", size: int = 64) -> Path:
    """Write the run folder."""
    config: Any = compose(
        "retinopathy", f"model.backbone={backbone}", "model.weights=none", f"preprocess.size={size}",
        f"cache.dir={folder.parent / 'cache'}", "trainer.device=cpu", f"run_dir={folder}",
    )  # fmt: skip
    place = RunFolder(folder)
    place.write_config(config.model_dump())
    torch.manual_seed(1)
    network = ImageNetwork(Architecture(backbone, len(HEADS), 0.0, [0.5] * 3, [0.5] * 3))
    learner = RetinopathyLearner(config)
    save_network(place.network("network"), network, {
        "study": "retinopathy", "name": "network", "version": "0", "architecture": learner.architecture(network),
        "classes": learner.classes, "untaught": {}, "preprocessing": STUDY.prepare_settings(config), "seed": 0,
        "operating_points": POINTS,
    })  # fmt: skip
    write_json(place.operating_points, POINTS)
    write_json(place.environment, {"device": "CPU", "seconds": {}})
    write_json(place.flow, {"synthetic": True, "source": "phantom"})
    estimate = {"value": 0.91, "low": 0.87, "high": 0.94, "method": "bootstrap", "n": 300, "groups": 150,
                "positives": 60, "reason": None}  # fmt: skip
    write_json(place.metrics, {"headline": "test.referable.auroc", "source": {"synthetic": True},
                               "metrics": {"test.referable.auroc": estimate}, "operating_points": POINTS})  # fmt: skip
    write_text(folder / "model_card.md", CARD)
    return folder


def fundus(seed: int, side: int = 160) -> bytes:
    """A PNG file with a reddish disc on black, and some spots on it."""
    rng = np.random.default_rng(seed)
    picture = Image.new("RGB", (side + 20, side))
    draw = ImageDraw.Draw(picture)
    draw.ellipse((14, 4, side + 6, side - 4), fill=(150, 70, 40))
    for x, y in rng.integers(side // 4, 3 * side // 4, (12, 2)):
        draw.ellipse((x, y, x + 9, y + 9), fill=tuple(int(v) for v in rng.integers(0, 256, 3)))
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()


def opened(folder: Path, place: Path, **serve: Any) -> tuple[Run[Any], Any]:
    """A run of mode=serve on a made run, with some keys of `serve` changed, and the finished run."""
    config: Any = compose(
        "retinopathy", "model.backbone=test_resnet", "model.weights=none", "preprocess.size=64",
        f"cache.dir={place / 'cache'}", "trainer.device=cpu", f"run_dir={place}",
    )  # fmt: skip
    config = config.model_copy(update={"serve": config.serve.model_copy(update=serve)})
    return run_on_cpu(STUDY, config, RunFolder(place)), open_finished(STUDY, folder)
