"""The network's three numbers, what the loss counts, and the paper's recipe for one step."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import compose, run_on_cpu
from torch import nn

from pipelines.ecg.architecture import Architecture
from pipelines.ecg.augmentation import change, filtered
from pipelines.ecg.config import CLASSES, AugmentSection
from pipelines.ecg.labels import CODES, record_words
from pipelines.ecg.learner import EcgLearner, repeats, trained_labels
from pipelines.ecg.model import EcgNetwork
from pipelines.shared.errors import ConfigError, RunError, WeightsError
from pipelines.shared.stats.probabilities import softmax

RECORD = {name: i for i, name in enumerate(record_words(compose("ecg").labels))}


def network(filters=4, **changes):
    facts = {"filters": filters, "drop_rate": 0.0, "mean": 0.0, "std": 1.0, "trained": CLASSES, "classes": CLASSES}
    torch.manual_seed(0)
    return EcgNetwork(Architecture(**(facts | changes)))


def test_the_papers_three_numbers():
    full = network(32)
    assert sum(isinstance(layer, nn.Conv1d) for layer in full.modules()) == 33
    assert sum(p.numel() for p in full.parameters() if p.requires_grad) == 10_468_204
    full.eval()
    with torch.inference_mode():
        assert full(torch.zeros(1, 5888)).shape == (1, 23, 12)


@pytest.mark.parametrize("steps", [1, 2, 7, 23, 48])
def test_any_multiple_of_256_goes_through_and_nothing_else(steps):
    small = network().eval()
    with torch.inference_mode():
        assert small(torch.randn(2, 256 * steps)).shape == (2, steps, 12)
        with pytest.raises(ValueError, match="no multiple of 256"):
            small(torch.randn(2, 256 * steps + 1))


def test_pre_activation_but_for_the_first_block_and_dropout_before_the_second_convolution():
    blocks = network(drop_rate=0.2).blocks
    assert isinstance(blocks[0].before, nn.Identity)
    assert [type(layer) for layer in blocks[1].before] == [nn.BatchNorm1d, nn.ReLU]
    assert [type(layer) for layer in blocks[1].between] == [nn.BatchNorm1d, nn.ReLU, nn.Dropout]
    assert [b.stride for b in blocks] == [1, 2] * 8
    assert [b.second.out_channels for b in blocks] == [4] * 4 + [8] * 4 + [16] * 4 + [32] * 4


def codes(steps, label=-1):
    return torch.tensor([[*(CODES.get(s, s) for s in steps), label]], dtype=torch.float32)


def test_masked_and_padded_steps_count_in_no_loss():
    torch.manual_seed(1)
    scores = torch.randn(1, 4, 12, requires_grad=True)
    loss = EcgLearner(compose("ecg")).loss()
    value = loss(scores, codes(["AF", "?", "VT", "."]))
    log_p = torch.log_softmax(scores, -1)[0]
    assert value.item() == pytest.approx(-(log_p[0, 0] + log_p[2, CODES["VT"]]).item() / 2, abs=1e-6)
    value.backward()
    assert scores.grad[0, [1, 3]].abs().max() == 0
    nothing = loss(scores, codes(["?", ".", "?", "."]))
    assert nothing.item() == 0
    nothing.backward()


def test_a_recordings_label_is_that_of_the_mean_probability_of_its_classes():
    torch.manual_seed(2)
    scores = torch.randn(1, 4, 12)
    loss = EcgLearner(compose("ecg")).loss()
    p = torch.softmax(scores, -1)[0]
    real = p[:3].mean(dim=0)  # the fourth step is padding
    af = loss(scores, codes(["-", "-", "-", "."], RECORD["A"])).item()
    assert af == pytest.approx(-np.log(real[CODES["AF"]].item()), abs=1e-6)
    other = loss(scores, codes(["-", "-", "-", "."], RECORD["O"])).item()
    rest = 1 - sum(real[CODES[name]].item() for name in ("SINUS", "AF", "NOISE"))
    assert other == pytest.approx(-np.log(rest), abs=1e-5), "O is a constraint on a sum"


def test_labels_of_steps_and_of_recordings_are_weighed_by_their_steps():
    torch.manual_seed(3)
    scores = torch.randn(2, 3, 12)
    loss = EcgLearner(compose("ecg")).loss()
    first, second = codes(["AF", "AF", "?"]), codes(["-", "-", "-"], RECORD["N"])
    one, two = loss(scores[:1], first).item(), loss(scores[1:], second).item()
    both = loss(scores, torch.cat([first, second])).item()
    assert both == pytest.approx((2 * one + 3 * two) / 5, abs=1e-6)


def test_a_class_that_training_never_saw_has_no_probability():
    seen = [c for c in CLASSES if c not in ("VT", "EAR")]
    part = network(trained=seen, classes=seen).eval()
    with torch.inference_mode():
        p = softmax(part(torch.randn(1, 512)).numpy())
    assert p[..., [CODES["VT"], CODES["EAR"]]].max() == 0
    assert p.sum(axis=-1) == pytest.approx(1)
    config = compose("ecg")
    built = EcgLearner(config, trained=["N", "A", "O", "~"]).build().architecture
    assert built.classes == CLASSES, "the classes within O are answered, as parts of a sum"
    assert built.trained == ["N", "A", "O", "~"]


def test_a_network_is_rebuilt_from_its_description(tmp_path):
    first = network(mean=0.3, std=2.0).eval()
    facts = json.loads(json.dumps({"architecture": EcgLearner(compose("ecg")).architecture(first)}))
    second = EcgLearner.rebuild(facts).eval()
    second.load_state_dict(first.state_dict())
    x = torch.randn(2, 512)
    assert torch.equal(first(x), second(x))


def test_a_description_that_lacks_a_key_is_named():
    facts = {"architecture": asdict(network().architecture)}
    facts["architecture"]["trainde"] = facts["architecture"].pop("trained")
    for read in (lambda: EcgLearner.from_model(compose("ecg"), facts), lambda: EcgLearner.rebuild(facts)):
        with pytest.raises(RunError, match=r"architecture cannot be built: .*trainde"):
            read()


def test_weights_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="Allowed: resnet1d_33"):
        EcgLearner(compose("ecg", "model.backbone=resnet18")).build()
    with pytest.raises(WeightsError, match="cannot be used"):
        EcgLearner(compose("ecg", f"model.weights={tmp_path / 'none.safetensors'}")).build()


def test_augmentation_is_a_function_of_its_seed_and_leaves_time_alone():
    change = EcgLearner(compose("ecg")).augment()
    window = np.sin(np.arange(5888) / 20).astype(np.float32)
    assert np.array_equal(change(window, 7), change(window, 7))
    assert not np.array_equal(change(window, 7), change(window, 8))
    assert abs(np.corrcoef(window, change(window, 7))[0, 1]) > 0.9
    quiet = EcgLearner(compose("ecg", "augment={gain: 0.0, noise: 0.0, wander: 0.0, flip: 0.0}")).augment()
    assert np.allclose(quiet(window, 7), window, atol=1e-6)


def augmented(window, seed, **keys):
    nothing = {"gain": 0.0, "noise": 0.0, "wander": 0.0, "flip": 0.0}
    return change(window, seed, AugmentSection(**nothing | keys))


def test_windows_of_other_rates_places_and_devices():
    time = np.arange(4096) / 200
    beats = (np.sin(2 * np.pi * 1.0 * time) ** 21).astype(np.float32)  # one narrow beat a second
    assert np.allclose(augmented(beats, 3), beats, atol=1e-6)
    assert np.allclose(augmented(beats, 3, flip=1.0), 2 * beats.mean() - beats, atol=1e-5)
    rates = []
    for seed in range(12):
        faster = augmented(beats, seed, speed=0.1)
        assert faster.shape == beats.shape
        assert faster.dtype == np.float32
        spectrum = np.abs(np.fft.rfft(faster, 1 << 17))
        low = int(0.5 * (1 << 17) / 200)
        rates.append((low + spectrum[low : 3 * low].argmax()) * 200 / (1 << 17))
    assert 0.89 < min(rates) < 0.95
    assert 1.05 < max(rates) < 1.11
    moved = augmented(beats, 5, shift=0.5)
    lags = np.correlate(moved[1024:3072], beats[900:3196], "valid")
    assert 0 < abs(int(lags.argmax()) - 124) <= 100, "by at most half a second"


def test_another_devices_filters_take_wander_and_noise():
    time = np.arange(4096) / 200
    slow, middle, fast = (np.sin(2 * np.pi * f * time) for f in (0.05, 10.0, 95.0))
    for wave, lowest, highest in ((slow, 0.0, 0.8), (middle, 0.88, 1.01), (fast, 0.0, 0.75)):
        left = filtered(wave + 3, 0.1, 40.0 if wave is not middle else 60.0)
        assert left.mean() == pytest.approx(wave.mean() + 3, abs=1e-6)
        assert lowest <= left.std() / wave.std() <= highest
    windows = [augmented((slow + fast).astype(np.float32), seed, band=0.5) for seed in range(20)]
    untouched = sum(np.allclose(w, slow + fast, atol=1e-5) for w in windows)
    assert 4 <= untouched <= 16


def test_balanced_sampling_goes_by_the_rarest_label_of_a_window():
    texts = ["SINUS:23"] * 5 + ["SINUS:20 AF:3"] * 3 + ["AF:20 VT:3", "-:23", "?:23"]
    table = pd.DataFrame({"rhythms": texts, "record_label": [None] * 10 + ["O"]})
    strata = EcgLearner.strata(None, table)
    assert len(set(strata[:5])) == len(set(strata[5:8])) == 1
    assert strata[9] == -1
    assert len({strata[0], strata[5], strata[8], strata[9], strata[10]}) == 5


def test_rare_rhythms_are_not_shown_more_often_twice_over():
    with pytest.raises(ConfigError, match=r"sampling.most=4 would both show rare rhythms more often"):
        compose("ecg", "trainer.sampling=balanced")
    assert compose("ecg", "trainer.sampling=balanced", "sampling.most=1").trainer.sampling == "balanced"


def test_rare_rhythms_are_repeated():
    texts = ["SINUS:23"] * 64 + ["AF:23"] * 16 + ["VT:23"] * 4
    table = pd.DataFrame({"rhythms": texts, "record_label": None})
    shown = repeats(table, 8)
    assert set(shown[:80]) == {1}
    assert set(shown[80:]) == {2}, "a quarter as many windows as the median rhythm has: twice, the root"
    assert set(repeats(table, 1)) == {1}
    assert trained_labels(pd.DataFrame({"rhythms": ["VT:3 ?:1", "-:4"], "record_label": [None, "O"]})) == [
        "VT",
        "O",
    ]


def test_the_recipe_is_the_papers():
    config = compose("ecg", "experiment=hannun2019")
    trainer = config.trainer
    assert (config.model.filters, config.model.drop_rate, config.preprocess.scale) == (32, 0.2, "global")
    assert (trainer.optimizer, trainer.learning_rate, trainer.batch_size) == ("adam", 0.001, 128)
    assert (trainer.schedule, trainer.decay_rate, trainer.decay_epochs) == ("plateau", 0.1, 1)
    assert (trainer.clip_norm, trainer.patience, trainer.monitor) == (1.0, 8, "val_loss")
    assert config.split.val == 0.1
    assert config.sampling.most > 1


@pytest.mark.slow
def test_it_trains_one_step(tmp_path):
    from pipelines.ecg.study import STUDY
    from pipelines.shared.data.assemble import training_data
    from pipelines.shared.run_folder import RunFolder

    config = compose(
        "ecg", "experiment=hannun2019", "trainer.epochs=1", "trainer.max_steps=1", "trainer.batch_size=4",
        "data.phantom.patients=48", "trainer.device=cpu", f"cache.dir={tmp_path / 'cache'}", "split.train=0.6",
        "split.val=0.2", "split.test=0.2",
    )  # fmt: skip
    data, folder = training_data(STUDY, config), RunFolder(tmp_path / "run")
    STUDY.method(config).fit(run_on_cpu(STUDY, config, folder), data)
    facts = json.loads((folder.network("network") / "model.json").read_text())["architecture"]
    arrays = np.stack([data.prepared.array(int(i)) for i in data.positions("train")]).astype(np.float64)
    assert facts["mean"] == pytest.approx(arrays.mean(), abs=1e-6)
    assert facts["std"] == pytest.approx(arrays.std(), rel=1e-6)
    assert facts["filters"] == 32
    table = pd.read_parquet(folder.predictions("test"))
    test = data.records[data.records["split"] == "test"]
    assert len(table) == 23 * len(test)
    assert not table["id"].str.contains("#").any(), "repeats are for training only"
