"""The patch network on regions, heatmaps on any slide, and the paper's recipe for one step."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import compose, phantom_settings, toy_prepared

from pipelines.camelyon import model
from pipelines.camelyon.heatmap import Heatmap, is_dense, overlay, read_heatmap, score_slide, write_heatmap
from pipelines.camelyon.learner import PatchLearner
from pipelines.camelyon.metrics import choose_points, predict_columns, scored_again
from pipelines.camelyon.patches import read_patch
from pipelines.camelyon.phantom.dataset import make_slide, write_pyramid
from pipelines.camelyon.slides import Slide
from pipelines.camelyon.tissue import Tissue, find_tissue
from pipelines.shared.errors import ConfigError, RunError
from pipelines.shared.stats.probabilities import sigmoid

CPU = torch.device("cpu")


def network(*changes):
    torch.manual_seed(0)
    net = PatchLearner(compose("camelyon", "model.weights=none", "model.channels=16", *changes)).build()
    net.train()
    with torch.no_grad():  # running statistics of something like tissue, so that outputs differ
        for seed in range(3):
            net(torch.from_numpy(np.random.default_rng(seed).integers(60, 255, (8, 64, 64, 3), np.uint8)))
    return net.eval()


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    root = tmp_path_factory.mktemp("slide")
    settings = phantom_settings("camelyon", slides=12, test=4, smallest=1536, largest=1536)
    make_slide(0, root, settings)
    return Slide(root / "training/tumor/Tumor_001.tif")


def heatmap_section(**changes):
    return compose("camelyon").heatmap.model_copy(update=changes)


def whole(slide):
    return Tissue(np.ones((10, 10), bool), (slide.properties.width / 10, slide.properties.height / 10))


def test_a_backbone_without_maps_is_refused():
    from pipelines.shared.learning.backbones import create_backbone

    plan = model.Plan("lenet", None, 0, 0.0, 64, [0.5] * 3, [0.5] * 3)
    with pytest.raises(ConfigError, match="does not give maps"):
        model.PatchNetwork(plan, create_backbone("lenet"))


@pytest.mark.slow
def test_blocks_and_their_size_change_nothing(slide):
    net, tissue = network(), find_tissue(slide, compose("camelyon").tissue)
    one = score_slide(slide, tissue, net, 1.0, heatmap_section(block=1024), CPU)
    many = score_slide(slide, tissue, net, 1.0, heatmap_section(block=128), CPU)
    assert (one.tissue == many.tissue).all()
    assert 0 < one.tissue.mean() < 1
    # Reading at another corner rounds to another pixel of the level: that is all that differs.
    assert np.nanmax(np.abs(one.values - many.values)) < 0.03
    assert np.nanmean(np.abs(one.values - many.values)) < 0.005


@pytest.mark.slow
def test_a_region_is_scored_as_its_patches_are_but_for_their_borders(slide):
    net = network()
    dense = score_slide(slide, whole(slide), net, 1.0, heatmap_section(), CPU).values
    patchwise = score_slide(slide, whole(slide), net, 1.0, heatmap_section(patchwise=True), CPU)
    assert np.corrcoef(dense.ravel(), patchwise.values.ravel())[0, 1] > 0.8
    r, c = 9, 11  # one cell, read by itself
    x, y = (c + 0.5) * patchwise.stride, (r + 0.5) * patchwise.stride
    alone = torch.sigmoid(net(torch.from_numpy(read_patch(slide, x, y, 1.0, 64))[None])).item()
    assert alone == pytest.approx(patchwise.values[r, c], abs=0.03)


@torch.inference_mode()
def test_inside_a_large_patch_dense_and_patch_scores_are_the_same_sums():
    net = network()
    picture = torch.from_numpy(np.random.default_rng(1).integers(0, 255, (1, 192, 192, 3), np.uint8))
    maps = net.maps(picture)
    expected = net.head(maps[:, :, 8:16, 8:16].mean(dim=(2, 3)))[0, 0]  # cells 8 to 15: pixels 64 to 127
    found = net.dense(picture, 64, 64)
    assert found.shape == (1, 1, 1)
    assert found[0, 0, 0].item() == pytest.approx(expected.item(), abs=1e-5)


@pytest.mark.slow
@torch.inference_mode()
def test_the_middle_of_a_larger_picture_is_scored():
    net = network()
    picture = torch.from_numpy(np.random.default_rng(1).integers(0, 255, (2, 72, 72, 3), np.uint8))
    assert torch.allclose(net(picture), net(picture[:, 4:68, 4:68]), atol=1e-5)


@pytest.mark.slow
def test_strides_that_do_not_fit_are_refused_and_others_go_by_patches():
    net = network()
    assert net.reduction == 8
    assert is_dense(net, heatmap_section(stride=24))
    assert not is_dense(net, heatmap_section(stride=20, patchwise=True))
    with pytest.raises(ConfigError, match=r"heatmap\.stride=20 is no multiple of 8"):
        is_dense(net, heatmap_section(stride=20))


@pytest.mark.slow
def test_slides_of_one_level_and_of_many_have_the_same_heatmap(tmp_path):
    from tifffile import imwrite

    rng = np.random.default_rng(0)
    half = np.repeat(np.repeat(rng.integers(60, 250, (60, 60, 3), np.uint8), 8, 0), 8, 1)
    write_pyramid(tmp_path / "many.tif", half, 0.25, quality=98)
    single = Slide(tmp_path / "many.tif").read(0, 0, 960, 960, 0.25)
    imwrite(tmp_path / "one.tif", single, tile=(256, 256), photometric="rgb", metadata=None, resolution=(4e4, 4e4),
            resolutionunit="CENTIMETER")  # fmt: skip
    slides = [Slide(tmp_path / f"{name}.tif") for name in ("many", "one")]
    assert [len(s.properties.downsamples) for s in slides] == [2, 1]
    net = network()
    first, second = (score_slide(s, whole(s), net, 1.0, heatmap_section(), CPU).values for s in slides)
    assert first.shape == second.shape
    assert np.abs(first - second).max() < 0.05


def test_a_heatmap_comes_back_from_its_file(tmp_path):
    values = np.random.default_rng(0).random((20, 30)).astype(np.float32)
    values[:4] = np.nan
    write_heatmap(tmp_path / "a.tif", Heatmap(values, 65.8, 0.243))
    again = read_heatmap(tmp_path / "a.tif")
    np.testing.assert_array_equal(again.values, values)
    assert (again.stride, again.mpp) == (65.8, 0.243)
    shown = overlay(np.full((100, 150, 3), 200, np.uint8), again, (1974, 1316))
    assert shown.shape == (100, 150, 3)
    assert len(np.unique(shown[:10])) == 1  # nothing was scored there
    for wrong in (1e30, -0.1, np.inf):
        write_heatmap(tmp_path / "b.tif", Heatmap(np.full((2, 2), wrong, np.float32), 65.8, 0.243))
        with pytest.raises(RunError, match="not all of its values are probabilities"):
            read_heatmap(tmp_path / "b.tif")


def one_step(net, config):
    x = torch.from_numpy(
        np.random.default_rng(0).integers(0, 255, (2, config.patches.size, config.patches.size, 3), np.uint8)
    )
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    value = PatchLearner(config).loss()(net(x), torch.tensor([[0.0], [1.0]]))
    value.backward()
    optimizer.step()
    return value.item()


@pytest.mark.slow
def test_the_winners_recipe_composes_and_learns_a_step(trainer_section):
    from pipelines.shared.learning.optimization import make_optimizer, make_schedule

    config = compose("camelyon", "experiment=wang2016")
    assert (config.patches.size, config.patches.crop, config.patches.mpp) == (256, 224, 0.25)
    torch.manual_seed(0)
    net = PatchLearner(config).build()
    assert net.reduction == 32
    assert is_dense(net, config.heatmap)
    optimizer = make_optimizer(net, config.trainer)
    assert make_schedule(optimizer, config.trainer, 9000) is not None
    before = net.head.weight.detach().clone()
    assert np.isfinite(one_step(net.train(), config))
    assert not torch.equal(before, net.head.weight)
    again = PatchLearner.rebuild({"architecture": PatchLearner(config).architecture(net)})
    again.load_state_dict(net.state_dict())


def test_augmented_patches_are_a_function_of_the_seed():
    config = compose("camelyon")
    augment = PatchLearner(config).augment()
    patch = np.random.default_rng(0).integers(0, 255, (72, 72, 3), np.uint8)
    first = augment(patch, 5)
    assert first.shape == (64, 64, 3)
    assert (first == augment(patch, 5)).all()
    assert (first != augment(patch, 6)).any()
    toy = toy_prepared(np.stack([patch, patch]))
    assert len(toy) == 2


def test_probabilities_and_points():
    import pandas as pd

    columns = predict_columns(sigmoid(np.array([[-100.0], [0.0], [100.0]])))
    assert columns["p_tumor"].tolist() == pytest.approx([0, 0.5, 1])
    rows = pd.DataFrame({"tumor": [0, 0, 1, 1.0], "p_tumor": [0.1, 0.4, 0.3, 0.9]})
    points = choose_points(rows, compose("camelyon"))
    assert [p["name"] for p in points] == ["high_specificity", "high_sensitivity"]


@pytest.mark.parametrize("seed", range(4))
def test_scores_come_again_from_the_tables(seed):
    import pandas as pd

    from pipelines.camelyon.annotations import Annotation, Polygon
    from pipelines.camelyon.froc import froc_score, score_detections
    from pipelines.camelyon.masks import lesion_map

    rng = np.random.default_rng(seed)
    names = [f"s{i}" for i in range(6)]
    maps = {}
    for name in names[:3]:
        polygons = []
        for k in range(int(rng.integers(1, 4))):
            x, y, r = rng.uniform(2000, 14000), rng.uniform(2000, 14000), rng.uniform(60, 900)
            angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
            polygons.append(Polygon(str(k), "Tumor", np.stack([x + r * np.cos(angle), y + r * np.sin(angle)], 1)))
        maps[name] = lesion_map(Annotation(None, polygons), 16384, 16384)
    rows = []
    for name in names:
        spots = rng.uniform(0, 16384, (8, 2)).tolist()
        if name in maps:
            spots += maps[name].lesions[["x", "y"]].to_numpy()[: int(rng.integers(0, 3))].tolist()
        rows += [{"slide": name, "probability": float(rng.choice([0.3, 0.5, 0.9])), "x": x, "y": y} for x, y in spots]
    scored, judged = score_detections(names, pd.DataFrame(rows), maps)
    lesions = pd.concat([m.lesions.assign(slide=n) for n, m in maps.items()], ignore_index=True)
    again = scored_again(names, scored.tumour, judged, lesions)
    for field in ("lesion_slide", "lesion_score", "itc"):
        np.testing.assert_array_equal(getattr(again, field), getattr(scored, field))
    assert froc_score(again) == froc_score(scored) or not len(scored.lesion_score)


@pytest.mark.slow
def test_flips_of_a_region_are_the_flips_of_its_patches():
    """A region turned, scored and turned back gives each patch what its own turns give."""
    import json
    from dataclasses import asdict

    from pipelines.camelyon.model import FlippedPatchNetwork, PatchNetwork

    config = compose("camelyon", "model.test_time=flips", "model.weights=none", "model.backbone=resnet18")
    learner = PatchLearner(config)
    torch.manual_seed(0)
    net = learner.build().eval()
    assert type(net) is PatchNetwork, "training sees a patch once"
    again = learner.rebuild(json.loads(json.dumps({"architecture": asdict(net.plan)}))).eval()
    assert type(again) is FlippedPatchNetwork
    again.load_state_dict(net.state_dict())
    x = torch.from_numpy(np.random.default_rng(0).integers(0, 255, (1, 64 + 16 * 3, 64 + 16, 3), np.uint8))
    turns = [(), (1,), (2,), (1, 2)]
    with torch.inference_mode():
        patch = again(x[:, :64, :64])
        expected = np.mean([torch.sigmoid(net(x[:, :64, :64].flip(t))).item() for t in turns])
        assert torch.sigmoid(patch).item() == pytest.approx(expected, abs=1e-6)
        region = torch.sigmoid(again.dense(x, 16, 0))
        parts = [torch.sigmoid(net.dense(x.flip(t), 16, 0)).flip(t) for t in turns]
    assert region.shape == (1, 4, 2)
    torch.testing.assert_close(region, torch.stack(parts).mean(dim=0), atol=1e-6, rtol=0)
    assert (parts[0] - parts[1]).abs().max() > 1e-6
