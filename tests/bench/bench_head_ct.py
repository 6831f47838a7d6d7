"""The head CT study's rows of the bench: series to volume, files to alarm, and the training loop."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import REPOSITORY, ROUNDS, Row, seconds, training_data_of, training_row

from pipelines.head_ct.learner import HeadCtLearner

from conftest import compose  # isort: skip
from pipelines.head_ct.data import grid_of, prepare_settings
from pipelines.head_ct.model import SliceNetwork
from pipelines.head_ct.pseudonyms import Names
from pipelines.head_ct.scoring import Scorer, score_study
from pipelines.head_ct.series import Kernels, choose, scan
from pipelines.head_ct.study import STUDY
from pipelines.head_ct.volumes import load
from pipelines.head_ct.writing import Header, write_slices
from pipelines.shared.data.assemble import training_data

MINUTES = 2
NAMES, STEPS, SLICES, SIZE = Names("bench"), 6, 40, 512


def rows() -> list[Row]:
    """All rows of this study."""
    config = compose(
        "head_ct", f"cache.dir={REPOSITORY / '.cache'}", f"trainer.max_steps={STEPS}", "trainer.device=cpu",
        "trainer.precision=fp32",
    )  # fmt: skip
    return [*_series_rows(config), _training(config)]


def _write(folder: Path, syntax: str) -> None:
    """Forty slices of 512 pixels, as a scanner writes them."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:SIZE, :SIZE] - SIZE / 2
    plane = np.where(np.hypot(x, y) < 190, 35.0, -1000.0)
    header = Header(
        "p", "n", "a", "1.2.3", "1.2.3.4", spacing=(0.45, 0.45), thickness=4.0, syntax=syntax, maker="Phantom A"
    )
    slices = [plane + rng.normal(0, 4, plane.shape) for _ in range(SLICES)]
    write_slices(
        folder, header, slices, [(-115, -115, 4 * i) for i in range(SLICES)], [f"{i:03d}" for i in range(SLICES)]
    )


def _plain_loop(folder: Path) -> np.ndarray:
    """What anybody would write: read all, sort by z, rescale."""
    import pydicom

    read = [pydicom.dcmread(f) for f in sorted(folder.iterdir())]
    read.sort(key=lambda ds: float(ds.ImagePositionPatient[2]))
    hu = [ds.pixel_array.astype(np.float32) * float(ds.RescaleSlope) + float(ds.RescaleIntercept) for ds in read]
    return np.stack(hu)


def _series_rows(config: Any) -> list[Row]:
    kernels = Kernels(config.series.soft_kernels, config.series.sharp_kernels)
    grid = grid_of(prepare_settings(config))
    began = time.perf_counter()
    torch.manual_seed(0)
    scorer = Scorer([HeadCtLearner(config).build()], torch.device("cpu"))
    made = time.perf_counter() - began
    found: list[Row] = []
    with tempfile.TemporaryDirectory() as place:
        for syntax, name in (("explicit", "uncompressed"), ("jpeg2000", "JPEG 2000")):
            folder = Path(place) / syntax
            _write(folder, syntax)

            def stack(folder: Path = folder) -> Any:
                return choose(scan(folder, NAMES)[0], [], kernels, config.series.thickness)[0][0].stack

            def volume(folder: Path = folder, stack: Any = stack) -> np.ndarray:
                return load(stack(), folder).hu

            def alarm(folder: Path = folder, stack: Any = stack) -> None:
                score_study(stack(), folder, grid, scorer)

            def plain(folder: Path = folder) -> np.ndarray:
                return _plain_loop(folder)

            assert np.array_equal(volume(), plain())
            pairs = [(seconds(plain), seconds(volume)) for _ in range(ROUNDS)]
            found.append(
                {
                    "what": f"head_ct: {SLICES} slices of {SIZE} px, {name}, to a volume in HU",
                    "ratio": statistics.median(p / v for p, v in pairs),
                    "ours": f"{statistics.median(v for _, v in pairs):.2f} s",
                    "reference": f"plain pydicom loop {statistics.median(p for p, _ in pairs):.2f} s",
                }
            )
            cold = made + seconds(alarm)
            warm = statistics.median(seconds(alarm) for _ in range(ROUNDS))
            found.append(
                {
                    "what": f"head_ct: {SLICES} slices of {SIZE} px, {name}, files to score and alarm, warm",
                    "ratio": 1.2 / warm,
                    "ours": f"{warm:.2f} s (cold, with building the network: {cold:.2f} s)",
                    "reference": "the paper's 1.2 s, on its own computer",
                }
            )
    return found


def _training(config: Any) -> Row:
    """Trainer over bare loop; the bare one is fed with scaled pictures of all slices, on the device already."""
    data = training_data(STUDY, config)
    batch, size = config.trainer.batch_size, config.preprocess.size
    learner = HeadCtLearner(config)
    dataset = training_data_of(learner, data)
    shown = np.mean([(a != -32768).any(axis=(1, 2)).sum() for a in (dataset.prepared.array(i) for i in range(40))])
    count = round(batch * float(shown))  # slices that the trainer's batches show to the backbone, on average
    pictures = torch.randn(count, 3, size, size).to(memory_format=torch.channels_last)
    answers = torch.randint(0, 2, (batch, len(learner.classes))).float()
    known = torch.zeros(batch * config.preprocess.slices, dtype=torch.bool)
    known[torch.randperm(len(known))[:count]] = True
    mask = known.view(batch, config.preprocess.slices)

    def forward(network: SliceNetwork, inputs: torch.Tensor) -> torch.Tensor:
        return network.judge(network.maps(inputs), mask, batch, config.preprocess.slices)

    what = f"head_ct: {config.model.backbone}, {config.preprocess.slices} slices of {size} px, batch {batch}, training"
    return training_row(what, learner, dataset, pictures, answers, forward)


if __name__ == "__main__":
    for row in rows():
        print(f"{row['what']}  {row['ratio']:.2f}  {row['ours']}  {row['reference']}")
