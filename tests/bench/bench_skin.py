"""The skin study: its augmentation is the heaviest (rotation with the inscribed square, colour)."""

from __future__ import annotations

from typing import Any

import torch
from conftest import compose
from measure import REPOSITORY, Row, training_data_of, training_row

from pipelines.shared.data.assemble import training_data
from pipelines.skin.learner import SkinLearner
from pipelines.skin.study import STUDY

MINUTES = 1


def rows() -> list[Row]:
    """All rows of this study."""
    config = compose(
        "skin", f"cache.dir={REPOSITORY / '.cache'}", "trainer.max_steps=10", "trainer.device=cpu",
        "trainer.precision=fp32",
    )  # fmt: skip
    data = training_data(STUDY, config)
    learner = SkinLearner.from_data(config, data)
    batch, size = config.trainer.batch_size, config.preprocess.size
    pictures = torch.randn(batch, 3, size, size).to(memory_format=torch.channels_last)
    answers = torch.randint(0, len(learner.classes), (batch,)).float()
    what = f"skin: {config.model.backbone} {size} px, batch {batch}, training"
    return [training_row(what, learner, training_data_of(learner, data), pictures, answers, _scaled_already)]


def _scaled_already(network: Any, pictures: torch.Tensor) -> torch.Tensor:
    return network.head(network.backbone(pictures))
