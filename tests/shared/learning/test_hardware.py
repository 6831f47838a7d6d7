"""What depends on the machine: devices that may be asked for, and batches that do not fit."""

from __future__ import annotations

import copy
import ctypes

import pytest
import torch

from pipelines.shared.errors import ConfigError, UserError
from pipelines.shared.learning import distributed
from pipelines.shared.learning.distributed import World
from pipelines.shared.learning.hardware import batch_in_memory, keep_freed_memory, loader_workers, uses_bf16
from pipelines.shared.learning.optimization import fused, make_optimizer

ONE = World(0, 1, torch.device("cpu"))


@pytest.mark.parametrize(
    "failure",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("MPS backend out of memory"),
    ],
)
def test_a_batch_that_does_not_fit_names_the_key_to_change(failure, trainer_section):
    with pytest.raises(UserError) as caught, batch_in_memory(trainer_section(batch_size=48, accumulate=2), ONE):
        raise failure
    assert caught.value.problem == "trainer.batch_size=48 does not fit into the memory of cpu."
    assert "trainer.batch_size=24" in caught.value.remedy
    assert "trainer.accumulate=4" in caught.value.remedy
    with pytest.raises(UserError) as caught, batch_in_memory(trainer_section(batch_size=1), ONE):
        raise failure
    assert "batch_size" not in caught.value.remedy


def test_other_failures_stay_what_they_are(trainer_section):
    with pytest.raises(RuntimeError, match="shapes"), batch_in_memory(trainer_section(), ONE):
        raise RuntimeError("shapes cannot be multiplied")


def test_an_allocation_that_really_fails_is_recognised(trainer_section):
    with pytest.raises(UserError), batch_in_memory(trainer_section(batch_size=8), ONE):
        torch.empty(2**60)


def test_an_apple_gpu_is_used_only_if_it_is_asked_for(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="no Apple GPU"):
        distributed._device("mps", 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert distributed._device("mps", 0).type == "mps"
    assert distributed._device("auto", 0).type == "cpu"
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(ConfigError, match="one process"):
        distributed._device("mps", 0)
    with pytest.raises(ConfigError, match="xla is not supported"):
        distributed._device("xla", 0)


def test_defaults_by_device(trainer_section):
    gpu, apple = World(0, 1, torch.device("cuda", 0)), World(0, 1, torch.device("mps"))
    auto = trainer_section(precision="auto", workers=None)
    assert [uses_bf16(auto, world) for world in (ONE, gpu, apple)] == [False, True, False]
    assert loader_workers(auto, ONE) == 0
    assert 1 <= loader_workers(auto, gpu) <= 8


def test_torchs_own_optimisers_are_fused_where_it_can(trainer_section):
    assert make_optimizer(torch.nn.Linear(2, 2), trainer_section()).defaults["fused"]
    for device, own in (("cpu", {"fused": True}), ("cuda:0", {"fused": True}), ("mps", {})):
        model = torch.nn.Linear(2, 2, device="meta")
        model.parameters = lambda d=device: [type("Parameter", (), {"device": torch.device(d)})]
        asked = {name: fused(model, trainer_section(optimizer=name)) for name in ("adamw", "adam", "sgd", "rmsproptf")}
        assert asked == {"adamw": own, "adam": own, "sgd": own, "rmsproptf": {}}


def test_freed_memory_is_kept_on_a_cpu_where_the_c_library_can(monkeypatch):
    set_to = {}

    class Glibc:
        def __init__(self, name):
            assert name == "libc.so.6"

        def mallopt(self, what, value):
            set_to[what] = value

    monkeypatch.setattr(ctypes, "CDLL", Glibc)
    keep_freed_memory(torch.device("cuda", 0))
    assert set_to == {}
    keep_freed_memory(torch.device("cpu"))
    assert set_to == {-4: 0, -1: 2**31 - 1}  # M_MMAP_MAX, M_TRIM_THRESHOLD

    def lacking(name):
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", lacking)
    keep_freed_memory(torch.device("cpu"))


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
def test_a_fused_step_is_the_plain_one(name, trainer_section):
    """torch's fused loops go through memory as it lies: gradients must lie as their channels-last weights do."""
    torch.manual_seed(0)
    first = torch.nn.Conv2d(3, 8, 3, bias=False)  # before batch norm its gradient would be nothing but rounding
    layers = [first, torch.nn.BatchNorm2d(8), torch.nn.Conv2d(8, 8, 3, groups=8), torch.nn.Flatten()]
    network = torch.nn.Sequential(*layers, torch.nn.Linear(8 * 16, 2)).to(memory_format=torch.channels_last)
    other = copy.deepcopy(network)
    section = trainer_section(optimizer=name, learning_rate=1e-2)
    both = [
        (network, make_optimizer(network, section)),
        (other, make_optimizer(other, section.model_copy(update={"optimizer_args": {"fused": False}}))),
    ]
    assert [bool(optimizer.defaults["fused"]) for _, optimizer in both] == [True, False]
    for _ in range(3):
        pictures = torch.randn(4, 3, 8, 8).contiguous(memory_format=torch.channels_last)
        for model, optimizer in both:
            model(pictures).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    for mine, theirs in zip(network.parameters(), other.parameters(), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-6)
