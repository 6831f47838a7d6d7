"""Several processes: one result, one message, one end."""

from __future__ import annotations

import os
import socket
import sys
import traceback
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import PATIENCE, REPOSITORY, run_command
from cutting import CONTEXT
from torch import nn
from toy_pictures import ALL, train_pictures

from pipelines.shared.errors import ConfigError, UserError
from pipelines.shared.launch import Launch, launch, requeued, slurm_job
from pipelines.shared.learning import distributed, trainer
from pipelines.shared.learning.dataset import PreparedDataset
from pipelines.shared.learning.distributed import World, gather, main_first
from pipelines.shared.learning.losses import masked_binary_cross_entropy
from pipelines.shared.learning.predictor import predict
from pipelines.shared.learning.trainer import fit


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return int(probe.getsockname()[1])


def together(function, folder: Path, *arguments, size: int = 2) -> list[object]:
    """`function(world, folder, *arguments)` in `size` processes; what each returned, or its error as text."""
    port = free_port()
    processes = [
        CONTEXT.Process(target=_enter, args=(function, rank, size, port, folder, arguments)) for rank in range(size)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=PATIENCE)
        assert process.exitcode is not None, "a process hangs"
    return [torch.load(folder / f"result-{rank}.pt", weights_only=False) for rank in range(size)]


def _enter(function, rank: int, size: int, port: int, folder: Path, arguments) -> None:
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(port),
    }  # fmt: skip
    torch.set_num_threads(1)
    world = distributed.start("cpu")
    try:
        result = function(world, folder, *arguments)
    except SystemExit as stop:
        result = f"exit {stop.code}"
    except UserError as failure:
        result = str(failure)
    except BaseException:
        result = traceback.format_exc()
    torch.save(result, folder / f"result-{rank}.pt")


def toy(noise: bool) -> tuple[nn.Module, PreparedDataset]:
    from conftest import toy_prepared

    rng = np.random.default_rng(0)
    arrays = rng.integers(0, 256, (24, 6)).astype(np.uint8)
    targets = np.stack([arrays[:, 0] > 127, arrays[:, 1] > 127], axis=1).astype(np.float32)
    torch.manual_seed(7)
    extra: list[nn.Module] = [nn.BatchNorm1d(8), nn.Dropout(0.3)] if noise else []
    model = nn.Sequential(_Scale(), nn.Linear(6, 8), *extra, nn.ReLU(), nn.Linear(8, 2))
    return model, PreparedDataset(toy_prepared(arrays), [f"r{i}" for i in range(24)], targets)


