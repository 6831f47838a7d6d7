"""A plain script of one evening for APTOS 2019: what `experiment=aptos2019` is compared with on the same records.

    python tests/bench/plain_retinopathy.py RUN ROOT OUT.parquet [--size 224] [--epochs 20] [--seed 0]

RUN is a run of `python -m pipelines.retinopathy data=aptos2019 …`: its records.parquet says which pictures are train
and val. ROOT is its data.root. OUT gets the predictions for val: id, group, grade and p_grade_<k>. Only
timm and torch: EfficientNet-lite0, cross-entropy over the five grades, EMA, flips at test time; see `plain_skin`.
"""

from __future__ import annotations

import pandas as pd
import torch
from plain_skin import BATCH, DECAY, RATE, arguments, changed, network, pictures, probabilities, scaled
from sklearn.metrics import cohen_kappa_score, roc_auc_score
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3
from torch.nn import functional


def main() -> None:
    """Train on `train`, predict `val`."""
    args = arguments(__doc__)
    torch.manual_seed(args.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    records = pd.read_parquet(args.run / "records.parquet")
    train, val = (records[records["split"] == name].reset_index(drop=True) for name in ("train", "val"))
    x, unseen = (pictures([args.root / p for p in part["path"]], args.size) for part in (train, val))
    y, truth = torch.tensor(train["grade"].to_numpy(int)), val["grade"].to_numpy(int)

    model = network(5).to(device)
    ema = ModelEmaV3(model, decay=0.998, use_warmup=True)
    optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=DECAY)
    steps = len(y) // BATCH
    schedule = CosineLRScheduler(optimizer, args.epochs * steps, warmup_t=steps, warmup_prefix=True, t_in_epochs=False)
    for epoch in range(args.epochs):
        model.train()
        total = 0.0
        for step, at in enumerate(torch.randperm(len(y))[: steps * BATCH].split(BATCH)):
            schedule.step_update(epoch * steps + step)
            logits = model(scaled(changed(x[at].to(device) / 255)))
            loss = functional.cross_entropy(logits, y[at].to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            ema.update(model)
            total += loss.item()
        p = probabilities(ema.module.eval(), unseen, device)
        kappa = cohen_kappa_score(truth, p.argmax(1), weights="quadratic")
        area = roc_auc_score(truth >= 2, p[:, 2:].sum(1))
        print(
            f"epoch {epoch + 1}  loss {total / steps:.3f}  val quadratic kappa {kappa:.3f}, AUROC {area:.3f}",
            flush=True,
        )
    table = pd.DataFrame(p, columns=[f"p_grade_{k}" for k in range(5)])
    pd.concat([val[["id", "group", "grade"]], table], axis=1).to_parquet(args.out, index=False)


if __name__ == "__main__":
    main()
