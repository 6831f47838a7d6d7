"""A whole slide against TIAToolbox's PatchPredictor (Pocock et al., Communications Medicine 2022): the same ResNet-18,
the same tiles of 224 px at 0.5 microns, both in turn. Not part of `make bench` alone: `make bench ARGS=tiatoolbox`.
Tile beside tile both score each by itself; where tiles overlap ours scores all those of a region at once.

TIAToolbox is installed once (five minutes) into .cache/bench/tiatoolbox, with what it needs and this environment lacks;
it runs there on the torch, numpy and OpenSlide of this environment, as another version of torch would be measured else.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import REPOSITORY, ROUNDS, Row, seconds

from conftest import compose  # isort: skip
from pipelines.camelyon.heatmap import Heatmap, score_slide, write_heatmap
from pipelines.camelyon.learner import PatchLearner
from pipelines.camelyon.model import PatchNetwork
from pipelines.camelyon.phantom.dataset import make_slide
from pipelines.camelyon.slides import Slide
from pipelines.camelyon.tissue import Tissue

PLACE = REPOSITORY / ".cache" / "bench" / "tiatoolbox"
TOOLBOX = "tiatoolbox==2.1.3"
NEEDS = [  # what its patch predictor imports
    "dask[array,dataframe]", "defusedxml", "numba", "psutil", "shapely", "SimpleITK", "tqdm", "transformers",
    "umap-learn", "wsidicom", "zarr>=3.0.8,<3.2",
]  # fmt: skip
MINUTES = 5
MPP, CROP, SIDE = 0.5, 224, 8192
APART, APART_AT_ONCE = 0.02, 0.1  # scores may be; at once a tile's border has the region's pixels beyond it, not zeros


def rows(side: int = SIDE, crop: int = CROP, rounds: int = ROUNDS) -> list[Row]:
    """TIAToolbox without worker processes and with one for each core; nothing where it cannot be installed.

    Args:
        side: level-0 pixels of the slide's sides, 0.25 microns each; a quarter of it for overlapping tiles.
        crop: pixels of a tile.
        rounds: of each, after one that is not counted.
    """
    python = environment()
    if python is None:
        return []
    beside = [_row(python, side, crop, crop, rounds, workers) for workers in (0, torch.get_num_threads())]
    return [*beside, _row(python, side // 4, crop, crop // 7, rounds, torch.get_num_threads())]


def _row(python: Path, side: int, crop: int, stride: int, rounds: int, workers: int) -> Row:
    folder = Path(tempfile.mkdtemp())
    phantom = compose("camelyon").data.phantom
    make_slide(0, folder, phantom.model_copy(update={"smallest": side, "largest": side}))
    file = folder / "training" / "tumor" / "Tumor_001.tif"
    config, network = config_of(crop, stride), network_of(crop)
    size = Slide(file).properties
    # Also where a tile's middle lies beyond the border.
    whole = Tissue(np.ones((2, 2), bool), (size.width, size.height))
    answers: list[Heatmap] = []

    def ours() -> None:
        slide = Slide(file)
        answers.append(score_slide(slide, whole, network, MPP, config.heatmap, torch.device("cpu")))
        write_heatmap(folder / "heatmap.tif", answers[-1])
        slide.close()

    program = Path(__file__).with_name("plain_tiatoolbox.py")
    command = [python, program, file, *map(str, (size.mpp[0], crop, stride, workers))]
    paths = os.pathsep.join(map(str, (REPOSITORY, REPOSITORY / "tests", program.parent)))
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": paths}
    ) as process:
        assert process.stdin
        assert process.stdout
        pairs = []
        for _ in range(1 + rounds):
            print(file=process.stdin, flush=True)
            theirs = json.loads(process.stdout.readline())
            pairs.append((float(theirs["seconds"]), seconds(ours)))
        process.stdin.close()
    values, tiles = answers[-1].values, np.array(theirs["tiles"])
    assert len(tiles) == values.size, (len(tiles), values.shape)
    column, row = np.rint((tiles[:, :2].T + crop / 2) / stride - 0.5).astype(int)  # cell around the tile's middle
    seen = (column < values.shape[1]) & (row < values.shape[0])
    apart = float(np.median(np.abs(values[row[seen], column[seen]] - tiles[seen, 2])))
    assert apart < (APART if stride == crop else APART_AT_ONCE), apart
    their, our = (statistics.median(p[i] for p in pairs[1:]) for i in (0, 1))
    return {
        "what": f"slide, {values.size} tiles of {crop} px every {stride} at {MPP} microns, ResNet-18; its worker "
        f"processes: {workers}",
        "ratio": statistics.median(t / o for t, o in pairs[1:]),
        "ours": f"{values.size / our:.1f} tiles/s",
        "reference": f"TIAToolbox {values.size / their:.1f} tiles/s, to reach 3; scores apart {apart:.1g} (median)",
    }


def config_of(crop: int, stride: int) -> Any:
    """Tile beside tile, each scored by itself; or overlapping ones, a region at once."""
    return compose(
        "camelyon", "model.weights=none", "model.backbone=resnet18", "model.level=null",
        f"heatmap.patchwise={stride == crop}", f"patches.mpp={MPP}", f"patches.crop={crop}",
        f"patches.size={crop + 32}", f"heatmap.stride={stride}", f"heatmap.block={8 * crop}", "heatmap.halo=96",
    )  # fmt: skip


def network_of(crop: int) -> PatchNetwork:
    """The same random ResNet-18 whoever asks."""
    torch.manual_seed(0)
    return PatchLearner(config_of(crop, crop)).build().eval()


def environment() -> Path | None:
    """The Python that has TIAToolbox, made if need be; None if it cannot be installed."""
    python = PLACE / "bin" / "python"
    ready = PLACE / "ready"
    if not ready.exists():
        print(f"tiatoolbox: installing into {PLACE.relative_to(REPOSITORY)}, once, five minutes", file=sys.stderr)
        venv.create(PLACE, clear=True)
        own, shared = (sysconfig.get_path("purelib", vars={"base": str(b)}) for b in (PLACE, sys.prefix))
        Path(own, "shared.pth").write_text(f"{shared}\n")  # after its own: pip finds there what it need not install
        install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        for more in (["--no-deps", TOOLBOX], ["-c", str(REPOSITORY / "constraints.txt"), *NEEDS]):
            done = subprocess.run([*install, *more], capture_output=True, text=True)
            if done.returncode:
                said = done.stderr.strip().splitlines()[-1:]
                print(
                    f"tiatoolbox: it cannot be installed here, nothing was measured: {' '.join(said)}", file=sys.stderr
                )
                return None
        ready.touch()
    return python
