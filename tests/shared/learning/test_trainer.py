"""The loop: exact order and resume, what stops it, which epoch it keeps."""

from __future__ import annotations

import io
import math
import os
import signal
import struct
import zipfile
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import slow, toy_prepared, wait_until
from torch import nn

from pipelines.shared import preemption
from pipelines.shared.errors import ConfigError, RunError, UserError
from pipelines.shared.learning import checkpoint, trainer
from pipelines.shared.learning.dataset import EpochBatches, Loader, PreparedDataset, balanced_shares, epoch_order
from pipelines.shared.learning.distributed import World, agreement
from pipelines.shared.learning.losses import masked_binary_cross_entropy
from pipelines.shared.learning.predictor import predict
from pipelines.shared.learning.progress import better
from pipelines.shared.learning.trainer import fit

ONE = World(0, 1, torch.device("cpu"))
N = 22


class Toy(nn.Module):
    """A network with everything whose state could be lost: dropout, batch norm, a scale of uint8."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x.float() / 255)


def noisy(array: np.ndarray, seed: int) -> np.ndarray:
    """An augmentation that depends on nothing but its seed."""
    noise = np.random.default_rng(seed).integers(0, 20, array.shape)
    return np.clip(array.astype(int) + noise, 0, 255).astype(np.uint8)


def toy_data(augment=noisy) -> PreparedDataset:
    rng = np.random.default_rng(0)
    arrays = rng.integers(0, 256, (N, 6)).astype(np.uint8)
    targets = np.stack([arrays[:, 0] > 127, arrays[:, 1] > 127], axis=1).astype(np.float32)
    targets[3, 1] = np.nan
    return PreparedDataset(toy_prepared(arrays), [f"r{i}" for i in range(N)], targets, augment, seed=1)


def train(file, config, data=None, validate=None, model=None, **more):
    data = data or toy_data()
    plain = PreparedDataset(data.prepared, data.ids, data.targets)

    def default_validate(scored):
        outputs = torch.from_numpy(predict(scored, plain, ONE, 5))
        return {"val_loss": float(masked_binary_cross_entropy(outputs, torch.from_numpy(plain.targets)))}

    torch.manual_seed(7)
    model = model or Toy()
    history = fit(
        model, masked_binary_cross_entropy, data, validate or default_validate, config,
        name="network", seed=1, world=ONE, file=file, must_match={"split": "abc"} | more,
    )  # fmt: skip
    return model, history


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in model.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[k], b[k]) for k in a)


def test_the_bar_is_of_all_epochs(tmp_path, trainer_section, monkeypatch):
    """So the time that it shows is that to the network's last epoch, not to the end of this one."""
    shown = []

    def add_task(title, total, completed, note):
        shown.append((title, completed, total))

    bar = SimpleNamespace(add_task=add_task, update=lambda task, advance, note: None)
    monkeypatch.setattr(trainer, "progress_bar", lambda: nullcontext(bar))
    config = trainer_section(epochs=3)
    train(tmp_path / "a.pt", config)
    batches = N // config.batch_size  # the last one has the rest too
    assert shown == [(f"network epoch {k + 1}/3", k * batches, 3 * batches) for k in range(3)]


class Cut(Exception):
    """The power cut of these tests."""


@contextmanager
def power_cut(after: int):
    """What is done here writes so many checkpoints and is then cut off."""
    saves, original = 0, checkpoint.save

    def save(path, state):
        nonlocal saves
        original(path, state)
        saves += 1
        if saves == after:
            raise Cut

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "save", save)
        with pytest.raises(Cut):
            yield


@pytest.mark.parametrize("schedule", [slow("constant"), "cosine", slow("step"), slow("plateau")])
@pytest.mark.parametrize("ema", [slow(None), 0.8])
def test_a_run_cut_off_anywhere_ends_with_the_same_weights(tmp_path, trainer_section, schedule, ema):
    config = trainer_section(schedule=schedule, ema_decay=ema, accumulate=2, clip_norm=1.0, checkpoint_seconds=1e-9)
    whole, history = train(tmp_path / "whole.pt", config)
    for cut in range(1, 13):
        file = tmp_path / f"{cut}.pt"
        with power_cut(after=cut):
            train(file, config)
        resumed, resumed_history = train(file, config)
        assert same(weights(whole), weights(resumed)), f"cut after save {cut}"
        strip = [{k: v for k, v in row.items() if k != "seconds"} for row in history]
        assert strip == [{k: v for k, v in row.items() if k != "seconds"} for row in resumed_history]


