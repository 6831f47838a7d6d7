"""A whole slide through TIAToolbox's PatchPredictor, for `bench_tiatoolbox`, in an environment of its own.

    python tests/bench/plain_tiatoolbox.py SLIDE SLIDE_MPP CROP STRIDE WORKERS

Scores SLIDE once for every line of the standard input, and answers with a line of JSON: seconds, and for each tile its
left and upper pixel at 0.5 microns and its probability. The network is that of the bench, seed included.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from bench_tiatoolbox import MPP, network_of
from tiatoolbox import logger
from tiatoolbox.models.engine.io_config import IOPatchPredictorConfig
from tiatoolbox.models.engine.patch_predictor import PatchPredictor
from tiatoolbox.models.models_abc import ModelABC

from pipelines.camelyon.heatmap import BATCH


class Model(ModelABC):
    """The bench's network as TIAToolbox calls one."""

    def __init__(self, crop: int) -> None:
        super().__init__()
        self.network = network_of(crop)

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        """uint8 (batch, height, width, 3) to probabilities (batch, 1)."""
        return self.network(tiles).sigmoid()

    @staticmethod
    def infer_batch(model: torch.nn.Module, batch_data: torch.Tensor, *, device: str) -> np.ndarray:
        """Probabilities of a batch."""
        with torch.inference_mode():
            return model.eval()(batch_data.to(device)).numpy()


def main() -> None:
    """Load once, score as often as asked."""
    slide, slide_mpp = Path(sys.argv[1]), float(sys.argv[2])
    crop, stride, workers = map(int, sys.argv[3:])
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever else is printed is no answer
    logger.setLevel("ERROR")
    settings = IOPatchPredictorConfig(
        input_resolutions=[{"units": "mpp", "resolution": MPP}], patch_input_shape=(crop, crop),
        stride_shape=(stride, stride),
    )  # fmt: skip
    predictor = PatchPredictor(model=Model(crop), batch_size=BATCH, num_workers=workers, verbose=False)
    for number, _ in enumerate(sys.stdin):
        with tempfile.TemporaryDirectory() as place:
            began = time.perf_counter()
            found: Any = predictor.run(
                [slide], patch_mode=False, ioconfig=settings, save_dir=Path(place, str(number)), output_type="zarr",
                auto_get_mask=False, return_probabilities=True, wsireader_kwargs={"mpp": (slide_mpp, slide_mpp)},
            )  # fmt: skip
            took = time.perf_counter() - began
            table = zarr.open(str(found[slide]), mode="r")
            tiles = np.column_stack([table["coordinates"][:, :2], table["probabilities"][:, 0]])
        print(json.dumps({"seconds": took, "tiles": tiles.tolist()}), file=answers, flush=True)


if __name__ == "__main__":
    main()
