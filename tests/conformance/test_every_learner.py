"""What every study's learner must do: a batch of its records goes through, is augmented, and is learned by heart."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import numpy as np
import pytest
from conftest import REPOSITORY, STUDIES, compose, smoke, study_of, toy_prepared


def check_augmentation(learner: Any, arrays: list[np.ndarray]) -> None:
    """It goes to other processes, and where it can be left to the device it gives much the same there."""
    from pipelines.shared.learning.dataset import PreparedDataset, batch_of

    def augmented(learner: Any) -> np.ndarray:
        augment = pickle.loads(pickle.dumps(learner.augment()))  # as where loader workers are spawned
        ids, targets = [str(i) for i in range(len(arrays))], np.zeros((len(arrays), 1))
        data = PreparedDataset(toy_prepared(np.stack(arrays)), ids, targets, augment)
        return batch_of(data, [(0, i, 0) for i in range(len(arrays))])[0].numpy()

    there = augmented(learner)  # on a CPU one by one
    if "on_device" in type(learner.config.augment).model_fields:
        section = learner.config.augment.model_copy(update={"on_device": True})
        other = copy.copy(learner)
        other.config = learner.config.model_copy(update={"augment": section})
        found = augmented(other)
        assert found.shape == there.shape
        assert found.dtype == there.dtype == np.uint8
        assert np.abs(found.astype(int) - there).mean() < 2.5


@pytest.mark.slow
@pytest.mark.parametrize("study", STUDIES)
def test_one_batch_goes_through_and_eight_records_are_learned_by_heart(study, tmp_path):
    import torch

    from pipelines.shared.study import Data

    part = study_of(study)
    config = compose(study, *smoke(study), f"cache.dir={REPOSITORY / '.cache'}", "model.drop_rate=0")
    source = part.sources["phantom"](config)
    settings = part.prepare_settings(config)
    records = source.records.assign(split="train")
    prepared = toy_prepared(np.zeros((len(records), 256), np.float32))  # what a learner may want to know of the signals
    learner = part.method(config).learner.from_data(config, Data(source, records, prepared, {}))
    targets = learner.targets(records)
    known = np.flatnonzero(~np.isnan(targets).reshape(len(targets), -1).any(axis=1))
    step = max(1, len(known) // 8)
    rows = known[::step][:8]
    arrays = [part.prepare(records.iloc[i].to_dict(), source.root, settings)[0] for i in rows]
    check_augmentation(learner, arrays)
    torch.manual_seed(0)
    network, loss = learner.build(), learner.loss()
    x, y = torch.from_numpy(np.stack(arrays)), torch.from_numpy(targets[rows].astype(np.float32))
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    network.train()
    values = []
    for _ in range(40):
        value = loss(network(x), y)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(value.item())
        if values[-1] < 0.1 * values[0]:
            break
    assert math.isfinite(values[0])
    assert values[-1] < 0.1 * values[0]
    columns = learner.columns(learner.probabilities(network(x).detach().numpy()))
    probabilities = columns[[c for c in columns if c.startswith("p_")]].to_numpy()
    assert ((probabilities >= 0) & (probabilities <= 1)).all()
