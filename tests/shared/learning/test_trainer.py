"""The loop: exact order and resume, what stops it, which epoch it keeps."""

from __future__ import annotations

import io
import math
import os
import signal
import struct
import zipfile
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest
import torch
from conftest import slow
from torch import nn
from toy_records import N, Toy, toy_data

from pipelines.shared import preemption
from pipelines.shared.errors import ConfigError, RunError, UserError
from pipelines.shared.learning import checkpoint, trainer
from pipelines.shared.learning.dataset import EpochBatches, PreparedDataset
from pipelines.shared.learning.distributed import World, agreement
from pipelines.shared.learning.losses import masked_binary_cross_entropy
from pipelines.shared.learning.predictor import predict
from pipelines.shared.learning.progress import better
from pipelines.shared.learning.trainer import fit

ONE = World(0, 1, torch.device("cpu"))


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
