"""A GPU that never waits: `make bench ARGS=gpu`. Not part of `make bench` alone.

Training rows set trainer, loader and default augmentation against a bare loop on resident tensors: same network, batch,
precision, memory format and optimiser, both in turn in one process. `rows(tiny=True)` goes through the same code on a
CPU with networks and pictures so small that only the code is tested.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from conftest import compose
from gpu_torchrun import torchrun
from gpu_training import (
    OUTPUTS,
    ROUNDS,
    cross_entropy,
    exactly,
    in_turn,
    random_dataset,
    section_of,
    trainer,
    training_row,
    wait,
)
from measure import REPOSITORY, Row, seconds
from PIL import Image
from timm import create_model
from timm.data import create_dataset, create_loader
from torch import nn

from pipelines.camelyon.heatmap import grid, score_slide
from pipelines.camelyon.learner import PatchLearner
from pipelines.camelyon.phantom.dataset import make_slide
from pipelines.camelyon.slides import Slide
from pipelines.camelyon.tissue import Tissue
from pipelines.ecg.labels import STEP
from pipelines.ecg.learner import EcgLearner
from pipelines.head_ct.learner import HeadCtLearner
from pipelines.shared.learning.augment import image_augment
from pipelines.shared.learning.backbones import Architecture, ImageNetwork, expected_scale
from pipelines.shared.learning.distributed import World
from pipelines.shared.learning.hardware import loader_workers
from pipelines.shared.learning.optimization import make_optimizer

MINUTES = 8  # reckoned: no GPU has gone through all of it yet


def rows(tiny: bool = False) -> Iterator[Row]:
    """All rows, as they are measured; none where there is no GPU, unless `tiny`."""
    if not tiny and not torch.cuda.is_available():
        print("gpu: this machine has none, nothing was measured", file=sys.stderr)
        return
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    yield from _tiny_rows(device) if tiny else _picture_rows(device)
    for measure in (_ecg, _volumes, _slide, _timm_folder, torchrun):
        yield measure(device, tiny)
    if not tiny:
        yield from _whole_run()


def _tiny_rows(device: torch.device) -> Iterator[Row]:
    row = _pictures("resnet10t", 32, 4, device, 0.95, tiny=True)
    yield row
    yield _pictures("resnet10t", 32, 4, device, 0.95, on_device=True, tiny=True)
    yield _gain(row, row)


def _picture_rows(device: torch.device) -> Iterator[Row]:
    lite = "tf_efficientnet_lite0"
    plain = _pictures(lite, 192, 32, device, 0.95)
    yield plain
    yield _pictures(lite, 192, 128, device, 0.95)
    yield _pictures(lite, 192, 128, device, 0.66, on_device=False)  # what there was before
    yield _pictures("resnet50", 224, 64, device, 0.97)
    yield _pictures("resnet50", 224, 256, device, 0.97)
    compiled = _pictures(lite, 192, 32, device, 0.95, compiled=True)
    yield compiled
    yield _gain(compiled, plain)
    yield _pictures(lite, 192, 32, device, 0.8, deterministic=True)


def _gain(compiled: Row, plain: Row) -> Row:
    """The compiled trainer over the bare loop that is not compiled."""
    ours, bare = compiled["speeds"][0], plain["speeds"][1]
    return {
        "what": f"{compiled['what']}, and {plain['what']}",
        "ratio": ours / bare,
        "ours": f"{ours:.0f} records/s",
        "reference": f"bare loop, not compiled {bare:.0f} records/s, to reach 2.5",
    }


def _pictures(
    backbone: str, size: int, batch: int, device: torch.device, target: float, compiled: bool = False,
    deterministic: bool = False, on_device: bool | None = None, tiny: bool = False,
) -> Row:  # fmt: skip
    """`deterministic`: the trainer alone, not what it is compared with. `on_device`: of the augmentation."""
    steps = 2 if tiny else 24
    targets = np.random.default_rng(1).integers(0, OUTPUTS, steps * batch).astype(np.float32)
    augment = image_augment(compose("skin", f"augment.on_device={json.dumps(on_device)}").augment, inscribed=True)
    dataset = random_dataset((size, size, 3), np.uint8, targets, augment)
    architecture = Architecture(backbone, OUTPUTS, 0.0, *expected_scale(backbone))
    pictures = torch.randint(0, 255, (batch, size, size, 3), dtype=torch.uint8)
    more = {"compiled": compiled, "deterministic": deterministic, "augmented on the cores": on_device is False}
    how = "".join(f", {name}" for name, wanted in more.items() if wanted)
    what = f"{backbone} {size} px, batch {batch}{how}, training"
    section = section_of(device, batch, compiled, workers=0 if tiny else None, deterministic=deterministic)
    return training_row(
        what, lambda: ImageNetwork(architecture), cross_entropy, dataset, section, pictures, device, target
    )


def _timm_folder(device: torch.device, tiny: bool) -> Row:
    """The trainer on prepared pictures over timm's loader, with its default augmentation, on the files in a folder.

    timm's training script is not in its package; this is its inner loop. Preparing the pictures, once, is not counted.
    """
    size, batch, steps = (32, 2, 2) if tiny else (192, 128, 24)
    folder = Path(tempfile.mkdtemp())
    _write_pictures(folder, steps * batch, 64 if tiny else 600)
    section = section_of(device, batch, workers=0 if tiny else None)
    workers, on_gpu = loader_workers(section, World(0, 1, device)), device.type == "cuda"
    loader = create_loader(
        create_dataset("", folder), (3, size, size), batch, is_training=True, use_prefetcher=on_gpu, mean=(0.5,) * 3,
        std=(0.5,) * 3, num_workers=workers, persistent_workers=workers > 0, pin_memory=on_gpu, device=device,
    )  # fmt: skip
    lite = "resnet10t" if tiny else "tf_efficientnet_lite0"
    network = create_model(lite, num_classes=OUTPUTS).to(device, memory_format=torch.channels_last).train()
    optimizer = make_optimizer(network, section)

    def theirs() -> None:
        exactly(False)
        for pictures, labels in chain(loader, loader):
            with torch.autocast(device.type, torch.bfloat16, enabled=section.precision == "bf16"):
                logits = network(pictures.to(device, memory_format=torch.channels_last))
            nn.functional.cross_entropy(logits.float(), labels.to(device)).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        wait(device)

    targets = np.random.default_rng(1).integers(0, OUTPUTS, steps * batch).astype(np.float32)
    dataset = random_dataset((size, size, 3), np.uint8, targets, image_augment(compose("skin").augment, inscribed=True))
    architecture = Architecture(lite, OUTPUTS, 0.0, *expected_scale(lite))
    ours, taken = trainer(lambda: ImageNetwork(architecture), cross_entropy, dataset, section, device)
    what = f"{lite} {size} px, batch {batch}, training on {steps * batch} pictures in a folder"
    return in_turn(what, theirs, ours, taken * batch, "timm's loader", 1.6)


def _write_pictures(folder: Path, count: int, side: int) -> None:
    """JPEG files of two classes, `side` pixels wide and three quarters of it high; 256 different ones at most."""
    rng = np.random.default_rng(4)
    for number in range(count):
        file = folder / str(number % 2) / f"{number}.jpg"
        file.parent.mkdir(exist_ok=True)
        if number < 256:
            small = Image.fromarray(rng.integers(0, 255, (18, 24, 3), np.uint8))
            small.resize((side, side * 3 // 4), Image.Resampling.BICUBIC).save(file, quality=90)
        else:
            file.hardlink_to(folder / str(number % 2) / f"{number % 256}.jpg")


def _ecg(device: torch.device, tiny: bool) -> Row:
    config = compose("ecg", *(["model.filters=2"] if tiny else []))
    batch, steps = (2, 2) if tiny else (128, 10)
    length = config.preprocess.steps
    learner = EcgLearner(config)
    targets = np.random.default_rng(2).integers(0, 2, (steps * batch, length + 1)).astype(np.float32)
    targets[:, -1] = -1  # steps have labels, recordings none
    dataset = random_dataset((length * STEP,), np.float32, targets, None)
    section = section_of(device, batch, workers=0 if tiny else None)
    what = f"ECG, {config.model.filters} filters, {length * STEP} samples, batch {batch}, training"
    return training_row(
        what, learner.build, learner.loss(), dataset, section, torch.randn(batch, length * STEP), device, 0.97
    )


def _volumes(device: torch.device, tiny: bool) -> Row:
    less = ["preprocess.slices=4", "preprocess.size=32", "model.backbone=resnet10t"]
    config = compose("head_ct", "model.weights=none", *(less if tiny else []))
    batch, steps = (2, 2) if tiny else (config.trainer.batch_size, 10)
    shape = (config.preprocess.slices, config.preprocess.size, config.preprocess.size)
    learner = HeadCtLearner(config)
    targets = np.random.default_rng(3).integers(0, 2, (steps * batch, len(learner.classes))).astype(np.float32)
    dataset = random_dataset(shape, np.int16, targets, learner.augment())
    volumes = torch.randint(0, 100, (batch, *shape), dtype=torch.int16)
    section = section_of(device, batch, workers=0 if tiny else None)
    what = f"head CT: {config.model.backbone}, {shape[0]} slices of {shape[1]} px, batch {batch}, training"
    return training_row(what, learner.build, learner.loss(), dataset, section, volumes, device, 0.95)


def _slide(device: torch.device, tiny: bool) -> Row:
    """From slide to heatmap with a ResNet-18, patch by patch, over the bare network on resident tiles.

    Tiles overlap by three quarters, as in heatmaps that lesions are looked for in: the slide is read once for all of
    them.
    """
    folder = Path(tempfile.mkdtemp())
    side = 2048 if tiny else 12_288
    phantom = compose("camelyon").data.phantom
    make_slide(0, folder, phantom.model_copy(update={"smallest": side, "largest": side}))
    slide = Slide(folder / "training" / "tumor" / "Tumor_001.tif")
    crop, stride = (64, 64) if tiny else (224, 56)
    less = [f"patches.crop={crop}", f"patches.size={crop + 32}", f"heatmap.stride={stride}", "model.level=null"]
    config = compose("camelyon", "model.weights=none", "model.backbone=resnet18", "heatmap.patchwise=true",
                     "patches.mpp=0.5", f"heatmap.block={8 * crop}", *less)  # fmt: skip
    network = PatchLearner(config).build().to(device).eval()
    everywhere = Tissue(np.ones((8, 8), bool), (slide.properties.width / 8, slide.properties.height / 8))
    tiles = int(grid(slide, everywhere, 0.5, config.heatmap)[0].sum())
    bf16 = device.type == "cuda"

    def ours() -> None:
        score_slide(slide, everywhere, network, 0.5, config.heatmap, device, bf16)

    resident = torch.randint(0, 255, (64, crop, crop, 3), dtype=torch.uint8, device=device)

    def bare() -> None:
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            for first in range(0, tiles, len(resident)):
                answer = network(resident[: tiles - first])
            answer.float().cpu()

    bare(), ours()
    pairs = [(seconds(bare), seconds(ours)) for _ in range(1 if tiny else ROUNDS)]
    return {
        "what": f"slide of {side:,} px: {tiles:,} tiles of {crop} px every {stride} at 0.5 mpp, ResNet-18",
        "ratio": statistics.median(b / o for b, o in pairs),
        "ours": f"{tiles / statistics.median(o for _, o in pairs):.0f} tiles/s",
        "reference": f"bare network {tiles / statistics.median(b for b, _ in pairs):.0f} tiles/s, to reach 0.85",
    }


def _whole_run() -> list[Row]:
    """The default retinopathy run, everything, as a command; and how much longer its first epoch takes."""
    with tempfile.TemporaryDirectory() as place:
        command = [sys.executable, "-m", "pipelines.retinopathy", f"run_dir={place}/run"]
        took = seconds(lambda: subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True))
        first, *others = pd.read_csv(Path(place, "run", "history.csv"))["seconds"]
    more = first - statistics.median(others)
    return [
        {"what": "retinopathy, default run", "ratio": 25 / took, "ours": f"{took:.0f} s", "reference": "to reach 25 s"},
        {"what": "its first epoch longer than the others", "ratio": 2 / max(more, 0.01), "ours": f"{more:.1f} s",
         "reference": "to stay under 2 s"},
    ]  # fmt: skip