def test_workers_do_not_change_the_result(tmp_path, trainer_section):
    none, _ = train(tmp_path / "a.pt", trainer_section(workers=0))
    two, _ = train(tmp_path / "b.pt", trainer_section(workers=2))
    assert same(weights(none), weights(two))


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


def test_processes_agree_on_a_loss_and_a_stop():
    loss = torch.tensor(0.1)
    assert agreement(loss, False, ONE)() == (float(loss), float(loss), False)
    assert agreement(loss, True, ONE)()[2] is True
    assert math.isnan(agreement(torch.tensor(float("nan")), False, ONE)()[1])


@pytest.mark.slow
def test_a_compiled_network_learns_the_same_and_is_saved_under_its_own_names(tmp_path, trainer_section):
    def plain() -> Toy:
        torch.manual_seed(3)
        model = Toy()
        model.layers[3] = nn.Identity()  # compiled dropout draws other numbers
        return model

    one, history = train(tmp_path / "a.pt", trainer_section(optimizer="sgd"), model=plain())
    other, compiled = train(tmp_path / "b.pt", trainer_section(optimizer="sgd", compile=True), model=plain())
    assert list(one.state_dict()) == list(other.state_dict())
    assert all(
        torch.allclose(a, b, atol=1e-4) for a, b in zip(weights(one).values(), weights(other).values(), strict=True)
    )
    assert history[-1]["val_loss"] == pytest.approx(compiled[-1]["val_loss"], abs=1e-4)


@pytest.mark.slow
def test_a_compiled_run_that_was_cut_off_ends_with_the_same_weights(tmp_path, trainer_section):
    """With dropout, whose numbers the compiler's own generator draws."""
    config = trainer_section(epochs=2, ema_decay=0.8, compile=True, checkpoint_seconds=1e-9)
    whole, _ = train(tmp_path / "whole.pt", config)
    with power_cut(after=8):
        train(tmp_path / "cut.pt", config)
    saved = checkpoint.load(tmp_path / "cut.pt", {"split": "abc", "number of processes": 1})
    assert (saved["progress"]["epoch"], saved["progress"]["batch"]) == (1, 1), "in the middle of an epoch"
    assert list(saved["model"]) == list(saved["ema"]) == list(Toy().state_dict())
    resumed, _ = train(tmp_path / "cut.pt", config)
    assert same(weights(whole), weights(resumed))
    plain, _ = train(tmp_path / "plain.pt", config.model_copy(update={"compile": False}))
    assert not same(weights(whole), weights(plain)), "it was not compiled"


