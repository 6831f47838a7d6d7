"""The order of an epoch, the loader's processes, and that every record is predicted once."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import wait_until
from toy_records import N, Toy, toy_data

from pipelines.shared.errors import UserError
from pipelines.shared.learning.dataset import EpochBatches, Loader, balanced_shares, epoch_order
from pipelines.shared.learning.distributed import World
from pipelines.shared.learning.hardware import batch_in_memory
from pipelines.shared.learning.predictor import predict

ONE = World(0, 1, torch.device("cpu"))


def test_augmentation_differs_between_epochs_and_records_and_repeats_exactly():
    data = toy_data()
    first, second = data[(0, 4, 0)][0], data[(1, 4, 0)][0]
    assert not np.array_equal(first, second)
    assert np.array_equal(first, data[(0, 4, 0)][0])
    plain = toy_data(None)
    added = [data[(0, i, 0)][0].astype(int) - plain[i][0] for i in (4, 5)]
    assert not np.array_equal(*added)


def test_epoch_order_is_a_permutation_that_several_processes_share():
    whole = EpochBatches(N, 4, seed=3, epoch=2)
    assert len(whole) == 5  # 22 records: the incomplete batch is left out
    flat = [p for batch in whole for _, p, _ in batch]
    assert len(set(flat)) == 20
    assert [p for b in EpochBatches(N, 4, 3, 3) for _, p, _ in b] != flat
    halves = [EpochBatches(N, 4, 3, 2, rank=r, world=2) for r in (0, 1)]
    for batch, a, b in zip(whole, *halves, strict=True):
        assert sorted(batch) == sorted([*a, *b])
    assert list(EpochBatches(N, 4, 3, 2, start=3)) == list(whole)[3:]
    assert len(EpochBatches(3, 4, 0, 0)) == 1


def shown(order, n: int) -> np.ndarray:
    return np.bincount([position for _, position, _ in order], minlength=n)


def test_balanced_order_shows_classes_as_often_as_asked_and_every_record_in_turn():
    strata = np.array([0] * 90 + [1] * 8 + [2] * 2)
    shares = balanced_shares(strata, 1.0)
    assert shares.mean() == pytest.approx(1)
    assert [shares[strata == k].sum() for k in range(3)] == pytest.approx([100 / 3] * 3)
    half = balanced_shares(strata, 0.5)
    totals = np.array([half[strata == k].sum() for k in range(3)])
    assert totals / totals.sum() == pytest.approx(np.sqrt([90, 8, 2]) / np.sqrt([90, 8, 2]).sum())
    assert balanced_shares(strata, 0.0) == pytest.approx(np.ones(100))
    total = np.zeros(100)
    for epoch in range(60):
        order = epoch_order(100, 3, epoch, shares)
        assert order == epoch_order(100, 3, epoch, shares)
        assert len(order) == len(set(order)) == 100, "each time has its own key, so its own augmentation"
        times = shown(order, 100)
        assert (times >= np.floor(shares)).all()
        assert (times <= np.ceil(shares)).all()
        total += times
    assert [total[strata == k].sum() / 6000 for k in range(3)] == pytest.approx([1 / 3] * 3, abs=0.03)
    assert total[:90].min() > 8, "records of the frequent class take turns"


def test_balanced_order_is_shared_by_several_processes_and_resumed():
    shares = balanced_shares(np.arange(N) < 3, 1.0)
    whole = EpochBatches(N, 4, 3, 2, shares=shares)
    for batch, a, b in zip(whole, *(EpochBatches(N, 4, 3, 2, 0, r, 2, shares) for r in (0, 1)), strict=True):
        assert sorted(batch) == sorted([*a, *b])
    assert list(EpochBatches(N, 4, 3, 2, start=3, shares=shares)) == list(whole)[3:]


def test_a_record_that_is_shown_again_is_augmented_in_another_way():
    data = toy_data()
    first, second = data[(0, 4, 0)][0], data[(0, 4, 1)][0]
    assert not np.array_equal(first, second)
    assert np.array_equal(second, data[(0, 4, 1)][0])


def test_a_loader_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    list(Loader(toy_data())(EpochBatches(N, 4, 0, 0)))
    assert torch.equal(before, torch.get_rng_state())


def whose(array: np.ndarray, seed: int) -> np.ndarray:
    """An augmentation that says which process did it."""
    return np.full(1, os.getpid(), np.int64)


def test_workers_live_from_the_first_epoch_to_the_last_and_forget_what_was_left_over():
    data = toy_data(whose)
    load = Loader(data, workers=2)
    seen = []
    for epoch in range(3):
        order = EpochBatches(N, 4, 0, epoch)
        batches = list(load(order))
        assert [p.tolist() for _, _, p in batches] == [[p for _, p, _ in batch] for batch in order]
        assert torch.equal(batches[0][1].nan_to_num(9), torch.from_numpy(data.targets[batches[0][2]]).nan_to_num(9))
        seen.append({int(pid) for arrays, _, _ in batches for pid in arrays.ravel()})
        next(load(EpochBatches(N, 4, 5, epoch)))  # an epoch that is not finished
    assert seen[0] == seen[1] == seen[2]
    assert len(seen[0]) == 2
    assert os.getpid() not in seen[0]


def noted(file: Path, array: np.ndarray, seed: int) -> np.ndarray:
    """An augmentation that writes down what it was asked for."""
    with file.open("a") as text:
        text.write(f"{seed}\n")
    return array


@pytest.mark.parametrize("workers", [0, 1])
def test_the_next_epoch_is_begun_before_it_is_asked_for(tmp_path, workers):
    file = tmp_path / "asked"
    data = toy_data(partial(noted, file))
    load, orders = Loader(data, workers), [EpochBatches(N, 4, 0, epoch) for epoch in range(4)]
    shown = sum(map(len, orders[0]))

    def positions(order, then=()):
        return [p.tolist() for _, _, p in load(order, then)]

    def expected(order):
        return [[p for _, p, _ in batch] for batch in order]

    assert positions(orders[0], orders[1]) == expected(orders[0])
    if workers:
        wait_until(lambda: len(file.read_text().split()) > shown, "a worker that begins with the next epoch")
    assert positions(orders[1], orders[2]) == expected(orders[1])
    assert positions(orders[3]) == expected(orders[3]), "what was begun is forgotten where something else is asked for"
    asked = file.read_text().split()
    assert len(set(asked)) == len(asked), "a picture was prepared twice"


def ended(array: np.ndarray, seed: int) -> np.ndarray:
    """An augmentation whose process the system ends, as it does when memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)
    return array


def test_a_worker_that_the_system_ends_is_told_with_the_key_to_change(trainer_section):
    with pytest.raises(UserError) as caught, batch_in_memory(trainer_section(workers=4), ONE):
        list(Loader(toy_data(ended), workers=2)(EpochBatches(N, 4, 0, 0)))
    assert "ended one of 4 processes" in caught.value.problem
    assert "trainer.workers=2" in caught.value.remedy


def test_every_record_is_predicted_once_in_order():
    data = toy_data(None)
    torch.manual_seed(0)
    model = Toy()
    whole = predict(model, data, ONE, 100)
    assert whole.shape == (N, 2)
    assert np.allclose(whole, predict(model, data, ONE, 3), atol=1e-6)
    assert np.allclose(whole, predict(model, data, ONE, 3, workers=1), atol=1e-6)
