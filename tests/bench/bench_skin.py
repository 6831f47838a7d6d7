"""The skin study's rows of the bench: its augmentation is the heaviest (rotation with the inscribed square, colour)."""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests")]

from conftest import compose  # noqa: E402

from pipelines.shared.assemble import training_data  # noqa: E402
from pipelines.shared.dataset import PreparedDataset  # noqa: E402
from pipelines.shared.distributed import World  # noqa: E402
from pipelines.shared.trainer import _Training  # noqa: E402
from pipelines.skin.study import STUDY  # noqa: E402

STEPS, ROUNDS = 10, 5
WORLD = World(0, 1, torch.device("cpu"))


def rows() -> list[dict[str, Any]]:
    """Pipeline over bare loop: same network, loss, batch, precision and memory format, on resident scaled tensors."""
    config = compose(
        "skin", f"cache.dir={REPOSITORY / '.cache'}", f"trainer.max_steps={STEPS}", "trainer.device=cpu",
        "trainer.precision=fp32",
    )  # fmt: skip
    data = training_data(STUDY, config)
    study = STUDY.for_training(STUDY, config, data.records)  # type: ignore[misc]
    at = data.positions("train")
    ids, targets = data.records["id"].to_numpy()[at], study.targets(data.records)[at]
    dataset = PreparedDataset(data.prepared.take(at), ids, targets, study.augment(config), 0)
    batch, size = config.trainer.batch_size, config.preprocess.size
    network, loss = study.build(config), study.loss(config)
    file = Path(tempfile.mkdtemp()) / "never.pt"
    run = _Training(network, loss, dataset, config.trainer, "bench", 0, WORLD, file, {})

    def pipeline() -> None:
        run.progress.epoch, run.progress.batch = run.progress.epoch + 1, 0
        run.train_epoch()

    bare_network: Any = study.build(config)
    optimizer = torch.optim.AdamW(bare_network.parameters(), lr=1e-3)
    pictures = torch.randn(batch, 3, size, size).to(memory_format=torch.channels_last)
    answers = torch.randint(0, len(study.classes), (batch,)).float()

    def bare() -> None:
        bare_network.train()
        for _ in range(STEPS):
            loss(bare_network.head(bare_network.backbone(pictures)), answers).backward()
            optimizer.step()
            optimizer.zero_grad()

    pipeline(), bare()
    pairs = [(_seconds(bare), _seconds(pipeline)) for _ in range(ROUNDS)]
    images = STEPS * batch
    return [
        {
            "what": f"skin: {config.model.backbone} {size} px, batch {batch}, training",
            "ratio": statistics.median(b / p for b, p in pairs),
            "ours": f"{images / statistics.median(p for _, p in pairs):.1f} images/s",
            "reference": f"bare loop {images / statistics.median(b for b, _ in pairs):.1f} images/s",
        }
    ]


def _seconds(function: Callable[[], Any]) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


if __name__ == "__main__":
    for row in rows():
        print(f"{row['what']}  {row['ratio']:.2f}  {row['ours']}  {row['reference']}")