def test_a_loss_that_is_not_finite_stops_before_the_step_and_names_the_records(tmp_path, trainer_section):
    data = toy_data()
    model = Toy()
    before = weights(model)

    def broken(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return outputs.sum() * float("nan")

    with pytest.raises(UserError) as caught:
        fit(model, broken, data, lambda m: {}, trainer_section(), name="network", seed=1, world=ONE,
            file=tmp_path / "c.pt", must_match={})  # fmt: skip
    first = [data.ids[p] for _, p, _ in EpochBatches(N, 4, 1, 0).batches[0]]
    assert all(name in caught.value.problem for name in first)
    moved = {k for k, v in weights(model).items() if not torch.equal(v, before[k])}
    assert all("running" in k or "num_batches" in k for k in moved), "a weight moved"


def test_nan_never_wins_and_the_best_epoch_is_a_copy(tmp_path, trainer_section):
    values = iter([0.6, 0.9, math.nan])
    kept = []

    def validate(model):
        kept.append(weights(model))
        return {"val_auroc": next(values)}

    model, history = train(tmp_path / "c.pt", trainer_section(monitor="val_auroc"), validate=validate)
    assert [row["best"] for row in history] == [True, True, False]
    assert same(weights(model), kept[1])
    assert not same(weights(model), kept[2])
    assert better(0.0, math.nan, "val_auroc")
    assert better(0.1, 0.2, "val_loss")
    assert not better(math.nan, math.nan, "val_auroc")


def test_only_nan_is_an_error(tmp_path, trainer_section):
    with pytest.raises(UserError, match="never a number"):
        train(tmp_path / "c.pt", trainer_section(monitor="val_auroc"), validate=lambda m: {"val_auroc": math.nan})


def test_patience_stops_and_survives_a_resume(tmp_path, trainer_section):
    values = [0.9, 0.5, 0.5, 0.5, 0.5, 0.5]
    config = trainer_section(epochs=6, patience=2, monitor="val_auroc")
    calls = iter(values)
    _, history = train(tmp_path / "c.pt", config, validate=lambda m: {"val_auroc": next(calls)})
    assert len(history) == 3
    again = []
    _, history = train(tmp_path / "c.pt", config, validate=lambda m: again.append(1) or {"val_auroc": 1.0})
    assert len(history) == 3
    assert not again, "a finished training began again"


@pytest.mark.slow
def test_it_learns(tmp_path, trainer_section):
    _, history = train(tmp_path / "c.pt", trainer_section(epochs=60, learning_rate=0.05), data=toy_data(None))
    assert history[-1]["val_loss"] < 0.3 < history[0]["val_loss"]


def test_unknown_optimizer_and_monitor(tmp_path, trainer_section):
    with pytest.raises(ConfigError, match="Did you mean adam"):
        train(tmp_path / "c.pt", trainer_section(optimizer="adamv"))
    with pytest.raises(ConfigError, match="not measured"):
        train(tmp_path / "d.pt", trainer_section(monitor="val_auc"))


def test_resume_refuses_what_does_not_belong(tmp_path, trainer_section):
    train(tmp_path / "c.pt", trainer_section(epochs=1))
    with pytest.raises(RunError, match="another split: abc, now other"):
        train(tmp_path / "c.pt", trainer_section(epochs=1), split="other")
    with pytest.raises(RunError, match=r"another trainer\.epochs: None, now 9"):
        train(tmp_path / "c.pt", trainer_section(epochs=1), **{"trainer.epochs": 9})
    state = torch.load(tmp_path / "c.pt", weights_only=True)
    torch.save(state | {"belongs_to": state["belongs_to"] | {"number of processes": 2}}, tmp_path / "c.pt")
    with pytest.raises(RunError, match="another number of processes: 2, now 1"):
        train(tmp_path / "c.pt", trainer_section(epochs=1))
    torch.save(state, tmp_path / "c.pt")
    state = torch.load(tmp_path / "c.pt", weights_only=True)
    torch.save(state | {"schema": 99}, tmp_path / "c.pt")
    with pytest.raises(RunError, match="schema 99"):
        train(tmp_path / "c.pt", trainer_section(epochs=1))


def test_a_full_disk_keeps_the_previous_checkpoint(tmp_path, trainer_section, monkeypatch):
    file = tmp_path / "c.pt"
    train(file, trainer_section(epochs=1))
    before = file.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    save = torch.save
    for broken in (full, lambda state, aside: save(state, "/dev/full")):  # a made-up failure and torch's own
        monkeypatch.setattr(torch, "save", broken)
        with pytest.raises(UserError, match=r"c\.pt cannot be written: no space left .*; the previous one is kept"):
            checkpoint.save(file, {"weights": torch.zeros(100_000)})
        assert file.read_bytes() == before
        assert {f.name for f in tmp_path.iterdir()} == {"c.pt", "c.previous.pt"}


def _zeroed_tensor(content: bytes) -> bytes:
    """A checkpoint with one of its tensors zeroed, as a disk may leave it after a power cut."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entry = max((e for e in archive.infolist() if "/data/" in e.filename), key=lambda e: e.file_size)
    name, extra = struct.unpack("<HH", content[entry.header_offset + 26 : entry.header_offset + 30])
    begin = entry.header_offset + 30 + name + extra
    return content[:begin] + bytes(entry.file_size) + content[begin + entry.file_size :]


@pytest.mark.parametrize("damage", ["halved", "emptied", "zeroed", "missing"])
def test_the_checkpoint_before_serves_where_the_last_is_damaged(tmp_path, trainer_section, monkeypatch, damage):
    config = trainer_section(checkpoint_seconds=1e-9)
    whole, _ = train(tmp_path / "whole.pt", config)
    file, original, saves = tmp_path / "c.pt", checkpoint.save, 0

    def save(path, state):
        nonlocal saves
        original(path, state)
        saves += 1
        if saves == 9:
            raise Cut

    monkeypatch.setattr(checkpoint, "save", save)
    with pytest.raises(Cut):
        train(file, config)
    monkeypatch.setattr(checkpoint, "save", original)
    content = file.read_bytes()
    left = {"halved": content[: len(content) // 2], "emptied": b"", "zeroed": _zeroed_tensor(content)}
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(left[damage])
    before = torch.load(tmp_path / "c.previous.pt", weights_only=True)
    found = checkpoint.load(file, before["belongs_to"])
    assert found is not None
    assert found["progress"]["batch"] == before["progress"]["batch"]
    resumed, _ = train(file, config)
    assert same(weights(whole), weights(resumed))


def test_two_damaged_checkpoints_begin_anew_and_end_alike(tmp_path, trainer_section):
    whole, _ = train(tmp_path / "whole.pt", trainer_section())
    train(tmp_path / "c.pt", trainer_section())
    for name in ("c.pt", "c.previous.pt"):
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:1000])
    again, history = train(tmp_path / "c.pt", trainer_section())
    assert len(history) == 3
    assert same(weights(whole), weights(again))


def test_sigterm_saves_and_asks_to_be_resumed(tmp_path, trainer_section):
    whole, _ = train(tmp_path / "whole.pt", trainer_section())
    preemption.install()
    data = toy_data()
    taken = 0
    plain = data.augment

    def interrupting(array, seed):
        nonlocal taken
        taken += 1
        if taken == 30:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(array, seed)

    data.augment = interrupting
    try:
        with pytest.raises(SystemExit) as caught:
            train(tmp_path / "c.pt", trainer_section(), data=data)
        assert caught.value.code == 75
    finally:
        preemption.install()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    state = torch.load(tmp_path / "c.pt", weights_only=True)
    assert (state["progress"]["epoch"], state["progress"]["batch"]) == (1, 3)
    resumed, _ = train(tmp_path / "c.pt", trainer_section())
    assert same(weights(whole), weights(resumed))


def test_every_record_is_predicted_once_in_order():
    data = toy_data(None)
    torch.manual_seed(0)
    model = Toy()
    whole = predict(model, data, ONE, 100)
    assert whole.shape == (N, 2)
    assert np.allclose(whole, predict(model, data, ONE, 3), atol=1e-6)
    assert np.allclose(whole, predict(model, data, ONE, 3, workers=1), atol=1e-6)


def test_masked_loss_ignores_what_is_unknown():
    logits = torch.tensor([[0.3, -2.0], [1.5, 4.0]], requires_grad=True)
    targets = torch.tensor([[1.0, math.nan], [0.0, 1.0]])
    value = masked_binary_cross_entropy(logits, targets)
    by_hand = [
        -math.log(1 / (1 + math.exp(-0.3))),
        -math.log(1 - 1 / (1 + math.exp(-1.5))),
        -math.log(1 / (1 + math.exp(-4))),
    ]
    assert value.item() == pytest.approx(sum(by_hand) / 3)
    value.backward()
    assert logits.grad[0, 1].item() == 0
    nothing = masked_binary_cross_entropy(logits, torch.full((2, 2), math.nan))
    assert nothing.item() == 0
    nothing.backward()
    assert torch.isfinite(logits.grad).all()
