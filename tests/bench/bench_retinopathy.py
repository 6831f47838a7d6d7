"""The retinopathy study: trainer and loader at the default size and with ResNets at 224 px; memory of a whole run."""

from __future__ import annotations

import sys
import tempfile
from typing import Any

import torch
from conftest import compose
from measure import REPOSITORY, Row, command_peak_mb, loader_row, training_data_of, training_row

from pipelines.retinopathy.learner import RetinopathyLearner
from pipelines.retinopathy.study import STUDY
from pipelines.shared.data.assemble import training_data

MINUTES = 5
CASES = [("tf_efficientnet_lite0", 128, 10), ("resnet18", 224, 4), ("resnet50", 224, 2)]

BARE = """
import timm, torch
network = timm.create_model("tf_efficientnet_lite0", num_classes=6).to(memory_format=torch.channels_last)
optimizer = torch.optim.AdamW(network.parameters())
pictures = torch.randn(32, 3, 128, 128).to(memory_format=torch.channels_last)
for _ in range(4):
    torch.nn.functional.binary_cross_entropy_with_logits(network(pictures), torch.zeros(32, 6)).backward()
    optimizer.step()
    optimizer.zero_grad()
"""


def rows() -> list[Row]:
    """All rows of this study."""
    found: list[Row] = []
    for backbone, size, steps in CASES:
        weights = "imagenet" if backbone == "tf_efficientnet_lite0" else "none"
        config = compose(
            "retinopathy", f"model.backbone={backbone}", f"model.weights={weights}", f"preprocess.size={size}",
            f"cache.dir={REPOSITORY / '.cache'}", f"trainer.max_steps={steps}", "trainer.device=cpu",
            "trainer.precision=fp32",
        )  # fmt: skip
        learner, batch = RetinopathyLearner(config), config.trainer.batch_size
        dataset = training_data_of(learner, training_data(STUDY, config))
        pictures = torch.randn(batch, 3, size, size).to(memory_format=torch.channels_last)
        answers = torch.randint(0, 2, (batch, len(learner.classes))).float()
        what = f"{backbone} {size} px, batch {batch}, training"
        found.append(training_row(what, learner, dataset, pictures, answers, _scaled_already))
        found.append(loader_row(f"fundus pictures, {size} px", STUDY, learner, dataset))
    found.append(_memory_row())
    return found


def _scaled_already(network: Any, pictures: torch.Tensor) -> torch.Tensor:
    return network.head(network.backbone(pictures))


def _memory_row() -> Row:
    with tempfile.TemporaryDirectory() as folder:
        ours = command_peak_mb(
            [sys.executable, "-m", "pipelines.retinopathy", "trainer=smoke", f"run_dir={folder}/run"]
        )
    bare = command_peak_mb([sys.executable, "-c", BARE])
    return {
        "what": "peak memory of a whole smoke run, largest process",
        "ratio": bare / ours,
        "ours": f"{ours:.0f} MB",
        "reference": f"bare loop {bare:.0f} MB",
    }
