"""Whole slides: the tumour probability of every patch whose middle lies in tissue, on a grid, block by block.

Memory holds one block (and the next `READERS`, which are read meanwhile), however large the slide. A heatmap is kept
as a float32 TIFF, NaN where nothing was scored, with its geometry in the description.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from pipelines.camelyon.config import HeatmapSection
from pipelines.camelyon.model import PatchNetwork
from pipelines.camelyon.slides import Slide
from pipelines.camelyon.tissue import Tissue
from pipelines.shared.errors import ConfigError
from pipelines.shared.files import output_name
from pipelines.shared.learning.ahead import arriving, made_ahead, sent
from pipelines.shared.run_folder import read_file, write_atomically
from pipelines.shared.screen import cpu_count

BATCH = 64  # patches at a time where each is scored by itself
READERS = 16  # regions that are read at a time, at most: decoding a slide is slower than a GPU


@dataclass(frozen=True)
class Heatmap:
    """Probabilities of a slide.

    Attributes:
        values: (rows, columns) float32, NaN where not scored. Cell (r, c) is the patch around level-0 pixel
            ((c + 1/2) stride, (r + 1/2) stride).
        stride: level-0 pixels per cell.
        mpp: microns per level-0 pixel.
    """

    values: np.ndarray
    stride: float
    mpp: float

    @property
    def tissue(self) -> np.ndarray:
        """Which cells were scored."""
        tissue: np.ndarray = ~np.isnan(self.values)
        return tissue


@dataclass(frozen=True)
class Block:
    """Cells of the grid that are scored together: the first row and column, and which cells are wanted."""

    row: int
    column: int
    wanted: np.ndarray


def grid(slide: Slide, tissue: Tissue, mpp: float, settings: HeatmapSection) -> tuple[np.ndarray, float, list[Block]]:
    """Which cells lie in tissue (rows, columns), level-0 pixels per cell, and the blocks that hold any."""
    stride = settings.stride * mpp / slide.properties.mpp[0]
    rows, columns = (int(np.ceil(side / stride)) for side in (slide.properties.height, slide.properties.width))
    x, y = (np.arange(columns) + 0.5) * stride, (np.arange(rows) + 0.5) * stride
    wanted = tissue.at(x, y[:, None])
    side = max(1, settings.block // settings.stride)
    blocks = [
        Block(r, c, wanted[r : r + side, c : c + side]) for r in range(0, rows, side) for c in range(0, columns, side)
    ]
    return wanted, stride, [b for b in blocks if b.wanted.any()]


def is_dense(network: PatchNetwork, settings: HeatmapSection) -> bool:
    """Whether regions are scored at once.

    Raises:
        ConfigError: stride or halo do not fit the network's maps.
    """
    r = network.reduction
    if settings.patchwise or r is None:
        return False
    for key in ("stride", "halo"):
        if getattr(settings, key) % r:
            raise ConfigError(
                f"heatmap.{key}={getattr(settings, key)} is no multiple of {r}, the pixels per cell of the network's "
                "maps.",
                f"Choose a multiple of {r}, or heatmap.patchwise=true.",
            )
    return True


def score_slide(
    slide: Slide, tissue: Tissue, network: PatchNetwork, mpp: float, settings: HeatmapSection, device: torch.device,
    bf16: bool = False,
) -> Heatmap:  # fmt: skip
    """The heatmap of a slide.

    Args:
        slide: the slide.
        tissue: its tissue.
        network: in any mode; it is set to evaluation.
        mpp: microns per pixel of the network's patches.
        settings: the grid.
        device: of the network.
        bf16: whether to run in bfloat16 autocast.

    Raises:
        BadFile: a region cannot be decoded.
    """
    network.eval()
    dense = is_dense(network, settings)
    wanted, stride, blocks = grid(slide, tissue, mpp, settings)
    values = np.full(wanted.shape, np.nan, np.float32)
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        score = _score_region if dense else _score_patches
        under_way: deque[tuple[Block, Callable[[], torch.Tensor]]] = deque()
        for block, region in made_ahead(_regions(slide, network, mpp, settings, blocks, dense, device), device):
            probabilities = torch.sigmoid(score(network, region, block, settings).float())
            under_way.append((block, arriving(probabilities)))
            if len(under_way) > 2:  # a GPU always has a next block, and never more than its memory holds
                _write(values, *under_way.popleft())
        for done in under_way:
            _write(values, *done)
    return Heatmap(values, stride, slide.properties.mpp[0])


def _write(values: np.ndarray, block: Block, arrived: Callable[[], torch.Tensor]) -> None:
    h, w = block.wanted.shape
    part = values[block.row : block.row + h, block.column : block.column + w]
    part[block.wanted] = arrived().numpy()[block.wanted]


def _regions(
    slide: Slide, network: PatchNetwork, mpp: float, settings: HeatmapSection, blocks: list[Block], dense: bool,
    device: torch.device,
) -> Iterator[tuple[Block, torch.Tensor]]:  # fmt: skip
    """Each block with its region of the slide, read once, while the network is busy with those before."""
    crop, step = network.plan.crop, settings.stride
    halo = settings.halo if dense else 0

    def read(block: Block) -> torch.Tensor:
        height, width = (n * step + crop - step + 2 * halo for n in block.wanted.shape)
        if dense and network.reduction:  # whole cells of the maps
            height, width = (-(-side // network.reduction) * network.reduction for side in (height, width))
        scale = mpp / slide.properties.mpp[0]
        corner = [(n * step + (step - crop) / 2 - halo) * scale for n in (block.column, block.row)]
        region = torch.from_numpy(slide.read(corner[0], corner[1], width, height, mpp))
        return region.pin_memory() if device.type == "cuda" else region

    ahead = min(READERS, cpu_count())
    with ThreadPoolExecutor(ahead) as readers:
        coming = deque(readers.submit(read, block) for block in blocks[:ahead])
        for i, block in enumerate(blocks):
            region = coming.popleft().result()
            if i + ahead < len(blocks):
                coming.append(readers.submit(read, blocks[i + ahead]))
            yield block, sent(region, device)


def _score_region(network: PatchNetwork, region: torch.Tensor, block: Block, settings: HeatmapSection) -> torch.Tensor:
    rows, columns = block.wanted.shape
    return network.dense(region[None], settings.stride, settings.halo)[0, :rows, :columns]


def _score_patches(network: PatchNetwork, region: torch.Tensor, block: Block, settings: HeatmapSection) -> torch.Tensor:
    crop, step = network.plan.crop, settings.stride
    logits = torch.full(block.wanted.shape, float("nan"), device=region.device)
    places = sent(torch.from_numpy(np.argwhere(block.wanted)), region.device)
    every = region.unfold(0, crop, step).unfold(1, crop, step)  # a view: (rows, columns, 3, crop, crop)
    for start in range(0, len(places), BATCH):
        rows, columns = places[start : start + BATCH].unbind(1)
        patches = every[rows, columns].permute(0, 2, 3, 1).contiguous()
        logits[rows, columns] = network(patches)[:, 0].float()
    return logits


# --- files ---


def heatmap_file(run: Path, network: str, slide: str) -> Path:
    """heatmaps/<network>/<slide>.tif of a training run."""
    return run / "heatmaps" / network / f"{output_name(slide)}.tif"


def write_heatmap(file: Path, heatmap: Heatmap) -> None:
    """A float32 TIFF, compressed."""
    from tifffile import imwrite

    about = {"stride": heatmap.stride, "mpp": heatmap.mpp, "what": "tumour probability, NaN: not scored"}
    write_atomically(
        file,
        lambda aside: imwrite(
            aside, heatmap.values, photometric="minisblack", compression="zlib", description=json.dumps(about),
            metadata=None,
        ),
    )  # fmt: skip


def read_heatmap(file: Path) -> Heatmap:
    """A heatmap that `write_heatmap` wrote.

    Raises:
        RunError: missing or damaged.
    """
    from tifffile import TiffFile

    def read() -> Heatmap:
        with TiffFile(file) as tiff:
            description = json.loads(tiff.pages[0].description)  # type: ignore[union-attr]
            values, stride, mpp = tiff.asarray(), float(description["stride"]), float(description["mpp"])
        if values.ndim != 2 or not values.size or values.dtype != np.float32:
            raise ValueError(f"{values.shape} {values.dtype} is no heatmap")
        if ((values < 0) | (values > 1)).any():  # NaN: not looked at
            raise ValueError("not all of its values are probabilities")
        if not (math.isfinite(stride) and stride > 0 and math.isfinite(mpp) and mpp > 0):
            raise ValueError(f"a stride of {stride:g} pixels of {mpp:g} microns")
        return Heatmap(values, stride, mpp)

    heatmap: Heatmap = read_file(file, read)
    return heatmap


def overlay(picture: np.ndarray, heatmap: Heatmap, size: tuple[int, int]) -> np.ndarray:
    """A picture of the whole slide with the heatmap over it, stronger where the probability is higher.

    Args:
        picture: uint8 (rows, columns, 3), the whole slide.
        heatmap: of the slide.
        size: width and height of the slide in level-0 pixels.
    """
    rows, columns = picture.shape[:2]
    values = np.nan_to_num(heatmap.values)
    # The grid may reach beyond the slide's right and lower border.
    reach = (
        round(values.shape[1] * heatmap.stride / size[0] * columns),
        round(values.shape[0] * heatmap.stride / size[1] * rows),
    )
    large = cv2.resize(values, reach, interpolation=cv2.INTER_LINEAR)[:rows, :columns]
    large = np.pad(large, [(0, rows - large.shape[0]), (0, columns - large.shape[1])])
    grey = picture.astype(np.float32).mean(axis=2, keepdims=True) * 0.5 + 120
    weight = (0.75 * large)[..., None]
    blended: np.ndarray = (grey * (1 - weight) + heat_colours(large) * weight).clip(0, 255).astype(np.uint8)
    return blended


def heat_colours(values: np.ndarray) -> np.ndarray:
    """0 to 1 as colours from yellow to dark red: (…, 3) float32."""
    stops = np.array([[255, 245, 160], [253, 174, 70], [227, 74, 40], [140, 10, 30]], np.float32)
    position = np.clip(values, 0, 1) * (len(stops) - 1)
    low = np.minimum(position.astype(int), len(stops) - 2)
    share = (position - low)[..., None]
    colours: np.ndarray = stops[low] * (1 - share) + stops[low + 1] * share
    return colours
