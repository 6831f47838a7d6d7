"""Speed as ratios within one run: `make bench`. A table on the screen, outputs/bench.json beside it.

The pipeline (prepared cache, default augmentation, trainer) against a bare loop: same network, batch, precision and
memory format on tensors that are resident, random and scaled already, both in turn in one process. Then the loader
alone, and the statistics against plain loops.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "tests"))

from conftest import compose  # noqa: E402

from pipelines.retinopathy.study import STUDY  # noqa: E402
from pipelines.shared.assemble import training_data  # noqa: E402
from pipelines.shared.dataset import EpochBatches, PreparedDataset, loader  # noqa: E402
from pipelines.shared.distributed import World  # noqa: E402
from pipelines.shared.log import start_log  # noqa: E402
from pipelines.shared.stats.auc import auroc, auroc_estimate  # noqa: E402
from pipelines.shared.stats.bootstrap import cluster_counts  # noqa: E402
from pipelines.shared.stats.delong import delong_variance  # noqa: E402
from pipelines.shared.trainer import _Training  # noqa: E402

CASES = [("tf_efficientnet_lite0", 128, 10), ("resnet18", 224, 4), ("resnet50", 224, 2)]
ROUNDS = 5
WORLD = World(0, 1, torch.device("cpu"))


def seconds(function: Callable[[], Any]) -> float:
    """Wall time of one call."""
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def training_case(backbone: str, size: int, steps: int) -> list[dict[str, Any]]:
    """Pipeline over bare loop, and the loader with and without cache."""
    weights = "imagenet" if backbone == "tf_efficientnet_lite0" else "none"
    config = compose(
        "retinopathy", f"model.backbone={backbone}", f"model.weights={weights}", f"preprocess.size={size}",
        f"cache.dir={REPOSITORY / '.cache'}", f"trainer.max_steps={steps}", "trainer.device=cpu",
        "trainer.precision=fp32",
    )  # fmt: skip
    data = training_data(STUDY, config)
    at = data.positions("train")
    ids, targets = data.records["id"].to_numpy()[at], STUDY.targets(data.records)[at]
    dataset = PreparedDataset(data.prepared.take(at), ids, targets, STUDY.augment(config), 0)
    batch = config.trainer.batch_size

    network, loss = STUDY.build(config), STUDY.loss(config)
    file = Path(tempfile.mkdtemp()) / "never.pt"
    run = _Training(network, loss, dataset, config.trainer, "bench", 0, WORLD, file, {})

    def pipeline() -> None:
        run.progress.epoch, run.progress.batch = run.progress.epoch + 1, 0
        run.train_epoch()

    bare_network: Any = STUDY.build(config)
    optimizer = torch.optim.AdamW(bare_network.parameters(), lr=1e-3)
    pictures = torch.randn(batch, 3, size, size).to(memory_format=torch.channels_last)
    answers = torch.randint(0, 2, (batch, len(STUDY.classes))).float()

    def bare() -> None:
        bare_network.train()
        for _ in range(steps):
            loss(bare_network.head(bare_network.backbone(pictures)), answers).backward()
            optimizer.step()
            optimizer.zero_grad()

    pipeline(), bare()
    pairs = [(seconds(bare), seconds(pipeline)) for _ in range(ROUNDS)]
    images = steps * batch
    name = f"{backbone} {size} px, batch {batch}, training"
    rows = [
        {
            "what": name,
            "ratio": statistics.median(b / p for b, p in pairs),
            "ours": f"{images / statistics.median(p for _, p in pairs):.1f} images/s",
            "reference": f"bare loop {images / statistics.median(b for b, _ in pairs):.1f} images/s",
        }
    ]

    def load(source: PreparedDataset) -> float:
        order = EpochBatches(len(source), batch, 0, 0)
        return len(order) * batch / seconds(lambda: [None for _ in loader(source, order, 0)])

    stream = training_data(
        STUDY, config.model_copy(update={"cache": config.cache.model_copy(update={"enabled": False})})
    )
    streamed = PreparedDataset(stream.prepared.take(at), ids, targets, STUDY.augment(config), 0)
    cached_speed, stream_speed = load(dataset), load(streamed)
    rows.append(
        {
            "what": f"loader alone, {size} px, one process",
            "ratio": cached_speed / stream_speed,
            "ours": f"cache {cached_speed:.0f} images/s",
            "reference": f"cache=off {stream_speed:.0f} images/s",
        }
    )
    return rows


def statistics_cases() -> list[dict[str, Any]]:
    """Clustered bootstrap and DeLong against plain loops over the same data."""
    rng = np.random.default_rng(0)
    n = 10_000
    group, truth = np.arange(n) // 2, rng.integers(0, 2, n)
    score = truth + rng.normal(size=n)
    ours = seconds(lambda: auroc_estimate(truth, score, group, resamples=2000))
    counts = cluster_counts(group, 20, 0)
    loop = 100 * seconds(lambda: [auroc(np.repeat(truth, c), np.repeat(score, c)) for c in counts])
    few = slice(0, 1000)

    def plain_delong() -> float:
        positive, negative = score[few][truth[few] == 1], score[few][truth[few] == 0]
        wins = np.array([[float(p > q) + 0.5 * float(p == q) for q in negative] for p in positive])
        a, b = wins.mean(axis=1).var(ddof=1) / len(positive), wins.mean(axis=0).var(ddof=1) / len(negative)
        return float(a + b)

    assert abs(plain_delong() - delong_variance(truth[few], score[few])) < 1e-12
    quick, slow = seconds(lambda: delong_variance(truth[few], score[few])), seconds(plain_delong)
    return [
        {"what": "AUROC, 2,000 clustered resamples of 10,000 rows", "ratio": loop / ours,
         "ours": f"{ours:.2f} s", "reference": f"loop {loop:.1f} s (20 resamples measured)"},
        {"what": "DeLong variance, 1,000 rows", "ratio": slow / quick,
         "ours": f"{1000 * quick:.2f} ms", "reference": f"loop {1000 * slow:.0f} ms"},
    ]  # fmt: skip


def main() -> None:
    """Measure, print the table, write the JSON."""
    start_log(None, quiet=True)
    rows: list[dict[str, Any]] = []
    for case in CASES:
        rows += training_case(*case)
    rows += statistics_cases()
    print(f"\nOn {torch.get_num_threads()} CPU threads, torch {torch.__version__}. Ratio above 1: ours is faster.")
    print("Augmentation: flips, rotation to 180 degrees, scale, shift, brightness, contrast, saturation and hue.")
    width = max(len(row["what"]) for row in rows)
    for row in rows:
        print(f"{row['what']:<{width}}  {row['ratio']:8.2f}  {row['ours']:<18} {row['reference']}")
    file = REPOSITORY / "outputs" / "bench.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(rows, indent=2))
    print(file.relative_to(REPOSITORY))


if __name__ == "__main__":
    main()