class _Scale(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.float() / 255


def train(world: World, folder: Path, section, noise: bool, name: str = "c.pt", loss=masked_binary_cross_entropy):
    model, data = toy(noise)

    def validate(scored: nn.Module) -> dict[str, float]:
        outputs = torch.from_numpy(predict(scored, data, world, 5))
        return {"val_loss": float(masked_binary_cross_entropy(outputs, torch.from_numpy(data.targets)))}

    history = fit(
        model, loss, data, validate, section, name="network", seed=1, world=world, file=folder / name, must_match={}
    )
    return model.state_dict(), [{k: v for k, v in row.items() if k != "seconds"} for row in history]


@pytest.mark.slow
def test_two_processes_learn_what_one_does(tmp_path, trainer_section):
    section = trainer_section(batch_size=8, epochs=3, clip_norm=1.0, accumulate=2)
    one, history = train(World(0, 1, torch.device("cpu")), tmp_path, section, False, "one.pt")
    first, second = together(train, tmp_path, section, False)
    for name, weights in one.items():
        assert torch.allclose(weights, first[0][name], atol=1e-6)
        assert torch.equal(first[0][name], second[0][name])
    assert first[1] == second[1]
    for mine, theirs in zip(history, first[1], strict=True):
        assert mine["val_loss"] == pytest.approx(theirs["val_loss"], abs=1e-6)
        assert mine["train_loss"] == pytest.approx(theirs["train_loss"], abs=1e-6)


def _train_all(world: World, folder: Path, section, name: str):
    model, history = train_pictures(folder / name, section, world)
    return model.state_dict(), history


def _cut_all(world: World, folder: Path, section):
    epochs = 0
    original = trainer._Training.close_epoch

    def close(self, measured):
        nonlocal epochs
        epochs += 1
        if epochs == 2:
            raise SystemExit(75)
        original(self, measured)

    trainer._Training.close_epoch = close
    return _train_all(world, folder, section, "cut-all.pt")


@pytest.mark.slow
def test_the_whole_kit_is_the_same_in_both_processes_and_after_a_cut(tmp_path, trainer_section):
    """The backbone is frozen at first: DDP must be told when it learns again."""
    section = trainer_section(**ALL | {"batch_size": 8}, sampling="balanced")
    whole = together(_train_all, tmp_path, section, "whole-all.pt")
    assert isinstance(whole[0], tuple), whole[0]
    assert together(_cut_all, tmp_path, section) == ["exit 75", "exit 75"]
    resumed = together(_train_all, tmp_path, section, "cut-all.pt")
    for name, weights in whole[0][0].items():
        assert torch.equal(weights, whole[1][0][name]), name
        assert torch.equal(weights, resumed[0][0][name]), name
    assert whole[0][1] == whole[1][1] == resumed[0][1]


def _cut_train(world: World, folder: Path, section):
    steps = 0
    original = distributed.agreement

    def stop_after_four(loss, stop, world):
        nonlocal steps
        steps += 1
        return original(loss, stop or (steps == 4 and world.rank == 1), world)

    distributed.agreement = stop_after_four
    return train(world, folder, section, True, "cut.pt")


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_at_one_step_and_they_go_on_exactly(tmp_path, trainer_section):
    section = trainer_section(batch_size=8, epochs=3, ema_decay=0.8)
    whole = together(train, tmp_path, section, True)
    assert together(_cut_train, tmp_path, section) == ["exit 75", "exit 75"]
    resumed = together(train, tmp_path, section, True, "cut.pt")
    for rank in (0, 1):
        assert all(torch.equal(whole[rank][0][k], resumed[rank][0][k]) for k in whole[rank][0])
        assert whole[rank][1] == resumed[rank][1]
    assert all(torch.equal(whole[0][0][k], whole[1][0][k]) for k in whole[0][0]), "batch norm differs by process"


def _poisoned(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return outputs.sum() * (float("nan") if int(os.environ["RANK"]) == 1 else 1.0)


def _train_poisoned(world: World, folder: Path, section):
    return train(world, folder, section, False, "p.pt", _poisoned)


@pytest.mark.slow
def test_a_bad_loss_in_one_process_is_named_by_all(tmp_path, trainer_section):
    first, second = together(_train_poisoned, tmp_path, trainer_section(batch_size=8))
    assert first == second
    assert "loss is nan" in str(first)
    assert str(first).count("  r") == 4, "only the records of the process that failed"


def test_a_batch_that_cannot_be_shared_is_refused(tmp_path, trainer_section):
    with pytest.raises(ConfigError, match="multiple of 3"):
        train(World(0, 3, torch.device("cpu")), tmp_path, trainer_section(batch_size=8), False)


def _in_turn(world: World, folder: Path, fail: bool):
    with main_first(world):
        if world.main and fail:
            raise UserError("the source is empty", "fill it")
        if world.main:
            (folder / "made").touch()
        return (folder / "made").exists()


def test_the_main_process_goes_first_and_its_failure_is_enough(tmp_path):
    assert together(_in_turn, tmp_path, True) == ["the source is empty\nfill it", "exit 2"]
    assert together(_in_turn, tmp_path, False) == [True, True]


def _predict(world: World, folder: Path):
    model, data = toy(True)
    return predict(model, data, world, 3), gather(world.rank, world)


@pytest.mark.parametrize("size", [2, 3])
def test_every_record_is_predicted_once_by_any_number_of_processes(tmp_path, size):
    model, data = toy(True)
    whole = predict(model, data, World(0, 1, torch.device("cpu")), 3)
    for outputs, ranks in together(_predict, tmp_path, size=size):
        assert np.allclose(outputs, whole, atol=1e-6)
        assert ranks == list(range(size))


@pytest.mark.slow
def test_processes_that_do_not_come_are_missed(monkeypatch):
    monkeypatch.setattr(distributed, "JOIN_TIMEOUT", timedelta(seconds=2))
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    with pytest.raises(ConfigError, match="2 processes were announced, but they did not all meet"):
        distributed.start("cpu")


@pytest.fixture
def bare(monkeypatch):
    """An environment in which nothing launched this process."""
    for name in list(os.environ):
        if name.startswith(("SLURM_", "OMPI_", "PMI_")) or name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
            monkeypatch.delenv(name)
    return monkeypatch


@pytest.mark.slow
def test_torchrun_says_who_is_who(bare, tmp_path):
    (tmp_path / "who.py").write_text("from pipelines.shared.launch import launch\nprint(launch())\n")
    bare.setenv("PYTHONPATH", str(REPOSITORY))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", "who.py"]
    done = run_command(torchrun, PATIENCE, tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == [str(Launch(rank, 2, rank, 2)) for rank in range(2)]


def test_who_launched_this(bare):
    assert launch() == Launch(0, 1, 0, 1)
    assert slurm_job() is None
    assert not requeued()
    steps = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NUM_NODES": "2", "SLURM_PROCID": "3", "SLURM_LOCALID": "1"}
    for name, value in steps.items():
        bare.setenv(name, value)
    assert launch() == Launch(3, 4, 1, 2)
    for name, value in {"WORLD_SIZE": "6", "RANK": "5", "LOCAL_RANK": "2", "LOCAL_WORLD_SIZE": "3"}.items():
        bare.setenv(name, value)
    assert launch() == Launch(5, 6, 2, 3), "torchrun inside srun: torchrun counts"
    bare.delenv("RANK")
    with pytest.raises(ConfigError, match="RANK is not set"):
        launch()


def test_solo_processes_of_mpirun_are_detected(bare):
    bare.setenv("OMPI_COMM_WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="each would run the study alone"):
        launch()


def test_a_slurm_job_keeps_its_identity(bare):
    bare.setenv("SLURM_JOB_ID", "812")
    bare.setenv("SLURM_RESTART_COUNT", "1")
    assert (slurm_job(), requeued()) == ("812", True)
    bare.setenv("SLURM_ARRAY_JOB_ID", "800")
    bare.setenv("SLURM_ARRAY_TASK_ID", "7")
    assert slurm_job() == "800_7"


def test_the_first_host_of_a_step(bare, tmp_path):
    bare.setenv("SLURM_STEP_NODELIST", "alpha,beta")
    assert distributed._first_host() == "alpha"
    tool = tmp_path / "scontrol"
    tool.write_text('#!/bin/sh\n[ "$3" = "node[07-09]" ] && printf "node07\\nnode08\\nnode09\\n"\n')
    tool.chmod(0o755)
    bare.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    bare.setenv("SLURM_STEP_NODELIST", "node[07-09]")
    assert distributed._first_host() == "node07"
