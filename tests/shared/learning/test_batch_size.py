"""`trainer.batch_size=auto`."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from conftest import compose, toy_prepared
from torch import nn

from pipelines.shared.config import TrainerSection
from pipelines.shared.learning import batch_size
from pipelines.shared.learning.batch_size import available_memory, sized
from pipelines.shared.learning.dataset import PreparedDataset
from pipelines.shared.learning.distributed import World
from pipelines.shared.learning.losses import masked_binary_cross_entropy

ONE = World(0, 1, torch.device("cpu"))


class Wide(nn.Module):
    """Keeps 4 KB a record for its backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 1000), nn.Linear(1000, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.tanh(self.first(x.float())))


def data(records: int) -> PreparedDataset:
    arrays = np.zeros((records, 4), np.uint8)
    return PreparedDataset(toy_prepared(arrays), [str(i) for i in range(records)], np.zeros((records, 1)))


def found(section: TrainerSection, records: int) -> TrainerSection:
    return sized(section, Wide(), masked_binary_cross_entropy, data(records), ONE)


def test_auto_is_a_value_of_the_key_and_numbers_stay_numbers():
    assert compose("skin", "trainer.batch_size=auto").trainer.batch_size == 0
    assert compose("skin", "trainer.batch_size=24").trainer.batch_size == 24


def test_the_largest_power_of_two_that_fits(trainer_section, monkeypatch):
    monkeypatch.setattr(batch_size, "available_memory", lambda: 2**34)
    assert found(trainer_section(batch_size=0), 5000).batch_size == 64
    assert found(trainer_section(batch_size=0), 200).batch_size == 8, "an epoch has 16 batches at least"
    assert found(trainer_section(batch_size=0), 3).batch_size == 1
    weights = sum(p.numel() * 4 for p in Wide().parameters())
    for records in (4, 16):  # a record keeps a little more than 4 KB, twice
        room = 2 * (4 * weights + records * 9000)
        monkeypatch.setattr(batch_size, "available_memory", lambda room=room: room)
        assert found(trainer_section(batch_size=0), 5000).batch_size == records
    monkeypatch.setattr(batch_size, "available_memory", lambda: 0)
    assert found(trainer_section(batch_size=0), 5000).batch_size == 1


def test_the_learning_rate_grows_with_the_batch(trainer_section, monkeypatch):
    monkeypatch.setattr(batch_size, "available_memory", lambda: 2**34)
    section = trainer_section(batch_size=0, learning_rate=0.01)
    assert found(section, 5000).learning_rate == pytest.approx(0.01 * math.sqrt(2))
    assert found(section.model_copy(update={"optimizer": "sgd"}), 5000).learning_rate == pytest.approx(0.02)


def test_a_gpu_is_tried_with_twice_as_many_until_they_do_not_fit(trainer_section, monkeypatch):
    tried = []

    def step(config, network, loss, dataset, world, batch):
        tried.append(batch)
        if batch > 100:
            raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(batch_size, "_step", step)
    arguments = (trainer_section(), Wide(), masked_binary_cross_entropy, data(9), ONE)
    assert batch_size._by_trying(*arguments, largest=1024) == 32, "64 fit, half leaves room for the optimiser"
    assert tried == [2, 4, 8, 16, 32, 64, 128]
    assert batch_size._by_trying(*arguments, largest=16) == 16


def test_some_memory_is_available():
    assert available_memory() > 2**26
