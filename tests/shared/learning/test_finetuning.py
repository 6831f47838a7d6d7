"""Layers with their own rates, a frozen backbone, averaged weights, growing pictures; all of it cut off and resumed."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import timm
import torch
from conftest import compose
from torch import nn
from toy_pictures import ALL, SIDE, PictureNetwork, loss, toy_pictures, train_pictures

from pipelines.shared.config import ModelSection, PictureModelSection
from pipelines.shared.errors import ConfigError
from pipelines.shared.learning import checkpoint, trainer
from pipelines.shared.learning.backbones import build_image_network, create_backbone
from pipelines.shared.learning.dataset import EpochBatches, Loader
from pipelines.shared.learning.finetuning import LastWeights
from pipelines.shared.learning.mixing import side_at
from pipelines.shared.learning.optimization import make_optimizer, make_schedule


class Cut(Exception):
    """The power cut of these tests."""


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(("schedule", "cuts"), [("cosine", [1, 3, 5, 7, 9, 11]), ("plateau", [4, 8, 12])])
def test_the_whole_kit_cut_off_anywhere_ends_alike(tmp_path, trainer_section, monkeypatch, schedule, cuts):
    section = trainer_section(**ALL, sampling="balanced", schedule=schedule, checkpoint_seconds=1e-9)
    whole, history = train_pictures(tmp_path / "whole.pt", section)
    original = checkpoint.save
    for cut in cuts:
        saves = 0

        def save(path, state, cut=cut):
            nonlocal saves
            original(path, state)
            saves += 1
            if saves == cut:
                raise Cut

        monkeypatch.setattr(checkpoint, "save", save)
        with pytest.raises(Cut):
            train_pictures(tmp_path / f"{cut}.pt", section)
        monkeypatch.setattr(checkpoint, "save", original)
        resumed, again = train_pictures(tmp_path / f"{cut}.pt", section)
        assert same(whole, resumed), f"cut after save {cut}"
        assert history == again


@pytest.mark.slow
def test_workers_do_not_change_the_whole_kit(tmp_path, trainer_section):
    none, _ = train_pictures(tmp_path / "a.pt", trainer_section(**ALL, sampling="balanced", workers=0))
    two, _ = train_pictures(tmp_path / "b.pt", trainer_section(**ALL, sampling="balanced", workers=2))
    assert same(none, two)


@pytest.mark.parametrize("key", ["layer_decay", "head_epochs", "mixup", "cutmix", "ema_warmup", "average_epochs"])
def test_every_piece_changes_what_is_learned(tmp_path, trainer_section, key):
    ema = {"ema_decay": 0.8} if key == "ema_warmup" else {}
    before, _ = train_pictures(tmp_path / "a.pt", trainer_section(**ema))
    after, _ = train_pictures(tmp_path / "b.pt", trainer_section(**ema, **{key: ALL[key]}))
    assert not same(before, after)


def test_norms_and_biases_have_no_weight_decay_and_layers_their_rates(trainer_section):
    for decay in (None, 0.5):
        section = trainer_section(weight_decay=0.1, layer_decay=decay, schedule="constant")
        model = PictureNetwork()
        optimizer = make_optimizer(model, section)
        assert make_schedule(optimizer, section, 5) is None
        settings = {id(p): (g["weight_decay"], g["lr"]) for g in optimizer.param_groups for p in g["params"]}
        assert len(settings) == len(list(model.parameters()))
        for name, parameter in model.named_parameters():
            own_decay, rate = settings[id(parameter)]
            assert own_decay == (0.1 if parameter.ndim > 1 else 0.0), name
            deep = 0 if "head" in name or "blocks.1" in name else 1 if "blocks.0" in name else 2
            assert rate == pytest.approx(0.01 * (1 if decay is None else decay**deep)), name


@pytest.mark.parametrize("warmup", [0, 1])
def test_layers_have_their_rates_from_the_first_step_of_a_schedule(trainer_section, warmup):
    section = trainer_section(layer_decay=0.5, warmup_epochs=warmup)
    optimizer = make_optimizer(PictureNetwork(), section)
    schedule = make_schedule(optimizer, section, 5)
    for step in (0, 3, 12):
        if step:
            schedule.step_update(step)
        rates = sorted({group["lr"] for group in optimizer.param_groups})
        assert rates == pytest.approx([rates[2] / 4, rates[2] / 2, rates[2]])


def test_timms_backbones_know_their_layers_and_the_classics_do_not(trainer_section):
    model = nn.Module()
    model.backbone, model.head = timm.create_model("tf_efficientnet_lite0", num_classes=0), nn.Linear(1280, 2)
    rates = {g["lr_scale"] for g in make_optimizer(model, trainer_section(layer_decay=0.75)).param_groups}
    assert len(rates) > 15
    assert max(rates) == 1
    model.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3))
    with pytest.raises(ConfigError, match=r"layer_decay=0.75: this backbone does not say what its layers are"):
        make_optimizer(model, trainer_section(layer_decay=0.75))
    with pytest.raises(ConfigError, match=r"layer_decay=0.75: this network has no backbone"):
        make_optimizer(nn.Linear(2, 2), trainer_section(layer_decay=0.75))


def test_a_frozen_backbone_keeps_weights_and_statistics_then_learns(tmp_path, trainer_section, monkeypatch):
    seen = []
    original = trainer._Training.close_epoch

    def close(self, measured):
        seen.append(copy.deepcopy(self.model))
        original(self, measured)

    monkeypatch.setattr(trainer._Training, "close_epoch", close)
    torch.manual_seed(7)
    start = PictureNetwork()
    train_pictures(tmp_path / "c.pt", trainer_section(epochs=3, head_epochs=2, weight_decay=0.1))
    for after in seen[:2]:
        assert same(start.backbone, after.backbone)
    assert not torch.equal(start.head.weight, seen[0].head.weight)
    assert not torch.equal(seen[0].head.weight, seen[1].head.weight)
    moved = [
        not torch.equal(a, b) for a, b in zip(start.backbone.parameters(), seen[2].backbone.parameters(), strict=True)
    ]
    assert all(moved)


def test_the_last_epoch_is_judged_with_the_mean_of_the_last_weights(tmp_path, trainer_section, monkeypatch):
    ends, kept = [], []
    original = trainer._Training.close_epoch

    def close(self, measured):
        ends.append(copy.deepcopy(self.model.state_dict()))
        kept.append(copy.deepcopy(self.scored.state_dict()))
        original(self, measured)

    monkeypatch.setattr(trainer._Training, "close_epoch", close)
    section = trainer_section(epochs=4, average_epochs=3)
    train_pictures(tmp_path / "c.pt", section)
    for name, _ in PictureNetwork().named_parameters():
        mean = torch.stack([end[name] for end in ends[1:]]).mean(dim=0)
        assert torch.allclose(kept[3][name], mean, atol=1e-6), name
        assert torch.equal(kept[2][name], ends[2][name]), "epochs before the last are judged by themselves"
    by_hand = PictureNetwork()
    by_hand.load_state_dict(kept[3])
    average = LastWeights(by_hand, 0)
    data = toy_pictures(balanced=False)
    batches = [arrays for arrays, _, _ in Loader(data)(EpochBatches(len(data), 4, 1, 4))]
    torch.manual_seed(0)
    average.renew_statistics(by_hand.train(), batches)
    first = by_hand.backbone.stem(torch.cat(batches).permute(0, 3, 1, 2).float() / 255)
    found = kept[3]["backbone.blocks.0.0.running_mean"]
    assert torch.allclose(found, first.mean(dim=(0, 2, 3)), atol=1e-4), "the mean over one epoch's pictures"
    assert torch.allclose(found, average.module.state_dict()["backbone.blocks.0.0.running_mean"])
    assert average.module.backbone.blocks[0][0].momentum == 0.1


def test_a_frozen_part_keeps_its_statistics_when_the_others_are_renewed():
    model = PictureNetwork().train()
    model.backbone.blocks[0][0].running_mean += 3
    model.backbone.blocks[0].eval()
    average = LastWeights(model, 0)
    before = copy.deepcopy(average.module.backbone)
    average.renew_statistics(model, [torch.randint(0, 256, (4, SIDE, SIDE, 3))])
    assert same(before.blocks[0], average.module.backbone.blocks[0])
    assert not same(before.blocks[1], average.module.backbone.blocks[1])


def test_pictures_grow_to_their_size(tmp_path, trainer_section):
    assert [side_at(e, 10, 128, 192) for e in range(10)] == [128, 128, 128, 160, 160, 160, 160, 192, 192, 192]
    assert [side_at(e, 3, 32, 50) for e in range(3)] == [32, 32, 50]
    assert side_at(0, 1, 32, 50) == 50
    model, _ = train_pictures(tmp_path / "a.pt", trainer_section(epochs=3, first_size=32))
    assert np.array_equal(np.unique(model.sides, return_counts=True), [[32, SIDE], [10, 5]])
    with pytest.raises(ConfigError, match=r"first_size=64, but pictures have 48 pixels"):
        train_pictures(tmp_path / "b.pt", trainer_section(first_size=64))


def test_paths_are_dropped_in_training_only():
    keys = {"backbone": "resnet18", "weights": "none", "drop_rate": 0.0, "networks": 1}
    torch.manual_seed(0)
    network = build_image_network(PictureModelSection(**keys, drop_path_rate=0.9), 2)
    for block in network.backbone.layer4:
        nn.init.ones_(block.bn2.weight)  # timm begins with blocks that do nothing
    pictures = torch.randint(0, 256, (4, 32, 32, 3), dtype=torch.uint8)
    assert not torch.equal(network.train()(pictures), network(pictures))
    assert torch.equal(network.eval()(pictures), network(pictures))
    torch.manual_seed(0)
    plain = build_image_network(ModelSection(**keys), 2).eval()
    plain.load_state_dict(network.state_dict())
    assert torch.equal(plain(pictures), network(pictures)), "a finished network is an ordinary one"
    for name in ("vgg11", "alexnet"):
        with pytest.raises(ConfigError, match=rf"drop_path_rate=0.1: {name} has no paths to drop"):
            create_backbone(name, 0.1)


@pytest.mark.parametrize(
    ("study", "overrides", "message"),
    [
        ("skin", ["trainer.average_epochs=2", "trainer.patience=3"], "which epochs are the last is not known"),
        ("skin", ["trainer.head_epochs=9"], "head_epochs=9 of epochs=8"),
        ("skin", ["trainer.ema_warmup=true"], "no moving average to warm up"),
        ("skin", ["trainer.head_epochs=1", "model.weights=none"], "frozen before it has learned anything"),
        ("ecg", ["trainer.mixup=0.2"], r"trainer.mixup=0.2 is for pictures, which this study's records are not"),
        ("head_ct", ["trainer.cutmix=1.0"], "trainer.cutmix=1.0 is for pictures"),
        ("head_ct", ["trainer.first_size=64"], "trainer.first_size=64 is for pictures"),
        ("ecg", ["trainer.head_epochs=1", "model.weights=w.safetensors"], "lacks"),
        ("ecg", ["trainer.layer_decay=0.7"], "is for pretrained backbones, which this study's network lacks"),
    ],
)
def test_what_does_not_go_together_is_refused_at_once(study, overrides, message):
    with pytest.raises(ConfigError, match=message):
        compose(study, *overrides)


def test_the_toy_loss_is_what_it_says():
    """So that the tests above rest on a loss that the pieces change."""
    assert loss(torch.eye(3) * 9, torch.tensor([0.0, 1.0, 2.0])) < 0.01
