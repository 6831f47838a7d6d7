"""The COVID study: stage 1 of every base learner, and stage 2 on as many pictures as the paper has."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from conftest import compose
from measure import REPOSITORY, Row, seconds, training_data_of, training_row

from pipelines.covid_flannel.config import CLASSES
from pipelines.covid_flannel.flannel import Flannel, fit_combination
from pipelines.covid_flannel.learner import BaseLearner
from pipelines.covid_flannel.protocol import roles
from pipelines.covid_flannel.study import STUDY
from pipelines.shared.data.assemble import training_data

MINUTES = 5
PICTURES, LEARNERS = 5508, 5


def rows() -> list[Row]:
    """All rows of this study."""
    config = compose(
        "covid_flannel", f"cache.dir={REPOSITORY / '.cache'}", "trainer.max_steps=10", "trainer.device=cpu",
        "trainer.precision=fp32",
    )  # fmt: skip
    data = training_data(STUDY, config)
    train = roles(data.records, 0, config)["train"]
    data = replace(data, records=data.records.assign(split=np.where(train, "train", "")))
    batch, found = config.trainer.batch_size, []
    for name, section in config.base_learners.items():
        learner = BaseLearner(config, section)
        pictures = torch.randn(batch, 3, section.crop, section.crop).to(memory_format=torch.channels_last)
        answers = torch.randint(0, len(CLASSES), (batch,)).float()
        what = f"covid_flannel: {name}, {section.crop} px, batch {batch}, training"
        dataset = training_data_of(learner, data)
        found.append(training_row(what, learner, dataset, pictures, answers, _scaled_already))
    return [*found, _stage2()]


def _scaled_already(network: Any, pictures: torch.Tensor) -> torch.Tensor:
    return network.network.head(network.network.backbone(pictures))


def _stage2() -> Row:
    """Stage 2 over 5,508 x 20 probabilities for 40 epochs: seconds, against the plainest loop of the same steps."""
    section = compose("covid_flannel").ensemble
    rng = np.random.default_rng(0)
    p, truth = rng.dirichlet(np.ones(4), (PICTURES, LEARNERS)), rng.integers(0, 4, PICTURES)

    def ours() -> None:
        fit_combination(Flannel(LEARNERS, len(CLASSES)), p, truth, section, 0)

    def plain() -> None:
        layer = torch.nn.Linear(400, LEARNERS).double()
        optimizer = torch.optim.Adam(layer.parameters(), section.learning_rate, weight_decay=section.weight_decay)
        inputs, answers = torch.from_numpy(p), torch.from_numpy(truth)
        for _ in range(section.epochs):
            for at in torch.randperm(PICTURES).split(section.batch_size):
                f = inputs[at].flatten(1)
                weight = layer((f[:, :, None] * f[:, None, :]).flatten(1)).tanh()
                logits = (weight[:, :, None] * inputs[at]).sum(dim=1)
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(logits, answers[at]).backward()
                optimizer.step()

    first, second = seconds(ours), seconds(plain)
    return {
        "what": f"covid_flannel: stage 2, {PICTURES:,} x {4 * LEARNERS} probabilities, {section.epochs} epochs",
        "ratio": second / first,
        "ours": f"{first:.1f} s",
        "reference": f"bare loop {second:.1f} s",
    }
