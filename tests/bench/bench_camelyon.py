"""Whole slides in the bench: patches per second, whole-slide inference against the bare network, peak memory."""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
from measure import ROUNDS, Row, command_peak_mb, seconds

from pipelines.camelyon.learner import PatchLearner

from conftest import compose  # isort: skip
from pipelines.camelyon.heatmap import grid, score_slide
from pipelines.camelyon.patches import PatchReader
from pipelines.camelyon.phantom.dataset import make_slide, write_pyramid
from pipelines.camelyon.slides import Slide
from pipelines.camelyon.tissue import Tissue

MINUTES = 3
PATCHES = 400


def rows() -> list[Row]:
    """All rows of this file."""
    folder = Path(tempfile.mkdtemp())
    make_slide(0, folder, compose("camelyon").data.phantom.model_copy(update={"smallest": 6144, "largest": 6144}))
    file = folder / "training" / "tumor" / "Tumor_001.tif"
    return [_patches(file), _inference(file), _memory(folder)]


def _patches(file: Path) -> Row:
    config = compose("camelyon").patches
    slide = Slide(file)
    rng = np.random.default_rng(0)
    x, y = (
        rng.uniform(600, slide.properties.width - 600, PATCHES),
        rng.uniform(600, slide.properties.height - 600, PATCHES),
    )
    table = pd.DataFrame({"path": [file.name] * PATCHES, "x": x, "y": y})
    reader = PatchReader(table, file.parent, config.mpp, config.size, None)

    def ours() -> None:
        for i in range(PATCHES):
            reader(i)

    import openslide

    plain = openslide.OpenSlide(file)
    step = config.mpp / slide.properties.mpp[0]
    level = plain.get_best_level_for_downsample(step)
    side = round(config.size * step / plain.level_downsamples[level])
    half = config.size * step / 2

    def reference() -> None:
        for a, b in zip(x, y, strict=True):
            region = plain.read_region((round(a - half), round(b - half)), level, (side, side)).convert("RGB")
            cv2.resize(np.asarray(region), (config.size, config.size), interpolation=cv2.INTER_AREA)

    ours(), reference()
    pairs = [(seconds(reference), seconds(ours)) for _ in range(ROUNDS)]
    return {
        "what": f"camelyon: patches of {config.size} px at {config.mpp:g} microns from the slide",
        "ratio": statistics.median(r / o for r, o in pairs),
        "ours": f"{PATCHES / statistics.median(o for _, o in pairs):.0f} patches/s",
        "reference": f"plain read_region loop {PATCHES / statistics.median(r for r, _ in pairs):.0f} patches/s",
    }


def _inference(file: Path) -> Row:
    """From the slide to the heatmap, against the network alone on resident tensors of the regions that it sees."""
    config = compose("camelyon", "model.weights=none")
    torch.manual_seed(0)
    network = PatchLearner(config).build().eval()
    slide, device = Slide(file), torch.device("cpu")
    everywhere = Tissue(np.ones((50, 50), bool), (slide.properties.width / 50, slide.properties.height / 50))
    step, halo = config.heatmap.stride, config.heatmap.halo
    blocks = grid(slide, everywhere, config.patches.mpp, config.heatmap)[2]
    more = config.patches.crop - step + 2 * halo
    shapes = [[n * step + more for n in b.wanted.shape] for b in blocks]
    tensors = [torch.randint(0, 255, (1, h, w, 3), dtype=torch.uint8) for h, w in shapes]
    pixels = sum(b.wanted.size for b in blocks) * step**2 / 1e6
    seen = sum(h * w for h, w in shapes) / 1e6

    def ours() -> None:
        score_slide(slide, everywhere, network, config.patches.mpp, config.heatmap, device)

    @torch.inference_mode()
    def bare() -> None:
        for tensor in tensors:
            network.maps(tensor)

    ours(), bare()
    pairs = [(seconds(bare), seconds(ours)) for _ in range(ROUNDS)]
    taken, alone = (statistics.median(p[i] for p in pairs) for i in (1, 0))
    return {
        "what": "camelyon: whole-slide inference, every pixel tissue, slide to heatmap",
        "ratio": statistics.median(b / o for b, o in pairs),
        "ours": f"{seen / taken:.2f} Mpx/s, {pixels / taken:.2f} without the blocks' halos",
        "reference": f"bare network on resident tensors {seen / alone:.2f} Mpx/s",
    }


def _memory(folder: Path) -> Row:
    """Peak memory of scoring a slide, and of one with four times as many pixels."""
    code = (
        "import sys, torch, numpy as np\n"
        "from pathlib import Path\n"
        "sys.path[:0] = ['.', 'tests']\n"
        "from conftest import compose\n"
        "from pipelines.camelyon.learner import PatchLearner\n"
        "from pipelines.camelyon.heatmap import score_slide\n"
        "from pipelines.camelyon.slides import Slide\n"
        "from pipelines.camelyon.tissue import Tissue\n"
        "config = compose('camelyon', 'model.weights=none')\n"
        "slide = Slide(Path(sys.argv[1]))\n"
        "tissue = Tissue(np.ones((9, 9), bool), (slide.properties.width / 9, slide.properties.height / 9))\n"
        "score_slide(slide, tissue, PatchLearner(config).build(), 1.0, config.heatmap, torch.device('cpu'))\n"
    )
    peaks = []
    for side in (8192, 16384):
        file = folder / f"{side}.tif"
        rng = np.random.default_rng(0)
        small = rng.integers(60, 250, (side // 32, side // 32, 3), np.uint8)
        write_pyramid(file, cv2.resize(small, (side // 2, side // 2), interpolation=cv2.INTER_LINEAR), 0.25)
        peaks.append(command_peak_mb([sys.executable, "-c", code, str(file)]))
    return {
        "what": "camelyon: peak memory of whole-slide inference, 8,192 and 16,384 px",
        "ratio": peaks[0] / peaks[1],
        "ours": f"{peaks[1]:.0f} MB",
        "reference": f"a quarter of the pixels {peaks[0]:.0f} MB",
    }


if __name__ == "__main__":
    for row in rows():
        print(f"{row['what']}  {row['ratio']:.2f}  {row['ours']}  {row['reference']}")
