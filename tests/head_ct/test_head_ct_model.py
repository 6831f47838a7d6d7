"""The networks: any number of slices, missing ones, inflation, augmentation; and the phantom that they learn from."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import compose, phantom_settings

from pipelines.head_ct import model
from pipelines.head_ct.learner import HeadCtLearner
from pipelines.head_ct.metrics import (
    SILVER,
    TASKS,
    choose_points,
    gap_metrics,
    headline_task,
    labeller_metrics,
    predict_columns,
    untaught_tasks,
)
from pipelines.head_ct.phantom.anatomy import Finding, draw_head, hounsfield
from pipelines.head_ct.phantom.dataset import make_study
from pipelines.head_ct.pseudonyms import Names
from pipelines.head_ct.scoring import Scorer
from pipelines.head_ct.series import Kernels, choose, scan
from pipelines.head_ct.volumes import NO_DATA, load
from pipelines.shared.errors import ConfigError
from pipelines.shared.learning.losses import masked_binary_cross_entropy
from pipelines.shared.stats.bootstrap import Bootstrap
from pipelines.shared.stats.probabilities import sigmoid
from pipelines.shared.study import Data
from pipelines.shared.untaught import NO_LABEL, NO_RECORD

SMALL = ["preprocess.size=32", "preprocess.slices=6", "model.channels=8"]


def read_mask(file):
    """A truth mask, bool (slices, rows, columns)."""
    with np.load(file) as content:
        shape = tuple(content["shape"])
        return np.unpackbits(content["mask"])[: int(np.prod(shape))].astype(bool).reshape(shape)


def volumes(n=2, slices=6, size=32, seed=0):
    return np.random.default_rng(seed).integers(-100, 120, (n, slices, size, size)).astype(np.int16)


def network(*changes):
    torch.manual_seed(0)
    return HeadCtLearner(compose("head_ct", *SMALL, *changes)).build().eval()


@torch.inference_mode()
def test_any_number_of_slices_and_missing_ones_change_nothing_else():
    net = network()
    one = volumes(1)
    for slices in (1, 3, 6, 9):
        assert net(torch.from_numpy(volumes(2, slices))).shape == (2, 3)
    padded = np.full((1, 9, 32, 32), NO_DATA, np.int16)
    padded[:, :6] = one
    # What lies below a head and is missing counts neither in the convolutions nor in the pooling.
    assert torch.allclose(net(torch.from_numpy(one)), net(torch.from_numpy(padded)), atol=1e-4)
    gap = one.copy()
    gap[:, 2] = NO_DATA
    assert not torch.allclose(net(torch.from_numpy(one)), net(torch.from_numpy(gap)), atol=1e-4)


@torch.inference_mode()
def test_a_study_does_not_depend_on_its_neighbours_in_a_batch():
    net = network()
    both = volumes(2)
    both[1, 3:] = NO_DATA
    alone = torch.cat([net(torch.from_numpy(v[None])) for v in both])
    assert torch.allclose(net(torch.from_numpy(both)), alone, atol=1e-4)


@pytest.mark.slow
@torch.inference_mode()
def test_an_inflated_network_sees_in_equal_slices_what_the_flat_one_sees():
    import timm

    torch.manual_seed(0)
    flat = timm.create_model("resnet18", pretrained=False, num_classes=0).eval()
    picture = torch.randn(1, 3, 32, 32)
    expected = flat.forward_features(picture)
    # Padding with zeros reaches the middle of a short stack; a long one has a middle of its own.
    found = model.inflate(flat).eval()
    stack = found.forward_features(picture[:, :, None].expand(1, 3, 272, 32, 32))
    assert torch.allclose(stack[:, :, stack.shape[2] // 2], expected, atol=1e-3)


@torch.inference_mode()
def test_what_is_exported_answers_the_same_with_missing_slices():
    """It shows missing slices to the backbone as well; their maps count nowhere."""
    net = network()
    stack = volumes(3)
    stack[0, 2], stack[1, [0, 5]], stack[2, 1:] = NO_DATA, NO_DATA, NO_DATA
    one, other = torch.from_numpy(stack), model.exportable(net).eval()
    assert torch.allclose(net(one), other(one), atol=1e-5)


@pytest.mark.slow
def test_a_backbone_without_levels_is_refused():
    with pytest.raises(ConfigError, match="does not give the maps"):
        network("model.backbone=alexnet", "model.weights=none")


def test_only_resnets_can_be_inflated():
    with pytest.raises(ConfigError, match="cannot be inflated"):
        network("model.kind=volume")


@pytest.mark.slow
def test_titano2018_composes_and_trains_one_step():
    config = compose(
        "head_ct", "experiment=titano2018", "model.weights=none", "preprocess.size=64", "preprocess.slices=8"
    )
    assert config.model.backbone == "resnet50"
    assert config.model.kind == "volume"
    learner = HeadCtLearner(config)
    net, loss = learner.build(), learner.loss()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    before = net.head.weight.detach().clone()
    value = loss(net(torch.from_numpy(volumes(2, 8, 64))), torch.tensor([[1.0, 0, 0], [0, 0, float("nan")]]))
    value.backward()
    optimizer.step()
    assert torch.isfinite(value)
    assert not torch.equal(before, net.head.weight)
    assert all(p.grad is not None for p in net.parameters())
    again = learner.rebuild({"architecture": learner.architecture(net)})
    again.load_state_dict(net.state_dict())


@pytest.mark.slow
def test_every_parameter_of_the_default_is_trained():
    net = network().train()
    masked_binary_cross_entropy(net(torch.from_numpy(volumes())), torch.ones(2, 3)).backward()
    assert all(p.grad is not None for p in net.parameters())
    frozen = network("model.freeze=true").train()
    masked_binary_cross_entropy(frozen(torch.from_numpy(volumes())), torch.ones(2, 3)).backward()
    assert all(p.grad is None for p in frozen.backbone.parameters())
    assert not frozen.backbone.training


def test_importance_of_slices_is_what_leaving_them_out_does():
    net = network()
    scorer = Scorer([net], torch.device("cpu"))
    volume = volumes(1)[0]
    volume[4] = NO_DATA
    found = scorer.importance(volume)
    assert found[4] == -np.inf
    for k in (0, 3):
        without = volume.copy()
        without[k] = NO_DATA
        expected = scorer.logits(net, volume[None])[0, 0] - scorer.logits(net, without[None])[0, 0]
        assert found[k] == pytest.approx(expected, abs=1e-3)
    single = np.full_like(volume, NO_DATA)
    single[2] = volume[2]
    assert np.argmax(scorer.importance(single)) == 2


def test_augmentation_is_a_function_of_its_seed_and_keeps_the_gaps():
    change = HeadCtLearner(compose("head_ct", *SMALL)).augment()
    volume = volumes(1)[0]
    volume[5] = NO_DATA
    a, b, c = change(volume, 1), change(volume, 1), change(volume, 2)
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)
    assert (a[5] == NO_DATA).all()
    assert a.dtype == np.int16
    none = [f"augment.{k}=0" for k in ("mirror", "shift", "rotate", "noise", "offset", "lost_slices")]
    assert np.array_equal(HeadCtLearner(compose("head_ct", *SMALL, *none)).augment()(volume, 5), volume)
    always = HeadCtLearner(compose("head_ct", *SMALL, *none, "augment.lost_slices=0.99")).augment()
    assert (always(volume, 3) != NO_DATA).any()


def test_targets_are_silver_and_gold_where_there_is_no_report():
    records = pd.DataFrame(
        {"silver_4": [1, np.nan], "silver_8": [0, np.nan], "silver_10": [0, np.nan], "critical": [0, 1]}
    )
    found = HeadCtLearner(compose("head_ct")).targets(records)
    assert found[0].tolist() == [1, 0, 0]
    assert found[1][0] == 1
    assert np.isnan(found[1][1:]).all()


# --- metrics ---


def test_points_are_chosen_on_silver_and_gaps_are_differences():
    rng = np.random.default_rng(0)
    n = 120
    silver = rng.integers(0, 2, n).astype(float)
    gold = np.where(rng.random(n) < 0.2, 1 - silver, silver)
    logits = np.stack([silver * 2 + rng.normal(size=n)] * 3, axis=1)
    table = predict_columns(sigmoid(logits)).assign(
        group=[str(i) for i in range(n)], critical=gold, silver_4=silver, silver_8=silver, silver_10=0.0
    )
    config = compose("head_ct")
    points = choose_points(table.assign(critical=np.nan), config)
    assert [p["task"] for p in points] == ["silver_4", "silver_4"]
    assert [p["alarm"] for p in points] == [True, False]
    called = table["p_at_least_4"] >= points[0]["threshold"]
    assert (~called[silver == 0]).mean() >= 0.9
    found = gap_metrics(table, Bootstrap(200, 0, 0.95))
    value = found["test.gap_4.silver"].value - found["test.gap_4.gold"].value
    assert found["test.gap_4.difference"].value == pytest.approx(value)
    assert found["test.gap_4.difference"].low > 0
    assert found["test.gap_10.difference"].value is None
    assert found["test.gap_10.difference"].reason
    assert choose_points(table.assign(critical=np.nan, silver_4=1.0), config) == []


def test_thresholds_that_no_report_taught_have_no_score():
    """Sources without reports teach `at_least_4` from their own label, and the others not at all."""
    records = pd.DataFrame({"critical": [0.0, 1, 0, 1], "split": "train"}).assign(**dict.fromkeys(SILVER, np.nan))
    config = compose("head_ct")

    def taught_by(table):
        return HeadCtLearner.from_data(config, Data(None, table, None, {}))

    learner = taught_by(records)
    assert learner.untaught == {"at_least_8": NO_LABEL, "at_least_10": NO_LABEL}
    said = learner.columns(learner.probabilities(np.zeros((2, 3), np.float32)))
    assert said["p_at_least_4"].tolist() == [0.5, 0.5]
    assert said[["p_at_least_8", "p_at_least_10"]].isna().all(axis=None)
    reports = records.assign(silver_4=records["critical"], silver_8=records["critical"], silver_10=0.0)
    assert taught_by(reports).untaught == {"at_least_10": NO_RECORD}, "reports, but none with ten concepts"

    answer = Scorer([network().eval()], torch.device("cpu"), probabilities=learner.probabilities)
    assert np.isnan(answer.score(volumes(1)[0])).tolist() == [False, True, True]

    rng, n = np.random.default_rng(0), 60
    truth = rng.integers(0, 2, n).astype(float)
    p = sigmoid(np.stack([truth + rng.normal(size=n)] * 3, axis=1))
    p[:, 1:] = np.nan
    table = predict_columns(p).assign(group=range(n), critical=truth, **dict.fromkeys(SILVER, truth))
    why, bootstrap = untaught_tasks(learner.untaught), Bootstrap(100, 0, 0.95)
    assert why == {"silver_8": NO_LABEL, "silver_10": NO_LABEL}
    for task in ("critical", *SILVER):
        auroc = TASKS[task].metrics(table, "test", bootstrap, untaught=why.get(task))[f"test.{task}.auroc"]
        assert (auroc.value is None, auroc.reason) == (task in why, why.get(task))
    gaps = gap_metrics(table, bootstrap, why)
    assert {key for key, e in gaps.items() if e.reason == NO_LABEL} == {
        f"test.gap_{t}.{k}" for t in (8, 10) for k in ("silver", "gold", "difference")
    }
    assert gaps["test.gap_4.gold"].value is not None
    blind = table.assign(p_at_least_4=np.nan)
    assert choose_points(blind, config) == []
    assert headline_task(table).name == "critical"


def test_labeller_metrics_count_by_hand():
    rows = [("a", "x", "present", "tp", 1), ("a", "y", "present", "fp", 1), ("b", "x", "present", "fn", 1),
            ("b", "z", "present", "fn", 0), ("c", "x", "absent", "tp", 1)]  # fmt: skip
    table = pd.DataFrame(rows, columns=["id", "concept", "status", "kind", "known"])
    found = labeller_metrics(table, Bootstrap(100, 0, 0.95))
    assert found["labeller.present.precision"].value == 0.5
    assert found["labeller.present.recall"].value == 0.5
    assert found["labeller.present.recall_unseen"].value == 0
    assert found["labeller.all.precision"].value == pytest.approx(2 / 3)
    assert found["labeller.historical.recall"].value is None


# --- the phantom ---


def test_the_phantoms_findings_are_where_its_masks_say():
    axis = np.linspace(-95, 95, 60)
    z, y, x = np.meshgrid(axis[10:-10], axis, axis, indexing="ij")
    for kind, denser in (("epidural", True), ("subdural", True), ("intraparenchymal", True), ("infarct", False)):
        place = (1.0, 0.1, 0.2) if kind != "intraparenchymal" else (30.0, 0.0, 10.0)
        head = draw_head(np.random.default_rng(1), [Finding(kind, 0.3, 1, place)])
        hu, mask = hounsfield(head, x, y, z, 1.0)
        plain, _ = hounsfield(draw_head(np.random.default_rng(1), []), x, y, z, 1.0)
        assert 20 < mask.sum() < 0.2 * mask.size, kind
        change = (hu - plain)[mask].mean()
        assert change > 10 if denser else change < -3, kind
        assert (x[mask] > 0).mean() > 0.9, kind


@pytest.mark.slow
def test_a_phantom_study_is_read_back_as_it_was_made(tmp_path):
    settings = phantom_settings("head_ct", studies=40, gold=12)
    (tmp_path / "truth" / "masks").mkdir(parents=True)
    rows = [make_study(i, tmp_path, settings) for i in range(6)]
    slices, faults = scan(tmp_path / "dicom", Names("x"))
    studies, left = choose(slices, faults, Kernels(["H3.*", "STANDARD"], ["H[67].*"]), 5.0)
    assert len(studies) == 6
    assert not any(f.faulty for f in left)
    by_accession = {Names("x").of("ac", r["truth"]["accession"]): r for r in rows}
    for study in studies:
        row = by_accession[study.stack.accession]
        volume = load(study.stack, tmp_path / "dicom")
        assert len(volume.hu) == row["truth"]["slices"]
        mask = read_mask(tmp_path / "truth" / "masks" / f"{row['truth']['accession']}.npz")
        assert mask.shape == volume.hu.shape
        assert mask.any() == (row["truth"]["critical"] == 1)
    again = make_study(3, _fresh(tmp_path / "again"), settings)
    assert again == rows[3]
    first, second = (sorted((f / "dicom" / "S00003").rglob("*.dcm")) for f in (tmp_path, tmp_path / "again"))
    assert [f.read_bytes() for f in first] == [f.read_bytes() for f in second]


def _fresh(root):
    (root / "truth" / "masks").mkdir(parents=True)
    return root
